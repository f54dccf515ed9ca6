"""Vision transformers over square patches (Dosovitskiy et al. 2021), pre-norm, that read the mean or a class token."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..errors import UserError
from .layers import Dense, add_bias, each_example_alone, layer_norm, product


class ViT(nn.Module):
    """``depth`` blocks of attention with ``heads`` heads and a hidden layer ``mlp_ratio`` times as wide."""

    classes: int
    patch: int = 4
    dim: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 2.0
    class_token: bool = False
    """Whether the features are those of a token of their own, instead of the mean over the patches."""
    qkv_bias: bool = True
    exact_gelu: bool = False
    """Whether GELU is the exact one of published weights, instead of its tanh form."""
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
        if self.dim % self.heads:
            raise UserError(f"vit cannot share {self.dim} features among {self.heads} heads; choose a divisor")
        features = self.encoded(x.astype(self.dtype))
        logits = self.head(self.dropped(features, deterministic=not train))
        return logits.astype(jnp.float32), features.astype(jnp.float32)

    def widest(self, image_shape: tuple[int, ...]) -> int:
        """Numbers in the widest activation of one image: queries, keys and values, or the scores of all pairs."""
        height, width = image_shape[:2]
        tokens = (height // self.patch) * (width // self.patch) + self.class_token
        return tokens * max(3 * self.dim, self.heads * tokens)

    @each_example_alone
    @nn.compact
    def encoded(self, x: jax.Array) -> jax.Array:
        """[B,H,W,C] to [B,dim]: the patches, the blocks, and the class token or the mean over the patches."""
        batch, height, width, channels = x.shape
        side = self.patch
        x = x.reshape(batch, height // side, side, width // side, side, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, side * side * channels)
        x = Dense(self.dim, dtype=self.dtype, name="patches")(x)
        if self.class_token:
            token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, self.dim)).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, self.dim)), x], axis=1)
        x += self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:])).astype(self.dtype)
        for i in range(self.depth):
            x += self._attention(layer_norm(x, f"block{i + 1}_norm1"), f"block{i + 1}")
            y = layer_norm(x, f"block{i + 1}_norm2")
            y = Dense(round(self.mlp_ratio * self.dim), dtype=self.dtype, name=f"block{i + 1}_mlp1")(y)
            y = nn.gelu(y, approximate=not self.exact_gelu)
            x += Dense(self.dim, dtype=self.dtype, name=f"block{i + 1}_mlp2")(y)
        x = layer_norm(x, "norm")
        return x[:, 0] if self.class_token else x.mean(1)

    def _attention(self, x: jax.Array, name: str) -> jax.Array:
        heads = (self.heads, self.dim // self.heads)
        parts = Projection((3, *heads), use_bias=self.qkv_bias, dtype=self.dtype, name=f"{name}_qkv")(x)
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
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,N,...] to [B,N,*shape]."""
        inputs = x.shape[x.ndim - self.axes :]
        sizes = math.prod(inputs), math.prod(self.shape)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), sizes).astype(self.dtype)
        outer, inner, outputs = "abc"[: x.ndim - self.axes], "def"[: self.axes], "xyz"[: len(self.shape)]
        order = f"{outer}{inner},{inner}{outputs}->{outer}{outputs}"
        y = product(order, x, kernel.reshape(*inputs, *self.shape))
        if not self.use_bias:
            return y
        return add_bias(y, self.param("bias", nn.initializers.zeros, sizes[1:]).reshape(self.shape))


def resized_positions(positions: jax.Array, count: int, class_token: bool) -> jax.Array:
    """Positions [1,N,dim] of a square image's patches for a square image of ``count`` tokens: [1,count,dim].

    They are interpolated between their neighbors, and that of a class token, which comes first, is kept. Raises
    UserError if either image is no square.
    """
    first, grid = positions[:, :class_token], positions[:, class_token:]
    before, after = math.isqrt(grid.shape[1]), math.isqrt(count - class_token)
    if before**2 != grid.shape[1] or after**2 != count - class_token:
        raise UserError(
            f"positions of {grid.shape[1]} patches cannot be those of {count - class_token}; use square images"
        )
    grid = grid.reshape(1, before, before, -1)
    grid = jax.image.resize(grid, (1, after, after, grid.shape[-1]), "cubic").reshape(1, after**2, -1)
    return jnp.concatenate([first, grid], axis=1)
