"""The charts of a run: what matters first, the rest folded, no curve twice."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxrec.run.show.charts import chart
from jaxrec.run.show.page import folded, is_number, words

NOT_DRAWN = ("step", "epoch", "time", "seconds", "wall_time", "member")
"""Numbers in a row of metrics.jsonl that are no metric."""
OPEN = ("return", "reward", "lr", "examples_per_second")
"""What is drawn openly besides the loss and the system's own score. An agent's loss does not tell what it gains."""
DIRECTIONS = {"more": "higher is better", "less": "lower is better"}

Series = dict[str, dict[int, float]]
"""Values by step, by split."""


def series_of(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """The curves in the rows of metrics.jsonl, by metric. Of a step that was logged twice, the later row holds."""
    found: dict[str, Series] = {}
    for row in metrics:
        for key, value in row.items():
            if key not in NOT_DRAWN and is_number(value) and is_number(row.get("step")):
                found.setdefault(key, {}).setdefault(str(row.get("split", "train")), {})[row["step"]] = value
    return found


def curves_of(metrics: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Charts of all metrics: loss, the system's score and headline, learning rate and rate; the others folded."""
    found = series_of(metrics)
    meanings = facts["meanings"]
    for key in [key for key in found if meanings.get(key, {}).get("kind") == "class"]:
        del found[key]
    if not found:
        return '<p class="note">No metrics have been logged.</p>'
    score = (facts["score"] or {}).get("name")
    leading = [key for key in facts["headline"] if key in found][:1]
    rates = sorted(key for key in found if key.endswith("_lr"))  # of a system with several players
    first = [key for key in dict.fromkeys(("loss", score, *leading, *OPEN, *rates)) if key in found]
    rest = sorted(key for key in found if key not in first)
    figures = {}
    for keys in _without_twins([*first, *rest], found):
        figures[keys[0]] = _figure(keys, found[keys[0]], meanings)
    shown = [figures[key] for key in first if key in figures] or list(figures.values())
    others = [figure for figure in figures.values() if figure not in shown]
    charts = columns(shown)
    if others:
        count = f"{len(others)} more curves" if len(others) > 1 else "1 more curve"
        charts += folded(count, columns(others))
    return charts


def columns(figures: Iterable[str]) -> str:
    """Figures beside each other."""
    return "\n".join(['<div class="columns">', *figures, "</div>"])


def _without_twins(keys: Sequence[str], found: Mapping[str, Series]) -> list[list[str]]:
    """The metrics in order, each with those that have the same values at every step."""
    groups: list[list[str]] = []
    for key in keys:
        twins = [group for group in groups if found[group[0]] == found[key]]
        if twins:
            twins[0].append(key)
        else:
            groups.append([key])
    return groups


def _figure(keys: Sequence[str], series: Series, meanings: Mapping[str, Any]) -> str:
    note = DIRECTIONS.get(meanings.get(keys[0], {}).get("better", ""), "")
    if len(keys) > 1:
        note += f"{'; ' if note else ''}the same: {', '.join(map(words, keys[1:]))}"
    return chart(words(keys[0]), note, {split: list(points.items()) for split, points in series.items()})
