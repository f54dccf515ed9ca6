"""Changes of color, in the range 0 to 1; and the standardization that a model sees."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxrec.augment.draws import signed
from jaxrec.augment.randaugment import ENHANCEMENTS, OPERATIONS, draw_randaugment
from jaxrec.settings import Augment


def change_color(config: Augment, key: jax.Array, images: jax.Array) -> jax.Array:
    """Random brightness, contrast and saturation, then RandAugment's operations on color; the result is in [0, 1]."""
    batch = images.shape[0]
    if config.brightness or config.contrast or config.saturation:
        # The stream keeps the name that runs have begun with.
        brightness, contrast, saturation = signed(key, "colour", 3, batch)
        if config.brightness:
            change = (config.brightness * brightness).astype(images.dtype)
            images = jnp.clip(images + change[:, None, None, None], 0.0, 1.0)
        if config.contrast:
            mean = grey(images).mean((1, 2, 3), keepdims=True)
            images = _enhance(images, mean, 1 + config.contrast * contrast)
        if config.saturation:
            images = _enhance(images, grey(images), 1 + config.saturation * saturation)
    for operation, sign in draw_randaugment(config, key, batch):
        images = _randaugment_color(images, operation, sign, config.magnitude / 10)
    return images


def standardize(
    images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """(images - mean) / std by channel, as ``dtype``; uint8 images are divided by 255 first, floats are in [0, 1].

    With an empty ``mean`` the images in [0, 1] themselves.
    """
    scaled = images.astype(jnp.float32)
    if images.dtype == jnp.uint8:
        scaled = scaled / 255
    if mean:
        scaled = (scaled - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)
    return scaled.astype(dtype)


def grey(images: jax.Array) -> jax.Array:
    """Luma [B, H, W, 1] of RGB; the mean of other channels, so that grey images are their own."""
    if images.shape[-1] != 3:
        return images.mean(-1, keepdims=True)
    return 0.299 * images[..., :1] + 0.587 * images[..., 1:2] + 0.114 * images[..., 2:]


def _enhance(images: jax.Array, base: jax.Array, factor: jax.Array) -> jax.Array:
    """Moves images away from ``base`` (factor above 1) or towards it (below), clipped to [0, 1]."""
    return jnp.clip(base + factor.astype(images.dtype)[:, None, None, None] * (images - base), 0.0, 1.0)


def _randaugment_color(images: jax.Array, operation: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    """One round at a strength from 0 to 1; all operations are computed and one selected, as a vmapped switch does."""

    def chosen(*names: str) -> jax.Array:
        numbers = jnp.array([OPERATIONS.index(name) for name in names])
        return (operation[:, None] == numbers).any(-1)[:, None, None, None]

    luma = grey(images)
    mean = luma.mean((1, 2, 3), keepdims=True)
    base = jnp.zeros_like(images)  # what brightness moves away from
    base = jnp.where(chosen("contrast"), mean, base)
    base = jnp.where(chosen("saturation"), luma, base)
    base = jnp.where(chosen("sharpness"), _smooth(images), base)
    enhanced = _enhance(images, base, 1 + 0.9 * strength * sign)
    step = 2 ** round(4 * strength)
    posterized = jnp.floor(jnp.round(images * 255) / step) * step / 255
    solarized = jnp.where(images > 1 - strength, 1 - images, images)
    low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
    span = jnp.where(high > low, high - low, 1.0)
    # XLA may compute the images twice, once for their least value, and round them differently.
    stretched = jnp.where(high > low, jnp.clip((images - low) / span, 0.0, 1.0), images)
    images = jnp.where(chosen(*ENHANCEMENTS), enhanced, images)
    images = jnp.where(chosen("posterize"), posterized, images)
    images = jnp.where(chosen("solarize"), solarized, images)
    return jnp.where(chosen("autocontrast"), stretched, images)


def _smooth(images: jax.Array) -> jax.Array:
    """Pillow's smoothing, weights 1 around 5 over 13, with the border's pixels repeated outside."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * images) / 13
