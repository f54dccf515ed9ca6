"""Movements of a batch's images, drawn once and applied to images, masks and boxes alike."""

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.augment.draws import signed, stream
from jaxrec.augment.randaugment import draw_randaugment, randaugment_affine
from jaxrec.augment.sampling import bilinear, matrices, nearest, sources, windows
from jaxrec.errors import UserError
from jaxrec.settings import Augment


@flax.struct.dataclass
class Geometry:
    """A movement of each image of a batch; None: no such part.

    The parts happen in the order affine, window, crop, flips, turns. What an affine map or a window brings in from
    outside the image is black (masks: a given value); what a crop brings in is the image reflected at its border.
    """

    size: tuple[int, int] = flax.struct.field(pytree_node=False)
    """Height and width of the images before."""
    pad: int = flax.struct.field(pytree_node=False, default=0)
    """Pixels of reflected border on each side from which the crop is cut."""
    affine: jax.Array | None = None
    """float32 [B, 3, 3]: takes (y, x, 1) of the output to (y, x, 1) of the input, in pixels from each one's center."""
    crop: jax.Array | None = None
    """int32 [B, 2]: first row and column, from 0 to 2 pad, of the crop from the padded image."""
    flip: jax.Array | None = None
    """bool [B]: mirrored left-right."""
    flip_vertical: jax.Array | None = None
    """bool [B]: mirrored top-bottom."""
    turns: jax.Array | None = None
    """int32 [B]: quarter turns counterclockwise, 0 to 3, of images that are square by then."""
    window: jax.Array | None = None
    """int32 [B, 2]: row and column of the image at which the window starts; negative if it starts outside."""
    cut: tuple[int, int] | None = flax.struct.field(pytree_node=False, default=None)
    """Height and width of the images after, if they are not those before."""

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the images after."""
        return self.cut or self.size


def draw_geometry(
    config: Augment, key: jax.Array, index: jax.Array, epoch: jax.Array, size: tuple[int, int]
) -> Geometry:
    """Draws each example's movement: ``index`` int [B], ``epoch`` int [B] or a scalar, ``size`` the images' (H, W).

    RandAugment's geometric operations are part of it; :func:`change_color` does the others when it is given the same
    key. Raises UserError for a window, a range of scales or turns that cannot be.
    """
    cut = config.window if config.window != (0, 0) else None
    _check(config, cut or size)
    batch = len(index)
    affine = _draw_affine(config, key, batch, size, cut or size)
    window = None
    if cut and affine is None:
        window = _draw_window(key, batch, size, cut)
    crop = None
    if config.crop:
        crop = jax.random.randint(stream(key, "crop"), (batch, 2), 0, 2 * config.crop + 1, jnp.int32)
    flip = _draw_flip(config, key, index, epoch)
    flip_vertical = turns = None
    if config.flip_vertical:
        flip_vertical = jax.random.bernoulli(stream(key, "flip vertical"), jnp.float32(0.5), (batch,))
    if config.turns:
        turns = jax.random.randint(stream(key, "turns"), (batch,), 0, 4, jnp.int32)
    return Geometry(size, config.crop, affine, crop, flip, flip_vertical, turns, window, cut)


def move_images(geometry: Geometry, images: jax.Array) -> jax.Array:
    """Moves images [B, H, W, C], sampled bilinearly (windows, crops and flips are exact); what is outside is 0."""
    if geometry.affine is not None:
        images = bilinear(images, *sources(geometry.affine, geometry.size, geometry.output))
    return _cut_and_flip(geometry, images, 0)


def move_masks(geometry: Geometry, masks: jax.Array, fill: int) -> jax.Array:
    """Moves integer masks [B, H, W], each pixel taking the nearest one's value and ``fill`` if there is none."""
    if geometry.affine is not None:
        masks = nearest(masks, *sources(geometry.affine, geometry.size, geometry.output), fill)
    return _cut_and_flip(geometry, masks[..., None], fill)[..., 0]


def move_boxes(geometry: Geometry, boxes: jax.Array) -> jax.Array:
    """Moves boxes, float32 [B, N, 4] of y0, x0, y1, x1 in pixels, where pixel (i, j) covers [i, i + 1] x [j, j + 1].

    The result is the box around the moved corners, clipped to the image; a box that left the image has no area. The
    mirror images that a crop shows of things at the border get no boxes.
    """
    height, width = geometry.output
    limits = jnp.array([height, width] * 2, jnp.float32)
    if geometry.affine is not None:
        boxes = jnp.clip(_through(geometry.affine, boxes, geometry.size, geometry.output), 0.0, limits)
    if geometry.window is not None:
        boxes = jnp.clip(boxes - _twice(geometry.window), 0.0, limits)
    if geometry.crop is not None:
        boxes = jnp.clip(boxes - _twice(geometry.crop - geometry.pad), 0.0, limits)
    return _turned_boxes(geometry, boxes)


