"""Metrics of images given back: squared error, signal-to-noise ratio, structural similarity."""

from typing import Self

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.metrics.sums import Average, Metric, Results

SMALLEST_MSE = 1e-10
"""Caps the signal-to-noise ratio of perfect images at 100 dB, which leaves the mean over images finite."""


class Reconstruction(Metric):
    """How near images are to their targets."""

    images: Average

    @classmethod
    def from_batch(cls, prediction: jax.Array, target: jax.Array, real: jax.Array | None = None) -> Self:
        """From prediction and target, both [B, H, W, C] in [0, 1], and real bool [B] (None: all real); pure."""
        chex.assert_equal_shape([prediction, target])
        prediction, target = jnp.asarray(prediction, jnp.float32), jnp.asarray(target, jnp.float32)
        mse = jnp.square(prediction - target).mean(axis=(1, 2, 3))
        psnr = -10 * jnp.log10(jnp.maximum(mse, SMALLEST_MSE))
        values = {"mse": mse, "psnr": psnr, "ssim": ssim(prediction, target)}
        return cls(Average.from_batch(values, real))

    def compute(self) -> Results:
        """Values by name: mse over all pixels (images of one size), psnr in dB from that mse, psnr_mean and ssim.

        psnr_mean and ssim are means over images. PSNR is capped at 100 dB: perfect images leave the mean finite.
        """
        means = self.images.compute()
        psnr = -10 * float(np.log10(max(float(means["mse"]), SMALLEST_MSE)))
        return {"mse": means["mse"], "psnr": psnr, "psnr_mean": means["psnr"], "ssim": means["ssim"]}


def ssim(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Structural similarity, float32 [B], of images [B, H, W, C] in [0, 1]; 1 if they are equal.

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


def _blur_matrix(side: int, window: int) -> np.ndarray:
    """float32 [side - window + 1, side]: the Gaussian window (sigma 1.5) at every place where it fits."""
    taps = np.exp(-0.5 * ((np.arange(window) - window // 2) / 1.5) ** 2)
    offset = np.arange(side) - np.arange(side - window + 1)[:, None]
    inside = (offset >= 0) & (offset < window)
    return np.where(inside, (taps / taps.sum())[offset.clip(0, window - 1)], 0).astype(np.float32)
