"""Colors of classes: what masks look like in pictures."""

import jax
import jax.numpy as jnp
import numpy as np

MOST = 256


def palette() -> np.ndarray:
    """A color for each class number, uint8 [256, 3]: neighbors differ much, and 0 is black as a background should be.

    The colors of Pascal VOC (Everingham et al. 2010): the bits of the number are spread over the channels.
    """
    colors = np.zeros((MOST, 3), np.uint8)
    for number in range(MOST):
        for bit in range(8):
            for channel in range(3):
                value = number >> (3 * bit + channel) & 1
                colors[number, channel] |= value << (7 - bit)
    return colors


PALETTE = palette()


def colors(classes: jax.Array, counts: jax.Array | None = None) -> jax.Array:
    """Classes int [..., H, W] as colors float32 [..., H, W, 3] in [0, 1]; black where ``counts`` is False."""
    # Class 0 would be as black as what does not count.
    table = jnp.array(PALETTE, jnp.float32).at[0].set(jnp.array([70.0, 70.0, 70.0])) / 255
    found = table[classes % MOST]
    return found if counts is None else jnp.where(counts[..., None], found, 0.0)


def overlay(images: jax.Array, classes: jax.Array, strength: float = 0.5) -> jax.Array:
    """Images [..., H, W, 3] in [0, 1] with the colors of their classes laid over them."""
    return (1 - strength) * images + strength * colors(classes)


def errors(images: jax.Array, right: jax.Array, counts: jax.Array) -> jax.Array:
    """What is wrong in red, over the images in pale grey; black where ``counts`` is False.

    Images are float32 [..., H, W, 1 or more] in [0, 1], the others bool [..., H, W].
    """
    grey = 0.5 + 0.5 * images.mean(-1, keepdims=True)
    red = jnp.array([0.85, 0.1, 0.1], jnp.float32)
    shown = jnp.where(right[..., None], grey, red)
    return jnp.where(counts[..., None], shown, 0.0)
