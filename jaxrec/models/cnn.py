"""Plain convolutional networks: alternating convolution and pooling, then one hidden dense layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Conv, Dense, activation, each_example_alone, flatten, max_pool, scaled


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
            if min(x.shape[1:3]) >= 2:
                x = max_pool(x, 2)
        return flatten(x)

    def widest(self, image_shape: tuple[int, ...]) -> int:
        """Numbers in the widest activation of one image: that of the first convolution."""
        height, width = image_shape[:2]
        return height * width * scaled(self.channels[0], self.width)
