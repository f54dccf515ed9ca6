"""Which values of images of 16 bits or floats are black and white, found from a whole training set."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.data.images import deep_values, open_image
from jaxrec.errors import UserError

BITS = (8, 10, 12, 14, 16)
"""What cameras and scanners deliver; their files have 8 or 16."""


class Extent(NamedTuple):
    """The values of one image."""

    low: float
    high: float
    floats: bool


class Levels(NamedTuple):
    """The values that are black and white in a set."""

    values: tuple[float, ...] = ()
    """As in ``Feature.levels``: empty if the files use their whole range."""
    remarks: tuple[str, ...] = ()
    """What a user should know of it."""


def extent(path: str | Path) -> Extent:
    """The smallest and largest finite value in a file; raises UserError if it cannot be decoded."""
    with open_image(path) as image:
        floats = image.mode == "F"
        values = deep_values(image)[..., :3]  # without the opacity
        finite = values[np.isfinite(values)] if floats else values
        if not finite.size:
            raise UserError("no value is a finite number")
        return Extent(float(finite.min()), float(finite.max()), floats)


def find_levels(extents: Sequence[Extent]) -> Levels:
    """Black and white of a set whose training images have these values, all of them floats or none.

    ==========================  ===================================================================
    values                      black and white
    ==========================  ===================================================================
    whole numbers from 0        0 and the largest number of 8, 10, 12, 14 or 16 bits that holds all
    floats from 0 to 1          0 and 1
    others                      the smallest and the largest one, or 0 if the smallest is above it
    ==========================  ===================================================================
    """
    if not extents:
        return Levels()
    low, high = min(each.low for each in extents), max(each.high for each in extents)
    floats = extents[0].floats
    if floats and low >= 0 and high <= 1:
        return Levels((0.0, 1.0))
    if not floats and low >= 0 and high < 2 ** BITS[-1]:
        return _whole_numbers(int(high))
    black = min(low, 0.0)
    remark = f"images have values from {low:g} to {high:g}: {black:g} is black and {high:g} white"
    return Levels((black, high), (remark,))


def _whole_numbers(high: int) -> Levels:
    """Levels of images of 16 bits whose largest value is ``high``."""
    bits = next(each for each in BITS if high < 2**each)
    if bits == BITS[-1]:
        return Levels()
    white = 2**bits - 1
    remark = f"images of 16 bits use {bits} of them, for the largest value is {high}: {white} is white"
    return Levels((0.0, float(white)), (remark,))
