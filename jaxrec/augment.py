"""Random changes to images inside the compiled step: geometry (for images, masks and boxes alike), colour, mixing.

Images are float [B, H, W, C] in [0, 1] with C of 1 or 3 and keep their dtype; every image of a batch gets draws of its
own. Keys are typed keys; whoever runs one step on several devices by shard_map or pmap folds the device's index into
the key first.
"""

import functools
import math
import zlib
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrec.errors import UserError, nearest
from jaxrec.settings import Augment

# RandAugment's (Cubuk et al. 2020) but for equalize, whose histograms would cost more than all the others.
_ENHANCEMENTS = ("brightness", "contrast", "saturation", "sharpness")
_OPERATIONS = (
    *("identity", "rotate", "translate-y", "translate-x", "shear-y", "shear-x"),
    *_ENHANCEMENTS,
    *("posterize", "solarize", "autocontrast"),
)


@flax.struct.dataclass
class Geometry:
    """A movement of each image of a batch, drawn once, then applied to images, masks and boxes; None: no such part.

    The parts happen in the order affine, crop, flip. What an affine map brings in from outside the image is black
    (masks: a given value); what a crop brings in is the image reflected at its border.
    """

    size: tuple[int, int] = flax.struct.field(pytree_node=False)
    """Height and width of the images, before and after."""
    pad: int = flax.struct.field(pytree_node=False, default=0)
    """Pixels of reflected border on each side from which the crop is cut."""
    affine: jax.Array | None = None
    """float32 [B, 3, 3]: takes (y, x, 1) of the output to (y, x, 1) of the input, in pixels from the image's centre."""
    crop: jax.Array | None = None
    """int32 [B, 2]: first row and column, from 0 to 2 pad, of the crop from the padded image."""
    flip: jax.Array | None = None
    """bool [B]: mirrored left-right."""


def augment(config: Augment, key: jax.Array, images: jax.Array, index: jax.Array, epoch: jax.Array) -> jax.Array:
    """The images [B, H, W, C] in [0, 1] after everything ``config`` asks for: geometry, then colour, then cutout.

    ``index`` (int [B], the example's id in its split) and ``epoch`` (int [B] or a scalar) matter to alternating flips
    only. What is off leaves no trace in the program.
    """
    batch, height, width, _ = images.shape
    images = move_images(draw_geometry(config, key, index, epoch, (height, width)), images)
    images = change_colour(config, key, images)
    if config.cutout:
        hidden = _rectangles(_stream(key, "cutout"), batch, (height, width), (config.cutout, config.cutout))
        images = jnp.where(hidden, 0.5, images)
    return images


def draw_geometry(
    config: Augment, key: jax.Array, index: jax.Array, epoch: jax.Array, size: tuple[int, int]
) -> Geometry:
    """Draws each example's movement: ``index`` int [B], ``epoch`` int [B] or a scalar, ``size`` the images' (H, W).

    RandAugment's geometric operations are part of it; :func:`change_colour` does the others when it is given the same
    key.
    """
    batch = index.shape[0]
    crop = flip = None
    if config.crop:
        crop = jax.random.randint(_stream(key, "crop"), (batch, 2), 0, 2 * config.crop + 1, jnp.int32)
    if config.flip == "random":
        flip = jax.random.bernoulli(_stream(key, "flip"), jnp.float32(0.5), (batch,))
    elif config.flip == "alternating":
        flip = (_hash(index) + epoch.astype(jnp.uint32)) % jnp.uint32(2) == jnp.uint32(1)
    return Geometry(size, config.crop, _draw_affine(config, key, batch, size), crop, flip)


def move_images(geometry: Geometry, images: jax.Array) -> jax.Array:
    """Moves images [B, H, W, C], sampled bilinearly (crops and flips are exact)."""
    if geometry.affine is not None:
        images = _bilinear(images, *_sources(geometry.affine, geometry.size))
    return _crop_and_flip(geometry, images)


