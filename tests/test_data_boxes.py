"""Boxes: through resized images, from prepared sets and from arrays."""

import io
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from jaxrec.data import Feature, class_counts, open_dataset
from jaxrec.data.boxes import Objects, around, cut_off, faults, packed, resized
from jaxrec.data.features import to_json
from jaxrec.data.sizes import Resizing
from jaxrec.errors import UserError
from jaxrec.run.known import KnownData

pytestmark = pytest.mark.usefixtures("own_cache")

READS = {"image": "image", "boxes": "boxes", "label": "box_classes"}
MODES = ("crop", "pad", "stretch")


def drawn(size, box):
    """A black image of a height and width with a white rectangle."""
    pixels = np.zeros(size, np.uint8)
    top, left, bottom, right = map(int, box)
    pixels[top:bottom, left:right] = 255
    return pixels


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("original", "size"), [((60, 100), (30, 30)), ((90, 40), (64, 80)), ((40, 40), (80, 40))])
def test_a_box_moves_with_the_rectangle_that_it_is_around(mode, original, size):
    box = np.array([[12, 8, 33, 31]], np.float32)
    resizing = Resizing(original, size, mode)
    image = resizing.apply(Image.fromarray(drawn(original, box[0])), Image.Resampling.NEAREST)
    seen, there = around(image > 127)
    assert there
    assert_allclose(resizing.move_boxes(box)[0], seen, atol=1)


@pytest.mark.parametrize("mode", MODES)
def test_boxes_come_back_to_the_image_at_its_own_size(mode):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, (60, 100), (50, 2, 2)), axis=1).reshape(50, 4).astype(np.float32)
    resizing = Resizing((60, 100), (64, 48), mode)
    left, top, right, bottom = resizing.part
    # What was cut off does not come back.
    expected = corners.clip((top, left, top, left), (bottom, right, bottom, right))
    assert_allclose(resizing.undo_boxes(resizing.move_boxes(corners)), expected, atol=1e-3)


def test_boxes_of_which_little_is_left_are_cut_off():
    resizing = Resizing((20, 40), (10, 10), "crop")  # columns 10 to 30 are seen, at half their size
    boxes = np.array([[0, 0, 20, 13], [0, 0, 20, 14], [4, 12, 8, 20], [0, 0, 5, 9]], np.float32)
    assert cut_off(boxes, resizing).tolist() == [True, False, False, True]
    found, classes = resized(Objects(boxes, np.array([3, 4, 5, 6], np.int32)), resizing, 5)
    assert classes.tolist() == [4, 5, -1, -1, -1]
    assert_array_equal(found[:2], [[0, 0, 10, 2], [2, 1, 4, 5]])
    assert not found[2:].any()
    assert not cut_off(boxes, Resizing((20, 40), (10, 10), "pad")).any()


def test_what_is_wrong_with_a_box():
    boxes = np.array(
        [[0, 0, 8, 9], [-0.5, 0, 8.5, 9.9], [-2, 0, 3, 3], [0, 0, 3, 12], [2, 3, 2, 5], [4, 4, 2, 6], [0, 0, np.nan, 2]]
    )
    wrong = faults(boxes, (8, 9)).tolist()
    assert wrong[:2] == ["", ""]
    assert wrong[2] == wrong[3] == wrong[6] != wrong[4] == wrong[5] != ""


def test_rows_with_a_box_come_first():
    boxes = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found, classes = packed(boxes, np.array([[-1, 2, 1], [0, -1, -1]]))
    assert classes.tolist() == [[2, 1, -1], [0, -1, -1]]
    assert_array_equal(found[0], [boxes[0, 1], boxes[0, 2], np.zeros(4)])
    assert_array_equal(found[1], [boxes[1, 0], np.zeros(4), np.zeros(4)])


