"""The image pool of unpaired translation: the discriminators see translated images of earlier steps too.

Against a discriminator that has forgotten them, the generators could return to answers of the past, and the game would
go round in circles (Shrivastava et al. 2017, https://arxiv.org/abs/1612.07828; Zhu et al. 2017).

The pools are part of ``state.extra``: ``there`` and ``back``, float32 [P, H, W, C] each, and ``filled``, int32 scalar,
how many images each of them holds.
"""

from typing import Any

import jax
import jax.numpy as jnp

Extra = dict[str, Any]


def empty(size: int, there: tuple[int, ...], back: tuple[int, ...]) -> Extra:
    """Pools with room for so many images; ``there`` and ``back`` are the shapes [H, W, C] of what each way makes."""
    return {
        "there": jnp.zeros((size, *there), jnp.float32),
        "back": jnp.zeros((size, *back), jnp.float32),
        "filled": jnp.zeros((), jnp.int32),
    }


def exchanged(
    key: jax.Array, pool: jax.Array, filled: jax.Array, images: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Images of which about half were taken from a pool, and the pool that got these in their place.

    As long as the pool is not full, images are put into it and none is taken (Shrivastava et al. 2017).

    Args:
        key: of the draws.
        pool: [P, H, W, C].
        filled: how many of them are there, int32.
        images: [B, H, W, C]; of more than P, the first P take part.
        axis_name: the pool gets the images of the first replica.
    """
    size = min(len(images), len(pool))
    newest, rest = images[:size], images[size:]
    place_key, coin_key = jax.random.split(key)
    # A place for each image: any, but all different, of a full pool; otherwise the next that are empty.
    drawn = jax.random.permutation(place_key, len(pool))[:size].astype(jnp.int32)
    following = (filled + jnp.arange(size, dtype=jnp.int32)) % len(pool)
    full = filled >= len(pool)
    places = jnp.where(full, drawn, following)
    taken = jax.random.bernoulli(coin_key, jnp.float32(0.5), (size,)) & full
    stored = taken | ~full
    there = pool[places]
    chosen = jnp.where(taken[:, None, None, None], there, newest)
    # Pools are alike on all replicas, and so hold the images of one.
    news = _of_first_replica(newest, axis_name)
    pool = pool.at[places].set(jnp.where(stored[:, None, None, None], news, there))
    return jnp.concatenate([chosen, rest]), pool


def _of_first_replica(values: jax.Array, axis_name: str | None) -> jax.Array:
    """The values that the first replica has, on every replica."""
    if axis_name is None:
        return values
    own = jnp.where(jax.lax.axis_index(axis_name) == 0, values, 0.0)
    return jax.lax.psum(own, axis_name)
