"""Files that cannot be read: tried in threads, then named in an error or left out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from jaxrec.data.files.example import File
from jaxrec.data.images import Unreadable
from jaxrec.data.walk import UNREADABLE, LeftOut
from jaxrec.errors import UserError

NAMED = 10
"""Unreadable files that an error names."""

T = TypeVar("T")


def attempt(function: Callable[[Any], T]) -> Callable[[Any], T | UserError]:
    """The function with its UserError returned instead of raised, for threads."""

    def tried(argument: Any) -> T | UserError:
        try:
            return function(argument)
        except UserError as error:
            return error

    return tried


def readable(
    results: Iterable[Any], files: Sequence[File], skip_bad: bool
) -> tuple[list[Any], list[File], list[LeftOut]]:
    """The results and files that are good, and the files that failed.

    Raises UserError naming files that failed, unless ``skip_bad`` leaves them out, or if all failed.
    """
    good: list[Any] = []
    kept: list[File] = []
    bad: list[LeftOut] = []
    for result, file in zip(results, files, strict=True):
        if isinstance(result, UserError):
            # Of several files of an example, the error may know which one it is.
            path = result.path if isinstance(result, Unreadable) else file.image
            bad.append(LeftOut(path, UNREADABLE, str(result)))
        else:
            good.append(result)
            kept.append(file)
    if bad and not skip_bad:
        raise UserError(f"{bad[0].reason}, or leave out all such files with --skip-bad{_others(bad[1:])}")
    if not good:
        raise UserError(f"none of the {len(files)} image files can be read, such as {bad[0].path}: replace them")
    return good, kept, bad


def _others(bad: Sequence[LeftOut]) -> str:
    """The end of a sentence on one bad file that names others; empty if there are none."""
    if not bad:
        return ""
    named = ", ".join(str(each.path) for each in bad[:NAMED])
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"; {len(bad)} more cannot be read: {named}{more}"
