"""The layers every model is made of; where a plain form is slow on a CPU, an equal and faster one.

Measured on two CPU cores: max pooling by reshape halves a small network's step, because the gradient of a sliding
maximum is a scatter; transposed convolution with its own weight gradient takes about a quarter of the time, because
XLA's is a base-dilated convolution without a fast path. The same path makes a gradient penalty slow, which
differentiates the input gradient of a discriminator's strided convolutions; `SpectralConv` avoids it too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]
Pads = tuple[Pair, ...]
NUMBERS = ("NHWC", "HWIO", "NHWC")

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": jnp.tanh,
    "gelu": nn.gelu,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The nonlinearity called ``relu``, ``sigmoid``, ``tanh`` or ``gelu`` (its tanh form)."""
    return ACTIVATIONS[name]


_plain = ContextVar("_plain", default=False)


@contextmanager
def forward_mode() -> Iterator[None]:
    """What is traced inside uses XLA's plain operations alone, which `jax.jvp` can differentiate.

    Convolutions with strides and transposed ones have gradients of their own here, and with them no forward mode: it
    is needed for `jax.jvp`, `jax.jacfwd` and Hessian-vector products. A function jitted before keeps what it traced.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def leaky_relu(x: jax.Array) -> jax.Array:
    """Leaky rectifier with slope .2, usual in GANs."""
    return nn.leaky_relu(x, 0.2)


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded, at least 1."""
    return max(1, round(channels * width))


def flatten(x: jax.Array) -> jax.Array:
    """Every axis but the first in one: [B,...] to [B,D]."""
    return x.reshape(x.shape[0], -1)


def Conv(features: int, size: int = 3, strides: int = 1, **options: Any) -> nn.Conv:
    """A square convolution of [B,H,W,C], padding SAME unless ``padding`` is given."""
    return nn.Conv(features, (size, size), strides=(strides, strides), **options)


Dense = nn.Dense


def batch_norm(x: jax.Array, train: bool, axis_name: str | None = None, **options: Any) -> jax.Array:
    """Batch normalisation in float32, over all devices of ``axis_name`` if given; the result has x's dtype."""
    # flax mixes dtypes inside its normalisations, which strict promotion refuses in bfloat16.
    norm = nn.BatchNorm(not train, axis_name=axis_name, **{"momentum": 0.9, **options})
    return norm(x.astype(jnp.float32)).astype(x.dtype)


def layer_norm(x: jax.Array, name: str) -> jax.Array:
    """Layer normalisation over the last axis in float32; the result has x's dtype."""
    return nn.LayerNorm(name=name)(x.astype(jnp.float32)).astype(x.dtype)


def max_pool(x: jax.Array, window: int, strides: int | None = None, padding: int = 0) -> jax.Array:
    """Maximum over windows of [B,H,W,C], after ``padding`` on each side; strides default to the window.

    Rows and columns that fill no window are dropped. Where windows do not overlap, equal maxima share the gradient
    equally; elsewhere the first of them takes it.
    """
    strides = strides or window
    if strides == window and not padding:
        return _windows(x, window).max((2, 4))
    return nn.max_pool(x, (window, window), (strides, strides), [(padding, padding)] * 2)  # pyright: ignore[reportArgumentType]


def avg_pool(x: jax.Array, window: int) -> jax.Array:
    """Mean over windows of [B,H,W,C] that do not overlap; the border is repeated until they fit."""
    height, width = (-side % window for side in x.shape[1:3])
    if height or width:
        x = jnp.pad(x, ((0, 0), (0, height), (0, width), (0, 0)), mode="edge")
    return _windows(x, window).mean((2, 4))


