"""The page a person reads first: one self-contained report.html from what a run folder holds."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jaxrec.data.datasets import ARRAYS
from jaxrec.errors import UserError
from jaxrec.files import write_atomically
from jaxrec.run.show.charts import curves
from jaxrec.run.show.gallery import gallery
from jaxrec.run.show.log import read_metrics
from jaxrec.run.show.pictures import timeline
from jaxrec.run.store.folder import resume_command

MOST_CLASSES = 20
"""Classes in a table."""
NOT_DRAWN = ("step", "epoch", "time", "seconds", "member")
"""What a row of metrics.jsonl holds that is no metric."""
NO_FACTS: dict[str, Any] = {
    "headline": [],
    "captions": {},
    "evolving": [],
    "score": None,
    "commands": ["evaluate"],
    "system": None,
}
"""What the report says if the run's manifest tells nothing of its system."""
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2126; --soft: #5d6570; --line: #dde1e6; --tint: #f4f6f8;
  --accent: #2b7de0; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e8eb; --soft: #9aa3ad; --line: #30363d;
  --tint: #1d2227; --accent: #62a3f0; } img { filter: brightness(.9); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
.verdict { font-size: 1.15rem; margin: .5rem 0 0; overflow-wrap: anywhere; }
.note, figcaption { color: var(--soft); font-size: .9rem; }
.note { margin: .35rem 0 0; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 0; }
.facts div { background: var(--tint); border-radius: 8px; padding: .6rem .9rem; min-width: 8rem; }
.facts dt { color: var(--soft); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem;
  grid-auto-flow: dense; align-items: start; }
figure { margin: 0; min-width: 0; }
figure.full { grid-column: 1 / -1; }
figure svg { display: block; width: 100%; max-width: 34rem; height: auto; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
figcaption { margin-top: .4rem; overflow-wrap: anywhere; }
.chart figcaption { color: var(--ink); font-weight: 600; margin: 0 0 .3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93rem; width: 100%; }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 500; }
td { font-variant-numeric: tabular-nums; }
meter { width: 100%; min-width: 5rem; }
pre { background: var(--tint); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto; font-size: .88rem;
  margin: 0; }
