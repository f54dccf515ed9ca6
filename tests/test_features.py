"""Features: what an example is made of, and which of a set's features a system reads."""

import json

import numpy as np
import pytest

from jaxrec.data import Feature, blank, class_names, image_shape, nbytes, open_dataset
from jaxrec.data.features import RESERVED, check, from_json, record, to_json
from jaxrec.data.reads import choose
from jaxrec.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

FEATURES = {
    "image": Feature("image", (4, 6, 5), "uint16"),
    "mask": Feature("mask", (4, 6), "uint8", ("sky", "road"), 7),
    "label": Feature("class", (), "int32", ("a", "b", "c")),
    "labels": Feature("classes", (3,), "int32", ("x", "y", "z")),
    "boxes": Feature("boxes", (7, 4), "float32"),
    "things": Feature("box_classes", (7,), "int32", ("cat", "dog")),
    "age": Feature("number", (), "float32"),
}


def test_blank_examples_are_what_the_features_say():
    examples = blank(FEATURES, 2)
    assert {name: (values.shape[1:], values.dtype.name) for name, values in examples.items()} == {
        name: (feature.shape, feature.dtype) for name, feature in FEATURES.items()
    }
    assert sum(values.nbytes for values in examples.values()) == 2 * nbytes(FEATURES)
    assert not examples["boxes"].any() and (examples["things"] == -1).all()
    assert record(FEATURES).itemsize == nbytes(FEATURES)
    table = np.zeros(3, record(FEATURES))
    assert {name: table[name].shape for name in FEATURES} == {
        name: (3, *feature.shape) for name, feature in FEATURES.items()
    }


def test_names_and_shape():
    assert class_names(FEATURES) == ("sky", "road") and image_shape(FEATURES) == (4, 6, 5)
    assert class_names({"image": FEATURES["image"]}) == ()


def test_json_and_back():
    assert from_json(json.loads(json.dumps(to_json(FEATURES)))) == FEATURES


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [4, -1, 1]},
        {"shape": "446"},
        {"shape": [True, 2, 2]},
        {"names": [1]},
        {"dtype": "object"},
        {"void": "7"},
        {"values": [0]},
        {"values": ["0", "1"]},
        {"kind": 3},
        {"more": 1},
    ],
)
def test_json_of_something_else(change):
    data = to_json(FEATURES)
    with pytest.raises(ValueError, match="'mask'"):
        from_json({**data, "mask": {**data["mask"], **change}})


@pytest.mark.parametrize("data", [None, [], {"image": None}, {"image": {}}])
def test_json_of_no_features(data):
    with pytest.raises(ValueError, match="feature"):
        from_json(data)


@pytest.mark.parametrize("name", RESERVED)
def test_names_that_batches_use_themselves(name):
    with pytest.raises(UserError, match=f"'{name}'"):
        check({name: FEATURES["image"]})
    with pytest.raises(UserError, match=f"'{name}'"):
        open_dataset("digits", reads={"image": "image", name: "class"})


def test_kinds_that_do_not_exist():
    with pytest.raises(UserError, match="'sound'"):
        check({"image": Feature("sound", (4,), "float32")})
    with pytest.raises(UserError, match="'sound'"):
        open_dataset("digits", reads={"image": "sound"})


def test_a_name_gets_the_feature_of_its_name_then_the_usual_one_then_the_first():
    there = {"zebra": "image", "image": "image", "left": "image", "kind": "class", "labels": "classes"}
    assert choose("set", {"left": "image", "a": "image", "b": "image"}, there) == {
        "left": "left",
        "a": "image",
        "b": "zebra",
    }
    assert choose("set", {"label": "class|classes"}, there) == {"label": "kind"}
    assert choose("set", {"label": "classes|class"}, there) == {"label": "labels"}
    assert choose("set", {"label": "mask|classes"}, there) == {"label": "labels"}


def test_what_a_set_has_not():
    with pytest.raises(UserError, match=r"'digits' has no mask for 'truth', only 'image' \(image\), 'label' \(class\)"):
        open_dataset("digits", reads={"image": "image", "truth": "mask"})
    with pytest.raises(UserError, match=r"no image for 'right'"):
        open_dataset("digits", reads={"left": "image", "right": "image"})


def test_a_set_is_read_without_its_classes():
    data = open_dataset("digits", reads={"image": "image"})
    assert data.splits["test"].load().keys() == data.features.keys() == {"image"}
    assert class_names(data.features) == ()
    whole = open_dataset("digits").splits["test"].load()
    np.testing.assert_array_equal(data.splits["test"].load()["image"], whole["image"])


def test_the_mask_of_a_synthetic_image_is_its_shape():
    data = open_dataset("synthetic", reads={"image": "image", "label": "class", "mask": "mask"})
    examples = data.splits["test"].load()
    names = data.features["mask"].names
    assert names == ("background", *data.features["label"].names)
    assert data.features["mask"] == Feature("mask", (32, 32), "uint8", names)
    drawn = examples["mask"] > 0
    label = np.broadcast_to(examples["label"][:, None, None], drawn.shape)
    np.testing.assert_array_equal(examples["mask"], np.where(drawn, label + 1, 0))
    bright = examples["image"].mean(-1)
    assert all(bright[i][drawn[i]].mean() > bright[i][~drawn[i]].mean() for i in range(len(drawn)))
