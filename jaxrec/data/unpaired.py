"""Images of two kinds that do not belong together: one of each makes an example."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxrec.data.splits import SAME_SPLIT, Source
from jaxrec.errors import UserError

A, B = "A", "B"
"""The two kinds: the ends of the names of their folders and splits, such as ``trainA`` and ``testB``."""
UNPAIRED = "other"
"""The name in the batch of the second image if the two of an example need not belong together."""


class Sides(NamedTuple):
    """The name in the batch of what is of kind A, and of what is of kind B."""

    a: str
    b: str


def split_pairs(where: str, names: Mapping[str, object]) -> list[str]:
    """The splits of which there is a part A and a part B, such as ``train`` for ``trainA`` and ``trainB``.

    Raises UserError if one of the two parts of a split is missing; ``where`` is the set in the error.
    """
    found = []
    for group in SAME_SPLIT:
        for split in group:
            there = [split + kind for kind in (A, B) if split + kind in names]
            if len(there) == 1:
                missing = split + (B if there[0].endswith(A) else A)
                raise UserError(f"{where} has {there[0]} and no {missing}: expected both, or neither")
            if there:
                found.append(split)
    return found


def partners(first: int, second: int) -> np.ndarray:
    """Numbers int [max(first, second), 2]: the next image of A and of B for each example.

    The smaller kind is repeated; the images of B are in a seeded order.
    """
    order = np.random.default_rng(0).permutation(second)
    number = np.arange(max(first, second))
    return np.stack([number % first, order[number % second]], axis=-1)


def of_two_kinds(source: Source, splits: Sequence[str]) -> Source:
    """A source of images whose splits are of one kind each, such as ``trainA``, as one with an image of both kinds.

    Args:
        source: It has a single feature, the image.
        splits: Those that have two kinds, such as ``train``; other splits of the source are left out.
    """
    (image,) = source.features
    firsts = dict(zip(source.sizes, np.cumsum([0, *source.sizes.values()]).tolist(), strict=False))
    rows_of = {}
    for split in splits:
        numbers = partners(source.sizes[split + A], source.sizes[split + B])
        rows_of[split] = numbers + np.array([firsts[split + A], firsts[split + B]])
    sizes = {split: len(rows) for split, rows in rows_of.items()}
    every = np.concatenate(list(rows_of.values()))

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        sides = every[rows]
        return {name: source.read(sides[:, side])[image] for side, name in enumerate((image, UNPAIRED))}

    features = {name: source.features[image] for name in (image, UNPAIRED)}
    return replace(source, read=read, sizes=sizes, features=features, identity=f"unpaired {source.identity}")
