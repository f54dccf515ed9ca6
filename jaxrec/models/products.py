"""Matrix products, in the forms that are fastest on a CPU; on GPUs and TPUs they are XLA's own.

On CPUs

- numbers of bfloat16 are multiplied as they are, by instructions of their own, and summed in float32; asked for a sum
  in bfloat16, XLA would convert both factors to float32;
- a weight gradient transposes the smaller of its factors: XLA transposes the first one, together with all that it was
  made of, which takes longer than the product.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .forms import matched, own_forms, widened


def product(order: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.einsum` of two arrays of one floating dtype, such as ``product("nk,kd->nd", x, kernel)``.

    Each axis has to be in two of the three at least, so that both gradients are such products too. For forward mode see
    `forward_mode`.
    """
    if not own_forms():
        return jnp.einsum(order, a, b)
    return _product(*matched(a, b), order)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(a: jax.Array, b: jax.Array, order: str) -> jax.Array:
    return sums(order, a, b).astype(a.dtype)


def _gradients(order: str, saved: tuple[jax.Array, jax.Array], c: jax.Array) -> tuple[jax.Array, jax.Array]:
    (left, right, out), (a, b) = order.replace("->", ",").split(","), saved
    return _product(c, b, f"{out},{right}->{left}"), _product(a, c, f"{left},{out}->{right}")


_product.defvjp(lambda a, b, order: (_product(a, b, order), (a, b)), _gradients)


def sums(order: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.einsum` on a CPU, without a gradient; the result is float32 at least."""
    left, right, out = order.replace("->", ",").split(",")
    shared = "".join(axis for axis in left if axis in right and axis in out)
    summed = "".join(axis for axis in left if axis in right and axis not in out)
    kept = ["".join(axis for axis in axes if axis not in shared + summed) for axes in (left, right)]
    weights = not shared and left == summed + kept[0] and right == summed + kept[1]
    if weights and a.size > b.size + _size(a, left, kept[0]) * _size(b, right, kept[1]):
        # The first factor is transposed, together with all that it was made of: better the second and the result.
        turned = lax.optimization_barrier(sums(f"{right},{left}->{kept[1]}{kept[0]}", b, a))
        return jnp.einsum(f"{kept[1]}{kept[0]}->{out}", turned)
    if a.dtype != jnp.bfloat16:
        return jnp.einsum(order, widened(a), widened(b))
    # XLA multiplies bfloat16 in these orders alone, and fails where it finds others behind fusions of its own.
    a, left = _ordered(a, left, shared + kept[0] + summed)
    b, right = _ordered(b, right, right if right == shared + summed + kept[1] else shared + kept[1] + summed)
    return jnp.einsum(f"{left},{right}->{out}", a, b, preferred_element_type=jnp.float32)


def _size(x: jax.Array, axes: str, which: str) -> int:
    return math.prod(x.shape[axes.index(axis)] for axis in which)


def _ordered(x: jax.Array, axes: str, ordered: str) -> tuple[jax.Array, str]:
    """x with its axes in another order, made by a copy, and their names."""
    if ordered != axes:
        x = lax.optimization_barrier(x).transpose([axes.index(axis) for axis in ordered])
    return lax.optimization_barrier(x), ordered


def dot_general(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """`lax.dot_general` as `flax.linen.Dense` calls it: the last axis of x by the first of a kernel [C,D]."""
    axes = "abcdefgh"[: x.ndim - 1]
    return product(f"{axes}y,yz->{axes}z", x, kernel)
