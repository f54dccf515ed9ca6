"""Explanations by gradients: at the image, around it, and on the way to it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrec.after.explain.variants import Baseline, Score, total

STEPS = 256
"""Points on the way from the baseline to the image."""
SAMPLES = 32
"""Noisy copies of an image."""


def gradient(score: Score, image: jax.Array) -> jax.Array:
    """How the score changes with each number of the image (Simonyan et al. 2014), float32 [..., C]."""
    return jax.grad(lambda image: score(image[None])[0])(image)


def smooth_gradient(
    score: Score, image: jax.Array, key: jax.Array, samples: int = SAMPLES, deviation: float = 0.15
) -> jax.Array:
    """SmoothGrad (Smilkov et al. 2017): the mean gradient of copies of the image with normal noise, float32 [..., C].

    ``deviation`` is the noise's standard deviation as a share of the image's range of values.
    """
    spread = deviation * (image.max() - image.min())

    def noisy(keys: jax.Array) -> jax.Array:
        return image + spread * jax.vmap(lambda key: jax.random.normal(key, image.shape))(keys)

    return _summed_gradients(score, noisy, jax.random.split(key, samples), image) / samples


def integrated_gradients(score: Score, image: jax.Array, baseline: Baseline = 0.0, steps: int = STEPS) -> jax.Array:
    """Integrated gradients (Sundararajan et al. 2017), float32 [..., C].

    The mean gradient on the straight line from the baseline to the image, times their difference. The values add up to
    the difference of the two scores, but for the error of the sum over ``steps`` points.
    """
    way = image - baseline

    def on_the_way(shares: jax.Array) -> jax.Array:
        return baseline + shares.reshape(-1, *[1] * image.ndim) * way

    middles = (jnp.arange(steps, dtype=jnp.float32) + 0.5) / steps
    return way * _summed_gradients(score, on_the_way, middles, image) / steps


def _summed_gradients(
    score: Score, variants: Callable[[jax.Array], jax.Array], values: jax.Array, image: jax.Array
) -> jax.Array:
    """The sum [..., C] of the gradients at the variants [N, ..., C] of an image that values [N] stand for."""

    def of_some(values: jax.Array, counts: jax.Array) -> jax.Array:
        gradients = jax.grad(lambda images: counts @ score(images))(variants(values))
        return gradients.sum(0)

    return total(of_some, values, image)
