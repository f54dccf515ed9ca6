"""Features of a convolutional network that has learned nothing: a fixed function on which images can be compared."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Conv, leaky_relu

WIDTH = 16
PARTS = 2
"""Parts of a side that features tell apart."""


class _Network(nn.Module):
    """Three convolutions that halve the image each, and the mean of their last maps in each quarter of the image."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [B, H, W, C] to features [B, 4 * WIDTH]."""
        for layer in range(3):
            x = leaky_relu(
                Conv(WIDTH, 3, 2, use_bias=False, kernel_init=nn.initializers.he_normal(), name=f"{layer}")(x)
            )
        batch, height, width, _ = x.shape
        # Sides are filled up to two parts; an image of a few pixels has no more.
        x = jnp.pad(x, ((0, 0), (0, -height % PARTS), (0, -width % PARTS), (0, 0)))
        cells = x.reshape(batch, PARTS, x.shape[1] // PARTS, PARTS, x.shape[2] // PARTS, WIDTH)
        return cells.mean((2, 4)).reshape(batch, -1)


def random_features(images: jax.Array) -> jax.Array:
    """Features float32 [B, 64] of images float [B, H, W, C] in [0, 1], the same in every run.

    The kernels are drawn from a fixed key. What such features tell of edges, strokes and where they are is coarse, but
    it needs no training and no download, and it does not change during a run.
    """
    network = _Network()
    channels = images.shape[-1]
    variables = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, channels), jnp.float32))
    features = network.apply(variables, images.astype(jnp.float32) * 2 - 1)
    assert isinstance(features, jax.Array)
    return features
