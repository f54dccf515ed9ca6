"""The one exception a user is meant to read: what is wrong, what was expected, what to do."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, said in one sentence; the commands print it without a traceback and exit with code 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The clause ``; did you mean 'x'?`` for the known word nearest to ``word``, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


def too_little_memory(error: BaseException) -> str | None:
    """What to say of an error of memory that did not suffice, numpy's or XLA's; None for any other error."""
    xla = isinstance(error, RuntimeError) and str(error).startswith("RESOURCE_EXHAUSTED")
    if not xla and not isinstance(error, MemoryError):
        return None
    reason = str(error).strip().partition("\n")[0]
    return f"the memory does not suffice ({reason}); give a smaller --batch-size, more --accumulate, or a smaller model"
