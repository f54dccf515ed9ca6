"""jaxrec sweep --vary optimizer.lr=1e-4:1e-1: a random search, all its runs trained at once."""

import random
from dataclasses import fields

from jaxrec.cli.arguments import check_numbers
from jaxrec.cli.train import read_arguments
from jaxrec.errors import UserError, nearest
from jaxrec.settings import Sweep, Train, models, registry, with_values

HELP = f"""Train many runs at once with hyper-parameters drawn at random, and keep the best.

--vary NAME=LOW:HIGH is given once for each option to vary, as --vary optimizer.lr=1e-4:1e-1.
All options of jaxrec train hold for every run.

--model is one of {", ".join(models())}; with --help after it, its own options are shown.
--experiment FILE takes the settings of an experiment file, which the other options change."""


def ranges(config: Sweep) -> dict[str, tuple[float, float]]:
    """The lowest and the highest value of each option that is varied; raises UserError where one cannot be."""
    if not config.vary:
        raise UserError("a sweep needs something to vary: give --vary optimizer.lr=1e-4:1e-1, say")
    known = registry.settings_module(registry.name_of(config.task)).HYPER
    found: dict[str, tuple[float, float]] = {}
    for text in config.vary:
        name, _, span = text.removeprefix("--").partition("=")
        name = name.replace("_", "-")
        if name not in known:
            raise UserError(
                f"--vary {text}: '{name}' cannot differ between runs that are trained at once, only "
                f"{', '.join(known)}{nearest(name, known)}"
            )
        low, _, high = span.partition(":")
        try:
            found[name] = (float(low), float(high))
        except ValueError:
            raise UserError(f"--vary {text} cannot be read; expected NAME=LOW:HIGH, as {name}=0.001:0.1") from None
        if not found[name][0] < found[name][1]:
            raise UserError(f"--vary {text} goes from {low} to {high}; expected the lower end first")
        for end in found[name]:
            check_numbers(with_values(config, {name: end}))
    return found


def draws(config: Sweep) -> list[dict[str, float]]:
    """The members' values by option, drawn from the seed: log-uniform where both ends are above 0, else uniform."""
    varied, generator = ranges(config), random.Random(config.seed)

    def draw(low: float, high: float) -> float:
        value = generator.random()
        value = low * (high / low) ** value if low > 0 else low + (high - low) * value
        # As short as a person would type it again.
        return float(f"{value:.4g}")

    return [{name: draw(*span) for name, span in varied.items()} for _ in range(config.members)]


def main(argv: list[str]) -> int:
    """Trains as the arguments say; returns the exit code."""
    config = read_arguments(argv, Sweep, "jaxrec sweep", HELP)
    drawn = draws(config)
    # Only now, so that --help and mistakes answer at once.
    from jaxrec.run.population import train_population

    common = Train(**{each.name: getattr(config, each.name) for each in fields(Train)})
    return train_population(common, drawn, config.halving)
