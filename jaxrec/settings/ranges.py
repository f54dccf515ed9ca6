"""Which numbers an option may have, stated beside its field, and the check of a whole configuration."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any

from jaxrec.errors import UserError
from jaxrec.settings.options import options

MOST = 2**53
"""The largest whole number that a float can tell from its neighbors."""


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``; an open end is not among them.

    It is written beside a field's type, and holds for every number of the field::

        dropout: Annotated[float, Range(0, 1, open_end=True)] = 0.0
    """

    low: float
    high: float = math.inf
    open_start: bool = False
    """Excludes ``low``."""
    open_end: bool = False
    """Excludes ``high``."""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_start else value >= self.low
        below = value < self.high if self.open_end else value <= self.high
        return above and below

    def __str__(self) -> str:
        if not self.open_start and not self.open_end and self.high < math.inf:
            return f"{self.low} to {self.high}"
        start = f"above {self.low}" if self.open_start else f"{self.low} or more"
        if self.high == math.inf:
            return start
        end = "less than" if self.open_end else "at most"
        return f"{start} and {end} {self.high}"


ANY = Range(-math.inf)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, open_start=True)
AT_LEAST_ONE = Range(1)
SHARE = Range(0, 1)
SHARE_BELOW_ONE = Range(0, 1, open_end=True)
FACTOR = Range(0, 1, open_start=True)
SEED = Range(0, 2**32 - 1)
"""A larger seed would count as its remainder: 2**32 as 0."""


def check_numbers(config: Any) -> None:
    """Raises UserError for a number outside the ``Range`` of its field.

    Args:
      config: a dataclass, whose own fields and those of the dataclasses in it are checked. A field without a
        ``Range`` may have any finite number.
    """
    for option in options(config):
        allowed = next((note for note in option.notes if isinstance(note, Range)), ANY)
        for value in _numbers(option.value):
            _check(option.name, value, allowed)


def _numbers(value: Any) -> Iterator[float]:
    """The numbers that an option holds: itself, or those in its tuple; also those of records in a tuple."""
    if isinstance(value, tuple):
        for each in value:
            yield from _numbers(each)
    elif is_dataclass(value):
        check_numbers(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _check(name: str, value: float, allowed: Range) -> None:
    if isinstance(value, int) and abs(value) > MOST:
        raise UserError(f"{name} {value} is out of range; expected at most 2**53")
    if not math.isfinite(value):
        raise UserError(f"{name} {value} is not a finite number; expected {_expected(allowed)}")
    if value not in allowed:
        raise UserError(f"{name} {value} is out of range; expected {allowed}")


def _expected(allowed: Range) -> str:
    return "a number" if allowed == ANY else str(allowed)
