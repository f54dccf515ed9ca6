"""Numbers rounded as a network in 8 bits rounds them, so that training sees what it does to them (Jacob et al. 2018).

Rounding has no gradient of use: that of the rounded number is taken for that of the number (Bengio et al. 2013).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jax import lax

_switched_on = jax.make_user_context(False)


@contextmanager
def in_8_bits() -> Iterator[None]:
    """The convolutions and dense layers that are traced inside round their inputs and kernels."""
    with _switched_on(True):
        yield


def operands(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inputs and the kernel [..., D] of a layer, as it is traced now: as they are, or rounded."""
    if not _switched_on.value:
        return x, kernel
    return rounded_activations(x), rounded_kernel(kernel)


def rounded_kernel(kernel: jax.Array) -> jax.Array:
    """A kernel [..., D] with 255 values for each of its D channels, those from -127 to 127 times a scale."""
    wide = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=tuple(range(kernel.ndim - 1)), keepdims=True) / 127
    scale = jnp.where(scale > 0, scale, 1)
    return _straight_through(kernel, jnp.round(wide / scale) * scale)


def rounded_activations(x: jax.Array) -> jax.Array:
    """Numbers of any shape with 256 values in all, from their least to their largest, 0 among them."""
    wide = x.astype(jnp.float32)
    low, high = jnp.minimum(wide.min(), 0), jnp.maximum(wide.max(), 0)
    scale = jnp.where(high > low, (high - low) / 255, 1)
    zero = jnp.round(-low / scale)
    return _straight_through(x, (jnp.clip(jnp.round(wide / scale) + zero, 0, 255) - zero) * scale)


def _straight_through(x: jax.Array, rounded: jax.Array) -> jax.Array:
    return x + lax.stop_gradient(rounded.astype(x.dtype) - x)
