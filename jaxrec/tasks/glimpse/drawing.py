"""The path of the looks, drawn on the images."""

import jax
import jax.numpy as jnp

from jaxrec.models.layers import upsample
from jaxrec.tasks.inputs import rgb

DRAWN = 96
"""Pixels a side, about, at which paths are drawn at least."""
FIRST, LAST = (1.0, 0.9, 0.1), (1.0, 0.1, 0.1)
"""The colors of the first look and of the last."""
BORDER = 1.5
"""Pixels that the border of a square is wide."""
HALF_LINE = 0.75
"""Pixels from the middle of a line to its edge."""


def paths(images: jax.Array, looks: jax.Array, patch: int) -> jax.Array:
    """Images in [0, 1] with the squares that were seen at the finest scale, and lines from each to the next.

    Args:
        images: [B, H, W, C].
        looks: where the squares are, [B, T, 2] in [-1, 1].
        patch: pixels a side of a square.

    Returns:
        float32 [B, H * n, W * n, 3]; small images are enlarged.
    """
    factor = max(1, DRAWN // min(images.shape[1:3]))
    drawn = upsample(rgb(images), factor)
    height, width = drawn.shape[1:3]
    sides = jnp.array([height, width], jnp.float32)
    centers = (looks + 1) / 2 * sides
    # The middles of the pixels, to be broadcast: [H, 1] and [1, W].
    down = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    across = jnp.arange(width, dtype=jnp.float32)[None, :] + 0.5
    half = factor * patch / 2
    count = looks.shape[1]
    first, last = jnp.array(FIRST, jnp.float32), jnp.array(LAST, jnp.float32)
    for look in range(count):
        color = first + (last - first) * look / max(count - 1, 1)
        marked = _on_border(down, across, centers[:, look], half)
        if look:
            marked |= _near(down, across, centers[:, look - 1], centers[:, look])
        drawn = jnp.where(marked[..., None], color, drawn)
    return drawn


def _on_border(down: jax.Array, across: jax.Array, center: jax.Array, half: float) -> jax.Array:
    """Which pixels, of middles [H, 1] and [1, W], lie on squares about centers [B, 2], ``half`` a side: bool [B, H, W].

    In the maximum norm, a square is what is as far away from its center.
    """
    here = center[:, None, None, :]
    away = jnp.maximum(abs(down - here[..., 0]), abs(across - here[..., 1]))
    return (away <= half) & (away > half - BORDER)


def _near(down: jax.Array, across: jax.Array, start: jax.Array, end: jax.Array) -> jax.Array:
    """Which pixels, of middles [H, 1] and [1, W], lie on the lines between points [B, 2]: bool [B, H, W]."""
    way = (end - start)[:, None, None, :]
    from_start = jnp.stack(jnp.broadcast_arrays(down, across), axis=-1) - start[:, None, None, :]
    # How far along the way the nearest point of the line is, and how far the pixel is from there.
    share = (from_start * way).sum(-1) / jnp.maximum((way * way).sum(-1), 1e-6)
    beside = from_start - jnp.clip(share, 0, 1)[..., None] * way
    return jnp.square(beside).sum(-1) < HALF_LINE**2
