"""Lists of files that a run's folder keeps: what was left out of the data, and why."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxrec.data.walk import LeftOut
from jaxrec.files import write_atomically

LEFT_OUT = "skipped.csv"


def write_left_out(folder: Path, left_out: Sequence[LeftOut]) -> None:
    """Writes ``skipped.csv``, a row for each file that was left out; removes a former one if there is none."""
    path = folder / LEFT_OUT
    if left_out:
        write_table(path, ("path", "reason"), ((each.path, each.reason) for each in left_out))
    else:
        path.unlink(missing_ok=True)


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file whole; names that are not UTF-8 are written as the bytes that they are."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))
