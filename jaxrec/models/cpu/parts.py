"""A batch made one part after another, so that each part's activations stay in the caches of a CPU.

The widest activation of a whole batch is larger than the level-2 caches: each layer would write it to memory, and the
next read it back.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

PART_BYTES = 2**21
"""How much of the widest activation is computed at a time: as much as the level-2 caches of two cores hold together on
the Zen 5 machine of docs/performance.md."""
MOST_PARTS = 16
"""Each part adds to the time of compilation."""


def in_parts(apply: Callable[[jax.Array], jax.Array], x: jax.Array, widest: int) -> jax.Array:
    """``apply(x)`` of [B,...], computed for one part of the batch after another.

    ``apply`` has to treat every example by itself, so it may hold no batch normalization and no dropout. ``widest`` is
    how many numbers its widest activation has for one example.

    On a mesh of several devices the batch stays whole, because each part's gradients would be summed over all devices.
    Outside of a mesh it stays whole in a process that has several devices: tracing does not tell whether the batch is
    cut over them.
    """
    parts = _parts(x.shape[0], widest * x.dtype.itemsize)
    mesh = jax.sharding.get_abstract_mesh()
    devices = jax.device_count() if mesh.empty else mesh.size
    if parts == 1 or devices > 1:
        return apply(x)
    return jnp.concatenate([apply(part) for part in jnp.split(x, parts)])


def _parts(examples: int, size: int) -> int:
    """The number of equal parts for ``examples`` of ``size`` bytes: the fewest that fit `PART_BYTES`, else the most."""
    possible = [parts for parts in range(1, MOST_PARTS + 1) if examples % parts == 0]
    for parts in possible:
        if examples // parts * size <= PART_BYTES:
            return parts
    return possible[-1]
