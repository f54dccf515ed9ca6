"""The page a person reads first: one self-contained report.html from what a run folder holds."""

import json
import shlex
from collections.abc import Iterable, Mapping
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from jaxrec.data.datasets import ARRAYS
from jaxrec.errors import UserError
from jaxrec.files import write_atomically
from jaxrec.run.show import trust
from jaxrec.run.show.curves import curves_of
from jaxrec.run.show.figures import COUNTS, class_names, class_tables, figures_table, members_table, span
from jaxrec.run.show.fonts import can_write
from jaxrec.run.show.gallery import gallery, mistakes
from jaxrec.run.show.log import read_metrics
from jaxrec.run.show.page import folded, is_number, page, table, text, words
from jaxrec.run.show.pictures import timeline
from jaxrec.run.store.folder import resume_command
from jaxrec.settings import from_dict
from jaxrec.settings.changes import changes, train_command

T = TypeVar("T")

NO_FACTS: dict[str, Any] = {
    "headline": [],
    "captions": {},
    "evolving": [],
    "score": None,
    "commands": ["evaluate"],
    "system": None,
    "meanings": {},
}
"""What the report says if the run's manifest tells nothing of its system."""


class Record:
    """What a run folder holds, whatever is there so far.

    Raises UserError if a file in it is damaged.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.config: dict[str, Any] = _read(run / "config.json", {})
        self.manifest: dict[str, Any] = _read(run / "manifest.json", {})
        self.results: dict[str, Any] = _read(run / "results.json", {})
        self.members: list[dict[str, Any]] = _read(run / "members.json", [])
        self.calibration: dict[str, Any] = _read(run / trust.CALIBRATION, {})
        self.weak_spots: dict[str, Any] = _read(run / trust.WEAK_SPOTS, {})
        self.facts: dict[str, Any] = {**NO_FACTS, **self.manifest.get("report", {})}

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The logged rows, those of rate and memory last; of many runs at once, of the one whose checkpoint is kept."""
        kept = self.results.get("checkpoint_of", 0)
        logged = read_metrics(self.run)
        rows = [row for row in logged if row.get("member", kept) == kept]
        return rows + read_metrics(self.run, clock=True)

    @property
    def searched(self) -> bool:
        """Whether the members differ in more than their seeds, so that their mean says little."""
        return bool(self.members) and bool(self.members[0]["values"])

    @property
    def best(self) -> dict[str, Any]:
        """The test metrics of the run, or of the best of its members."""
        if not self.searched:
            return self.results
        kept = [member["test"] for member in self.members if member["member"] == self.results.get("checkpoint_of")]
        return {**self.results, **(kept[0] or {})} if kept else self.results

    @property
    def headline(self) -> str | None:
        """The metric to lead with: the first of the system's that is there, else the first number."""
        numbers = [key for key, value in self.results.items() if is_number(value) and key not in COUNTS]
        for key in (*self.facts["headline"], *numbers):
            if key in numbers:
                return key
        return None

    def headline_text(self) -> str:
        """The value of that metric, with its deviation over seeds; of a search, the best member's."""
        key = self.headline
        if key is None:
            return ""
        return text(self.best[key]) if self.searched else span(self.results, key)

    @property
    def subject(self) -> str:
        """What was trained on what."""
        dataset, task = self.manifest.get("dataset", {}), self.config.get("task", {})
        name = dataset.get("name") or self.config.get("dataset") or "an unnamed dataset"
        return f"{task.get('model', 'A model')} on {name}"

    def command(self) -> str | None:
        """The command that trains this run, or the best of its members; None if its system is not there."""
        try:
            return train_command(from_dict(self.config))
        except UserError:
            return None


def _read(path: Path, nothing: T) -> T:
    """What a JSON file holds; ``nothing``, which is of the same type, if it is not there."""
    if not path.exists():
        return nothing
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is damaged ({error}); restore it, or remove it") from error
    if not isinstance(found, type(nothing)):
        raise UserError(f"'{path}' is damaged (it holds a {type(found).__name__}); restore it, or remove it")
    return found


def write_report(run: Path) -> Path:
    """Writes ``run/report.html`` from the files in the run folder, whatever is there so far, and returns its path.

    The page needs no other file and no network: pictures are embedded, large ones as smaller copies.

    Raises:
        UserError: there is no such folder.
    """
    if not run.is_dir():
        raise UserError(f"no run folder '{run}'")
    run = run.resolve()
    record = Record(run)
    for name in record.facts["evolving"]:
        timeline(run / "pictures", name)
    captions = {**record.facts["captions"], trust.RELIABILITY: trust.CAPTION}
    names = class_names(record.manifest)
    members = ""
    if record.members:
        members = f"<h2>Members</h2>\n{members_table(record.members, record.results, record.facts)}"
    body = [
        _header(record),
        f"<h2>Pictures</h2>\n{gallery(run / 'pictures', captions)}",
        mistakes(run / "pictures"),
        f"<h2>Training</h2>\n{curves_of(record.metrics, record.facts)}",
        f"<h2>Test results</h2>\n{figures_table(record.best, record.facts, names)}",
        class_tables(record.best, names),
        trust.calibration(record.calibration),
        trust.weak_spots(run, record.weak_spots),
        members,
        f"<h2>Settings that differ from the defaults</h2>\n{_changes(record)}",
        f"<h2>Use this run</h2>\n{_commands(record)}",
        f"<h2>Record</h2>\n{_names(record)}\n{_details('Settings', record.config)}",
        _details("Manifest", record.manifest),
    ]
    write_atomically(run / "report.html", page(f"{run.name} - jaxrec run", body))
    return run / "report.html"


