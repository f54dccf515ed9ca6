"""Tables of test results: each figure with what it means, of each class, and of each member of many runs."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jaxrec.run.show.page import folded, is_number, marked_table, table, text, words

MOST_CLASSES = 20
"""Classes that are shown openly."""
BETTER = {"more": "↑", "less": "↓"}
COUNTS = ("split", "examples", "step", "members", "checkpoint_of")
"""What results hold that is no metric."""
SIDES = 3
"""Test metrics in the table of members."""


def class_names(manifest: Mapping[str, Any]) -> list[str]:
    """The names of the classes of a run's data, as its manifest records them."""
    return [str(name) for name in manifest.get("dataset", {}).get("class_names") or []]


def span(results: Mapping[str, Any], key: str) -> str:
    """A metric of the results, with its deviation over the members if many runs were trained at once."""
    deviation = results.get(f"{key}_std")
    return text(results[key]) + (f" ± {deviation:.2g}" if is_number(deviation) else "")


def named_class(key: str, value: Any, facts: Mapping[str, Any], names: Sequence[str]) -> str:
    """The name of the class whose number a metric's value is; empty if the metric says something else."""
    is_class = facts["meanings"].get(key, {}).get("kind") == "class"
    if is_class and is_number(value) and value < len(names):
        return names[int(value)]
    return ""


def scores(metrics: Mapping[str, Any], facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """The single numbers among metrics, as text for the screen; the number of a class as its name.

    ``facts`` are what the report knows of the system, ``names`` those of the classes.
    """
    found = {}
    for name, value in metrics.items():
        if is_number(value):
            found[name] = named_class(name, value, facts, names) or f"{value:.5g}"
    return found


def figures_table(results: Mapping[str, Any], facts: Mapping[str, Any], names: Sequence[str]) -> str:
    """The results that are single values, the headline's first; each with its meaning and the direction of better."""
    deviations = {f"{key}_std" for key in results}
    apart = deviations | set(COUNTS)
    single = [key for key, value in results.items() if not isinstance(value, (list, dict)) and key not in apart]
    if not single:
        return '<p class="note">No test metrics yet: they are computed once, when the run ends.</p>'
    leading = [key for key in facts["headline"] if key in single]
    rows = []
    for key in dict.fromkeys((*leading, *single)):
        meaning = facts["meanings"].get(key, {})
        value = named_class(key, results[key], facts, names) or span(results, key)
        better = BETTER.get(meaning.get("better", ""), "")
        rows.append((words(key), value, better, meaning.get("text", "")))
    return table(("metric", "value", "better", "what it says"), rows)


def class_tables(results: Mapping[str, Any], names: Sequence[str]) -> str:
    """What the results say of each class, a column a metric, the worst class first; more than 20 are folded."""
    columns: dict[str, list[Any]] = {}
    for key, values in results.items():
        # The same figures under two names are shown once.
        if _of_classes(values, names) and values not in columns.values():
            columns[key] = values
    if not names or not columns:
        return ""
    first, leading = next(iter(columns.items()))

    def place(number: int) -> tuple[bool, float]:
        value = leading[number]
        return value is None, value or 0

    rows = []
    for number in sorted(range(len(names)), key=place):
        rows.append(_row(names[number], [values[number] for values in columns.values()]))
    head = ("class", *map(words, columns), "")
    title = f"<h2>Classes, by {escape(words(first))}</h2>\n"
    if len(rows) <= MOST_CLASSES:
        return title + marked_table(head, rows)
    others = marked_table(head, rows[MOST_CLASSES:])
    worst = marked_table(head, rows[:MOST_CLASSES])
    return title + worst + folded(f"The other {len(rows) - MOST_CLASSES} classes", others)


def _of_classes(values: Any, names: Sequence[str]) -> bool:
    """Whether these are a number, or nothing, for each class."""
    if not isinstance(values, list) or len(values) != len(names):
        return False
    return all(is_number(each) or each is None for each in values)


def _row(name: str, values: Sequence[Any]) -> list[str]:
    shown = ["undefined" if value is None else text(value) for value in values]
    share = values[0]
    meter = f'<meter value="{share:.4f}"></meter>' if share is not None and 0 <= share <= 1 else ""
    return [escape(name), *map(escape, shown), meter]


def members_table(members: Sequence[Mapping[str, Any]], results: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Many runs trained at once, the best first: what is each one's own, and how it ended."""
    own = list(members[0]["values"])
    every = dict.fromkeys((*facts["headline"], *results))
    tested = [key for key in every if f"{key}_std" in results][:SIDES]
    score = facts["score"] or {"name": "score", "lower": True}
    head = ("member", "seed", *own, f"validation {words(score['name'])}", *map(words, tested), "")

    def place(member: Mapping[str, Any]) -> tuple[bool, float]:
        value = member["validation"]
        if value is None:
            return True, 0.0
        return False, value if score["lower"] else -value

    rows = []
    for each in sorted(members, key=place):
        test = each["test"] or {}
        scores = [each["validation"], *map(test.get, tested)]
        cells = (each["member"], each["seed"], *each["values"].values(), *scores)
        texts = ["" if cell is None else text(cell) for cell in cells]
        notes = _notes(each, results.get("checkpoint_of"))
        rows.append([*texts, ", ".join(notes)])
    return table(head, rows)


def _notes(member: Mapping[str, Any], kept: int | None) -> list[str]:
    """What became of a member, where the checkpoint is that of the member ``kept``."""
    notes = []
    if member["failed"] is not None:
        notes.append(f"not finite at step {member['failed']}")
    if member["dropped"] is not None:
        notes.append(f"dropped after step {member['dropped']}")
    if member["member"] == kept:
        notes.append("checkpoint")
    return notes
