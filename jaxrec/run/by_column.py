"""The metrics of the parts of a split that a column of its table tells apart."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxrec.errors import UserError
from jaxrec.run.data import Data
from jaxrec.run.evaluation import FEW, Evaluator, batch_size, plain
from jaxrec.tasks.state import State

MOST_VALUES = 200
"""Most different cells of a column by which examples are told apart."""


def cells_of(data: Data, column: str) -> np.ndarray:
    """The cell in a column of the table of each test example, str [N].

    Raises UserError if there is no such column, or its cells are of too many values to be evaluated one by one.
    """
    columns = data.dataset.columns
    if column not in columns:
        known = f"has only {', '.join(columns)}" if columns else "has no columns: only csv: sets have"
        raise UserError(f"--slice {column} is no column of dataset '{data.dataset.name}', which {known}")
    cells = np.array(columns[column])[data.dataset.splits["test"].rows]
    count = len(set(cells.tolist()))
    if count > MOST_VALUES:
        raise UserError(
            f"--slice {column} has {count} different cells: expected at most {MOST_VALUES}; add a column of groups"
        )
    return cells


def in_order(cells: Iterable[str]) -> list[str]:
    """Cells in the order of the alphabet; if all but the empty one are numbers, in the order of these."""
    found = sorted(cells)
    try:
        return sorted(found, key=lambda cell: float(cell or "-inf"))
    except ValueError:
        return found


def metrics_by(evaluator: Evaluator, state: State, data: Data, cells: np.ndarray) -> dict[str, dict[str, Any]]:
    """By each value of ``cells`` str [N], in order: the number of ``examples``, then the system's headline metrics."""
    # One size for all parts, so that they share a program.
    size = batch_size(FEW, data.test)
    found = {}
    for value in in_order(set(cells.tolist())):
        part = data.test.subset(np.flatnonzero(cells == value))
        metrics = plain(evaluator(state, part, size=size))
        headline = {name: metrics[name] for name in evaluator.system.headline or metrics if name in metrics}
        found[value] = {"examples": len(part), **headline}
    return found
