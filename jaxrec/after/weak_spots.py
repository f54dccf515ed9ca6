"""Where a classifier is weak, and whether its data are to blame: slices, probable label errors, near-duplicates."""

from typing import NamedTuple

import numpy as np

PARTS = 4
"""Slices of a quantity, with an equal number of examples each."""
SIDE = 16
"""Sides of the small copies by which images are compared."""
ALIKE = 0.985
"""Correlation of two small copies from which on images are near-duplicates."""
BLOCK = 2**24
"""Pairs that are compared at once."""


class Suspects(NamedTuple):
    """Examples whose label is probably wrong, the most suspicious first."""

    index: np.ndarray
    """int [K]."""
    suggested: np.ndarray
    """int [K], the class that each more probably has."""
    margin: np.ndarray
    """float [K], the probability of the suggested class less that of the labelled one."""


def find_label_errors(probability: np.ndarray, label: np.ndarray) -> Suspects:
    """Examples that probably belong to another class, by confident learning (Northcutt et al. 2021).

    A class counts as likely for an example if its probability is at least as high as it is, on average, among the
    examples with that label. An example is suspicious if the likeliest of these classes is not its own.

    Args:
        probability: float [N, C], of a model that was not trained on these examples.
        label: int [N], the class that each is labelled with.
    """
    rows = np.arange(len(label))
    count = np.bincount(label, minlength=probability.shape[1])
    own = probability[rows, label]
    # No example confirms a class that labels nothing.
    usual = np.bincount(label, weights=own, minlength=probability.shape[1]) / np.maximum(count, 1)
    usual = np.where(count > 0, usual, np.inf)
    likely = np.where(probability >= usual, probability, -1.0)
    suggested = likely.argmax(1)
    suspicious = (likely.max(1) >= 0) & (suggested != label)
    margin = probability[rows, suggested] - own
    index = np.flatnonzero(suspicious)
    index = index[np.argsort(-margin[index], kind="stable")]
    return Suspects(index, suggested[index], margin[index])


def brightness(images: np.ndarray) -> np.ndarray:
    """The mean of each image's pixels, float [N], of images [N, H, W, C]."""
    return images.mean((1, 2, 3))


def extent(images: np.ndarray) -> np.ndarray:
    """The share of each image's pixels that are unlike its border, float [N], of images [N, H, W, C] in [0, 1].

    A pixel is unlike the border if it differs from its median by more than a tenth in some channel.
    """
    sides = [images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]]
    border = np.median(np.concatenate(sides, axis=1), axis=1)
    unlike = np.abs(images - border[:, None, None]).max(-1) > 0.1
    return unlike.mean((1, 2))


def sharpness(images: np.ndarray) -> np.ndarray:
    """How much pixels differ from their four neighbors, over how much they differ at all: float [N], low if blurred.

    Images are [N, H, W, C], at least 3x3.
    """
    grey = images.mean(-1)
    inner = grey[:, 1:-1, 1:-1]
    neighbors = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (4 * inner - neighbors).std((1, 2)) / np.maximum(grey.std((1, 2)), 1e-6)


def slices(values: np.ndarray, parts: int = PARTS) -> tuple[np.ndarray, np.ndarray]:
    """Examples by a quantity float [N], in slices with an equal number each as far as equal values allow.

    Returns the slice of each, int [N], and the limits of the slices, float [at most parts + 1].
    """
    limits = np.unique(np.quantile(values, np.linspace(0, 1, parts + 1)))
    place = np.searchsorted(limits, values, side="right") - 1
    return np.clip(place, 0, max(len(limits) - 2, 0)), limits


def small_copies(images: np.ndarray) -> np.ndarray:
    """Small grey copies of images [N, H, W, C], each of mean 0 and length 1: float32 [N, D], by which to compare them.

    Images without any contrast become zeros.
    """
    grey = images.mean(-1, dtype=np.float32)
    for axis in (1, 2):
        side = grey.shape[axis]
        starts = np.arange(min(SIDE, side)) * side // min(SIDE, side)
        sizes = np.diff([*starts, side])
        grey = np.add.reduceat(grey, starts, axis) / sizes.reshape(-1, *[1] * (2 - axis))
    flat = grey.reshape(len(grey), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return (flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)).astype(np.float32)


def near_duplicates(one: np.ndarray, other: np.ndarray | None = None, least: float = ALIKE) -> np.ndarray:
    """Pairs of images that look alike: float [K, 3], their numbers in the first and second set, and the correlation.

    Args:
        one: what ``small_copies`` gives, [N, D].
        other: the same of other images, [M, D]; default: pairs within the first set.
        least: the least correlation.
    """
    second = one if other is None else other
    size = max(1, BLOCK // max(len(second), 1))
    found = []
    for start in range(0, len(one), size):
        alike = one[start : start + size] @ second.T
        rows, columns = np.nonzero(alike >= least)
        values = alike[rows, columns]
        if other is None:
            each_once = rows + start < columns
            rows, columns, values = rows[each_once], columns[each_once], values[each_once]
        found.append(np.stack([rows + start, columns, values], 1))
    pairs = np.concatenate(found) if found else np.zeros((0, 3))
    return pairs[np.argsort(-pairs[:, 2], kind="stable")]
