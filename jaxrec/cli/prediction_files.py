"""The files predictions.csv and predictions.jsonl, and lists of a system's own, written some rows at a time."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from jaxrec.errors import UserError
from jaxrec.files import open_atomically
from jaxrec.run.store.folder import plain_value
from jaxrec.run.store.listing import table_cells

Row = dict[str, Any]
NO_LISTS: Mapping[str, Sequence[Any]] = {}


class Write(Protocol):
    """Adds rows, and records to lists by name."""

    def __call__(self, rows: Sequence[Row], lists: Mapping[str, Sequence[Any]] = ...) -> None:
        """Adds them."""


@contextmanager
def open_predictions(out: Path) -> Iterator[Write]:
    """Gives a function that adds rows to both files, which appear in the folder ``out`` at the end of the block.

    All rows have the same names. The function also takes records by the name of a list; each list becomes the file
    NAME.json. Raises OSError if the files cannot be written.
    """
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with _open_all(out) as write:
            yield write
    except BaseException:
        if made:
            with suppress(OSError):  # It is not empty.
                out.rmdir()
        raise


@contextmanager
def _open_all(out: Path) -> Iterator[Write]:
    columns: list[str] = []
    others: dict[str, Any] = {}
    with ExitStack() as stack:
        lines = stack.enter_context(open_atomically(out / "predictions.jsonl"))
        table = stack.enter_context(open_atomically(out / "predictions.csv"))

        def write(rows: Sequence[Row], lists: Mapping[str, Sequence[Any]] = NO_LISTS) -> None:
            lines.writelines(json.dumps(row, default=plain_value).encode() + b"\n" for row in rows)
            spread = [_spread(row) for row in rows]
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, columns or spread[0], extrasaction="ignore")
            if not columns:
                columns.extend(spread[0])
                writer.writeheader()
            writer.writerows(spread)
            # File names need not be UTF-8; written so, they are the bytes that they were.
            table.write(text.getvalue().encode("utf-8", "surrogateescape"))
            for name, records in lists.items():
                if name not in others:
                    others[name] = stack.enter_context(open_atomically(out / f"{name}.json"))
                    others[name].write(b"[")
                _add(others[name], records)

        yield write
        for file in others.values():
            file.write(b"\n]\n")


def _add(file: Any, records: Sequence[Any]) -> None:
    """Adds records to a JSON list of which only the bracket, or only records, have been written."""
    for record in records:
        separator = b"\n" if file.tell() == 1 else b",\n"
        file.write(separator + json.dumps(record).encode())


def unwritable(out: Path, error: OSError) -> UserError:
    """The error of a folder that predictions cannot be written to."""
    return UserError(f"'{out}' cannot be written ({error.strerror}); choose another folder with --out")


def _spread(row: Row) -> Row:
    """A row of the CSV: numbers by class become a column a class; lists are in the JSON lines alone."""
    spread = table_cells(row)
    for name, value in row.items():
        if isinstance(value, dict):
            for key, each in value.items():
                column = key if key not in row else f"{name} {key}"
                spread[column] = each
    return spread
