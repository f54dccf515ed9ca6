"""What is found in prepared TFDS sets, kind by kind."""

import io
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from numpy.testing import assert_array_equal
from PIL import Image

from jaxrec.data import Feature, image_shape, open_dataset
from jaxrec.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

TOPICS = ("sea", "sky", "sand")
COUNT = 6


def topics(number):
    return [topic for place, topic in enumerate(TOPICS) if number >> place & 1]


def png(values):
    """An encoded image, because TFDS encodes arrays by TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    file.seek(0)
    return file


class ManyKinds(tfds.core.GeneratorBasedBuilder):
    """A set with a feature of every kind, all of which tell the example's number."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent  # TFDS's guess fails outside packages

    def _info(self):
        yes_or_no = tfds.features.ClassLabel(names=["no", "yes"])
        features = {
            "image": tfds.features.Image(shape=(4, 6, 3)),
            "depth": tfds.features.Image(shape=(4, 6, 1), dtype=np.uint16, encoding_format="png"),
            "parts": tfds.features.LabeledImage(labels=["a", "b", "c"], shape=(4, 6, 1)),
            "object_mask": tfds.features.Image(shape=(4, 6, 1), encoding_format="png"),
            "frames": tfds.features.Sequence(tfds.features.Image(shape=(4, 6, 1), encoding_format="png")),
            "topics": tfds.features.Sequence(tfds.features.ClassLabel(names=TOPICS)),
            "attributes": {"odd": np.bool_, "large": np.bool_},
            "answers": {"odd": yes_or_no, "large": yes_or_no},
            "age": np.float32,
            "weight": tfds.features.Scalar(np.int64),
            "name": tfds.features.Text(),
            "objects": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature(), "label": yes_or_no}),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(COUNT)), "test": self._generate_examples(range(COUNT))}

    def _generate_examples(self, numbers):
        for number in numbers:
            odd, large = bool(number % 2), number >= 3
            yield (
                number,
                {
                    "image": png(np.full((4, 6, 3), number, np.uint8)),
                    "depth": png(np.full((4, 6), 1000 * number, np.uint16)),
                    "parts": png(np.full((4, 6), number % 3, np.uint8)),
                    "object_mask": png(np.full((4, 6), 255 * odd, np.uint8)),
                    "frames": [png(np.full((4, 6), 10 * number + place, np.uint8)) for place in range(1 + number % 3)],
                    "topics": topics(number),
                    "attributes": {"odd": odd, "large": large},
                    "answers": {"odd": ["no", "yes"][odd], "large": ["no", "yes"][large]},
                    "age": number / 4,
                    "weight": 10 * number,
                    "name": "x",
                    "objects": [],
                },
            )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    ManyKinds(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


def read(folder, **reads):
    """The features read beside the image, and the examples of the training split in the order of their numbers."""
    data = open_dataset("many_kinds", data_dir=str(folder), reads={"image": "image", **reads})
    examples = data.splits["train"].load()
    order = np.argsort(examples["image"][:, 0, 0, 0])
    assert_array_equal(examples["image"][order, 2, 3, 1], np.arange(COUNT))
    return data.features, {name: values[order] for name, values in examples.items()}


def test_a_sequence_of_classes(folder):
    features, examples = read(folder, topics="classes")
    assert features["topics"] == Feature("classes", (3,), "int32", TOPICS)
    assert_array_equal(examples["topics"], [[number >> place & 1 for place in range(3)] for number in range(COUNT)])
    assert examples["topics"].dtype == np.int32


@pytest.mark.parametrize("name", ["attributes", "answers"])
def test_yes_or_no_for_each_of_several_classes(folder, name):
    features, examples = read(folder, **{name: "classes"})
    names = features[name].names
    assert features[name] == Feature("classes", (2,), "int32", names) and set(names) == {"odd", "large"}
    assert_array_equal(examples[name][:, names.index("odd")], np.arange(COUNT) % 2)
    assert_array_equal(examples[name][:, names.index("large")], np.arange(COUNT) >= 3)


def test_several_classes_are_an_alternative_to_one(folder):
    features, _ = read(folder, label="class|classes")
    assert features["label"].kind == "classes"


def test_numbers(folder):
    _, examples = read(folder, age="number", weight="number")
    assert_array_equal(examples["age"], np.arange(COUNT, dtype=np.float32) / 4)
    assert_array_equal(examples["weight"], np.arange(COUNT, dtype=np.float32) * 10)
    assert examples["age"].dtype == examples["weight"].dtype == np.float32


def test_two_images_of_different_depth(folder):
    features, examples = read(folder, depth="image")
    assert features["depth"] == Feature("image", (4, 6, 1), "uint16")
    assert_array_equal(examples["depth"][:, 0, 0, 0], 1000 * np.arange(COUNT))


def test_a_sequence_of_images_and_its_length(folder):
    features, examples = read(folder, clip="clip", count="length")
    assert features["clip"] == Feature("clip", (3, 4, 6, 1), "uint8") and features["count"].kind == "length"
    lengths = 1 + np.arange(COUNT) % 3
    assert_array_equal(examples["count"], lengths)
    there = np.arange(3) < lengths[:, None]
    expected = np.where(there, 10 * np.arange(COUNT)[:, None] + np.arange(3), 0)
    assert_array_equal(examples["clip"], np.broadcast_to(expected[..., None, None, None], (COUNT, 3, 4, 6, 1)))


def test_frames_are_resized(folder):
    data = open_dataset("many_kinds", data_dir=str(folder), reads={"clip": "clip"}, image_size=8)
    assert data.features["clip"].shape == (3, 8, 8, 1) and image_shape(data.features) == (8, 8, 1)
    assert any("8x8" in remark for remark in data.remarks)
    assert data.splits["test"].load()["clip"].max() == 52


def test_masks_with_and_without_names(folder):
    features, examples = read(folder, parts="mask", object_mask="mask")
    assert features["parts"] == Feature("mask", (4, 6), "uint8", ("a", "b", "c"))
    assert features["object_mask"].names == ("background", "foreground")
    assert_array_equal(examples["parts"][:, 3, 5], np.arange(COUNT) % 3)
    assert_array_equal(examples["object_mask"][:, 3, 5], np.arange(COUNT) % 2)


def test_what_is_missing_and_what_there_is(folder):
    with pytest.raises(UserError, match=r"has no class for 'label', only 'age' \(number\), 'answers' \(classes\), "):
        read(folder, label="class")


def test_everything_at_once_stays_decoded(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    reads = {"image": "image", "parts": "mask", "topics": "classes", "age": "number", "depth": "image"}
    split = open_dataset("many_kinds", data_dir=str(folder), reads=reads).splits["train"]
    cached = split.cached()
    for examples in (
        cached.load(),
        open_dataset("many_kinds", data_dir=str(folder), reads=reads).splits["train"].cached().load(),
    ):
        assert list(examples) == list(reads)
        for name, values in split.load().items():
            assert_array_equal(examples[name], values)
            assert examples[name].dtype == values.dtype


@pytest.mark.parametrize("name", ["camvid", "bccd", "labelme_facade"])
def test_sets_without_classes(name):
    if not (real := os.environ.get("TFDS_DATA_DIR")):
        pytest.skip("TFDS_DATA_DIR is not set: no real images")
    key = "input" if name == "labelme_facade" else None
    data = open_dataset(name, data_dir=real, reads={"image": "image"}, image_size=16, image_key=key)
    assert image_shape(data.features) == (16, 16, 3)
    assert data.splits["test"].read(np.arange(3)).keys() == {"image"}
    with pytest.raises(UserError, match=rf"^dataset '{name}' has no class for 'label', only "):
        open_dataset(name, data_dir=real)


@pytest.mark.parametrize("place", ["", "many_kinds", "many_kinds/1.0.0"])
def test_the_folder_may_be_the_sets_own(folder, place):
    assert len(open_dataset("many_kinds", data_dir=str(folder / place), reads={"age": "number"}).splits["train"]) > 0
    with pytest.raises(UserError, match="other_set"):
        open_dataset("other_set", data_dir=str(folder / place))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}/typo.* does not exist.*--data-dir.*TFDS_DATA_DIR"):
        open_dataset("many_kinds", data_dir=str(tmp_path / "typo"))


def test_one_of_several_images_has_to_be_named():
    if not (real := os.environ.get("TFDS_DATA_DIR")):
        pytest.skip("TFDS_DATA_DIR is not set: no real images")
    reads = {"image": "image"}
    with pytest.raises(UserError, match=r"input, target.*--image-key"):
        open_dataset("labelme_facade", data_dir=real, reads=reads)
    with pytest.raises(UserError, match=r"'inputs'.*input, target.*--image-key"):
        open_dataset("labelme_facade", data_dir=real, reads=reads, image_key="inputs")
    two = open_dataset("labelme_facade", data_dir=real, reads={"input": "image", "target": "image"})
    want = two.splits["test"].read(np.arange(2))
    for key in want:
        one = open_dataset("labelme_facade", data_dir=real, reads=reads, image_key=key)
        assert_array_equal(one.splits["test"].read(np.arange(2))["image"], want[key])


def test_pairs_of_images():
    if not (real := os.environ.get("TFDS_DATA_DIR")):
        pytest.skip("TFDS_DATA_DIR is not set: no real images")
    data = open_dataset("labelme_facade", data_dir=real, reads={"target": "image", "input": "image"}, image_size=None)
    examples = data.splits["test"].read(np.arange(2))
    assert examples["input"].shape == examples["target"].shape == (2, 256, 256, 3)
    assert (examples["input"] != examples["target"]).any()


class TwoKinds(tfds.core.GeneratorBasedBuilder):
    """Images of two kinds in splits of their own, as the sets of cycle_gan are."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self):
        label = tfds.features.ClassLabel(names=["A", "B"])
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": label}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        counts = {"trainA": 2, "trainB": 3, "testA": 1, "testB": 1}
        return {split: self._generate_examples(split, count) for split, count in counts.items()}

    def _generate_examples(self, split, count):
        for number in range(count):
            value = number + 100 * split.endswith("B") + 50 * split.startswith("test")
            yield number, {"image": png(np.full((4, 6, 3), value, np.uint8)), "label": split[-1]}


def test_splits_of_two_kinds_are_images_that_are_no_pairs(tmp_path):
    TwoKinds(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    reads = {"image": "image", "other": "image?", "label": "class?"}
    data = open_dataset("two_kinds", reads=reads, data_dir=str(tmp_path))
    assert set(data.features) == {"image", "other"} and data.features["image"] == data.features["other"]
    train, test = (data.splits[split].load() for split in ("train", "test"))
    assert set(train["image"][:, 0, 0, 0]) == {0, 1} and sorted(train["other"][:, 0, 0, 0]) == [100, 101, 102]
    assert test["image"][0, 0, 0, 0] == 50 and test["other"][0, 0, 0, 0] == 150
    # One kind alone is a set of images as any other.
    alone = open_dataset("two_kinds", data_dir=str(tmp_path), train_split="trainB", test_split="testB")
    assert sorted(alone.splits["train"].load()["image"][:, 0, 0, 0]) == [100, 101, 102]
