"""A drawn rectangle moves with its box through every change that moves an image, alone and with a mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.augment import augment, augment_examples
from jaxrec.errors import UserError
from jaxrec.settings import Augment

BATCH, SIDE, PLACES = 32, 24, 3
KINDS = {"image": "image", "mask": "mask", "boxes": "boxes", "label": "box_classes"}
EXACT = {
    "flip": Augment(flip="random"),
    "flip vertical": Augment(flip_vertical=True),
    "turns": Augment(turns=True),
    "window": Augment(window=(15, 15), turns=True, flip_vertical=True, flip="random"),
    "mosaic": Augment(mosaic=1.0),
    "paste": Augment(paste=2),
    "all": Augment(paste=1, window=(17, 17), turns=True, flip="random", mosaic=0.7),
}
SAMPLED = {
    "translate": Augment(translate=0.3),
    "jitter": Augment(window=(16, 20), jitter=(0.5, 1.5)),
    "crops": Augment(resized_crop=0.4, mosaic=1.0),
}


@functools.partial(jax.jit, static_argnums=0)
def moved(config, key, examples, composing=True):
    index = jnp.arange(BATCH)
    return augment_examples(config, key, examples, KINDS, index, jnp.array(0), void=0, composing=composing)


def drawn(seed=0, least=1):
    """Rectangles that do not touch, from ``least`` to 3 on each image; class c is drawn with 1 + c."""
    rng = np.random.default_rng(seed)
    image = np.zeros((BATCH, SIDE, SIDE), np.uint8)
    boxes, label = np.zeros((BATCH, PLACES, 4), np.float32), np.full((BATCH, PLACES), -1, np.int32)
    for i in range(BATCH):
        for place in range(rng.integers(least, PLACES + 1)):
            first = (rng.integers(0, SIDE - 7), 8 * place + rng.integers(0, 2))
            y1, x1 = np.array(first) + rng.integers(3, 7, 2)
            boxes[i, place] = [*first, y1, x1]
            # Few of the last class.
            label[i, place] = 2 if i % 8 == 0 and place == 0 else rng.integers(0, 2)
            image[i, first[0] : y1, first[1] : x1] = 1 + label[i, place]
    return {"image": jnp.asarray(image[..., None] / 4, jnp.float32), "mask": image, "boxes": boxes, "label": label}


def seen_boxes(result, example):
    """The boxes of one example, which holds zeros for every box that is none."""
    there = result["label"][example] >= 0
    assert not result["boxes"][example][~there].any()
    return list(zip(result["boxes"][example][there], result["label"][example][there], strict=True))


@pytest.mark.parametrize("config", EXACT.values(), ids=EXACT)
def test_boxes_hold_their_rectangles_and_no_other_pixel_is_drawn(config):
    result = jax.device_get(moved(config, jax.random.key(1), drawn()))
    np.testing.assert_array_equal(result["image"][..., 0], (result["mask"] / 4).astype(np.float32))
    height, width = result["mask"].shape[1:]
    count = 0
    for i, mask in enumerate(result["mask"]):
        left = mask.copy()
        for (y0, x0, y1, x1), label in seen_boxes(result, i):
            inside = mask[round(y0) : round(y1), round(x0) : round(x1)]
            assert inside.size and 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width
            # A pasted rectangle may hide part of another.
            assert (inside == 1 + label).mean() >= (0.25 if config.paste else 1)
            left[round(y0) : round(y1), round(x0) : round(x1)] = 0
            count += 1
        # What has lost its box is less than a quarter of the largest rectangle, 6 x 6, in each of four tiles.
        assert (left > 0).sum() < 4 * 36 / 4 * PLACES
    assert count > BATCH


@pytest.mark.parametrize("config", SAMPLED.values(), ids=SAMPLED)
def test_boxes_follow_sampled_rectangles_to_the_pixel(config):
    result = jax.device_get(moved(config, jax.random.key(2), drawn()))
    rows, columns = np.indices(result["mask"].shape[1:]) + 0.5
    right, count = 0, 0
    for i, mask in enumerate(result["mask"]):
        for (y0, x0, y1, x1), label in seen_boxes(result, i):
            inside = (rows > y0 + 0.5) & (rows < y1 - 0.5) & (columns > x0 + 0.5) & (columns < x1 - 0.5)
            right += (mask[inside] == 1 + label).sum()
            count += inside.sum()
    assert count > 300 and right == count


def test_a_box_is_kept_if_a_quarter_of_it_is_left():
    """Windows of 6 x 24 that start anywhere see all, some or nothing of a rectangle of 4 x 8."""
    examples = {name: jnp.zeros_like(jnp.asarray(values)) for name, values in drawn().items()}
    examples["boxes"] = examples["boxes"].at[:, 0].set(jnp.array([10.0, 4.0, 14.0, 12.0]))
    examples["label"] = jnp.full((BATCH, PLACES), -1).at[:, 0].set(3)
    examples["mask"] = examples["mask"].at[:, 10:14, 4:12].set(1)
    result = jax.device_get(moved(Augment(window=(6, 24)), jax.random.key(3), examples))
    rows_left = (result["mask"] == 1).any(2).sum(1)
    assert {0, 1, 4} <= set(rows_left)
    np.testing.assert_array_equal(result["label"][:, 0], np.where(rows_left >= 1, 3, -1))
    heights = result["boxes"][:, 0, 2] - result["boxes"][:, 0, 0]
    np.testing.assert_array_equal(heights, rows_left)


def test_a_mosaic_shows_four_images_and_has_room_for_the_largest_boxes():
    examples = drawn(least=PLACES)
    examples["mask"] = np.broadcast_to(np.arange(BATCH, dtype=np.int32)[:, None, None], (BATCH, SIDE, SIDE))
    result = jax.device_get(moved(Augment(mosaic=1.0), jax.random.key(4), examples))
    for i, mask in enumerate(result["mask"]):
        corners = mask[0, 0], mask[0, -1], mask[-1, 0], mask[-1, -1]
        assert corners == tuple((i - place) % BATCH for place in range(4))
        # The point in which they meet is not near a border.
        assert SIDE // 4 <= (mask[:, 0] == i).sum() <= SIDE - SIDE // 4
    assert result["boxes"].shape == (BATCH, 2 * PLACES, 4) and result["label"].shape == (BATCH, 2 * PLACES)
    still = jax.device_get(moved(Augment(mosaic=1.0), jax.random.key(4), examples, composing=False))
    np.testing.assert_array_equal(still["mask"], examples["mask"])
    assert [len(seen_boxes(still, i)) for i in range(BATCH)] == [PLACES] * BATCH


def test_pasted_objects_come_from_the_image_before_and_rare_classes_are_drawn_as_often_as_others():
    examples = drawn()
    counts = np.zeros(3, int)
    for seed in range(8):
        result = jax.device_get(moved(Augment(paste=1), jax.random.key(seed), examples))
        for i in range(BATCH):
            if result["label"][i, PLACES] < 0:
                continue
            label, box = result["label"][i, PLACES], result["boxes"][i, PLACES]
            same = examples["label"][i - 1] == label
            given = examples["boxes"][i - 1][same]
            sizes = given[:, 2:] - given[:, :2]
            assert (sizes == box[2:] - box[:2]).all(1).any()
            counts[label] += 1
    # 4 of 32 images hold the rare class, all of which then give it in most draws.
    assert counts.sum() == 8 * BATCH and counts[2] > 8 * 4 * 0.5
    off = jax.device_get(moved(Augment(paste=1), jax.random.key(0), examples, composing=False))
    np.testing.assert_array_equal(off["mask"], examples["mask"])
    assert (off["label"][:, PLACES] == -1).all()


@pytest.mark.parametrize(
    ("named", "config", "kinds"),
    [
        ("mosaic", Augment(mosaic=0.5), {"image": "image"}),
        ("mosaic", Augment(mosaic=0.5), {"image": "image", "mask": "mask", "label": "class"}),
        ("paste", Augment(paste=1), {"image": "image", "mask": "mask"}),
        ("turns", Augment(turns=True, window=(8, 9)), {"image": "image"}),
        ("boxes", Augment(), {"image": "image", "boxes": "boxes", "mask": "boxes"}),
    ],
)
def test_what_cannot_be_put_together_is_named(named, config, kinds):
    examples = {name: values for name, values in drawn().items() if name in kinds}
    with pytest.raises(UserError, match=named):
        augment_examples(config, jax.random.key(0), examples, kinds, jnp.arange(BATCH), jnp.array(0))
    if kinds == {"image": "image"}:
        with pytest.raises(UserError, match=named):
            augment(config, jax.random.key(0), examples["image"], jnp.arange(BATCH), jnp.array(0))
