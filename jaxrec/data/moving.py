"""Clips of handwritten digits that move: which movement it is shows in no single frame."""

from typing import NamedTuple

import numpy as np

from jaxrec.data.features import Feature, blank
from jaxrec.data.reads import Reads, chosen_features
from jaxrec.data.scenes import Strokes, strokes
from jaxrec.data.splits import Source, rows_by_split

DIRECTIONS = ("right", "right-up", "up", "left-up", "left", "left-down", "down", "right-down")
CLASSES = (*DIRECTIONS, "turn-left", "turn-right", "zoom-in", "zoom-out", "bounce", "orbit")
SIZES = {"train": 7000, "test": 1400}
SEEDS = {"train": 0, "test": 1}
FRAMES = 20
SCALES = (0.0375, 0.075)
"""Smallest and largest side of a digit's pixel, as a share of the canvas's side."""
SPEEDS = (0.025, 0.05)
"""Smallest and largest way from frame to frame, as a share of the canvas's side."""
TURNS = (6.0, 15.0)
"""Smallest and largest turn from frame to frame, in degrees."""
ZOOMS = (0.5, 1.0)
"""Smallest and largest part of the range of scales that a zoom passes through from the first frame to the last."""
BOX = 0.25
"""Side of the square that a bouncing digit's center stays in, as a share of the canvas's side."""
RADII = (0.15, 0.25)
"""Smallest and largest radius of an orbit, as a share of the canvas's side."""
AT_ONCE = 10
"""Clips drawn at once; more would not fit a processor's cache."""


class Paths(NamedTuple):
    """Where the digits of n clips are in each frame."""

    center: np.ndarray
    """float32 [n, FRAMES, 2]: down and to the right, as shares of the side; what is above 1 comes in from the left."""
    angle: np.ndarray
    """float32 [n, FRAMES], counterclockwise, in radians."""
    scale: np.ndarray
    """float32 [n, FRAMES], the side of a digit's pixel as a share of the canvas's side."""


def open_moving(reads: Reads, size: int) -> Source:
    """7000 training and 1400 test clips of 20 gray frames of ``size`` pixels a side, in 14 classes of equal shares.

    The digits of training clips are those of the digits' training split, and of test clips those of its test split.
    """
    from jaxrec.data.digits import open_digits

    features = {
        "clip": Feature("clip", (FRAMES, size, size, 1), "uint8"),
        "length": Feature("length", (), "int32"),
        "label": Feature("class", (), "int32", CLASSES),
    }
    chosen, features = chosen_features("moving", reads, features)
    digits = open_digits({"image": "image", "label": "class"})
    inks = {}
    first = 0
    for split in SIZES:
        rows = np.arange(first, first + digits.sizes[split])
        first += len(rows)
        inks[split] = strokes(digits.read(rows))

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        examples = blank(features, len(rows))
        for split, places, numbers in rows_by_split(rows, SIZES):
            drawn = draw(inks[split], SEEDS[split], numbers, size)
            for name, key in chosen.items():
                examples[name][places] = drawn[key]
        return examples

    classes = np.concatenate([np.arange(count) % len(CLASSES) for count in SIZES.values()])
    # Drawing takes seconds, so that the clips are kept from one run to the next.
    return Source(read, SIZES, features, identity=f"moving 2 {size}", classes=classes, version="2")


def draw(digits: Strokes, seed: int, index: np.ndarray, size: int = 32) -> dict[str, np.ndarray]:
    """The clips with the given numbers, each a function of (seed, number) and of the digits alone.

    One digit moves on a black canvas whose borders are joined: what leaves it on the right comes in from the left. It
    goes in one of eight directions, turns on the spot, grows or shrinks (and starts over at the end of the range of
    sizes), bounces within a square, or goes around in a circle, either way.

    Where the digit starts, its size and its angle are drawn alike for all classes, and on joined borders every movement
    keeps them so. Hence each frame for itself has the same distribution in all classes.

    Args:
        digits: What to draw with.
        seed: Together with a clip's number, the root of its randomness.
        index: int [n], the clips' numbers; the class of a clip is its number modulo 14.
        size: Pixels a side.

    Returns:
        ``clip`` uint8 [n, 20, size, size, 1]; ``length`` int32 [n], all 20; ``label`` int32 [n], see ``CLASSES``.
    """
    clips = np.empty((len(index), FRAMES, size, size, 1), np.uint8)
    for start in range(0, len(index), AT_ONCE):
        piece = index[start : start + AT_ONCE]
        row, light = _looks(len(digits.label), seed, piece)
        frames = _frames(digits.ink[row], paths(seed, piece), size)
        bright = 255 * light[:, None, None, None] * frames
        clips[start : start + AT_ONCE] = np.rint(bright).astype(np.uint8)[..., None]
    label = (index % len(CLASSES)).astype(np.int32)
    return {"clip": clips, "length": np.full(len(index), FRAMES, np.int32), "label": label}


