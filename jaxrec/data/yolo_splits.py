"""The splits of a set in YOLO's format, as a YAML file states them: folders of images, or lists of image files."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.data.marks import NO_IMAGE, Below, plain
from jaxrec.data.walk import LeftOut
from jaxrec.errors import UserError

SPLITS = ("train", "val", "test")
"""The keys that state where the images of a split are."""


class Stated(NamedTuple):
    """What YAML files say of splits."""

    splits: dict[Path, str]
    """By the image; without those that are in no split."""
    files: set[Path]
    """The YAML files and the lists that say so."""
    problems: list[LeftOut]
    remarks: list[str]


def stated_splits(below: Below, contents: Mapping[Path, Any]) -> Stated:
    """The splits that the ``contents`` of YAML files state, by their paths.

    A place is a folder or a list, relative to ``path`` or to the file's own folder; it is looked for in the set alone.
    Raises UserError if there is no such place, or if two splits have an image in common. A test split that is not
    there is only told of, since tools state one in sets without.
    """
    stated = Stated({}, set(), [], [])
    inside = _Inside(below)
    for path, content in contents.items():
        # Training writes YAML files, too, in which "val" is something else.
        if not isinstance(content, dict) or not content.keys() & {"train", "names"}:
            continue
        for split in SPLITS:
            for place in _places(path, split, content.get(split)):
                bases = _bases(path, content)
                members = inside.folder(bases, place) or inside.listed(bases, place, stated)
                if members is None and split == "test":
                    stated.remarks.append(f"{path.name} states 'test: {plain(place)}', which is not there")
                elif members is None:
                    raise UserError(
                        f"{path} states '{split}: {plain(place)}', and {below.root} holds neither a folder of images "
                        "nor a list there: correct that or remove it"
                    )
                _add(stated, path, split, members or [])
    return stated


class _Inside:
    """The images and lists of a set by their absolute paths, which those outside are not among."""

    def __init__(self, below: Below) -> None:
        self.root = Path(os.path.abspath(below.root))
        self.images = {Path(os.path.abspath(image)): image for image in below.images}
        self.texts = {Path(os.path.abspath(path)): path for path in below.ending(".txt")}

    def folder(self, bases: Sequence[Path], place: str) -> list[Path] | None:
        """The images below a folder; None if there are none."""
        for folder in _candidates(bases, place):
            found = [image for path, image in self.images.items() if path.is_relative_to(folder)]
            if found and folder.is_relative_to(self.root):
                return found
        return None

    def listed(self, bases: Sequence[Path], place: str, stated: Stated) -> list[Path] | None:
        """The images that a list names, one a line; None if there is no such list."""
        texts = [self.texts[path] for path in _candidates(bases, place) if path in self.texts]
        if not texts:
            return None
        text = texts[0]
        stated.files.add(text)
        found = []
        for number, line in enumerate(text.read_text("utf-8-sig", "replace").splitlines(), 1):
            name = line.strip()
            images = [self.images[path] for path in _candidates((text.parent, *bases), name) if path in self.images]
            if images:
                found.append(images[0])
            elif name:
                reason = f"line {number} names '{plain(name)}', which is no image in {self.root}"
                stated.problems.append(LeftOut(text, NO_IMAGE, reason))
        return found


def _places(path: Path, split: str, value: Any) -> list[str]:
    places = value if isinstance(value, list) else [value]
    places = [place for place in places if place not in (None, "")]
    if not all(isinstance(place, str) for place in places):
        raise UserError(f"{path} states '{split}: {plain(str(value))[:80]}': expected a folder or a list of images")
    return places


def _bases(path: Path, content: Mapping[str, Any]) -> list[Path]:
    """The folders to which places may be relative."""
    own, stated = path.parent, content.get("path")
    return [own / stated, own] if isinstance(stated, str) else [own]


def _candidates(bases: Sequence[Path], place: str) -> list[Path]:
    """Where a place may be."""
    place = place.replace("\\", "/")
    # Some tools write ../train/images for a folder that lies beside the file.
    inner = re.sub(r"^(\.\./)+(?=.)", "", place)
    found = []
    for each in (place, inner):
        found += [Path(os.path.abspath(base / each)) for base in bases]
    return found


def _add(stated: Stated, path: Path, split: str, images: Sequence[Path]) -> None:
    stated.files.add(path)
    for image in images:
        before = stated.splits.setdefault(image, split)
        if before != split:
            raise UserError(f"{path} puts {image} into both '{before}' and '{split}': state it once")
