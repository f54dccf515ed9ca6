"""MNIST's and CIFAR's own files, and what starts without TensorFlow Datasets."""

import gzip
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from jaxrec.data import open_dataset
from jaxrec.data.slices import parse_slices
from jaxrec.errors import UserError

RNG = np.random.default_rng(0)
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_folder_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, zipped=True, dash="-", first=0):
    """20 training and 10 test images; returns them and their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, count in (("train", 20), ("t10k", 10)):
        images = RNG.integers(0, 256, (count, 28, 28), np.uint8)
        labels = ((np.arange(count) + first) % 10).astype(np.uint8)
        for name, array in ((f"images{dash}idx3", images), (f"labels{dash}idx1", labels)):
            path = folder / f"{split}-{name}-ubyte"
            if zipped:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
        written["train" if split == "train" else "test"] = images, labels
    return written


@pytest.mark.parametrize(
    ("place", "zipped", "dash"), [("", True, "-"), ("mnist", False, "-"), ("MNIST/raw", False, ".")]
)
def test_idx_files_wherever_they_are_mostly_put(tmp_path, place, zipped, dash):
    write_mnist(tmp_path / "FashionMNIST" / "raw", first=3)
    written = write_mnist(tmp_path / place, zipped, dash)
    data = open_dataset("mnist", data_dir=str(tmp_path))
    assert data.features["label"].names == tuple("0123456789")
    for split, (images, labels) in written.items():
        examples = data.splits[split].load()
        assert_array_equal(examples["image"], images[..., None])
        assert_array_equal(examples["label"], labels)
    fashion = open_dataset("fashion_mnist", data_dir=str(tmp_path))
    assert fashion.splits["train"].load()["label"][0] == 3 and fashion.features["label"].names[0] == "T-shirt/top"
    part = open_dataset("mnist", data_dir=str(tmp_path), train_split="train[50%:]", image_size=14, resize="pad")
    want = np.asarray(Image.fromarray(written["train"][0][10]).resize((14, 14), Image.Resampling.BILINEAR))
    assert_array_equal(part.splits["train"].load()["image"][0, ..., 0], want)


def test_bouncing_digits_are_those_of_mnist(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    reads = {"clip": "clip", "length": "length"}
    with pytest.raises(UserError, match="mnist"):
        open_dataset("bouncing_mnist", reads=reads, data_dir=str(tmp_path))
    written = write_mnist(tmp_path)
    data = open_dataset("bouncing_mnist", reads=reads, data_dir=str(tmp_path))
    for split, digits in (("train", "train"), ("validation", "train"), ("test", "test")):
        seen = data.splits[split].read(np.arange(2))["clip"][..., 0]
        windows = np.lib.stride_tricks.sliding_window_view(seen, (28, 28), axis=(2, 3))
        found = []
        for digit in written[digits][0]:
            found.append((windows == digit).mean((4, 5)).max())
        # The brighter of two digits is seen where they overlap, so that only digits apart are there as a whole.
        assert max(found) == 1, split


def test_translated_digits_are_those_of_mnist(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    written = write_mnist(tmp_path)
    data = open_dataset("translated_mnist", data_dir=str(tmp_path))
    assert data.features["image"].shape == (60, 60, 1)
    images, labels = written["test"]
    example = data.splits["test"].read(np.array([1]))
    windows = np.lib.stride_tricks.sliding_window_view(example["image"][0, ..., 0], (28, 28))
    assert (windows == images[1]).all((2, 3)).any()
    assert_array_equal(example["label"], labels[1:2])


def test_cifars_files(tmp_path):
    images = RNG.integers(0, 256, (12, 32, 32, 3), np.uint8)
    labels = (np.arange(12) % 10).astype(np.uint8)
    rows = images.transpose(0, 3, 1, 2).reshape(12, -1)
    binary, pickled = tmp_path / "bin" / "cifar-10-batches-bin", tmp_path / "py" / "cifar10" / "cifar-10-batches-py"
    for folder in (binary, pickled):
        folder.mkdir(parents=True)
    for number, name in enumerate(["data_batch_1", "data_batch_2", "test_batch"]):
        part = slice(4 * number, 4 * number + 4)
        (binary / f"{name}.bin").write_bytes(np.concatenate([labels[part, None], rows[part]], 1).tobytes())
        batch = {b"data": rows[part], b"labels": labels[part].tolist()}
        (pickled / name).write_bytes(pickle.dumps(batch, protocol=2))
    (tmp_path / "tar").mkdir()
    with tarfile.open(tmp_path / "tar" / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(binary, "cifar-10-batches-bin")
    for kind in ("bin", "py", "tar"):
        data = open_dataset("cifar10", data_dir=str(tmp_path / kind))
        train, test = data.splits["train"].load(), data.splits["test"].load()
        assert_array_equal(np.concatenate([train["image"], test["image"]]), images)
        assert_array_equal(np.concatenate([train["label"], test["label"]]), labels)
        assert data.features["label"].names[3] == "cat"


def test_cifar100_has_two_kinds_of_classes(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    rows = RNG.integers(0, 256, (6, 3074), np.uint8)
    rows[:, 0], rows[:, 1] = np.arange(6), 90 + np.arange(6)
    (folder / "train.bin").write_bytes(rows[:4].tobytes())
    (folder / "test.bin").write_bytes(rows[4:].tobytes())
    reads = {"image": "image", "label": "class", "coarse_label": "class"}
    data = open_dataset("cifar100", data_dir=str(tmp_path), reads=reads)
    examples = data.splits["train"].load()
    assert examples["label"].tolist() == [90, 91, 92, 93] and examples["coarse_label"].tolist() == [0, 1, 2, 3]
    assert data.features["label"].names[90] == "train" and data.features["coarse_label"].names[1] == "fish"


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the payload was run')",))


def test_damaged_files_and_foreign_code(tmp_path):
    write_mnist(tmp_path / "mnist")
    path = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    for content in (b"", path.read_bytes()[:20], gzip.compress(b"\0\0\x08\x01\0\0\0\x09123"), gzip.compress(b"text")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz"):
            open_dataset("mnist", data_dir=str(tmp_path))
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch"):
        (folder / name).write_bytes(pickle.dumps({b"data": Payload()}))
    with pytest.raises(UserError, match="data_batch_1"):
        open_dataset("cifar10", data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_what_to_get_and_where_to_put_it(tmp_path, name):
    with pytest.raises(UserError) as caught:
        open_dataset(name, data_dir=str(tmp_path))
    told = str(caught.value)
    assert "https://" in told and str(tmp_path / name) in told and (".gz" in told)


def test_slices_are_those_of_tfds():
    import tensorflow_datasets as tfds

    sizes = {"train": 137, "test": 60}
    known = {name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0) for name, size in sizes.items()}
    specs = ["train", "train[:80%]", "train[33%:66%]", "train[-10%:]", "test[5:10]+train[80%:]", "train[:-100]"]
    specs += ["train[12.5%:]", "test[7:]", "train[-100:-20]", "train[:0]", "train + test[:1]", "test[50%:60]"]
    for spec in specs:
        want = [
            (each.splitname, each.from_ or 0, each.to)
            for each in tfds.core.ReadInstruction.from_spec(spec).to_absolute(known)
        ]
        got = [(name, part.start, part.stop) for name, part in parse_slices(spec, sizes)]
        assert got == [(name, start, sizes[name] if end is None else end) for name, start, end in want], spec
    for wrong in ("train[", "train[:]", "train[5]", "train[:200]", "train[-200:]", "train[a:b]", "other[:5]", ""):
        with pytest.raises(ValueError):
            parse_slices(wrong, sizes)


WITHOUT_TFDS = """
import sys
sys.modules["tensorflow_datasets"] = None
import jaxrec, numpy as np
from jaxrec.data import open_dataset
from jaxrec.settings import Classifier, Train
for name in sys.argv[1:]:
    data = open_dataset(name, data_dir=".", train_split="train[:80%]")
    assert len(data.splits["train"].load()["label"]) > 0, name
task = Classifier(model="cnn")
run = jaxrec.fit(Train(task=task, dataset="digits", steps=1, batch_size=8, train_split="train[:80]",
                       test_split="test[:16]", runs="runs", tune_allocator=False))
"""


@pytest.mark.slow
def test_all_but_prepared_sets_start_without_tfds(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    for number in range(10):
        place = tmp_path / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (8, 8), np.uint8)).save(place / f"{number}.png")
    lines = [f"photos/{'ab'[number % 2]}/{number}.png,{'ab'[number % 2]}" for number in range(10)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *lines]))
    np.savez(tmp_path / "arrays.npz", image=np.zeros((10, 4, 4, 1), np.uint8), label=np.arange(10) % 2)
    names = ["digits", "synthetic", "folder:photos", "csv:table.csv", "npz:arrays.npz", "mnist"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TFDS, *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
