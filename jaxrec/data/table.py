"""A table in a text file: columns with names, and rows of cells."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrec.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What may stand between the cells of a row."""
OWN = ("path", "label", "labels", "split")
"""Columns with a meaning of their own."""
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
"""What the column of paths may be called, in small or capital letters; ``path`` comes first."""


class Table(NamedTuple):
    """A table without its header."""

    path: Path
    columns: Sequence[str]
    rows: list[dict[str, str]]
    lines: list[int]
    """The line of the file on which each row ends."""
    remarks: tuple[str, ...] = ()
    """What a user should know of how it is read, a sentence each."""


def read_table(path: Path) -> Table:
    """The table in a file of the encoding UTF-8, whose cells are separated by what separates the names of its columns.

    Raises UserError if it cannot be read, has no column of paths or no rows, or if a row has more cells than columns.
    """
    try:
        # "utf-8-sig" also reads what spreadsheets write, with a mark at the start.
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            separator = max(SEPARATORS, key=header.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=separator)
            given = next(reader, [])
            found = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"csv file {path} cannot be read ({reason}): expected a table with a column 'path' and one for each thing "
            "to learn, such as 'label'"
        ) from error
    columns, remarks = _columns(path, given)
    if not found:
        raise UserError(f"csv file {path} has no rows: expected one for each image")
    if separator != ",":
        remarks = (f"cells of {path} are separated by {SEPARATORS[separator]}", *remarks)
    rows = []
    for line, cells in found:
        if any(cell.strip() for cell in cells[len(columns) :]):
            raise UserError(
                f"line {line} of csv file {path} has {len(cells)} cells, and there are {len(columns)} columns: "
                f"put quotes around a cell that holds '{separator}'"
            )
        filled = cells[: len(columns)] + [""] * (len(columns) - len(cells))
        rows.append({column: cell for column, cell in zip(columns, filled, strict=True) if column})
    return Table(path, columns, rows, [line for line, _ in found], remarks)


def _columns(path: Path, given: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The names of the columns, those with a meaning of their own as in ``OWN``, and which were called otherwise."""
    columns = [column.strip() for column in given]
    remarks = []
    for own in OWN:
        if own in columns:
            continue
        alike = [column for column in columns if column.lower() == own]
        if own == "path" and not alike:
            alike = [column for column in columns if column.lower() in PATHS]
        if len(alike) > 1:
            raise UserError(f"csv file {path} may mean {' or '.join(alike)} by '{own}': call one of them {own}")
        if alike:
            columns[columns.index(alike[0])] = own
            remarks.append(f"column '{alike[0]}' is read as '{own}'")
    if "path" not in columns:
        raise UserError(f"csv file {path} has no column 'path', only {', '.join(columns) or 'none'}: add it")
    twice = [column for column in columns if column and columns.count(column) > 1]
    if twice:
        raise UserError(f"csv file {path} has two columns called '{twice[0]}': rename or remove one of them")
    return columns, tuple(remarks)
