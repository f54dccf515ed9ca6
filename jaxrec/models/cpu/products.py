"""Matrix products on a CPU, with gradients that are written down as products too.

Two things make them faster than XLA's:

- bfloat16 is multiplied as it is and summed in float32. Asked for a result in bfloat16, XLA would first convert both
  factors to float32.
- A weight gradient transposes the output's gradient and its own result if together they are smaller than the layer's
  input. XLA transposes the input, together with everything that the input was computed from, which can take longer than
  the product itself.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .operands import matched, widened


def product(order: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.einsum` of two arrays of one floating dtype, which is also the result's.

    Each axis of ``order``, such as "nk,kd->nd", has to be in two of its three parts or in all, so that both gradients
    are such products again; `jaxrec.models.layers.product` checks this.
    """
    return _product(*matched(a, b), order)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(a: jax.Array, b: jax.Array, order: str) -> jax.Array:
    return sums(order, a, b).astype(a.dtype)


def _forward(a: jax.Array, b: jax.Array, order: str) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(a, b, order), (a, b)


def _backward(order: str, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    left, right, out = order.replace("->", ",").split(",")
    a, b = saved
    by_a: Any = _product(gradient, b, f"{out},{right}->{left}")
    by_b: Any = _product(a, gradient, f"{left},{out}->{right}")
    return by_a, by_b


_product.defvjp(_forward, _backward)


class _Axes(NamedTuple):
    """The axes of a product, named by letters as in `jnp.einsum`."""

    left: str
    right: str
    out: str
    shared: str
    """In all three: the product is made for each place along these axes by itself."""
    summed: str
    """In both factors and not in the result."""
    left_only: str
    """In the first factor and the result."""
    right_only: str
    """In the second factor and the result."""


def _axes(order: str) -> _Axes:
    left, right, out = order.replace("->", ",").split(",")
    common = [axis for axis in left if axis in right]
    shared = "".join(axis for axis in common if axis in out)
    summed = "".join(axis for axis in common if axis not in out)
    left_only = "".join(axis for axis in left if axis not in common)
    right_only = "".join(axis for axis in right if axis not in common)
    return _Axes(left, right, out, shared, summed, left_only, right_only)


def sums(order: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.einsum` whose result is float32 at least; its gradients are left to XLA."""
    axes = _axes(order)
    if _first_is_better_left(axes, a, b):
        # With the factors changed, XLA transposes the second factor, and we the result.
        other_way = f"{axes.right},{axes.left}->{axes.right_only}{axes.left_only}"
        result = lax.optimization_barrier(sums(other_way, b, a))
        return jnp.einsum(f"{axes.right_only}{axes.left_only}->{axes.out}", result)
    if a.dtype == jnp.bfloat16:
        return _narrow_sums(axes, a, b)
    return jnp.einsum(order, widened(a), widened(b))


def _first_is_better_left(axes: _Axes, a: jax.Array, b: jax.Array) -> bool:
    """Whether this is a weight gradient whose first factor is larger than the second and the result together."""
    sizes = dict(zip(axes.left + axes.right, a.shape + b.shape, strict=True))
    result_size = math.prod(sizes[axis] for axis in axes.out)
    weight_gradient = (
        not axes.shared and axes.left == axes.summed + axes.left_only and axes.right == axes.summed + axes.right_only
    )
    return weight_gradient and a.size > b.size + result_size


def _narrow_sums(axes: _Axes, a: jax.Array, b: jax.Array) -> jax.Array:
    """A product of bfloat16 in the orders of axes that XLA multiplies as they are.

    In other orders XLA converts the factors, or compiles a product that then fails with "Unsupported element type".
    """
    a, left = _ordered(a, axes.left, axes.shared + axes.left_only + axes.summed)
    summed_first = axes.shared + axes.summed + axes.right_only
    summed_last = axes.shared + axes.right_only + axes.summed
    wanted = summed_first if axes.right == summed_first else summed_last
    b, right = _ordered(b, axes.right, wanted)
    contracting = _places(left, axes.summed), _places(right, axes.summed)
    batch = _places(left, axes.shared), _places(right, axes.shared)
    x = lax.dot_general(a, b, (contracting, batch), preferred_element_type=jnp.float32)
    return jnp.einsum(f"{axes.shared}{axes.left_only}{axes.right_only}->{axes.out}", x)


def _ordered(x: jax.Array, axes: str, wanted: str) -> tuple[jax.Array, str]:
    """``x`` with its axes in the order ``wanted``, copied if that is another one, and their names."""
    if wanted != axes:
        x = lax.optimization_barrier(x).transpose(_places(axes, wanted))
    return lax.optimization_barrier(x), wanted


def _places(axes: str, names: str) -> list[int]:
    return [axes.index(name) for name in names]


def transposed(matrix: jax.Array) -> jax.Array:
    """A matrix transposed by a product with the identity: exact for finite numbers, and faster than XLA's transpose.

    Not for rows that are cut over several devices: they would have to be gathered.
    """
    identity: Any = jnp.eye(matrix.shape[1], dtype=matrix.dtype)
    return sums("kc,nc->kn", identity, matrix).astype(matrix.dtype)