details { margin-top: 1rem; }
summary { cursor: pointer; font-weight: 600; }
details .wide { margin-top: .5rem; }
"""


def write_report(run: Path) -> Path:
    """Writes ``run/report.html`` from the files in the run folder, whatever is there so far, and returns its path.

    The page needs no other file and no network: pictures are embedded, large ones as smaller copies.

    Raises:
        UserError: there is no such folder.
    """
    if not run.is_dir():
        raise UserError(f"no run folder '{run}'")
    run = run.resolve()
    config, manifest, results = (_read(run / f"{name}.json") for name in ("config", "manifest", "results"))
    members = _read(run / "members.json")
    # Of many runs at once, the curves are of the one whose checkpoint is kept.
    kept = results.get("checkpoint_of", 0)
    metrics = [row for row in read_metrics(run) if row.get("member", kept) == kept]
    facts = {**NO_FACTS, **manifest.get("report", {})}
    for name in facts["evolving"]:
        timeline(run / "pictures", name)
    page = "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
            f"<title>{escape(run.name)} - jaxrec run</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            _header(run, config, manifest, results, metrics, facts),
            f"<h2>Test results</h2>\n{_results(results, manifest)}",
            f"<h2>Members</h2>\n{_members(members, results, facts)}" if members else "",
            f"<h2>Training</h2>\n{_charts(metrics)}",
            f"<h2>Pictures</h2>\n{gallery(run / 'pictures', facts['captions'])}",
            f"<h2>Use this run</h2>\n<pre>{escape(_commands(run, config, facts, bool(members)))}</pre>",
            f"<h2>Record</h2>\n{_details('Settings', config)}\n{_details('Manifest', manifest)}",
            "</main>\n</body>\n</html>\n",
        ]
    )
    write_atomically(run / "report.html", page.encode())
    return run / "report.html"


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _flat(tree: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted name, value) of every leaf; a list without dicts is one leaf."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        for index, item in enumerate(tree):
            yield from _flat(item, f"{prefix}.{index}")
    else:
        yield prefix, tree


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    """A value as a person writes it: whole numbers in full, others to 4 significant digits."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 or not math.isfinite(value) else f"{value:,.0f}"
    if _is_number(value):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None else str(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(_text(each))}</td>' for each in row)}</tr>\n" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def _header(run: Path, config: dict, manifest: dict, results: dict, metrics: list[dict], facts: dict[str, Any]) -> str:
    dataset, task = manifest.get("dataset", {}), config.get("task", {})
    name = dataset.get("name") or config.get("dataset", "an unnamed dataset")
    subject = f"{task.get('model', 'A model')} on {name}"
    counts = ("examples", "step", "members", "checkpoint_of")
    numbers = [key for key, value in results.items() if _is_number(value) and key not in counts]
    main = next((key for key in (*facts["headline"], *numbers) if key in numbers), None)
    examples = (
        f" on {_text(results['examples'])} {results.get('split', 'test')} examples" if "examples" in results else ""
    )
    verdict = f"{subject}: {_words(main)} {_span(results, main)}{examples}." if main else f"{subject}."
    seconds = manifest.get("seconds", {})
    facts = {
        _words(main or ""): _span(results, main) if main else None,
        "members": _text(results["members"]) if "members" in results else None,
        "parameters": _text(manifest["parameters"]) if "parameters" in manifest else None,
        "training examples": _text(dataset["train"]) if "train" in dataset else None,
        "time": _duration(seconds.get("total", sum(seconds.values()))) if seconds else None,
        "device": _devices(manifest.get("devices", [])),
    }
    shown = [f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items() if v]
    note = _progress(config, results, metrics)
    return "\n".join(
        [
            f'<header>\n<p class="note">jaxrec run</p>\n<h1>{escape(run.name)}</h1>',
            f'<p class="verdict">{escape(verdict)}</p>',
            f'<p class="note">{escape(note)}</p>' if note else "",
            f'<dl class="facts">{"".join(shown)}</dl>' if shown else "",
            "</header>",
        ]
    )


def _span(results: dict, key: str) -> str:
    """A metric of the results, with its deviation over the members if many runs were trained at once."""
    deviation = results.get(f"{key}_std")
    return _text(results[key]) + (f" ± {deviation:.2g}" if _is_number(deviation) else "")


def _words(key: str) -> str:
    return key.replace("_", " ")


def _devices(devices: list) -> str:
    names = [str(device) for device in devices]
    return ", ".join(
        f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )


def _progress(config: dict, results: dict, metrics: list[dict]) -> str:
    """A sentence on how far the run came, if it did not reach its planned end."""
    steps = [row["step"] for row in (*metrics, results) if _is_number(row.get("step"))]
    last, planned = max(steps, default=0), config.get("steps")
    if not steps:
        return "Nothing has been logged yet."
    short = planned and planned - last >= config.get("log_every", 1)
    if not results:
        return f"No final metrics: the run has not finished, or was interrupted; last logged step {last:,}" + (
            f" of {planned:,}." if planned else "."
        )
    return f"Stopped early, after step {last:,} of {planned:,}." if short else ""


def _results(results: dict, manifest: dict) -> str:
    deviations = {f"{key}_std" for key in results}
    scalars = [
        (_words(key), _span(results, key) if key in results else value)
        for key, value in _flat(results)
        if not isinstance(value, list) and key not in deviations
    ]
    if not scalars:
        return '<p class="note">No test metrics yet: they are computed once, when the run ends.</p>'
    tables = [_table(("metric", "value"), scalars)]
    names = manifest.get("dataset", {}).get("class_names") or []
    for key, values in results.items():
        if isinstance(values, list) and len(values) == len(names) and all(_is_number(v) or v is None for v in values):
            tables.append(_by_class(_words(key), names, values))
    return '<div class="columns">\n' + "\n".join(tables) + "\n</div>"


