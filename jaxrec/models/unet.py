"""The U-Net for segmentation (Ronneberger et al. 2015): an encoder, a decoder, and skips between equal scales."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Conv, ConvTranspose, Maps, batch_norm, max_pool

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

GROUP = 8
"""Channels that group normalization takes together, at most."""


def normalize(kind: str, x: jax.Array, train: bool, axis_name: str | None, name: str, **options: Any) -> jax.Array:
    """x [B,H,W,C] normalized in float32, by ``group`` (Wu & He 2018) or ``batch``; the result has x's dtype."""
    if kind == "batch":
        return batch_norm(x, train, axis_name, name=name, **options)
    norm = nn.GroupNorm(num_groups=None, group_size=math.gcd(GROUP, x.shape[-1]), name=name, **options)
    return norm(x.astype(jnp.float32)).astype(x.dtype)


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """x [B,H,W,C] with its last row and column repeated until both sides are multiples."""
    down, across = -x.shape[1] % multiple, -x.shape[2] % multiple
    if not (down or across):
        return x
    return jnp.pad(x, ((0, 0), (0, down), (0, across), (0, 0)), mode="edge")


class UNet(nn.Module):
    """Two convolutions at each of ``depth`` + 1 scales on the way down, and two at each scale but the last going up.

    ``width`` channels at full size, twice as many at each halving. ``norm`` is ``group`` or ``batch``; the
    convolutions have padding SAME, unlike the paper's. ``dropout`` is the share of whole channels dropped at the
    smallest scale.
    """

    classes: int
    width: int = 32
    depth: int = 4
    norm: str = "group"
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Standardized images [B,H,W,C] of any size to logits [B,H,W,classes], float32."""
        height, width = x.shape[1:3]
        x = pad_to_multiple(x.astype(self.dtype), 2**self.depth)
        skips = []
        for level in range(self.depth):
            x = self._pair(x, level, "down", train)
            skips.append(x)
            x = max_pool(x, 2)
        x = Maps(name="maps")(self._pair(x, self.depth, "down", train))
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
        for level in reversed(range(self.depth)):
            features = self.width * 2**level
            x = ConvTranspose(features, 2, 2, kernel_init=he_normal, dtype=self.dtype, name=f"widen{level}")(x)
            x = self._pair(jnp.concatenate([x, skips[level]], -1), level, "up", train)
        logits = Conv(self.classes, 1, dtype=self.dtype, name="head")(x)
        return logits[:, :height, :width].astype(jnp.float32)

    def _pair(self, x: jax.Array, level: int, way: str, train: bool) -> jax.Array:
        """Two convolutions: [B,H,W,.] to [B,H,W,width * 2**level]."""
        for i in (1, 2):
            name = f"{way}{level}_{i}"
            options = {"use_bias": False, "kernel_init": he_normal, "dtype": self.dtype}
            x = Conv(self.width * 2**level, name=f"conv_{name}", **options)(x)
            x = nn.relu(normalize(self.norm, x, train, self.axis_name, f"norm_{name}"))
        return x
