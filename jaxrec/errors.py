"""The one exception a user is meant to read: what is wrong, what was expected, what to do."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """Bad input, said in one sentence; the commands print it without a traceback and exit with code 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The clause ``; did you mean 'x'?`` for the known word nearest to ``word``, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Turns errors of memory that does not suffice, numpy's and XLA's, into a ``UserError``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        reason = str(error).strip().partition("\n")[0]
        advice = "give a smaller --batch-size, more --accumulate, or a smaller model"
        raise UserError(f"the memory does not suffice ({reason}); {advice}") from error
