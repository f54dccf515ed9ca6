"""Plain convolutional networks: alternating convolution and pooling, then one hidden dense layer."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Conv, Dense, Maps, activation, each_example_alone, flatten, max_pool, scaled

WIDTHS = 256
"""Channels of the first convolution, at most, of a CNN of :func:`widest_within`."""


class CNN(nn.Module):
    """One 3x3 convolution and one 2x2 pooling per entry of ``channels``, after LeCun et al. (1998)."""

    classes: int
    channels: tuple[int, ...] = (32, 64)
    dense: int = 64
    activation: str = "relu"
    dropout: float = 0.0
    width: float = 1.0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes what follows the convolutions."""
        self.hidden = Dense(scaled(self.dense, self.width), dtype=self.dtype, name="dense")
        self.dropped = nn.Dropout(self.dropout, name="Dropout_0")
        self.head = Dense(self.classes, dtype=self.dtype)

    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Standardized images [B,H,W,C] to logits [B,classes] and features [B,D], float32."""
        x = self.convolved(x.astype(self.dtype))
        features = activation(self.activation)(self.hidden(x))
        logits = self.head(self.dropped(features, deterministic=not train))
        return logits.astype(jnp.float32), features.astype(jnp.float32)

    @each_example_alone
    @nn.compact
    def convolved(self, x: jax.Array) -> jax.Array:
        """[B,H,W,C] to [B,D]. An image of one row or column is pooled no more."""
        act = activation(self.activation)
        for i, channels in enumerate(self.channels, 1):
            x = act(Conv(scaled(channels, self.width), dtype=self.dtype, name=f"conv{i}")(x))
            x = Maps(name=f"maps{i}")(x)
            if min(x.shape[1:3]) >= 2:
                x = max_pool(x, 2)
        return flatten(x)

    def widest(self, image_shape: tuple[int, ...]) -> int:
        """Numbers in the widest activation of one image: that of the first convolution."""
        height, width = image_shape[:2]
        return height * width * scaled(self.channels[0], self.width)


def operations(cnn: CNN, shape: tuple[int, ...]) -> int:
    """Products of two numbers that the CNN makes for an image [H, W, C] of this shape."""
    height, width, channels = shape
    total = 0
    for each in cnn.channels:
        out = scaled(each, cnn.width)
        total += 9 * height * width * channels * out
        channels = out
        if min(height, width) >= 2:
            height, width = height // 2, width // 2
    hidden = scaled(cnn.dense, cnn.width)
    return total + height * width * channels * hidden + hidden * cnn.classes


def widest_within(most: int, shape: tuple[int, ...], fitting: Callable[..., CNN]) -> CNN:
    """The widest ``fitting(width=...)`` that makes at most so many products for an image of this shape, or the least.

    It has what another model is to be compared with: as many operations.
    """
    first = CNN.channels[0]
    channels = 1
    while channels < WIDTHS and operations(fitting(width=(channels + 1) / first), shape) <= most:
        channels += 1
    return fitting(width=channels / first)
