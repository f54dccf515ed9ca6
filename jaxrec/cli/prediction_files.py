"""The files predictions.csv and predictions.jsonl, written some rows at a time."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxrec.errors import UserError
from jaxrec.files import open_atomically
from jaxrec.run.store.folder import plain_value
from jaxrec.run.store.listing import table_cells

Row = dict[str, Any]


@contextmanager
def open_predictions(out: Path) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Gives a function that adds rows to both files, which appear in the folder ``out`` at the end of the block.

    All rows have the same names. Raises OSError if the files cannot be written.
    """
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with _open_both(out) as write:
            yield write
    except BaseException:
        if made:
            with suppress(OSError):  # It is not empty.
                out.rmdir()
        raise


@contextmanager
def _open_both(out: Path) -> Iterator[Callable[[Sequence[Row]], None]]:
    columns: list[str] = []
    with open_atomically(out / "predictions.jsonl") as lines, open_atomically(out / "predictions.csv") as table:

        def write(rows: Sequence[Row]) -> None:
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

        yield write


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
