"""Plain convolutional networks: convolution and pooling by turns, then one hidden dense layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Conv, Dense, activation, flatten, in_parts, max_pool, scaled


class CNN(nn.Module):
    """One 3x3 convolution and one 2x2 pooling per entry of ``channels``, after LeCun et al. (1998)."""

    classes: int
    channels: tuple[int, ...] = (32, 64)
    dense: int = 64
    activation: str = "relu"
    dropout: float = 0.0
    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Standardised images [B,H,W,C] to logits [B,classes] and features [B,D], float32."""
        act = activation(self.activation)
        x = x.astype(self.dtype)
        convs = [
            Conv(scaled(channels, self.width), dtype=self.dtype, name=f"conv{i}")
            for i, channels in enumerate(self.channels, 1)
        ]

        def features(x: jax.Array) -> jax.Array:
            for conv in convs:
                x = act(conv(x))
                if min(x.shape[1:3]) >= 2:
                    x = max_pool(x, 2)
            return flatten(x)

        x = in_parts(features, x, x.shape[1] * x.shape[2] * scaled(self.channels[0], self.width))
        x = act(Dense(scaled(self.dense, self.width), dtype=self.dtype, name="dense")(x))
        logits = Dense(self.classes, dtype=self.dtype, name="head")(
            nn.Dropout(self.dropout, deterministic=not train)(x)
        )
        return logits.astype(jnp.float32), x.astype(jnp.float32)
