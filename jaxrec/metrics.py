"""Metrics: sums taken on the device, batch by batch, that merge by addition; and distances between sets of features.

A metric's figures do not depend on how the examples were cut into batches: padding is masked out, counts are integers,
and sums of merged batches are float64 on the host. Inside a step, ``jax.lax.psum`` of a metric merges over devices.
"""

from collections.abc import Iterator, Mapping
from typing import Self

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Results = dict[str, float | np.ndarray]

CONFIDENCE_BINS = 15
_SMALLEST_MSE = 1e-10
_BLOCK = 1024


def _add(a: jax.typing.ArrayLike, b: jax.typing.ArrayLike) -> jax.Array | np.ndarray:
    if isinstance(a, jax.Array) and isinstance(b, jax.Array):
        return a + b
    wide = np.int64 if np.issubdtype(np.asarray(a).dtype, np.integer) else np.float64
    return np.add(a, b, dtype=wide)


class Metric(flax.struct.PyTreeNode):
    """A pytree of sums over examples."""

    def merge(self, other: Self) -> Self:
        """The sums over both; in int64 and float64 unless both sides are jax arrays."""
        return jax.tree.map(_add, self, other)

    def compute(self) -> Results:
        """The figures, computed on the host in float64. Raises ValueError if no example was counted."""
        raise NotImplementedError


def _weights(mask: jax.Array | None, size: int) -> jax.Array:
    return jnp.ones(size, bool) if mask is None else jnp.asarray(mask, bool)


