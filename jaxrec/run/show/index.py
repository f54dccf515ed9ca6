"""The page of a folder of runs: each run with its headline, newest first."""

import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

from jaxrec.files import write_atomically
from jaxrec.run.show.page import marked_table, page, text, words
from jaxrec.run.show.report import Record


def write_index(runs: Path) -> Path:
    """Writes ``runs/index.html``, which lists the runs in the folder, and returns its path."""
    runs = runs.resolve()
    rows = list(_rows(runs))
    head = ("run", "model and data", "figure", "steps", "last written")
    count = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    body = [f'<header><p class="note">jaxrec runs</p><h1>{escape(runs.name)}</h1>']
    body += [f'<p class="verdict">{count}, the newest first.</p></header>', marked_table(head, rows)]
    body += ['<p class="note">To lay runs over each other:</p><pre>jaxrec compare RUN RUN ...</pre>']
    write_atomically(runs / "index.html", page(f"{runs.name} - jaxrec runs", body))
    return runs / "index.html"


def _rows(runs: Path) -> Iterator[list[str]]:
    found = [path.parent for path in runs.glob("*/config.json") if not path.parent.name.startswith(".")]
    for run in sorted(found, key=_written, reverse=True):
        link = f'<a href="{escape(quote(run.name, errors="surrogateescape"))}/report.html">{escape(run.name)}</a>'
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(_written(run)))
        try:
            yield [link, *map(escape, _told(Record(run))), when]
        except Exception as error:  # What is missing in a damaged file shows as any kind of error.
            yield [link, f"cannot be read ({escape(type(error).__name__)})", "", "", when]


def _told(record: Record) -> tuple[str, str, str]:
    """Model and data, the headline, and the steps made."""
    key = record.headline
    figure = "not finished" if key is None else f"{words(key)} {record.headline_text()}"
    steps = record.results.get("step") or record.config.get("steps")
    return record.subject, figure, text(steps) if steps else ""


def _written(run: Path) -> float:
    """When the run's metrics, or else its settings, were written last."""
    for name in ("results.json", "metrics.jsonl", "config.json"):
        if (run / name).exists():
            return (run / name).stat().st_mtime
    return 0.0
