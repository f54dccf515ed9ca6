"""The layers and operations that models are made of.

Each operation is XLA's, or on a CPU, once `jaxrec.tune_cpu` was called, a faster form of the same from
`jaxrec.models.cpu`. Max pooling has its own form on a GPU too.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.module import wrap_method_once
from jax import lax

from jaxrec.errors import UserError

from . import members
from .cpu import convolutions, parts, pooling, products
from .cpu.depthwise import depthwise as own_depthwise
from .cpu.forms import own_forms, pools_by_arithmetic
from .cpu.operands import widened
from .rounding import operands

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": jnp.tanh,
    "gelu": nn.gelu,
}


NUMBERS = ("NHWC", "HWIO", "NHWC")
"""How the axes of images, kernels and results lie."""


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


class _ByExample(Protocol):
    def widest(self, image_shape: tuple[int, ...]) -> int: ...


def each_example_alone(method: Callable[[Any, jax.Array], jax.Array]) -> Callable[[Any, jax.Array], jax.Array]:
    """Declares that a method of a module, from [B,...] to [B,...], treats every example by itself.

    It may then be called for one part of the batch after another, always with the same parameters, so it must hold no
    batch normalization and no dropout. Its module has a method ``widest(image_shape)``, which tells how many numbers
    the widest activation of one image has::

        @each_example_alone
        @nn.compact
        def features(self, x: jax.Array) -> jax.Array:
            return nn.relu(Conv(32)(x))

        def widest(self, image_shape: tuple[int, ...]) -> int:
            return 32 * math.prod(image_shape[:2])
    """
    # flax lets a compact method be called again, with the same parameters, once it is wrapped in this way.
    whole = wrap_method_once(method)

    # Without `compact`, which flax marks the method itself with: one call of this may be several of that.
    @functools.wraps(method, updated=())
    def by_example(self: _ByExample, x: jax.Array) -> jax.Array:
        if not own_forms(x):
            return whole(self, x)
        return parts.in_parts(partial(whole, self), x, self.widest(x.shape[1:]))

    return by_example


def conv(
    x: jax.Array, kernel: jax.Array, strides: int = 1, padding: str | Sequence[tuple[int, int]] = "SAME"
) -> jax.Array:
    """`lax.conv_general_dilated` of x [B,H,W,C] by a kernel [K,K,C,D] of the same floating dtype.

    With padding SAME the result is [B,ceil(H/strides),ceil(W/strides),D].
    """
    x, kernel = operands(x, kernel)
    if own_forms(x):
        return convolutions.conv(x, kernel, strides, padding)
    if members.as_products():
        return members.conv(x, kernel, strides, padding)
    return lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=NUMBERS)


def conv_transpose(x: jax.Array, kernel: jax.Array, strides: int, padding: str = "SAME") -> jax.Array:
    """`lax.conv_transpose` of x [B,H,W,C] by a kernel [K,K,C,D] of the same floating dtype.

    With padding SAME the result is [B,H*strides,W*strides,D].
    """
    x, kernel = operands(x, kernel)
    if own_forms(x):
        return convolutions.conv_transpose(x, kernel, strides, padding)
    return lax.conv_transpose(x, kernel, (strides, strides), padding, dimension_numbers=NUMBERS)


def depthwise(x: jax.Array, kernel: jax.Array, strides: int = 1) -> jax.Array:
    """`lax.conv_general_dilated` of each channel of x [B,H,W,C] by its own part of a kernel [K,K,1,C], padding SAME."""
    x, kernel = operands(x, kernel)
    if own_forms(x):
        return own_depthwise(x, kernel, strides)
    return lax.conv_general_dilated(
        x, kernel, (strides, strides), "SAME", dimension_numbers=NUMBERS, feature_group_count=x.shape[-1]
    )


def product(order: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.einsum` of two arrays of one floating dtype, such as ``product("nk,kd->nd", x, kernel)``.

    Raises ValueError unless each axis is in two of the order's three parts, or in all: both gradients are then such
    products too.
    """
    places = [set(part) for part in re.split(",|->", order)]
    letters = sum(map(len, places))
    well_formed = re.fullmatch("[a-z]+,[a-z]+->[a-z]+", order) and letters == len(order) - len(",->")
    alone = [axis for axis in order if axis.isalpha() and sum(axis in part for part in places) == 1]
    if not well_formed or alone:
        raise ValueError(
            f"got the product '{order}'; expected one like 'nk,kd->nd', with each axis in two of the three"
        )
    return products.product(order, a, b) if own_forms(a) else jnp.einsum(order, a, b)


def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The product [...,D] of the last axis of x [...,C] and the first of a kernel [C,D]."""
    axes = "abcdefgh"[: x.ndim - 1]
    x, kernel = operands(x, kernel)
    return product(f"{axes}y,yz->{axes}z", x, kernel)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [...,C] plus a bias, added in float32 at least, as the bias' gradient is summed; the result has x's dtype."""
    wide = widened(x)
    return (wide + bias.astype(wide.dtype)).astype(x.dtype)


class Maps(nn.Module):
    """Marks maps [B,H,W,C], which it gives unchanged, as those that explain what a network says (Grad-CAM)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x."""
        return x


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
    is_usual = all(options[name] == value for name, value in usual.items())
    if is_usual:
        return conv(x, kernel, strides[0], padding)
    x, kernel = operands(x, kernel)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def Dense(features: int, **options: Any) -> nn.Module:
    """A dense layer on the last axis; options, parameters and result as `flax.linen.Dense`'s, the bias float32."""
    return _layer(partial(nn.Dense, features, dot_general=_dot_general), **options)


