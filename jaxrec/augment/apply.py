"""All that an ``Augment`` setting asks for, applied to images alone or to whole examples."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxrec.augment.colour import change_colour
from jaxrec.augment.draws import rectangles, stream
from jaxrec.augment.geometry import Geometry, draw_geometry, move_boxes, move_images, move_masks
from jaxrec.errors import UserError
from jaxrec.settings import Augment

STILL = ("class", "classes", "number")
"""Kinds of features that no change of the image concerns."""
MOVED = ("image", "mask", "boxes")
"""Kinds of features that move with the image."""


def augment(config: Augment, key: jax.Array, images: jax.Array, index: jax.Array, epoch: jax.Array) -> jax.Array:
    """The images [B, H, W, C] in [0, 1] after everything ``config`` asks for: geometry, then color, then cutout.

    ``index`` (int [B], the example's id in its split) and ``epoch`` (int [B] or a scalar) matter to alternating flips
    only. The result has the size of ``config.window`` if there is one. What is off leaves no trace in the program.
    """
    return augment_examples(config, key, {"image": images}, {"image": "image"}, index, epoch)["image"]


def augment_examples(
    config: Augment,
    key: jax.Array,
    examples: Mapping[str, jax.Array],
    kinds: Mapping[str, str],
    index: jax.Array,
    epoch: jax.Array,
    *,
    void: int | None = None,
) -> dict[str, jax.Array]:
    """The examples after everything ``config`` asks for; every movement is drawn once and applied to all their parts.

    Each of ``examples`` is an array whose kind ``kinds`` names:

    - image: [B, H, W, C] in [0, 1], sampled bilinearly, and the only kind whose color changes; several images of an
      example get the same changes.
    - mask: int [B, H, W] of the images' size; each pixel takes the nearest one's value. ``void`` is what comes in from
      outside the image; by default the largest value of the mask's dtype, which is no class.
    - boxes: float32 [B, N, 4], y0, x0, y1, x1 in pixels.
    - class, classes, number: left as they are.

    ``index`` and ``epoch`` are as for :func:`augment`. Raises UserError for another kind, for examples without an image
    or mask, and for images and masks of different sizes.
    """
    size = _size(examples, kinds)
    geometry = draw_geometry(config, key, index, epoch, size)
    result = dict(examples)
    for name, values in examples.items():
        match kinds[name]:
            case "image":
                result[name] = _changed_image(config, key, geometry, values)
            case "mask":
                fill = int(jnp.iinfo(values.dtype).max) if void is None else void
                result[name] = move_masks(geometry, values, fill)
            case "boxes":
                result[name] = move_boxes(geometry, values)
    return result


def _size(examples: Mapping[str, jax.Array], kinds: Mapping[str, str]) -> tuple[int, int]:
    """Height and width that all images and masks have."""
    sizes = {}
    for name, values in examples.items():
        kind = kinds[name]
        if kind not in MOVED + STILL:
            raise UserError(f"'{name}' is of kind '{kind}'; augmentation knows {', '.join(MOVED + STILL)}")
        if kind in ("image", "mask"):
            sizes[name] = values.shape[1:3]
    if not sizes:
        raise UserError(f"there is no image or mask to augment among {', '.join(examples) or 'no features'}; add one")
    if len(set(sizes.values())) > 1:
        raise UserError(f"images and masks of an example must be of one size to move together; got {sizes}")
    return next(iter(sizes.values()))


def _changed_image(config: Augment, key: jax.Array, geometry: Geometry, images: jax.Array) -> jax.Array:
    """Images moved, then changed in color, then hidden in part."""
    images = change_colour(config, key, move_images(geometry, images))
    if config.cutout:
        sides = (config.cutout, config.cutout)
        hidden = rectangles(stream(key, "cutout"), len(images), geometry.output, sides)
        images = jnp.where(hidden, 0.5, images)
    return images
