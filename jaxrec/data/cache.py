"""Where jaxrec keeps what it makes itself."""

import atexit
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from jaxrec.errors import UserError

KINDS = {"decoded": "decoded images", "programs": "compiled programs", "judges": "judges of generated images"}
"""The folders in the cache, and what each holds."""


def cache_dir() -> Path:
    """The folder in JAXREC_CACHE or, without it, ``jaxrec`` in the user's cache folder; it can be written.

    If the user has no home folder, or one that cannot be written, this is a folder for this process alone, and a line
    on stderr says so. Raises UserError if JAXREC_CACHE itself cannot be written.
    """
    given = os.environ.get("JAXREC_CACHE")
    if given:
        return _checked(Path(os.path.expanduser(given)))
    try:
        return _checked(_user_cache() / "jaxrec")
    except (UserError, RuntimeError) as error:  # RuntimeError is pathlib's, of a user without a home.
        return _own(str(error))


def _user_cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path.home() / ".cache"


@cache
def _checked(folder: Path) -> Path:
    """The folder, made if need be; raises UserError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {folder} ({reason}): set JAXREC_CACHE to a folder you can write to") from error


@cache
def _own(reason: str) -> Path:
    """A folder that is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="jaxrec-cache-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    advice = "" if "JAXREC_CACHE" in reason else ": set JAXREC_CACHE to a folder you can write to"
    print(f"jaxrec: nothing is cached for later runs: {reason.rstrip('.')}{advice}", file=sys.stderr)
    return folder
