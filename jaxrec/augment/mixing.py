"""Mixing of the images of a batch, and of their targets by the same share."""

import jax
import jax.numpy as jnp

from jaxrec.augment.draws import rectangles


def mixup(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Mixes each image, and its target [B, classes], with the one before it in the batch (Zhang et al. 2018).

    One share per batch, from Beta(alpha, alpha). Batches are shuffled, so a fixed partner is as good as a drawn one,
    and no image meets itself.
    """
    share = jax.random.beta(key, alpha, alpha, dtype=jnp.float32)
    return _mix(images, share), _mix(targets, share)


def cutmix(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Pastes a rectangle of the image before it in the batch into each image (Yun et al. 2019).

    One rectangle per batch, of the image's proportions; its area is a share from Beta(alpha, alpha) less what the
    border clips. Targets [B, classes] are mixed by the exact share of pixels.
    """
    draw_key, place_key = jax.random.split(key)
    _, height, width, _ = images.shape
    side = jnp.sqrt(1 - jax.random.beta(draw_key, alpha, alpha, dtype=jnp.float32))
    sides = ((side * height).astype(jnp.int32), (side * width).astype(jnp.int32))
    pasted = rectangles(place_key, 1, (height, width), sides)
    mixed = jnp.where(pasted, jnp.roll(images, 1, axis=0), images)
    return mixed, _mix(targets, 1 - pasted.mean(dtype=jnp.float32))


def _mix(values: jax.Array, share: jax.Array) -> jax.Array:
    """``share`` of each value and the rest of the one before it."""
    share = share.astype(values.dtype)
    return share * values + (1 - share) * jnp.roll(values, 1, axis=0)
