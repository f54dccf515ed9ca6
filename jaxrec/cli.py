"""How every command reads its options and reports mistakes: one sentence and exit code 2."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import tyro

from jaxrec.errors import UserError, nearest


def run_command(command: Callable[[list[str]], int | None]) -> None:
    """Runs a command on the process's arguments and ends the process with its exit code.

    0: done. 2: a mistake of the user's, said in one sentence. 130 and 143: stopped by SIGINT or SIGTERM.
    """
    try:
        code = command(sys.argv[1:])
    except UserError as error:
        print(f"jaxrec: {error}", file=sys.stderr)
        code = 2
    sys.exit(code or 0)


def parse(kind: Any, argv: Sequence[str], program: str, default: Any = None) -> Any:
    """A ``kind`` filled from the arguments, over ``default`` where given.

    Raises UserError, naming the nearest known option or choice, where the arguments do not fit.
    """
    settings: dict[str, Any] = {"prog": f"python -m {program}", "config": (tyro.conf.AvoidSubcommands,)}
    if default is not None:
        settings["default"] = default
    if {"-h", "--help"} & set(argv):
        return tyro.cli(kind, args=list(argv), **settings)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(argv), **settings)
    except SystemExit:
        pass
    raise UserError(_sentence(complaint.getvalue(), set(_options(default if default is not None else kind)), argv))


def _options(config: Any, prefix: str = "") -> Iterator[str]:
    """The option names of a configuration: ``--steps``, ``--optimizer.lr``; the task's own have no prefix."""
    for each in fields(config):
        value = getattr(config, each.name, None)
        name = each.name.replace("_", "-")
        if is_dataclass(value) and not isinstance(value, type):
            yield from _options(value, prefix if each.name == "task" else f"{prefix}{name}.")
        else:
            yield f"--{prefix}{name}"
            if isinstance(value, bool):
                yield f"--{prefix}no-{name}"


def _sentence(complaint: str, options: set[str], argv: Sequence[str]) -> str:
    """The parser's boxed complaint as one sentence, with the nearest known option or choice."""
    given = [argument.partition("=")[0].replace("_", "-") for argument in argv if argument.startswith("--")]
    unknown = [option for option in given if option not in options]
    if unknown:
        suggestion = nearest(unknown[0], options) or "; --help lists the options"
        return f"there is no option '{unknown[0]}' here{suggestion}"
    body = re.split(r"[-─]{20,}", complaint)[1:2] or [complaint]
    text = " ".join(line.strip(" │╮") for line in body[0].splitlines()).strip()
    text = re.split(r"\s*Got errors", " ".join(text.split()))[0].rstrip(".")
    choice = re.search(r"invalid choice '(.*?)' .*\((.*?),?\)", text)
    suggestion = nearest(choice[1], re.findall(r"'(.*?)'", choice[2])) if choice else ""
    return f"{text[:1].lower()}{text[1:]}{suggestion or '; --help lists the options'}"
