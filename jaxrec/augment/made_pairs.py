"""Images that a translation may begin with, made from those that it is to end with.

Each function takes images [B, H, W, C] in [0, 1] and returns images [B, H, W, C or 1] in [0, 1]. All are pure, and
treat every image alike.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.augment.color import grey

SHRINK = 4
"""Pixels along a side that become one in ``superres``."""
BLUR = 2.0
"""Standard deviation in pixels of ``blur``."""
HIDDEN = 0.5
"""Share of each side that ``inpaint`` hides, and the value that it puts there."""


def edges(images: jax.Array) -> jax.Array:
    """Half the length of Sobel's gradient of the grey images, at most 1: [B, H, W, 1]. Borders are repeated."""
    padded = jnp.pad(grey(images), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    # The differences in one direction, smoothed in the other by 1 2 1.
    down = padded[:, 2:] - padded[:, :-2]
    across = padded[:, :, 2:] - padded[:, :, :-2]
    down = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    across = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    return jnp.minimum(jnp.sqrt(down * down + across * across) / 2, 1.0)


def inpaint(images: jax.Array) -> jax.Array:
    """The images with the middle half of each side in grey."""
    _, height, width, _ = images.shape
    top, left = round(height * (1 - HIDDEN) / 2), round(width * (1 - HIDDEN) / 2)
    hidden = np.zeros((1, height, width, 1), bool)
    hidden[:, top : height - top, left : width - left] = True
    return jnp.where(hidden, jnp.float32(HIDDEN), images)


def superres(images: jax.Array) -> jax.Array:
    """The images with the means of squares of 4x4 pixels, enlarged bilinearly to their own size."""
    return _through(images, _shrunk_and_enlarged)


def blur(images: jax.Array) -> jax.Array:
    """The images under a Gaussian of two pixels; beyond the border nothing counts."""
    return _through(images, _gaussian)


def negative(images: jax.Array) -> jax.Array:
    """The images with light for dark."""
    return 1 - images


MADE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "grey": grey,
    "edges": edges,
    "inpaint": inpaint,
    "superres": superres,
    "blur": blur,
    "negative": negative,
}


def _through(images: jax.Array, matrix: Callable[[int], np.ndarray]) -> jax.Array:
    """The images with each column multiplied by one matrix, and each row by one."""
    _, height, width, _ = images.shape
    return jnp.einsum("bhwc,ih,jw->bijc", images, matrix(height), matrix(width))


def _shrunk_and_enlarged(side: int) -> np.ndarray:
    """float32 [side, side]: means of stretches of pixels, then a line through their middles."""
    count = math.ceil(side / SHRINK)
    stretch = np.arange(side) // SHRINK
    means = (stretch == np.arange(count)[:, None]).astype(np.float64)
    means /= means.sum(axis=1, keepdims=True)
    middles = means @ np.arange(side)
    enlarged = np.stack([np.interp(np.arange(side), middles, one) for one in np.eye(count)], axis=1)
    return (enlarged @ means).astype(np.float32)


def _gaussian(side: int) -> np.ndarray:
    """float32 [side, side]: weights of the pixels of a line around each of them."""
    distance = np.arange(side)[:, None] - np.arange(side)
    weights = np.exp(-0.5 * (distance / BLUR) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
