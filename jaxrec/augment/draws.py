"""Random numbers for a batch: each kind of change has a stream of its own, whatever other kinds are on."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np


def stream(key: jax.Array, name: str) -> jax.Array:
    """The key of the changes called ``name``."""
    return jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode())))


def signed(key: jax.Array, name: str, count: int, batch: int) -> jax.Array:
    """``count`` numbers from -1 to 1 for each image, float32 [count, B]; one draw compiles faster than several."""
    return jax.random.uniform(stream(key, name), (count, batch), jnp.float32, -1.0, 1.0)


def rectangles(
    key: jax.Array, batch: int, size: tuple[int, int], sides: tuple[int | jax.Array, int | jax.Array]
) -> jax.Array:
    """True, in bool [B, H, W, 1], inside a rectangle of the given sides whose center lies anywhere in the image."""
    # An even side has its center on one of length + 1 borders between pixels, an odd one on one of length pixels.
    ends = jnp.array([length + 1 - side % 2 for length, side in zip(size, sides, strict=True)])
    centers = jax.random.randint(key, (batch, 2), 0, ends, jnp.int32)
    rows = _between(size[0], centers[:, :1], sides[0])
    columns = _between(size[1], centers[:, 1:], sides[1])
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def _between(length: int, center: jax.Array, side: int | jax.Array) -> jax.Array:
    """True, in bool [B, length], at the ``side`` places around each center, int32 [B, 1]."""
    first = center - side // 2
    place = jnp.arange(length, dtype=jnp.int32)
    return (place >= first) & (place < first + side)