def _total(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Sum of [B] over the real examples; where, not a product, so that padding may hold anything."""
    chex.assert_equal_shape([values, mask])
    return jnp.where(mask, jnp.asarray(values, jnp.float32), 0.0).sum()


def _count(hits: jax.Array, axis: int | None = None) -> jax.Array:
    return hits.sum(axis=axis, dtype=jnp.int32)


def _examples(count: jax.typing.ArrayLike) -> int:
    if np.asarray(count) == 0:
        raise ValueError("a metric over no examples: got only masked ones, expected at least one that is not")
    return int(np.asarray(count))


def _ratio(a: np.ndarray, b: np.ndarray, empty: float = 0.0) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.divide(a, b, out=np.full(b.shape, empty), where=b != 0)


def _retrieval(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1, averaged over the classes three ways, as scikit-learn's with zero_division=0."""
    result = {}
    for name, top, bottom in (
        ("precision", hits, predicted),
        ("recall", hits, support),
        ("f1", 2 * hits, predicted + support),
    ):
        per_class = _ratio(top, bottom)
        result[f"{name}_macro"] = float(per_class.mean())
        result[f"{name}_micro"] = float(_ratio(top.sum(), bottom.sum()))
        result[f"{name}_weighted"] = float(_ratio((per_class * support).sum(), support.sum()))
    return result


class Classification(Metric):
    """Single-label classification: confusion matrix, loss, top-5 and calibration."""

    confusion: jax.Array
    """int32 [C, C]; rows are true classes, columns predicted ones."""
    loss: jax.Array
    top5: jax.Array
    bin_count: jax.Array
    bin_confidence: jax.Array
    bin_correct: jax.Array

    @classmethod
    def from_batch(cls, logits: jax.Array, label: jax.Array, mask: jax.Array | None, loss: jax.Array) -> Self:
        """From logits [B, C], label int32 [B] in [0, C), mask bool [B] (None: all real) and loss [B]; pure.

        What masked entries hold, labels out of range included, does not matter.
        """
        chex.assert_rank([logits, label], [2, 1])
        classes = logits.shape[1]
        mask = _weights(mask, logits.shape[0])
        logits = jnp.asarray(logits, jnp.float32)
        predicted = logits.argmax(axis=1)
        top5 = jax.lax.top_k(logits, min(5, classes))[1]
        confidence = jnp.where(mask, jax.nn.softmax(logits).max(axis=1), 0.0)
        # Bins (m - 1, m] / 15 as in Guo et al. 2017.
        index = jnp.ceil(confidence * CONFIDENCE_BINS).astype(jnp.int32) - 1
        member = (index[:, None].clip(0) == jnp.arange(CONFIDENCE_BINS)) & mask[:, None]
        return cls(
            confusion=jnp.zeros((classes, classes), jnp.int32).at[label, predicted].add(mask.astype(jnp.int32)),
            loss=_total(loss, mask),
            top5=_count((top5 == label[:, None]).any(axis=1) & mask),
            bin_count=_count(member, axis=0),
            bin_confidence=jnp.where(member, confidence[:, None], 0.0).sum(axis=0),
            bin_correct=_count(member & (predicted == label)[:, None], axis=0),
        )

    def compute(self) -> Results:
        """Figures by name, all shares in [0, 1].

        loss, accuracy, top5_accuracy (more than 5 classes only); precision, recall and f1, each _macro, _micro and
        _weighted, over all C classes, absent ones counting 0; calibration_error (expected calibration error, Guo et al.
        2017, 15 equal bins); per_class_accuracy [C], nan for absent classes; worst_class and worst_class_accuracy
        over the classes present; confusion int64 [C, C].
        """
        confusion = np.asarray(self.confusion, np.int64)
        count = _examples(confusion.sum())
        hits, support = confusion.diagonal(), confusion.sum(axis=1)
        per_class = _ratio(hits, support, empty=np.nan)
        worst = int(np.nanargmin(per_class))
        gaps = np.asarray(self.bin_correct, np.float64) - np.asarray(self.bin_confidence, np.float64)
        top5 = {"top5_accuracy": int(self.top5) / count} if len(confusion) > 5 else {}
        return {
            "loss": float(self.loss) / count,
            "accuracy": float(hits.sum() / count),
            **top5,
            **_retrieval(hits, confusion.sum(axis=0), support),
            "calibration_error": float(np.abs(gaps).sum() / count),
            "worst_class_accuracy": float(per_class[worst]),
            "worst_class": worst,
            "per_class_accuracy": per_class,
            "confusion": confusion,
        }


class MultiLabel(Metric):
    """Independent yes or no per class, decided at probability 1/2; a binary problem is one class."""

    true_positive: jax.Array
    false_positive: jax.Array
    false_negative: jax.Array
    true_negative: jax.Array
    exact: jax.Array
    loss: jax.Array
    count: jax.Array

    @classmethod
    def from_batch(cls, logits: jax.Array, label: jax.Array, mask: jax.Array | None, loss: jax.Array) -> Self:
        """From logits [B, C], label [B, C] in {0, 1}, mask bool [B] (None: all real) and loss [B]; pure."""
        chex.assert_equal_shape([logits, label])
        chex.assert_rank(logits, 2)
        mask = _weights(mask, logits.shape[0])
        real = mask[:, None]
        yes, true = logits > 0, jnp.asarray(label, bool)
        return cls(
            true_positive=_count(yes & true & real, axis=0),
            false_positive=_count(yes & ~true & real, axis=0),
            false_negative=_count(~yes & true & real, axis=0),
            true_negative=_count(~yes & ~true & real, axis=0),
            exact=_count((yes == true).all(axis=1) & mask),
            loss=_total(loss, mask),
            count=_count(mask),
        )

    def compute(self) -> Results:
        """Figures by name, all shares in [0, 1].

        loss; accuracy over all labels; exact_match, the share of examples with every label right; precision, recall and
        f1, each _macro, _micro and _weighted.
        """
        count = _examples(self.count)
        tp, fp, fn, tn = (
            np.asarray(x, np.int64)
            for x in (self.true_positive, self.false_positive, self.false_negative, self.true_negative)
        )
        return {
            "loss": float(self.loss) / count,
            "accuracy": float((tp + tn).sum() / (tp + fp + fn + tn).sum()),
            "exact_match": int(self.exact) / count,
            **_retrieval(tp, tp + fp, tp + fn),
        }


class Average(Metric):
    """Means of named per-example values."""

    totals: dict[str, jax.Array]
    count: jax.Array

    @classmethod
    def from_batch(cls, values: Mapping[str, jax.Array], mask: jax.Array | None = None) -> Self:
        """From at least one named array of values [B] and mask bool [B] (None: all real); pure."""
        mask = _weights(mask, next(iter(values.values())).shape[0])
        return cls(totals={name: _total(x, mask) for name, x in values.items()}, count=_count(mask))

    def compute(self) -> Results:
        """The mean of each value over the real examples."""
        count = _examples(self.count)
        return {name: float(total) / count for name, total in self.totals.items()}


class Reconstruction(Metric):
    """How near images are to their targets."""

    images: Average

    @classmethod
    def from_batch(cls, prediction: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> Self:
        """From prediction and target, both [B, H, W, C] in [0, 1], and mask bool [B] (None: all real); pure."""
        chex.assert_equal_shape([prediction, target])
        prediction, target = jnp.asarray(prediction, jnp.float32), jnp.asarray(target, jnp.float32)
        mse = jnp.square(prediction - target).mean(axis=(1, 2, 3))
        psnr = -10 * jnp.log10(jnp.maximum(mse, _SMALLEST_MSE))
        return cls(Average.from_batch({"mse": mse, "psnr": psnr, "ssim": ssim(prediction, target)}, mask))

    def compute(self) -> Results:
        """Figures by name: mse over all pixels (images of one size), psnr in dB from that mse, psnr_mean and ssim.

        psnr_mean and ssim are means over images. PSNR is capped at 100 dB: perfect images leave the mean finite.
        """
        means = self.images.compute()
        psnr = -10 * float(np.log10(max(float(means["mse"]), _SMALLEST_MSE)))
        return {"mse": means["mse"], "psnr": psnr, "psnr_mean": means["psnr"], "ssim": means["ssim"]}


def _blur_matrix(side: int, window: int) -> np.ndarray:
    """float32 [side - window + 1, side]: the Gaussian window (sigma 1.5) at every place where it fits."""
    taps = np.exp(-0.5 * ((np.arange(window) - window // 2) / 1.5) ** 2)
    offset = np.arange(side) - np.arange(side - window + 1)[:, None]
    inside = (offset >= 0) & (offset < window)
    return np.where(inside, (taps / taps.sum())[offset.clip(0, window - 1)], 0).astype(np.float32)


def ssim(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Structural similarity, float32 [B], of images [B, H, W, C] in [0, 1]; 1 where they are equal.

    Wang et al. 2004: Gaussian window of 11 pixels and sigma 1.5, K1 .01, K2 .03, the region where the window fits;
    averaged over channels. Images smaller than 11 pixels use the largest odd window that fits.
    """
    chex.assert_equal_shape([prediction, target])
    _, height, width, _ = prediction.shape
    window = min(11, (min(height, width) - 1) // 2 * 2 + 1)
    rows, columns = _blur_matrix(height, window), _blur_matrix(width, window)

    def blur(x: jax.Array) -> jax.Array:
        # Accelerators would round the factors to 10 bits or fewer, and variances are differences of these.
        return jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns, precision=jax.lax.Precision.HIGHEST)

    x, y = jnp.asarray(prediction, jnp.float32), jnp.asarray(target, jnp.float32)
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x * mean_x, blur(y * y) - mean_y * mean_y
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(axis=(1, 2, 3))


def _feature_pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features of shapes {a.shape} and {b.shape}: expected [N, D] and [M, D], N and M at least 2")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features hold nan or infinity: expected finite numbers")
    return a, b


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


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
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # tr (A^1/2 B A^1/2)^1/2 is the sum of the singular values of A^1/2 B^1/2, and loses no digits where A is singular.
    overlap = np.linalg.norm(_root(cov_a) @ _root(cov_b), "nuc")
    return float(np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * overlap)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy, kernel (x.y / D + 1)^3, of features a [N, D] and b [M, D].

    Binkowski et al. 2018, https://arxiv.org/abs/1801.01401 (KID on Inception features); below 0 by chance.
    Raises ValueError for features that are not finite [N, D] with N at least 2.
    """
    a, b = _feature_pair(a, b)

    def total(x: np.ndarray, y: np.ndarray) -> float:
        rows = (x[block] @ y.T / x.shape[1] + 1 for block in _blocks(len(x)))
        # numpy's ** 3 goes through pow and takes over ten times as long.
        return sum(float((row * row * row).sum()) for row in rows)

    def within(x: np.ndarray) -> float:
        diagonal = ((np.mean(x * x, axis=1) + 1) ** 3).sum()
        return (total(x, x) - float(diagonal)) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b))


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2 * x @ y.T


def _squared_radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance [N] of each point to its k-th nearest neighbour, itself not counted."""
    radii = np.empty(len(x))
    for block in _blocks(len(x)):
        distances = _squared_distances(x[block], x)
        rows = np.arange(len(distances))
        distances[rows, block.start + rows] = -np.inf
        radii[block] = np.partition(distances, k, axis=1)[:, k]
    return radii


def coverage_statistics(real: np.ndarray, fake: np.ndarray, k: int = 5) -> dict[str, float]:
    """Fidelity and diversity of generated features [M, D] against real ones [N, D], by balls to k-th neighbours.

    precision and recall (Kynkaanniemi et al. 2019): share of generated points in some real ball, and the reverse.
    density and coverage (Naeem et al. 2020): real balls per generated point over k, which may pass 1, and share of real
    balls that hold a generated point. Raises ValueError unless both sets hold more than k finite points.
    """
    real, fake = _feature_pair(real, fake)
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"k = {k} with {len(real)} real and {len(fake)} generated points: expected more points than k")
    # Distances are differences of squares, so the nearer the origin the smaller the rounding.
    centre = real.mean(axis=0)
    real, fake = real - centre, fake - centre
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    precise = np.zeros(len(fake), bool)
    recalled = covered = inside_total = 0
    for block in _blocks(len(real)):
        distances = _squared_distances(real[block], fake)
        inside = distances <= real_radii[block, None]
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
    classes, log C where all are equally frequent. class_consistency: share of samples seen as their intended class,
    int [N], where that is given.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or len(probabilities) == 0:
        raise ValueError(f"probabilities of shape {probabilities.shape}: expected [N, C] with N at least 1")
    size, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    counts = np.bincount(predicted, minlength=classes)
    shares = counts[counts > 0] / size
    result: dict[str, float] = {
        "modes": int((counts >= max(1, size / (10 * classes))).sum()),
        "class_entropy": float(-(shares * np.log(shares)).sum()) + 0.0,
    }
    if intended is not None:
        chex.assert_equal_shape([predicted, np.asarray(intended)])
        result["class_consistency"] = float((predicted == np.asarray(intended)).mean())
    return result
