"""Runs side by side: settings that differ, metrics, and curves laid over each other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jaxrec.files import write_atomically
from jaxrec.run.show.charts import chart
from jaxrec.run.show.curves import DIRECTIONS, OPEN, Series, series_of, with_others
from jaxrec.run.show.figures import BETTER, COUNTS
from jaxrec.run.show.page import is_number, marked_table, page, table, text, words
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
    every = [_values(record) for record in records]
    rows = []
    for name in _keys(every):
        values = [each.get(name) for each in every]
        if any(value != values[0] for value in values):
            # A system without the option has an empty cell.
            cells = ["" if value is None else text(value) for value in values]
            rows.append([name, *cells])
    return rows


def _values(record: Record) -> dict[str, Any]:
    """The value of each option that makes a run what it is."""
    values = {}
    for option in options(from_dict(record.config)):
        # Of several runs, the model may be what differs.
        compared = option.name not in APART or option.name == "--model"
        if compared and not option.hidden:
            values[option.name] = option.value
    return values


def _keys(every: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all mappings, each once, in the order in which they first come."""
    keys: dict[str, None] = {}
    for each in every:
        keys.update(dict.fromkeys(each))
    return list(keys)


def _figures(records: Sequence[Record]) -> tuple[Rows, list[int | None]]:
    meanings = _meanings(records)
    rows, best = [], []
    for key in _metrics(records):
        meaning = meanings.get(key, {})
        if key in COUNTS or key.endswith("_std") or meaning.get("kind") == "class":
            continue
        better = meaning.get("better", "")
        name = f"{words(key)} {BETTER.get(better, '')}".strip()
        values = [record.best.get(key) for record in records]
        cells = [text(value) if is_number(value) else "" for value in values]
        rows.append([name, *cells])
        best.append(_best(values, better))
    return rows, best


def _metrics(records: Sequence[Record]) -> list[str]:
    """The names of all numbers that were tested, those of headlines first."""
    leading = [record.headline for record in records if record.headline]
    others: list[str] = []
    for record in records:
        others += [key for key, value in record.best.items() if is_number(value)]
    return list(dict.fromkeys(leading + others))


def _best(values: Sequence[Any], better: str) -> int | None:
    known = {place: value for place, value in enumerate(values) if is_number(value)}
    if better not in BETTER or len(set(known.values())) < 2:
        return None
    choose = max if better == "more" else min
    return choose(known, key=lambda place: known[place])


def _meanings(records: Sequence[Record]) -> Mapping[str, Any]:
    meanings: dict[str, Any] = {}
    for record in records:
        meanings.update(record.facts["meanings"])
    return meanings


def _remarks(records: Sequence[Record]) -> list[str]:
    remarks = []
    sets, tested = set(), set()
    for record in records:
        sets.add(record.manifest.get("dataset", {}).get("fingerprint"))
        if record.results:
            tested.add((record.results.get("split"), record.results.get("examples")))
    if len(sets) > 1 or len(tested) > 1:
        remarks.append("The runs were tested on different examples: their metrics cannot be compared.")
    unfinished = [record.run.name for record in records if not record.results]
    if unfinished:
        remarks.append(f"Without test metrics, because they have not finished: {', '.join(unfinished)}.")
    return remarks


def write_comparison(found: Comparison, path: Path) -> None:
    """Writes a page that loads nothing: settings that differ, metrics, curves, and the command of each run."""
    names = ", ".join(found.names)
    body = [f'<header><p class="note">jaxrec compare</p><h1>{escape(names)}</h1></header>']
    for remark in found.remarks:
        body.append(f'<p class="note">{escape(remark)}</p>')
    body += ["<h2>Figures on the test split</h2>", _figures_html(found)]
    body += ["<h2>Settings that differ</h2>", _settings_html(found)]
    body.append(f"<h2>Curves</h2>\n{_curves(found)}")
    body.append("<h2>Commands</h2>")
    for name, command in commands(found):
        body.append(f'<p class="note">{escape(name)}</p><pre>{escape(command)}</pre>')
    write_atomically(path, page(f"{names} - jaxrec compare", body))


def commands(found: Comparison) -> list[tuple[str, str]]:
    """Each run's name and the command that trains it; of a search, the best member's."""
    told = []
    for name, record in zip(found.names, found.records, strict=True):
        whose = f"{name}, its best member" if record.searched else name
        told.append((whose, record.command() or ""))
    return told


def _figures_html(found: Comparison) -> str:
    if not found.figures:
        return '<p class="note">None.</p>'
    rows = []
    for row, best in zip(found.figures, found.best, strict=True):
        cells = [escape(cell) for cell in row]
        if best is not None:
            cells[1 + best] = f"<strong>{cells[1 + best]}</strong>"
        rows.append(cells)
    return marked_table(("metric", *found.names), rows)


def _settings_html(found: Comparison) -> str:
    if not found.settings:
        return '<p class="note">None.</p>'
    return table(("option", *found.names), found.settings)


def _curves(found: Comparison) -> str:
    """Charts of all metrics: losses, the systems' scores, headlines and rates; the others folded."""
    meanings = _meanings(found.records)
    every = [series_of(record.metrics) for record in found.records]
    leading = _leading(found.records)
    shown, others = [], []
    for key in sorted(_keys(every)):
        meaning = meanings.get(key, {})
        if meaning.get("kind") == "class":
            continue
        note = DIRECTIONS.get(meaning.get("better", ""), "")
        curves = [series.get(key, {}) for series in every]
        charts = _charts(key, note, found.names, curves)
        if key in leading:
            shown += charts
        else:
            others += charts
    if not shown and not others:
        return '<p class="note">No metrics have been logged.</p>'
    return with_others(shown, others)


def _leading(records: Sequence[Record]) -> list[str | None]:
    """The metrics whose curves are shown openly, if they are there."""
    leading: list[str | None] = ["loss", *OPEN]
    for record in records:
        score = record.facts["score"] or {}
        leading += [score.get("name"), record.headline]
    return leading


def _charts(key: str, note: str, names: Sequence[str], every: Sequence[Series]) -> list[str]:
    """For each split, a chart of a metric with a curve for each run."""
    charts = []
    # From the end of the alphabet, validation comes before train.
    for split in sorted(_keys(every), reverse=True):
        history = {}
        for name, series in zip(names, every, strict=True):
            points = series.get(split, {})
            history[name] = list(points.items())
        charts.append(chart(f"{words(key)}, {split}", note, history))
    return charts