def _header(record: Record) -> str:
    note = _progress(record)
    tiles = ""
    for name, value in _tiles(record).items():
        if value:
            tiles += f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
    lines = [
        f'<header>\n<p class="note">jaxrec run</p>\n<h1>{escape(record.run.name)}</h1>',
        f'<p class="verdict">{escape(_verdict(record))}</p>',
        f'<p class="note">{escape(note)}</p>' if note else "",
        f'<dl class="facts">{tiles}</dl>' if tiles else "",
        "</header>",
    ]
    return "\n".join(lines)


def _verdict(record: Record) -> str:
    """What was trained, and how good it is."""
    main, results = record.headline, record.best
    if not main:
        return f"{record.subject}."
    examples = ""
    if "examples" in results:
        examples = f" on {text(results['examples'])} {results.get('split', 'test')} examples"
    best = f", the best of {len(record.members)} members" if record.searched else ""
    return f"{record.subject}: {words(main)} {record.headline_text()}{examples}{best}."


def _tiles(record: Record) -> dict[str, str | None]:
    """A few facts by name; None if one is not known."""
    results, manifest = record.best, record.manifest
    dataset, seconds = manifest.get("dataset", {}), manifest.get("seconds", {})
    return {
        words(record.headline or ""): record.headline_text(),
        "members": text(results["members"]) if "members" in results else None,
        "parameters": text(manifest["parameters"]) if "parameters" in manifest else None,
        "training examples": text(dataset["train"]) if "train" in dataset else None,
        "time": _duration(seconds.get("total", sum(seconds.values()))) if seconds else None,
        "device": _devices(manifest.get("devices", [])),
    }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _devices(devices: list) -> str:
    names = [str(device) for device in devices]
    counted = []
    for name in dict.fromkeys(names):
        count = names.count(name)
        counted.append(f"{count} x {name}" if count > 1 else name)
    return ", ".join(counted)


def _progress(record: Record) -> str:
    """A sentence on how far the run came, if it did not reach its planned end."""
    steps = [row["step"] for row in (*record.metrics, record.results) if is_number(row.get("step"))]
    last, planned = max(steps, default=0), record.config.get("steps")
    if not steps:
        return "Nothing has been logged yet."
    if not record.results:
        reached = f"{last:,} of {planned:,}" if planned else f"{last:,}"
        return f"No final metrics: the run has not finished, or was interrupted; last logged step {reached}."
    short = planned and planned - last >= record.config.get("log_every", 1)
    return f"Stopped early, after step {last:,} of {planned:,}." if short else ""


def _changes(record: Record) -> str:
    try:
        found = changes(from_dict(record.config))
    except UserError:
        return '<p class="note">Unknown: the system of the run was not there when this page was written.</p>'
    rows = [(change.option.name, change.option.value, change.default, change.option.help) for change in found]
    return table(("option", "value", "default", "what it is"), rows)


def _commands(record: Record) -> str:
    """What to type to use this run, where it was trained from."""
    config, facts, run = record.config, record.facts, record.run
    runs = config.get("runs", run.parent.name)
    place = shlex.quote(str(Path(runs) / run.name))
    arguments = {"predict": f"{place} IMAGE.png", "explain": f"{place} IMAGE.png"}
    system = "" if facts["system"] is None else f" --system {shlex.quote(facts['system'])}"
    lines = [f"jaxrec {command} {arguments.get(command, place)}{system}" for command in facts["commands"]]
    if not record.members and config.get("dataset") != ARRAYS:
        lines.append(resume_command(run.name, runs, facts["system"]))
    shown = escape("\n".join(lines))
    blocks = f"<pre>{shown}</pre>"
    again = record.command() if config.get("dataset") != ARRAYS else None
    if again is not None:
        which = "the best member" if record.members else "it"
        blocks += f'\n<p class="note">To train {which} again:</p>\n<pre>{escape(again)}</pre>'
    return blocks


def _names(record: Record) -> str:
    """The names of classes by number, if a picture has to show numbers in their place."""
    names = class_names(record.manifest)
    if all(map(can_write, names)):
        return ""
    rows = list(enumerate(names))
    note = '<p class="note">Pictures show the number of a class if no font here has the letters of its name.</p>'
    return note + table(("number", "class"), rows)


def _flat(tree: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted name, value) of every leaf; a list without dicts is one leaf."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            yield from _flat(value, name)
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        for index, item in enumerate(tree):
            yield from _flat(item, f"{prefix}.{index}")
    else:
        yield prefix, tree


def _details(title: str, tree: dict) -> str:
    if not tree:
        return f'<p class="note">{title}: none written.</p>'
    rows = []
    for key, value in _flat(tree):
        # As stored, not rounded: this is the record.
        stored = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append((key, stored))
    return folded(title, table(("name", "value"), rows))
