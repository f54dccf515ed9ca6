"""A CSV file that names images and what belongs to them."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.features import Feature
from jaxrec.data.files import File, Options, arrange, check_trained, known_names, numbered, open_files, to_source
from jaxrec.data.labels import slips
from jaxrec.data.reads import Reads, alternatives, check_clear, choose
from jaxrec.data.splits import Source, named_split
from jaxrec.data.table import Table, read_table
from jaxrec.errors import UserError

MARKS = (";", "|", ",")
"""What may stand between classes, the first that occurs; without any, spaces."""


def open_csv(name: str, reads: Reads, options: Options) -> Source:
    """The images that a CSV file names, one a row, with a header.

    Columns: ``path``, relative to the file; ``label``, the image's class, or ``labels``, any number of classes
    separated by semicolons, or else bars, commas or spaces (kind ``classes``); other columns that hold numbers (kind
    ``number``), read by their name; and ``split``, without which the set is cut 80/20 into train and test.

    Raises UserError naming what is amiss.
    """
    table = read_table(Path(os.path.expanduser(name)))
    numbers = [each for each, kinds in reads.items() if "number" in alternatives(kinds)]
    there = _kinds(table, numbers)
    chosen = choose(f"csv:{table.path}", reads, there)
    check_clear(f"csv:{table.path}", there, chosen)
    splits, remarks = _splits(table)
    remarks = table.remarks + remarks + _beside(there, chosen)
    features: dict[str, Feature] = {}
    values: list[dict[str, Any]] = [{} for _ in table.rows]
    for each, column in chosen.items():
        kind = there[column]
        if kind == "image":
            continue
        features[each], found = _column(table, column, kind, known_names(options.known, each))
        remarks += slips(features[each].names)
        if kind == "classes":
            remarks += _separated(table)
        for row, value in zip(values, found, strict=True):
            row[each] = value
    files = []
    for place, row in enumerate(table.rows):
        files.append(File(_image(table, place), splits[place], values[place], columns=row))
    (image,) = [each for each in chosen if there[chosen[each]] == "image"]
    opened = open_files(files, image, features, options)
    root = table.path.parent
    where = f"csv file {table.path}"
    labels = [each for each, feature in features.items() if feature.kind == "class"]
    if labels:
        label = labels[0]
        names = features[label].names
        if options.known is None:
            check_trained(where, opened.files, label, names)
        arranged = arrange(root, opened.files, options.known, label, names)
    else:
        arranged = arrange(root, opened.files, options.known, None)
    also = repr([_plain(file.values) for file in opened.files])
    return to_source(root, opened, arranged, remarks=remarks, also=also)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {each: np.asarray(value).tolist() for each, value in values.items()}


def _beside(there: Mapping[str, str], chosen: Mapping[str, str]) -> tuple[str, ...]:
    """The sentence that says which of the columns ``label`` and ``labels`` is read; none without both."""
    read, unread = [], []
    for column, kind in there.items():
        if kind not in ("class", "classes"):
            continue
        if column in chosen.values():
            read.append(column)
        else:
            unread.append(column)
    if not read or not unread:
        return ()
    return (f"column '{read[0]}' is read, and '{unread[0]}' is not",)


def _kinds(table: Table, numbers: Sequence[str]) -> dict[str, str]:
    """The kind of each column that can be read, the path's as an image; those in ``numbers`` have to hold numbers."""
    kinds = {"path": "image"}
    for column in table.columns:
        if column == "label":
            kinds[column] = "class"
        elif column == "labels":
            kinds[column] = "classes"
        elif column not in ("path", "split") and _holds_numbers(table, column, column in numbers):
            kinds[column] = "number"
    return kinds


def _holds_numbers(table: Table, column: str, needed: bool) -> bool:
    """Whether a column holds numbers alone; raises UserError, if they are needed, naming the first other value."""
    for line, row in zip(table.lines, table.rows, strict=True):
        if _is_number(row[column]):
            continue
        if needed:
            raise UserError(
                f"line {line} of csv file {table.path} has '{row[column]}' in the column '{column}'; expected a number"
            )
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _column(table: Table, column: str, kind: str, known: Sequence[str]) -> tuple[Feature, list[Any]]:
    """The feature in a column and its value in each row."""
    cells = [row[column].strip() for row in table.rows]
    if kind == "class":
        return _class_column(table, cells, known)
    if kind == "classes":
        return _classes_column(table, cells, known)
    return Feature("number", (), "float32"), [np.float32(cell) for cell in cells]