def test_the_box_of_a_synthetic_image_is_around_its_mask():
    data = open_dataset("synthetic", reads={**READS, "mask": "mask", "shape": "class"})
    examples = data.splits["test"].load()
    assert_array_equal(examples["label"][:, 0], examples["shape"])
    assert_array_equal(examples["boxes"][:, 0], around(examples["mask"] > 0)[0])
    assert_array_equal(class_counts(data.splits["test"], "label"), np.bincount(examples["shape"]))


# Height and width of each image, then its boxes in pixels and classes.
PICTURES = {
    "train": [((20, 30), [((2, 3, 10, 12), 1), ((0, 0, 20, 30), 0), ((5, 5, 5, 9), 2)]), ((40, 20), [])],
    "test": [((20, 30), [((-4, 0, 8, 8), 1), ((1, 2, 3, 4), 2)]), ((20, 30), [((1, 1, 9, 9), 0)] * 5)],
}


class BoxSet(tfds.core.GeneratorBasedBuilder):
    """Images of two sizes with objects, some of which are no boxes."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent  # TFDS's guess fails outside packages

    def _info(self):
        objects = {
            "bbox": tfds.features.BBoxFeature(bbox_format=None),  # which lets any numbers pass
            "pose": tfds.features.ClassLabel(names=["left", "right"]),
            "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
            "is_crowd": np.bool_,
            "is_difficult": np.bool_,
        }
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "objects": tfds.features.Sequence(objects)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(pictures) for split, pictures in PICTURES.items()}

    def _generate_examples(self, pictures):
        for key, ((height, width), boxes) in enumerate(pictures):
            objects = []
            for number, (box, label) in enumerate(boxes):
                shares = tfds.features.BBox(*(box / np.array([height, width] * 2)).tolist())
                marks = {"is_crowd": number == 3, "is_difficult": number == 4}
                objects.append({"bbox": shares, "pose": 0, "label": label, **marks})
            encoded = io.BytesIO()
            Image.new("RGB", (width, height)).save(encoded, "PNG")
            encoded.seek(0)
            yield key, {"image": encoded, "objects": objects}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    BoxSet(data_dir=folder).download_and_prepare(file_format="array_record")
    return str(folder)


def by_size(examples):
    """Classes of each example, with its boxes, in an order of their own."""
    pairs = zip(examples["label"].tolist(), examples["boxes"].tolist(), strict=True)
    return sorted(([each for each in label if each >= 0], boxes) for label, boxes in pairs)


def test_boxes_of_a_prepared_set(prepared):
    data = open_dataset("box_set", reads=READS, data_dir=prepared, image_size=(40, 30))
    # The most of any example in any split, without those around a crowd and marked difficult.
    assert data.features["boxes"] == Feature("boxes", (3, 4), "float32")
    assert data.features["label"] == Feature("box_classes", (3,), "int32", ("a", "b", "c"))
    assert data.features["image"].resize == "pad"
    (empty, nothing), (classes, boxes) = by_size(data.splits["train"].load())
    assert empty == [] and not np.any(nothing)
    assert classes == [1, 0]
    assert_allclose(boxes, [[12, 3, 20, 12], [10, 0, 30, 30], [0, 0, 0, 0]], atol=1e-4)  # 10 rows of border above
    assert [each for each, _ in by_size(data.splits["test"].load())] == [[0, 0, 0], [2]]
    (told,) = [remark for remark in data.remarks if "boxes" in remark]
    assert told.startswith("4 of 10 boxes are left out: ")
    assert all(f"1 {kind}" in told for kind in ("without area", "outside", "around a crowd", "marked difficult"))


def test_boxes_of_a_prepared_set_stretched_and_cropped(prepared):
    data = open_dataset("box_set", reads=READS, data_dir=prepared, image_size=(40, 30), resize="stretch")
    assert_allclose(by_size(data.splits["train"].load())[1][1][0], [4, 3, 20, 12], atol=1e-4)
    data = open_dataset("box_set", reads=READS, data_dir=prepared, image_size=(20, 10), resize="crop")
    assert by_size(data.splits["train"].load())[1][0] == [0]  # columns 10 to 20 alone are seen
    assert any("--resize crop" in remark and "boxes" in remark for remark in data.remarks)


def test_cells_of_a_published_set():
    if not os.environ.get("TFDS_DATA_DIR"):
        pytest.skip("TFDS_DATA_DIR is not set: no real images with boxes")
    data = open_dataset("bccd", reads=READS, image_size="240x320")
    source = tfds.builder_from_directory(f"{os.environ['TFDS_DATA_DIR']}/bccd/1.0.0")
    decoders = {"image": tfds.decode.SkipDecoding()}
    expected = source.as_data_source("test", decoders=decoders)
    examples = data.splits["test"].read(np.arange(72))
    assert any("2 of" in remark and "area" in remark for remark in data.remarks)
    for place, one in enumerate(expected):
        there = examples["label"][place] >= 0
        label = one["objects"]["label"]
        assert_array_equal(examples["label"][place][there], label)
        scaled = one["objects"]["bbox"] * np.array([240, 320, 240, 320])
        assert_allclose(examples["boxes"][place][there], scaled, atol=1e-3)


def given(boxes, classes, **others):
    boxes = np.array(boxes, float)
    return {"image": np.zeros((len(boxes), 8, 9, 1), np.uint8), "boxes": boxes, "label": np.array(classes), **others}


def test_boxes_in_arrays(tmp_path):
    arrays = given([[[1, 2, 3, 4], [9, 9, 9, 9]], [[9, 9, 9, 9], [0, 0, 8, 9.5]]], [[1, -1], [-1, 0]])
    both = {"train": arrays, "test": arrays}
    data = open_dataset(both, reads=READS)
    assert data.features["label"].names == ("0", "1")
    examples = data.splits["test"].load()
    assert examples["label"].tolist() == [[1, -1], [0, -1]]
    assert examples["boxes"].tolist() == [[[1, 2, 3, 4], [0] * 4], [[0, 0, 8, 9], [0] * 4]]
    assert class_counts(data.splits["test"], "label").tolist() == [1, 1]
    flat = {f"{split}_{key}": values for split in both for key, values in arrays.items()}
    np.savez(tmp_path / "set.npz", **flat, class_names=np.array(["cat", "dog"]))
    read = open_dataset(f"npz:{tmp_path / 'set.npz'}", reads=READS)
    assert read.features["label"].names == ("cat", "dog")
    assert_array_equal(read.splits["train"].load()["boxes"], examples["boxes"])


@pytest.mark.parametrize(
    ("boxes", "classes"),
    [
        ([[[1, 2, 1, 4]]] * 5, [[0]] * 5),
        ([[[1, 2, 3, 14]]] * 5, [[0]] * 5),
        ([[[1, 2, 3, 4]]] * 5, [[0, 1]] * 5),
        ([[[1, 2, 3, 4]]] * 5, [[-2]] * 5),
        ([[[1, 2, 3, 4]]] * 5, [[-1]] * 5),
        ([[1, 2, 3, 4]] * 5, [[0]] * 5),
    ],
)
def test_arrays_that_are_no_boxes(boxes, classes):
    with pytest.raises(UserError, match="arrays"):
        open_dataset(given(boxes, classes), reads=READS)


def test_boxes_are_boxes_of_an_image():
    with pytest.raises(UserError, match="image"):
        open_dataset("scenes", reads={"boxes": "boxes"})


def test_a_run_goes_on_with_more_boxes_in_an_image():
    few = open_dataset({split: given([[[1, 2, 3, 4]]], [[0]]) for split in ("train", "test")}, reads=READS)
    more = open_dataset({split: given([[[1, 2, 3, 4]] * 2], [[0, 0]]) for split in ("train", "test")}, reads=READS)
    known = KnownData({"features": to_json(few.features), "fingerprint": few.fingerprint})
    assert known.changes(few) == () and len(known.changes(more)) == 1
