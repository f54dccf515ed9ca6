"""Scenes of handwritten digits: real strokes, scattered on canvases as a function of (seed, index)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxrec.data.boxes import around, packed
from jaxrec.data.features import NO_BOX, Feature
from jaxrec.data.reads import Reads, chosen_features
from jaxrec.data.splits import Source, from_arrays

DIGITS = tuple("0123456789")
CLASSES = ("background", *DIGITS)
SIZES = {"train": 2000, "test": 400}
SEEDS = {"train": 0, "test": 1}
LEAST, MOST = 3, 6
"""Digits in a scene."""
CELLS = 3
"""Cells along a side of the grid that digits are put in, at most one in each."""
MARGIN = 0.07
"""Share of a side that the grid leaves free at each border."""
INK = 0.35
"""Share of full ink from which a pixel belongs to its digit."""
AT_ONCE = 100
"""Scenes drawn at once; more would not fit a processor's cache."""


class Strokes(NamedTuple):
    """Digits to draw with."""

    ink: np.ndarray
    """float32 [N, 8, 8] in [0, 1]."""
    label: np.ndarray
    """int [N], 0 to 9."""


def open_scenes(reads: Reads, size: int) -> Source:
    """2000 training and 400 test scenes of ``size`` pixels a side, grey, each with a mask and boxes of its digits.

    The digits of training scenes are those of the digits' training split, and of test scenes those of its test split.
    """
    from jaxrec.data.digits import open_digits

    features = {
        "image": Feature("image", (size, size, 1), "uint8"),
        "mask": Feature("mask", (size, size), "uint8", CLASSES),
        "boxes": Feature("boxes", (MOST, 4), "float32"),
        "box_classes": Feature("box_classes", (MOST,), "int32", DIGITS),
    }
    chosen, features = chosen_features("scenes", reads, features)
    digits = open_digits({"image": "image", "label": "class"})
    parts: list[dict[str, np.ndarray]] = []
    first = 0
    for split, count in SIZES.items():
        rows = np.arange(first, first + digits.sizes[split])
        first += len(rows)
        parts.append(draw(strokes(digits.read(rows)), SEEDS[split], np.arange(count), size))
    drawn = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    read = from_arrays({name: drawn[key] for name, key in chosen.items()})
    return Source(read, SIZES, features, identity=f"scenes 1 {size}")


def strokes(digits: dict[str, np.ndarray]) -> Strokes:
    """What to draw with, from examples of the digits."""
    return Strokes(digits["image"][..., 0].astype(np.float32) / 255, digits["label"])


def draw(digits: Strokes, seed: int, index: np.ndarray, size: int = 64) -> dict[str, np.ndarray]:
    """The scenes with the given numbers, each a function of (seed, number) and of the digits alone.

    Three to six digits are enlarged 1.5 to 3 times at 64 pixels a side and put anywhere, though not on top of each
    other. Where they touch, the brighter stroke is seen. The ground is smooth, with noise.

    Args:
        digits: What to draw with.
        seed: Together with a scene's number, the root of its randomness.
        index: int [n], the scenes' numbers.
        size: Pixels a side.

    Returns:
        ``image`` uint8 [n, size, size, 1]; ``mask`` uint8 [n, size, size]: 0 is background, 1 + d the digit d;
        ``boxes`` float32 [n, 6, 4], around the pixels of each digit that are seen, and ``box_classes`` int32 [n, 6].
    """
    pieces = [index[start : start + AT_ONCE] for start in range(0, len(index), AT_ONCE)]
    drawn = [_draw(digits, seed, piece, size) for piece in pieces]
    return {key: np.concatenate([part[key] for part in drawn]) for key in drawn[0]}


def _draw(digits: Strokes, seed: int, index: np.ndarray, size: int) -> dict[str, np.ndarray]:
    rows, count, scale, center, ground, light, noise = map(
        np.stack, zip(*_plans(digits, seed, index, size), strict=True)
    )
    # A digit enlarged and put in its place is a product of two small matrices with its pixels.
    down = _spread(size, 8, scale, center[..., 0])
    across = _spread(size, 8, scale, center[..., 1])
    ink = down @ digits.ink[rows] @ across.swapaxes(-1, -2)
    strongest = np.zeros((len(index), size, size), np.float32)
    mask = np.zeros((len(index), size, size), np.uint8)
    owner = np.full((len(index), size, size), -1, np.int8)
    for place in range(MOST):
        here = (place < count)[:, None, None]
        brighter = here & (ink[:, place] > strongest)
        number = (digits.label[rows[:, place]] + 1).astype(np.uint8)[:, None, None]
        inked = brighter & (ink[:, place] > INK)
        mask = np.where(inked, number, mask)
        owner = np.where(inked, np.int8(place), owner)
        strongest = np.where(brighter, ink[:, place], strongest)

    smooth = _spread(size, 4, np.array(size / 4, np.float32), np.array(size / 2, np.float32))
    texture = smooth @ ground @ smooth.T
    dark, bright = light[:, 0, None, None], light[:, 1, None, None]
    image = (dark + 0.15 * texture) * (1 - strongest) + bright * strongest + 0.05 * noise
    drawn = {"image": np.rint(255 * image.clip(0, 1)).astype(np.uint8)[..., None], "mask": mask}
    return {**drawn, **_boxes(owner, digits.label[rows])}


def _boxes(owner: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """The boxes of scenes: ``owner`` int [n, size, size] is the place whose digit is seen, and ``label`` int [n, 6]."""
    boxes, seen = around(owner[:, None] == np.arange(MOST)[:, None, None])
    classes = np.where(seen, label, NO_BOX)
    boxes, classes = packed(boxes, classes)
    return {"boxes": boxes, "box_classes": classes}


def _plans(digits: Strokes, seed: int, index: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """What is drawn at random for each scene."""
    for number in index.tolist():
        key = np.array([seed % 2**64, number], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key))
        rows = rng.integers(0, len(digits.label), MOST)
        count = rng.integers(LEAST, MOST + 1)
        scale = rng.uniform(1.5, 3, MOST) * size / 64
        # In different cells of a grid, so that digits overlap without hiding each other.
        cells = np.stack(np.divmod(rng.permutation(CELLS**2)[:MOST], CELLS), axis=-1)
        center = (MARGIN + (1 - 2 * MARGIN) * (cells + rng.uniform(0.2, 0.8, (MOST, 2))) / CELLS) * size
        ground = rng.uniform(-1, 1, (4, 4))
        light = rng.uniform((0.15, 0.7), (0.4, 1.0))
        noise = rng.standard_normal((size, size), np.float32)
        yield rows, np.asarray(count), _single(scale), _single(center), _single(ground), _single(light), noise


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _spread(size: int, pixels: int, scale: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Weights [..., size, pixels] of bilinear enlargement by ``scale`` of a line of pixels about ``center``."""
    place = np.arange(size, dtype=np.float32) + np.float32(0.5)
    inside = (place - center[..., None]) / scale[..., None] + np.float32(pixels / 2 - 0.5)
    return np.maximum(0, 1 - np.abs(inside[..., None] - np.arange(pixels, dtype=np.float32)))
