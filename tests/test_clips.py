"""Clips: arrays of them, their lengths, their statistics, and real sets of image sequences."""

import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxrec.data import Feature, blank, image_shape, open_dataset, pictured, statistics
from jaxrec.data.features import to_json
from jaxrec.errors import UserError
from jaxrec.run.evaluation import batch_size
from jaxrec.run.known import KnownData

pytestmark = pytest.mark.usefixtures("own_cache")

READS = {"clip": "clip", "length": "length", "label": "class"}
CLIPS = np.random.default_rng(0).integers(1, 256, (20, 5, 4, 6, 2), dtype=np.uint8)
LABEL = np.arange(20) % 2
LENGTH = 1 + np.arange(20) % 5
THERE = np.arange(5) < LENGTH[:, None]


def opened(**arrays):
    return open_dataset({"train": arrays, "test": arrays}, reads=READS)


def test_clips_without_lengths_are_all_there():
    data = opened(clips=CLIPS, y=LABEL)
    assert data.features["clip"] == Feature("clip", (5, 4, 6, 2), "uint8")
    assert data.features["length"] == Feature("length", (), "int32")
    examples = data.splits["train"].load()
    assert_array_equal(examples["clip"], CLIPS)
    assert_array_equal(examples["length"], np.full(20, 5))


def test_frames_that_are_not_there_are_zeros():
    before = CLIPS.copy()
    examples = opened(clip=CLIPS, length=LENGTH, label=LABEL).splits["test"].load()
    assert_array_equal(examples["length"], LENGTH)
    assert_array_equal(examples["clip"], CLIPS * THERE[..., None, None, None])
    assert_array_equal(CLIPS, before)


def test_a_single_channel_may_be_left_out_and_floats_stay():
    grey = opened(clip=CLIPS[..., 0], label=LABEL).features["clip"]
    assert grey.shape == (5, 4, 6, 1)
    assert opened(x=np.float64(CLIPS) / 255, label=LABEL).features["clip"].dtype == "float32"


@pytest.mark.parametrize(
    ("named", "arrays"),
    [
        ("'length'", {"clip": CLIPS, "length": LENGTH - 1}),
        ("'length'", {"clip": CLIPS, "length": LENGTH + 1}),
        ("'clip'", {"clip": CLIPS[:, 0, 0]}),
        ("'clip'", {"clip": np.float32(CLIPS)}),
        ("moveaxis", {"clip": np.zeros((20, 5, 3, 8, 8), np.uint8)}),
        ("'clip'", {"image": CLIPS[:, 0]}),
    ],
)
def test_arrays_that_are_no_clips(named, arrays):
    with pytest.raises(UserError, match=named):
        opened(**arrays, label=LABEL)


def test_cuts_keep_the_share_of_each_class():
    data = open_dataset({"clip": CLIPS, "length": LENGTH, "label": LABEL}, reads=READS)
    assert_array_equal(np.bincount(data.splits["test"].load()["label"]), [2, 2])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_statistics_are_of_the_frames_that_are_there(dtype):
    clips = CLIPS if dtype == np.uint8 else np.float32(CLIPS) / 255
    split = opened(clip=clips, length=LENGTH, label=LABEL).splits["train"]
    mean, deviation = statistics(split, name="clip")
    frames = CLIPS[THERE].reshape(-1, 2) / 255
    assert_allclose(mean, frames.mean(0), rtol=1e-6)
    assert_allclose(deviation, frames.std(0), rtol=1e-5)


def test_the_image_of_a_clip_is_a_frame():
    features = opened(clip=CLIPS, label=LABEL).features
    assert image_shape(features) == (4, 6, 2) and pictured(features).shape == (5, 4, 6, 2)
    assert_array_equal(blank(features, 2)["length"], [1, 1])


def test_as_many_clips_at_once_as_their_frames_allow():
    clips = np.zeros((20, 5, 256, 1024, 1), np.uint8)
    assert batch_size(500, opened(clip=clips, label=LABEL).splits["test"]) == 2**22 // clips[0].size


def test_a_known_run_takes_clips_of_other_lengths_and_not_of_other_sizes():
    data = opened(clip=CLIPS, label=LABEL)
    known = KnownData({"features": to_json(data.features), "fingerprint": data.fingerprint})
    assert known.changes(opened(clip=CLIPS[:, :3], label=LABEL))
    with pytest.raises(UserError, match="'clip'"):
        known.changes(opened(clip=CLIPS[:, :, :3], label=LABEL))


@pytest.mark.parametrize(("name", "shape"), [("utd_mhad_depth", (20, 64, 64, 1)), ("avletters", (40, 48, 64, 1))])
def test_real_sequences_are_as_tfds_reads_them(name, shape):
    if not (real := os.environ.get("TFDS_DATA_DIR")):
        pytest.skip("TFDS_DATA_DIR is not set: no real images")
    import tensorflow_datasets as tfds

    data = open_dataset(name, data_dir=real, reads=READS)
    assert data.features["clip"].shape == shape
    examples = data.splits["test"].read(np.arange(3))
    reference = tfds.builder_from_directory(f"{real}/{name}/1.0.0").as_data_source("test")
    for place in range(3):
        frames = np.stack(reference[place]["frames"])
        length = examples["length"][place]
        assert length == len(frames) and examples["label"][place] == reference[place]["label"]
        assert_allclose(np.int32(examples["clip"][place, :length]), frames, atol=2)  # decoders of JPEG differ
        assert not examples["clip"][place, length:].any()
