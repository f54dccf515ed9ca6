"""Where jaxrec keeps what it makes itself."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder in JAXREC_CACHE or, without it, ``jaxrec`` in the user's cache folder."""
    if given := os.environ.get("JAXREC_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxrec"