def _turned_boxes(geometry: Geometry, boxes: jax.Array) -> jax.Array:
    """The boxes after the flips and the turns."""
    height, width = geometry.output
    if geometry.flip is not None:
        y0, x0, y1, x1 = jnp.moveaxis(boxes, -1, 0)
        boxes = _chosen(geometry.flip, jnp.stack([y0, width - x1, y1, width - x0], -1), boxes)
    if geometry.flip_vertical is not None:
        y0, x0, y1, x1 = jnp.moveaxis(boxes, -1, 0)
        boxes = _chosen(geometry.flip_vertical, jnp.stack([height - y1, x0, height - y0, x1], -1), boxes)
    if geometry.turns is not None:
        y0, x0, y1, x1 = jnp.moveaxis(boxes, -1, 0)
        boxes = _chosen(geometry.turns >= 2, jnp.stack([height - y1, width - x1, height - y0, width - x0], -1), boxes)
        y0, x0, y1, x1 = jnp.moveaxis(boxes, -1, 0)
        boxes = _chosen(geometry.turns % 2 == 1, jnp.stack([width - x1, y0, width - x0, y1], -1), boxes)
    return boxes


def areas_uncut(geometry: Geometry, boxes: jax.Array) -> jax.Array:
    """The areas float32 [B, N] that boxes [B, N, 4] have after the movement, with what it cut off at the border."""
    if geometry.affine is not None:
        boxes = _through(geometry.affine, boxes, geometry.size, geometry.output)
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _through(affine: jax.Array, boxes: jax.Array, size: tuple[int, int], output: tuple[int, int]) -> jax.Array:
    """The boxes around the corners of ``boxes`` after the movement whose map from output to input is ``affine``."""
    corners = boxes[..., np.array([[0, 1], [0, 3], [2, 1], [2, 3]])]
    p = affine[:, :, :, None, None]
    y = corners[..., 0] - size[0] / 2 - p[:, 0, 2]
    x = corners[..., 1] - size[1] / 2 - p[:, 1, 2]
    determinant = p[:, 0, 0] * p[:, 1, 1] - p[:, 0, 1] * p[:, 1, 0]
    moved_y = (p[:, 1, 1] * y - p[:, 0, 1] * x) / determinant + output[0] / 2
    moved_x = (p[:, 0, 0] * x - p[:, 1, 0] * y) / determinant + output[1] / 2
    return jnp.stack([moved_y.min(-1), moved_x.min(-1), moved_y.max(-1), moved_x.max(-1)], -1)


def _twice(start: jax.Array) -> jax.Array:
    """int32 [B, 2] as what both corners of a box move by, float32 [B, 1, 4]."""
    return jnp.concatenate([start, start], -1).astype(jnp.float32)[:, None]


def _cut_and_flip(geometry: Geometry, images: jax.Array, fill: int) -> jax.Array:
    """The parts of the movement that leave the pixels' values as they are, of [B, H, W, C]."""
    if geometry.window is not None:
        images = _window(images, geometry.window, geometry.output, fill)
    if geometry.crop is not None:
        border = (geometry.pad, geometry.pad)
        padded = jnp.pad(images, ((0, 0), border, border, (0, 0)), mode="reflect")
        images = windows(padded, geometry.crop, geometry.output)
    if geometry.flip is not None:
        images = _chosen(geometry.flip, images[:, :, ::-1], images)
    if geometry.flip_vertical is not None:
        images = _chosen(geometry.flip_vertical, images[:, ::-1], images)
    if geometry.turns is not None:
        images = _chosen(geometry.turns >= 2, images[:, ::-1, ::-1], images)
        images = _chosen(geometry.turns % 2 == 1, jnp.rot90(images, axes=(1, 2)), images)
    return images


def _chosen(chosen: jax.Array, changed: jax.Array, values: jax.Array) -> jax.Array:
    """``changed`` [B, ...] for the examples that are ``chosen``, bool [B], and ``values`` for the others."""
    return jnp.where(chosen.reshape(-1, *[1] * (values.ndim - 1)), changed, values)


def _window(images: jax.Array, corners: jax.Array, output: tuple[int, int], fill: int) -> jax.Array:
    """The window of size ``output`` that starts at each image's corner, with ``fill`` around the image."""
    down, across = max(output[0] - images.shape[1], 0), max(output[1] - images.shape[2], 0)
    if down or across:
        value = jnp.asarray(fill, images.dtype)
        images = jnp.pad(images, ((0, 0), (down, down), (across, across), (0, 0)), constant_values=value)
        corners = corners + jnp.array([down, across], jnp.int32)
    return windows(images, corners, output)


