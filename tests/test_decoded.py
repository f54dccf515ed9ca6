"""Decoded examples that stay on disk from one run to the next."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from jaxrec.cli import cache
from jaxrec.data import datasets, decoded, decoders, open_dataset
from jaxrec.data.decoded import Decoded
from jaxrec.data.features import Feature
from jaxrec.data.files import reading

pytestmark = pytest.mark.usefixtures("own_cache")


class PreparedDigits(tfds.core.GeneratorBasedBuilder):
    """Scikit-learn's digits as TFDS would prepare them."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent  # TFDS's guess fails outside packages

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits: Any = load_digits()
        pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
        rows = np.arange(len(pixels))
        cut: Any = train_test_split(rows, test_size=0.2, random_state=0, stratify=digits.target)
        return {
            "train": self._generate_examples(pixels, digits.target, cut[0]),
            "test": self._generate_examples(pixels, digits.target, cut[1]),
        }

    def _generate_examples(
        self, pixels: np.ndarray, target: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        from PIL import Image

        for row in rows.tolist():
            yield row, {"image": Image.fromarray(pixels[row]), "label": int(target[row])}


@pytest.fixture
def decoding(monkeypatch, tmp_path):
    """The number of images decoded so far, with an empty cache and files of 400 digits each."""
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    monkeypatch.setattr(decoded, "BLOCK", 400 * (64 + 4))
    tfds.disable_progress_bar()
    PreparedDigits(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    count = []
    convert = decoders.convert_to
    monkeypatch.setattr(decoders, "convert_to", lambda *arguments: count.append(1) or convert(*arguments))
    return count


def kept_digits(decoding, **options):
    """The training split as a run holds it, and how many images were decoded for it."""
    before = len(decoding)
    split = open_dataset("prepared_digits", **options).splits["train"]
    return split, split.cached(), len(decoding) - before


def test_a_set_is_decoded_once_whatever_its_slices(decoding):
    plain, first, count = kept_digits(decoding)
    assert count == 1600  # four files, and the last goes on into the test split
    second, again = kept_digits(decoding)[1:]
    assert again == 0
    rows = np.array([3, 0, 1436, 3, 400, 399])
    for key, value in plain.read(rows).items():
        for got in (first.read(rows)[key], second.read(rows)[key], second.load()[key][rows]):
            assert got.dtype == value.dtype and type(got) is np.ndarray
            np.testing.assert_array_equal(got, value)
    part, cached, count = kept_digits(decoding, train_split="train[50%:]")
    assert count == 0
    np.testing.assert_array_equal(cached.load()["image"], part.load()["image"])
    assert kept_digits(decoding, train_split="test")[2] == 1797 - 1600
    # Other images of the same rows are others.
    assert kept_digits(decoding, image_size=5)[2] > 0
    assert kept_digits(decoding, reads={"image": "image"})[2] > 0


def test_a_small_slice_decodes_little(decoding):
    assert kept_digits(decoding, train_split="train[:10]")[2] == 400
    assert kept_digits(decoding, train_split="train[:500]")[2] == 400


@pytest.mark.parametrize("harm", ["cut", "emptied", "other shape", "garbage", "removed"])
def test_a_harmed_file_is_decoded_again(decoding, harm):
    plain, _, _ = kept_digits(decoding)
    files = sorted(plain.kept.folder.iterdir())
    file = files[1]
    content = file.read_bytes()
    if harm == "other shape":
        np.save(file, np.load(file)[:-1])
    elif harm == "removed":
        file.unlink()
    else:
        file.write_bytes({"cut": content[:-1], "emptied": b"", "garbage": b"x" * len(content)}[harm])
    assert kept_digits(decoding)[2] == 400
    assert file.read_bytes() == content
    assert kept_digits(decoding)[2] == 0
    assert sorted(plain.kept.folder.iterdir()) == files


def test_a_set_that_changes_is_decoded_again(decoding, tmp_path):
    kept_digits(decoding)
    (record,) = (tmp_path / "prepared_digits").glob("*/*train*array_record*")
    os.utime(record, ns=(0, 0))
    assert kept_digits(decoding)[2] == 1600


def test_nothing_is_kept_without_permission_or_if_it_is_large(decoding, monkeypatch, tmp_path):
    (tmp_path / "decoded").touch()  # no folder can be made here
    for _ in range(2):
        plain, cached, count = kept_digits(decoding)
        assert count == 1600
        np.testing.assert_array_equal(cached.read(np.array([7]))["image"], plain.read(np.array([7]))["image"])
    monkeypatch.setattr(datasets, "KEPT", 1437 * 68 - 1)
    assert kept_digits(decoding)[0].kept is None
    monkeypatch.setattr(datasets, "KEPT", 1437 * 68)
    assert kept_digits(decoding)[0].kept is not None


def test_the_least_recently_used_set_goes_first(tmp_path):
    features = {"image": Feature("image", (32, 32, 1), "uint8")}
    calls = []

    def read(rows):
        calls.append(len(rows))
        return {"image": np.full((len(rows), 32, 32, 1), len(calls), np.uint8)}

    def use(name, when, limit):
        kept = Decoded(tmp_path / name, 10, features, limit)
        examples = kept.open(read, np.arange(10))
        os.utime(kept.folder, (when, when))
        return examples

    one = 10 * 1024 + 128  # a file has a header of 128 bytes
    use("a", 1, 3 * one)
    use("b", 2, 3 * one)
    use("c", 3, 3 * one)
    use("a", 4, 3 * one)
    assert len(calls) == 3
    use("d", 5, 3 * one)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c", "d"}
    examples = use("a", 6, 1)  # the set in use stays, however large
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and len(calls) == 4
    np.testing.assert_array_equal(examples(np.array([9, 0]))["image"], 1)


def test_a_removed_set_can_still_be_read(tmp_path):
    features = {"image": Feature("image", (8, 8, 1), "uint8")}
    kept = Decoded(tmp_path / "a", 4, features)
    examples = kept.open(lambda rows: {"image": np.ones((len(rows), 8, 8, 1), np.uint8)}, np.arange(4))
    replace(kept, folder=tmp_path / "b", limit=0).open(
        lambda rows: {"image": np.zeros((len(rows), 8, 8, 1), np.uint8)}, np.arange(4)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    np.testing.assert_array_equal(examples(np.array([2]))["image"], 1)


def test_a_folder_is_decoded_once_until_a_file_changes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    for number in range(6):
        place = tmp_path / "set" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(place / f"{number}.png")
    count = []
    decode = reading.decode_file
    monkeypatch.setattr(reading, "decode_file", lambda *arguments: count.append(1) or decode(*arguments))

    def values(**options):
        splits = open_dataset(f"folder:{tmp_path / 'set'}", **options).splits
        return sorted(np.concatenate([split.load()["image"][:, 0, 0, 0] for split in splits.values()]).tolist())

    assert values() == values() == [0, 1, 2, 3, 4, 5] and len(count) == 6
    assert values(image_size=2) == [0, 1, 2, 3, 4, 5] and len(count) == 12
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / "set" / "a" / "0.png")
    assert values() == [1, 2, 3, 4, 5, 9] and len(count) == 18
    (tmp_path / "set" / "b" / "1.png").write_bytes(b"no image")
    assert values(skip_bad=True) == [2, 3, 4, 5, 9]
    (tmp_path / "cache" / "mine.txt").write_text("not jaxrec's")
    cache.main([])
    told = capsys.readouterr().out
    assert str(tmp_path / "cache") in told and str(tmp_path / "set" / "a") in told and "4.00 GiB" in told
    cache.main(["--clear"])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mine.txt"]
    assert values(skip_bad=True) == [2, 3, 4, 5, 9]
