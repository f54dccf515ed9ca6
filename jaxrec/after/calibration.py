"""Calibration: is a class that is said to have a probability of 80 % the right one four times in five?"""

from typing import NamedTuple

import numpy as np

from jaxrec.metrics import CONFIDENCE_BINS

COLDEST, HOTTEST = 0.05, 20.0
"""The temperatures between which one is looked for."""
HALVINGS = 50


class Reliability(NamedTuple):
    """What becomes of predictions, by their confidence: the probability of the class that is predicted."""

    count: np.ndarray
    """int64 [15], predictions in each of 15 equal ranges of confidence."""
    confidence: np.ndarray
    """float64 [15], their mean confidence; nan where there are none."""
    accuracy: np.ndarray
    """float64 [15], the share of them that is right; nan where there are none."""

    @property
    def error(self) -> float:
        """The expected calibration error (Guo et al. 2017): the mean difference of confidence and accuracy."""
        there = self.count > 0
        gaps = np.abs(self.confidence - self.accuracy)[there]
        return float((self.count[there] * gaps).sum() / max(self.count.sum(), 1))


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities float64 [N, C] of logits [N, C] divided by a temperature."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def fit_temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """The temperature from 0.05 to 20 at which logits [N, C] give the true classes int [N] the highest likelihood.

    The predicted classes stay as they are (Guo et al. 2017). Fit it on examples that were not trained on.
    """
    values = np.asarray(logits, np.float64)
    true = values[np.arange(len(values)), label].mean()

    def slope(temperature: float) -> float:
        """That of the loss in 1 / temperature, in which it is convex."""
        return float((probabilities(values, temperature) * values).sum(1).mean() - true)

    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        if slope(1 / middle) > 0:
            high = middle
        else:
            low = middle
    return float(1 / np.sqrt(low * high))


def reliability(probability: np.ndarray, label: np.ndarray) -> Reliability:
    """The reliability of probabilities [N, C], given the true classes int [N]."""
    confidence, right = probability.max(1), probability.argmax(1) == label
    # Ranges (m - 1, m] / 15, as the metric calibration_error has them.
    place = np.clip(np.ceil(confidence * CONFIDENCE_BINS).astype(int) - 1, 0, CONFIDENCE_BINS - 1)
    count = np.bincount(place, minlength=CONFIDENCE_BINS)
    sums = [np.bincount(place, weights=each, minlength=CONFIDENCE_BINS) for each in (confidence, right)]
    with np.errstate(invalid="ignore"):
        return Reliability(count, sums[0] / count, sums[1] / count)


def negative_log_likelihood(probability: np.ndarray, label: np.ndarray) -> float:
    """The mean negative logarithm of the probabilities [N, C] of the true classes int [N]."""
    return float(-np.log(np.maximum(probability[np.arange(len(label)), label], 1e-300)).mean())
