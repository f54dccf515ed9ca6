"""Measures that take more than a pass over the test split; a system names those that it wants in ``MEASURES``."""

from collections.abc import Callable
from typing import Any

from jaxrec.run.answers import judged_answers
from jaxrec.run.data import Data
from jaxrec.run.judge import judge
from jaxrec.run.reader import read_answers
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System

MEASURES: dict[str, Callable[[System, State, Data], dict[str, Any]]] = {
    "judge": judge,
    "judged_answers": judged_answers,
    "read_answers": read_answers,
}
"""Each takes the system, its final state and the data, and returns metrics by name."""


def measured(system: System, state: State, data: Data) -> dict[str, Any]:
    """All metrics of the measures that the system names."""
    found: dict[str, Any] = {}
    for name in system.measures:
        found |= MEASURES[name](system, state, data)
    return found
