"""Boxes in COCO's JSON: one file for a split, or for the whole set."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrec.data.boxes import CROWD, NO_CLASS
from jaxrec.data.marks import (
    MALFORMED,
    NO_IMAGE,
    TWO_IMAGES,
    Annotations,
    Below,
    Mark,
    Marked,
    not_used,
    plain,
    split_called,
)
from jaxrec.data.sizes import Size
from jaxrec.data.walk import LeftOut
from jaxrec.errors import UserError

PARTS = ("images", "annotations", "categories")
LARGEST = 1e9
"""No image has so many pixels along a side."""
INSTANCES = "instances"
"""What the files with boxes are called if there are others, of captions or keypoints, beside them."""


def read_coco(below: Below) -> Annotations | None:
    """What the JSON files below a folder say, in COCO's format; None if there is no such file.

    A file's split is named by a word of its name (``instances_train2017.json``) or by a folder above it. An image is
    found by its ``file_name`` anywhere below the folder. Raises UserError for a file that is damaged.
    """
    files = _files(below)
    if not files:
        return None
    splits = _splits(below, files)
    marked: list[Marked] = []
    problems: list[LeftOut] = []
    names: dict[int, str] = {}
    for path, content in files.items():
        _add_names(names, path, content["categories"])
        found, wrong = _marked(below, path, content, splits[path])
        marked += found
        problems += wrong
    _check_once(marked)
    # Categories of one name are one class.
    ordered = tuple(dict.fromkeys(names[number] for number in sorted(names)))
    which = "file" if len(files) > 1 else next(iter(files)).name
    left_out = not_used(below, [each.image for each in marked], f"no {which} lists it")
    return Annotations("COCO JSON", marked, set(files), ordered, problems, left_out)


def _files(below: Below) -> dict[Path, Any]:
    """The JSON files with boxes and their content."""
    found = {}
    for path in below.ending(".json"):
        content = _content(path)
        if content is not None:
            found[path] = content
    instances = {path: content for path, content in found.items() if path.name.startswith(INSTANCES)}
    return instances or found


def _content(path: Path) -> Any:
    """What a file says; None if it is in another format."""
    try:
        text = path.read_bytes()
        if not all(f'"{part}"'.encode() in text for part in PARTS):
            return None
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): expected COCO's JSON; replace it or remove it") from error
    if isinstance(content, dict) and all(_is_table(content.get(part)) for part in PARTS):
        return content
    return None


def _is_table(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(row, dict) for row in part)


def _splits(below: Below, files: Mapping[Path, Any]) -> dict[Path, str]:
    """The split of each file; without any known one among several, what the files are called."""
    splits = {path: _split(below, path) for path in files}
    if len(files) > 1:
        splits = {path: split or path.stem for path, split in splits.items()}
    for path, split in splits.items():
        others = [each for each in splits if each != path and splits[each] == split]
        if others:
            raise UserError(f"{path} and {others[0]} both state the boxes of '{split}': keep one of them")
    return splits


def _split(below: Below, path: Path) -> str:
    words = re.split(r"[^A-Za-z]+", path.stem)
    named = [split for split in map(split_called, words) if split]
    return named[0] if named else below.split_of(path)


def _add_names(names: dict[int, str], path: Path, categories: list[dict[str, Any]]) -> None:
    for row in categories:
        number, name = _whole(row.get("id")), plain(str(row.get("name", "")))
        if number is None or not name:
            stated = f"id {plain(str(row.get('id')))} and name '{name}'"
            raise UserError(f"{path} has a category with {stated}: expected a whole number and a name")
        if names.setdefault(number, name) != name:
            raise UserError(f"{path} calls category {number} '{name}', and it is '{names[number]}' elsewhere: name one")


def _marked(below: Below, path: Path, content: Any, split: str) -> tuple[list[Marked], list[LeftOut]]:
    """The images of a file with their objects, and what is wrong."""
    _check_ids(path, content["images"])
    categories = {_whole(row["id"]): plain(str(row["name"])) for row in content["categories"]}
    by_image: dict[str, list[Mark]] = {}
    for row in content["annotations"]:
        by_image.setdefault(str(row.get("image_id")), []).append(_mark(row, categories))
    marked: list[Marked] = []
    problems: list[LeftOut] = []
    for row in content["images"]:
        marks = by_image.pop(str(row.get("id")), [])
        name = str(row.get("file_name"))
        try:
            image = _image(below, path, name, split)
        except UserError as error:
            problems.append(LeftOut(path, TWO_IMAGES, str(error)))
            continue
        if image is None:
            problems.append(LeftOut(path, NO_IMAGE, f"there is no image '{plain(name)}', which has {len(marks)} boxes"))
        else:
            marked.append(Marked(image, marks, path, split or below.split_of(image), _size(row)))
    for number, marks in by_image.items():
        reason = f"{len(marks)} boxes are of image {plain(number)}, which it does not list"
        problems.append(LeftOut(path, NO_IMAGE, reason))
    return marked, problems


def _check_ids(path: Path, images: list[dict[str, Any]]) -> None:
    """Raises UserError if two images have one id, so that it is not clear whose the boxes are."""
    called: dict[str, str] = {}
    for row in images:
        number, name = str(row.get("id")), plain(str(row.get("file_name")))
        if number in called:
            raise UserError(f"{path} gives the id {plain(number)} to {called[number]} and {name}: use each id once")
        called[number] = name


def _mark(row: dict[str, Any], categories: Mapping[int | None, str]) -> Mark:
    where = f"annotation {plain(str(row.get('id')))}"
    category = _whole(row.get("category_id"))
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        return Mark("", (0, 0, 0, 0), f"{where} with bbox {plain(str(box))[:80]}", MALFORMED)
    left, top, width, height = box
    corners = (top, left, top + height, left + width)
    if _whole(row.get("iscrowd")):
        return Mark("", corners, where, CROWD)
    if category is None or category not in categories:
        return Mark("", corners, f"{where} with category_id {plain(str(row.get('category_id')))}", NO_CLASS)
    return Mark(categories[category], corners, where)


def _is_number(side: Any) -> bool:
    return isinstance(side, int | float) and -LARGEST < side < LARGEST


def _size(row: Mapping[str, Any]) -> Size | None:
    height, width = _whole(row.get("height")), _whole(row.get("width"))
    return (height, width) if height and width and min(height, width) > 0 else None


def _whole(value: Any) -> int | None:
    """A whole number, which some tools write as text; None if it is none."""
    try:
        return int(value) if isinstance(value, int | str) else None
    except ValueError:
        return None


def _image(below: Below, path: Path, name: str, split: str) -> Path | None:
    """The image file that has the name and lies in the folders that it states."""
    parts = tuple(part for part in re.split(r"[/\\]", name) if part not in ("", "."))
    if not parts:
        return None
    named = below.by_stem.get(Path(parts[-1]).stem, [])
    fitting = [image for image in named if image.parts[-len(parts) :] == parts]
    return below.image_of(fitting, path, split)


def _check_once(marked: list[Marked]) -> None:
    """Raises UserError if an image is listed twice."""
    seen: dict[Path, Path] = {}
    for each in marked:
        if each.image in seen:
            first = seen[each.image]
            where = str(first) if first == each.source else f"{first} and {each.source}"
            raise UserError(f"{each.image} is listed twice in {where}: list it once")
        seen[each.image] = each.source
