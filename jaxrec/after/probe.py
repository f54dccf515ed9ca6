"""A linear probe and nearest neighbors: what can be told from the features of a network as they are."""

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse strengths of the L2 penalty that are tried, the strongest penalty first."""
ITERATIONS = 200
NEIGHBORS = 20
TEMPERATURE = 0.07
"""Of the neighbors' weights (Wu et al. 2018)."""


class Head(NamedTuple):
    """A linear layer from features to logits."""

    kernel: np.ndarray
    """float32 [D, C]."""
    bias: np.ndarray
    """float32 [C]."""

    def accuracy(self, features: np.ndarray, label: np.ndarray) -> float:
        """The share of features [N, D] whose highest logit is that of the class, int [N]."""
        return float(np.mean((features @ self.kernel + self.bias).argmax(1) == label))


def linear_head(
    features: np.ndarray, label: np.ndarray, classes: int, held_out: tuple[np.ndarray, np.ndarray] | None = None
) -> Head:
    """The logistic regression of classes on features.

    Args:
        features: float32 [N, D].
        label: int [N], the class of each, below ``classes``.
        classes: how many there are; one that does not occur gets the lowest logit.
        held_out: features and classes by which the strength of the penalty is chosen. Default: the second weakest.

    Raises:
        ValueError: fewer than two classes occur.
    """
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    standardized = (features - mean) / deviation
    # Each fit starts from the one before.
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    best, best_accuracy = None, -1.0
    for strength in STRENGTHS if held_out is not None else STRENGTHS[-2:-1]:
        model.set_params(C=strength).fit(standardized, label)
        head = _head(model, classes, mean, deviation)
        accuracy = 0.0 if held_out is None else head.accuracy(*held_out)
        if accuracy > best_accuracy:
            best, best_accuracy = head, accuracy
    assert best is not None
    return best


def _head(model: LogisticRegression, classes: int, mean: np.ndarray, deviation: np.ndarray) -> Head:
    """The model as a layer on features that are not standardized."""
    weights, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(weights) == 1:  # Of two classes, scikit-learn keeps the difference.
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    kernel = np.zeros((len(mean), classes))
    lowest = np.full(classes, bias.min() - 10)
    kernel[:, model.classes_] = weights.T / deviation[:, None]
    lowest[model.classes_] = bias - weights @ (mean / deviation)
    return Head(kernel.astype(np.float32), lowest.astype(np.float32))


def neighbors_accuracy(features: np.ndarray, label: np.ndarray, asked: np.ndarray, expected: np.ndarray) -> float:
    """The share of features ``asked`` [M, D] whose nearest of ``features`` [N, D] vote for the expected class, int [M].

    The 20 nearest by cosine vote for theirs, int [N], the nearer the more.
    """
    near, far = _unit(asked), _unit(features)
    similar = near @ far.T
    count = min(NEIGHBORS, len(features))
    nearest = np.argpartition(-similar, count - 1, axis=1)[:, :count]
    weights = np.exp(np.take_along_axis(similar, nearest, 1) / TEMPERATURE)
    votes = np.zeros((len(asked), int(label.max()) + 1))
    rows = np.arange(len(asked))[:, None]
    np.add.at(votes, (rows, label[nearest]), weights)
    return float(np.mean(votes.argmax(1) == expected))


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
