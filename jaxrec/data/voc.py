"""Boxes in Pascal VOC's XML: one file for each image."""

import re
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from jaxrec.data.boxes import DIFFICULT
from jaxrec.data.marks import MALFORMED, NO_ANNOTATIONS, NO_IMAGE, TWO_IMAGES, Annotations, Below, Mark, Marked, plain
from jaxrec.data.marks import split_called as split_of_name
from jaxrec.data.sizes import Size
from jaxrec.data.walk import UNREADABLE, LeftOut
from jaxrec.errors import UserError

LISTS = "ImageSets"
"""The folder of the lists that say which image is in which split."""
MAIN = "Main"
"""The folder in it of the lists for boxes; others, such as ``Segmentation``, are for other tasks."""
BOTH = "trainval"
"""The list of training and validation images, read as ``train`` if there is no list of that name."""
OF_ANOTHER = "it has the name of an annotated image"


class Lists(NamedTuple):
    """The lists of splits in one ``ImageSets``."""

    folder: Path
    """The one that holds ``ImageSets`` and the images."""
    splits: dict[str, str]
    """By the image's name without its suffix."""
    files: set[Path]


def read_voc(below: Below) -> Annotations | None:
    """What the XML files below a folder say, in Pascal VOC's format; None if there is no such file.

    An image has the name of its XML file, which lies beside it or in another folder, or else the one that the file
    states. ``ImageSets/Main/train.txt`` and the like name the XML files of a split; without them, a folder's name does.
    Corners count pixels from 1, and both belong to the box. Raises UserError for lists that contradict one another.
    """
    parsed, problems = _parsed(below)
    if not parsed and not problems:
        return None
    lists = _lists(below)
    called = {path: _called(below, path, root) for path, root in parsed.items()}
    taken: dict[Path, Path] = {}
    marked: list[Marked] = []
    left_out: list[LeftOut] = []
    # An image belongs to the file that has its name, whatever others state.
    for path, root in sorted(parsed.items(), key=lambda each: called[each[0]] != each[0].stem):
        split = _listed(lists, path)
        if split is None:
            left_out.append(LeftOut(path, "in no list", f"none of the lists in {LISTS} names it"))
            continue
        try:
            image = _image(below, path, called[path], root, split)
        except UserError as error:
            problems.append(LeftOut(path, TWO_IMAGES, str(error)))
            continue
        if image is None:
            problems.append(LeftOut(path, NO_IMAGE, f"there is no image called {path.stem}"))
        elif image in taken:
            reason = f"it names {image}, whose boxes are in {taken[image]}"
            problems.append(LeftOut(path, NO_IMAGE, reason))
        else:
            taken[image] = path
            marks = _marks(root)
            marked.append(Marked(image, marks, path, split or below.split_of(image), _size(root)))
    files = set(parsed)
    for each in lists:
        files.update(each.files)
    alone, others = _without_annotations(below, taken, called.values())
    problems += alone + _listed_without(lists, parsed)
    return Annotations("Pascal VOC XML", marked, files, None, problems, left_out + others)


def _parsed(below: Below) -> tuple[dict[Path, Element], list[LeftOut]]:
    """The roots of the XML files of images, and the files that cannot be read."""
    parsed: dict[Path, Element] = {}
    problems: list[LeftOut] = []
    for path in below.ending(".xml"):
        try:
            root = _parse(path)
        except UserError as error:
            if path.stem in below.by_stem:  # Other XML is none of ours.
                problems.append(LeftOut(path, UNREADABLE, str(error)))
            continue
        if root.tag == "annotation":
            parsed[path] = root
    return parsed, problems


