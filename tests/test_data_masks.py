"""Segmentation masks: from folders in every layout, from prepared sets, and resized with their images."""

import os

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

from jaxrec.data import Feature, class_counts, open_dataset
from jaxrec.data.features import from_json, to_json
from jaxrec.data.files import Known, Options
from jaxrec.data.folder import open_folder
from jaxrec.data.masks import decode_mask, mask_classes
from jaxrec.errors import UserError
from jaxrec.run.data import open_data, open_test
from jaxrec.run.introduction import describe, listed
from jaxrec.run.known import KnownData
from jaxrec.settings import Segmenter, Train
from jaxrec.tasks.system import system_of

pytestmark = pytest.mark.usefixtures("own_cache")

READS = {"image": "image", "mask": "mask"}
COLORS = [200, 30, 30, 30, 200, 30, 30, 30, 200, 90, 90, 90]


def mask_of(values, kind):
    """A Pillow image whose pixels are the given numbers."""
    image = Image.fromarray(values.astype(np.uint16 if kind == "I;16" else np.uint8))
    if kind == "P":
        image = image.convert("L")
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(COLORS)
    return image


def scenes(folder, count=10, classes=3, kind="P", size=(6, 8), first=0):
    """Images whose red value tells their mask: value v everywhere but in a corner of class 0."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    for number in range(first, first + count):
        value = number % classes
        values = np.full(size, value, np.uint8)
        values[:2, :2] = 0
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[..., 0] = values * 10
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        mask_of(values, kind).save(folder / "masks" / f"{number}.png")
    return folder


def opened(root, **options):
    return open_dataset(f"folder:{root}", reads=READS, **options)


def check_pairs(data, factor=10):
    for split in data.splits.values():
        examples = split.load()
        assert_array_equal(examples["image"][..., 0], examples["mask"] * factor)
        assert examples["mask"].dtype == np.uint8


@pytest.mark.parametrize("kind", ["P", "L"])
def test_palette_indices_and_grey_values_are_class_numbers(tmp_path, kind):
    data = opened(scenes(tmp_path, kind=kind))
    assert data.features == {
        "image": Feature("image", (6, 8, 3), "uint8"),
        "mask": Feature("mask", (6, 8), "uint8", ("0", "1", "2")),
    }
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 8, "test": 2}
    check_pairs(data)
    assert_array_equal(
        class_counts(data.splits["train"], "mask"),
        np.bincount(data.splits["train"].load()["mask"].ravel(), minlength=3),
    )


def test_train_and_test_above(tmp_path):
    scenes(tmp_path / "train", 6)
    scenes(tmp_path / "test", 3)
    scenes(tmp_path / "val", 2)
    data = opened(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "test": 3, "validation": 2}
    check_pairs(data)
    assert len(opened(tmp_path, test_split="val").splits["test"]) == 2


def test_binary_masks(tmp_path):
    scenes(tmp_path, 4)
    for number in range(4):
        values = np.zeros((6, 8), np.uint8)
        values[number:] = 255
        Image.fromarray(values).convert("1" if number % 2 else "L").save(tmp_path / "masks" / f"{number}.png")
    data = opened(tmp_path, train_split="train+test")
    assert data.features["mask"].names == ("background", "foreground") and data.features["mask"].void is None
    masks = data.splits["train"].load()["mask"]
    assert sorted((masks == 1).sum((1, 2)).tolist()) == [24, 32, 40, 48] and masks.max() == 1
    (tmp_path / "classes.txt").write_text("sky\nground\n")
    assert opened(tmp_path).features["mask"].names == ("sky", "ground")


def test_class_names_and_void(tmp_path):
    scenes(tmp_path)
    (tmp_path / "classes.txt").write_text("road\n\nsky \nvoid 2\n")
    data = opened(tmp_path)
    assert data.features["mask"] == Feature("mask", (6, 8), "uint8", ("road", "sky"), 2)
    counts = class_counts(data.splits["train"], "mask")
    masks = data.splits["train"].load()["mask"]
    assert_array_equal(counts, np.bincount(masks.ravel(), minlength=3)[:2])
    assert (masks == 2).any()
    other = opened(tmp_path).fingerprint
    (tmp_path / "classes.txt").write_text("road\nwater\nvoid 2\n")
    assert opened(tmp_path).fingerprint != other


def test_a_border_of_255_is_void(tmp_path):
    scenes(tmp_path)
    values = np.asarray(Image.open(tmp_path / "masks" / "2.png")).copy()
    values[0] = 255
    mask_of(values, "L").save(tmp_path / "masks" / "2.png")
    feature = opened(tmp_path).features["mask"]
    assert (feature.names, feature.void) == (("0", "1", "2"), 255)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((0, 1, 255), ""),
        ((0, 1, 255), "road\nsky\n"),
        ((0, 255), ""),
        ((0, 255), "road\nsky\n"),
        ((0, 100, 200), ""),
        ((0, 254, 255), ""),
    ],
)
@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_a_run_finds_its_masks_unchanged(tmp_path, values, names, resize):
    scenes(tmp_path, 4)
    for number in range(4):
        mask_of(np.resize(values, (6, 8)), "L").save(tmp_path / "masks" / f"{number}.png")
    if names:
        (tmp_path / "classes.txt").write_text(names)
    config = Train(task=Segmenter(), dataset=f"folder:{tmp_path}", resize=resize, batch_size=2, image_size="8x8")
    system = system_of(config.task)
    data = open_data(config, system)
    known = KnownData(describe(data), listed(data))
    again = open_test(config, system, None, known)
    assert again.dataset.fingerprint == data.dataset.fingerprint
    assert known.changes(again.dataset) == () and again.dataset.remarks == data.dataset.remarks
    assert_array_equal(again.test.load()["mask"], data.test.load()["mask"])


def test_more_classes_than_a_byte_counts(tmp_path):
    scenes(tmp_path, 4)
    (tmp_path / "classes.txt").write_text("\n".join(f"class {number}" for number in range(304)))
    for number in range(4):
        mask_of(np.full((6, 8), 300 + number), "I;16").save(tmp_path / "masks" / f"{number}.png")
    data = opened(tmp_path, train_split="train+test")
    assert data.features["mask"].dtype == "int32" and len(data.features["mask"].names) == 304
    assert sorted(data.splits["train"].load()["mask"][:, 0, 0].tolist()) == [300, 301, 302, 303]


def told(data, *parts):
    """Whether one line holds all the parts."""
    return any(all(part in line for part in parts) for line in data.remarks)


def test_values_far_apart_are_numbered_and_stay_so(tmp_path):
    """As in masks that are to be seen as pictures: of 201 classes, 198 would be empty."""
    scenes(tmp_path / "a", 6)
    for number in range(6):
        mask_of(np.full((6, 8), (0, 1000, 2000)[number % 3]), "I;16").save(tmp_path / "a" / "masks" / f"{number}.png")
    data = opened(tmp_path / "a", train_split="train+test")
    assert data.features["mask"] == Feature("mask", (6, 8), "uint8", ("0", "1000", "2000"), values=(0, 1000, 2000))
    assert sorted(data.splits["train"].load()["mask"][:, 0, 0].tolist()) == [0, 0, 1, 1, 2, 2]
    assert told(data, "0, 1000, 2000") and from_json(to_json(data.features)) == data.features
    scenes(tmp_path / "b", 3)
    for number in range(3):
        mask_of(np.full((6, 8), 2000), "I;16").save(tmp_path / "b" / "masks" / f"{number}.png")
    known = Known(data.features, unknown="test")
    assert (opened(tmp_path / "b", known=known, only_test=True).splits["test"].load()["mask"] == 2).all()
    mask_of(np.full((6, 8), 1), "I;16").save(tmp_path / "b" / "masks" / "1.png")
    with pytest.raises(UserError, match=r"masks/1\.png .*value 1,"):
        opened(tmp_path / "b", known=known, only_test=True)


def test_palettes_in_another_order_are_refused(tmp_path):
    scenes(tmp_path)
    mask = Image.open(tmp_path / "masks" / "4.png")
    mask.putpalette(COLORS[3:6] + COLORS[:3] + COLORS[6:])
    mask.save(tmp_path / "masks" / "4.png")
    with pytest.raises(UserError, match=r"masks/0\.png and .*masks/4\.png"):
        opened(tmp_path)
    mask.putpalette([*COLORS[:9], 7, 7, 7])  # Of a value that no mask holds.
    mask.save(tmp_path / "masks" / "4.png")
    check_pairs(opened(tmp_path))


def test_what_looks_wrong_is_counted(tmp_path):
    """Classes that are never trained on, masks of several pages, and images that are turned without their masks."""
    data = opened(scenes(tmp_path))
    assert data.remarks == ()
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\nmoon\n")
    mask = Image.open(tmp_path / "masks" / "1.png")
    mask.save(tmp_path / "masks" / "1.tif", save_all=True, append_images=[mask])
    (tmp_path / "masks" / "1.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(tmp_path / "images" / "2.png").save(tmp_path / "images" / "2.png", exif=exif)
    data = opened(tmp_path)
    assert len(data.remarks) == 3
    assert told(data, "1 of the 4", "moon") and told(data, "1 of 10", "masks/1.tif") and told(data, "masks/2.png")


def test_masks_are_resized_like_their_images_but_to_the_nearest_pixel():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (40, 60)).astype(np.uint8)
    image = mask_of(values, "P")
    got = decode_mask(image, (20, 20))
    assert_array_equal(got, np.asarray(ImageOps.fit(Image.fromarray(values), (20, 20), Image.Resampling.NEAREST)))
    assert_array_equal(decode_mask(image, (40, 60)), values)
    assert set(np.unique(got)) <= set(range(4))
    # The middle of a wide mask is kept, as of a wide image.
    stripes = np.repeat(np.arange(3, dtype=np.uint8), 20)[None].repeat(20, axis=0)
    assert (decode_mask(mask_of(stripes, "L"), (20, 20)) == 1).all()


def test_image_size_resizes_both(tmp_path):
    data = opened(scenes(tmp_path, size=(6, 6)), image_size=12)
    assert data.features["mask"].shape == (12, 12) and data.features["image"].shape == (12, 12, 3)
    check_inside = data.splits["train"].load()
    assert_array_equal(check_inside["image"][:, 8:, 8:, 0], check_inside["mask"][:, 8:, 8:] * 10)


def test_large_sets_are_read_from_disk(tmp_path):
    scenes(tmp_path)
    held = open_folder(str(tmp_path), READS, Options())
    streamed = open_folder(str(tmp_path), READS, Options(held=0))
    rows = np.arange(10)
    for key, values in held.read(rows).items():
        assert_array_equal(streamed.read(rows)[key], values)


def test_extensions_may_differ(tmp_path):
    scenes(tmp_path, 4)
    for number in range(4):
        path = tmp_path / "images" / f"{number}.png"
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    assert len(opened(tmp_path).splits["train"]) == 3


def color_mask(root):
    Image.new("RGB", (8, 6)).save(root / "masks" / "3.png")


def jpeg_mask(root):
    (root / "masks" / "3.png").unlink()
    Image.new("L", (8, 6)).save(root / "masks" / "3.jpg")


def twice(root):
    Image.new("RGB", (8, 6)).save(root / "images" / "3.jpg")


def beyond(root):
    (root / "classes.txt").write_text("road\nsky\n")


def no_names(root):
    (root / "classes.txt").write_text("road\nroad\n")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda root: (root / "masks" / "3.png").unlink(), "images/3.png has no mask"),
        (lambda root: (root / "images" / "3.png").unlink(), "masks/3.png has no image"),
        (lambda root: [path.unlink() for path in (root / "masks").iterdir()], "nor have 9 others"),
        (lambda root: Image.new("L", (8, 7)).save(root / "masks" / "3.png"), "masks/3.png has 7x8 pixels"),
        (color_mask, "masks/3.png is not a readable image .*palette or grey"),
        (jpeg_mask, "masks/3.jpg is not a readable image .*JPEG"),
        (twice, "images/3.jpg and .*images/3.png"),
        (beyond, r"masks/\d.png .*value 2.*classes.txt"),
        (no_names, "classes.txt names a class twice"),
        (lambda root: (root / "masks" / "3.png").write_text("no image"), "masks/3.png is not a readable image"),
    ],
)
def test_what_is_amiss_is_named(tmp_path, harm, said):
    root = scenes(tmp_path)
    harm(root)
    with pytest.raises(UserError, match=said):
        opened(root)


def test_bad_masks_are_left_out(tmp_path):
    scenes(tmp_path)
    (tmp_path / "masks" / "3.png").write_text("no image")
    (tmp_path / "images" / "4.png").write_text("no image")
    with pytest.raises(UserError, match=r"masks/3\.png .* 1 more .*images/4\.png"):
        opened(tmp_path)
    (tmp_path / "masks" / "5.png").write_text("no image")
    with pytest.raises(UserError, match=r"2 more .*masks/5\.png"):
        opened(tmp_path)
    scenes(tmp_path, 1, first=5)
    data = opened(tmp_path, skip_bad=True)
    assert len(data.left_out) == 2 and sum(map(len, data.splits.values())) == 8
    check_pairs(data)


@pytest.mark.parametrize("make", [lambda root: None, lambda root: (root / "images").mkdir()])
def test_folders_without_masks(tmp_path, make):
    make(tmp_path)
    with pytest.raises(UserError, match="images"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("values", "names", "void", "expected"),
    [
        ({0, 255}, None, None, (("background", "foreground"), None, True)),
        ({255}, None, None, (("background", "foreground"), None, True)),
        ({0, 255}, ("a", "b"), None, (("a", "b"), None, True)),
        ({0, 255}, ("a", "b", "c"), None, (("a", "b", "c"), 255, False)),
        ({0, 255}, None, 255, (("0",), 255, False)),
        ({0, 1, 255}, None, None, (("0", "1"), 255, False)),
        ({0, 1, 2}, None, None, (("0", "1", "2"), None, False)),
        ({0, 3}, None, 0, (("0", "1", "2", "3"), 0, False)),
        ({0, 255}, ("a", "b"), 2, (("a", "b"), 2, True)),
    ],
)
def test_what_values_stand_for(values, names, void, expected):
    assert mask_classes(values, names, void)[:3] == expected


@pytest.fixture
def camvid():
    if not os.environ.get("TFDS_DATA_DIR"):
        pytest.skip("TFDS_DATA_DIR is not set: no real images with masks")
    return open_dataset("camvid", reads=READS)


def test_camvid(camvid):
    feature = camvid.features["mask"]
    assert camvid.features["image"] == Feature("image", (360, 480, 3), "uint8")
    assert (feature.shape, feature.dtype, feature.void) == ((360, 480), "uint8", 11)
    assert len(feature.names) == 11 and feature.names[3] == "road"
    assert {name: len(split) for name, split in camvid.splits.items()} == {
        "train": 367,
        "test": 233,
        "validation": 101,
    }
    import tensorflow_datasets as tfds

    rows = np.array([3, 100])
    got = camvid.splits["test"].read(rows)
    source = tfds.builder_from_directory(f"{os.environ['TFDS_DATA_DIR']}/camvid/1.0.0").as_data_source("test")
    for place, row in enumerate(rows.tolist()):
        assert_array_equal(got["mask"][place], source[row]["segmentation_mask"][..., 0])
    some = camvid.splits["test"].subset(np.arange(20))
    masks = some.load()["mask"]
    assert_array_equal(class_counts(some, "mask"), np.bincount(masks.ravel(), minlength=12)[:11])
    assert (masks == 11).any()


def test_camvid_without_its_masks(camvid):
    data = open_dataset("camvid", reads={"image": "image"}, image_size=32)
    assert data.splits["test"].read(np.arange(2)).keys() == {"image"}
    resized = open_dataset("camvid", reads=READS, image_size=90).splits["test"].read(np.arange(1))
    assert resized["image"].shape == (1, 90, 90, 3) and resized["mask"].shape == (1, 90, 90)
    with pytest.raises(UserError, match=r"'camvid' has no class for 'label', only 'image' \(image\), 'segment"):
        open_dataset("camvid")