def _class_column(table: Table, cells: list[str], known: Sequence[str]) -> tuple[Feature, list[Any]]:
    if "" in cells:
        line = table.lines[cells.index("")]
        raise UserError(f"line {line} of csv file {table.path} has no label: add one or remove the line")
    names = numbered(f"csv file {table.path}", _sorted(set(cells)), known)
    if len(names) < 2:
        raise UserError(f"csv file {table.path} holds only one class, '{cells[0]}': expected at least two")
    number = {name: place for place, name in enumerate(names)}
    return Feature("class", (), "int32", names), [number[cell] for cell in cells]


def _classes_column(table: Table, cells: list[str], known: Sequence[str]) -> tuple[Feature, list[Any]]:
    mark = _mark(cells)
    found = [_classes_in(cell, mark) for cell in cells]
    used: set[str] = set()
    for classes in found:
        used |= classes
    names = numbered(f"csv file {table.path}", _sorted(used), known)
    if not names:
        raise UserError(f"csv file {table.path} has no class in its column 'labels': add some")
    rows = []
    for classes in found:
        holds = [name in classes for name in names]
        rows.append(np.array(holds, np.int32))
    return Feature("classes", (len(names),), "int32", names), rows


def _classes_in(cell: str, mark: str | None) -> set[str]:
    classes = {part.strip() for part in cell.split(mark)}
    # At the ends of a cell, splitting leaves empty names, which are none.
    return classes - {""}


def _mark(cells: Sequence[str]) -> str | None:
    """What stands between the classes of a cell, for all cells; None: runs of spaces."""
    for mark in MARKS:
        if any(mark in cell for cell in cells):
            return mark
    return None


def _separated(table: Table) -> tuple[str, ...]:
    """The sentence that says where classes were separated; none if that is beyond doubt."""
    cells = [row["labels"].strip() for row in table.rows]
    mark = _mark(cells)
    if mark is None:
        for cell in cells:
            if len(cell.split()) > 1:
                told = f"'labels' are separated at spaces, as in '{cell}'"
                return (f"{told}: if names have spaces, separate by semicolons",)
        return ()
    told = f"'labels' are separated at '{mark}'"
    for cell in cells:
        for part in cell.split(mark):
            if _may_be_several(part):
                return (f"{told}, and '{part.strip()}' is one class",)
    return () if mark == MARKS[0] else (told,)


def _may_be_several(name: str) -> bool:
    """Whether a class's name holds what might have separated several."""
    return len(name.split()) > 1 or any(mark in name for mark in MARKS)


def _sorted(names: set[str]) -> tuple[str, ...]:
    """Names in the order of the alphabet; numbers in their own."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _image(table: Table, place: int) -> Path:
    cell = table.rows[place]["path"].strip()
    path = table.path.parent / Path(os.path.expanduser(cell))
    if not cell or not path.exists():
        raise UserError(
            f"line {table.lines[place]} of csv file {table.path} names the image '{cell}', which does not exist: "
            f"expected a path relative to {table.path.parent}"
        )
    return path


def _splits(table: Table) -> tuple[list[str], tuple[str, ...]]:
    """The split of each row, empty if none is stated, and which are called otherwise."""
    if "split" not in table.columns:
        return [""] * len(table.rows), ()
    cells = [row["split"].strip() for row in table.rows]
    if "" in cells:
        line = table.lines[cells.index("")]
        raise UserError(f"line {line} of csv file {table.path} has no split: write train or test there")
    names: dict[str, str] = {}
    remarks = []
    # From the end of the alphabet, small letters come before capital ones.
    for cell in sorted(set(cells), reverse=True):
        names[cell] = named_split(cell, list(names.values())) or cell
        if names[cell] != cell:
            remarks.append(f"split '{cell}' is read as '{names[cell]}'")
    return [names[cell] for cell in cells], tuple(remarks)
