"""Distances between two sets of features or classes: how far generated images are from real ones."""

from collections.abc import Iterator
from typing import Self

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.metrics.sums import Metric, Results, at_least_one, real_examples

BLOCK = 1024
"""Points whose distances to all others are held in memory at once."""


def _feature_pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features of shapes {a.shape} and {b.shape}: expected [N, D] and [M, D], N and M at least 2")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features hold nan or infinity: expected finite numbers")
    return a, b


def _blocks(size: int, block: int) -> Iterator[slice]:
    """Slices of ``block`` points each that cover ``size`` points."""
    for start in range(0, size, block):
        yield slice(start, start + block)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    # Rounding leaves eigenvalues of a singular covariance slightly below 0.
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance between Gaussians fitted to features a [N, D] and b [M, D] (Heusel et al. 2017).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2). It is called FID only on Inception features.
    Raises ValueError for features that are not finite [N, D] with N at least 2.
    """
    a, b = _feature_pair(a, b)
    covariance_a = np.atleast_2d(np.cov(a, rowvar=False))
    covariance_b = np.atleast_2d(np.cov(b, rowvar=False))
    # tr (A^1/2 B A^1/2)^1/2 is the sum of the singular values of A^1/2 B^1/2, and loses no digits if A is singular.
    overlap = np.linalg.norm(_root(covariance_a) @ _root(covariance_b), "nuc")
    means_apart = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return float(means_apart + np.trace(covariance_a) + np.trace(covariance_b) - 2 * overlap)


class FeatureDistance(Metric):
    """The Frechet distance of two sets of features. It merges on the host alone, by joining arrays, not by ``psum``."""

    a: jax.Array
    """float32 [B, D]."""
    b: jax.Array
    """float32 [B, D]."""
    real: jax.Array
    """bool [B], False for padding."""
    name: str = flax.struct.field(pytree_node=False)

    @classmethod
    def from_batch(cls, a: jax.Array, b: jax.Array, real: jax.Array | None = None, *, name: str) -> Self:
        """From features a and b, both [B, D], and real bool [B], False for padding (None: all real); pure."""
        chex.assert_rank(a, 2)
        chex.assert_equal_shape([a, b])
        return cls(
            a=jnp.asarray(a, jnp.float32), b=jnp.asarray(b, jnp.float32), real=real_examples(real, len(a)), name=name
        )

    def merge(self, other: Self) -> Self:
        """The features of both."""
        return jax.tree.map(lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)]), self, other)

    def compute(self) -> Results:
        """The distance, by the metric's name; of a single pair, the squared distance of the two."""
        real = np.asarray(self.real)
        a, b = np.asarray(self.a, np.float64)[real], np.asarray(self.b, np.float64)[real]
        if at_least_one(real.sum()) == 1:
            return {self.name: float(np.sum((a - b) ** 2))}
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return {self.name: float("nan")}
        return {self.name: frechet_distance(a, b)}


def kernel_distance(a: np.ndarray, b: np.ndarray, *, block: int = BLOCK) -> float:
    """Unbiased squared maximum mean discrepancy, kernel (x.y / D + 1)^3, of features a [N, D] and b [M, D].

    Binkowski et al. 2018, https://arxiv.org/abs/1801.01401 (KID on Inception features); below 0 by chance. ``block``
    is the number of points that are compared with all others at once. Raises ValueError for features that are not
    finite [N, D] with N at least 2.
    """
    a, b = _feature_pair(a, b)
    between = _kernel_sum(a, b, block) / (len(a) * len(b))
    return _kernel_within(a, block) + _kernel_within(b, block) - 2 * between


def _kernel_sum(x: np.ndarray, y: np.ndarray, block: int) -> float:
    """The sum of the kernel over all pairs of a row of x and a row of y."""
    total = 0.0
    for rows in _blocks(len(x), block):
        products = x[rows] @ y.T / x.shape[1] + 1
        # numpy's ** 3 goes through pow and takes over ten times as long.
        total += float((products * products * products).sum())
    return total


def _kernel_within(x: np.ndarray, block: int) -> float:
    """The mean of the kernel over all pairs of two different rows of x."""
    with_themselves = float(((np.mean(x * x, axis=1) + 1) ** 3).sum())
    return (_kernel_sum(x, x, block) - with_themselves) / (len(x) * (len(x) - 1))


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [N, M] of rows x [N, D] and y [M, D]."""
    return (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2 * x @ y.T


def _squared_radii(x: np.ndarray, k: int, block: int) -> np.ndarray:
    """Squared distance [N] of each point to its k-th nearest neighbor, itself not counted."""
    radii = np.empty(len(x))
    for part in _blocks(len(x), block):
        distances = _squared_distances(x[part], x)
        rows = np.arange(len(distances))
        distances[rows, part.start + rows] = -np.inf
        radii[part] = np.partition(distances, k, axis=1)[:, k]
    return radii


def coverage_statistics(real: np.ndarray, fake: np.ndarray, k: int = 5, *, block: int = BLOCK) -> dict[str, float]:
    """Fidelity and diversity of generated features [M, D] against real ones [N, D], by balls to k-th neighbors.

    precision and recall (Kynkaanniemi et al. 2019): share of generated points in some real ball, and the reverse.
    density and coverage (Naeem et al. 2020): real balls per generated point over k, which may pass 1, and share of real
    balls that hold a generated point. ``block`` is the number of points that are compared with all others at once.
    Raises ValueError unless both sets hold more than k finite points.
    """
    real, fake = _feature_pair(real, fake)
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"k = {k} with {len(real)} real and {len(fake)} generated points: expected more points than k")
    # Distances are differences of squares, so the nearer the origin the smaller the rounding.
    center = real.mean(axis=0)
    real, fake = real - center, fake - center
    real_radii, fake_radii = _squared_radii(real, k, block), _squared_radii(fake, k, block)
    precise = np.zeros(len(fake), bool)
    recalled = covered = inside_total = 0
    for part in _blocks(len(real), block):
        distances = _squared_distances(real[part], fake)
        inside = distances <= real_radii[part, None]
        precise |= inside.any(axis=0)
        covered += int(inside.any(axis=1).sum())
        inside_total += int(inside.sum())
        recalled += int((distances <= fake_radii).any(axis=1).sum())
    return {
        "precision": float(precise.mean()),
        "recall": recalled / len(real),
        "density": inside_total / (k * len(fake)),
        "coverage": covered / len(real),
    }


def class_statistics(probabilities: np.ndarray, intended: np.ndarray | None = None) -> dict[str, float]:
    """What a classifier sees in generated images, from its probabilities [N, C]; N at least 1.

    modes: classes predicted for at least max(1, N / (10 C)) samples. class_entropy: entropy in nats of the predicted
    classes, log C if all are equally frequent. kl_to_uniform: log C less that entropy. class_consistency, if
    ``intended`` int [N] is given: share of samples seen as the class that they were meant to be. Raises ValueError for
    probabilities of another shape.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or len(probabilities) == 0:
        raise ValueError(f"probabilities of shape {probabilities.shape}: expected [N, C] with N at least 1")
    size, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    counts = np.bincount(predicted, minlength=classes)
    shares = counts[counts > 0] / size
    entropy = float(-(shares * np.log(shares)).sum()) + 0.0
    result: dict[str, float] = {
        "modes": int((counts >= max(1, size / (10 * classes))).sum()),
        "class_entropy": entropy,
        "kl_to_uniform": float(np.log(classes)) - entropy,
    }
    if intended is not None:
        chex.assert_equal_shape([predicted, np.asarray(intended)])
        result["class_consistency"] = float((predicted == np.asarray(intended)).mean())
    return result
