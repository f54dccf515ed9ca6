"""A folder of photos becomes a prepared set, shard by shard."""

import numpy as np
import pytest
from PIL import Image

from jaxrec.cli.prepare import main
from jaxrec.data import open_dataset
from jaxrec.errors import UserError
from jaxrec.run import preparing

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def photos(tmp_path):
    """Photos of two classes in two splits, each of one brightness, and one that is no photo."""
    for split, count in (("train", 7), ("test", 3)):
        for place, name in enumerate(("day", "night")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 16), (200 - 150 * place + number,) * 3).save(folder / f"{number}.png")
    whole = (tmp_path / "photos" / "train" / "day" / "0.png").read_bytes()
    (tmp_path / "photos" / "train" / "day" / "9.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path / "photos"


def test_a_prepared_folder_is_read_as_the_folder_is(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "PER_SHARD", 4)
    source = open_dataset(f"folder:{photos}", image_size="8x10", skip_bad=True)
    seen = []

    def here(work, shards, workers):
        seen.extend(shards)
        return [work(shard) for shard in shards]

    folder = tmp_path / "sets" / "hours" / "1.0.0"
    count, bad = preparing.prepare_folder(source, photos, folder, here, 2)
    assert count + len(bad) + len(source.left_out) == 21 and len(bad) + len(source.left_out) == 1
    assert len(seen) == 6 and {shard.split for shard in seen} == {"train", "test"}
    made = open_dataset("hours", data_dir=str(tmp_path / "sets"))
    assert made.features["label"].names == ("day", "night")
    for split in ("train", "test"):
        images, known = made.splits[split].load(), source.splits[split]
        assert images["image"].shape == (len(known), 8, 10, 3) if split == "test" else (14, 8, 10, 3)
        bright = images["image"].mean((1, 2, 3)) > 120
        assert np.array_equal(bright, images["label"] == 0)
    expected = source.splits["test"].load()
    given = made.splits["test"].load()
    assert np.abs(np.sort(given["image"].mean((1, 2, 3))) - np.sort(expected["image"].mean((1, 2, 3)))).max() < 2


def test_a_taken_name_and_a_wrong_one_are_refused(photos, tmp_path):
    (tmp_path / "hours" / "1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match="hours"):
        main(["hours", "--source", str(photos), "--data-dir", str(tmp_path)])
    with pytest.raises(UserError, match="Hours"):
        main(["Hours", "--source", str(photos), "--data-dir", str(tmp_path)])


def test_photos_without_classes_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(10):
        Image.new("L", (8, 8), number).save(tmp_path / "photos" / f"{number}.png")
    source = open_dataset(f"folder:{tmp_path / 'photos'}", reads={"image": "image"})
    with pytest.raises(UserError, match="class"):
        preparing.prepare_folder(source, tmp_path / "photos", tmp_path / "sets" / "x" / "1.0.0", map, 1)
