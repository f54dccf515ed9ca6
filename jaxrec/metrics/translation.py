"""Metrics of translated images, beside those of a copy of the input and of the mean of the targets."""

from collections.abc import Mapping
from typing import Self

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.metrics.reconstruction import SMALLEST_MSE, ssim
from jaxrec.metrics.sums import Average, Metric, Results


class Translation(Metric):
    """How near images are to their targets, for several ways to make them."""

    images: Average

    @classmethod
    def from_batch(cls, made: Mapping[str, jax.Array], target: jax.Array, real: jax.Array | None = None) -> Self:
        """From images [B, H, W, C] in [0, 1] by the prefix of their metrics' names, and targets of that shape; pure.

        ``real`` is bool [B], False for padding (None: all real).
        """
        values = {}
        for prefix, images in made.items():
            for name, value in of_images(images, target).items():
                values[prefix + name] = value
        return cls(Average.from_batch(values, real))

    def compute(self) -> Results:
        """Means over the images of ``l1``, ``psnr_per_image`` and ``ssim``, and ``psnr_pooled``, each with its prefix.

        ``psnr_pooled`` is that of the mean squared error of all pixels. Both are in dB, at most 100.
        """
        means = self.images.compute()
        found: Results = {}
        for name, value in means.items():
            if name.endswith("mse"):
                pooled = -10 * float(np.log10(max(float(value), SMALLEST_MSE)))
                found[name.removesuffix("mse") + "psnr_pooled"] = pooled
            else:
                found[name] = value
        return found


def of_images(images: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
    """``l1``, ``mse``, ``psnr_per_image`` (dB, at most 100) and ``ssim`` of each image, float32 [B]."""
    chex.assert_equal_shape([images, target])
    images, target = jnp.asarray(images, jnp.float32), jnp.asarray(target, jnp.float32)
    mse = jnp.square(images - target).mean((1, 2, 3))
    return {
        "l1": jnp.abs(images - target).mean((1, 2, 3)),
        "mse": mse,
        "psnr_per_image": -10 * jnp.log10(jnp.maximum(mse, SMALLEST_MSE)),
        "ssim": ssim(images, target),
    }