def _dot_general(x: jax.Array, kernel: jax.Array, dimensions: Any, precision: Any = None, **options: Any) -> jax.Array:
    """`lax.dot_general` as `flax.linen.Dense` calls it; a product of a stated precision is left to XLA."""
    if precision is None:
        return dense(x, kernel)
    return lax.dot_general(x, kernel, dimensions, precision, **options)


def batch_norm(x: jax.Array, train: bool, axis_name: str | None = None, **options: Any) -> jax.Array:
    """Batch normalization in float32, over all devices of ``axis_name`` if given; the result has x's dtype."""
    # flax mixes dtypes inside its normalizations, which strict promotion refuses in bfloat16.
    norm = nn.BatchNorm(not train, axis_name=axis_name, **{"momentum": 0.9, **options})
    return norm(x.astype(jnp.float32)).astype(x.dtype)


def stored_statistics(is_frozen: Callable[[str], bool]) -> Callable[..., Any]:
    """An interceptor for `flax.linen.intercept_methods`: frozen batch normalization works as in evaluation.

    It then uses its stored statistics and leaves them as they are. Otherwise layers that do not learn would give other
    values with every batch, and drift. ``is_frozen`` is asked of paths such as ``norm1/scale``.
    """

    def intercept(call: Callable[..., Any], args: Any, options: Any, context: Any) -> Any:
        layer = context.module
        if context.method_name != "__call__" or not isinstance(layer, nn.BatchNorm):
            return call(*args, **options)
        given = {"scale": layer.use_scale, "bias": layer.use_bias}
        names = ["/".join([*layer.path, name]) for name, used in given.items() if used]
        answers = [layer.use_running_average, options.get("use_running_average"), *args[1:]]
        if any(answers) or not names or not all(map(is_frozen, names)):
            return call(*args, **options)
        # The answer may have been given when the layer was made: a copy in its place has another.
        stored = layer.clone(parent=layer.scope, use_running_average=True)
        return stored(args[0], mask=options.get("mask"))

    return intercept


def refuse_single_values(call: Callable[..., Any], args: Any, options: Any, context: Any) -> Any:
    """An interceptor for `flax.linen.intercept_methods` that refuses to normalize single values in training.

    A single value less its mean is 0 whatever it was, so no layer before could learn. Raises UserError.
    """
    layer = context.module
    if context.method_name == "__call__" and isinstance(layer, nn.BatchNorm | nn.GroupNorm):
        _check_several_values(layer, args[0], options)
    return call(*args, **options)


def _check_several_values(layer: nn.BatchNorm | nn.GroupNorm, x: jax.Array, options: Any) -> None:
    """Raises UserError if the layer would take the mean of one value."""
    if isinstance(layer, nn.GroupNorm):
        channels = layer.group_size or x.shape[-1] // (layer.num_groups or 1)
        count = channels * math.prod(x.shape[1:-1])
        kind, of, remedy = "group normalization", "group", "larger images or larger groups"
    else:
        if options.get("use_running_average", layer.use_running_average):
            return
        axes = np.atleast_1d(layer.axis)
        count = x.size // math.prod(x.shape[axis] for axis in axes)
        if layer.axis_name is not None:
            count *= lax.axis_size(layer.axis_name)
        kind, of = "batch normalization", "channel"
        remedy = "a larger --batch-size, a smaller --accumulate, larger images, or a model without batch normalization"
    if count == 1:
        raise UserError(
            f"{kind} '{'/'.join(layer.path)}' gets {list(x.shape)}, a single value for each {of}, of which only 0 is "
            f"left; expected at least two values: choose {remedy}"
        )


def layer_norm(x: jax.Array, name: str) -> jax.Array:
    """Layer normalization over the last axis in float32; the result has x's dtype."""
    return nn.LayerNorm(name=name)(x.astype(jnp.float32)).astype(x.dtype)


def max_pool(x: jax.Array, window: int, strides: int | None = None, padding: int = 0) -> jax.Array:
    """Maximum over windows of [B,H,W,C], after ``padding`` on each side; strides default to the window.

    Rows and columns that fill no window are dropped. Of equal maxima the first takes the gradient.
    """
    strides = strides or window
    side_by_side = strides == window and not padding
    if side_by_side and pools_by_arithmetic(x):
        return pooling.max_of_windows(_windows(x, window))
    pads = [(padding, padding)] * 2
    return nn.max_pool(x, (window, window), (strides, strides), pads)  # pyright: ignore[reportArgumentType]


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


class Depthwise(nn.Module):
    """Square convolution of each channel of [B,H,W,C] by itself, padding SAME, without a bias.

    The kernel is [K,K,1,C], as that of `flax.linen.Conv` with as many groups as channels.
    """

    size: int = 3
    strides: int = 1
    dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,H,W,C] to [B,ceil(H/strides),ceil(W/strides),C]."""
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, 1, x.shape[-1]))
        return depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.strides)


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
    """Square convolution with padding SAME, spectrally normalized if ``spectral``; fast under gradient penalties."""

    size: int = 3
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[B,H,W,C] to [B,ceil(H/strides),ceil(W/strides),features]."""
        kernel, bias = self.weights((self.size, self.size, x.shape[-1], self.features), train)
        return add_bias(conv(x.astype(self.dtype), kernel, self.strides), bias)


class SpectralDense(_Spectral):
    """Dense layer, spectrally normalized if ``spectral``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[...,C] to [...,features]."""
        kernel, bias = self.weights((x.shape[-1], self.features), train)
        return add_bias(dense(x.astype(self.dtype), kernel), bias)


def unit(x: jax.Array) -> jax.Array:
    """The vector divided by its length."""
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
