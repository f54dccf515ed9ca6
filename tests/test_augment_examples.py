"""Images, masks and boxes that move together: windows, scale jitter, and whole examples by their kinds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrec.augment as module
from jaxrec.augment import Geometry
from jaxrec.errors import UserError
from jaxrec.settings import Augment

KEY = jax.random.key(0)
KINDS = {"image": "image", "mask": "mask", "label": "class"}
BATCH, SIZE, VOID = 24, (17, 22), 9
WINDOWS = {
    "smaller": Augment(window=(11, 8)),
    "larger": Augment(window=(20, 30)),
    "one side larger": Augment(window=(12, 30)),
    "jitter": Augment(jitter=(0.5, 2.0)),
    "jittered": Augment(window=(11, 8), jitter=(0.4, 2.0)),
    "turned": Augment(window=(11, 8), rotate=20.0),
    "everything": Augment(window=(11, 8), jitter=(0.4, 2.0), rotate=20.0, crop=2, flip="random", translate=0.1),
}
windows = pytest.mark.parametrize("config", WINDOWS.values(), ids=WINDOWS)


@functools.partial(jax.jit, static_argnums=0)
def moved(config, key, examples):
    index = jnp.arange(BATCH)
    return module.augment_examples(config, key, examples, KINDS, index, jnp.array(0), void=VOID)


def scenes(seed=0):
    """A mask of blocks of 4 classes, and its picture: each class has a grey of its own, from .25 to 1."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 4, (BATCH, 5, 6)).astype(np.uint8)
    mask = np.repeat(np.repeat(blocks, 4, 1), 4, 2)[:, : SIZE[0], : SIZE[1]]
    image = ((mask + 1) / 4).astype(np.float32)[..., None]
    return {"image": jnp.asarray(image), "mask": jnp.asarray(mask), "label": jnp.arange(BATCH)}


def output(config):
    return config.window if config.window != (0, 0) else SIZE


@windows
def test_the_output_has_the_windows_size_and_dtypes_are_kept(config):
    examples = scenes()
    result = moved(config, KEY, examples)
    assert result["image"].shape == (BATCH, *output(config), 1) and result["image"].dtype == jnp.float32
    assert result["mask"].shape == (BATCH, *output(config)) and result["mask"].dtype == jnp.uint8
    np.testing.assert_array_equal(result["label"], examples["label"])
    index = jnp.arange(BATCH)
    alone = jax.jit(module.augment, static_argnums=0)(config, KEY, examples["image"], index, jnp.array(0))
    np.testing.assert_allclose(alone, result["image"], atol=1e-6)


@windows
def test_the_same_key_gives_the_same_and_another_something_else(config):
    first, again, other = (moved(config, jax.random.key(seed), scenes()) for seed in (1, 1, 2))
    for name in ("image", "mask"):
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


@pytest.mark.parametrize("config", [Augment(), Augment(window=SIZE)], ids=["off", "whole window"])
def test_identity_at_zero(config):
    examples = scenes()
    result = moved(config, KEY, examples)
    for name, values in examples.items():
        np.testing.assert_array_equal(result[name], values)


@pytest.mark.parametrize(
    "config", [WINDOWS["smaller"], WINDOWS["larger"], Augment(window=(11, 8), crop=2, flip="random")]
)
def test_pictures_move_with_their_mask_exactly_where_nothing_is_sampled(config):
    result = jax.device_get(moved(config, KEY, scenes()))
    void = result["mask"] == VOID
    expected = np.where(void, 0, (result["mask"] + 1) / 4).astype(np.float32)
    np.testing.assert_array_equal(result["image"][..., 0], expected)


