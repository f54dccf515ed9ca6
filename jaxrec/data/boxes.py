"""Boxes of examples: which are sound, how they move with a resized image, and how they are filled up to one number."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.data.features import NO_BOX
from jaxrec.data.sizes import Resizing, Size

BEYOND = 1.0
"""Pixels by which a box may reach over the image's border, as rounding makes it; it is cut there."""
SEEN = 0.25
"""Share of a box's area that has to be left when its image is cropped."""
NO_AREA = "without area"
OUTSIDE = "outside the image"
NO_CLASS = "of no class"
CROWD = "around a crowd"
DIFFICULT = "marked difficult"
COPY = "stated twice"
CUT_OFF = "cut off by --resize crop"


class Objects(NamedTuple):
    """The objects in one image, in pixels of the image at its own size, upright."""

    boxes: np.ndarray
    """float32 [n, 4]: y0, x0, y1, x1."""
    classes: np.ndarray
    """int32 [n]."""


def faults(boxes: np.ndarray, size: Size) -> np.ndarray:
    """What is wrong with each of the boxes [n, 4] of an image of a height and width: str [n], empty if nothing is."""
    height, width = size
    limits = np.array([height, width, height, width], np.float64)
    beyond = ~((boxes >= -BEYOND) & (boxes <= limits + BEYOND)).all(axis=1)  # also true for NaN
    inside = boxes.clip(0, limits)
    empty = (inside[:, 2] <= inside[:, 0]) | (inside[:, 3] <= inside[:, 1])
    return np.where(beyond, OUTSIDE, np.where(empty, NO_AREA, ""))


def resized(objects: Objects, resizing: Resizing, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of a resized image, float32 [most, 4], and their classes, int32 [most]; without those ``cut_off``."""
    boxes, classes = np.zeros((most, 4), np.float32), np.full(most, NO_BOX, np.int32)
    count = len(objects.boxes)
    boxes[:count] = resizing.move_boxes(objects.boxes)
    classes[:count] = np.where(cut_off(objects.boxes, resizing), NO_BOX, objects.classes)
    return packed(boxes, classes)


def cut_off(boxes: np.ndarray, resizing: Resizing) -> np.ndarray:
    """Which boxes [n, 4] are left with less than a quarter of their area when the image is cropped: bool [n]."""
    left, top, right, bottom = resizing.part
    seen = boxes.clip((top, left, top, left), (bottom, right, bottom, right))
    return _area(seen) < SEEN * _area(boxes)


def _area(boxes: np.ndarray) -> np.ndarray:
    """Square pixels of boxes [n, 4]."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def turned(boxes: np.ndarray, orientation: int, size: Size) -> np.ndarray:
    """Boxes [n, 4] of an image of a height and width, as it is stored, in the image upright.

    ``orientation`` is EXIF's, of an image that lies on its side, 5 to 8, or 1.
    """
    if orientation < 5:
        return boxes
    height, width = size
    top, left, bottom, right = boxes.T
    # Columns become rows, in their order or from the last one on; and rows become columns.
    rows = (left, right) if orientation in (5, 6) else (width - right, width - left)
    columns = (top, bottom) if orientation in (5, 8) else (height - bottom, height - top)
    return np.stack([rows[0], columns[0], rows[1], columns[1]], axis=1)


def around(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boxes around shapes, bool [..., H, W]: float32 [..., 4], zeros if a shape is empty; and whether it is not."""
    rows, columns = np.any(shapes, axis=-1, keepdims=True)[..., 0], np.any(shapes, axis=-2, keepdims=True)[..., 0, :]
    top, bottom = _ends(rows)
    left, right = _ends(columns)
    seen = np.any(rows, axis=-1, keepdims=True)
    boxes = np.stack([top, left, bottom, right], axis=-1)
    return np.where(seen, boxes, 0).astype(np.float32), seen[..., 0]


def _ends(there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each line of bool [..., n] begins to be True, and where it has ceased for good."""
    return there.argmax(axis=-1), there.shape[-1] - there[..., ::-1].argmax(axis=-1)


def packed(boxes: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [..., N, 4] and classes [..., N] with the rows that hold a box first, in their order, and zeros after."""
    order = np.argsort(classes == NO_BOX, axis=-1, kind="stable")
    classes = np.take_along_axis(classes, order, axis=-1)
    boxes = np.take_along_axis(boxes, order[..., None], axis=-2)
    return np.where(classes[..., None] == NO_BOX, 0, boxes).astype(np.float32), classes.astype(np.int32)


def told_cut_off(objects: Sequence[Objects], resizings: Sequence[Resizing]) -> tuple[str, ...]:
    """The sentence that says how many boxes of images are cut off as each is resized; none if none is."""
    cut = sum(int(cut_off(one.boxes, each).sum()) for one, each in zip(objects, resizings, strict=True))
    return told({CUT_OFF: cut}, sum(len(one.boxes) for one in objects))


def told(found: Mapping[str, int], total: int) -> tuple[str, ...]:
    """The sentence that says how many of all boxes are left out, by what is wrong with them; none if none is."""
    count = sum(found.values())
    if not count:
        return ()
    kinds = ", ".join(f"{number} {kind}" for kind, number in found.items() if number)
    return (f"{count:,} of {total:,} boxes {'is' if count == 1 else 'are'} left out: {kinds}",)
