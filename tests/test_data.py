"""Sets by name, their splits, and batches as a function of (seed, step)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from jaxrec.data import (
    batch_indices,
    class_names,
    cut_validation,
    eval_batches,
    image_shape,
    open_dataset,
    statistics,
    streamed,
)
from jaxrec.data.features import Feature
from jaxrec.data.splits import Split, from_arrays, quotas
from jaxrec.errors import UserError
from jaxrec.run.data import open_data
from jaxrec.settings import Train
from jaxrec.tasks.system import system_of

pytestmark = pytest.mark.usefixtures("own_cache")


def real(name, **kwargs):
    """A real prepared set."""
    if not (folder := os.environ.get("TFDS_DATA_DIR")):
        pytest.skip("TFDS_DATA_DIR is not set: no real images")
    return open_dataset(name, data_dir=folder, **kwargs)


def random_split(count, shape=(4, 4, 3)):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    features = {"image": Feature("image", shape, "uint8"), "label": Feature("class", (), "int32", tuple("0123456"))}
    return Split(
        from_arrays({"image": images, "label": np.arange(count, dtype=np.int32) % 7}), np.arange(count), features
    )


def stream(seed, batch, examples, steps):
    pairs = [batch_indices(seed, step, batch, examples) for step in range(steps)]
    return np.concatenate([index for index, _ in pairs]), np.concatenate([epoch for _, epoch in pairs])


@pytest.mark.parametrize(("batch", "examples"), [(8, 32), (8, 30), (5, 7), (10, 3), (1, 4), (7, 1)])
def test_every_epoch_is_a_permutation(batch, examples):
    index, epoch = stream(3, batch, examples, 4 * examples)
    assert index.dtype == epoch.dtype == np.int32
    np.testing.assert_array_equal(epoch, np.arange(len(epoch)) // examples)
    whole = index[: len(index) // examples * examples].reshape(-1, examples)
    np.testing.assert_array_equal(np.sort(whole, axis=1), np.broadcast_to(np.arange(examples), whole.shape))


def test_order_differs_by_epoch_and_seed_and_not_by_batch_size():
    orders = [stream(seed, 50, 50, 2)[0].reshape(2, 50) for seed in (0, 1, -1)]
    assert len({tuple(order) for order in np.concatenate(orders).tolist()}) == 6
    np.testing.assert_array_equal(stream(0, 20, 50, 5)[0], orders[0].ravel())


def test_a_late_step_is_found_directly():
    index, epoch = batch_indices(0, 10**9, 512, 60_000)
    assert epoch[0] == 10**9 * 512 // 60_000
    assert len(set(index.tolist())) == 512


def check_streamed(split, batch, start, steps):
    resident = split.load()
    halves = [streamed(split, 5, batch, start, steps=steps, share=(part, 2)) for part in range(2)]
    whole = list(streamed(split, 5, batch, start, steps=steps))
    assert len(whole) == steps
    for step, got, *parts in zip(range(start, start + steps), whole, *halves, strict=True):
        index, epoch = batch_indices(5, step, batch, len(split))
        want = {"image": resident["image"][index], "label": resident["label"][index], "index": index, "epoch": epoch}
        assert got.keys() == want.keys()
        for key, value in want.items():
            np.testing.assert_array_equal(got[key], value)
            np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), value)
            assert got[key].dtype == value.dtype


def test_streamed_equals_resident_on_digits():
    check_streamed(open_dataset("digits").splits["train"], 96, start=10, steps=12)  # spans the first epoch's end


def test_streamed_equals_resident_on_mnist():
    check_streamed(real("mnist", train_split="train[:1000]").splits["train"], 64, start=13, steps=5)


def test_streamed_equals_resident_when_a_batch_holds_epochs():
    check_streamed(random_split(3), 10, start=2, steps=3)


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(UserError, match=r"batch size 10 cannot be shared by 3 processes: choose a multiple of 3"):
        streamed(random_split(3), 0, 10, 0, steps=1, share=(0, 3))


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (8, 4), (3, 8), (1, 1)])
def test_evaluation_counts_every_example_once(count, batch):
    split = random_split(count)
    batches = list(eval_batches(split, batch))
    assert all(b["image"].shape == (batch, 4, 4, 3) and b["real"].dtype == bool for b in batches)
    real = np.concatenate([b["real"] for b in batches])
    index = np.concatenate([b["index"] for b in batches])
    np.testing.assert_array_equal(index[real], np.arange(count))
    assert (index[~real] == 0).all() and len(real) - count < batch
    for key, value in split.load().items():
        np.testing.assert_array_equal(np.concatenate([b[key] for b in batches]), value[index])


@pytest.mark.parametrize(("count", "share", "held_out"), [(100, 0.1, 10), (5, 0.1, 1), (1437, 0.1, 144)])
def test_validation_cut(count, share, held_out):
    train, validation = cut_validation(random_split(count), share, seed=2)
    assert len(validation) == held_out
    np.testing.assert_array_equal(np.sort(np.concatenate([train.rows, validation.rows])), np.arange(count))
    np.testing.assert_array_equal(cut_validation(random_split(count), share, seed=2)[1].rows, validation.rows)
    first = validation.read(np.array([0]))
    np.testing.assert_array_equal(first["image"], random_split(count).read(validation.rows[:1])["image"])


def test_validation_cut_by_seed():
    rows = [cut_validation(random_split(100), 0.2, seed)[1].rows.tolist() for seed in range(3)]
    assert len(set(map(tuple, rows))) == 3


@pytest.mark.parametrize(("count", "share"), [(10, 0.0), (10, 1.0), (10, 1.5), (1, 0.5), (10, 0.99)])
def test_validation_cut_that_leaves_nothing(count, share):
    with pytest.raises(UserError, match=rf"validation share {share} of {count} examples cannot be cut"):
        cut_validation(random_split(count), share)


def test_statistics_over_several_pieces():
    split = random_split(2500)
    mean, std = statistics(split)
    images = split.load()["image"] / 255
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, images.std((0, 1, 2)), rtol=1e-12)
    assert statistics(split, sample=5000) == (mean, std)
    np.testing.assert_allclose(statistics(split, sample=1000)[0], mean, atol=0.01)
    assert statistics(split, sample=1000) != (mean, std)


def test_statistics_of_a_constant_channel():
    features = {"image": Feature("image", (1, 1, 1), "uint8")}
    black = Split(from_arrays({"image": np.zeros((2, 1, 1, 1), np.uint8)}), np.arange(2), features)
    assert statistics(black) == ((0.0,), (1 / 255,))


def test_digits_are_scikit_learns():
    data = open_dataset("digits")
    assert image_shape(data.features) == (8, 8, 1) and class_names(data.features) == tuple("0123456789")
    train, test = data.splits["train"].load(), data.splits["test"].load()
    assert (len(train["label"]), len(test["label"])) == (1437, 360)
    digits = load_digits()
    np.testing.assert_allclose(np.bincount(test["label"]), 0.2 * np.bincount(digits.target), atol=1)

    def rows(images, labels):
        return sorted(np.column_stack([images.reshape(len(labels), -1), labels]).tolist())

    got = rows(np.concatenate([train["image"], test["image"]]), np.concatenate([train["label"], test["label"]]))
    assert got == rows(np.rint(digits.images * 255 / 16), digits.target)
    assert data.splits["train"].nbytes == train["image"].nbytes + train["label"].nbytes == 1437 * (64 + 4)


def test_image_size_resizes_every_kind():
    assert open_dataset("digits", image_size=12).splits["test"].load()["image"].shape == (360, 12, 12, 1)
    assert open_dataset("synthetic", image_size=12).splits["test"].load()["image"].shape == (256, 12, 12, 3)
    assert open_dataset("synthetic", image_size="12x20").splits["test"].load()["image"].shape == (256, 12, 20, 3)
    with pytest.raises(UserError, match="--image-size 0 "):
        open_dataset("digits", image_size=0)
    with pytest.raises(UserError, match="--image-size 12x20 "):
        open_dataset("scenes", reads={"image": "image"}, image_size="12x20")


def test_synthetic_is_learnable_and_fixed():
    data = open_dataset("synthetic")
    train, test = data.splits["train"].load(), data.splits["test"].load()
    assert train["image"].shape == (1024, 32, 32, 3) and test["image"].shape == (256, 32, 32, 3)
    assert min(np.bincount(train["label"])) > 200
    grey = [split["image"].mean(-1).reshape(len(split["label"]), -1) for split in (train, test)]
    assert KNeighborsClassifier(5).fit(grey[0], train["label"]).score(grey[1], test["label"]) > 0.8
    np.testing.assert_array_equal(open_dataset("synthetic").splits["train"].load()["image"], train["image"])


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "first_class"),
    [("mnist", (28, 28, 1), (60_000, 10_000), "0"), ("cifar10", (32, 32, 3), (50_000, 10_000), "airplane")],
)
def test_real_sets(name, shape, sizes, first_class):
    data = real(name)
    assert image_shape(data.features) == shape and class_names(data.features) == data.features["label"].names
    assert class_names(data.features)[0] == first_class and len(class_names(data.features)) == 10
    assert (len(data.splits["train"]), len(data.splits["test"])) == sizes
    sliced = real(name, train_split="train[:80%]", test_split="test[5:10]+train[80%:]")
    assert (len(sliced.splits["train"]), len(sliced.splits["test"])) == (sizes[0] * 8 // 10, 5 + sizes[0] // 5)
    assert sliced.fingerprint != data.fingerprint == real(name).fingerprint
    rows = np.array([5, 7, 7])
    got, want = sliced.splits["test"].read(rows - 5), data.splits["test"].read(rows)
    assert got["image"].shape == (3, *shape) and got["image"].dtype == np.uint8 and got["label"].dtype == np.int32
    np.testing.assert_array_equal(got["image"], want["image"])
    source = tfds.data_source(name, split="test", data_dir=os.environ["TFDS_DATA_DIR"], download=False)
    np.testing.assert_array_equal(got["image"][0], source[5]["image"])
    assert got["label"].tolist() == [source[row]["label"] for row in rows.tolist()]


class OddSet(tfds.core.GeneratorBasedBuilder):
    """Images of several sizes, with names of their own for the features, and a split without labels."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent  # TFDS's guess fails outside packages

    def _info(self):
        features = {
            "photo": tfds.features.Image(shape=(None, None, 3)),
            "kind": tfds.features.ClassLabel(names=["a", "b"]),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples((0, 1)), "unlabelled": self._generate_examples((-1, -1))}

    def _generate_examples(self, labels):
        from PIL import Image

        for key, label in enumerate(labels):
            yield key, {"photo": Image.new("RGB", (20 + 10 * key, 10), (key, 1, 2)), "kind": label}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    OddSet(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


def test_prepared_images_of_several_sizes(odd):
    data = open_dataset("odd_set", data_dir=str(odd), test_split="train", image_size=6)
    assert image_shape(data.features) == (6, 6, 3) and class_names(data.features) == ("a", "b")
    examples = data.splits["train"].load()
    np.testing.assert_array_equal(examples["image"][:, 0, 0, 0], examples["label"])
    first = open_dataset("odd_set:1.0.0", data_dir=str(odd), test_split="train").features
    assert image_shape(first) in {(10, 20, 3), (10, 30, 3)}


def test_features_of_foreign_code_are_not_imported(odd, tmp_path, monkeypatch):
    folder = shutil.copytree(odd, tmp_path / "sets") / "odd_set" / "1.0.0"
    (tmp_path / "payload.py").write_text("raise SystemExit('the payload was run')")
    monkeypatch.syspath_prepend(tmp_path)
    for key in ("pythonClassName", "type"):
        text = (odd / "odd_set" / "1.0.0" / "features.json").read_text()
        text = re.sub(r'"pythonClassName": "[^"]*Image"', f'"{key}": "payload.Image"', text)
        assert "payload.Image" in text
        (folder / "features.json").write_text(text)
        with pytest.raises(UserError, match=r"features\.json asks for the code 'payload\.Image'; expected"):
            open_dataset("odd_set", data_dir=str(tmp_path / "sets"))


@pytest.mark.parametrize("what", ["features.json", "dataset_info.json", "record", "missing record"])
def test_damaged_prepared_sets(odd, tmp_path, what):
    folder = shutil.copytree(odd, tmp_path / "sets") / "odd_set" / "1.0.0"
    record = next(folder.glob("*train*"))
    if what == "missing record":
        record.unlink()
    elif what == "record":
        record.write_bytes(record.read_bytes()[:100])
    else:
        (folder / what).write_text("[" if what == "features.json" else "[]")
    with pytest.raises(UserError, match=r"^dataset 'odd_set' in .* is damaged \(.*\); prepare it again$"):
        open_dataset("odd_set", data_dir=str(tmp_path / "sets"), test_split="train").splits["test"].load()


def test_examples_without_labels(odd):
    split = open_dataset("odd_set", data_dir=str(odd), test_split="unlabelled").splits["test"]
    with pytest.raises(UserError, match=r"^dataset 'odd_set' has examples without a label in this split: choose"):
        split.load()


def test_data_dir_comes_before_the_environment(odd, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(odd))
    assert len(open_dataset("odd_set", test_split="train").splits["train"]) == 2
    with pytest.raises(UserError, match=str(tmp_path)):
        open_dataset("odd_set", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("od_set", "; did you mean 'odd_set'?"),
        ("digit", "; did you mean 'digits'?"),
        ("qqqqqq", ""),
        ("../odd_set", None),
    ],
)
def test_unknown_names(odd, name, hint):
    with pytest.raises(UserError) as caught:
        open_dataset(name, data_dir=str(odd))
    start = f"dataset '{name}' is not prepared in {odd}: "
    assert str(caught.value).startswith(start)
    assert f"`jaxrec prepare {name} --data-dir {odd}`" in str(caught.value)
    assert hint is None or str(caught.value).endswith(hint or "`pip install 'jaxrec[prepare]'`")