def _by_class(metric: str, names: Sequence[str], values: Sequence[float | None]) -> str:
    """A metric of each class, the worst first; at most 20 classes."""
    known = [(str(name), value) for name, value in zip(names, values, strict=True) if value is not None]
    known.sort(key=lambda pair: pair[1])
    rows = []
    for name, value in known[:MOST_CLASSES]:
        meter = f'<meter value="{value:.4f}"></meter>'
        rows.append(f"<tr><td>{escape(name)}</td><td>{value:.4f}</td><td>{meter}</td></tr>")
    head = "class" if len(known) <= MOST_CLASSES else f"class (the {MOST_CLASSES} worst of {len(known)})"
    return (
        f'<div class="wide"><table>\n<thead><tr><th>{head}, worst first</th><th>{escape(metric)}</th><th></th></tr>'
        "</thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table></div>"
    )


def _charts(metrics: list[dict]) -> str:
    # A resumed run logs again what came after its checkpoint: the later value of a step holds.
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in metrics:
        for key, value in row.items():
            if key not in NOT_DRAWN and _is_number(value) and _is_number(row.get("step")):
                found.setdefault(key, {}).setdefault(str(row.get("split", "train")), {})[row["step"]] = value
    if not found:
        return '<p class="note">No metrics have been logged.</p>'
    order = sorted(found, key=lambda key: (key != "loss", "loss" not in key, "validation" not in found[key]))
    figures = [
        f'<figure class="chart"><figcaption>{escape(_words(key))}</figcaption>'
        f"{curves({split: list(points.items()) for split, points in found[key].items()})}</figure>"
        for key in order
    ]
    return "\n".join(['<div class="columns">', *figures, "</div>"])


def _members(members: list[dict], results: dict, facts: dict[str, Any]) -> str:
    """A table of many runs trained at once: what is each one's own, and how it ended."""
    own = list(members[0]["values"])
    tested = list(dict.fromkeys(key for key in (*facts["headline"], *results) if f"{key}_std" in results))[:3]
    score = (facts["score"] or {}).get("name", "score")
    head = ("member", "seed", *own, f"validation {_words(score)}", *map(_words, tested), "")
    rows = []
    for each in members:
        notes = (
            f"not finite at step {each['failed']}" if each["failed"] is not None else "",
            f"dropped after step {each['dropped']}" if each["dropped"] is not None else "",
            "checkpoint" if each["member"] == results.get("checkpoint_of") else "",
        )
        test = each["test"] or {}
        scores = (each["validation"], *(test.get(key) for key in tested))
        cells = (each["member"], each["seed"], *each["values"].values(), *scores)
        texts = ["" if cell is None else _text(cell) for cell in cells]
        rows.append([*texts, ", ".join(note for note in notes if note)])
    return _table(head, rows)


def _commands(run: Path, config: dict, facts: dict[str, Any], population: bool) -> str:
    """What to type to use this run, where it was trained from."""
    runs = config.get("runs", run.parent.name)
    folder = shlex.quote(str(Path(runs) / run.name))
    arguments = {"predict": f"{folder} IMAGE.png"}
    system = "" if facts["system"] is None else f" --system {shlex.quote(facts['system'])}"
    lines = [f"jaxrec {command} {arguments.get(command, folder)}{system}" for command in facts["commands"]]
    if not population and config.get("dataset") != ARRAYS:
        lines.append(resume_command(run.name, runs, facts["system"]))
    return "\n".join(lines)


def _details(title: str, tree: dict) -> str:
    if not tree:
        return f'<p class="note">{title}: none written.</p>'
    # As stored, not rounded: this is the record.
    rows = [(key, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for key, v in _flat(tree)]
    return f"<details><summary>{title}</summary>\n{_table(('name', 'value'), rows)}</details>"
