"""Losses of a class per pixel; pixels of no class take no part, and their gradient is exactly zero."""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.errors import UserError
from jaxrec.losses.arguments import check_name
from jaxrec.metrics.pixels import pixels_that_count

OHEM_THRESHOLD = 0.7
"""A pixel whose true class has a higher probability is easy."""
OHEM_SHARE = 1 / 16
"""Share of an image's pixels that are kept even if they are easy."""
FOCAL_GAMMA = 2.0


class _Pixels(NamedTuple):
    """What all the losses start from."""

    log_p: jax.Array
    """Log probabilities, float32 [B, H, W, C]."""
    truth: jax.Array
    """The true classes one-hot, bool [B, H, W, C]; all False for a pixel of no class."""
    real: jax.Array
    """Which pixels have a class, bool [B, H, W]."""
    weights: jax.Array
    """Weight of each class, float32 [C]."""

    def cross_entropy(self) -> jax.Array:
        """Per pixel, float32 [B, H, W], without class weights; 0 for a pixel of no class."""
        return -jnp.where(self.truth, self.log_p, 0.0).sum(-1)

    def weight(self) -> jax.Array:
        """The weight of each pixel's true class, float32 [B, H, W]; 0 for a pixel of no class."""
        return jnp.where(self.truth, self.weights, 0.0).sum(-1)


def segmentation(
    logits: jax.Array, mask: jax.Array, *, loss: str, weights: jax.Array | None = None, void: int | None = None
) -> jax.Array:
    """Loss float32 [B] of logits [B, H, W, C] against the true class of each pixel, int [B, H, W].

    A pixel counts if its value is a class, 0 to C - 1, and not ``void``; an image without such pixels has a loss of 0.
    ``loss`` is one of these, or the sum of several, such as ``cross-entropy+dice``:

    - cross-entropy: mean over the image's pixels that count.
    - focal: the same, each pixel times (1 - p)^2 (Lin et al. 2017, https://arxiv.org/abs/1708.02002).
    - ohem: cross-entropy, mean over the hard pixels of each image: those whose true class has a probability of at most
      ``OHEM_THRESHOLD``, or the hardest ``OHEM_SHARE`` of the image if these are more (Shrivastava et al. 2016,
      https://arxiv.org/abs/1604.03540).
    - dice: 1 - 2 sum(p t) / (sum(p) + sum(t)), mean over the classes that the image shows (Milletari et al. 2016,
      https://arxiv.org/abs/1606.04797, without squares).

    ``weights`` [C], such as those of :func:`jaxrec.losses.class_weights`, multiply each pixel by the weight of its
    class; dice, which weighs all classes of an image alike, takes no notice of them. Raises UserError for an unknown
    loss.
    """
    parts = loss.split("+")
    for part in parts:
        check_name("loss", part, tuple(SEGMENTATION_LOSSES))
    if len(set(parts)) < len(parts):
        raise UserError(f"the loss '{loss}' names a part twice; give each of its parts once")
    pixels = _pixels(logits, mask, weights, void)
    values = [SEGMENTATION_LOSSES[part](pixels) for part in parts]
    return functools.reduce(operator.add, values)


def _pixels(logits: jax.Array, mask: jax.Array, weights: jax.Array | None, void: int | None) -> _Pixels:
    chex.assert_rank([logits, mask], [4, 3])
    chex.assert_equal_shape_prefix([logits, mask], 3)
    classes = logits.shape[-1]
    if weights is None:
        weights = jnp.ones(classes, jnp.float32)
    chex.assert_shape(weights, (classes,))
    mask = mask.astype(jnp.int32)
    real = pixels_that_count(mask, classes, void)
    truth = real[..., None] & (mask[..., None] == jnp.arange(classes, dtype=jnp.int32))
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return _Pixels(log_p, truth, real, jnp.asarray(weights, jnp.float32))


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Mean [B] of values [B, H, W] over the pixels that are counted; 0 if there are none."""
    count = counted.sum(axis=(1, 2), dtype=jnp.int32).clip(1).astype(jnp.float32)
    return jnp.where(counted, values, 0.0).sum(axis=(1, 2)) / count


def _cross_entropy(pixels: _Pixels) -> jax.Array:
    return _mean(pixels.weight() * pixels.cross_entropy(), pixels.real)


def _focal(pixels: _Pixels) -> jax.Array:
    cross_entropy = pixels.cross_entropy()
    # The cross-entropy is -log p of the true class.
    modulated = (1 - jnp.exp(-cross_entropy)) ** FOCAL_GAMMA * cross_entropy
    return _mean(pixels.weight() * modulated, pixels.real)


def _ohem(pixels: _Pixels) -> jax.Array:
    cross_entropy = pixels.cross_entropy()
    hard = _hard(jax.lax.stop_gradient(cross_entropy), pixels.real)
    return _mean(pixels.weight() * cross_entropy, hard)


def _hard(cross_entropy: jax.Array, real: jax.Array) -> jax.Array:
    """The pixels that OHEM keeps, bool [B, H, W]."""
    # Pixels of no class come last in the order from the hardest to the easiest.
    hardness = jnp.where(real, cross_entropy, -jnp.inf)
    ordered = jnp.sort(hardness.reshape(len(hardness), -1), axis=1)
    count = real.sum(axis=(1, 2), dtype=jnp.int32)
    least = jnp.ceil(OHEM_SHARE * count.astype(jnp.float32)).astype(jnp.int32).clip(1)
    limit = jnp.take_along_axis(ordered, ordered.shape[1] - least[:, None], axis=1)
    limit = jnp.minimum(limit, -np.log(OHEM_THRESHOLD, dtype=np.float32))
    return real & (hardness >= limit[:, :, None])


def _dice(pixels: _Pixels) -> jax.Array:
    p = jnp.where(pixels.real[..., None], jnp.exp(pixels.log_p), 0.0)
    truth = pixels.truth.astype(jnp.float32)
    overlap, size = (p * truth).sum(axis=(1, 2)), (p + truth).sum(axis=(1, 2))
    shown = pixels.truth.any(axis=(1, 2))
    # The inner where keeps 0 / 0, of an image without pixels, out of the gradient.
    missed = 1 - 2 * overlap / jnp.where(shown, size, 1.0)
    return jnp.where(shown, missed, 0.0).sum(axis=1) / shown.sum(axis=1, dtype=jnp.int32).clip(1).astype(jnp.float32)


SEGMENTATION_LOSSES: dict[str, Callable[[_Pixels], jax.Array]] = {
    "cross-entropy": _cross_entropy,
    "dice": _dice,
    "ohem": _ohem,
    "focal": _focal,
}
"""The losses by name; names joined by + are added."""
