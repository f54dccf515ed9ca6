"""Max pooling on a CPU or GPU, with a gradient that is arithmetic on whole arrays.

XLA's gradient looks for the place of each window's maximum one window after another. Ours does it for all windows at
once. Of equal maxima the first takes the gradient, as in XLA's.
"""

import itertools

import jax
import jax.numpy as jnp


def max_of_windows(windows: jax.Array) -> jax.Array:
    """The maxima [B,H,W,C] of windows [B,H,K,W,K,C] that lie side by side. It has forward mode too."""
    return _max(windows)


@jax.custom_jvp
def _max(windows: jax.Array) -> jax.Array:
    return windows.max((2, 4))


@_max.defjvp
def _max_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (windows,), (tangent,) = primals, tangents
    rows, columns = windows.shape[2], windows.shape[4]
    # The place of the maximum, not equality with it: XLA may compute the pixels twice, and round them differently.
    largest = windows[:, :, 0, :, 0]
    place = jnp.zeros(largest.shape, jnp.int32)
    for number, (i, j) in enumerate(itertools.product(range(rows), range(columns))):
        pixels = windows[:, :, i, :, j]
        place = jnp.where(pixels > largest, number, place)
        largest = jnp.maximum(largest, pixels)
    numbers = jnp.arange(rows * columns, dtype=jnp.int32).reshape(rows, 1, columns, 1)
    is_largest = place[:, :, None, :, None] == numbers
    return _max(windows), jnp.where(is_largest, tangent, 0).sum((2, 4))
