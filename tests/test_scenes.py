"""Scenes of digits: functions of (seed, index), with strokes of their own split."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxrec.data import Feature, class_counts, open_dataset, scenes
from jaxrec.data.scenes import CLASSES, Strokes, draw, strokes
from jaxrec.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

READS = {"image": "image", "mask": "mask"}
BOXES = {"boxes": "boxes", "box_classes": "box_classes"}


def one_digit(label):
    """Strokes of a single digit, all ink."""
    return Strokes(np.ones((1, 8, 8), np.float32), np.array([label]))


@pytest.fixture(scope="module")
def digits():
    return strokes(open_dataset("digits").splits["train"].load())


def test_what_a_scene_is_made_of():
    data = open_dataset("scenes", reads=READS)
    assert data.features == {
        "image": Feature("image", (64, 64, 1), "uint8"),
        "mask": Feature("mask", (64, 64), "uint8", CLASSES),
    }
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2000, "test": 400}
    examples = data.splits["test"].load()
    counts = class_counts(data.splits["test"], "mask")
    shares = counts / counts.sum()
    assert 0.7 < shares[0] < 0.95 and (shares[1:] > 0.005).all()
    assert examples["mask"].max() == 10 and all(1 <= len(np.unique(mask)) - 1 <= 6 for mask in examples["mask"])
    # Ink is brighter than what lies behind it.
    ink = examples["mask"] > 0
    images = examples["image"][..., 0].astype(float)
    brighter = [image[here].mean() - image[~here].mean() for image, here in zip(images, ink, strict=True)]
    assert min(brighter) > 20
    assert open_dataset("scenes", reads=READS).fingerprint == data.fingerprint


def test_a_scene_depends_on_seed_and_index_alone(digits):
    index = np.array([5, 3, 250, 5])
    drawn = draw(digits, 7, index)
    whole = draw(digits, 7, np.arange(260))
    for key, values in drawn.items():
        assert_array_equal(values, whole[key][index])
    assert all(len(np.unique(whole[key].reshape(260, -1), axis=0)) == 260 for key in ("image", "mask", "boxes"))
    assert (draw(digits, 8, index)["image"] != drawn["image"]).any()


def test_digits_of_training_are_not_those_of_the_test(monkeypatch):
    seen = []
    monkeypatch.setattr(scenes, "draw", lambda digits, *rest: seen.append(digits) or draw(digits, *rest))
    data = open_dataset("scenes", reads=READS | BOXES)
    sets = [open_dataset("digits").splits[split].load() for split in ("train", "test")]
    for used, expected in zip(seen, sets, strict=True):
        assert_array_equal(used.ink, expected["image"][..., 0] / np.float32(255))
        assert_array_equal(used.label, expected["label"])
    for split, used, seed in zip(("train", "test"), seen, (0, 1), strict=True):
        examples = data.splits[split].read(np.array([11]))
        for key, values in draw(used, seed, np.array([11])).items():
            assert_array_equal(examples[key], values)


def test_a_mask_is_where_the_ink_is():
    drawn = draw(one_digit(6), 0, np.arange(50))
    assert set(np.unique(drawn["mask"])) == {0, 7}
    # Three to six squares of 12 to 24 pixels, which may overlap or reach over the border.
    area = (drawn["mask"] > 0).sum((1, 2))
    assert area.min() >= 3 * 100 / 2 and area.max() <= 6 * 26**2
    empty = draw(Strokes(np.zeros((1, 8, 8), np.float32), np.array([6])), 0, np.arange(5))
    assert not empty["mask"].any() and (empty["image"] < 200).all()


def test_boxes_are_around_what_is_seen_of_each_digit():
    data = open_dataset("scenes", reads=READS | BOXES)
    assert data.features["boxes"] == Feature("boxes", (6, 4), "float32")
    assert data.features["box_classes"] == Feature("box_classes", (6,), "int32", tuple("0123456789"))
    examples = data.splits["test"].load()
    there = examples["box_classes"] >= 0
    assert (there.sum(1) >= 3).all() and (np.diff(there.astype(int)) <= 0).all()
    for mask, boxes, classes in zip(examples["mask"], examples["boxes"], examples["box_classes"], strict=True):
        assert not boxes[classes < 0].any()
        for number in set(classes[classes >= 0].tolist()):
            # The boxes of a class together span the pixels of that class, no more and no less.
            rows, columns = np.nonzero(mask == 1 + number)
            mine = boxes[classes == number]
            assert mine[:, :2].min(0).tolist() == [rows.min(), columns.min()]
            assert mine[:, 2:].max(0).tolist() == [rows.max() + 1, columns.max() + 1]
        assert set(np.unique(mask)) - {0} == set(1 + classes[classes >= 0])
    assert_array_equal(open_dataset("scenes", reads=READS).splits["test"].load()["mask"], examples["mask"])


def test_size_of_scenes():
    data = open_dataset("scenes", reads=READS, image_size=32)
    assert data.features["mask"].shape == (32, 32)
    assert data.splits["test"].read(np.arange(2))["image"].shape == (2, 32, 32, 1)
    assert (data.splits["test"].read(np.arange(2))["mask"] > 0).any()


def test_scenes_have_no_label():
    with pytest.raises(UserError, match=r"'scenes' has no class for 'label'"):
        open_dataset("scenes")
