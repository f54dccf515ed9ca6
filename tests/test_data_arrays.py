"""Arrays in memory and in NumPy files."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxrec.data import Feature, class_names, open_dataset
from jaxrec.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 4, 5, 3), np.uint8)
LABELS = np.arange(40) % 4
MASKS = RNG.integers(0, 3, (40, 4, 5))
WITH_MASK = {"image": "image", "mask": "mask"}


def whole(data):
    """The examples of both splits in the order of the arrays, found by their images."""
    parts = [split.load() for split in data.splits.values()]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_images_and_labels_are_cut_by_class():
    data = open_dataset({"image": IMAGES, "label": LABELS})
    assert data.name == "arrays" and len(data.left_out) == 0
    assert data.features == {
        "image": Feature("image", (4, 5, 3), "uint8"),
        "label": Feature("class", (), "int32", tuple("0123")),
    }
    assert [np.bincount(split.load()["label"]).tolist() for split in data.splits.values()] == [[8] * 4, [2] * 4]
    examples = whole(data)
    assert examples["label"].dtype == np.int32
    order = [np.flatnonzero((image == IMAGES).all((1, 2, 3)))[0] for image in examples["image"]]
    assert sorted(order) == list(range(40))
    assert_array_equal(examples["label"], LABELS[order])
    assert open_dataset({"image": IMAGES, "label": LABELS}).fingerprint == data.fingerprint
    assert open_dataset({"image": IMAGES, "label": LABELS[::-1].copy()}).fingerprint != data.fingerprint


def test_splits_are_taken_as_they_are():
    arrays = {
        "train": {"image": IMAGES[:30], "label": LABELS[:30]},
        "test": {"image": IMAGES[30:], "label": LABELS[30:]},
    }
    data = open_dataset(arrays)
    assert_array_equal(data.splits["train"].load()["image"], IMAGES[:30])
    assert_array_equal(data.splits["test"].load()["label"], LABELS[30:])
    assert len(open_dataset(arrays, train_split="train[:50%]").splits["train"]) == 15
    named = open_dataset({**arrays, "class_names": ["a", "b", "c", "d", "e"]})
    assert class_names(named.features) == tuple("abcde")


@pytest.mark.parametrize(
    ("array", "dtype", "shape"),
    [
        (IMAGES.astype(np.uint16) * 257, "uint16", (4, 5, 3)),
        (IMAGES / 255, "float32", (4, 5, 3)),
        ((IMAGES / 255).astype(np.float16), "float32", (4, 5, 3)),
        (IMAGES[..., 0], "uint8", (4, 5, 1)),
        (np.tile(IMAGES, 4), "uint8", (4, 5, 12)),
    ],
)
def test_dtypes_and_channels_of_images(array, dtype, shape):
    data = open_dataset({"image": array}, reads={"image": "image"})
    assert data.features == {"image": Feature("image", shape, dtype)}
    examples = whole(data)["image"]
    assert examples.dtype == dtype and data.splits["train"].nbytes == 32 * np.prod(shape) * np.dtype(dtype).itemsize
    expected = array.reshape(40, *shape).astype(dtype)
    assert sorted(examples.sum((1, 2, 3)).tolist()) == pytest.approx(sorted(expected.sum((1, 2, 3)).tolist()))


def test_several_classes_and_booleans():
    several = RNG.integers(0, 2, (40, 3))
    either = {"image": "image", "label": "class|classes"}
    for array in (several, several.astype(bool), several.astype(np.float32)):
        data = open_dataset({"image": IMAGES, "label": array}, reads=either)
        assert data.features["label"] == Feature("classes", (3,), "int32", tuple("012"))
        assert_array_equal(whole(data)["label"].sum(0), several.sum(0))
    assert open_dataset({"image": IMAGES, "label": LABELS}, reads=either).features["label"].kind == "class"
    assert class_names(open_dataset({"image": IMAGES, "label": LABELS > 1}).features) == ("0", "1")


def test_numbers():
    data = open_dataset({"image": IMAGES, "age": LABELS / 3}, reads={"image": "image", "age": "number"})
    assert data.features["age"] == Feature("number", (), "float32")
    assert sorted(whole(data)["age"].tolist()) == sorted((LABELS / 3).astype(np.float32).tolist())


@pytest.mark.parametrize("array", [MASKS, MASKS.astype(np.uint8), MASKS[..., None]])
def test_masks(array):
    data = open_dataset({"image": IMAGES, "mask": array}, reads=WITH_MASK)
    assert data.features["mask"] == Feature("mask", (4, 5), "uint8", tuple("012"))
    assert_array_equal(np.bincount(whole(data)["mask"].ravel()), np.bincount(MASKS.ravel()))


@pytest.mark.parametrize("void", [-1, 255])
def test_void_pixels_of_masks(void):
    masks = np.where(RNG.random(MASKS.shape) < 0.1, void, MASKS)
    data = open_dataset({"image": IMAGES, "mask": masks}, reads=WITH_MASK)
    assert data.features["mask"] == Feature("mask", (4, 5), "uint8", tuple("012"), 255)
    assert (whole(data)["mask"] == 255).sum() == (masks == void).sum()


def test_masks_of_numbers_far_apart_are_refused():
    with pytest.raises(UserError, match=r"3 of the numbers .*200.*numpy\.unique"):
        open_dataset({"image": IMAGES, "mask": MASKS % 3 * 100}, reads=WITH_MASK)


def test_binary_masks():
    data = open_dataset({"image": IMAGES, "mask": (MASKS > 1) * 255}, reads=WITH_MASK)
    assert class_names(data.features) == ("background", "foreground")
    assert whole(data)["mask"].sum() == (MASKS > 1).sum()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "empty"),
        ({"image": IMAGES}, r"no class for 'label', only 'image' \(image\)"),
        ({"image": IMAGES, "label": LABELS[:3]}, "40 of 'image', 3 of 'label'"),
        ({"image": IMAGES.astype(int), "label": LABELS}, "'image' of arrays is int64"),
        ({"image": IMAGES / 100, "label": LABELS}, "'image' of arrays has values"),
        ({"image": np.full((4, 2, 2, 1), np.nan), "label": LABELS[:4]}, "'image' of arrays has values"),
        ({"image": IMAGES.reshape(40, -1), "label": LABELS}, "'image' of arrays is uint8"),
        ({"image": IMAGES, "label": LABELS / 2}, "'label'"),
        ({"image": IMAGES, "label": LABELS - 1}, "'label' of arrays holds the class -1"),
        ({"image": IMAGES, "label": [["a"]] * 40}, "'label'"),
        ({"image": IMAGES, "label": LABELS, "class_names": ["a"]}, "class_names 1 names"),
        ({"image": IMAGES[:1], "label": LABELS[:1]}, "1 example"),
        ({"train": {"image": IMAGES}, "label": LABELS}, "mixes splits with the array 'label'"),
        ({"train": {"image": IMAGES, "label": LABELS}}, "no split 'test'"),
        (
            {
                "train": {"image": IMAGES, "label": LABELS},
                "test": {"image": IMAGES[:, 1:], "label": LABELS},
            },
            r"'image' of arrays differs in shape .*train uint8 \(40, 4, 5, 3\), test uint8 \(40, 3, 5, 3\)",
        ),
    ],
)
def test_what_is_amiss_is_named(arrays, said):
    with pytest.raises(UserError, match=said):
        open_dataset(arrays)


def test_masks_beyond_the_classes():
    arrays = {"image": IMAGES, "mask": MASKS, "class_names": ["a", "b"]}
    with pytest.raises(UserError, match="'mask' of arrays does not fit"):
        open_dataset(arrays, reads=WITH_MASK)
    with pytest.raises(UserError, match="'mask' of arrays holds the value -2"):
        open_dataset({"image": IMAGES, "mask": MASKS - 2}, reads=WITH_MASK)


@pytest.mark.parametrize("data", [IMAGES, (IMAGES, LABELS), None])
def test_what_is_neither_a_name_nor_a_dictionary(data):
    with pytest.raises(UserError, match=type(data).__name__):
        open_dataset(data)


def test_image_size_is_not_for_arrays():
    with pytest.raises(UserError, match="--image-size"):
        open_dataset({"image": IMAGES, "label": LABELS}, image_size=8)


def test_numpy_files(tmp_path):
    np.savez(tmp_path / "plain.npz", image=IMAGES, label=LABELS, class_names=np.array(list("abcd"), "S"))
    data = open_dataset(f"npz:{tmp_path / 'plain.npz'}")
    assert class_names(data.features) == tuple("abcd")
    assert_array_equal(whole(data)["label"], whole(open_dataset({"image": IMAGES, "label": LABELS}))["label"])
    splits = {
        "train_images": IMAGES[:30],
        "train_labels": LABELS[:30, None],
        "val_images": IMAGES[30:35],
        "val_labels": LABELS[30:35, None],
        "test_images": IMAGES[35:],
        "test_labels": LABELS[35:, None],
    }
    np.savez(tmp_path / "published.npz", class_names=np.array(list("abcd")), **splits)
    data = open_dataset(f"npz:{tmp_path / 'published.npz'}", test_split="val")
    assert_array_equal(data.splits["train"].load()["image"], IMAGES[:30])
    assert_array_equal(data.splits["test"].load()["label"], LABELS[30:35])
    assert class_names(data.features) == tuple("abcd")


@pytest.mark.parametrize(
    ("image", "label", "train", "test"),
    [
        ("x", "y", "{}_train", "{}_test"),
        ("X", "y", "{}_train", "{}_test"),
        ("images", "labels", "{}_training", "{}_testing"),
        ("image", "label", "training_{}", "testing_{}"),
        ("image", "label", "Train_{}", "Test_{}"),
    ],
)
def test_names_of_arrays_tell_their_split(tmp_path, image, label, train, test):
    arrays = {train.format(image): IMAGES[:30], train.format(label): LABELS[:30]}
    arrays |= {test.format(image): IMAGES[30:], test.format(label): LABELS[30:]}
    np.savez(tmp_path / "a.npz", **arrays)
    for data in (open_dataset(f"npz:{tmp_path / 'a.npz'}"), open_dataset(arrays)):
        assert_array_equal(data.splits["train"].load()["image"], IMAGES[:30])
        assert_array_equal(data.splits["test"].load()["label"], LABELS[30:])


def test_arrays_that_are_not_read_are_named():
    more = {"ids": LABELS, "test_score": LABELS / 2}
    data = open_dataset({"image": IMAGES, "label": LABELS, **more})
    assert sum(map(len, data.splits.values())) == 40
    assert any("ids" in remark and "test_score" in remark for remark in data.remarks)
    splits = {"train_image": IMAGES, "train_label": LABELS, "test_image": IMAGES, "test_label": LABELS}
    assert any("ids" in remark for remark in open_dataset({**splits, "ids": LABELS}).remarks)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"left": IMAGES, "right": IMAGES, "label": LABELS}, "left, right"),
        ({"image": IMAGES, "age": LABELS, "sex": LABELS}, "age, sex"),
        ({"image": IMAGES, "x": IMAGES, "label": LABELS}, "'x'"),
        ({"train_image": IMAGES, "train_label": LABELS, "image": IMAGES}, "'image'"),
        (
            {
                "train": {"image": IMAGES, "label": LABELS},
                "Training": {"image": IMAGES, "label": LABELS},
            },
            "train and Training",
        ),
        ({"image": IMAGES.transpose(0, 3, 1, 2).repeat(2, 3), "label": LABELS}, "moveaxis"),
    ],
)
def test_arrays_that_may_mean_several_things_are_refused(arrays, named):
    with pytest.raises(UserError, match=named):
        open_dataset(arrays)


def test_classes_that_are_not_trained_on():
    train, test = {"image": IMAGES[:30], "label": LABELS[:30]}, {"image": IMAGES[30:], "label": LABELS[30:]}
    with pytest.raises(UserError, match=r"'label' of arrays .* class '4'"):
        open_dataset({"train": train, "test": {**test, "label": LABELS[30:] + 1}})
    said = open_dataset({"image": IMAGES, "label": LABELS + 1}).remarks
    assert any("1 of the 5 classes of 'label'" in remark for remark in said)
    with pytest.raises(UserError, match="'label' of arrays holds only 4 of the numbers from 0 to 15"):
        open_dataset({"image": IMAGES, "label": LABELS * 5})
    assert not open_dataset({"image": IMAGES, "label": LABELS}).remarks


def test_dark_images_are_told():
    white = {np.uint16: 4095, np.uint8: 15, np.float32: 1 / 255}
    for dtype, top in white.items():
        dark = (IMAGES.astype(np.float64) / 255 * top).astype(dtype)
        remarks = open_dataset({"image": dark, "label": LABELS}).remarks
        assert any("'image' of arrays" in remark and "multiply" in remark for remark in remarks)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", None])
def test_numpy_files_that_are_none(tmp_path, content):
    if content is None:
        np.savez(tmp_path / "a.npz", image=np.array([{}], object), label=LABELS)
    else:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz cannot be read"):
        open_dataset(f"npz:{tmp_path / 'a.npz'}")