@pytest.mark.parametrize("name", ["", " ", "folder:", "csv:", "npz:"])
def test_an_empty_name_or_path(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--dataset"):
        open_dataset(name)
    with pytest.raises(UserError, match="--dataset"):
        open_data(Train(dataset=name), system_of(Train().task))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (
            {"train_split": "trian"},
            "has no split 'trian', only train, test: change --train-split; did you mean 'train'?",
        ),
        ({"test_split": "train+x"}, "has no split 'x', only train, test: change --test-split"),
        ({"train_split": ""}, "has no split '', only train, test: change --train-split"),
        ({"train_split": "train[:foo]"}, "cannot be read: expected a slice such as train[:80%] of the 1437 examples"),
        ({"train_split": "train["}, "cannot be read: expected a slice such as train[:80%] of the 1437 examples"),
        ({"test_split": "test[900:]"}, "cannot be read: expected a slice such as test[:80%] of the 360 examples"),
        ({"train_split": "train[:0]"}, "holds no examples: choose a larger slice"),
    ],
)
def test_splits_that_are_not_there(splits, message):
    with pytest.raises(UserError) as caught:
        open_dataset("digits", **splits)
    assert message in str(caught.value) and "'digits'" in str(caught.value)


def test_import_is_light():
    code = (
        "import sys, jaxrec.data; "
        "print({'jax', 'tensorflow', 'tensorflow_datasets', 'grain', 'sklearn', 'PIL'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("made", "named"), [("photos", "folder:photos"), ("my photos", "'folder:my photos'"), ("a.csv", "csv:a.csv")]
)
def test_a_folder_or_file_of_the_name_is_suggested(tmp_path, monkeypatch, made, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / made).write_text("path,label\n") if made.endswith(".csv") else (tmp_path / made).mkdir()
    with pytest.raises(UserError) as caught:
        open_dataset(made, data_dir=str(tmp_path / "none"))
    assert str(caught.value).endswith(f"did you mean {named}?")


def test_quotas_keep_a_rare_class_on_both_sides():
    counts = np.array([100, 50, 7, 2, 1, 0])
    assert quotas(counts, 0.1).tolist() == [10, 5, 1, 1, 0, 0]
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts, share = rng.integers(0, 40, 6), rng.uniform(0.05, 0.5)
        got = quotas(counts, share)
        assert (got <= np.maximum(0, counts - 1)).all() and (got[counts >= 2] >= 1).all()
        assert (np.abs(got - share * counts) <= 1).all()