def _check(config: Augment, output: tuple[int, int]) -> None:
    """Raises UserError for a window, a range of scales or turns that cannot be."""
    smallest, largest = config.jitter
    if not 0 < smallest <= largest:
        raise UserError(f"augment.jitter is {config.jitter}; expected two factors above 0, the smaller one first")
    if config.window != (0, 0) and min(config.window) < 1:
        raise UserError(f"augment.window is {config.window}; expected a height and a width of at least 1 pixel, or 0 0")
    if config.turns and output[0] != output[1]:
        raise UserError(
            f"augment.turns turns images on their side, and they are {output[0]}x{output[1]}; expected square images: "
            "give --augment.window two equal sides, or use --augment.flip-vertical"
        )


def _draw_flip(config: Augment, key: jax.Array, index: jax.Array, epoch: jax.Array) -> jax.Array | None:
    """Whether each image is mirrored, bool [B]."""
    match config.flip:
        case "none":
            return None
        case "random":
            return jax.random.bernoulli(stream(key, "flip"), jnp.float32(0.5), index.shape)
        case "alternating":
            return (_hash(index) + epoch.astype(jnp.uint32)) % jnp.uint32(2) == jnp.uint32(1)


def _hash(index: jax.Array) -> jax.Array:
    """An integer hash to uint32 (Wellons' lowbias32)."""
    x = index.astype(jnp.uint32)
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    return x ^ (x >> jnp.uint32(16))


def _draw_window(key: jax.Array, batch: int, size: tuple[int, int], output: tuple[int, int]) -> jax.Array:
    """Corners int32 [B, 2] of windows that lie inside the image, or around all of it if they are larger."""
    spare = np.array(size, np.int32) - np.array(output, np.int32)
    first, last = np.minimum(spare, 0), np.maximum(spare, 0)
    return jax.random.randint(stream(key, "window"), (batch, 2), first, last + 1, jnp.int32)


def _draw_affine(
    config: Augment, key: jax.Array, batch: int, size: tuple[int, int], output: tuple[int, int]
) -> jax.Array | None:
    """The maps float32 [B, 3, 3] from output to input of all that needs sampling, in one; None if nothing does."""
    maps = []
    if config.rotate or config.scale or config.translate:
        maps.append(_draw_turn(config, key, batch, size))
    if config.resized_crop:
        maps.append(_draw_resized_crop(config.resized_crop, key, batch, size))
    for operation, sign in draw_randaugment(config, key, batch):
        maps.append(randaugment_affine(operation, sign, config.magnitude / 10, size))
    # A window alone is cut without sampling.
    if config.jitter != (1, 1) or (maps and output != size):
        maps.append(_draw_scaled_window(config.jitter, key, batch, size, output))
    if not maps:
        return None
    # The default precision of a product on an accelerator would move the image by a visible part of a pixel.
    return functools.reduce(functools.partial(jnp.matmul, precision="highest"), maps)


def _draw_turn(config: Augment, key: jax.Array, batch: int, size: tuple[int, int]) -> jax.Array:
    """Rotation, change of size and shift."""
    turn, zoom, down, across = signed(key, "affine", 4, batch)
    angle = math.radians(config.rotate) * turn
    # The map runs from output to input, so an image enlarged by a factor is read in steps of its inverse.
    step = 1 / (1 + config.scale * zoom)
    cos, sin = step * jnp.cos(angle), step * jnp.sin(angle)
    shift_y, shift_x = config.translate * size[0] * down, config.translate * size[1] * across
    return matrices([[cos, sin, shift_y], [-sin, cos, shift_x]])


def _draw_resized_crop(smallest: float, key: jax.Array, batch: int, size: tuple[int, int]) -> jax.Array:
    """Inception's crop: share of the area and logarithm of the aspect are uniform; sides are cut to the image's."""
    share, shape, down, across = signed(key, "resized crop", 4, batch)
    area = smallest + (1 - smallest) * (share + 1) / 2
    aspect = jnp.exp(math.log(4 / 3) * shape)
    rows = jnp.minimum(jnp.sqrt(area / aspect), 1.0)
    columns = jnp.minimum(jnp.sqrt(area * aspect), 1.0)
    zero = jnp.zeros_like(area)
    shift_y, shift_x = size[0] / 2 * (1 - rows) * down, size[1] / 2 * (1 - columns) * across
    return matrices([[rows, zero, shift_y], [zero, columns, shift_x]])


def _draw_scaled_window(
    jitter: tuple[float, float], key: jax.Array, batch: int, size: tuple[int, int], output: tuple[int, int]
) -> jax.Array:
    """A window anywhere in the image scaled by a factor whose logarithm is uniform; or around it, if it is smaller."""
    zoom, down, across = signed(key, "scaled window", 3, batch)
    low, high = math.log(jitter[0]), math.log(jitter[1])
    step = jnp.exp(-(low + (high - low) * (zoom + 1) / 2))
    # Half of what the window, in pixels of the image, leaves over; negative if the window is larger.
    shift_y, shift_x = (size[0] - output[0] * step) / 2 * down, (size[1] - output[1] * step) / 2 * across
    zero = jnp.zeros_like(step)
    return matrices([[step, zero, shift_y], [zero, step, shift_x]])
