"""Variants of an image, scored some at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.data.features import at_once

Score = Callable[[jax.Array], jax.Array]
"""``score(images [N, ..., C]) -> float32 [N]``, each image by itself."""
Baseline = jax.Array | float
"""What is seen of what is covered: an image [..., C], or a number."""
MOST = 128
"""Variants that are scored at once, at most."""


def covered(image: jax.Array, baseline: Baseline, shown: jax.Array) -> jax.Array:
    """Variants [N, ..., C] of an image [..., C]: itself where ``shown`` [N, ...] is 1, the baseline where it is 0."""
    shown = shown[..., None]
    return shown * image + (1 - shown) * baseline


def each(function: Callable[[Any], Any], values: Any, image: jax.Array) -> Any:
    """``function(values)``, an array [N, ...], of values [N, ...], as many at a time as suits images like ``image``.

    ``function`` must treat every value by itself.
    """
    pieces, _ = _pieces(values, image)
    found = _mapped(function, pieces)
    return found.reshape(-1, *found.shape[2:])[: len(values)]


def total(function: Callable[[Any, jax.Array], Any], values: Any, image: jax.Array) -> Any:
    """The sums over all values [N, ...] that ``function(values, counts)`` gives of some of them.

    ``counts`` float32 [n] is 1 for each value, and 0 for those that only fill up the last piece.
    """
    pieces, counts = _pieces(values, image)
    found = _mapped(lambda piece: function(*piece), (pieces, counts))
    return jax.tree.map(lambda sums: sums.sum(0), found)


def _pieces(values: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Values [N, ...] in pieces of one size [P, n, ...], the last filled up with its last value; and which count."""
    count = len(values)
    pieces = -(-count // at_once(MOST, image.shape))
    size = -(-count // pieces)
    place = jnp.arange(pieces * size, dtype=jnp.int32)
    filled = values[jnp.minimum(place, count - 1)]
    counts = (place < count).astype(jnp.float32)
    return filled.reshape(pieces, size, *values.shape[1:]), counts.reshape(pieces, size)


def _mapped(function: Callable[[Any], Any], pieces: Any) -> Any:
    """``function`` of one piece after the other; of a single one without a loop, which XLA runs faster."""
    if len(jax.tree.leaves(pieces)[0]) > 1:
        return jax.lax.map(function, pieces)
    found = function(jax.tree.map(lambda values: values[0], pieces))
    return jax.tree.map(lambda values: values[None], found)
