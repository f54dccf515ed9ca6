"""Average precision, its curves, and its interval over samples of the images: in numpy, on the host."""

import numpy as np

from jaxrec.metrics.matching import OVERLAPS, PART, Images, Matches
from jaxrec.metrics.sums import Results, ratio

RECALLS = np.linspace(0.0, 1.0, 101)
"""The recalls at which precision is read."""
RESAMPLES = 200
"""Samples of the images that the interval is of."""


def average_precisions(images: Images, matches: dict[str, Matches]) -> dict[str, np.ndarray]:
    """The average precision at each IoU of each class, float64 [T, C], for each range of sizes; nan without boxes."""
    found = {}
    for size, of_size in matches.items():
        values = np.full((len(OVERLAPS), len(of_size.truths)), np.nan)
        for kind, part in images.by_class():
            if of_size.truths[kind] == 0:
                continue
            for place in range(len(OVERLAPS)):
                right, counts = of_size.right[place, part], of_size.counts[place, part]
                values[place, kind] = _precision(right, counts, of_size.truths[kind])
        found[size] = values
    return found


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
    for kind, part in images.by_class():
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
    for kind, part in images.by_class():
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
        means = np.array([mean_of_defined(sample) for sample in scores])
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
    for kind, part in images.by_class():
        truths = images.truths[:, kind].sum()
        if truths > 0:
            places = np.flatnonzero(right[part])
            precision = np.arange(1, len(places) + 1) / (places + 1)
            highest = np.maximum.accumulate(precision[::-1])[::-1]
            values[kind] = highest.sum() / truths
    return values


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of what is not nan; nan if all is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