def upsample(x: jax.Array, factor: int) -> jax.Array:
    """Repeats each pixel of [B,H,W,C] ``factor`` times along both sides."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, factor, width, factor, channels))
    return x.reshape(batch, height * factor, width * factor, channels)


def _windows(x: jax.Array, window: int) -> jax.Array:
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x[:, : rows * window, : columns * window]
    return x.reshape(batch, rows, window, columns, window, channels)


# A strided convolution of y into x by the kernel w defines one sum over products of their three entries. Each function
# below is its derivative by one of the three, so each one's gradients are the other two: no base-dilated weight
# gradient appears at any order. `pads` must fit exactly: side of y + pads = (side of x - 1) * stride + size of w.


def _dilated(x: jax.Array, w: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    around = [(k - 1 - before, k - 1 - after) for k, (before, after) in zip(w.shape, pads, strict=False)]
    w = w[::-1, ::-1].swapaxes(2, 3)
    return lax.conv_general_dilated(x, w, (1, 1), around, lhs_dilation=strides, dimension_numbers=NUMBERS)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _down(y: jax.Array, w: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    return lax.conv_general_dilated(y, w, strides, pads, dimension_numbers=NUMBERS)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _up(x: jax.Array, w: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    return _dilated(x, w, strides, pads)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _kernel(y: jax.Array, x: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    numbers = ("CHWN", "IHWO", "HWNC")
    return lax.conv_general_dilated(y, x, (1, 1), pads, rhs_dilation=strides, dimension_numbers=numbers)


_down.defvjp(
    lambda y, w, strides, pads: (_down(y, w, strides, pads), (y, w)),
    lambda strides, pads, saved, x: (_up(x, saved[1], strides, pads), _kernel(saved[0], x, strides, pads)),
)
_up.defvjp(
    lambda x, w, strides, pads: (_up(x, w, strides, pads), (x, w)),
    lambda strides, pads, saved, y: (_down(y, saved[1], strides, pads), _kernel(y, saved[0], strides, pads)),
)
_kernel.defvjp(
    lambda y, x, strides, pads: (_kernel(y, x, strides, pads), (y, x)),
    lambda strides, pads, saved, w: (_up(saved[1], w, strides, pads), _down(saved[0], w, strides, pads)),
)


def _same_axes(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Inside shard_map a plain product marks the kernel as varying with the images by itself, and its gradient is then
    # summed over devices; a custom gradient must be told.
    varying = [jax.typeof(a).manual_axis_type.varying for a in (x, kernel)]
    x = lax.pcast(x, tuple(varying[1] - varying[0]), to="varying")
    kernel = lax.pcast(kernel, tuple(varying[0] - varying[1]), to="varying")
    return x, kernel


def strided_conv(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
    """`lax.conv_general_dilated` with padding SAME, fast to differentiate twice; forward mode: see `forward_mode`.

    x [B,H,W,C], kernel [K,K,C,D]; gives [B,ceil(H/strides),ceil(W/strides),D].
    """
    if _plain.get():
        return lax.conv_general_dilated(x, kernel, (strides, strides), "SAME", dimension_numbers=NUMBERS)
    same = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (strides, strides), "SAME")
    pads = []
    for side, k, (before, after) in zip(x.shape[1:3], kernel.shape[:2], same, strict=False):
        # Behind the image, as much as the kernels reach and no more.
        pads.append((before, after - (side + before + after - k) % strides))
    return _down(*_same_axes(x, kernel), (strides, strides), tuple(pads))


def conv_transpose(x: jax.Array, kernel: jax.Array, strides: int, padding: str = "SAME") -> jax.Array:
    """`lax.conv_transpose`, fast to differentiate once and twice; for forward mode see `forward_mode`.

    x [B,H,W,C], kernel [K,K,C,D]; with padding SAME gives [B,H*strides,W*strides,D].
    """
    if _plain.get():
        return lax.conv_transpose(x, kernel, (strides, strides), padding, dimension_numbers=NUMBERS)
    pads = []
    for k in kernel.shape[:2]:
        total = k + strides - 2 + (max(k - strides, 0) if padding == "VALID" else 0)
        before = k - 1 if padding == "VALID" or strides > k - 1 else -(-total // 2)
        pads.append((k - 1 - before, k - 1 - total + before))
    x, kernel = _same_axes(x, kernel)
    return _up(x, kernel[::-1, ::-1].swapaxes(2, 3), (strides, strides), tuple(pads))


class ConvTranspose(nn.Module):
    """Square transposed convolution of [B,H,W,C]; parameters and result as `flax.linen.ConvTranspose`."""

    features: int
    size: int
    strides: int
    padding: str = "SAME"
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,H,W,C] to [B,H*strides,W*strides,features] with padding SAME."""
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features))
        y = conv_transpose(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


class _Spectral(nn.Module):
    """What `SpectralConv` and `SpectralDense` share: a kernel and a bias, the kernel divided by its largest singular
    value if ``spectral`` (Miyato et al. 2018).

    The kernel counts as a matrix of inputs by outputs. Each training call makes one power iteration and keeps its
    vector as ``u`` among the batch statistics; where those are not mutable, the vector is used and not kept.
    """

    features: int
    spectral: bool = False
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()

    def weights(self, shape: tuple[int, ...], train: bool) -> tuple[jax.Array, jax.Array]:
        """The effective kernel of this shape and the bias (0 without), both in the compute dtype."""
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = jnp.zeros((), self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        if self.spectral:
            stored = self.variable(
                "batch_stats", "u", lambda: unit(jax.random.normal(self.make_rng("params"), shape[-1:]))
            )
            matrix = kernel.reshape(-1, shape[-1])
            fixed = lax.stop_gradient(matrix)
            v = unit(fixed @ stored.value)
            u = unit(v @ fixed)
            if train and self.is_mutable_collection("batch_stats") and not self.is_initializing():
                stored.value = u
            kernel /= jnp.maximum(v @ matrix @ u, 1e-12)
        return kernel.astype(self.dtype), bias


class SpectralConv(_Spectral):
    """Square convolution with padding SAME, spectrally normalised if ``spectral``; fast under gradient penalties."""

    size: int = 3
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[B,H,W,C] to [B,ceil(H/strides),ceil(W/strides),features]."""
        kernel, bias = self.weights((self.size, self.size, x.shape[-1], self.features), train)
        return strided_conv(x.astype(self.dtype), kernel, self.strides) + bias


class SpectralDense(_Spectral):
    """Dense layer, spectrally normalised if ``spectral``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[B,C] to [B,features]."""
        kernel, bias = self.weights((x.shape[-1], self.features), train)
        return x.astype(self.dtype) @ kernel + bias


def unit(x: jax.Array) -> jax.Array:
    """The vector divided by its length."""
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
