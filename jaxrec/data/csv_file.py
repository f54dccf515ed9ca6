"""A CSV file that names images and what belongs to them."""

import csv
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.features import Feature
from jaxrec.data.files import File, Options, arrange, check_trained, known_names, numbered, open_files, to_source
from jaxrec.data.reads import Reads, alternatives, choose
from jaxrec.data.splits import Source
from jaxrec.errors import UserError


class Table(NamedTuple):
    """A CSV file's rows, without the header."""

    path: Path
    columns: Sequence[str]
    rows: list[dict[str, str]]
    lines: list[int]
    """The line of the file on which each row ends."""


def open_csv(name: str, reads: Reads, options: Options) -> Source:
    """The images that a CSV file names, one a row, with a header.

    Columns: ``path``, relative to the file; ``label``, the image's class, or ``labels``, any number of classes
    separated by semicolons or spaces (kind ``classes``); other columns that hold numbers (kind ``number``), read by
    their name; and ``split``, without which the set is cut 80/20 into train and test.

    Raises UserError naming what is amiss.
    """
    table = _read(Path(os.path.expanduser(name)))
    there = _kinds(table, [each for each, kinds in reads.items() if "number" in alternatives(kinds)])
    chosen = choose(f"csv:{table.path}", reads, there)
    features: dict[str, Feature] = {}
    values: list[dict[str, Any]] = [{} for _ in table.rows]
    for each, column in chosen.items():
        if there[column] == "image":
            continue
        features[each], found = _column(table, column, there[column], known_names(options.known, each))
        for row, value in zip(values, found, strict=True):
            row[each] = value
    files = []
    for place, row in enumerate(table.rows):
        files.append(File(_image(table, place), _split(table, place), values[place], columns=row))
    (image,) = [each for each in chosen if there[chosen[each]] == "image"]
    opened = open_files(files, image, features, options)
    root = table.path.parent
    where = f"csv file {table.path}"
    labels = [each for each, feature in features.items() if feature.kind == "class"]
    if labels:
        if options.known is None:
            check_trained(where, opened.files, labels[0], features[labels[0]].names)
        arranged = arrange(root, opened.files, options.known, labels[0], features[labels[0]].names)
    else:
        arranged = arrange(root, opened.files, options.known, None)
    also = repr([{each: np.asarray(value).tolist() for each, value in file.values.items()} for file in opened.files])
    return to_source(root, opened, arranged, also=also)


def _read(path: Path) -> Table:
    try:
        # "utf-8-sig" also reads what spreadsheets write, with a mark at the start.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows, lines = [], []
            for row in reader:
                rows.append({column: value or "" for column, value in row.items() if isinstance(column, str)})
                lines.append(reader.line_num)
            columns = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"csv file {path} cannot be read ({reason}): expected a table with a column 'path' and one for each thing "
            "to learn, such as 'label'"
        ) from error
    if "path" not in columns:
        raise UserError(f"csv file {path} has no column 'path', only {', '.join(columns) or 'none'}: add it")
    if not rows:
        raise UserError(f"csv file {path} has no rows: expected one for each image")
    return Table(path, columns, rows, lines)


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
    # Split at runs of semicolons and spaces; at the ends of a cell that leaves empty names, which are none.
    lists = [set(re.split(r"[;\s]+", cell)) - {""} for cell in cells]
    names = numbered(f"csv file {table.path}", _sorted(set().union(*lists)), known)
    if not names:
        raise UserError(f"csv file {table.path} has no class in its column 'labels': add some")
    rows = [np.array([name in found for name in names], np.int32) for found in lists]
    return Feature("classes", (len(names),), "int32", names), rows


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


def _split(table: Table, place: int) -> str:
    if "split" not in table.columns:
        return ""
    split = table.rows[place]["split"].strip()
    if not split:
        raise UserError(f"line {table.lines[place]} of csv file {table.path} has no split: write train or test there")
    return split
