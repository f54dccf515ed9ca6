"""A small vision transformer over square patches (Dosovitskiy et al. 2021), pre-norm with global average pooling."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..errors import UserError
from .layers import Dense, add_bias, each_example_alone, layer_norm, product


class ViT(nn.Module):
    """``depth`` blocks of attention with 4 heads and a hidden layer twice as wide."""

    classes: int
    patch: int = 4
    dim: int = 128
    depth: int = 4
    heads: int = 4
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes what follows the encoder."""
        self.dropped = nn.Dropout(self.dropout, name="Dropout_0")
        self.head = Dense(self.classes, dtype=self.dtype)

    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Standardized images [B,H,W,C] to logits [B,classes] and features [B,dim], float32.

        Raises UserError if the patch does not divide both sides.
        """
        height, width = x.shape[1:3]
        side = self.patch
        if height % side or width % side:
            raise UserError(f"vit cannot cut {height}x{width} images into {side}x{side} patches; choose a divisor.")
        features = self.encoded(x.astype(self.dtype))
        logits = self.head(self.dropped(features, deterministic=not train))
        return logits.astype(jnp.float32), features.astype(jnp.float32)

    def widest(self, image_shape: tuple[int, ...]) -> int:
        """Numbers in the widest activation of one image: queries, keys and values, or the scores of all pairs."""
        height, width = image_shape[:2]
        tokens = (height // self.patch) * (width // self.patch)
        return tokens * max(3 * self.dim, self.heads * tokens)

    @each_example_alone
    @nn.compact
    def encoded(self, x: jax.Array) -> jax.Array:
        """[B,H,W,C] to [B,dim]: the patches, the blocks and the mean over the patches."""
        batch, height, width, channels = x.shape
        side = self.patch
        x = x.reshape(batch, height // side, side, width // side, side, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, side * side * channels)
        x = Dense(self.dim, dtype=self.dtype, name="patches")(x)
        x += self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:])).astype(self.dtype)
        for i in range(self.depth):
            x += self._attention(layer_norm(x, f"block{i + 1}_norm1"), f"block{i + 1}")
            y = layer_norm(x, f"block{i + 1}_norm2")
            y = nn.gelu(Dense(2 * self.dim, dtype=self.dtype, name=f"block{i + 1}_mlp1")(y))
            x += Dense(self.dim, dtype=self.dtype, name=f"block{i + 1}_mlp2")(y)
        return layer_norm(x, "norm").mean(1)

    def _attention(self, x: jax.Array, name: str) -> jax.Array:
        heads = (self.heads, self.dim // self.heads)
        parts = Projection((3, *heads), dtype=self.dtype, name=f"{name}_qkv")(x)
        # Split, for the gradient of a split is one concatenation, and that of three indices a sum of padded arrays.
        query, key, value = (part.squeeze(2) for part in jnp.split(parts, 3, axis=2))
        # jax.nn.dot_product_attention mixes dtypes, which strict promotion refuses in bfloat16.
        scores = product("bqhd,bkhd->bhqk", query, key).astype(jnp.float32) * query.shape[-1] ** -0.5
        mixed = product("bhqk,bkhd->bqhd", nn.softmax(scores).astype(x.dtype), value)
        return Projection((self.dim,), axes=2, dtype=self.dtype, name=f"{name}_out")(mixed)


class Projection(nn.Module):
    """A dense layer from the last ``axes`` axes to axes of ``shape``.

    Computes as `flax.linen.DenseGeneral`, which on a CPU is faster than a dense layer and a change of shape, from
    parameters as `Dense` has them, a matrix and a vector, which is how optimizers tell kernels from biases.
    """

    shape: tuple[int, ...]
    axes: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,N,...] to [B,N,*shape]."""
        inputs = x.shape[x.ndim - self.axes :]
        sizes = math.prod(inputs), math.prod(self.shape)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), sizes).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, sizes[1:])
        outer, inner, outputs = "abc"[: x.ndim - self.axes], "def"[: self.axes], "xyz"[: len(self.shape)]
        order = f"{outer}{inner},{inner}{outputs}->{outer}{outputs}"
        return add_bias(product(order, x, kernel.reshape(*inputs, *self.shape)), bias.reshape(self.shape))