def _generator(seed: int, number: int, stream: int) -> np.random.Generator:
    key = np.array([seed % 2**64, number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def _looks(digits: int, seed: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The digit of each clip, int [n], and its brightness, float32 [n]."""
    rows, light = [], []
    for number in index.tolist():
        rng = _generator(seed, number, 0)
        rows.append(rng.integers(0, digits))
        light.append(rng.uniform(0.6, 1))
    return np.array(rows, np.int64), np.array(light, np.float32)


def paths(seed: int, index: np.ndarray) -> Paths:
    """Where the digits of the clips with the given numbers, int [n], are in each frame."""
    center = np.empty((len(index), FRAMES, 2))
    angle = np.empty((len(index), FRAMES))
    zoom = np.empty((len(index), FRAMES))
    for place, number in enumerate(index.tolist()):
        rng = _generator(seed, number, 1)
        way, turn, growth = _movement(CLASSES[number % len(CLASSES)], rng)
        center[place] = (rng.uniform(0, 1, 2) + way) % 1
        angle[place] = rng.uniform(0, 2 * np.pi) + turn
        zoom[place] = (rng.uniform() + growth) % 1
    low, high = SCALES
    scale = low * (high / low) ** zoom
    return Paths(center.astype(np.float32), angle.astype(np.float32), scale.astype(np.float32))


def _movement(name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What changes from the start on: the way [FRAMES, 2], and turn and zoom [FRAMES]; zoom 1 is the whole range."""
    time = np.arange(FRAMES)
    way, turn, zoom = np.zeros((FRAMES, 2)), np.zeros(FRAMES), np.zeros(FRAMES)
    sense = rng.choice((-1, 1))
    speed = rng.uniform(*SPEEDS)
    if name in DIRECTIONS:
        angle = DIRECTIONS.index(name) * np.pi / 4
        way = time[:, None] * speed * _towards(angle)
    elif name == "bounce":
        straight = rng.uniform(0, BOX, 2) + time[:, None] * speed * _towards(rng.uniform(0, 2 * np.pi))
        # A way that is folded at both walls of the square.
        way = abs((straight + BOX) % (2 * BOX) - BOX)
    elif name == "orbit":
        radius = rng.uniform(*RADII)
        way = radius * _towards(rng.uniform(0, 2 * np.pi) + sense * time * speed / radius)
    elif name in ("turn-left", "turn-right"):
        step = np.radians(rng.uniform(*TURNS))
        turn = time * step * (1 if name == "turn-left" else -1)
    else:
        step = rng.uniform(*ZOOMS) / (FRAMES - 1)
        zoom = time * step * (1 if name == "zoom-in" else -1)
    return way, turn, zoom


def _towards(angle: np.ndarray | float) -> np.ndarray:
    """Steps of length 1 down and to the right [..., 2] at angles counterclockwise from the right."""
    return np.stack([-np.sin(angle), np.cos(angle)], axis=-1)


def _frames(ink: np.ndarray, way: Paths, size: int) -> np.ndarray:
    """The digits ``ink`` [n, 8, 8] on canvases, sampled bilinearly: float32 [n, FRAMES, size, size]."""
    place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / size
    # The way from the center to each pixel, by the shorter side around.
    from_center = place - way.center[..., None] + np.float32(0.5)
    down, across = np.moveaxis(from_center - np.floor(from_center) - np.float32(0.5), 2, 0)
    sin = (np.sin(way.angle) / way.scale)[..., None]
    cos = (np.cos(way.angle) / way.scale)[..., None]
    middle = np.float32(ink.shape[1] / 2 + 0.5)  # with a border of one black pixel
    y = (cos * down)[..., :, None] + (sin * across)[..., None, :] + middle
    x = (cos * across)[..., None, :] - (sin * down)[..., :, None] + middle
    return _bilinear(np.pad(ink, ((0, 0), (1, 1), (1, 1))), y, x)


def _bilinear(ink: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values [n, ...] of images ``ink`` [n, side, side] with black borders at coordinates [n, ...] of their pixels."""
    side = ink.shape[1]
    flat = ink.ravel()
    y, x = y.clip(0, side - 1.001), x.clip(0, side - 1.001)
    row, column = y.astype(np.int32), x.astype(np.int32)
    y, x = y - row, x - column
    first = np.arange(len(ink), dtype=np.int32).reshape(-1, *[1] * (y.ndim - 1)) * side**2
    corner = first + row * side + column
    upper = flat[corner] * (1 - x) + flat[corner + 1] * x
    lower = flat[corner + side] * (1 - x) + flat[corner + side + 1] * x
    return upper * (1 - y) + lower * y
