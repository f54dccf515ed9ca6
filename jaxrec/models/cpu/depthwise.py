"""Depthwise convolution on a CPU: the sum of shifted images, each times one number a channel.

XLA's own, a convolution of as many groups as channels, is far slower, because its library has no groups. The gradients
are written out: derived ones would pad every shifted image.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]


def depthwise(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
    """Each channel of x [B,H,W,C] convolved by its part of a kernel [K,K,1,C], padding SAME."""
    (above, below), (left, right) = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (strides, strides), "SAME")
    return _convolved(x, kernel[:, :, 0], strides, ((above, below), (left, right)))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolved(x: jax.Array, kernel: jax.Array, strides: int, pads: Pads) -> jax.Array:
    """x [B,H,W,C] by a kernel [K,K,C]."""
    padded = _padded(x, pads)
    terms = [part * kernel[place] for place, part in _shifted(padded, kernel.shape[0], strides)]
    return sum(terms[1:], start=terms[0])


def _padded(x: jax.Array, pads: Pads, dilation: int = 1) -> jax.Array:
    """x [B,H,W,C] with zeros around its pixels and, if it is dilated, between them."""
    sides = [(before, after, dilation - 1) for before, after in pads]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
    # As an array of its own: otherwise every use would pad again.
    return lax.optimization_barrier(padded)


def _shifted(padded: jax.Array, size: int, strides: int) -> list[tuple[tuple[int, int], jax.Array]]:
    """What each number of a kernel is multiplied by, beside its place in the kernel."""
    rows, columns = ((side - size) // strides + 1 for side in padded.shape[1:3])
    found = []
    for i, j in itertools.product(range(size), range(size)):
        bottom = i + (rows - 1) * strides + 1
        right = j + (columns - 1) * strides + 1
        found.append(((i, j), padded[:, i:bottom:strides, j:right:strides]))
    return found


def _forward(x: jax.Array, kernel: jax.Array, strides: int, pads: Pads) -> tuple[jax.Array, tuple]:
    return _convolved(x, kernel, strides, pads), (x, kernel)


def _backward(strides: int, pads: Pads, kept: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    size = kernel.shape[0]
    shifted = _shifted(_padded(x, pads), size, strides)
    by_place = [(part * gradient).sum((0, 1, 2)) for _, part in shifted]
    # The image's gradient is the convolution of the output's, dilated by the strides, with the kernel turned around.
    around = []
    for side, given, (before, _) in zip(x.shape[1:3], gradient.shape[1:3], pads, strict=True):
        dilated = (given - 1) * strides + 1
        start = size - 1 - before
        around.append((start, side + size - 1 - start - dilated))
    dilated = _padded(gradient, (around[0], around[1]), strides)
    turned = kernel[::-1, ::-1]
    terms = [part * turned[place] for place, part in _shifted(dilated, size, 1)]
    return sum(terms[1:], start=terms[0]), jnp.stack(by_place).reshape(kernel.shape)


_convolved.defvjp(_forward, _backward)
