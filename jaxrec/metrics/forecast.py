"""Metrics of forecast frames, beside those of a copy of the last frame that was given."""

from typing import Self

import chex
import jax
import jax.numpy as jnp

from jaxrec.errors import UserError
from jaxrec.metrics.reconstruction import SMALLEST_MSE, ssim
from jaxrec.metrics.sums import Average, Metric, Results


class Forecast(Metric):
    """How near forecast frames are to the true ones; a frame of a long clip counts as much as one of a short clip."""

    frames: Average

    @classmethod
    def from_batch(cls, forecast: jax.Array, last: jax.Array, true: jax.Array, there: jax.Array) -> Self:
        """From the forecast and true frames, both [B, F, H, W, C], and the last given frame [B, H, W, C]; pure.

        Values are in [0, 1]. Frames of which ``there``, bool [B, F], is False do not count.
        """
        chex.assert_equal_shape([forecast, true])
        copies = jnp.broadcast_to(last[:, None], true.shape)
        values = of_frames(forecast, true)
        for name, value in of_frames(copies, true).items():
            values[f"copy_{name}"] = value
        flat = {name: value.reshape(-1) for name, value in values.items()}
        return cls(Average.from_batch(flat, there.reshape(-1)))

    def compute(self) -> Results:
        """Means over the frames of ``of_frames``, by name, and with ``copy_`` before it those of the copies.

        Raises UserError if there is no frame to forecast.
        """
        if not int(self.frames.count):
            raise UserError(
                "no clip of the split goes on after the given frames, so that nothing can be compared with a forecast; "
                "give a smaller --given"
            )
        return self.frames.compute()


def of_frames(forecast: jax.Array, true: jax.Array) -> dict[str, jax.Array]:
    """Errors of each frame, float32 [B, F], of frames [B, F, H, W, C] in [0, 1].

    ``mse`` and ``mae`` are sums over the pixels, as is usual for Moving MNIST; ``psnr`` is in dB, at most 100;
    ``ssim`` is ``jaxrec.metrics.ssim``.
    """
    batch, count = true.shape[:2]
    forecast, true = jnp.asarray(forecast, jnp.float32), jnp.asarray(true, jnp.float32)
    pixels = (2, 3, 4)
    squares = jnp.square(forecast - true)
    psnr = -10 * jnp.log10(jnp.maximum(squares.mean(pixels), SMALLEST_MSE))
    folded = [frames.reshape(batch * count, *frames.shape[2:]) for frames in (forecast, true)]
    return {
        "mse": squares.sum(pixels),
        "mae": jnp.abs(forecast - true).sum(pixels),
        "psnr": psnr,
        "ssim": ssim(*folded).reshape(batch, count),
    }
