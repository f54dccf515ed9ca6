"""How every command runs and ends: exit codes, signals, and errors as one sentence."""

import errno
import gc
import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from jaxrec.errors import UserError, memory_errors

ADVICE = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk",
    errno.EACCES: "change the permissions or choose another place",
    errno.EPERM: "change the permissions or choose another place",
    errno.EROFS: "choose a place that can be written",
}
"""What to do about errors of the file system; for all others, the error itself says enough."""


def run_command(command: Callable[[list[str]], int | None]) -> None:
    """Runs a command on the process's arguments and ends the process with its exit code.

    0: success. 1: broken pipe, or a difference found by ``verify``. 2: a mistake of the user, told in one sentence.
    130 and 143: stopped by SIGINT or SIGTERM.
    """
    _quiet()
    _print_anything()
    code: int | None = 2
    try:
        with memory_errors("free some memory or use a machine with more"):
            code = command(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        _tell(str(error))
    except KeyboardInterrupt as stopped:
        number = signal.Signals(*stopped.args) if stopped.args else signal.SIGINT
        _tell(f"stopped at once by {number.name}")
        code = 128 + number
    except BrokenPipeError:
        code = 1
        _discard_output()
    except OSError as error:
        _tell(_describe(error))
        _discard_output()
    sys.exit(code or 0)


def _quiet() -> None:
    # Orbax and JAX log what is intended here, such as a folder opened only for reading or a machine without a GPU.
    # Orbax also logs the traceback of each error before raising it.
    logging.disable(logging.ERROR)
    # Tracing creates hundreds of thousands of objects that stay alive, and the collector would scan them repeatedly.
    gc.set_threshold(20_000)
    sys.unraisablehook = _show_unraisable


def _print_anything() -> None:
    """Lets the output show every name: what the terminal's encoding lacks is written as ``\\xe9`` or ``\\u5b57``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show_unraisable(unraisable: Any) -> None:
    """Python's own hook, silent about the loop of Orbax that tensorstore still calls after a failed save."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _tell(sentence: str) -> None:
    print(f"jaxrec: {' '.join(sentence.split())}", file=sys.stderr)


def _describe(error: OSError) -> str:
    """What the error says, with advice if the file system is the reason."""
    sentence = str(error)
    if error.strerror:
        place = f"'{error.filename}': " if error.filename else ""
        sentence = f"{place}{error.strerror}"
    if error.errno in ADVICE:
        sentence += f"; {ADVICE[error.errno]}"
    return sentence


def _discard_output() -> None:
    """Sends what is still buffered nowhere: Python flushes again at exit, and would report the same error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
