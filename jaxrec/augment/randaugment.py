"""RandAugment (Cubuk et al. 2020): which operations each image gets, and those that move it."""

import math

import jax
import jax.numpy as jnp

from jaxrec.augment.draws import stream
from jaxrec.augment.sampling import matrices
from jaxrec.settings import Augment

ENHANCEMENTS = ("brightness", "contrast", "saturation", "sharpness")
OPERATIONS = (
    *("identity", "rotate", "translate-y", "translate-x", "shear-y", "shear-x"),
    *ENHANCEMENTS,
    *("posterize", "solarize", "autocontrast"),
)
"""The paper's without equalize, whose histograms would cost more than all the others."""


def draw_randaugment(config: Augment, key: jax.Array, batch: int) -> list[tuple[jax.Array, jax.Array]]:
    """For each round, the number of each image's operation and a sign for its strength.

    The geometric ones are done first, in one sampling, then those on color, each kind in the order drawn.
    """
    if not config.randaugment:
        return []
    shape = (config.randaugment, batch)
    draws = jax.random.randint(stream(key, "randaugment"), shape, 0, 2 * len(OPERATIONS), jnp.int32)
    signs = (1 - 2 * (draws % 2)).astype(jnp.float32)
    return list(zip(draws // 2, signs, strict=True))


def randaugment_affine(operation: jax.Array, sign: jax.Array, strength: float, size: tuple[int, int]) -> jax.Array:
    """Matrices [B, 3, 3] of one round at a strength from 0 to 1; the identity for operations on color."""

    def amount(name: str, largest: float) -> jax.Array:
        return jnp.where(operation == OPERATIONS.index(name), strength * largest * sign, 0.0)

    # At most one of the amounts of an image is not zero, so that they need no product of matrices.
    angle = amount("rotate", math.radians(30))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = [cos, sin + amount("shear-y", 0.3), amount("translate-y", 0.45 * size[0])]
    columns = [amount("shear-x", 0.3) - sin, cos, amount("translate-x", 0.45 * size[1])]
    return matrices([rows, columns])
