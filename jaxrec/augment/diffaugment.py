"""Changes that gradients pass through, made before a discriminator sees the images (Zhao et al. 2020)."""

import jax
import jax.numpy as jnp

from jaxrec.augment.draws import rectangles, stream
from jaxrec.augment.sampling import windows
from jaxrec.errors import UserError, nearest

KINDS = ("color", "translation", "cutout")


def diffaugment(key: jax.Array, images: jax.Array, kinds: tuple[str, ...], share: jax.Array | None = None) -> jax.Array:
    """Changes images in [-1, 1], differentiably, before a discriminator sees them (Zhao et al. 2020).

    Args:
        key: what the changes are drawn from.
        images: floats [B, H, W, C].
        kinds: done in order: color (brightness, saturation, contrast), translation (by up to an eighth, zeros come
            in), cutout (half of each side set to zero). Colors may leave [-1, 1], as in the paper.
        share: float32 scalar, the probability with which a kind changes an image, each image and kind apart (Karras et
            al. 2020, https://arxiv.org/abs/2006.06676). None: every kind changes every image.

    Raises:
        UserError: another kind.
    """
    known = {"color": _color, "translation": _translation, "cutout": _cutout}
    for kind in kinds:
        if kind not in known:
            raise UserError(f"diffaugment knows {', '.join(known)}, not '{kind}'{nearest(kind, known)}")
        # Runs that began when the kind was spelled "colour" go on with the numbers of that stream.
        name = "colour" if kind == "color" else kind
        changed = known[kind](stream(key, name), images)
        if share is None:
            images = changed
        else:
            chosen = jax.random.bernoulli(stream(key, f"{name} share"), share, (images.shape[0], 1, 1, 1))
            images = jnp.where(chosen, changed, images)
    return images


def _color(key: jax.Array, images: jax.Array) -> jax.Array:
    brightness, saturation, contrast = jax.random.uniform(key, (3, images.shape[0], 1, 1, 1), images.dtype)
    images = images + (brightness - 0.5)
    grey = images.mean(-1, keepdims=True)
    images = grey + 2 * saturation * (images - grey)
    mean = images.mean((1, 2, 3), keepdims=True)
    return mean + (0.5 + contrast) * (images - mean)


def _translation(key: jax.Array, images: jax.Array) -> jax.Array:
    batch, height, width, _ = images.shape
    # Rounded to whole pixels, halves up, as in the paper's code.
    down, across = (height + 4) // 8, (width + 4) // 8
    padded = jnp.pad(images, ((0, 0), (down, down), (across, across), (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, jnp.array([2 * down + 1, 2 * across + 1], jnp.int32), jnp.int32)
    return windows(padded, corners, (height, width))


def _cutout(key: jax.Array, images: jax.Array) -> jax.Array:
    batch, height, width, _ = images.shape
    hidden = rectangles(key, batch, (height, width), ((height + 1) // 2, (width + 1) // 2))
    return jnp.where(hidden, 0.0, images)