def move_masks(geometry: Geometry, masks: jax.Array, fill: int) -> jax.Array:
    """Moves integer masks [B, H, W], each pixel taking the nearest one's value and ``fill`` where there is none."""
    if geometry.affine is not None:
        height, width = geometry.size
        y, x = (jnp.floor(place + 0.5).astype(jnp.int32) for place in _sources(geometry.affine, geometry.size))
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        picked = _pick(masks, jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1))
        masks = jnp.where(inside, picked, jnp.asarray(fill, masks.dtype))
    return _crop_and_flip(geometry, masks[..., None])[..., 0]


def move_boxes(geometry: Geometry, boxes: jax.Array) -> jax.Array:
    """Moves boxes, float32 [B, N, 4] of y0, x0, y1, x1 in pixels, where pixel (i, j) covers [i, i + 1] x [j, j + 1].

    The result is the box around the moved corners, clipped to the image; a box that left the image has no area. The
    mirror images that a crop shows of things at the border get no boxes.
    """
    height, width = geometry.size
    limits = jnp.array([height, width] * 2, jnp.float32)
    if geometry.affine is not None:
        corners = boxes[..., np.array([[0, 1], [0, 3], [2, 1], [2, 3]])]
        p = geometry.affine[:, :, :, None, None]
        y = corners[..., 0] - height / 2 - p[:, 0, 2]
        x = corners[..., 1] - width / 2 - p[:, 1, 2]
        determinant = p[:, 0, 0] * p[:, 1, 1] - p[:, 0, 1] * p[:, 1, 0]
        moved_y = (p[:, 1, 1] * y - p[:, 0, 1] * x) / determinant + height / 2
        moved_x = (p[:, 0, 0] * x - p[:, 1, 0] * y) / determinant + width / 2
        boxes = jnp.stack([moved_y.min(-1), moved_x.min(-1), moved_y.max(-1), moved_x.max(-1)], -1)
        boxes = jnp.clip(boxes, 0.0, limits)
    if geometry.crop is not None:
        start = (geometry.crop - geometry.pad).astype(boxes.dtype)
        boxes = jnp.clip(boxes - jnp.concatenate([start, start], -1)[:, None], 0.0, limits)
    if geometry.flip is not None:
        y0, x0, y1, x1 = jnp.moveaxis(boxes, -1, 0)
        mirrored = jnp.stack([y0, width - x1, y1, width - x0], -1)
        boxes = jnp.where(geometry.flip[:, None, None], mirrored, boxes)
    return boxes


def change_colour(config: Augment, key: jax.Array, images: jax.Array) -> jax.Array:
    """Random brightness, contrast and saturation, then RandAugment's operations on colour; the result is in [0, 1]."""
    batch = images.shape[0]
    if config.brightness or config.contrast or config.saturation:
        brightness, contrast, saturation = _signed(key, "colour", 3, batch)
        if config.brightness:
            change = (config.brightness * brightness).astype(images.dtype)
            images = jnp.clip(images + change[:, None, None, None], 0.0, 1.0)
        if config.contrast:
            mean = _grey(images).mean((1, 2, 3), keepdims=True)
            images = _enhance(images, mean, 1 + config.contrast * contrast)
        if config.saturation:
            images = _enhance(images, _grey(images), 1 + config.saturation * saturation)
    for operation, sign in _draw_randaugment(config, key, batch):
        images = _randaugment_colour(images, operation, sign, config.magnitude / 10)
    return images


