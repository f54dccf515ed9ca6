"""Statistics of a split: mean and deviation of its images, and how often each class occurs."""

from collections.abc import Callable, Iterator

import numpy as np

from jaxrec.data.features import NO_BOX, frames_there
from jaxrec.data.splits import Split
from jaxrec.errors import UserError

STATISTICS_SAMPLE = 20_000
"""Images enough for the statistics of a set too large to be held in memory."""
LEAST = 1 / 255
"""The least deviation that is told, so that dividing by it is safe."""
FIXED = 2.0**24
"""Sums of floats are merged as whole multiples of 1 / FIXED, because only sums of integers have no order."""

Merge = Callable[[np.ndarray], np.ndarray]


def _alone(counts: np.ndarray) -> np.ndarray:
    return counts


def statistics(
    split: Split,
    sample: int | None = None,
    *,
    name: str = "image",
    share: tuple[int, int] = (0, 1),
    merge: Merge = _alone,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of a feature of images or clips, in units of its full range.

    uint8 images are divided by 255 and uint16 images by 65535; float images are taken as they are. Of clips, the frames
    that are there count.

    Args:
        split: What to read; all of its examples or, with ``sample``, a seeded sample of that many.
        sample: For a set that is streamed, ``STATISTICS_SAMPLE`` keeps the start short.
        name: The feature of kind image or clip.
        share: ``(i, n)`` for process i of n, which reads every n-th example.
        merge: Adds up int64 arrays over the processes.

    Returns:
        Mean and deviation, a float per channel. A deviation is at least 1 / 255, so that dividing by it is safe.
    """
    indices = np.arange(len(split))
    if sample is not None and sample < len(split):
        indices = np.sort(np.random.default_rng(0).choice(len(split), sample, replace=False))
    mine = indices[share[0] :: share[1]]
    summed = _by_value if split.features[name].dtype == "uint8" else _by_moments
    mean, variance = summed(split, name, mine, merge)
    deviation = np.maximum(np.sqrt(variance), LEAST)
    return tuple(mean.tolist()), tuple(deviation.tolist())


def _images(split: Split, name: str, indices: np.ndarray) -> Iterator[np.ndarray]:
    """The images of a feature, or the frames of its clips that are there, a piece at a time: [n, H, W, C]."""
    feature = split.features[name]
    if feature.kind == "image":
        yield from split.values(name, indices)
        return
    lengths = [each for each, other in split.features.items() if other.kind == "length"]
    for piece in split.pieces(indices):
        examples = split.read(piece)
        clips = examples[name]
        there = np.full(clips.shape[:2], True)
        if lengths:
            there = frames_there(feature.shape[0], examples[lengths[0]])
        yield clips[there]


def _by_value(split: Split, name: str, indices: np.ndarray, merge: Merge) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance from how often each of 256 values occurs: exact."""
    channels = split.features[name].shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for images in _images(split, name, indices):
        for channel in range(channels):
            counts[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
    counts = merge(counts)
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    return mean, variance


def _by_moments(split: Split, name: str, indices: np.ndarray, merge: Merge) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance from sums of the values' distance to 0.5 and of its square."""
    feature = split.features[name]
    scale = 65535 if feature.dtype == "uint16" else 1
    count = 0
    sums = np.zeros((2, feature.shape[-1]))
    for images in _images(split, name, indices):
        distance = images.astype(np.float64) / scale - 0.5
        count += images[..., 0].size
        sums += np.stack([distance.sum(axis=(0, 1, 2)), np.square(distance).sum(axis=(0, 1, 2))])
    merged = merge(np.append(np.rint(sums * FIXED).astype(np.int64).ravel(), count))
    first, second = merged[:-1].reshape(sums.shape) / FIXED / merged[-1]
    return first + 0.5, np.maximum(second - first**2, 0)


def class_numbers(split: Split, name: str, *, share: tuple[int, int] = (0, 1), merge: Merge = _alone) -> np.ndarray:
    """The class of every example of a split by a feature of kind class: int64 [N].

    ``share`` and ``merge`` are those of ``statistics``.
    """
    numbers = np.zeros(len(split), np.int64)
    mine = np.arange(len(split))[share[0] :: share[1]]
    if len(mine):
        numbers[mine] = np.concatenate(list(split.values(name, mine)))
    return merge(numbers)


def class_counts(split: Split, name: str, *, share: tuple[int, int] = (0, 1), merge: Merge = _alone) -> np.ndarray:
    """How often each class of a feature occurs in a split: int64 [C].

    Of a feature of kind class, examples are counted; of classes, the examples that each class applies to; of mask,
    pixels, without void ones; of box_classes, boxes. ``share`` and ``merge`` are those of ``statistics``.
    """
    feature = split.features[name]
    classes = len(feature.names)
    if not classes:
        raise UserError(f"feature '{name}' of kind {feature.kind} has no classes to count; choose one that has")
    counts = np.zeros(classes, np.int64)
    for values in split.values(name, np.arange(len(split))[share[0] :: share[1]]):
        if feature.kind == "classes":
            counts += values.sum(axis=0, dtype=np.int64)
        elif feature.kind == "box_classes":
            counts += np.bincount(values[values != NO_BOX], minlength=classes)
        else:
            found = np.bincount(values.ravel(), minlength=classes)
            # A void value inside the range of classes has a row of its own in the names, and never counts.
            if feature.void is not None and feature.void < len(found):
                found[feature.void] = 0
            counts += found[:classes]
    return merge(counts)
