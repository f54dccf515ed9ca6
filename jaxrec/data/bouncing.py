"""Clips of two handwritten digits that bounce off the walls, for predicting what comes next."""

from collections.abc import Callable

import numpy as np

from jaxrec.data.features import Feature
from jaxrec.data.reads import Reads, chosen_features
from jaxrec.data.splits import Source, rows_by_split

SIZES = {"train": 100_000, "validation": 500, "test": 1000}
SEEDS = {"train": 0, "validation": 2, "test": 1}
FRAMES = 20
DIGITS = 2
SIDE = 28 / 64
"""Side of a digit, as a share of the canvas's side."""
STEP = 0.1
"""Way from frame to frame, as a share of the way that a digit has between two walls."""

Ink = Callable[[str], np.ndarray]
"""``ink("train")`` or ``ink("test")``: the digits of that split to draw with, uint8 [N, h, w]."""


def open_bouncing(name: str, reads: Reads, size: int, ink: Ink, identity: str) -> Source:
    """100,000 training, 500 validation and 1000 test clips of 20 gray frames of ``size`` pixels a side.

    Clips are drawn whenever they are read. The digits of the training and validation clips are those of the digits'
    training split, and of the test clips those of its test split.

    Args:
        name: What the set is called.
        reads: What to read.
        size: Pixels a side.
        ink: Gives the digits to draw with; called when clips of a split are read first.
        identity: Names the digits.
    """
    features = {
        "clip": Feature("clip", (FRAMES, size, size, 1), "uint8"),
        "length": Feature("length", (), "int32"),
    }
    chosen, features = chosen_features(name, reads, features)
    digits: dict[str, np.ndarray] = {}

    def drawn_with(split: str) -> np.ndarray:
        """The digits of a split at the size at which they are drawn."""
        from_split = "test" if split == "test" else "train"
        if from_split not in digits:
            digits[from_split] = enlarged(ink(from_split), round(SIDE * size))
        return digits[from_split]

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        examples = {
            "clip": np.empty((len(rows), FRAMES, size, size, 1), np.uint8),
            "length": np.full(len(rows), FRAMES, np.int32),
        }
        for split, places, numbers in rows_by_split(rows, SIZES):
            examples["clip"][places] = draw(drawn_with(split), SEEDS[split], numbers, size)
        return {each: examples[key] for each, key in chosen.items()}

    return Source(read, SIZES, features, identity=f"{name} 1 {size} {identity}")


def draw(digits: np.ndarray, seed: int, index: np.ndarray, size: int = 64) -> np.ndarray:
    """The clips with the given numbers, each a function of (seed, number) and of the digits alone.

    As in Moving MNIST (Srivastava et al. 2015, https://arxiv.org/abs/1502.04681): two digits start anywhere and move
    at one constant speed in directions of their own. A digit that reaches a wall stops there for this frame and turns
    back. Places are whole pixels, and where digits overlap, the brighter is seen.

    Args:
        digits: What to draw with, uint8 [N, side, side].
        seed: Together with a clip's number, the root of its randomness.
        index: int [n], the clips' numbers.
        size: Pixels a side.

    Returns:
        uint8 [n, 20, size, size, 1].
    """
    clips = np.zeros((len(index), FRAMES, size, size, 1), np.uint8)
    chosen = np.empty((len(index), DIGITS), np.int64)
    start = np.empty((len(index), DIGITS, 2))
    angle = np.empty((len(index), DIGITS))
    for place, number in enumerate(index.tolist()):
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
        chosen[place] = rng.integers(0, len(digits), DIGITS)
        start[place] = rng.uniform(0, 1, (DIGITS, 2))
        angle[place] = rng.uniform(0, 2 * np.pi, DIGITS)
    side = digits.shape[1]
    corners = ((size - side) * paths(start, angle)).astype(np.int64).tolist()
    # Windows are views, so that a digit costs no more than its own pixels.
    for clip, ways, ink in zip(clips[..., 0], corners, digits[chosen], strict=True):
        for frame in range(FRAMES):
            for digit in range(DIGITS):
                top, left = ways[digit][frame]
                window = clip[frame, top : top + side, left : left + side]
                np.maximum(window, ink[digit], out=window)
    return clips


def paths(start: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Where digits are in each frame, float64 [..., FRAMES, 2]: down and to the right, from wall 0 to wall 1.

    Args:
        start: The places before the first frame, [..., 2].
        angle: The directions at the start, counterclockwise from the right, in radians, [...].
    """
    place, step = start, STEP * np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
    found = []
    for _ in range(FRAMES):
        place = place + step
        step = np.where((place <= 0) | (place >= 1), -step, step)
        place = place.clip(0, 1)
        found.append(place)
    return np.stack(found, axis=-2)


def enlarged(digits: np.ndarray, side: int) -> np.ndarray:
    """Digits uint8 [N, h, h] at another size, bilinearly: uint8 [N, side, side]."""
    given = digits.shape[1]
    if side == given:
        return digits
    # The weights of the given pixels in each of the new ones, whose centers lie between them.
    place = ((np.arange(side) + 0.5) * given / side - 0.5).clip(0, given - 1)
    weights = np.maximum(0, 1 - abs(place[:, None] - np.arange(given))).astype(np.float32)
    return np.rint(weights @ digits.astype(np.float32) @ weights.T).astype(np.uint8)
