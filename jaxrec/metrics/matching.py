"""Which detections of a set of images are right, as COCO decides it: in numpy, on the host."""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np

from jaxrec.metrics.sums import ratio

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""The IoUs from which on a detection counts as right, in turn."""
MOST = 100
"""Detections of a class in an image that count, those of highest score."""
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""The least and the largest area in square pixels of boxes that count, both included."""
PART = 2**20
"""Numbers that are worked on at once."""


class Images(NamedTuple):
    """Detections and true boxes of all images in flat lists."""

    image: np.ndarray
    """int [D], the image of each detection; by class, then the highest score first, then by image."""
    kind: np.ndarray
    """int [D], its class."""
    score: np.ndarray
    """float64 [D]."""
    rank: np.ndarray
    """int [D], its place among those of its class in its image."""
    area: np.ndarray
    """float64 [D], in square pixels."""
    true_kind: np.ndarray
    """int [G], the class of each true box."""
    true_area: np.ndarray
    """float64 [G]."""
    pairs: "Pairs"
    truths: np.ndarray
    """int [I, C], the number of true boxes of each class in each image."""

    @classmethod
    def of(
        cls,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        true_boxes: np.ndarray,
        true_classes: np.ndarray,
        class_count: int,
    ) -> Self:
        """From what was found, boxes [I, K, 4], scores and classes [I, K], and what is there, [I, N, 4] and [I, N].

        A class of -1 is no box, and a box that is not finite finds none. Raises ValueError for a class number that is
        not below ``class_count``.
        """
        finite = np.isfinite(boxes).all(axis=-1, keepdims=True)
        boxes, true_boxes = np.where(finite, boxes, 0.0).astype(np.float64), np.asarray(true_boxes, np.float64)
        scores, classes, true_classes = np.asarray(scores, np.float64), np.asarray(classes), np.asarray(true_classes)
        largest = max(classes.max(initial=-1), true_classes.max(initial=-1))
        if largest >= class_count:
            raise ValueError(f"class number {largest}: expected numbers below {class_count}, the class_count")
        image, slot = np.nonzero(classes >= 0)
        order = np.lexsort((image, -scores[image, slot], classes[image, slot]))
        image, slot = image[order], slot[order]
        true_image, true_slot = np.nonzero(true_classes >= 0)
        true_kind = true_classes[true_image, true_slot]
        truths = np.zeros((len(boxes), class_count), np.int64)
        np.add.at(truths, (true_image, true_kind), 1)
        number = np.full(classes.shape, -1)
        number[image, slot] = np.arange(len(image))
        true_number = np.full(true_classes.shape, -1)
        true_number[true_image, true_slot] = np.arange(len(true_image))
        kind = classes[image, slot]
        return cls(
            image=image,
            kind=kind,
            score=scores[image, slot],
            rank=_ranks(image * class_count + kind),
            area=_areas(boxes)[image, slot],
            true_kind=true_kind,
            true_area=_areas(true_boxes)[true_image, true_slot],
            pairs=Pairs.of(boxes, classes, number, true_boxes, true_classes, true_number),
            truths=truths,
        )

    def detected(self, score: float) -> np.ndarray:
        """The number of detections of at least that score of each class in each image, int [I, C]."""
        # Scores were float32: one of .7 is to be at least .7.
        there = self.score >= np.float32(score)
        counts = np.zeros(self.truths.shape, np.int64)
        np.add.at(counts, (self.image[there], self.kind[there]), 1)
        return counts

    def by_class(self) -> Iterator[tuple[int, slice]]:
        """Each class and where its detections are."""
        ends = np.searchsorted(self.kind, np.arange(self.truths.shape[1]), side="right")
        start = 0
        for kind, end in enumerate(ends.tolist()):
            yield kind, slice(start, end)
            start = end


