"""The one exception that a user is meant to read: what is wrong, what was expected, what to do."""

import contextlib
import difflib
import importlib.util
from collections.abc import Iterable, Iterator

TRAINING_MEMORY = "try a smaller --batch-size, a larger --accumulate or a smaller model"
"""What to do if a step of training needs more memory than there is."""


class UserError(Exception):
    """A mistake of the user in one sentence; the commands print it without a traceback and exit with code 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The clause ``; did you mean 'x'?`` for the known word nearest to ``word``, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


def check_installed(what: str, packages: Iterable[str], extra: str) -> None:
    """Raises UserError if packages that ``what`` needs are not installed; the ``extra`` of jaxrec brings them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {' and '.join(missing)}; install what is missing: pip install 'jaxrec[{extra}]'")


@contextlib.contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Turns the out-of-memory errors of NumPy and XLA into a ``UserError`` that ends with ``advice``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"out of memory ({reason}); {advice}") from error
