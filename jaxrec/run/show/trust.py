"""What the report says of how far a run's answers can be trusted, from the files that ``evaluate`` leaves."""

import csv
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from jaxrec.run.show.page import folded, table, text

CALIBRATION, WEAK_SPOTS = "calibration.json", "weak_spots.json"
LABEL_ERRORS, NEAR_DUPLICATES = "label_errors.csv", "near_duplicates.csv"
RELIABILITY = "reliability.png"
CAPTION = (
    "Reliability: how often predictions of a confidence are right, before and after temperature scaling. On the "
    "straight line both are equal; the numbers are the mean distances from it."
)
"""Of the picture ``reliability.png``."""
LISTED = 20
"""Rows of a list on the page."""
SLICES = 5
"""Slices that are shown openly."""


def calibration(found: Mapping[str, Any]) -> str:
    """The temperature, and calibration before and after; empty if none was fitted."""
    if not found:
        return ""
    note = (
        f"Temperature {text(found['temperature'])}, fitted on {text(found['validation'])} validation examples and "
        f"measured on {text(found['test'])} test examples."
    )
    measures = ("calibration_error", "negative_log_likelihood")
    rows = [(name.replace("_", " "), found["before"][name], found["after"][name]) for name in measures]
    return f'<h2>Calibration</h2>\n<p class="note">{escape(note)}</p>\n{table(("", "before", "after"), rows)}'


def weak_spots(run: Path, found: Mapping[str, Any]) -> str:
    """The worst class and slices, and the lists of probable label errors and near-duplicates; empty without them."""
    if not found:
        return ""
    worst = (
        f"The least accurate class is {found['class']}: {text(found['class_accuracy'])}, against "
        f"{text(found['accuracy'])} on all {text(found['examples'])} test examples."
    )
    head = ("slice by", "from", "to", "examples", "accuracy")
    rows = [tuple(each.values()) for each in found["slices"]]
    parts = [f'<h2>Weak spots</h2>\n<p class="note">{escape(worst)}</p>', table(head, rows[:SLICES])]
    if rows[SLICES:]:
        parts.append(folded(f"The other {len(rows) - SLICES} slices", table(head, rows[SLICES:])))
    parts.append(_listed(run / LABEL_ERRORS, "probable label errors"))
    parts.append(_listed(run / NEAR_DUPLICATES, "near-duplicates of test images"))
    return "\n".join(parts)


def _listed(path: Path, what: str) -> str:
    """The first rows of a list, folded; that there are none if it is empty."""
    if not path.is_file():
        return ""
    head, *rows = list(csv.reader(path.read_text("utf-8", errors="replace").splitlines())) or [[]]
    if not rows:
        return f'<p class="note">No {what} were found.</p>'
    link = f'<p class="note"><a href="{path.name}">{path.name}</a> holds all of them.</p>'
    return folded(f"{len(rows)} {what}", link + table(head, rows[:LISTED]))
