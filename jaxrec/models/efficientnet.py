"""EfficientNet-Lite0 (Tan & Le 2019; Liu 2020): inverted residual blocks for weak devices."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Conv, Dense, Depthwise, batch_norm, scaled

EPSILON = 1e-3
"""Of every batch normalization, as in the published weights."""


class Stage(NamedTuple):
    """Blocks of one number of channels, of which the first may halve the sides."""

    blocks: int
    size: int
    """Side of the depthwise kernels."""
    strides: int
    expansion: int
    """How many times as many channels a block has inside."""
    channels: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class Inverted(nn.Module):
    """Convolutions 1x1 to more channels, depthwise, and 1x1 back to fewer; around them perhaps a shortcut."""

    channels: int
    size: int
    strides: int
    expansion: int
    shortcut: bool
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B,H,W,C] to [B,ceil(H/strides),ceil(W/strides),channels]."""

        def norm(x: jax.Array, name: str) -> jax.Array:
            return batch_norm(x, train, self.axis_name, epsilon=EPSILON, name=name)

        y, inside = x, x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = Conv(inside, 1, use_bias=False, dtype=self.dtype, name="expand")(y)
            y = nn.relu6(norm(y, "expand_norm"))
        y = Depthwise(self.size, self.strides, dtype=self.dtype, name="depthwise")(y)
        y = nn.relu6(norm(y, "depthwise_norm"))
        y = Conv(self.channels, 1, use_bias=False, dtype=self.dtype, name="project")(y)
        y = norm(y, "project_norm")
        return x + y if self.shortcut else y


class EfficientNet(nn.Module):
    """A stem that halves the sides, the blocks of ``stages``, and a last convolution to 1280 channels."""

    classes: int
    stages: tuple[Stage, ...] = LITE0
    width: float = 1.0
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Standardized images [B,H,W,C] to logits [B,classes] and features [B,D], float32."""
        options = {"axis_name": self.axis_name, "epsilon": EPSILON}
        x = Conv(scaled(32, self.width), 3, 2, use_bias=False, dtype=self.dtype, name="stem")(x.astype(self.dtype))
        x = nn.relu6(batch_norm(x, train, name="stem_norm", **options))
        number = 0
        for stage in self.stages:
            for place in range(stage.blocks):
                number += 1
                block = Inverted(
                    channels=scaled(stage.channels, self.width),
                    size=stage.size,
                    strides=stage.strides if place == 0 else 1,
                    expansion=stage.expansion,
                    shortcut=place > 0,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    name=f"block{number}",
                )
                x = block(x, train)
        x = Conv(scaled(1280, self.width), 1, use_bias=False, dtype=self.dtype, name="last")(x)
        x = nn.relu6(batch_norm(x, train, name="last_norm", **options)).mean((1, 2))
        dropped = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = Dense(self.classes, dtype=self.dtype, name="head")(dropped)
        return logits.astype(jnp.float32), x.astype(jnp.float32)
