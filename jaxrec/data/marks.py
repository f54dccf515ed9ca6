"""What annotation files say of images: marks with a class and a box, in whatever format they are written."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrec.data.sizes import Size
from jaxrec.data.splits import SAME_SPLIT, same_split, split_word
from jaxrec.data.walk import Found, LeftOut, walk
from jaxrec.errors import UserError

NO_IMAGE = "without an image"
NO_ANNOTATIONS = "without annotations"
MALFORMED = "malformed"
TWO_IMAGES = "of two images"


class Mark(NamedTuple):
    """One object, as an annotation file describes it."""

    name: str
    """Of its class."""
    box: Sequence[float]
    """y0, x0, y1, x1."""
    where: str
    """Where in the file it is described, such as ``line 3``."""
    fault: str = ""
    """What is wrong with it before its box is looked at; empty if nothing is."""


class Marked(NamedTuple):
    """An image and the objects in it."""

    image: Path
    marks: Sequence[Mark]
    source: Path
    """The annotation file; the image itself if it has none."""
    split: str = ""
    """Empty if it is in none."""
    size: Size | None = None
    """Height and width of the image as the annotation file states them."""
    shares: bool = False
    """Boxes are shares of the image's sides; otherwise pixels."""


class Annotations(NamedTuple):
    """All that is said of the images in a folder, in one format."""

    format: str
    marked: list[Marked]
    files: set[Path]
    """The annotation files, and those that name classes or splits."""
    names: tuple[str, ...] | None = None
    """The classes in the order of their numbers, if they are stated."""
    problems: Sequence[LeftOut] = ()
    """What stops a run unless it is to be left out."""
    left_out: Sequence[LeftOut] = ()
    """What is left out in any case."""
    remarks: tuple[str, ...] = ()


class Below:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        found: Found = walk(root)
        self.images = found.images
        self.others = found.left_out
        """Files that are no images."""
        self.by_stem: dict[str, list[Path]] = {}
        """Images by their names without the suffix."""
        for image in self.images:
            self.by_stem.setdefault(image.stem, []).append(image)
        words: set[str] = set()
        for image in self.images:
            words.update(split_word(folder) for folder in self._folders(image))
        # A word of one name alone, such as training_data, may be said of the whole set.
        self.worded = "train" in words and len(words - {""}) > 1

    def ending(self, *suffixes: str) -> list[Path]:
        """The files that are no images, with one of these suffixes in small or capital letters."""
        return [each.path for each in self.others if each.path.suffix.lower() in suffixes]

    def split_of(self, path: Path) -> str:
        """The split that one of the folders above a file is called after, such as ``seg_train``; empty if none is."""
        for folder in self._folders(path):
            split = split_called(re.sub(r"[\d_-]+$", "", folder))
            if not split and self.worded:
                split = split_word(folder)
            if split:
                return split
        return ""

    def _folders(self, path: Path) -> tuple[str, ...]:
        """The folders below the root that a file lies in."""
        return path.relative_to(self.root).parts[:-1]

    def image_of(self, candidates: Sequence[Path], near: Path, split: str) -> Path | None:
        """The image that an annotation file means, of those with the right name: in its split, and next to it.

        Returns None without candidates; raises UserError if several are equally good.
        """
        same = [path for path in candidates if split and self.split_of(path) == split]
        shared = [(_shared(path, near), path) for path in same or candidates]
        most = max((count for count, _ in shared), default=0)
        best = [path for count, path in shared if count == most]
        if len(best) > 1:
            raise UserError(f"'{best[0].stem}' may be {best[0]} or {best[1]}: rename or remove one of them")
        return best[0] if best else None


def plain(text: str) -> str:
    """A text from a file on one line, with a space for what cannot be printed, and composed as all systems write it."""
    printed = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(unicodedata.normalize("NFC", printed).split())


def split_called(name: str) -> str:
    """The split that a name means, in small letters; empty if it means none."""
    known = any(same_split(name, group[0]) for group in SAME_SPLIT)
    return name.lower() if known else ""


def _shared(path: Path, other: Path) -> int:
    """How many folders two files share, from the root of the file system on."""
    count = 0
    for one, two in zip(path.parts[:-1], other.parts[:-1], strict=False):
        if one != two:
            break
        count += 1
    return count


def not_used(below: Below, used: Iterable[Path], reason: str) -> list[LeftOut]:
    """The images of a folder that no annotation file means."""
    taken = set(used)
    return [LeftOut(path, NO_ANNOTATIONS, reason) for path in below.images if path not in taken]
