"""Three handwritten digits as the channels of one image: 1000 classes, to count those that a generator misses."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrec.data.features import Feature, class_names
from jaxrec.data.reads import Reads, chosen_features
from jaxrec.data.splits import Source, rows_by_split
from jaxrec.errors import UserError

SIZES = {"train": 60_000, "validation": 1000, "test": 10_000}
SEEDS = {"train": 0, "validation": 2, "test": 1}
CHANNELS = 3

Examples = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""``digits("train")`` or ``digits("test")``: images uint8 [N, H, W, 1] and classes int [N] of that split."""


def open_stacked(name: str, reads: Reads, of: Any, digits: Examples) -> Source:
    """60,000 training, 1000 validation and 10,000 test images, each of three digits drawn uniformly with replacement.

    As Stacked MNIST (Metz et al. 2017, https://arxiv.org/abs/1611.02163): the digits are the channels, and the class is
    the number that they make, the first channel its first digit. Training and validation images are stacked of digits
    of the training split, test images of the test split.

    Args:
        name: What the set is called.
        reads: What to read.
        of: The data set of the digits, opened; what reads one digit can read a channel.
        digits: Gives the digits; called when images of a split are read first.
    """
    height, width, channels = of.features["image"].shape
    if channels != 1:
        raise UserError(f"{name} stacks grey images, and those of {of.name} have {channels} channels")
    one = class_names(of.features)
    names = tuple(first + second + third for first in one for second in one for third in one)
    features = {
        "image": Feature("image", (height, width, CHANNELS), "uint8"),
        "label": Feature("class", (), "int32", names),
    }
    chosen, features = chosen_features(name, reads, features)
    stacks: dict[str, np.ndarray] = {}

    def stacked_of(split: str, count: int) -> np.ndarray:
        """Which digits the images of a split are made of, int [size of the split, 3]."""
        if split not in stacks:
            rng = np.random.default_rng(SEEDS[split])
            stacks[split] = rng.integers(0, count, (SIZES[split], CHANNELS))
        return stacks[split]

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        examples = {
            "image": np.empty((len(rows), height, width, CHANNELS), np.uint8),
            "label": np.empty(len(rows), np.int32),
        }
        for split, places, numbers in rows_by_split(rows, SIZES):
            images, classes = digits("test" if split == "test" else "train")
            parts = stacked_of(split, len(images))[numbers]
            examples["image"][places] = np.moveaxis(images[parts, :, :, 0], 1, -1)
            examples["label"][places] = np.ravel_multi_index(classes[parts].T, (len(one),) * CHANNELS)
        return {each: examples[key] for each, key in chosen.items()}

    return Source(read, SIZES, features, identity=f"{name} 1 {of.fingerprint}", channels=of)
