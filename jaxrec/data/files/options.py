"""How the files of a set are read."""

from typing import NamedTuple

from jaxrec.data.files.known import Known
from jaxrec.data.sizes import Size

HELD = 2**30
"""Bytes of decoded examples up to which a set of files is held in memory."""


class Options(NamedTuple):
    """How the files of a set are read."""

    size: Size | None = None
    """Of the images; None: the size of the first one."""
    resize: str = "crop"
    skip_bad: bool = False
    image_key: str | None = None
    """The feature of a prepared set that is the image, or the folder of a set of pairs; None: the usual one."""
    held: int = HELD
    known: Known | None = None


PLAIN = Options()
"""Nothing but what is usual."""