def standardise(
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
    pasted = _rectangles(place_key, 1, (height, width), sides)
    mixed = jnp.where(pasted, jnp.roll(images, 1, axis=0), images)
    return mixed, _mix(targets, 1 - pasted.mean(dtype=jnp.float32))


def diffaugment(key: jax.Array, images: jax.Array, kinds: tuple[str, ...]) -> jax.Array:
    """Changes images in [-1, 1], differentiably, before a discriminator sees them (Zhao et al. 2020).

    ``kinds``, done in order: colour (brightness, saturation, contrast), translation (by up to an eighth, zeros come
    in), cutout (half of each side set to zero). Colours may leave [-1, 1], as in the paper. Raises UserError for
    another kind.
    """
    known = {"colour": _gan_colour, "translation": _gan_translation, "cutout": _gan_cutout}
    for kind in kinds:
        if kind not in known:
            raise UserError(f"diffaugment knows {', '.join(known)}, not '{kind}'{nearest(kind, known)}")
        images = known[kind](_stream(key, kind), images)
    return images


def _stream(key: jax.Array, name: str) -> jax.Array:
    return jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode())))


def _signed(key: jax.Array, name: str, count: int, batch: int) -> jax.Array:
    """``count`` numbers from -1 to 1 for each image, float32 [count, B]; one draw compiles faster than several."""
    return jax.random.uniform(_stream(key, name), (count, batch), jnp.float32, -1.0, 1.0)


def _hash(index: jax.Array) -> jax.Array:
    """An integer hash to uint32 (Wellons' lowbias32)."""
    x = index.astype(jnp.uint32)
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    return x ^ (x >> jnp.uint32(16))


