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
    texts = {_parts(below, path): path for path in below.ending(".txt") if path.name != LISTED}
    label_of = {image: _label(_parts(below, image), texts) for image in below.images}
    used = set(label_of.values())
    alone = [path for parts, path in sorted(texts.items()) if path not in used and LABELS in parts[:-1]]
    if used <= {None} and not alone:
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
    files = {path for path in used if path is not None} | named_in | stated.files
    missing = sum(label is None for label in label_of.values())
    remarks = tuple(stated.remarks)
    if missing:
        remarks += (f"{missing} of {len(label_of)} images have no label file, and count as images without boxes",)
    return Annotations("YOLO text", marked, files, names or _numbers(marked), problems + stated.problems, (), remarks)


def _parts(below: Below, path: Path) -> tuple[str, ...]:
    """The folders below the set's and the name without its suffix, in small letters."""
    relative = path.relative_to(below.root).with_suffix("")
    return tuple(part.lower() for part in relative.parts)


def _label(image: tuple[str, ...], texts: dict[tuple[str, ...], Path]) -> Path | None:
    """The text file of an image: in labels/ in place of the last images/, or beside it."""
    *folders, name = image
    if IMAGES in folders:
        last = len(folders) - 1 - folders[::-1].index(IMAGES)
        found = texts.get((*folders[:last], LABELS, *folders[last + 1 :], name))
        if found is not None:
            return found
    return texts.get(image)


def _names(below: Below, contents: Mapping[Path, Any]) -> tuple[tuple[str, ...], set[Path]]:
    """The names of classes, empty if none are stated, and the files that state them, of YAML files' ``contents``."""
    read = {path: _from_yaml(path, content) for path, content in contents.items()}
    if not any(read.values()):
        read = {path: _from_lines(path) for path in _listed(below)}
    stated = {path: tuple(map(plain, names)) for path, names in read.items() if names}
    for path, names in stated.items():
        if len(set(names)) < len(names) or "" in names:
            raise UserError(f"{path} names a class twice, or not at all: expected a different name for each number")
    if len(set(stated.values())) > 1:
        one, two = list(stated)[:2]
        raise UserError(f"{one} and {two} name different classes: remove one of them")
    return next(iter(stated.values()), ()), set(stated)


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
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[number] for number in range(len(names))]
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
    if not 0 <= number < (len(names) or MOST):
        return Mark("", box, f"{where} with class {words[0][:80]}", NO_CLASS)
    return Mark(names[number] if names else str(number), box, where)


def _numbers(marked: Sequence[Marked]) -> tuple[str, ...]:
    """Numbers up to the largest one, which is what classes without names are called."""
    used = [int(mark.name) for each in marked for mark in each.marks if not mark.fault]
    return tuple(str(number) for number in range(max(used, default=-1) + 1))
