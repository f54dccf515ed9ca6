"""Segments: parts of an image that are shown or covered as a whole, by a grid or along the image's own edges."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def grid(places: tuple[int, ...], cells: int) -> tuple[jax.Array, int]:
    """A grid of at most ``cells`` along each axis: the cell of each place, int32 [...], and how many there are."""
    numbers = [min(cells, side) for side in places]
    found = np.zeros(places, np.int32)
    for axis, (side, number) in enumerate(zip(places, numbers, strict=True)):
        along = np.arange(side) * number // side
        shape = [1] * len(places)
        shape[axis] = side
        found = found * number + along.reshape(shape)
    return jnp.asarray(found, jnp.int32), math.prod(numbers)


def slic(image: jax.Array, cells: int, compactness: float = 0.5, rounds: int = 10) -> tuple[jax.Array, int]:
    """Superpixels after SLIC (Achanta et al. 2012): int32 [...], and how many there are at most.

    Places are gathered around centers that are alike in color and near in space. The centers start as the middles of
    the cells of a grid, and are moved to the mean of what they gather, ``rounds`` times. Every place may go to any
    center, where the paper looks at the near ones alone; pieces that are not connected stay as they are.

    Args:
        image: float32 [..., C].
        cells: of the grid, along each axis.
        compactness: what a distance of one cell's side counts, in units of the colors' standard deviation.
        rounds: how often the centers are moved.
    """
    places = image.shape[:-1]
    start, count = grid(places, cells)
    colors = image.reshape(-1, image.shape[-1])
    colors = colors / jnp.maximum(colors.std(0), 1e-3)
    sides = np.array([side / min(cells, side) for side in places])
    where = np.indices(places).reshape(len(places), -1).T / sides
    points = jnp.concatenate([colors, compactness * jnp.asarray(where, jnp.float32)], axis=-1)

    def moved(_: int, segments: jax.Array) -> jax.Array:
        members = jax.ops.segment_sum(jnp.ones(len(points), jnp.float32), segments, count)
        centers = jax.ops.segment_sum(points, segments, count) / jnp.maximum(members, 1)[:, None]
        # The squared distance but for what is the same for all centers; an empty one gathers nothing again.
        far = (centers**2).sum(-1) - 2 * points @ centers.T
        return jnp.where(members > 0, far, jnp.inf).argmin(-1).astype(jnp.int32)

    segments = jax.lax.fori_loop(0, rounds, moved, start.reshape(-1))
    return segments.reshape(places), count


def spread(values: jax.Array, segments: jax.Array) -> jax.Array:
    """Each segment's value [count] in equal parts over its places int32 [...]: float32 [...], of the same sum."""
    flat = segments.reshape(-1)
    members = jax.ops.segment_sum(jnp.ones(flat.shape, jnp.float32), flat, len(values))
    return (values / jnp.maximum(members, 1))[segments]