class Pairs(NamedTuple):
    """Pairs of a detection and a true box of one image and class of IoU .5 or more, by detection, then by IoU."""

    found: np.ndarray
    """int [P], the number of the detection."""
    true: np.ndarray
    """int [P], the number of the true box."""
    overlap: np.ndarray
    """float64 [P], their IoU."""

    @classmethod
    def of(
        cls,
        boxes: np.ndarray,
        classes: np.ndarray,
        number: np.ndarray,
        true_boxes: np.ndarray,
        true_classes: np.ndarray,
        true_number: np.ndarray,
    ) -> Self:
        """The pairs of boxes [I, K, 4] and [I, N, 4], whose numbers in the lists are int [I, K] and [I, N]."""
        parts = []
        step = max(1, PART // max(classes.shape[1] * true_classes.shape[1], 1))
        for start in range(0, len(boxes), step):
            part = slice(start, start + step)
            overlap = _overlaps(boxes[part], true_boxes[part])
            same = (classes[part, :, None] == true_classes[part, None, :]) & (classes[part, :, None] >= 0)
            image, slot, true_slot = np.nonzero(same & (overlap >= OVERLAPS[0]))
            parts.append(
                (number[part][image, slot], true_number[part][image, true_slot], overlap[image, slot, true_slot])
            )
        found, true, overlap = (np.concatenate(values) for values in zip(*parts, strict=True))
        order = np.lexsort((true, overlap, found))
        return cls(found[order], true[order], overlap[order])


class Matches(NamedTuple):
    """What each detection is at each IoU, for one range of sizes."""

    right: np.ndarray
    """bool [T, D]: it has found a true box that counts."""
    counts: np.ndarray
    """bool [T, D]: it is right or wrong; False: it has to do with boxes of another size."""
    truths: np.ndarray
    """int [C], the true boxes that count."""


def matched(images: Images) -> dict[str, Matches]:
    """Which detections are right, for each range of ``SIZES``, as pycocotools decides it.

    In each image and class the detections are taken in order of their scores. Each finds the true box of highest IoU
    among those that no other has found, boxes of the asked size before others. A detection that finds a box of another
    size does not count, and neither does one that finds none and has itself another size.
    """
    limits = np.array(list(SIZES.values()))
    true_counts = (images.true_area >= limits[:, :1]) & (images.true_area <= limits[:, 1:])  # [A, G]
    fits = (images.area >= limits[:, :1]) & (images.area <= limits[:, 1:])  # [A, D]
    partner = _partners(images, true_counts)
    ranked = images.rank < MOST
    found = {}
    for place, size in enumerate(SIZES):
        has = partner[place] >= 0
        counted = true_counts[place][partner[place]] if len(images.true_area) else has
        right = has & counted
        wrong = ~has & fits[place]
        truths = np.bincount(images.true_kind[true_counts[place]], minlength=images.truths.shape[1])
        found[size] = Matches(right, (right | wrong) & ranked, truths)
    return found


def _partners(images: Images, true_counts: np.ndarray) -> np.ndarray:
    """The number of the true box that each detection finds, int [A, T, D], -1 for none.

    ``true_counts``, bool [A, G], says which true boxes have the asked size.
    """
    pairs, sizes = images.pairs, len(true_counts)
    shape = (sizes, len(OVERLAPS))
    partner = np.full((*shape, len(images.image)), -1, np.int32)
    free = np.ones((*shape, len(images.true_area)), bool)
    near = pairs.overlap >= OVERLAPS[:, None]
    for part in _by_rank(images):
        found, true = pairs.found[part], pairs.true[part]
        # Pairs of one detection lie beside each other, the best last; a box of the asked size is better than any other.
        worth = np.arange(1, len(part) + 1) + true_counts[:, None, true] * len(part)
        worth = np.where(near[:, part] & free[:, :, true], worth, 0)
        starts = np.flatnonzero(np.diff(found, prepend=-1))
        best = np.maximum.reduceat(worth, starts, axis=-1)
        size, overlap, which = np.nonzero(best)
        chosen = (best[size, overlap, which] - 1) % len(part)
        partner[size, overlap, found[chosen]] = true[chosen]
        free[size, overlap, true[chosen]] = False
    return partner


def _by_rank(images: Images) -> Iterator[np.ndarray]:
    """The numbers of the pairs whose detections are first of their image and class, then of the second, and so on.

    Detections of one rank have no true box in common, so they can be matched at once.
    """
    rank = images.rank[images.pairs.found]
    order = np.argsort(rank, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(rank[order])) + 1):
        if len(part) and rank[part[0]] < MOST:
            yield part


def _ranks(groups: np.ndarray) -> np.ndarray:
    """The place of each element among those of its group, in order, int [D]."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(starts, append=len(groups))
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return ranks


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1)


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The IoU of all pairs, float64 [I, K, N], of boxes [I, K, 4] and [I, N, 4]; 0 if both are empty."""
    inside = np.ones((len(a), a.shape[1], b.shape[1]))
    for axis in (0, 1):
        low = np.maximum(a[:, :, None, axis], b[:, None, :, axis])
        high = np.minimum(a[:, :, None, axis + 2], b[:, None, :, axis + 2])
        inside *= (high - low).clip(0)
    return ratio(inside, _areas(a)[:, :, None] + _areas(b)[:, None, :] - inside)
