"""What a system reads only if the set has it: a kind that ends in a question mark."""

import numpy as np
import pytest
from PIL import Image

from jaxrec.data import open_dataset
from jaxrec.errors import UserError

READS = {"image": "image", "label": "class?"}


def write_images(folder, count=6):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((4, 4), 20 * number, np.uint8)).save(folder / f"{number}.png")


def test_a_folder_with_classes_has_them_and_one_without_is_read_all_the_same(tmp_path):
    write_images(tmp_path / "plain")
    for name in ("cat", "dog"):
        write_images(tmp_path / "classes" / name)
    assert open_dataset(f"folder:{tmp_path / 'plain'}", reads=READS).features.keys() == {"image"}
    found = open_dataset(f"folder:{tmp_path / 'classes'}", reads=READS).features
    assert found["label"].names == ("cat", "dog")


def test_arrays_with_and_without_classes():
    image = np.zeros((10, 4, 4, 1), np.uint8)
    assert open_dataset({"image": image}, reads=READS).features.keys() == {"image"}
    label = np.arange(10) % 2
    assert open_dataset({"image": image, "label": label}, reads=READS).features.keys() == {"image", "label"}


def test_what_has_to_be_there_is_missed(tmp_path):
    write_images(tmp_path / "plain")
    with pytest.raises(UserError, match="plain"):
        open_dataset(f"folder:{tmp_path / 'plain'}", reads={"image": "image", "label": "class"})
