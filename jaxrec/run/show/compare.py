"""Runs side by side: settings that differ, metrics, and curves laid over each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jaxrec.files import write_atomically
from jaxrec.run.show.charts import chart
from jaxrec.run.show.curves import DIRECTIONS, OPEN, columns, series_of
from jaxrec.run.show.figures import BETTER, COUNTS
from jaxrec.run.show.page import folded, is_number, marked_table, page, table, text, words
from jaxrec.run.show.report import Record
from jaxrec.settings import from_dict
from jaxrec.settings.changes import APART
from jaxrec.settings.options import options

Rows = list[list[str]]


@dataclass(frozen=True)
class Comparison:
    """Some runs side by side; each row of a table begins with a name and goes on with a cell for each run."""

    records: Sequence[Record]
    names: list[str]
    settings: Rows
    """The settings that differ."""
    figures: Rows
    """Test metrics, the headline's first."""
    best: list[int | None]
    """For each row of metrics, the run with the best value; None if neither direction is better or all are equal."""
    remarks: list[str]
    """Why metrics cannot be compared, if they cannot."""


def compare(runs: Sequence[Path]) -> Comparison:
    """Compares runs by what their folders hold; raises UserError if the system of one is not there."""
    records = [Record(run) for run in runs]
    names = [record.run.name for record in records]
    if len(set(names)) < len(names):
        names = [str(record.run) for record in records]
    figures, best = _figures(records)
    return Comparison(records, names, _settings(records), figures, best, _remarks(records))


def _settings(records: Sequence[Record]) -> Rows:
    every: list[dict[str, Any]] = []
    for record in records:
        found = {option.name: option.value for option in options(from_dict(record.config)) if not option.hidden}
        every.append({name: value for name, value in found.items() if name not in APART or name == "--model"})
    rows = []
    for name in dict.fromkeys(name for each in every for name in each):
        values = [each.get(name) for each in every]
        if any(value != values[0] for value in values):
            rows.append([name, *("" if value is None else text(value) for value in values)])
    return rows


def _figures(records: Sequence[Record]) -> tuple[Rows, list[int | None]]:
    leading = [record.headline for record in records if record.headline]
    every = [key for record in records for key, value in record.best.items() if is_number(value)]
    rows, best = [], []
    for key in dict.fromkeys((*leading, *every)):
        meaning = _meanings(records).get(key, {})
        if key in COUNTS or key.endswith("_std") or meaning.get("kind") == "class":
            continue
        values = [record.best.get(key) for record in records]
        better = meaning.get("better", "")
        rows.append([f"{words(key)} {BETTER.get(better, '')}".strip(), *map(_cell, values)])
        best.append(_best(values, better))
    return rows, best


def _cell(value: Any) -> str:
    return text(value) if is_number(value) else ""


def _best(values: Sequence[Any], better: str) -> int | None:
    known = {place: value for place, value in enumerate(values) if is_number(value)}
    if better not in BETTER or len(set(known.values())) < 2:
        return None
    choose = max if better == "more" else min
    return choose(known, key=lambda place: known[place])


def _meanings(records: Sequence[Record]) -> Mapping[str, Any]:
    return {name: each for record in records for name, each in record.facts["meanings"].items()}


def _remarks(records: Sequence[Record]) -> list[str]:
    remarks = []
    sets = {record.manifest.get("dataset", {}).get("fingerprint") for record in records}
    tested = {(record.results.get("split"), record.results.get("examples")) for record in records if record.results}
    if len(sets) > 1 or len(tested) > 1:
        remarks.append("The runs were tested on different examples: their metrics cannot be compared.")
    unfinished = [record.run.name for record in records if not record.results]
    if unfinished:
        remarks.append(f"Without test metrics, because they have not finished: {', '.join(unfinished)}.")
    return remarks


def write_comparison(found: Comparison, path: Path) -> None:
    """Writes a page that loads nothing: settings that differ, metrics, curves, and the command of each run."""
    body = [
        f'<header><p class="note">jaxrec compare</p><h1>{escape(", ".join(found.names))}</h1></header>',
        *(f'<p class="note">{escape(remark)}</p>' for remark in found.remarks),
        "<h2>Figures on the test split</h2>",
        _figures_html(found),
        "<h2>Settings that differ</h2>",
        table(("option", *found.names), found.settings) if found.settings else '<p class="note">None.</p>',
        f"<h2>Curves</h2>\n{_curves(found)}",
        "<h2>Commands</h2>",
        *(f'<p class="note">{escape(name)}</p><pre>{escape(command)}</pre>' for name, command in commands(found)),
    ]
    write_atomically(path, page(f"{', '.join(found.names)} - jaxrec compare", body))


def commands(found: Comparison) -> list[tuple[str, str]]:
    """Each run's name and the command that trains it; of a search, the best member's."""
    told = []
    for name, record in zip(found.names, found.records, strict=True):
        told.append((f"{name}, its best member" if record.searched else name, record.command() or ""))
    return told


def _figures_html(found: Comparison) -> str:
    rows = []
    for row, best in zip(found.figures, found.best, strict=True):
        cells = [escape(cell) for cell in row]
        if best is not None:
            cells[1 + best] = f"<strong>{cells[1 + best]}</strong>"
        rows.append(cells)
    return marked_table(("metric", *found.names), rows) if rows else '<p class="note">None.</p>'


def _curves(found: Comparison) -> str:
    meanings = _meanings(found.records)
    every = [series_of(record.metrics) for record in found.records]
    leading = ["loss", *OPEN]
    for record in found.records:
        leading += [name for name in ((record.facts["score"] or {}).get("name"), record.headline) if name]
    shown, others = [], []
    for key in sorted({key for series in every for key in series}):
        meaning = meanings.get(key, {})
        if meaning.get("kind") == "class":
            continue
        note = DIRECTIONS.get(meaning.get("better", ""), "")
        for split in sorted({split for series in every for split in series.get(key, {})}, reverse=True):
            history = {}
            for name, series in zip(found.names, every, strict=True):
                history[name] = list(series.get(key, {}).get(split, {}).items())
            (shown if key in leading else others).append(chart(f"{words(key)}, {split}", note, history))
    if not shown and not others:
        return '<p class="note">No metrics have been logged.</p>'
    page = columns(shown)
    return page + folded(f"{len(others)} more curves", columns(others)) if others else page
