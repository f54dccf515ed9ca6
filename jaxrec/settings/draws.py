"""The hyper-parameters of a sweep's members, drawn from its seed."""

import random
from collections.abc import Collection

from jaxrec.errors import UserError, nearest
from jaxrec.settings import registry
from jaxrec.settings.ranges import check_numbers
from jaxrec.settings.run import Sweep
from jaxrec.settings.serialize import with_values


def ranges(config: Sweep) -> dict[str, tuple[float, float]]:
    """The lowest and the highest value of each option that is varied; raises UserError if one is impossible."""
    if not config.vary:
        raise UserError("a sweep needs an option to vary; for example --vary optimizer.lr=1e-4:1e-1")
    known = registry.hyper(config.task)
    found = {}
    for text in config.vary:
        name, span = _read(text, known)
        for end in span:
            check_numbers(with_values(config, {name: end}))
        found[name] = span
    return found


def _read(text: str, known: Collection[str]) -> tuple[str, tuple[float, float]]:
    """The option and the range in ``NAME=LOW:HIGH``."""
    name, _, span = text.removeprefix("--").partition("=")
    name = name.replace("_", "-")
    if name not in known:
        raise UserError(
            f"--vary {text}: '{name}' cannot differ between runs that are trained at once; "
            f"expected one of {', '.join(known)}{nearest(name, known)}"
        )
    first, _, last = span.partition(":")
    try:
        low, high = float(first), float(last)
    except ValueError:
        raise UserError(f"--vary {text} cannot be read; expected NAME=LOW:HIGH, as {name}=0.001:0.1") from None
    if not low < high:
        raise UserError(f"--vary {text} goes from {first} to {last}; expected the lower end first")
    return name, (low, high)


def draws(config: Sweep) -> list[dict[str, float]]:
    """The values of each member by option, drawn from the seed.

    They are log-uniform if the lower end is above 0, and uniform otherwise.
    """
    varied = ranges(config)
    generator = random.Random(config.seed)
    members = []
    for _ in range(config.members):
        members.append({name: _draw(generator, *span) for name, span in varied.items()})
    return members


def _draw(generator: random.Random, low: float, high: float) -> float:
    share = generator.random()
    value = low * (high / low) ** share if low > 0 else low + (high - low) * share
    # Four digits, so that the value is short enough to type again.
    return float(f"{value:.4g}")
