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
        if not is_number(row.get("step")):
            continue
        split = str(row.get("split", "train"))
        for key, value in row.items():
            if key not in NOT_DRAWN and is_number(value):
                series = found.setdefault(key, {})
                series.setdefault(split, {})[row["step"]] = value
    return found


def curves_of(metrics: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Charts of all metrics: loss, the system's score and headline, learning rate and rate; the others folded."""
    meanings = facts["meanings"]
    found = {}
    for key, series in series_of(metrics).items():
        if meanings.get(key, {}).get("kind") != "class":
            found[key] = series
    if not found:
        return '<p class="note">No metrics have been logged.</p>'
    first = _first(found, facts)
    rest = sorted(key for key in found if key not in first)
    shown, others = [], []
    for keys in _without_twins([*first, *rest], found):
        figure = _figure(keys, found[keys[0]], meanings)
        if keys[0] in first:
            shown.append(figure)
        else:
            others.append(figure)
    return with_others(shown, others)


def _first(found: Mapping[str, Series], facts: Mapping[str, Any]) -> list[str]:
    """The metrics that are drawn openly, in order."""
    score = (facts["score"] or {}).get("name", "")
    headline = [key for key in facts["headline"] if key in found]
    rates = sorted(key for key in found if key.endswith("_lr"))  # of a system with several players
    wanted = dict.fromkeys(("loss", score, *headline[:1], *OPEN, *rates))
    return [key for key in wanted if key in found]


def with_others(shown: Sequence[str], others: Sequence[str]) -> str:
    """Figures beside each other, and behind a line to click on the others; all in the open if none are shown."""
    if not shown or not others:
        return columns([*shown, *others])
    count = f"{len(others)} more curves" if len(others) > 1 else "1 more curve"
    return columns(shown) + folded(count, columns(others))


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
    twins = [words(key) for key in keys[1:]]
    if twins:
        same = f"the same: {', '.join(twins)}"
        note = f"{note}; {same}" if note else same
    history = {split: list(points.items()) for split, points in series.items()}
    return chart(words(keys[0]), note, history)
