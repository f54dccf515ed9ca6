"""The one exception a user is meant to read: what is wrong, what was expected, what to do."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, said in one sentence; the commands print it without a traceback and exit with code 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The clause ``; did you mean 'x'?`` for the known word nearest to ``word``, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""
