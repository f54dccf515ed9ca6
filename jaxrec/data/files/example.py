"""One example of a set of files: an image file and what belongs to it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.data.boxes import Objects


class File(NamedTuple):
    """One example: an image file and what belongs to it."""

    image: Path
    split: str = ""
    """Empty if the set is to be cut."""
    values: Mapping[str, Any] = {}
    """Classes and numbers, by name in the batch."""
    mask: Path | None = None
    objects: Objects | None = None
    """The boxes in the image, if the set has boxes."""
    columns: Mapping[str, str] = {}
    """The cells of its row, if a table names the examples."""
    frames: tuple[Path, ...] = ()
    """The images that a clip's folder holds, or its animated file; empty if the example is an image."""
    partner: Path | None = None
    """The second image of a pair of two files."""


def images_of(files: Iterable[File]) -> list[Path]:
    """The image of each example."""
    return [file.image for file in files]


def paths_of(file: File) -> list[Path]:
    """The files that an example is made of."""
    images = file.frames or (file.image,)
    beside = [path for path in (file.mask, file.partner) if path is not None]
    return [*images, *beside]