def _matrices(rows: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """The matrices [B, 3, 3] whose first two rows hold the given arrays [B] and whose last is 0, 0, 1."""
    zero = jnp.zeros_like(rows[0][0])
    return jnp.stack([jnp.stack(row, -1) for row in [*rows, [zero, zero, zero + 1]]], -2)


def _draw_affine(config: Augment, key: jax.Array, batch: int, size: tuple[int, int]) -> jax.Array | None:
    maps = []
    if config.rotate or config.scale or config.translate:
        turn, zoom, down, across = _signed(key, "affine", 4, batch)
        angle = math.radians(config.rotate) * turn
        # The map runs from output to input, so an image enlarged by a factor is read in steps of its inverse.
        step = 1 / (1 + config.scale * zoom)
        cos, sin = step * jnp.cos(angle), step * jnp.sin(angle)
        shift_y, shift_x = config.translate * size[0] * down, config.translate * size[1] * across
        maps.append(_matrices([[cos, sin, shift_y], [-sin, cos, shift_x]]))
    if config.resized_crop:
        maps.append(_draw_resized_crop(config.resized_crop, key, batch, size))
    for operation, sign in _draw_randaugment(config, key, batch):
        maps.append(_randaugment_affine(operation, sign, config.magnitude / 10, size))
    # The default precision of a product on an accelerator would move the image by a visible part of a pixel.
    return functools.reduce(functools.partial(jnp.matmul, precision="highest"), maps) if maps else None


def _draw_resized_crop(smallest: float, key: jax.Array, batch: int, size: tuple[int, int]) -> jax.Array:
    """Inception's crop: share of the area and logarithm of the aspect are uniform; sides are cut to the image's."""
    share, shape, down, across = _signed(key, "resized crop", 4, batch)
    area = smallest + (1 - smallest) * (share + 1) / 2
    aspect = jnp.exp(math.log(4 / 3) * shape)
    rows = jnp.minimum(jnp.sqrt(area / aspect), 1.0)
    columns = jnp.minimum(jnp.sqrt(area * aspect), 1.0)
    zero = jnp.zeros_like(area)
    shift_y, shift_x = size[0] / 2 * (1 - rows) * down, size[1] / 2 * (1 - columns) * across
    return _matrices([[rows, zero, shift_y], [zero, columns, shift_x]])


def _sources(affine: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Rows and columns, float32 [B, H, W], of the input from which each output pixel comes."""
    middle_y, middle_x = (size[0] - 1) / 2, (size[1] - 1) / 2
    y = jnp.arange(size[0], dtype=jnp.float32)[:, None] - middle_y
    x = jnp.arange(size[1], dtype=jnp.float32) - middle_x
    p = affine[:, :, :, None, None]
    source_y = p[:, 0, 0] * y + p[:, 0, 1] * x + p[:, 0, 2] + middle_y
    source_x = p[:, 1, 0] * y + p[:, 1, 1] * x + p[:, 1, 2] + middle_x
    return source_y, source_x


def _pick(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The pixels of each image at its own rows and columns, int32 [B, H, W], which must lie inside."""
    return jax.vmap(lambda image, y, x: image.at[y, x].get(mode="promise_in_bounds"))(images, rows, columns)


def _bilinear(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    height, width = images.shape[1:3]
    # A place within half a pixel of the last centre is still inside: blending it with black would rim resized crops.
    inside = (y >= -0.5) & (y < height - 0.5) & (x >= -0.5) & (x < width - 0.5)
    y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
    top, left = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    down = (y - jnp.floor(y)).astype(images.dtype)[..., None]
    across = (x - jnp.floor(x)).astype(images.dtype)[..., None]
    upper = (1 - across) * _pick(images, top, left) + across * _pick(images, top, right)
    lower = (1 - across) * _pick(images, bottom, left) + across * _pick(images, bottom, right)
    return jnp.where(inside[..., None], (1 - down) * upper + down * lower, 0.0)


def _crop_and_flip(geometry: Geometry, images: jax.Array) -> jax.Array:
    if geometry.crop is not None:
        border = (geometry.pad, geometry.pad)
        padded = jnp.pad(images, ((0, 0), border, border, (0, 0)), mode="reflect")
        images = _windows(padded, geometry.crop, geometry.size)
    if geometry.flip is not None:
        images = jnp.where(geometry.flip[:, None, None, None], images[:, :, ::-1], images)
    return images


def _windows(images: jax.Array, corners: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The window of ``size`` from each image [B, ., ., C] that starts at its corner, int32 [B, 2]."""

    def window(image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], jnp.zeros_like(corner[0])), (*size, image.shape[-1]))

    return jax.vmap(window)(images, corners)


def _rectangles(
    key: jax.Array, batch: int, size: tuple[int, int], sides: tuple[int | jax.Array, int | jax.Array]
) -> jax.Array:
    """True, in bool [B, H, W, 1], inside a rectangle of the given sides whose centre lies anywhere in the image."""
    # An even side has its centre on one of length + 1 borders between pixels, an odd one on one of length pixels.
    ends = jnp.array([length + 1 - side % 2 for length, side in zip(size, sides, strict=True)])
    centres = jax.random.randint(key, (batch, 2), 0, ends, jnp.int32)
    rows, columns = (
        (jnp.arange(length, dtype=jnp.int32) >= centre - side // 2)
        & (jnp.arange(length, dtype=jnp.int32) < centre - side // 2 + side)
        for length, side, centre in zip(size, sides, jnp.split(centres, 2, axis=1), strict=True)
    )
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def _grey(images: jax.Array) -> jax.Array:
    """Luma [B, H, W, 1]; grey images are their own."""
    if images.shape[-1] == 1:
        return images
    return 0.299 * images[..., :1] + 0.587 * images[..., 1:2] + 0.114 * images[..., 2:]


def _enhance(images: jax.Array, base: jax.Array, factor: jax.Array) -> jax.Array:
    """Moves images away from ``base`` (factor above 1) or towards it (below), clipped to [0, 1]."""
    return jnp.clip(base + factor.astype(images.dtype)[:, None, None, None] * (images - base), 0.0, 1.0)


def _draw_randaugment(config: Augment, key: jax.Array, batch: int) -> list[tuple[jax.Array, jax.Array]]:
    """For each round, the number of each image's operation and a sign for its strength.

    The geometric ones are done first, in one sampling, then those on colour, each kind in the order drawn.
    """
    if not config.randaugment:
        return []
    draws = jax.random.randint(
        _stream(key, "randaugment"), (config.randaugment, batch), 0, 2 * len(_OPERATIONS), jnp.int32
    )
    return [(draw // 2, (1 - 2 * (draw % 2)).astype(jnp.float32)) for draw in draws]


def _randaugment_affine(operation: jax.Array, sign: jax.Array, strength: float, size: tuple[int, int]) -> jax.Array:
    """Matrices [B, 3, 3] of one round at a strength from 0 to 1; the identity for operations on colour."""

    def amount(name: str, largest: float) -> jax.Array:
        return jnp.where(operation == _OPERATIONS.index(name), strength * largest * sign, 0.0)

    # At most one of the amounts of an image is not zero, so that they need no product of matrices.
    angle = amount("rotate", math.radians(30))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = [cos, sin + amount("shear-y", 0.3), amount("translate-y", 0.45 * size[0])]
    columns = [amount("shear-x", 0.3) - sin, cos, amount("translate-x", 0.45 * size[1])]
    return _matrices([rows, columns])


def _randaugment_colour(images: jax.Array, operation: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    """One round at a strength from 0 to 1; all operations are computed and one selected, as a vmapped switch does."""

    def chosen(*names: str) -> jax.Array:
        numbers = jnp.array([_OPERATIONS.index(name) for name in names])
        return (operation[:, None] == numbers).any(-1)[:, None, None, None]

    grey = _grey(images)
    mean = grey.mean((1, 2, 3), keepdims=True)
    base = jnp.where(chosen("contrast"), mean, jnp.where(chosen("saturation"), grey, jnp.zeros_like(images)))
    base = jnp.where(chosen("sharpness"), _smooth(images), base)
    enhanced = _enhance(images, base, 1 + 0.9 * strength * sign)
    step = 2 ** round(4 * strength)
    posterized = jnp.floor(jnp.round(images * 255) / step) * step / 255
    solarized = jnp.where(images > 1 - strength, 1 - images, images)
    low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
    stretched = jnp.where(high > low, (images - low) / jnp.where(high > low, high - low, 1.0), images)
    images = jnp.where(chosen(*_ENHANCEMENTS), enhanced, images)
    images = jnp.where(chosen("posterize"), posterized, images)
    images = jnp.where(chosen("solarize"), solarized, images)
    return jnp.where(chosen("autocontrast"), stretched, images)


def _smooth(images: jax.Array) -> jax.Array:
    """Pillow's smoothing, weights 1 around 5 over 13, with the border's pixels repeated outside."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * images) / 13


def _mix(values: jax.Array, share: jax.Array) -> jax.Array:
    """``share`` of each value and the rest of the one before it."""
    share = share.astype(values.dtype)
    return share * values + (1 - share) * jnp.roll(values, 1, axis=0)


def _gan_colour(key: jax.Array, images: jax.Array) -> jax.Array:
    brightness, saturation, contrast = jax.random.uniform(key, (3, images.shape[0], 1, 1, 1), images.dtype)
    images = images + (brightness - 0.5)
    grey = images.mean(-1, keepdims=True)
    images = grey + 2 * saturation * (images - grey)
    mean = images.mean((1, 2, 3), keepdims=True)
    return mean + (0.5 + contrast) * (images - mean)


def _gan_translation(key: jax.Array, images: jax.Array) -> jax.Array:
    batch, height, width, _ = images.shape
    # Rounded to whole pixels, halves up, as in the paper's code.
    down, across = (height + 4) // 8, (width + 4) // 8
    padded = jnp.pad(images, ((0, 0), (down, down), (across, across), (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, jnp.array([2 * down + 1, 2 * across + 1], jnp.int32), jnp.int32)
    return _windows(padded, corners, (height, width))


def _gan_cutout(key: jax.Array, images: jax.Array) -> jax.Array:
    batch, height, width, _ = images.shape
    hidden = _rectangles(key, batch, (height, width), ((height + 1) // 2, (width + 1) // 2))
    return jnp.where(hidden, 0.0, images)