@windows
def test_what_is_sampled_agrees_away_from_edges(config):
    result = jax.device_get(moved(config, KEY, scenes()))
    image, mask = result["image"][..., 0], result["mask"].astype(int)
    # Where a pixel and its eight neighbors have one class, so does all that it was sampled from, if it is not enlarged.
    around = np.stack([np.roll(mask, (y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)])[:, :, 1:-1, 1:-1]
    inner = (around == around[0]).all(0)
    image, mask = image[:, 1:-1, 1:-1], mask[:, 1:-1, 1:-1]
    right = np.abs(image - np.where(mask == VOID, 0, (mask + 1) / 4)) < 1e-4
    assert inner.sum() > 200 and right[inner].mean() > 0.95


@windows
def test_void_comes_in_where_the_image_ends_and_only_there(config):
    """A white image is black where its mask is void, and nowhere else."""
    examples = {"image": jnp.ones((BATCH, *SIZE, 1)), "mask": jnp.ones((BATCH, *SIZE), jnp.uint8)}
    result = jax.device_get(moved(config, KEY, {**examples, "label": jnp.arange(BATCH)}))
    np.testing.assert_allclose(result["image"][..., 0], (result["mask"] != VOID).astype(np.float32), atol=1e-5)
    assert set(np.unique(result["mask"])) <= {1, VOID}
    never = config in (WINDOWS["smaller"], Augment())
    assert (result["mask"] == VOID).any() != never


def test_by_default_void_is_the_dtypes_largest_value():
    for dtype in (jnp.uint8, jnp.int32):
        mask = jnp.zeros((1, 4, 4), dtype)
        config = Augment(window=(6, 6))
        result = module.augment_examples(config, KEY, {"mask": mask}, {"mask": "mask"}, jnp.arange(1), jnp.array(0))
        values, counts = np.unique(result["mask"], return_counts=True)
        assert values.tolist() == [0, np.iinfo(dtype).max] and counts.tolist() == [16, 20]


@pytest.mark.parametrize("window", [(11, 8), (20, 30), (12, 30)])
def test_windows_are_slices_and_reach_every_place(window):
    draws = jax.jit(module.draw_geometry, static_argnums=(0, 4))
    corners = np.asarray(draws(Augment(window=window), KEY, jnp.arange(3000), jnp.array(0), SIZE).window)
    for corner, side, cut in zip(corners.T, SIZE, window, strict=True):
        spare = side - cut
        assert set(corner) == set(range(min(spare, 0), max(spare, 0) + 1))
    mask = np.arange(SIZE[0] * SIZE[1], dtype=np.int32).reshape(1, *SIZE)
    padded = np.pad(mask[0], 30, constant_values=-1)
    for y, x in corners[:5]:
        geometry = Geometry(SIZE, window=jnp.array([[y, x]]), cut=window)
        expected = padded[30 + y :, 30 + x :][: window[0], : window[1]]
        np.testing.assert_array_equal(module.move_masks(geometry, jnp.asarray(mask), -1)[0], expected)


def test_jitter_is_uniform_in_its_logarithm_and_keeps_window_and_image_together():
    config = Augment(window=(11, 8), jitter=(0.25, 2.0))
    draws = jax.jit(module.draw_geometry, static_argnums=(0, 4))
    affine = np.asarray(draws(config, KEY, jnp.arange(4000), jnp.array(0), SIZE).affine)
    scale = 1 / affine[:, 0, 0]
    np.testing.assert_allclose(affine[:, 1, 1], affine[:, 0, 0])
    logs = (np.log(scale) - np.log(0.25)) / np.log(8)
    assert 0 <= logs.min() < 0.01 and 0.99 < logs.max() <= 1 + 1e-6 and abs(logs.mean() - 0.5) < 0.02
    for axis in (0, 1):
        # Half of the image less half of the window, both in the image's pixels.
        spare = (SIZE[axis] - config.window[axis] / scale) / 2
        share = affine[:, axis, 2] / spare
        assert (np.abs(share) <= 1 + 1e-4).all() and abs(share.mean()) < 0.05 and share.std() > 0.5


@windows
def test_boxes_enclose_what_they_mark(config):
    geometry = jax.jit(module.draw_geometry, static_argnums=(0, 4))(config, KEY, jnp.arange(BATCH), jnp.array(0), SIZE)
    box = np.array([5, 7, 12, 15])
    mask = np.zeros((BATCH, *SIZE), np.uint8)
    mask[:, box[0] : box[2], box[1] : box[3]] = 1
    masks = np.asarray(module.move_masks(geometry, jnp.asarray(mask), 0))
    boxes = np.asarray(module.move_boxes(geometry, jnp.tile(jnp.asarray(box, jnp.float32), (BATCH, 1, 1))))[:, 0]
    rows, columns = np.indices(output(config)) + 0.5
    assert (boxes >= 0).all() and (boxes <= np.array(output(config) * 2)).all()
    for mask, (y0, x0, y1, x1) in zip(masks, boxes, strict=True):
        if config.crop:  # the crop shows mirror images, which get no boxes
            continue
        inside = (rows > y0 - 1e-3) & (rows < y1 + 1e-3) & (columns > x0 - 1e-3) & (columns < x1 + 1e-3)
        assert inside[mask == 1].all()
    assert masks.any((1, 2)).sum() > BATCH / 2


def test_color_changes_images_alone_and_pairs_of_images_alike():
    config = Augment(brightness=0.3, contrast=0.3, cutout=5, flip="random")
    kinds = {"image": "image", "other": "image", "mask": "mask"}
    examples = scenes()
    examples = {"image": examples["image"], "other": examples["image"], "mask": examples["mask"]}
    result = module.augment_examples(config, KEY, examples, kinds, jnp.arange(BATCH), jnp.array(0))
    np.testing.assert_array_equal(result["image"], result["other"])
    still = module.augment_examples(Augment(flip="random"), KEY, examples, kinds, jnp.arange(BATCH), jnp.array(0))
    np.testing.assert_array_equal(result["mask"], still["mask"])
    assert np.abs(result["image"] - still["image"]).max() > 0.1


@pytest.mark.parametrize(
    ("named", "config", "examples"),
    [
        ("sound", Augment(), {"image": (jnp.zeros((1, 4, 4, 1)), "image"), "noise": (jnp.zeros(1), "sound")}),
        ("mask", Augment(), {"image": (jnp.zeros((1, 4, 4, 1)), "image"), "mask": (jnp.zeros((1, 4, 5), int), "mask")}),
        ("label", Augment(), {"label": (jnp.zeros(1, int), "class")}),
        ("jitter", Augment(jitter=(2.0, 0.5)), {"image": (jnp.zeros((1, 4, 4, 1)), "image")}),
        ("window", Augment(window=(0, 5)), {"image": (jnp.zeros((1, 4, 4, 1)), "image")}),
    ],
)
def test_what_cannot_be_is_named(named, config, examples):
    arrays = {name: values for name, (values, _) in examples.items()}
    kinds = {name: kind for name, (_, kind) in examples.items()}
    with pytest.raises(UserError, match=named):
        module.augment_examples(config, KEY, arrays, kinds, jnp.arange(1), jnp.array(0))