def _parse(path: Path) -> Element:
    """The root of an XML file; raises UserError if it cannot be read or declares a document type.

    By entities, which such a declaration brings, a small file could fill all memory or read other files.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except (OSError, expat.ExpatError, ValueError, AssertionError) as error:
        raise UserError(f"it is no readable XML ({error})") from error


def _refuse(*declaration: object) -> None:
    raise ValueError("it declares a document type, which could hold entities; remove that line")


def _lists(below: Below) -> list[Lists]:
    """The lists of each ``ImageSets`` below the folder."""
    found: dict[Path, dict[Path, dict[str, Path]]] = {}
    for path in below.ending(".txt"):
        for folder in path.parents[:2]:
            if folder.name == LISTS and (split_of_name(path.stem) or path.stem == BOTH):
                lists = found.setdefault(folder, {}).setdefault(path.parent, {})
                lists[split_of_name(path.stem) or BOTH] = path
    return [_read_lists(folder.parent, _for_boxes(folder, lists)) for folder, lists in found.items()]


def _for_boxes(folder: Path, lists: dict[Path, dict[str, Path]]) -> dict[str, Path]:
    """The lists for boxes, of those in the folders of an ``ImageSets``; raises UserError if that is not clear."""
    for place in (folder / MAIN, folder):
        if place in lists:
            return lists[place]
    if len(lists) > 1:
        names = " and ".join(place.name for place in lists)
        raise UserError(f"{folder} holds lists in {names}: put those of the images with boxes into {folder / MAIN}")
    return next(iter(lists.values()))


def _read_lists(folder: Path, files: dict[str, Path]) -> Lists:
    splits: dict[str, str] = {}
    for split, path in files.items():
        if split == BOTH and "train" in files:
            continue
        for line in path.read_text("utf-8", "replace").splitlines():
            words = line.split()
            if not words:
                continue
            split_here = "train" if split == BOTH else split
            if splits.setdefault(words[0], split_here) != split_here:
                raise UserError(
                    f"{path} names '{words[0]}', which is in the split {splits[words[0]]}, too: name it once"
                )
    return Lists(folder, splits, set(files.values()))


def _listed(lists: Sequence[Lists], path: Path) -> str | None:
    """The split that a list puts an image into; empty if there are no lists, None if they do not name it."""
    for each in lists:
        if path.is_relative_to(each.folder):
            return each.splits.get(path.stem)
    return ""


def _listed_without(lists: Sequence[Lists], parsed: dict[Path, Element]) -> list[LeftOut]:
    """The names in lists that have no XML file."""
    there = {path.stem for path in parsed}
    problems = []
    for each in lists:
        for name, split in each.splits.items():
            if name not in there:
                reason = f"the list of {split} names '{plain(name)}', which has no XML file"
                problems.append(LeftOut(each.folder / LISTS, NO_ANNOTATIONS, reason))
    return problems


def _called(below: Below, path: Path, root: Element) -> str:
    """The name of a file's image, without the suffix: its own if there is such an image, or else the stated one."""
    stated = Path(_stated(root)).stem
    return stated if path.stem not in below.by_stem and stated in below.by_stem else path.stem


def _stated(root: Element) -> str:
    """The name of the image as the file states it, without folders."""
    return re.split(r"[/\\]", (root.findtext("filename") or "").strip())[-1]


def _image(below: Below, path: Path, name: str, root: Element, split: str) -> Path | None:
    candidates = below.by_stem.get(name, [])
    exact = [image for image in candidates if image.name == _stated(root)]
    return below.image_of(exact or candidates, path, split or below.split_of(path))


def _without_annotations(
    below: Below, taken: Container[Path], names: Iterable[str]
) -> tuple[list[LeftOut], list[LeftOut]]:
    """Images without an XML file, and those that only have the name of an annotated one, such as masks."""
    annotated = set(names)
    alone, others = [], []
    for image in below.images:
        if image.stem not in annotated:
            alone.append(LeftOut(image, NO_ANNOTATIONS, f"there is no {image.stem}.xml"))
        elif image not in taken:
            others.append(LeftOut(image, "not annotated", OF_ANOTHER))
    return alone, others


def _size(root: Element) -> Size | None:
    sides = [_whole(root.findtext(f"size/{side}")) for side in ("height", "width")]
    return (sides[0], sides[1]) if min(sides) > 0 else None


def _whole(text: str | None) -> int:
    """A whole number; 0 if the text is none."""
    try:
        return int(float(text or ""))
    except (ValueError, OverflowError):
        return 0


def _marks(root: Element) -> list[Mark]:
    return [_mark(each, number) for number, each in enumerate(root.findall("object"), 1)]


def _mark(element: Element, number: int) -> Mark:
    name = plain(element.findtext("name") or "")
    corners = [element.findtext(f"bndbox/{corner}") for corner in ("ymin", "xmin", "ymax", "xmax")]
    try:
        top, left, bottom, right = (float(corner or "") for corner in corners)
    except ValueError:
        return Mark(name, (0, 0, 0, 0), f"object {number} with bndbox {plain(str(corners))}", MALFORMED)
    if not name:
        return Mark(name, (0, 0, 0, 0), f"object {number} without a name", MALFORMED)
    fault = DIFFICULT if _whole(element.findtext("difficult")) > 0 else ""
    return Mark(name, (top - 1, left - 1, bottom, right), f"object {number}", fault)
