"""Matrix products, in the forms that are fastest on a CPU; on GPUs and TPUs they are XLA's own.

On CPUs

- numbers of bfloat16 are multiplied as they are and summed in float32; asked for a result in bfloat16, XLA would
  convert both factors first;
- a weight gradient transposes the gradient and its own result where together they are smaller than the layer's input:
  XLA transposes the input, together with all that it was made of, which can take longer than the product.
"""

import math
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .forms import matched, own_forms, widened


def product(order: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.einsum` of two arrays of one floating dtype, such as ``product("nk,kd->nd", x, kernel)``.

    Each axis has to be in two of the three, or in all, so that both gradients are such products too: else ValueError is
    raised. For forward mode see `forward_mode`.
    """
    places = [set(part) for part in re.split(",|->", order)]
    whole = re.fullmatch("[a-z]+,[a-z]+->[a-z]+", order) and sum(map(len, places)) == len(order) - 3
    if not whole or any(sum(axis in part for part in places) == 1 for axis in order if axis.isalpha()):
        raise ValueError(
            f"got the product '{order}'; expected one like 'nk,kd->nd', with each axis in two of the three"
        )
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
    """`jnp.einsum` on a CPU, whose gradients are XLA's; the result is float32 at least."""
    left, right, out = order.replace("->", ",").split(",")
    sizes = dict(zip(left + right, a.shape + b.shape, strict=True))
    shared = "".join(axis for axis in left if axis in right and axis in out)
    summed = "".join(axis for axis in left if axis in right and axis not in out)
    kept = ["".join(axis for axis in axes if axis not in shared + summed) for axes in (left, right)]
    weights = not shared and left == summed + kept[0] and right == summed + kept[1]
    if weights and a.size > b.size + math.prod(sizes[axis] for axis in out):
        # The first factor is transposed, together with all that it was made of: better the second and the result.
        turned = lax.optimization_barrier(sums(f"{right},{left}->{kept[1]}{kept[0]}", b, a))
        return jnp.einsum(f"{kept[1]}{kept[0]}->{out}", turned)
    if a.dtype != jnp.bfloat16:
        return jnp.einsum(order, widened(a), widened(b))
    # In other orders XLA converts bfloat16, or compiles a product that then fails with "Unsupported element type".
    a, left = _ordered(a, left, shared + kept[0] + summed)
    b, right = _ordered(b, right, right if right == shared + summed + kept[1] else shared + kept[1] + summed)

    def places(names: str) -> tuple[list[int], list[int]]:
        return [left.index(axis) for axis in names], [right.index(axis) for axis in names]

    x = lax.dot_general(a, b, (places(summed), places(shared)), preferred_element_type=jnp.float32)
    return jnp.einsum(f"{shared}{kept[0]}{kept[1]}->{out}", x)


def narrowed(x: jax.Array, dtype: Any) -> jax.Array:
    """A factor for `sums` in ``dtype`` if that is bfloat16, the only narrow one that it does not widen."""
    return x.astype(dtype) if dtype == jnp.bfloat16 else x


def _ordered(x: jax.Array, axes: str, ordered: str) -> tuple[jax.Array, str]:
    """x with its axes in another order, made by a copy, and their names."""
    if ordered != axes:
        x = lax.optimization_barrier(x).transpose([axes.index(axis) for axis in ordered])
    return lax.optimization_barrier(x), ordered


def dot_general(x: jax.Array, kernel: jax.Array, dimensions: Any, precision: Any = None, **options: Any) -> jax.Array:
    """`lax.dot_general` as `flax.linen.Dense` calls it: the last axis of x by the first of a kernel [C,D]."""
    if precision is not None:
        return lax.dot_general(x, kernel, dimensions, precision, **options)
    return dense(x, kernel)


def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The last axis of x [...,C] by the first of a kernel [C,D]."""
    axes = "abcdefgh"[: x.ndim - 1]
    return product(f"{axes}y,yz->{axes}z", x, kernel)
