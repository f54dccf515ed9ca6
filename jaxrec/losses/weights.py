"""Weights of classes in a loss, from how often they occur."""

from typing import get_args

import numpy as np

from jaxrec.errors import UserError
from jaxrec.losses.arguments import check_name
from jaxrec.settings.common import ClassWeights

BETA = 0.999
"""Of the effective number of samples: a class of many more than 1 / (1 - BETA) examples counts as one of that many."""


def class_weights(counts: np.ndarray, kind: ClassWeights) -> np.ndarray:
    """Weights float32 [C] of classes that have so many examples or pixels, int64 [C], in the training set.

    With f the share of a class and n its count, the weights are proportional to

    - none: 1.
    - inverse: 1 / f.
    - sqrt: 1 / sqrt(f).
    - effective: (1 - BETA) / (1 - BETA^n), one over the effective number of samples (Cui et al. 2019,
      https://arxiv.org/abs/1901.05555).
    - median: 1 / f, too.

    They are scaled to a mean of 1 over the examples or pixels; with median, to 1 for the class of median share (Eigen &
    Fergus 2015, https://arxiv.org/abs/1411.4734, with shares in the whole set rather than in the images that show the
    class). A class that does not occur gets 0, and has no part in the scale. Raises UserError for an unknown kind or if
    no class occurs.
    """
    check_name("class weights", kind, get_args(ClassWeights))
    counts = np.asarray(counts, np.int64)
    occurs = counts > 0
    if not occurs.any():
        raise UserError("class weights need at least one example or pixel of a class; got none: check the data")
    share = counts[occurs] / counts.sum()
    weights = np.zeros(len(counts), np.float32)
    if kind == "none":
        return np.ones(len(counts), np.float32)
    if kind == "median":
        weights[occurs] = np.median(share) / share
        return weights
    positive = _inverse_of(kind, share, counts[occurs])
    weights[occurs] = positive / (positive * share).sum()
    return weights


def _inverse_of(kind: ClassWeights, share: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Weights of the classes that occur, before they are scaled."""
    if kind == "inverse":
        return 1 / share
    if kind == "sqrt":
        return 1 / np.sqrt(share)
    # 1 - BETA^n loses no digits for a BETA near 1.
    return (1 - BETA) / -np.expm1(counts * np.log(BETA))
