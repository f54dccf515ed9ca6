"""Sizes: how users name them, how images are brought to them, and how predictions are brought back."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

from jaxrec.data import open_dataset
from jaxrec.data.features import from_json, to_json
from jaxrec.data.sizes import Resizing, check_resize, parse_size, told
from jaxrec.errors import UserError

BILINEAR = Image.Resampling.BILINEAR
RNG = np.random.default_rng(0)


def test_sizes_as_users_name_them():
    assert parse_size(None) is None
    assert parse_size(64) == parse_size("64") == parse_size("64x64") == (64, 64)
    assert parse_size("224x160") == parse_size("224X160") == parse_size((224, 160)) == (224, 160)
    for wrong in ("0", "12x", "axb", "1x2x3", "-3x4", "", 0, (1, 2, 3)):
        with pytest.raises(UserError, match="--image-size"):
            parse_size(wrong)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (7, 91), (64, 64), (40, 60), (1, 9)])
@pytest.mark.parametrize("size", [(16, 16), (24, 10), (50, 75)])
def test_images_are_resized_as_pillow_does(shape, size):
    image = Image.fromarray(RNG.integers(0, 256, (*shape, 3), np.uint8))
    height, width = size
    crop = Resizing(shape, size, "crop")
    assert_array_equal(crop.apply(image, BILINEAR), ImageOps.fit(image, (width, height), BILINEAR))
    stretch = Resizing(shape, size, "stretch")
    assert_array_equal(stretch.apply(image, BILINEAR), image.resize((width, height), BILINEAR))
    pad = Resizing(shape, size, "pad")
    left, top, right, bottom = pad.place
    padded = pad.apply(image, BILINEAR).copy()
    assert padded.shape == (height, width, 3)
    assert_array_equal(padded[top:bottom, left:right], image.resize((right - left, bottom - top), BILINEAR))
    padded[top:bottom, left:right] = 0
    assert not padded.any()
    # One pair of sides touches, and the other's borders are equal but for a pixel.
    assert (left, right) == (0, width) or (top, bottom) == (0, height)
    assert abs(left - (width - right)) <= 1 and abs(top - (height - bottom)) <= 1


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
def test_what_was_said_of_an_enlarged_image_comes_back(mode):
    classes = RNG.integers(0, 9, (10, 14)).astype(np.uint8)
    resizing = Resizing((10, 14), (40, 40), mode)
    back = resizing.undo(resizing.apply(Image.fromarray(classes), Image.Resampling.NEAREST), 255)
    seen = back != 255
    assert_array_equal(back[seen], classes[seen])
    # A crop to a square leaves out two columns on each side, and the others nothing.
    assert_array_equal(np.flatnonzero(~seen.all(0)), [0, 1, 12, 13] if mode == "crop" else [])


def test_what_was_said_of_a_shrunk_image_comes_back_larger():
    quarters = np.array([[1, 2], [3, 4]], np.uint8)
    assert_array_equal(Resizing((4, 6), (2, 2), "stretch").undo(quarters, 0), quarters.repeat(2, 0).repeat(3, 1))
    back = Resizing((4, 6), (2, 2), "crop").undo(quarters, 0)
    assert_array_equal(back[:, 1:5], quarters.repeat(2, 0).repeat(2, 1))
    assert not back[:, [0, 5]].any()
    # Padded, the upper and the lower row of a 4x4 image are borders, and the middle ones are the image.
    rows = np.arange(4)[:, None].repeat(4, 1)
    assert_array_equal(Resizing((4, 8), (4, 4), "pad").undo(rows, 9), np.array([1, 1, 2, 2])[:, None].repeat(8, 1))


def test_images_of_another_size_are_counted():
    sizes = [(8, 8), (16, 16), (8, 16), (9, 30)]
    assert told([(8, 8)] * 3, (8, 8), "crop") == ()
    assert told(sizes, (8, 8), "crop") == (
        "3 of 4 images have another size than 8x8 and are resized, 2 of them cropped; see --resize",
    )
    assert told(sizes[2:], (8, 8), "pad") == ("2 of 2 images have another size than 8x8 and are padded; see --resize",)
    assert "stretched" in told(sizes[2:], (8, 8), "stretch")[0]


def folder(root, *shapes):
    for number, shape in enumerate(shapes):
        place = root / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(shape, 100, np.uint8)).save(place / f"{number}.png")
    return f"folder:{root}"


def test_a_folder_of_mixed_sizes(tmp_path):
    name = folder(tmp_path, (6, 9), (6, 9), (6, 6), (12, 18), (6, 9), (6, 9))
    plain = open_dataset(name)
    assert plain.features["image"].shape == (6, 9, 1)
    (line,) = plain.remarks
    assert "2 of 6 images" in line and "6x9" in line and "1 of them cropped" in line
    padded = open_dataset(name, image_size="8x4", resize="pad")
    assert "6 of 6 images" in padded.remarks[0] and "padded" in padded.remarks[0]
    images = padded.splits["train"].load()["image"]
    assert images.shape[1:] == (8, 4, 1) and set(np.unique(images)) == {0, 100}
    stretched = open_dataset(name, image_size=(8, 4), resize="stretch")
    assert (stretched.splits["train"].load()["image"] == 100).all()
    assert len({padded.fingerprint, stretched.fingerprint, plain.fingerprint}) == 3
    assert from_json(to_json(padded.features)) == padded.features
    with pytest.raises(UserError, match="--resize"):
        open_dataset(name, resize="squash")


@pytest.mark.parametrize("values", [(0, 255), (0, 3), (0, 1, 7)])
def test_borders_of_padded_masks_do_not_count(tmp_path, values):
    """Binary masks, masks of classes, and masks with a void value of their own."""
    for number in range(4):
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
            pixels = np.array(values, np.uint8)[np.arange(6) % len(values)][:, None].repeat(12, 1)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    if 7 in values:
        (tmp_path / "classes.txt").write_text("ground\nthing\nvoid 7\n")
    reads = {"image": "image", "mask": "mask"}
    data = open_dataset(f"folder:{tmp_path}", reads=reads, image_size=12, resize="pad")
    feature, masks = data.features["mask"], data.splits["train"].load()["mask"]
    assert feature.void is not None and feature.void not in range(len(feature.names))
    assert (masks[:, :3] == feature.void).all() and (masks[:, 9:] == feature.void).all()
    void_inside = masks[:, 3:9] == feature.void
    assert void_inside.any() == (7 in values) and not void_inside.all()


def test_the_middle_of_a_crop_is_what_the_share_keeps():
    half = Resizing((80, 100), (8, 8), "crop:0.5")
    assert half.part == (30.0, 20.0, 70.0, 60.0)
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    # Also of an image that has the size already.
    seen = Resizing((8, 8), (8, 8), "crop:0.5").apply(image, Image.Resampling.NEAREST)
    assert_array_equal(seen, np.asarray(image)[2:6, 2:6].repeat(2, 0).repeat(2, 1))
    boxes = np.array([[20, 30, 60, 70]], np.float32)
    assert_array_equal(half.move_boxes(boxes), [[0, 0, 8, 8]])
    for wrong in ("crop:", "crop:1", "crop:0", "crop:nan", "pad:0.5", "middle"):
        with pytest.raises(UserError, match="--resize"):
            check_resize(wrong)
