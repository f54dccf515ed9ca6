"""The layers every model is made of."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from .convolutions import conv, conv_transpose
from .forms import forward_mode as forward_mode
from .forms import on_cpu, own_forms, widened
from .products import dense, dot_general

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": jnp.tanh,
    "gelu": nn.gelu,
}


PART_BYTES = 2**21
"""Of the widest activation, how much `in_parts` computes at a time: as much as the level-2 caches of two cores hold
together on the machine of docs/performance.md."""
MOST_PARTS = 16
"""Each part adds to the time of compilation."""


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The nonlinearity called ``relu``, ``sigmoid``, ``tanh`` or ``gelu`` (its tanh form)."""
    return ACTIVATIONS[name]


def leaky_relu(x: jax.Array) -> jax.Array:
    """Leaky rectifier with slope .2, usual in GANs."""
    return nn.leaky_relu(x, 0.2)


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded, at least 1."""
    return max(1, round(channels * width))


def flatten(x: jax.Array) -> jax.Array:
    """Every axis but the first in one: [B,...] to [B,D]."""
    return x.reshape(x.shape[0], -1)


def in_parts(apply: Callable[[jax.Array], jax.Array], x: jax.Array, widest: int) -> jax.Array:
    """``apply(x)`` of [B,...]; on a CPU made of a part of the batch after another, whose activations stay in the cache.

    ``apply`` has to treat every example by itself, so that it holds no batch normalisation and no dropout. ``widest``
    is how many numbers it makes of one example at the most.

    On a mesh of several devices the batch stays whole, for each part's gradients would be added up over all of them;
    outside of a mesh, wherever there are several: tracing does not see whether the batch is cut over them.
    """
    parts, mesh = _parts(x.shape[0], widest * x.dtype.itemsize), jax.sharding.get_abstract_mesh()
    if parts == 1 or not own_forms() or (jax.device_count() if mesh.empty else mesh.size) > 1:
        return apply(x)
    return jnp.concatenate([apply(part) for part in jnp.split(x, parts)])


def _parts(examples: int, size: int) -> int:
    """The number of parts of ``examples`` of ``size`` bytes: of those that divide them the least that is enough, or the
    most."""
    possible = [parts for parts in range(1, MOST_PARTS + 1) if examples % parts == 0]
    return next((parts for parts in possible if examples // parts * size <= PART_BYTES), possible[-1])


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [...,C] plus a bias, added in float32 at least, as the bias' gradient is summed; the result has x's dtype."""
    wide = widened(x)
    return (wide + bias.astype(wide.dtype)).astype(x.dtype)


class Biased(nn.Module):
    """``layer``, which has no bias, with one by `add_bias`; flax would add its own in the dtype of the computation.

    The parameters are named as if it were the layer's.
    """

    layer: nn.Module
    bias_init: Callable[..., jax.Array]

    def setup(self) -> None:
        """Gives the layer this module's scope."""
        nn.share_scope(self, self.layer)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """What the layer makes of x, plus the bias."""
        y = self.layer(x)
        return add_bias(y, self.param("bias", self.bias_init, y.shape[-1:], jnp.float32))


def _layer(
    layer: Callable[..., nn.Module],
    name: str | None = None,
    use_bias: bool = True,
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros,
    **options: Any,
) -> nn.Module:
    """flax's ``layer``, its bias added by `Biased`; but for ``parent=None`` flax would name it itself."""
    if not use_bias:
        return layer(use_bias=False, name=name, **options)
    return Biased(layer(use_bias=False, parent=None, **options), bias_init, name=name)


def Conv(features: int, size: int = 3, strides: int = 1, **options: Any) -> nn.Module:
    """A square convolution of [B,H,W,C], padding SAME unless ``padding`` is given.

    Options, parameters and result as those of `flax.linen.Conv`; the bias is float32.
    """
    return _layer(partial(nn.Conv, features, (size, size), (strides, strides), conv_general_dilated=_conv), **options)


def _conv(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any) -> jax.Array:
    """`lax.conv_general_dilated` as `flax.linen.Conv` calls it; groups and dilations are left to XLA."""
    usual = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1, "precision": None}
    if any(options[name] != value for name, value in usual.items()):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    return conv(x, kernel, strides[0], padding)


def Dense(features: int, **options: Any) -> nn.Module:
    """A dense layer on the last axis; options, parameters and result as `flax.linen.Dense`'s, the bias float32."""
    return _layer(partial(nn.Dense, features, dot_general=dot_general), **options)


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

    Rows and columns that fill no window are dropped. On a CPU, where windows lie side by side without padding, equal
    maxima share the gradient equally; elsewhere the first of them takes it.
    """
    strides = strides or window
    if strides == window and not padding and on_cpu():
        return _max(_windows(x, window))
    return nn.max_pool(x, (window, window), (strides, strides), [(padding, padding)] * 2)  # pyright: ignore[reportArgumentType]


@jax.custom_jvp
def _max(windows: jax.Array) -> jax.Array:
    """Maximum of [B,H,K,W,K,C] over both K."""
    return windows.max((2, 4))


@_max.defjvp
def _max_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (windows,), (tangent,) = primals, tangents
    largest = _max(windows)
    # The maxima are counted one place of the window after another: XLA's sum over both axes is slow.
    places = [(i, j) for i in range(windows.shape[2]) for j in range(windows.shape[4])]
    count = jnp.zeros_like(largest)
    for i, j in places:
        count += (windows[:, :, i, :, j] == largest).astype(windows.dtype)
    share = jnp.where(windows == largest[:, :, None, :, None], (1 / count)[:, :, None, :, None], 0)
    return largest, (share * tangent).sum((2, 4))


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
            y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))
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
        """The effective kernel of this shape in the compute dtype and the bias (0 without)."""
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = jnp.zeros((), jnp.float32)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
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
        return add_bias(conv(x.astype(self.dtype), kernel, self.strides), bias)


class SpectralDense(_Spectral):
    """Dense layer, spectrally normalised if ``spectral``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[...,C] to [...,features]."""
        kernel, bias = self.weights((x.shape[-1], self.features), train)
        return add_bias(dense(x.astype(self.dtype), kernel), bias)


def unit(x: jax.Array) -> jax.Array:
    """The vector divided by its length."""
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
