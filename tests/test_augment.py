"""Augmentation against closed forms in NumPy, and the invariants of its random draws."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance, ImageOps

import jaxrec.augment as module
from jaxrec.augment import Geometry, color, randaugment, standardize
from jaxrec.errors import UserError
from jaxrec.settings import Augment

# Compiled as in a step, which is also much faster than one program per operation.
augment = jax.jit(module.augment, static_argnums=0)
draw_geometry = jax.jit(module.draw_geometry, static_argnums=(0, 4))
move_images, move_boxes = jax.jit(module.move_images), jax.jit(module.move_boxes)
move_masks = jax.jit(module.move_masks, static_argnums=2)
change_color = jax.jit(module.change_color, static_argnums=0)
randaugment_color = jax.jit(color._randaugment_color, static_argnums=3)
randaugment_affine = jax.jit(randaugment.randaugment_affine, static_argnums=(2, 3))
mixup, cutmix = jax.jit(module.mixup, static_argnums=3), jax.jit(module.cutmix, static_argnums=3)
diffaugment = jax.jit(module.diffaugment, static_argnums=2)

KEY = jax.random.key(0)
SHAPES = [(8, 9, 7, 1), (8, 6, 11, 3)]
ONE_EACH = {
    "flip-random": Augment(flip="random"),
    "flip-alternating": Augment(flip="alternating"),
    "crop": Augment(crop=2),
    "resized_crop": Augment(resized_crop=0.3),
    "translate": Augment(translate=0.3),
    "rotate": Augment(rotate=30.0),
    "scale": Augment(scale=0.3),
    "brightness": Augment(brightness=0.3),
    "contrast": Augment(contrast=0.5),
    "saturation": Augment(saturation=0.5),
    "cutout": Augment(cutout=3),
    "randaugment": Augment(randaugment=2),
}
EVERYTHING = Augment(
    flip="alternating",
    crop=2,
    resized_crop=0.5,
    translate=0.2,
    rotate=20.0,
    scale=0.2,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    cutout=3,
    randaugment=2,
)
GAN_KINDS = ("color", "translation", "cutout")


def pixels(shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def run(config, images, key=KEY, epoch=0):
    batch = images.shape[0]
    return augment(config, key, jnp.asarray(images), jnp.arange(batch), jnp.full(batch, epoch))


def affine(rows, batch=1):
    return np.broadcast_to(np.array([*rows, [0, 0, 1]], np.float32), (batch, 3, 3))


def shifted(image, down, right, fill=0.0):
    """np.roll with what came round replaced by ``fill``."""
    moved = np.roll(image, (down, right), (0, 1))
    rows, columns = np.indices(image.shape[:2])
    outside = (rows < down) | (rows >= image.shape[0] + down) | (columns < right) | (columns >= image.shape[1] + right)
    moved[outside] = fill
    return moved


def operation(name, batch):
    return np.full(batch, randaugment.OPERATIONS.index(name), np.int32)


# Geometry against NumPy


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"affine": affine([[1, 0, 0], [0, 1, 0]], 8)},
        {"crop": jnp.full((8, 2), 3), "pad": 3},
        {"flip": jnp.zeros(8, bool)},
    ],
    ids=["none", "affine", "crop", "flip"],
)
def test_identity_is_exact(shape, parts):
    geometry = Geometry(shape[1:3], **parts)
    images, masks = pixels(shape), np.arange(8 * shape[1] * shape[2], dtype=np.int32).reshape(shape[:3])
    boxes = jnp.tile(jnp.array([[1.0, 2.0, 4.0, 6.0], [0.0, 0.0, shape[1], shape[2]]]), (8, 1, 1))
    np.testing.assert_array_equal(move_images(geometry, jnp.asarray(images)), images)
    np.testing.assert_array_equal(move_masks(geometry, jnp.asarray(masks), 9), masks)
    np.testing.assert_array_equal(move_boxes(geometry, boxes), boxes)


def test_flip_mirrors_exactly_the_chosen():
    images = pixels((3, 4, 5, 3))
    flip = np.array([True, False, True])
    moved = move_images(Geometry((4, 5), flip=jnp.asarray(flip)), jnp.asarray(images))
    np.testing.assert_array_equal(moved, np.where(flip[:, None, None, None], images[:, :, ::-1], images))


@pytest.mark.parametrize("pad", [1, 4])
def test_crop_is_a_slice_of_the_reflected_image(pad):
    images = pixels((6, 7, 5, 3))
    masks = np.random.default_rng(1).integers(0, 9, (6, 7, 5)).astype(np.int32)
    corners = np.random.default_rng(2).integers(0, 2 * pad + 1, (6, 2))
    geometry = Geometry((7, 5), pad, crop=jnp.asarray(corners, jnp.int32))
    moved, moved_masks = move_images(geometry, jnp.asarray(images)), move_masks(geometry, jnp.asarray(masks), 9)
    for i, (y, x) in enumerate(corners):
        reflected = np.pad(images[i], ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(moved[i], reflected[y : y + 7, x : x + 5])
        np.testing.assert_array_equal(moved_masks[i], np.pad(masks[i], pad, mode="reflect")[y : y + 7, x : x + 5])


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("side", [6, 7])
def test_right_angles_equal_rot90(side, turns):
    image = pixels((1, side, side, 3))
    cos, sin = np.cos(turns * np.pi / 2), np.sin(turns * np.pi / 2)
    geometry = Geometry((side, side), affine=affine([[cos, sin, 0], [-sin, cos, 0]]))
    np.testing.assert_allclose(move_images(geometry, jnp.asarray(image))[0], np.rot90(image[0], turns), atol=2e-6)
    mask = np.arange(side * side, dtype=np.int32).reshape(1, side, side)
    np.testing.assert_array_equal(move_masks(geometry, jnp.asarray(mask), -1)[0], np.rot90(mask[0], turns))


def test_drawn_rotation_runs_both_ways_up_to_its_limit():
    geometry = draw_geometry(Augment(rotate=30.0), KEY, jnp.arange(500), jnp.array(0), (8, 8))
    angle = np.degrees(np.arctan2(geometry.affine[:, 0, 1], geometry.affine[:, 0, 0]))
    np.testing.assert_allclose(np.linalg.det(geometry.affine), 1.0, atol=1e-5)
    assert -30 <= angle.min() < -28 and 28 < angle.max() <= 30


def test_drawn_scale_enlarges_by_factors_around_one():
    geometry = draw_geometry(Augment(scale=0.2), KEY, jnp.arange(500), jnp.array(0), (8, 8))
    factor = 1 / np.asarray(geometry.affine[:, 0, 0])
    assert 0.8 <= factor.min() < 0.81 and 1.19 < factor.max() <= 1.2


@pytest.mark.parametrize(("down", "right"), [(2, 0), (-1, 3), (0, -4), (9, 0)])
def test_whole_translations_equal_roll_with_fill(down, right):
    image, mask = pixels((1, 6, 9, 1)), np.arange(54, dtype=np.int32).reshape(1, 6, 9)
    geometry = Geometry((6, 9), affine=affine([[1, 0, -down], [0, 1, -right]]))
    np.testing.assert_allclose(move_images(geometry, jnp.asarray(image))[0], shifted(image[0], down, right), atol=1e-6)
    np.testing.assert_array_equal(move_masks(geometry, jnp.asarray(mask), 77)[0], shifted(mask[0], down, right, 77))


def test_bilinear_sampling_is_exact_on_a_plane():
    rows, columns = np.indices((12, 10)).astype(np.float32)
    plane = (rows + 2 * columns)[None, ..., None] / 40
    a = np.array([[0.5, 0.2, 0.3], [-0.1, 0.4, -0.6]])
    y, x = rows - 5.5, columns - 4.5
    expected = ((a[0, 0] * y + a[0, 1] * x + a[0, 2] + 5.5) + 2 * (a[1, 0] * y + a[1, 1] * x + a[1, 2] + 4.5)) / 40
    moved = move_images(Geometry((12, 10), affine=affine(a)), jnp.asarray(plane))
    np.testing.assert_allclose(moved[0, ..., 0], expected, atol=1e-6)


def test_resized_crops_stay_inside_and_keep_their_share():
    size = (12, 20)
    geometry = draw_geometry(Augment(resized_crop=0.3), KEY, jnp.arange(400), jnp.array(0), size)
    height, width = np.asarray(geometry.affine[:, 0, 0]), np.asarray(geometry.affine[:, 1, 1])
    for share, shift, side in ((height, geometry.affine[:, 0, 2], 12), (width, geometry.affine[:, 1, 2], 20)):
        assert (share <= 1).all() and (np.abs(shift) <= (1 - share) * side / 2 + 1e-5).all()
    whole = (height < 1) & (width < 1)
    area, aspect = height[whole] * width[whole], width[whole] / height[whole]
    assert 0.3 - 1e-6 <= area.min() < 0.32 and area.max() > 0.9
    assert 0.75 - 1e-6 <= aspect.min() < 0.8 and 1.25 < aspect.max() <= 4 / 3 + 1e-6
    # Nothing comes from outside, so a white image stays white.
    np.testing.assert_allclose(move_images(geometry, jnp.ones((400, *size, 1))), 1.0, atol=1e-6)


GEOMETRIES = {
    name: Augment(**fields)
    for name, fields in {
        "flip": {"flip": "random"},
        "crop": {"crop": 4},
        "affine": {"rotate": 40.0, "scale": 0.3, "translate": 0.2},
        "resized_crop": {"resized_crop": 0.3},
        "randaugment": {"randaugment": 3},
        "all": {"flip": "random", "rotate": 40.0, "scale": 0.3, "translate": 0.2, "randaugment": 2},
    }.items()
}


@pytest.mark.parametrize("config", GEOMETRIES.values(), ids=GEOMETRIES)
def test_image_mask_and_box_move_together(config):
    batch, size, box = 64, (21, 26), np.array([7, 9, 12, 17])
    geometry = draw_geometry(config, KEY, jnp.arange(batch), jnp.array(0), size)
    mask = np.zeros((batch, *size), np.int32)
    mask[:, box[0] : box[2], box[1] : box[3]] = 1
    boxes = jnp.tile(jnp.asarray(box, jnp.float32), (batch, 1, 1))
    images = np.asarray(move_images(geometry, jnp.asarray(mask, jnp.float32)[..., None]))[..., 0]
    masks = np.asarray(move_masks(geometry, jnp.asarray(mask), 0))
    moved = np.asarray(move_boxes(geometry, boxes))[:, 0]
    assert (masks[images > 0.501] == 1).all() and (images[masks == 1] >= 0.249).all()
    rows, columns = np.indices(size) + 0.5
    seen = 0
    for mask, (y0, x0, y1, x1) in zip(masks, moved, strict=True):
        inside = (rows > y0 - 1e-3) & (rows < y1 + 1e-3) & (columns > x0 - 1e-3) & (columns < x1 + 1e-3)
        assert inside[mask == 1].all()
        seen += mask.any()
        if geometry.affine is None:
            ys, xs = np.nonzero(mask)
            np.testing.assert_allclose([y0, x0, y1, x1], [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1])
    assert seen > 56


def test_one_bright_pixel_is_followed_through_a_quarter_turn_a_crop_and_a_flip():
    image = np.zeros((1, 7, 7, 1), np.float32)
    image[0, 1, 2] = 1
    geometry = Geometry((7, 7), 2, affine([[0, 1, 0], [-1, 0, 0]]), crop=jnp.array([[1, 3]]), flip=jnp.array([True]))
    # rot90 brings (1, 2) to (4, 1), the crop by (-1, +1) to (5, 0), the mirror to (5, 6).
    moved = move_images(geometry, jnp.asarray(image))
    assert moved[0, 5, 6, 0] == 1 and moved[0, :, 3:].sum() == 1
    np.testing.assert_array_equal(move_masks(geometry, jnp.asarray(image[..., 0], jnp.int32), 9), moved[..., 0])
    boxes = move_boxes(geometry, jnp.array([[[1.0, 2.0, 2.0, 3.0]]]))
    np.testing.assert_allclose(boxes, [[[5, 6, 6, 7]]], atol=1e-5)


def test_a_box_that_left_the_image_has_no_area():
    geometry = Geometry((8, 8), affine=affine([[1, 0, -6], [0, 1, 0]]))
    y0, x0, y1, x1 = move_boxes(geometry, jnp.array([[[4.0, 1.0, 6.0, 3.0]]]))[0, 0]
    assert (y1 - y0) * (x1 - x0) == 0


def test_alternating_flip_changes_side_every_epoch():
    index = jnp.arange(10_000)
    flips = np.stack(
        [draw_geometry(Augment(flip="alternating"), KEY, index, jnp.full(10_000, e), (4, 4)).flip for e in range(4)]
    )
    np.testing.assert_array_equal(flips[0], flips[2])
    np.testing.assert_array_equal(flips[0], ~flips[1])
    np.testing.assert_array_equal(flips[1], flips[3])
    assert abs(flips[0].mean() - 0.5) < 0.02
    assert abs((flips[0, 1:] == flips[0, :-1]).mean() - 0.5) < 0.02


# Color and cutout


@pytest.mark.parametrize("shape", SHAPES)
def test_brightness_adds_one_number_per_image(shape):
    images = 0.4 + 0.2 * pixels(shape)
    change = np.asarray(run(Augment(brightness=0.3), images)) - images
    np.testing.assert_allclose(change, np.broadcast_to(change[:, :1, :1, :1], shape), atol=1e-6)
    assert np.abs(change).max() <= 0.3 and np.unique(change[:, 0, 0, 0]).size == 8


@pytest.mark.parametrize("name", ["contrast", "saturation"])
def test_contrast_and_saturation_scale_the_distance_from_grey(name):
    images = 0.4 + 0.2 * pixels((8, 6, 11, 3))
    changed = np.asarray(run(Augment(**{name: 0.5}), images))
    base = images @ np.array([0.299, 0.587, 0.114], np.float32)
    base = base.mean((1, 2))[:, None, None, None] if name == "contrast" else base[..., None]
    far = np.abs(images - base) > 0.01
    for i in range(8):
        ratio = ((changed - base) / (images - base))[i][far[i]]
        np.testing.assert_allclose(ratio, ratio.mean(), atol=1e-4)
        assert 0.5 <= ratio.mean() <= 1.5


@pytest.mark.parametrize("config", [Augment(saturation=0.5), Augment()], ids=["saturation", "nothing"])
def test_grey_images_have_no_saturation_and_nothing_does_nothing(config):
    images = pixels(SHAPES[0])
    np.testing.assert_array_equal(run(config, images), images)


@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_is_a_grey_square_clipped_by_the_border(side):
    batch, height, width = 2000, 9, 12
    hidden = np.asarray(run(Augment(cutout=side), np.zeros((batch, height, width, 1), np.float32)))[..., 0]
    assert set(np.unique(hidden)) == {0.0, 0.5}
    rows, columns = (hidden > 0).any(2).sum(1), (hidden > 0).any(1).sum(1)
    np.testing.assert_array_equal((hidden > 0).sum((1, 2)), rows * columns)
    assert rows.max() == columns.max() == side and min(rows.min(), columns.min()) == (side + 1) // 2
    assert (hidden > 0).any(0).all()


@pytest.mark.parametrize(
    ("name", "reference", "tolerance"),
    [
        ("brightness", lambda image: ImageEnhance.Brightness(image).enhance(1.63), 1),
        ("contrast", lambda image: ImageEnhance.Contrast(image).enhance(1.63), 2),
        ("saturation", lambda image: ImageEnhance.Color(image).enhance(1.63), 2),
        ("sharpness", lambda image: ImageEnhance.Sharpness(image).enhance(1.63), 2),
        ("posterize", lambda image: ImageOps.posterize(image, 5), 0.01),
        ("solarize", lambda image: ImageOps.solarize(image, 77), 0.01),
        ("autocontrast", ImageOps.autocontrast, 1.01),
        ("identity", lambda image: image, 0.01),
        ("rotate", lambda image: image, 0.01),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_randaugment_on_color_equals_pillow(name, reference, tolerance, mode):
    shape = (13, 10) if mode == "L" else (13, 10, 3)
    image = np.random.default_rng(0).integers(40, 180, shape).astype(np.uint8)
    images = jnp.asarray(image.reshape(1, 13, 10, -1), jnp.float32) / 255
    changed = randaugment_color(images, operation(name, 1), jnp.ones(1), 0.7)
    expected = np.asarray(reference(Image.fromarray(image))).reshape(13, 10, -1)
    inner = (slice(1, -1), slice(1, -1)) if name == "sharpness" else (slice(None),)
    np.testing.assert_allclose(np.asarray(changed[0] * 255)[inner], expected[inner], atol=tolerance)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("rotate", [[np.cos(np.pi / 12), np.sin(np.pi / 12), 0], [-np.sin(np.pi / 12), np.cos(np.pi / 12), 0]]),
        ("translate-y", [[1, 0, 0.225 * 12], [0, 1, 0]]),
        ("translate-x", [[1, 0, 0], [0, 1, 0.225 * 8]]),
        ("shear-y", [[1, 0.15, 0], [0, 1, 0]]),
        ("shear-x", [[1, 0, 0], [0.15, 1, 0]]),
        ("contrast", [[1, 0, 0], [0, 1, 0]]),
    ],
)
def test_randaugment_geometry_at_half_strength(name, rows, sign):
    matrix = randaugment_affine(operation(name, 2), jnp.full(2, sign), 0.5, (12, 8))
    one = affine(rows, 2)
    expected = one if sign > 0 else np.linalg.inv(one)
    np.testing.assert_allclose(matrix, expected, atol=1e-5)


def test_randaugment_of_magnitude_zero_changes_at_most_contrast():
    images = pixels(SHAPES[1])
    images[:, 0, 0], images[:, 0, 1] = 0, 1  # with the full range, autocontrast has nothing to do either
    images = np.round(images * 255).astype(np.float32) / 255
    np.testing.assert_allclose(run(Augment(randaugment=3, magnitude=0.0), images), images, atol=1e-6)


def test_randaugment_draws_every_operation_equally():
    rounds = randaugment.draw_randaugment(Augment(randaugment=2), KEY, 6500)
    counts = np.bincount(np.concatenate([op for op, _ in rounds]), minlength=13)
    assert counts.shape == (13,) and (np.abs(counts - 1000) < 150).all()
    assert not np.array_equal(rounds[0][0], rounds[1][0])
    assert abs(np.mean(rounds[0][1])) < 0.1


# Invariants of the draws


@pytest.mark.parametrize(
    ("config", "shape"),
    [*((config, SHAPES[1]) for config in ONE_EACH.values()), (EVERYTHING, SHAPES[0])],
    ids=[*ONE_EACH, "everything"],
)
def test_draws_follow_the_key_and_stay_in_range(config, shape):
    images = np.broadcast_to(np.round(pixels((1, *shape[1:]))), shape).copy()
    images[:, ::2] *= 0.7
    first, second, again = (np.asarray(run(config, images, jax.random.key(seed))) for seed in (1, 2, 1))
    assert first.shape == shape and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, again)
    assert np.unique(first.reshape(8, -1), axis=0).shape[0] > 1
    if config.flip != "alternating" or config is EVERYTHING:
        assert not np.array_equal(first, second)


def test_parts_draw_independently():
    both = draw_geometry(Augment(crop=3, rotate=9.0, flip="random"), KEY, jnp.arange(2000), jnp.array(0), (9, 9))
    draws = np.stack([both.crop[:, 0], both.crop[:, 1], both.flip, both.affine[:, 0, 1]]).astype(np.float64)
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.1
    alone = draw_geometry(Augment(crop=3), KEY, jnp.arange(2000), jnp.array(0), (9, 9))
    np.testing.assert_array_equal(alone.crop, both.crop)


def test_what_is_off_leaves_no_trace():
    images, index = jnp.zeros((2, 4, 4, 3)), jnp.arange(2)
    program = jax.make_jaxpr(lambda key, x, i, e: module.augment(Augment(), key, x, i, e))(KEY, images, index, index)
    assert program.eqns == []


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_dtypes_are_kept(dtype, shape):
    images, index = jax.ShapeDtypeStruct(shape, dtype), jnp.arange(8)
    config = dataclasses.replace(EVERYTHING, flip="random")

    def everything(images, masks):
        geometry = module.draw_geometry(config, KEY, index, index, shape[1:3])
        mixed = (mix(KEY, images, jnp.eye(8), 0.4) for mix in (module.mixup, module.cutmix))
        changed = module.augment(config, KEY, images, index, index), module.diffaugment(KEY, images, GAN_KINDS)
        return changed, tuple(mixed), module.move_masks(geometry, masks, 255)

    changed, mixed, masks = jax.eval_shape(everything, images, jax.ShapeDtypeStruct(shape[:3], jnp.uint8))
    assert masks.dtype == jnp.uint8
    for result in (*changed, *(images for images, _ in mixed)):
        assert (result.shape, result.dtype) == (shape, dtype)
    assert all(targets.dtype == jnp.float32 for _, targets in mixed)


def test_vmap_and_sharded_jit_equal_jit_without_communication():
    images, index, epoch = jnp.asarray(pixels((16, 9, 8, 3))), jnp.arange(16), jnp.ones(16, jnp.int32)
    keys = jax.random.split(KEY, 2)
    step = jax.jit(functools.partial(module.augment, EVERYTHING))
    expected = np.stack([step(key, images, index, epoch) for key in keys])
    batched = jax.jit(jax.vmap(functools.partial(module.augment, EVERYTHING), (0, None, None, None)))
    np.testing.assert_allclose(batched(keys, images, index, epoch), expected, atol=1e-5)

    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.device_put((images, index, epoch), NamedSharding(mesh, PartitionSpec("data")))
    compiled = step.lower(keys[0], *batch).compile()
    np.testing.assert_allclose(compiled(keys[0], *batch), expected[0], atol=1e-5)
    assert "all-gather" not in compiled.as_text() and "all-reduce" not in compiled.as_text()


def test_shard_map_equals_each_shard_alone():
    images, index, epoch = jnp.asarray(pixels((8, 9, 8, 3))), jnp.arange(8), jnp.ones(8, jnp.int32)
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    data = PartitionSpec("data")

    def changed(key, *batch):
        config = dataclasses.replace(EVERYTHING, randaugment=0)
        images, _ = module.cutmix(key, module.augment(config, key, *batch), jnp.eye(4), 1.0)
        return module.diffaugment(key, images, GAN_KINDS)

    def shard(*batch):
        return changed(jax.random.fold_in(KEY, jax.lax.axis_index("data")), *batch)

    moved = jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=(data, data, data), out_specs=data))(images, index, epoch)
    alone = jax.jit(changed)
    for i in range(2):
        part = slice(4 * i, 4 * i + 4)
        expected = alone(jax.random.fold_in(KEY, i), images[part], index[part], epoch[part])
        np.testing.assert_allclose(moved[part], expected, atol=1e-5)


# Mixing


@pytest.mark.parametrize("seed", range(5))
def test_mixup_mixes_images_and_targets_by_one_share(seed):
    images, targets = pixels((6, 5, 4, 3)), np.eye(6, dtype=np.float32)
    mixed, mixed_targets = mixup(jax.random.key(seed), jnp.asarray(images), jnp.asarray(targets), 0.4)
    share = float(mixed_targets[0, 0])
    assert 0 <= share <= 1
    np.testing.assert_allclose(mixed_targets, share * targets + (1 - share) * np.roll(targets, 1, 0), atol=1e-6)
    np.testing.assert_allclose(mixed, share * images + (1 - share) * np.roll(images, 1, 0), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [(9, 7), (16, 16)])
def test_cutmix_targets_equal_the_share_of_pixels(seed, size):
    images = np.broadcast_to(np.arange(6, dtype=np.float32)[:, None, None, None], (6, *size, 1))
    mixed, targets = cutmix(jax.random.key(seed), jnp.asarray(images), jnp.eye(6), 1.0)
    own = np.asarray(mixed == images)[..., 0]
    np.testing.assert_array_equal(own, np.broadcast_to(own[0], own.shape))
    np.testing.assert_array_equal(~own, np.asarray(mixed == np.roll(images, 1, 0))[..., 0])
    pasted = ~own[0]
    assert pasted.sum() == pasted.any(0).sum() * pasted.any(1).sum()
    expected = own[0].mean() * np.eye(6) + pasted.mean() * np.roll(np.eye(6), 1, 0)
    np.testing.assert_allclose(targets, expected, atol=1e-6)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_shares_follow_the_beta_distribution(mix):
    def share(key):
        return mix(key, jnp.zeros((2, 32, 32, 1)), jnp.eye(2), 1.0)[1][0, 0]

    shares = np.asarray(jax.jit(jax.vmap(share))(jax.random.split(KEY, 500)))
    if mix is mixup:
        assert abs(shares.mean() - 0.5) < 0.05 and abs(shares.var() - 1 / 12) < 0.02
    else:  # the border only takes from the rectangle
        assert 0.5 < shares.mean() < 0.8 and shares.min() < 0.2 and shares.max() > 0.98


# Before a discriminator


def test_diffaugment_color_is_the_papers_chain():
    images = 2 * pixels((300, 4, 5, 3)) - 1
    changed = np.asarray(diffaugment(KEY, jnp.asarray(images), ("color",)), np.float64)
    brightness = changed.mean((1, 2, 3)) - images.mean((1, 2, 3))
    grey, changed_grey = images.mean(-1, keepdims=True), changed.mean(-1, keepdims=True)
    centered, changed_centered = (x - x.mean((1, 2, 3), keepdims=True) for x in (grey, changed_grey))
    contrast = (centered * changed_centered).sum((1, 2, 3)) / (centered**2).sum((1, 2, 3))
    color, changed_color = images - grey, changed - changed_grey
    saturation = (color * changed_color).sum((1, 2, 3)) / (color**2).sum((1, 2, 3)) / contrast
    for draws, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0.0, 2.0)):
        span = high - low
        assert low - 1e-4 <= draws.min() < low + span / 20 and high - span / 20 < draws.max() <= high + 1e-4
    rebuilt = images.mean((1, 2, 3), keepdims=True) + brightness[:, None, None, None]
    rebuilt = rebuilt + contrast[:, None, None, None] * (centered + saturation[:, None, None, None] * color)
    np.testing.assert_allclose(changed, rebuilt, atol=1e-4)
    assert np.abs(np.corrcoef([brightness, contrast, saturation]) - np.eye(3)).max() < 0.2


def test_diffaugment_translation_shifts_by_up_to_an_eighth_with_zeros():
    images = pixels((200, 16, 24, 1)) + 1
    moved = np.asarray(diffaugment(KEY, jnp.asarray(images), ("translation",)))
    found = set()
    for image, result in zip(images, moved, strict=True):
        shifts = [(y, x) for y in range(-2, 3) for x in range(-3, 4) if np.array_equal(shifted(image, y, x), result)]
        assert len(shifts) == 1
        found.update(shifts)
    assert len(found) > 30


@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
def test_diffaugment_cutout_zeroes_half_of_each_side(size):
    hidden = np.asarray(diffaugment(KEY, jnp.ones((300, *size, 3)), ("cutout",)))[..., 0] == 0
    rows, columns = hidden.any(2).sum(1), hidden.any(1).sum(1)
    np.testing.assert_array_equal(hidden.sum((1, 2)), rows * columns)
    assert rows.max() == (size[0] + 1) // 2 and columns.max() == (size[1] + 1) // 2


def test_diffaugment_of_a_share_changes_that_share_of_the_images():
    images = jnp.asarray(2 * np.random.default_rng(0).uniform(size=(1000, 8, 8, 1)).astype(np.float32) - 1)

    def changed(kinds: tuple[str, ...], share: float) -> np.ndarray:
        after = module.diffaugment(KEY, images, kinds, jnp.float32(share))
        return (np.asarray(after) != np.asarray(images)).any((1, 2, 3))

    assert not changed(GAN_KINDS, 0.0).any()
    whole = module.diffaugment(KEY, images, GAN_KINDS, jnp.float32(1))
    np.testing.assert_array_equal(whole, module.diffaugment(KEY, images, GAN_KINDS))
    color, cutout = changed(("color",), 0.3), changed(("cutout",), 0.3)
    assert color.mean() == pytest.approx(0.3, abs=0.05)
    # Each kind chooses its own images.
    assert (color & cutout).mean() == pytest.approx(0.09, abs=0.04)


@pytest.mark.parametrize("shape", SHAPES)
def test_diffaugment_gradient_equals_the_numerical_one(shape):
    images, direction, weights = (jnp.asarray(2 * pixels(shape, seed) - 1) for seed in range(3))

    @jax.jit
    @jax.value_and_grad
    def functional(images):
        return jnp.vdot(module.diffaugment(KEY, images, GAN_KINDS), weights)

    _, gradient = functional(images)
    assert np.isfinite(gradient).all() and (np.abs(gradient).max((1, 2, 3)) > 0).all()
    # diffaugment is affine in the images, so that a difference over a long step is exact up to rounding.
    numerical = (functional(images + direction)[0] - functional(images - direction)[0]) / 2
    np.testing.assert_allclose(jnp.vdot(gradient, direction), numerical, rtol=1e-3, atol=1e-3)


def test_diffaugment_names_an_unknown_kind():
    with pytest.raises(UserError, match="not 'colour'; did you mean 'color'"):
        diffaugment(KEY, jnp.zeros((1, 4, 4, 3)), ("colour",))


# Standardization


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("mean", "std"), [((), ()), ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))], ids=["unit", "dataset"])
def test_standardize(mean, std, dtype):
    whole = np.random.default_rng(0).integers(0, 256, (4, 5, 3, 3)).astype(np.uint8)
    expected = (whole / 255 - np.array(mean)) / np.array(std) if mean else whole / 255
    for images in (jnp.asarray(whole), jnp.asarray(whole / 255, jnp.float32)):
        result = standardize(images, mean, std, dtype)
        assert result.dtype == dtype
        np.testing.assert_allclose(
            result.astype(jnp.float32), expected, rtol=1e-5 if dtype == jnp.float32 else 1e-2, atol=1e-6
        )


def test_change_color_and_geometry_share_one_draw_of_randaugment():
    config = Augment(randaugment=1, magnitude=10.0)
    images = jnp.asarray(0.2 + 0.5 * pixels((200, 9, 9, 3)))
    geometry = draw_geometry(config, KEY, jnp.arange(200), jnp.array(0), (9, 9))
    moved = np.abs(geometry.affine - jnp.eye(3)).max((1, 2)) > 0
    colored = np.abs(change_color(config, KEY, images) - images).max((1, 2, 3)) > 1e-6
    assert not (moved & colored).any()
    # All but the identity, one of thirteen, do something.
    assert 0.85 < (moved | colored).mean() < 0.98
