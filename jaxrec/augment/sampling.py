"""Affine maps of a batch's images, and images and masks sampled through them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def matrices(rows: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """The matrices [B, 3, 3] whose first two rows hold the given arrays [B] and whose last is 0, 0, 1."""
    zero = jnp.zeros_like(rows[0][0])
    return jnp.stack([jnp.stack(row, -1) for row in [*rows, [zero, zero, zero + 1]]], -2)


def sources(affine: jax.Array, size: tuple[int, int], output: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Rows and columns, float32 ``[B, *output]``, of the input of ``size`` from which each output pixel comes.

    ``affine`` [B, 3, 3] maps (y, x, 1) from the output's center to (y, x, 1) from the input's center.
    """
    y = jnp.arange(output[0], dtype=jnp.float32)[:, None] - (output[0] - 1) / 2
    x = jnp.arange(output[1], dtype=jnp.float32) - (output[1] - 1) / 2
    p = affine[:, :, :, None, None]
    source_y = p[:, 0, 0] * y + p[:, 0, 1] * x + p[:, 0, 2] + (size[0] - 1) / 2
    source_x = p[:, 1, 0] * y + p[:, 1, 1] * x + p[:, 1, 2] + (size[1] - 1) / 2
    return source_y, source_x


def bilinear(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """The images [B, H, W, C] at rows y and columns x, float32 [B, h, w]; 0 outside."""
    height, width = images.shape[1:3]
    # A place within half a pixel of the last center is still inside: blending it with black would rim resized crops.
    inside = (y >= -0.5) & (y < height - 0.5) & (x >= -0.5) & (x < width - 0.5)
    y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
    top, left = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    down = (y - jnp.floor(y)).astype(images.dtype)[..., None]
    across = (x - jnp.floor(x)).astype(images.dtype)[..., None]
    upper = (1 - across) * pick(images, top, left) + across * pick(images, top, right)
    lower = (1 - across) * pick(images, bottom, left) + across * pick(images, bottom, right)
    return computed_once(jnp.where(inside[..., None], (1 - down) * upper + down * lower, 0.0))


def computed_once(images: jax.Array) -> jax.Array:
    """The images [B, ...] as they are, from memory.

    On a CPU, XLA makes what computes an array a part of each of its readers, and so computes it again for each. The
    costs multiply if the readers, such as turns and changes of color, have several readers themselves. XLA does not
    look into loops; ``optimization_barrier`` it takes away before that.
    """
    return jax.lax.platform_dependent(images, cpu=_copied, default=lambda images: images)


def _copied(images: jax.Array) -> jax.Array:
    # Row by row, since several devices share a batch between them. JAX leaves out a loop that gives what it is given,
    # hence the zeros.
    rows = jax.lax.map(lambda row: row + jnp.zeros_like(row), jnp.moveaxis(images, 1, 0))
    return jnp.moveaxis(rows, 0, 1)


def nearest(masks: jax.Array, y: jax.Array, x: jax.Array, fill: int) -> jax.Array:
    """The masks [B, H, W] at the pixel nearest to rows y and columns x, float32 [B, h, w]; ``fill`` outside."""
    height, width = masks.shape[1:]
    row, column = jnp.floor(y + 0.5).astype(jnp.int32), jnp.floor(x + 0.5).astype(jnp.int32)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    picked = pick(masks, jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1))
    return jnp.where(inside, picked, jnp.asarray(fill, masks.dtype))


def pick(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The pixels of each image at its own rows and columns, int32 [B, h, w], which must lie inside."""
    return jax.vmap(lambda image, y, x: image.at[y, x].get(mode="promise_in_bounds"))(images, rows, columns)


def windows(images: jax.Array, corners: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The window of ``size`` from each image [B, ., ., C] that starts at its corner, int32 [B, 2]."""

    def window(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.zeros_like(corner[0])), (*size, image.shape[-1]))

    return jax.vmap(window)(images, corners)
