"""Digits somewhere on a larger canvas, alone or among pieces of other digits."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from jaxrec.data.bouncing import enlarged
from jaxrec.data.features import Feature, blank
from jaxrec.data.reads import Reads, chosen_features
from jaxrec.data.splits import Source, rows_by_split
from jaxrec.errors import UserError

DIGITS = tuple("0123456789")
SEEDS = {"train": 0, "validation": 2, "test": 1}
PLACES = 10
"""Training examples of each digit, each at a place of its own."""
HELD_OUT = 12
"""One of so many training digits is for the validation split."""
SIDE = 28 / 60
"""Side of a digit, as a share of the canvas's side."""
LEAST = 7
"""Pixels a side from which a digit can be told."""
PIECE = 8 / 28
"""Side of a piece of another digit, as a share of that digit's side."""


class Ink(NamedTuple):
    """Digits to draw with."""

    image: np.ndarray
    """uint8 [N, h, h]."""
    label: np.ndarray
    """int [N], 0 to 9."""


def open_scattered(
    name: str, reads: Reads, size: int, pieces: int, counts: Mapping[str, int], ink: Callable[[str], Ink], identity: str
) -> Source:
    """Grey canvases of ``size`` pixels a side, on each of which is a digit to recognize, and a box around it.

    Every twelfth digit of the digits' training split is for the validation split; the others are at ten places each.
    Those of its test split are for the test split. Canvases are drawn whenever they are read.

    Args:
        name: What the set is called.
        reads: What to read.
        size: Pixels a side.
        pieces: Pieces of other digits of the same split on each canvas.
        counts: How many digits there are, ``train`` and ``test``.
        ink: Gives the digits of ``train`` or ``test``; called when examples are read first.
        identity: Names the digits.

    Raises UserError if the canvases are too small for digits that can be told.
    """
    everything = {
        "image": Feature("image", (size, size, 1), "uint8"),
        "label": Feature("class", (), "int32", DIGITS),
        "boxes": Feature("boxes", (1, 4), "float32"),
        "box_classes": Feature("box_classes", (1,), "int32", DIGITS),
    }
    chosen, features = chosen_features(name, reads, everything)
    side = round(SIDE * size)
    if side < LEAST:
        raise UserError(
            f"--image-size {size} leaves {name} digits of {side} pixels a side: give at least {LEAST / SIDE:.0f}"
        )
    rows = np.arange(counts["train"])
    held_out = rows % HELD_OUT == 0
    digits = {"train": rows[~held_out], "validation": rows[held_out], "test": np.arange(counts["test"])}
    sizes = {split: len(which) for split, which in digits.items()}
    sizes["train"] *= PLACES
    opened: dict[str, Ink] = {}

    def drawn_with(split: str) -> Ink:
        """The digits of a split at the size at which they are drawn."""
        if split not in opened:
            image, label = ink("test" if split == "test" else "train")
            opened[split] = Ink(enlarged(image[digits[split]], side), label[digits[split]])
        return opened[split]

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        found = blank(everything, len(rows))
        for split, places, numbers in rows_by_split(rows, sizes):
            drawn = draw(drawn_with(split), SEEDS[split], numbers, size, pieces)
            for key, values in drawn.items():
                found[key][places] = values
        return {each: found[key] for each, key in chosen.items()}

    return Source(read, sizes, features, identity=f"{name} 1 {size} {identity}")


def draw(ink: Ink, seed: int, index: np.ndarray, size: int = 60, pieces: int = 0) -> dict[str, np.ndarray]:
    """The examples with the given numbers, each a function of (seed, number) and of the digits alone.

    As in Mnih et al. 2014 (https://arxiv.org/abs/1406.6247): a digit lies at a uniform place inside a black canvas. On
    cluttered canvases square pieces of other digits are there first, cut and placed uniformly; the digit's light is
    added to theirs, at most white.

    Args:
        ink: What to draw with; example number i shows digit i modulo N.
        seed: Together with an example's number, the root of its randomness.
        index: int [n], the examples' numbers.
        size: Pixels a side.
        pieces: Pieces of other digits.

    Returns:
        ``image`` uint8 [n, size, size, 1]; ``label`` int32 [n]; ``boxes`` float32 [n, 1, 4], around the digit's square,
        and ``box_classes`` int32 [n, 1].
    """
    side = ink.image.shape[1]
    cut = round(PIECE * side)
    shares = np.empty((len(index), 2 + 5 * pieces))
    for place, number in enumerate(index.tolist()):
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
        shares[place] = rng.random(2 + 5 * pieces)
    corners = _whole(shares[:, :2], size - side + 1)
    of_pieces = shares[:, 2:].reshape(len(index), pieces, 5)
    others = _whole(of_pieces[..., 0], len(ink.image))
    cuts = _whole(of_pieces[..., 1:3], side - cut + 1)
    spots = _whole(of_pieces[..., 3:], size - cut + 1)
    canvases = np.zeros((len(index), size, size), np.uint8)
    shown = ink.image[index % len(ink.image)]
    for canvas, light, corner, *clutter in zip(canvases, shown, corners, others, cuts, spots, strict=True):
        for other, (top, left), (down, across) in zip(*clutter, strict=True):
            _add(canvas, ink.image[other, top : top + cut, left : left + cut], down, across)
        _add(canvas, light, *corner)
    label = ink.label[index % len(ink.label)].astype(np.int32)
    boxes = np.concatenate([corners, corners + side], axis=-1).astype(np.float32)
    return {"image": canvases[..., None], "label": label, "boxes": boxes[:, None], "box_classes": label[:, None]}


def _whole(shares: np.ndarray, count: int) -> np.ndarray:
    """Whole numbers from 0 to count - 1, each as often, from uniform ones in [0, 1)."""
    return (shares * count).astype(np.int64)


def _add(canvas: np.ndarray, light: np.ndarray, top: int, left: int) -> None:
    """Adds light uint8 [h, w] to a canvas at a corner, at most white."""
    window = canvas[top : top + light.shape[0], left : left + light.shape[1]]
    # The sum of two uint8 wraps around; the smaller of light and what is left to white does not.
    window += np.minimum(light, 255 - window)
