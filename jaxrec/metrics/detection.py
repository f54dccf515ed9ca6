"""Metrics of a detector: average precision as COCO and Pascal VOC define it, and how well it counts.

The boxes of every image are kept, and all is computed on the host: matching is done once, and what is asked of other
samples of the images is computed from the matches.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.metrics.sums import Metric, Results, at_least_one, ratio, real_examples

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""The IoUs from which on a detection counts as right, in turn."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""The recalls at which precision is read."""
MOST = 100
"""Detections of a class in an image that count, those of highest score."""
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""The least and the largest area in square pixels of boxes that count, both included."""
RESAMPLES = 200
"""Samples of the images that the interval is of."""
PART = 2**20
"""Numbers that are worked on at once."""


class Detections(Metric):
    """Boxes found and true boxes of every image. It merges on the host alone, by joining arrays, not by ``psum``."""

    boxes: jax.Array
    """float32 [B, K, 4]."""
    scores: jax.Array
    """float32 [B, K]."""
    classes: jax.Array
    """int32 [B, K]; -1 is no detection."""
    true_boxes: jax.Array
    """float32 [B, N, 4]."""
    true_classes: jax.Array
    """int32 [B, N]; -1 is no box."""
    real: jax.Array
    """bool [B], False for padding."""
    class_count: int = flax.struct.field(pytree_node=False)
    counted_from: float = flax.struct.field(pytree_node=False, default=0.5)
    interval: bool = flax.struct.field(pytree_node=False, default=True)
    voc: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def from_batch(
        cls,
        boxes: jax.Array,
        scores: jax.Array,
        classes: jax.Array,
        true_boxes: jax.Array,
        true_classes: jax.Array,
        real: jax.Array | None = None,
        *,
        class_count: int,
        counted_from: float = 0.5,
        interval: bool = True,
        voc: bool = False,
    ) -> Self:
        """From what was found and what is there in a batch; pure.

        Args:
            boxes: floats [B, K, 4] of y0, x0, y1, x1 in pixels, in any order, as ``jaxrec.boxes.nms`` gives them.
            scores: floats [B, K].
            classes: int32 [B, K]; -1 for no detection.
            true_boxes: floats [B, N, 4].
            true_classes: int32 [B, N]; -1 for no box.
            real: bool [B], False for padding (None: all real). Images without true boxes count.
            class_count: the number of classes, C.
            counted_from: the score from which on detections are counted as things, for ``count_error``.
            interval: whether to compute intervals of map and map50.
            voc: whether to compute Pascal VOC's average precision, too.
        """
        chex.assert_rank([boxes, scores, classes, true_boxes, true_classes], [3, 2, 2, 3, 2])
        chex.assert_equal_shape_prefix([boxes, scores, classes], 2)
        chex.assert_equal_shape_prefix([true_boxes, true_classes], 2)
        return cls(
            boxes=jnp.asarray(boxes, jnp.float32),
            scores=jnp.asarray(scores, jnp.float32),
            classes=jnp.asarray(classes, jnp.int32),
            true_boxes=jnp.asarray(true_boxes, jnp.float32),
            true_classes=jnp.asarray(true_classes, jnp.int32),
            real=real_examples(real, len(boxes)),
            class_count=class_count,
            counted_from=counted_from,
            interval=interval,
            voc=voc,
        )

    def merge(self, other: Self) -> Self:
        """The images of both."""
        return jax.tree.map(lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)]), self, other)

    def compute(self) -> Results:
        """Values by name; shares are in [0, 1], and what is undefined is nan.

        COCO's, with at most 100 detections of a class in an image, means over the classes that have true boxes: map,
        the mean over IoUs from .5 to .95 of the average precision at 101 recalls; map50 and map75, at one IoU;
        map_small, map_medium and map_large, of boxes of up to 32 x 32, up to 96 x 96 and more pixels; mar, the mean
        over IoUs of the share of boxes that is found.

        By class, float64 [C], nan for classes without true boxes: ap50 and ap, the average precision at IoU .5 and the
        mean over IoUs; recall, the share of its boxes that is found at IoU .5; count_error, the mean over images of the
        absolute difference between the number of true boxes and that of detections of score ``counted_from`` or more;
        and count_error_mean, its mean over the classes that have true boxes.

        For pictures: precision_at_recalls float64 [C, 101], the curve of each class at IoU .5; counts int64 [M, 4],
        how many images (the last column) of each class (the first) have how many true boxes and detections.

        With ``interval``: map_low, map_high, map50_low and map50_high, the 2.5th and 97.5th percentiles over 200
        samples of the images, drawn with replacement from a fixed seed. With ``voc``: voc_ap50 [C] and voc_map50, all
        points under the curve, where a detection is wrong if a better one has found the box that it overlaps most.

        Raises ValueError if there is no real image, or a class number is too large.
        """
        images = Images.of(self)
        matches = matched(images)
        precisions = average_precisions(images, matches)
        present = images.truths.sum(axis=0) > 0
        results: Results = {"map": _mean(precisions["all"])}
        results["map50"] = _mean(precisions["all"][0])
        results["map75"] = _mean(precisions["all"][5])
        for size in ("small", "medium", "large"):
            results[f"map_{size}"] = _mean(precisions[size])
        recalls = found_shares(images, matches)
        results["mar"] = _mean(recalls)
        predicted = images.detected(self.counted_from)
        errors = np.where(present, np.abs(images.truths - predicted).mean(axis=0), np.nan)
        results["count_error_mean"] = _mean(errors)
        if self.interval:
            results |= intervals(images, matches)
        if self.voc:
            voc = voc_precisions(images)
            results |= {"voc_map50": _mean(voc), "voc_ap50": voc}
        results["ap50"] = precisions["all"][0]
        results["ap"] = precisions["all"].mean(axis=0)
        results["recall"] = recalls[0]
        results["count_error"] = errors
        results["precision_at_recalls"] = precision_curves(images, matches)
        results["counts"] = _counted_pairs(images.truths, predicted)
        return results


def summary_pictures(results: Mapping[str, Any]) -> dict[str, Any]:
    """The curves of precision over recall, and of each class the numbers of boxes there and detected.

    ``results`` are those of :class:`Detections`, or what was read of them from a JSON file.
    """
    # JSON has no nan but null, of which float makes a nan.
    curves = np.array(results["precision_at_recalls"], float)
    return {
        "precision_recall": {"curves": curves, "at": RECALLS, "axes": ("recall", "precision")},
        "counts": {"counts": np.array(results["counts"])},
    }


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
    def of(cls, metric: Detections) -> Self:
        """The lists of the real images of a metric; raises ValueError if there are none or a class is out of range."""
        real = np.asarray(metric.real)
        at_least_one(real.sum())
        scores, classes = np.asarray(metric.scores, np.float64)[real], np.asarray(metric.classes)[real]
        true_classes = np.asarray(metric.true_classes)[real]
        boxes = np.asarray(metric.boxes, np.float64)[real]
        true_boxes = np.asarray(metric.true_boxes, np.float64)[real]
        largest = max(classes.max(initial=-1), true_classes.max(initial=-1))
        if largest >= metric.class_count:
            raise ValueError(f"class number {largest}: expected numbers below {metric.class_count}, the class_count")
        image, slot = np.nonzero(classes >= 0)
        order = np.lexsort((image, -scores[image, slot], classes[image, slot]))
        image, slot = image[order], slot[order]
        true_image, true_slot = np.nonzero(true_classes >= 0)
        true_kind = true_classes[true_image, true_slot]
        truths = np.zeros((len(real[real]), metric.class_count), np.int64)
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
            rank=_ranks(image * metric.class_count + kind),
            area=_areas(boxes)[image, slot],
            true_kind=true_kind,
            true_area=_areas(true_boxes)[true_image, true_slot],
            pairs=Pairs.of(boxes, classes, number, true_boxes, true_classes, true_number),
            truths=truths,
        )

    def detected(self, score: float) -> np.ndarray:
        """The number of detections of at least that score of each class in each image, int [I, C]."""
        there = self.score >= score
        counts = np.zeros(self.truths.shape, np.int64)
        np.add.at(counts, (self.image[there], self.kind[there]), 1)
        return counts


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
    # pycocotools lets an IoU pass that lacks 1e-10 to 1.
    near = pairs.overlap >= np.minimum(OVERLAPS, 1 - 1e-10)[:, None]
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


def average_precisions(images: Images, matches: dict[str, Matches]) -> dict[str, np.ndarray]:
    """The average precision at each IoU of each class, float64 [T, C], for each range of sizes; nan without boxes."""
    found = {}
    for size, of_size in matches.items():
        values = np.full((len(OVERLAPS), len(of_size.truths)), np.nan)
        for kind, part in _by_class(images):
            if of_size.truths[kind] == 0:
                continue
            for place in range(len(OVERLAPS)):
                right, counts = of_size.right[place, part], of_size.counts[place, part]
                values[place, kind] = _precision(right, counts, of_size.truths[kind])
        found[size] = values
    return found


def _by_class(images: Images) -> Iterator[tuple[int, slice]]:
    """Each class and where its detections are."""
    ends = np.searchsorted(images.kind, np.arange(images.truths.shape[1]), side="right")
    start = 0
    for kind, end in enumerate(ends.tolist()):
        yield kind, slice(start, end)
        start = end


def _precision(right: np.ndarray, counts: np.ndarray, truths: int) -> float:
    """The mean of the precision at 101 recalls, of detections [D] in order of their scores."""
    hits, places = np.arange(1, right.sum() + 1), np.flatnonzero(right)
    return float(_mean_precision(hits[None], np.cumsum(counts)[places][None], np.array([truths]))[0])


def _mean_precision(hits: np.ndarray, taken: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """The mean of the precision at 101 recalls, [R], of R lists of detections.

    Args:
        hits: the number of right detections up to each right one and with it, [R, P].
        taken: the number of all detections up to there, [R, P].
        truths: the number of true boxes, at least 1, [R].
    """
    if hits.shape[1] == 0:
        return np.zeros(len(truths))
    # Precision at a recall is the highest at this recall or a higher one.
    precision = ratio(hits, taken)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, hits / truths[:, None], side="right")
    return (np.diff(reached, axis=1, prepend=0) * highest).sum(axis=1) / len(RECALLS)


def found_shares(images: Images, matches: dict[str, Matches]) -> np.ndarray:
    """The share of the true boxes of each class that is found at each IoU, float64 [T, C]; nan without boxes."""
    right, truths = matches["all"].right, matches["all"].truths
    shares = np.empty((len(OVERLAPS), len(truths)))
    for place in range(len(OVERLAPS)):
        hits = np.bincount(images.kind[right[place]], minlength=len(truths))
        shares[place] = ratio(hits, truths, empty=np.nan)
    return shares


def precision_curves(images: Images, matches: dict[str, Matches]) -> np.ndarray:
    """The precision of each class at the 101 recalls, at IoU .5, float64 [C, 101]; nan for classes without boxes."""
    of_all = matches["all"]
    curves = np.full((len(of_all.truths), len(RECALLS)), np.nan)
    for kind, part in _by_class(images):
        truths = of_all.truths[kind]
        if truths == 0:
            continue
        right, counts = of_all.right[0, part], of_all.counts[0, part]
        hits = np.arange(1, right.sum() + 1)
        precision = ratio(hits, np.cumsum(counts)[right])
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        place = np.searchsorted(hits / truths, RECALLS)
        curves[kind] = np.append(highest, 0.0)[place]
    return curves


def intervals(images: Images, matches: dict[str, Matches]) -> Results:
    """Percentiles of map and map50 over samples of the images; of classes without boxes in a sample, none counts."""
    weights = _weights(len(images.truths))
    of_all, truths = matches["all"], weights @ images.truths
    values = np.full((len(weights), len(OVERLAPS), truths.shape[1]), np.nan)
    for kind, part in _by_class(images):
        image, right, counts = images.image[part], of_all.right[:, part], of_all.counts[0, part]
        step = max(1, PART // max(len(image), 1))
        for start in range(0, len(weights), step):
            some = slice(start, start + step)
            weight = weights[some][:, image]
            taken = np.cumsum(weight * counts, axis=1)
            for place in range(len(OVERLAPS)):
                places = np.flatnonzero(right[place])
                hits = np.cumsum(weight[:, places], axis=1)
                values[some, place, kind] = _mean_precision(hits, taken[:, places], truths[some, kind].clip(1))
    values = np.where(truths[:, None, :] > 0, values, np.nan)
    results: Results = {}
    for name, scores in {"map": values, "map50": values[:, :1]}.items():
        means = np.array([_mean(sample) for sample in scores])
        low, high = np.nanpercentile(means, (2.5, 97.5)) if np.isfinite(means).any() else (np.nan, np.nan)
        results |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return results


def _weights(images: int) -> np.ndarray:
    """How often each image is drawn in each sample, int [R, I]."""
    draws = np.random.default_rng(0).integers(images, size=(RESAMPLES, images))
    return np.stack([np.bincount(draw, minlength=images) for draw in draws])


def voc_precisions(images: Images) -> np.ndarray:
    """Pascal VOC's average precision at IoU .5 of each class (since 2010: all points), [C]; nan without true boxes.

    A detection is right if no better one overlaps most the true box that it overlaps most itself.
    """
    right = np.zeros(len(images.image), bool)
    pairs = images.pairs
    # The best pair of each detection is its last one. The first of two equal ones would be VOC's: the same precision.
    last = np.flatnonzero(np.diff(pairs.found, append=-1))
    _, first = np.unique(pairs.true[last], return_index=True)
    right[pairs.found[last][first]] = True
    values = np.full(images.truths.shape[1], np.nan)
    for kind, part in _by_class(images):
        truths = images.truths[:, kind].sum()
        if truths > 0:
            places = np.flatnonzero(right[part])
            precision = np.arange(1, len(places) + 1) / (places + 1)
            highest = np.maximum.accumulate(precision[::-1])[::-1]
            values[kind] = highest.sum() / truths
    return values


def _counted_pairs(truths: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Class, true number, predicted number, and the images that have them, int64 [M, 4], of counts [I, C]."""
    kinds = np.broadcast_to(np.arange(truths.shape[1]), truths.shape)
    rows, images = np.unique(np.stack([kinds, truths, predicted], axis=-1).reshape(-1, 3), axis=0, return_counts=True)
    return np.concatenate([rows, images[:, None]], axis=1)


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


def _mean(values: np.ndarray) -> float:
    """The mean of what is not nan; nan if all is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
