"""Boxes in YOLO's text: one file for each image, with a line for each box."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec.data.boxes import NO_CLASS
from jaxrec.data.marks import MALFORMED, NO_IMAGE, Annotations, Below, Mark, Marked, plain
from jaxrec.data.walk import LeftOut
from jaxrec.data.yolo_splits import stated_splits
from jaxrec.errors import UserError

IMAGES, LABELS = "images", "labels"
"""The folders of images and, in its place, of text files."""
MOST = 10_000
"""Classes that may be numbered without names."""
LISTED = "classes.txt"


def read_yolo(below: Below) -> Annotations | None:
    """What the text files below a folder say, in YOLO's format; None if there is no such file.

    The text of ``images/train/1.jpg`` is ``labels/train/1.txt``, and that of an image in no folder ``images`` lies
    beside it; small and capital letters are one. A line is a class number, then center x and y, width and height of a
    box, or the corners of a polygon, all as shares of the image's sides. An image without a text file has no boxes.
    Classes are named by ``names`` in a YAML file such as data.yaml, by a file classes.txt or \\*.names, or by their
    numbers. Splits are those that a YAML file states (see ``stated_splits``), or else called after folders. Raises
    UserError for a file of classes that cannot be read.
    """
    texts = {}
    for path in below.ending(".txt"):
        if path.name != LISTED:
            texts[_parts(below, path)] = path
    label_of = {image: _label(_parts(below, image), texts) for image in below.images}
    used = {label for label in label_of.values() if label is not None}
    alone = _alone(texts, used)
    if not used and not alone:
        return None
    contents = {path: _content(path) for path in below.ending(".yaml", ".yml")}
    names, named_in = _names(below, contents)
    stated = stated_splits(below, contents)
    marked = []
    for image, label in label_of.items():
        marks = [] if label is None else _marks(label, names)
        split = stated.splits.get(image) or below.split_of(image)
        marked.append(Marked(image, marks, label or image, split, shares=True))
    problems = [LeftOut(path, NO_IMAGE, f"there is no image called {path.stem}") for path in alone]
    problems += stated.problems
    remarks = tuple(stated.remarks)
    missing = list(label_of.values()).count(None)
    if missing:
        remarks += (f"{missing} of {len(label_of)} images have no label file, and count as images without boxes",)
    files = used | named_in | stated.files
    return Annotations("YOLO text", marked, files, names or _numbers(marked), problems, (), remarks)


def _parts(below: Below, path: Path) -> tuple[str, ...]:
    """The folders below the set's and the name without its suffix, in small letters."""
    relative = path.relative_to(below.root).with_suffix("")
    return tuple(part.lower() for part in relative.parts)


def _label(image: tuple[str, ...], texts: dict[tuple[str, ...], Path]) -> Path | None:
    """The text file of an image: in labels/ in place of the last images/, or beside it."""
    *folders, name = image
    places = [place for place, folder in enumerate(folders) if folder == IMAGES]
    if places:
        folders[places[-1]] = LABELS
        found = texts.get((*folders, name))
        if found is not None:
            return found
    return texts.get(image)


def _alone(texts: Mapping[tuple[str, ...], Path], used: set[Path]) -> list[Path]:
    """The text files that lie in a folder ``labels``, and are no image's. Others may say something else."""
    alone = []
    for parts, path in sorted(texts.items()):
        if LABELS in parts[:-1] and path not in used:
            alone.append(path)
    return alone


def _names(below: Below, contents: Mapping[Path, Any]) -> tuple[tuple[str, ...], set[Path]]:
    """The names of classes, empty if none are stated, and the files that state them, of YAML files' ``contents``."""
    read = {path: _from_yaml(path, content) for path, content in contents.items()}
    if not any(read.values()):
        read = {path: _from_lines(path) for path in _listed(below)}
    stated: dict[Path, tuple[str, ...]] = {}
    for path, written in read.items():
        if not written:
            continue
        names = tuple(plain(name) for name in written)
        if len(set(names)) < len(names) or "" in names:
            raise UserError(f"{path} names a class twice, or not at all: expected a different name for each number")
        stated[path] = names
    if not stated:
        return (), set()
    first, *others = stated
    for other in others:
        if stated[other] != stated[first]:
            raise UserError(f"{first} and {other} name different classes: remove one of them")
    return stated[first], set(stated)


def _listed(below: Below) -> list[Path]:
    return [path for path in below.ending(".txt", ".names") if path.name == LISTED or path.suffix == ".names"]


def _from_lines(path: Path) -> tuple[str, ...]:
    """The classes that a file names, one a line."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): expected the name of a class on each line") from error
    return tuple(line.strip() for line in lines if line.strip())


def _content(path: Path) -> Any:
    """What a YAML file says."""
    import yaml

    try:
        return yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = plain(str(error))
        raise UserError(f"{path} cannot be read ({reason}): expected YAML; correct it or remove it") from error


def _from_yaml(path: Path, content: Any) -> tuple[str, ...]:
    """The classes that a YAML file names, in a list or by their numbers; empty if it names none."""
    names = content.get("names") if isinstance(content, dict) else None
    if names is None:
        return ()
    if isinstance(names, dict):
        numbers = range(len(names))
        # As text, because keys of several types have no order.
        if sorted(names, key=str) == sorted(numbers, key=str):
            names = [names[number] for number in numbers]
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        raise UserError(f"{path} has names that are no list of names: expected names: [cat, dog], numbered from 0")
    return tuple(str(name) for name in names)


def _marks(path: Path, names: Sequence[str]) -> list[Mark]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [Mark("", (0, 0, 0, 0), f"its text, which cannot be read ({error}),", MALFORMED)]
    return [_mark(line, f"line {number}", names) for number, line in enumerate(lines, 1) if line.strip()]


def _mark(line: str, where: str, names: Sequence[str]) -> Mark:
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    # The class, and at least three corners.
    polygon = len(values) >= 7 and len(values) % 2 == 1
    if len(values) != 5 and not polygon:
        return Mark("", (0, 0, 0, 0), f"{where}, '{plain(line)[:80]}',", MALFORMED)
    if polygon:
        across, down = values[1::2], values[2::2]
        box = (min(down), min(across), max(down), max(across))
    else:
        _, x, y, width, height = values
        box = (y - height / 2, x - width / 2, y + height / 2, x + width / 2)
    number = int(values[0]) if values[0].is_integer() else -1
    classes = len(names) or MOST
    if not 0 <= number < classes:
        return Mark("", box, f"{where} with class {words[0][:80]}", NO_CLASS)
    name = names[number] if names else str(number)
    return Mark(name, box, where)


def _numbers(marked: Sequence[Marked]) -> tuple[str, ...]:
    """Numbers up to the largest one, which is what classes without names are called."""
    largest = -1
    for each in marked:
        for mark in each.marks:
            if not mark.fault:
                largest = max(largest, int(mark.name))
    return tuple(str(number) for number in range(largest + 1))
