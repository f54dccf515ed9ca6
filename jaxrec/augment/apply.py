"""All that an ``Augment`` setting asks for, applied to images alone or to whole examples."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxrec.augment.color import change_color
from jaxrec.augment.composing import Objects, areas, mosaic, paste
from jaxrec.augment.draws import rectangles, stream
from jaxrec.augment.geometry import Geometry, areas_uncut, draw_geometry, move_boxes, move_images, move_masks
from jaxrec.augment.moments import change_moments, only_there
from jaxrec.errors import UserError
from jaxrec.settings import Augment

STILL = ("class", "classes", "number")
"""Kinds of features that no change of the image concerns."""
MOVED = ("image", "clip", "length", "mask", "boxes", "box_classes")
"""Kinds of features that change with the image."""


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
    composing: jax.Array | bool = True,
) -> dict[str, jax.Array]:
    """The examples after everything ``config`` asks for; every movement is drawn once and applied to all their parts.

    Each of ``examples`` is an array whose kind ``kinds`` names:

    - image: [B, H, W, C] in [0, 1], sampled bilinearly, and the only kind but clips whose color changes; several images
      of an example get the same changes.
    - clip: [B, T, H, W, C] in [0, 1]; all frames get the same changes. ``config.frames`` and ``config.reverse`` choose
      the frames, see :func:`change_moments`.
    - length: int [B]; frames from there on become zeros.
    - mask: int [B, H, W] of the images' size; each pixel takes the nearest one's value. ``void`` is what comes in from
      outside the image; by default the largest value of the mask's dtype, which is no class.
    - boxes: float32 [B, N, 4], y0, x0, y1, x1 in pixels.
    - box_classes: int [B, N], -1 for no box. A box of which less than a quarter is left in the image becomes zeros,
      and its class -1. Pasting adds a box for each object, and mosaics have room for twice as many.
    - class, classes, number: left as they are.

    ``index`` and ``epoch`` are as for :func:`augment`. ``composing``, a bool scalar, turns pasting and mosaics off
    in the same program. Raises UserError for another kind, for examples without an image, clip or mask, for those of
    different sizes, for pasting and mosaics of examples that cannot be put together, and for changes of clips if there
    are none.
    """
    size = _size(examples, kinds)
    check_composed(config, kinds)
    on = jnp.asarray(composing, bool)
    examples = change_moments(config, key, examples, kinds)
    clips = {name: values for name, values in examples.items() if kinds[name] == "clip"}
    pictures = {name: values for name, values in examples.items() if kinds[name] in ("image", "mask")}
    objects = _objects(examples, kinds)
    if config.paste and objects is not None:
        pictures, objects = paste(key, config.paste, on, pictures, objects)
    geometry = draw_geometry(config, key, index, epoch, size)
    for name, values in pictures.items():
        pictures[name] = _moved(geometry, values, kinds[name], void)
    if objects is not None:
        moved = move_boxes(geometry, objects.boxes)
        objects = Objects(moved, areas_uncut(geometry, objects.boxes), objects.classes).seen()
    if config.mosaic:
        pictures, objects = mosaic(key, jnp.where(on, jnp.float32(config.mosaic), 0.0), pictures, objects)
    for name, values in pictures.items():
        if kinds[name] == "image":
            pictures[name] = _changed_image(config, key, values)
    for name, values in clips.items():
        clips[name] = only_there(_changed_clip(config, key, geometry, values), examples, kinds)
    return {**examples, **pictures, **clips, **_named(objects, kinds)}


def _objects(examples: Mapping[str, jax.Array], kinds: Mapping[str, str]) -> Objects | None:
    """The examples' boxes with their classes; None if they have none. Boxes without classes are all of class 0."""
    found = {kinds[name]: values for name, values in examples.items()}
    if "boxes" not in found:
        return None
    boxes = found["boxes"]
    area = areas(boxes)
    classes = found.get("box_classes", jnp.where(area > 0, 0, -1))
    return Objects(boxes, area, classes.astype(jnp.int32))


def _named(objects: Objects | None, kinds: Mapping[str, str]) -> dict[str, jax.Array]:
    """Boxes and their classes by the names that the examples have for them."""
    found = {}
    for name, kind in kinds.items():
        if objects is not None and kind == "boxes":
            found[name] = objects.boxes
        if objects is not None and kind == "box_classes":
            found[name] = objects.classes
    return found


def check_composed(config: Augment, kinds: Mapping[str, str]) -> None:
    """Raises UserError if the examples of a batch are to be put together and cannot be, or have several sets of boxes.

    A label of a whole image would say nothing of four quarters. ``kinds`` are those of the features, by name.
    """
    given = list(kinds.values())
    if max(given.count("boxes"), given.count("box_classes")) > 1:
        raise UserError(f"an example has one feature of boxes and one of their classes; got {', '.join(given)}")
    if config.paste and "boxes" not in given:
        raise UserError("augment.paste copies objects in their boxes, and the examples have none; set it to 0")
    if config.mosaic and (set(given) & {*STILL, "clip"} or set(given) == {"image"}):
        raise UserError(
            "augment.mosaic puts four images together, which needs masks or boxes, no clip and no label of an image; "
            f"got {', '.join(given)}: set it to 0"
        )


def _size(examples: Mapping[str, jax.Array], kinds: Mapping[str, str]) -> tuple[int, int]:
    """Height and width that all images, clips and masks have."""
    sizes = {}
    for name, values in examples.items():
        kind = kinds[name]
        if kind not in MOVED + STILL:
            raise UserError(f"'{name}' is of kind '{kind}'; augmentation knows {', '.join(MOVED + STILL)}")
        if kind in ("image", "mask"):
            sizes[name] = values.shape[1:3]
        if kind == "clip":
            sizes[name] = values.shape[2:4]
    if not sizes:
        there = ", ".join(examples) or "no features"
        raise UserError(f"there is no image, clip or mask to augment among {there}; add one")
    if len(set(sizes.values())) > 1:
        raise UserError(f"images, clips and masks of an example must be of one size to move together; got {sizes}")
    return next(iter(sizes.values()))


def _moved(geometry: Geometry, values: jax.Array, kind: str, void: int | None) -> jax.Array:
    """Images or masks after the movement."""
    if kind == "image":
        return move_images(geometry, values)
    fill = int(jnp.iinfo(values.dtype).max) if void is None else void
    return move_masks(geometry, values, fill)


def _changed_image(config: Augment, key: jax.Array, images: jax.Array) -> jax.Array:
    """Images changed in color, then hidden in part."""
    images = change_color(config, key, images)
    if config.cutout:
        sides = (config.cutout, config.cutout)
        hidden = rectangles(stream(key, "cutout"), len(images), (images.shape[1], images.shape[2]), sides)
        images = jnp.where(hidden, 0.5, images)
    return images


def _changed_clip(config: Augment, key: jax.Array, geometry: Geometry, clips: jax.Array) -> jax.Array:
    """Clips [B, T, H, W, C] of which every frame was moved and changed as the others of its clip."""
    if jax.tree.leaves(geometry):
        # With the frames as channels, each pixel's way is worked out once.
        batch, count, height, width, channels = clips.shape
        images = jnp.moveaxis(clips, 1, 3).reshape(batch, height, width, count * channels)
        images = move_images(geometry, images)
        clips = jnp.moveaxis(images.reshape(*images.shape[:3], count, channels), 3, 1)
    # One key for all frames, so that they get the same changes.
    return jax.vmap(functools.partial(_changed_image, config, key), in_axes=1, out_axes=1)(clips)
