"""How every command reads its options and reports mistakes: one sentence and exit code 2."""

import contextlib
import gc
import io
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import tyro

from jaxrec.errors import UserError, enough_memory, nearest

RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    (
        "1 or more",
        lambda value: value >= 1,
        "--steps batch_size image_size log_every eval_every save_every accumulate patch "
        "discriminator_steps train_samples eval_samples fuse_steps seeds members processes",
    ),
    ("1 to 65536", lambda value: 1 <= value <= 2**16, "code latents"),
    ("a number above 0", lambda value: value > 0, "epochs lr"),
    ("above 0, and at most 65536", lambda value: 0 < value <= 2**16, "width"),
    ("0 or more, and less than 1", lambda value: 0 <= value < 1, "validation momentum beta2 average dropout scale"),
    ("0 to 1", lambda value: 0 <= value <= 1, "warmup label_smoothing resized_crop kl_warmup"),
    ("0 to 10", lambda value: 0 <= value <= 10, "magnitude"),
    # Larger seeds would count as their remainder: 2**32 as 0.
    ("0 to 4294967295", lambda value: 0 <= value < 2**32, "seed"),
)
"""What is expected of a number, and the fields or options it is expected of; all others are 0 or more."""


def run_command(command: Callable[[list[str]], int | None]) -> None:
    """Runs a command on the process's arguments and ends the process with its exit code.

    0: done. 2: a mistake of the user's, said in one sentence. 130 and 143: stopped by SIGINT or SIGTERM. 1: nobody
    reads the output any more.
    """
    # Orbax and jax remark on what is meant to be so: a folder opened for reading alone, a machine without a GPU. Orbax
    # also logs a traceback of each error before raising it.
    logging.disable(logging.ERROR)
    # Tracing makes hundreds of thousands of objects that stay, and Python would look through them again and again.
    gc.set_threshold(20_000)
    sys.unraisablehook = _show_unraisable
    code = None
    try:
        with enough_memory():
            code = command(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        print(f"jaxrec: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt as stopped:
        number = signal.Signals(*stopped.args) if stopped.args else signal.SIGINT
        print(f"jaxrec: stopped at once by {number.name}", file=sys.stderr)
        code = 128 + number
    except OSError as error:
        code = 1 if isinstance(error, BrokenPipeError) else 2
        if code == 2:
            print(f"jaxrec: {error}; make room or give permission", file=sys.stderr)
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code or 0)


def _show_unraisable(unraisable: Any) -> None:
    """Python's own hook, but for what follows a save that failed: tensorstore goes on to call Orbax's closed loop."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def parse(kind: Any, argv: Sequence[str], program: str, default: Any = None, description: str | None = None) -> Any:
    """A ``kind`` filled from the arguments, over ``default`` where given.

    Raises UserError, naming the nearest known option or choice, where the arguments do not fit.
    """
    settings: dict[str, Any] = {
        "prog": program,
        "config": (tyro.conf.AvoidSubcommands,),
        "description": description,
    }
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
    raise UserError(_sentence(complaint.getvalue(), default if default is not None else kind, argv))


def _settings(config: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(option, field, value) of every setting: ``--optimizer.lr``, ``lr``, 1e-3; the task's own have no prefix."""
    for each in fields(config):
        value = getattr(config, each.name, None)
        name = each.name.replace("_", "-")
        if is_dataclass(value) and not isinstance(value, type):
            yield from _settings(value, prefix if each.name == "task" else f"{prefix}{name}.")
        else:
            yield f"--{prefix}{name}", each.name, value


def check_numbers(config: Any) -> None:
    """Raises UserError for a number that no setting of its name can have."""
    for option, name, value in _settings(config):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        expected, fits = "0 or more", lambda value: value >= 0
        for range_expected, range_fits, names in RANGES:
            if {option, name} & set(names.split()):
                expected, fits = range_expected, range_fits
        if isinstance(value, int) and abs(value) > 2**53:  # more than a float can tell from its neighbours
            expected, fits = "at most 2**53", lambda value: False
        if not fits(value) or not math.isfinite(value):
            raise UserError(f"{option} {value} is out of range; expected {expected}")


def _sentence(complaint: str, config: Any, argv: Sequence[str]) -> str:
    """The parser's boxed complaint as one sentence, with the nearest known option or choice."""
    found = [(option, value) for option, _, value in _settings(config)]
    options = {option for option, _ in found}
    options |= {re.sub(r"(--|\.)(?=[^.]*$)", r"\1no-", option) for option, value in found if isinstance(value, bool)}
    given = [argument.partition("=")[0].replace("_", "-") for argument in argv if argument.startswith("--")]
    unknown = [option for option in given if option not in options]
    if unknown:
        suggestion = nearest(unknown[0], options) or "; --help lists the options"
        return f"there is no option '{unknown[0]}' here{suggestion}"
    body = re.split(r"[-─]{8,}", complaint)[1:2] or [complaint]
    text = " ".join(line.strip(" │╮") for line in body[0].splitlines()).strip()
    text = re.split(r"\s*Got errors", " ".join(text.split()))[0].rstrip(".")
    choice = re.search(r"invalid choice '(.*?)' .*\((.*?),?\)", text)
    suggestion = nearest(choice[1], re.findall(r"'(.*?)'", choice[2])) if choice else ""
    return f"{text[:1].lower()}{text[1:]}{suggestion or '; --help lists the options'}"
