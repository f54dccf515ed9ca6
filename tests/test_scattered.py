"""Digits on larger canvases: functions of (seed, index), boxes around digits, splits with digits of their own."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxrec.data import Feature, open_dataset
from jaxrec.data.scattered import PLACES, Ink, draw
from jaxrec.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

READS = {"image": "image", "label": "class", "boxes": "boxes", "box_classes": "box_classes"}
RNG = np.random.default_rng(0)
INK = Ink(RNG.integers(1, 256, (6, 14, 14), np.uint8), np.arange(6))


@pytest.mark.parametrize("name", ["translated", "cluttered"])
def test_what_an_example_is(name):
    data = open_dataset(name, reads=READS)
    assert data.features["image"] == Feature("image", (32, 32, 1), "uint8", resize="pad")
    assert data.features["label"].names == tuple("0123456789")
    digits = open_dataset("digits").splits
    sizes = {split: len(examples) for split, examples in data.splits.items()}
    assert sizes["test"] == len(digits["test"])
    assert sizes["train"] / PLACES + sizes["validation"] == len(digits["train"])
    rows = np.array([11, 0, 7])
    examples = data.splits["train"].read(rows)
    for place, row in enumerate(rows):
        alone = data.splits["train"].read(rows[place : place + 1])
        assert all((alone[key][0] == values[place]).all() for key, values in examples.items()), row
    assert_array_equal(data.splits["test"].read(rows)["label"], digits["test"].read(rows)["label"])
    assert open_dataset(name, image_size=24).features["image"].shape == (24, 24, 1)
    with pytest.raises(UserError, match="--image-size"):
        open_dataset(name, image_size="24x20")
    assert open_dataset(name, image_size=15).features["image"].shape == (15, 15, 1)
    with pytest.raises(UserError, match=r"--image-size 3 .*15"):
        open_dataset(name, image_size=3)


def test_digits_of_one_split_are_in_no_other():
    """The light in a box is one digit's, at all its places, and in one split alone."""
    seen = {}
    for split, examples in open_dataset("translated", reads=READS).splits.items():
        first = examples.read(np.arange(len(examples) if split != "train" else len(examples) // PLACES))
        seen[split] = {inside(image, box).tobytes() for image, box in zip(first["image"], first["boxes"], strict=True)}
    # A few of scikit-learn's digits are equal.
    assert not seen["train"] & seen["validation"]
    assert len(seen["train"] & seen["test"]) <= 2


def inside(image, boxes):
    """The pixels of an image [H, W, 1] in its box [1, 4]."""
    top, left, bottom, right = boxes[0].astype(int)
    return image[top:bottom, left:right, 0]


def test_the_digit_lies_in_its_box_and_places_are_uniform():
    index = np.arange(3000)
    drawn = draw(INK, 3, index, 30)
    assert_array_equal(drawn["label"], index % 6)
    corners = drawn["boxes"][:, 0, :2].astype(int)
    for number in (0, 1, 2, 2999):
        image, digit = drawn["image"][number], INK.image[number % 6]
        assert_array_equal(inside(image, drawn["boxes"][number]), digit)
        assert (image > 0).sum() == digit.size
    counts = np.bincount(corners.ravel(), minlength=17)
    assert len(counts) == 17 and counts.min() > 0.7 * 6000 / 17
    again = draw(INK, 3, np.array([5, 2999]), 30)
    assert_array_equal(again["image"], drawn["image"][[5, 2999]])
    assert not np.array_equal(draw(INK, 4, np.array([5]), 30)["image"], again["image"][:1])


def test_pieces_of_other_digits_are_added():
    plain, cluttered = Ink(0 * INK.image, INK.label), draw(INK, 3, np.arange(50), 30, 4)
    assert (draw(plain, 3, np.arange(3), 30, 4)["image"] == 0).all()
    beside, digit = [], []
    for image, box in zip(cluttered["image"], cluttered["boxes"], strict=True):
        top, left, bottom, right = box[0].astype(int)
        rest = image[..., 0].copy()
        rest[top:bottom, left:right] = 0
        beside.append((rest > 0).sum())
        digit.append(inside(image, box))
    # Four squares of 4 x 4 pixels, in part behind the digit.
    assert 0 < max(beside) <= 4 * 16 and min(beside) < max(beside)
    light = np.stack(digit).astype(int) - INK.image[np.arange(50) % 6]
    assert (light >= 0).all() and light.max() > 0
