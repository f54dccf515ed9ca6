"""Lists of files that a run's folder keeps: which example is in which split, and what was left out of the data."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.walk import LeftOut
from jaxrec.errors import UserError
from jaxrec.files import write_atomically

LEFT_OUT = "skipped.csv"
EXAMPLES = "examples.csv"


class Listed(NamedTuple):
    """An example as ``examples.csv`` lists it."""

    path: str
    """From the folder of the set."""
    split: str
    """As the set has it."""
    used_as: str
    """``train``, ``validation`` or ``test``; empty if it is not used."""
    label: str
    """Its class; empty if it has none."""
    digest: str
    """Tells the file's content apart."""


def write_examples(folder: Path, examples: Iterable[Listed]) -> None:
    """Writes ``examples.csv``, a row for each example of the data set."""
    write_table(folder / EXAMPLES, ("path", "split", "used_as", "class", "digest"), examples)


def read_examples(folder: Path) -> list[Listed]:
    """The rows of ``examples.csv``; none if there is no such file. Raises UserError if it is damaged."""
    path = folder / EXAMPLES
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return [Listed(*row) for row in list(csv.reader(file))[1:]]
    except (OSError, csv.Error, TypeError) as error:
        raise UserError(f"'{path}' is damaged ({error}); restore it, or remove it") from error


def write_left_out(folder: Path, left_out: Sequence[LeftOut]) -> None:
    """Writes ``skipped.csv``, a row for each file that was left out; removes a former one if there is none."""
    path = folder / LEFT_OUT
    if left_out:
        write_table(path, ("path", "reason"), ((each.path, each.reason) for each in left_out))
    else:
        path.unlink(missing_ok=True)


def table_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a table can show of a row: single numbers and words, but no lists and no numbers by class."""
    return {name: value for name, value in row.items() if not isinstance(value, list | dict | np.ndarray)}


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file whole; names that are not UTF-8 are written as the bytes that they are."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))
