"""Images composed of several of a batch, with their masks and boxes: pasted objects, and mosaics."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.augment.draws import stream
from jaxrec.augment.sampling import computed_once
from jaxrec.data.boxes import SEEN

PLACES = 8
"""Places that are tried for a pasted object; the one where it hides least is taken."""
TILES = 4
ROOM = 2
"""A mosaic has room for this many times the boxes of an example: four quarters of images hold about as many as one."""


class Objects(NamedTuple):
    """The objects that the examples of a batch show."""

    boxes: jax.Array
    """float32 [B, N, 4], y0, x0, y1, x1 in pixels."""
    whole: jax.Array
    """float32 [B, N]: the area that each box would have if the image went on beyond its border."""
    classes: jax.Array
    """int32 [B, N]; -1: no box."""

    def seen(self) -> "Objects":
        """Without the boxes of which less than a quarter is left, as when files are cropped.

        They are zeros then, and their class is -1.
        """
        area = areas(self.boxes)
        kept = (self.classes >= 0) & (area > 0) & (area >= SEEN * self.whole)
        return Objects(
            jnp.where(kept[..., None], self.boxes, 0.0),
            jnp.where(kept, self.whole, 0.0),
            jnp.where(kept, self.classes, -1),
        )


def areas(boxes: jax.Array) -> jax.Array:
    """The areas [...] of boxes [..., 4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def paste(
    key: jax.Array, count: int, on: jax.Array, pictures: Mapping[str, jax.Array], objects: Objects
) -> tuple[dict[str, jax.Array], Objects]:
    """Copies ``count`` objects of the example before it in the batch into each example (Dwibedi et al. 2017,
    https://arxiv.org/abs/1708.01642), rectangles with all that they hold.

    Each is drawn with a chance that is inverse to how often its class occurs in the batch, and comes to a random place.
    ``pictures`` are images and masks [B, H, W, ...] by name; ``on`` is a bool scalar. There are N + ``count`` boxes
    after it.
    """
    givers = Objects(*[jnp.roll(each, 1, axis=0) for each in objects])
    given = {name: jnp.roll(values, 1, axis=0) for name, values in pictures.items()}
    chance = _chances(objects.classes, givers.classes)
    _, height, width = next(iter(pictures.values())).shape[:3]
    size = (height, width)
    found = dict(pictures)
    for number in range(count):
        pick_key, place_key = jax.random.split(jax.random.fold_in(stream(key, "paste"), number))
        picked = jax.random.categorical(pick_key, chance).astype(jnp.int32)
        box = jnp.take_along_axis(givers.boxes, picked[:, None, None], axis=1)[:, 0]
        label = jnp.take_along_axis(givers.classes, picked[:, None], axis=1)[:, 0]
        shift = _place(place_key, box, objects, size)
        there = on & (label >= 0)
        moved = box + jnp.concatenate([shift, shift], -1).astype(jnp.float32)
        inside = _inside(moved, size) & there[:, None, None]
        for name, values in found.items():
            shown = _shifted(given[name], shift)
            found[name] = computed_once(jnp.where(_like(inside, values), shown, values))
        objects = _covered(objects, moved, there)
        objects = Objects(
            jnp.concatenate([objects.boxes, moved[:, None]], 1),
            jnp.concatenate([objects.whole, areas(moved)[:, None]], 1),
            jnp.concatenate([objects.classes, jnp.where(there, label, -1)[:, None]], 1),
        )
    return found, objects.seen()


def _chances(classes: jax.Array, givers: jax.Array) -> jax.Array:
    """Log chances float32 [B, N] of the givers' boxes, of each class as likely in the batch; no box: next to none."""
    same = givers.reshape(-1, 1) == classes.reshape(-1)
    often = same.sum(1, dtype=jnp.int32).astype(jnp.float32).reshape(givers.shape)
    return jnp.where(givers >= 0, -jnp.log(jnp.maximum(often, 1.0)), -1e9)


def _place(key: jax.Array, box: jax.Array, objects: Objects, size: tuple[int, int]) -> jax.Array:
    """The shift int32 [B, 2] by which each box [B, 4] stays in the image and covers least of the others."""
    batch = len(box)
    share = jax.random.uniform(key, (batch, PLACES, 2), jnp.float32)
    least = -jnp.floor(box[:, None, :2])
    most = jnp.floor(jnp.array(size, jnp.float32) - box[:, None, 2:])
    shift = least + jnp.floor(share * jnp.maximum(most - least + 1, 1.0))
    moved = box[:, None] + jnp.concatenate([shift, shift], -1)
    hidden = _hidden(objects.boxes[:, None], moved[:, :, None]).max(-1)
    best = hidden.argmin(1).astype(jnp.int32)
    return jnp.take_along_axis(shift, best[:, None, None], axis=1)[:, 0].astype(jnp.int32)


def _hidden(boxes: jax.Array, cover: jax.Array) -> jax.Array:
    """The share [...] of boxes [..., 4] that a cover [..., 4] lies over."""
    first = jnp.maximum(boxes[..., :2], cover[..., :2])
    last = jnp.minimum(boxes[..., 2:], cover[..., 2:])
    return jnp.maximum(last - first, 0.0).prod(-1) / jnp.maximum(areas(boxes), 1e-6)


def _covered(objects: Objects, cover: jax.Array, there: jax.Array) -> Objects:
    """Without the objects that a pasted one, [B, 4], has hidden but for too small a share."""
    left = 1 - _hidden(objects.boxes, cover[:, None])
    classes = jnp.where((left < SEEN) & there[:, None], -1, objects.classes)
    return objects._replace(classes=classes)


def mosaic(
    key: jax.Array, share: jax.Array, pictures: Mapping[str, jax.Array], objects: Objects | None
) -> tuple[dict[str, jax.Array], Objects | None]:
    """Makes mosaics of four images of the batch (Bochkovskiy et al. 2020, https://arxiv.org/abs/2004.10934).

    Four quarters meet in a random point; each shows that much of its image, unscaled. ``share`` is the share of the
    examples that become mosaics, float32 scalar; the others stay. ``pictures`` are images and masks [B, H, W, ...] by
    name. There are 2 N boxes after it, the largest of the four images' 4 N, or None if there were none.
    """
    batch, height, width = next(iter(pictures.values())).shape[:3]
    chosen_key, point_key = jax.random.split(stream(key, "mosaic"))
    chosen = jax.random.uniform(chosen_key, (batch,), jnp.float32) < share
    least = jnp.array([height // 4, width // 4], jnp.int32)
    most = jnp.array([height, width], jnp.int32) - least
    point = jax.random.randint(point_key, (batch, 2), least, most + 1, jnp.int32)
    # Put together before the tiles are shifted, so that each image is shifted once: a tile that lies above the point
    # shows the rows that end the image.
    below = jnp.arange(height, dtype=jnp.int32) < height - point[:, :1]
    right = jnp.arange(width, dtype=jnp.int32) < width - point[:, 1:]
    found = {}
    for name, values in pictures.items():
        tiles = [jnp.roll(values, place, axis=0) for place in range(TILES)]
        rows, columns = _like(below[:, :, None], values), _like(right[:, None, :], values)
        whole = jnp.where(rows, jnp.where(columns, tiles[3], tiles[2]), jnp.where(columns, tiles[1], tiles[0]))
        mixed = jnp.where(_like(chosen[:, None, None], values), _shifted(whole, point), values)
        found[name] = computed_once(mixed)
    if objects is None:
        return found, None
    return found, _mosaic_objects(chosen, point, (height, width), objects)


def _mosaic_objects(chosen: jax.Array, point: jax.Array, size: tuple[int, int], objects: Objects) -> Objects:
    count = objects.classes.shape[1]
    sides = jnp.array(size, jnp.int32)
    tiles = []
    for place in range(TILES):
        after = jnp.array([place // 2, place % 2], jnp.int32)
        shift = jnp.where(after == 1, point, point - sides)
        first, last = jnp.where(after == 1, point, 0), jnp.where(after == 1, sides, point)
        boxes, whole, classes = (jnp.roll(each, place, axis=0) for each in objects)
        boxes = jnp.clip(boxes + _twice(shift), _twice(first), _twice(last))
        # An image that stays is its own first tile.
        stays = objects if place == 0 else objects._replace(classes=jnp.full_like(classes, -1))
        tile = Objects(boxes, whole, classes)
        mixed = [_where(chosen, ours, theirs) for ours, theirs in zip(tile, stays, strict=True)]
        tiles.append(Objects(*mixed))
    together = [jnp.concatenate(parts, 1) for parts in zip(*tiles, strict=True)]
    every = Objects(*together).seen()
    _, largest = jax.lax.top_k(areas(every.boxes), ROOM * count)
    largest = largest.astype(jnp.int32)
    return Objects(
        jnp.take_along_axis(every.boxes, largest[..., None], axis=1),
        jnp.take_along_axis(every.whole, largest, axis=1),
        jnp.take_along_axis(every.classes, largest, axis=1),
    )


def _where(chosen: jax.Array, values: jax.Array, others: jax.Array) -> jax.Array:
    return jnp.where(chosen.reshape(-1, *[1] * (values.ndim - 1)), values, others)


def _twice(corner: jax.Array) -> jax.Array:
    """int32 [B, 2] as both corners of a box, float32 [B, 1, 4]."""
    return jnp.concatenate([corner, corner], -1).astype(jnp.float32)[:, None]


def _shifted(values: jax.Array, shift: jax.Array) -> jax.Array:
    """Each of [B, H, W, ...] rolled down and to the right by its own shift, int32 [B, 2]."""
    return jax.vmap(lambda image, by: jnp.roll(image, (by[0], by[1]), (0, 1)))(values, shift)


def _inside(boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The pixels whose centers lie in each box [B, 4], bool [B, H, W]."""
    rows = jnp.arange(size[0], dtype=jnp.float32) + 0.5
    columns = jnp.arange(size[1], dtype=jnp.float32) + 0.5
    down = (rows >= boxes[:, :1]) & (rows < boxes[:, 2:3])
    across = (columns >= boxes[:, 1:2]) & (columns < boxes[:, 3:])
    return down[:, :, None] & across[:, None, :]


def _like(chosen: jax.Array, values: jax.Array) -> jax.Array:
    """bool [B, H, W] with as many axes as ``values`` [B, H, W, ...]."""
    return chosen.reshape(*chosen.shape, *[1] * (values.ndim - 3))
