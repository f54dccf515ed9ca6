"""Explanations by covering parts of an image: windows one after another, random parts, and ever smaller cells."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.after.explain.segments import grid, spread
from jaxrec.after.explain.variants import Baseline, Score, covered, each, total

SCALES = (2, 4, 8)
"""Cells of a side."""


def occlusion(
    score: Score,
    image: jax.Array,
    baseline: Baseline = 0.0,
    window: tuple[int, ...] | None = None,
    stride: tuple[int, ...] | None = None,
) -> jax.Array:
    """How much the score falls if a window is covered (Zeiler & Fergus 2014), float32 [...].

    Of each place, the mean over the windows that cover it, divided by the number of places in a window.

    Args:
        score: see ``jaxrec.after.explain``.
        image: float32 [..., C].
        baseline: what covers.
        window: places that a window has along each axis. Default: a quarter of each side.
        stride: places between a window and the next along each axis. Default: half a window.
    """
    places = image.shape[:-1]
    sizes = np.array(window or [max(1, side // 4) for side in places])
    steps = np.array(stride or np.maximum(1, sizes // 2))
    axes = []
    for side, size, step in zip(places, sizes, steps, strict=True):
        # The last window ends where the image does.
        axes.append(sorted({*range(0, side - size + 1, step), side - size}))
    corners = jnp.array(list(itertools.product(*axes)), jnp.int32)
    before = score(image[None])[0]

    def of_some(corners: jax.Array, counts: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden = _windows(corners, sizes, places)
        falls = before - score(covered(image, baseline, 1 - hidden))
        return jnp.tensordot(counts * falls, hidden, 1), jnp.tensordot(counts, hidden, 1)

    falls, windows = total(of_some, corners, image)
    return falls / jnp.maximum(windows, 1) / float(sizes.prod())


def _windows(corners: jax.Array, sizes: np.ndarray, places: tuple[int, ...]) -> jax.Array:
    """1 inside the windows with these corners int32 [N, axes], 0 outside: float32 [N, ...]."""
    inside = jnp.ones((len(corners), *places), bool)
    for axis, (side, size) in enumerate(zip(places, sizes.tolist(), strict=True)):
        at = jnp.arange(side, dtype=jnp.int32)
        corner = corners[:, axis, None]
        along = (at >= corner) & (at < corner + size)
        shape = [1] * len(places)
        shape[axis] = side
        inside &= along.reshape(len(corners), *shape)
    return inside.astype(jnp.float32)


def rise(
    score: Score,
    image: jax.Array,
    key: jax.Array,
    baseline: Baseline = 0.0,
    samples: int = 1000,
    cells: int = 8,
    keep: float = 0.5,
) -> jax.Array:
    """RISE (Petsiuk et al. 2018): the mean score while a place is seen, less the mean score, float32 [...].

    Random masks show parts of the image. Each is a coarse grid of ``cells`` a side, of which the share ``keep`` is
    seen, enlarged with soft edges and shifted by less than a cell. RISE itself does not subtract the mean, which is the
    same for all places.
    """
    places = image.shape[:-1]

    def of_some(keys: jax.Array, counts: jax.Array) -> tuple[jax.Array, ...]:
        shown = jax.vmap(lambda key: _soft_mask(key, places, cells, keep))(keys)
        scores = counts * score(covered(image, baseline, shown))
        return jnp.tensordot(scores, shown, 1), jnp.tensordot(counts, shown, 1), scores.sum()

    seen, shown, scores = total(of_some, jax.random.split(key, samples), image)
    return seen / jnp.maximum(shown, 1e-6) - scores / samples


def _soft_mask(key: jax.Array, places: tuple[int, ...], cells: int, keep: float) -> jax.Array:
    """What a mask shows of each place, float32 [...] in [0, 1]."""
    numbers = [min(cells, side) for side in places]
    sizes = [-(-side // number) for side, number in zip(places, numbers, strict=True)]
    drawn, shifted = jax.random.split(key)
    # One cell more than the image has, so that the grid can be shifted.
    coarse = jax.random.bernoulli(drawn, keep, [number + 1 for number in numbers]).astype(jnp.float32)
    whole = [(number + 1) * size for number, size in zip(numbers, sizes, strict=True)]
    smooth = jax.image.resize(coarse, whole, "bilinear")
    shift = jax.random.randint(shifted, (len(places),), 0, jnp.array(sizes, jnp.int32))
    return jax.lax.dynamic_slice(smooth, list(shift), places)


def multi_scale(
    score: Score, image: jax.Array, baseline: Baseline = 0.0, scales: tuple[int, ...] = SCALES
) -> jax.Array:
    """How much the score falls if a cell is covered, spread over it, mean over grids of several scales: float32 [...].

    ``scales`` are the cells of a side of each grid. Large cells find large objects, which stay visible behind a small
    one; small cells tell where they are.
    """
    before = score(image[None])[0]
    maps = []
    for cells in scales:
        segments, count = grid(image.shape[:-1], cells)
        hidden = jnp.eye(count, dtype=jnp.float32)

        def scores(hidden: jax.Array, segments: jax.Array = segments) -> jax.Array:
            return score(covered(image, baseline, 1 - hidden[:, segments]))

        maps.append(spread(before - each(scores, hidden, image), segments))
    return jnp.stack(maps).mean(0)
