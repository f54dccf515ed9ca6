"""How every command reads its options: a dataclass filled by tyro, and mistakes as one sentence."""

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import tyro

from jaxrec.cli.help import help_text
from jaxrec.errors import UserError, nearest
from jaxrec.settings.options import Option, options
from jaxrec.settings.ranges import check_numbers


def parse(
    kind: Any,
    argv: Sequence[str],
    program: str,
    default: Any = None,
    examples: Sequence[str] = (),
    listed: Sequence[Option] = (),
) -> Any:
    """An instance of a dataclass filled from the arguments.

    Args:
      kind: the dataclass. Its docstring and those of its fields are the help.
      argv: the arguments after the command.
      program: the command as a user types it, such as ``jaxrec train``.
      default: an instance whose values apply to the options that are not given.
      examples: command lines for ``--help``, which is printed and ends the process if the arguments ask for it.
      listed: options that the caller has read from the arguments; they are listed first, instead of a field's.

    Raises:
      UserError: the arguments do not fit; the sentence names the option and the nearest known one or choice.
    """
    names = [option.name for option in listed]
    own = [option for option in options(kind if default is None else default) if option.name not in names]
    known = [*listed, *own]
    if {"-h", "--help"} & set(argv):
        print(help_text(kind, known, program, examples))
        raise SystemExit(0)
    _check_options(known, argv)
    settings: dict[str, Any] = {"prog": program, "config": (tyro.conf.AvoidSubcommands,)}
    if default is not None:
        settings["default"] = default
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config = tyro.cli(kind, args=list(argv), **settings)
    except SystemExit:
        raise UserError(_sentence(complaint.getvalue())) from None
    check_numbers(config)
    return config


def take(argv: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """The value of ``--option VALUE`` or ``--option=VALUE``, None if it is not given, and the other arguments."""
    rest = list(argv)
    for place, argument in enumerate(rest):
        if argument == option:
            if place + 1 == len(rest) or rest[place + 1].startswith("--"):
                raise UserError(f"{option} is given without a value; write {option} VALUE")
            return rest[place + 1], rest[:place] + rest[place + 2 :]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2], rest[:place] + rest[place + 1 :]
    return None, rest


def _check_options(known: Iterable[Option], argv: Sequence[str]) -> None:
    """Raises UserError for an unknown option, a missing value, and a word that is not among an option's choices."""
    spelled = dict(_spellings(known))
    for place, argument in enumerate(argv):
        if not argument.startswith("--"):
            continue
        typed, equals, value = argument.partition("=")
        name = typed.replace("_", "-")
        if name not in spelled:
            raise UserError(f"unknown option '{typed}'{_nearest_option(name, spelled)}")
        values = [value] if equals else list(takewhile(_is_value, argv[place + 1 :]))
        _check_values(spelled[name], values)


def _is_value(argument: str) -> bool:
    return not argument.startswith("--")


def _check_values(option: Option, values: Sequence[str]) -> None:
    if option.hint is bool or (not values and option.takes_several):
        return
    if not values:
        raise UserError(f"{option.name} is given without a value; write {option.name} VALUE")
    choices = option.choices
    for value in values if option.takes_several else values[:1]:
        if choices and value not in choices:
            expected = f"expected one of {', '.join(choices)}"
            raise UserError(f"{option.name} cannot be '{value}'; {expected}{nearest(value, choices)}")


def _spellings(known: Iterable[Option]) -> Iterator[tuple[str, Option]]:
    """Every option by each way to type it: ``--skip-bad`` and ``--no-skip-bad``, ``--split`` for ``--test-split``."""
    for option in known:
        if option.hidden or option.positional:
            continue
        yield option.name, option
        if option.hint is bool:
            yield re.sub(r"(--|\.)(?=[^.]*$)", r"\1no-", option.name), option
        for alias in option.aliases:
            yield alias, option


def _nearest_option(name: str, spelled: Iterable[str]) -> str:
    """The nearest option; one whose last part is the same, as ``--optimizer.lr`` for ``--lr``, comes first."""
    last = name.removeprefix("--")
    for option in spelled:
        if option.endswith(f".{last}"):
            return f"; did you mean '{option}'?"
    return nearest(name, spelled) or "; --help lists the options"


def _sentence(complaint: str) -> str:
    """The first statement in tyro's boxed complaint, on one line."""
    body = re.split(r"[-─]{8,}", complaint)[1:2] or [complaint]
    lines = [line.strip(" │╮") for line in body[0].splitlines()]
    text = re.split(r"\s*Got errors", " ".join(" ".join(lines).split()))[0].rstrip(".")
    missing = re.match(r"Missing from .*?: (\S+)", text)
    if missing:
        return f"{missing[1]} is missing; --help shows the usage"
    return f"{text[:1].lower()}{text[1:]}; --help lists the options"
