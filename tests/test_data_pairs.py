"""Pairs of images: folders A and B, halves of one picture, unpaired folders, and which image is the first."""

import os

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from jaxrec.data import Feature, open_dataset
from jaxrec.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

PAIR = {"image": "image", "target": "image"}
GREY, COLOR = Feature("image", (4, 6, 1), "uint8"), Feature("image", (4, 6, 3), "uint8")


def save(path, value, color=False, width=6):
    """A picture of one value; one of color has no blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((4, width, 3) if color else (4, width), value, np.uint8)
    if color:
        pixels[..., 2] = 0
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pairs(tmp_path):
    """Grey images and the colored ones of twice their value, in splits."""
    for split, numbers in (("train", range(5)), ("test", range(5, 8))):
        for number in numbers:
            save(tmp_path / split / "A" / f"{number}.png", number)
            save(tmp_path / split / "B" / f"{number}.bmp", 2 * number, color=True)
    return tmp_path


def all_of(split):
    examples = split.read(np.arange(len(split)))
    return {name: values[:, 0, 0, 0].astype(int) for name, values in examples.items()}


def test_files_of_one_name_are_pairs_whatever_their_channels(pairs):
    data = open_dataset(f"folder:{pairs}", reads={**PAIR, "label": "class?"})
    assert data.features == {"image": GREY, "target": COLOR}
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 5, "test": 3}
    for split in data.splits.values():
        found = all_of(split)
        assert_array_equal(found["target"], 2 * found["image"])


def test_the_second_image_may_be_the_first(pairs):
    data = open_dataset(f"folder:{pairs}", reads=PAIR, image_key="B")
    assert data.features == {"image": COLOR, "target": GREY}
    found = all_of(data.splits["train"])
    assert_array_equal(found["image"], 2 * found["target"])
    with pytest.raises(UserError, match=r"--image-key.*'C'.*A and B"):
        open_dataset(f"folder:{pairs}", reads=PAIR, image_key="C")


def test_a_set_is_another_if_a_second_image_is(pairs):
    before = open_dataset(f"folder:{pairs}", reads=PAIR).fingerprint
    save(pairs / "train" / "B" / "0.bmp", 99, color=True)
    assert open_dataset(f"folder:{pairs}", reads=PAIR).fingerprint != before


def test_an_image_without_a_partner_and_one_that_cannot_be_read(pairs):
    (pairs / "train" / "B" / "0.bmp").write_bytes(b"")
    with pytest.raises(UserError, match=r"B/0\.bmp.*--skip-bad"):
        open_dataset(f"folder:{pairs}", reads=PAIR)
    data = open_dataset(f"folder:{pairs}", reads=PAIR, skip_bad=True)
    assert sorted(all_of(data.splits["train"])["image"]) == [1, 2, 3, 4]
    assert [each.path.name for each in data.left_out] == ["0.bmp"]
    (pairs / "train" / "B" / "0.bmp").unlink()
    with pytest.raises(UserError, match=r"A/0\.png has no partner in .*train/B"):
        open_dataset(f"folder:{pairs}", reads=PAIR)


def test_halves_of_a_picture_are_a_pair_if_one_has_to_be_read(tmp_path):
    for number in range(10):
        pixels = np.full((4, 12), number, np.uint8)
        pixels[:, 6:] += 100
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    data = open_dataset(f"folder:{tmp_path}", reads=PAIR)
    assert data.features == {"image": GREY, "target": GREY}
    found = all_of(data.splits["train"])
    assert_array_equal(found["target"], found["image"] + 100)
    single = open_dataset(f"folder:{tmp_path}", reads={"image": "image", "target": "image?"})
    assert list(single.features) == ["image"]
    save(tmp_path / "odd.png", 1, width=5)
    with pytest.raises(UserError, match=r"odd\.png.*4x5"):
        open_dataset(f"folder:{tmp_path}", reads=PAIR)


def test_unpaired_folders_give_each_image_of_both(tmp_path):
    counts = {"trainA": 4, "trainB": 7, "testA": 2, "testB": 2}
    for folder, count in counts.items():
        for number in range(count):
            save(tmp_path / folder / f"{number}.png", number + 100 * folder.endswith("B"))
    data = open_dataset(f"folder:{tmp_path}", reads={"image": "image", "other": "image"})
    found = all_of(data.splits["train"])
    assert sorted(found["other"]) == list(range(100, 107))
    assert sorted(found["image"]) == [0, 0, 1, 1, 2, 2, 3]
    assert len(data.splits["test"]) == 2
    with pytest.raises(UserError, match=r"trainA.*'target'.*--unpaired"):
        open_dataset(f"folder:{tmp_path}", reads=PAIR)


@pytest.fixture
def kinds(tmp_path):
    """Two images of kind A and three of kind B, in each of two splits."""
    for split in ("train", "test"):
        for kind, count in (("A", 2), ("B", 3)):
            for number in range(count):
                save(tmp_path / f"{split}{kind}" / f"{kind}{number}.png", number + 100 * (kind == "B"))
    return tmp_path


UNPAIRED = {"image": "image", "other": "image?"}


@pytest.mark.parametrize("folder", ["valA", "valB"])
def test_of_a_split_both_kinds_have_to_be_there(kinds, folder):
    save(kinds / folder / "1.png", 1)
    with pytest.raises(UserError, match=f"{folder}.*val"):
        open_dataset(f"folder:{kinds}", reads=UNPAIRED)


def test_what_is_left_out_beside_unpaired_images_is_named(kinds):
    (kinds / "trainA" / "notes.txt").write_text("")
    save(kinds / "more" / "1.png", 1)
    left_out = open_dataset(f"folder:{kinds}", reads=UNPAIRED).left_out
    assert sorted(each.path.name for each in left_out) == ["1.png", "notes.txt"]


def test_images_that_are_repeated_are_counted(kinds):
    remarks = open_dataset(f"folder:{kinds}", reads=UNPAIRED).remarks
    for line, split in zip(remarks, ("train", "test"), strict=True):
        assert line.startswith(f"split {split} has 2 images of kind A") and "3 of kind B" in line


def test_names_do_not_matter_if_no_pairs_are_read(kinds):
    for name in ("trainA", "trainB", "testA", "testB"):
        split, kind = name[:-1], name[-1]
        (kinds / split).mkdir(exist_ok=True)
        (kinds / name).rename(kinds / split / kind)
    found = open_dataset(f"folder:{kinds}", reads=UNPAIRED).splits
    assert sorted(all_of(found["train"])["image"]) == [0, 0, 1] and len(found["test"]) == 3
    assert sorted(all_of(found["train"])["other"]) == [100, 101, 102]
    # Cut here, an image of the smaller folder would be trained and tested on.
    with pytest.raises(UserError, match="trainA"):
        open_dataset(f"folder:{kinds / 'train'}", reads=UNPAIRED)


def test_a_prepared_set_of_two_images_is_one_of_pairs():
    if not (real := os.environ.get("TFDS_DATA_DIR")):
        pytest.skip("TFDS_DATA_DIR is not set: no real images")
    options = {"data_dir": real, "image_size": 16, "train_split": "test[:4]", "test_split": "test[:4]"}
    labels, photos = [
        open_dataset("labelme_facade", reads=PAIR, **options, image_key=key).splits["test"].read(np.arange(4))
        for key in (None, "target")
    ]
    assert_array_equal(labels["image"], photos["target"])
    assert_array_equal(labels["target"], photos["image"])
    # A label map has a few flat colors.
    assert len(np.unique(labels["image"][0, ::5])) < len(np.unique(labels["target"][0, ::5]))
