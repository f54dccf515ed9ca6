"""Bouncing digits: where they go, how they are drawn, and that clips are functions of their numbers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxrec.data import Feature, open_dataset
from jaxrec.data.bouncing import FRAMES, STEP, draw, enlarged, open_bouncing, paths
from jaxrec.errors import UserError

READS = {"clip": "clip", "length": "length"}
INK = np.random.default_rng(0).integers(1, 256, (5, 7, 7), np.uint8)


def test_what_a_clip_is():
    data = open_dataset("bouncing", reads=READS)
    assert data.features["clip"] == Feature("clip", (20, 32, 32, 1), "uint8")
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [100_000, 500, 1000]
    rows = np.array([99_999, 0, 7])
    examples = data.splits["train"].read(rows)
    assert_array_equal(examples["length"], [FRAMES] * 3)
    for place, row in enumerate(rows):
        assert_array_equal(data.splits["train"].read(rows[place : place + 1])["clip"][0], examples["clip"][place]), row
    assert not np.array_equal(data.splits["test"].read(rows[1:])["clip"], examples["clip"][1:])
    assert not np.array_equal(data.splits["validation"].read(rows[1:])["clip"], examples["clip"][1:])


def test_test_clips_hold_test_digits():
    asked = []

    def ink(split):
        asked.append(split)
        return INK if split == "train" else np.full_like(INK, 9)

    source = open_bouncing("bouncing", {"clip": "clip"}, 16, ink, "five")
    first = np.cumsum([0, *source.sizes.values()])[:-1]
    clips = dict(zip(source.sizes, source.read(first)["clip"], strict=True))
    assert sorted(asked) == ["test", "train"]
    assert clips["test"].max() == 9 < min(clips["train"].max(), clips["validation"].max())


def test_only_squares_are_drawn():
    assert open_dataset("bouncing", reads=READS, image_size=16).features["clip"].shape == (20, 16, 16, 1)
    with pytest.raises(UserError, match="--image-size"):
        open_dataset("bouncing", reads=READS, image_size="24x20")


def test_digits_go_straight_and_bounce():
    rng = np.random.default_rng(0)
    found = paths(rng.uniform(0, 1, (50, 2, 2)), rng.uniform(0, 7, (50, 2)))
    assert found.min() >= 0 and found.max() <= 1
    moved = np.diff(found, axis=-2)
    free = (found > 0) & (found < 1)
    inside = (free[..., 1:, :] & free[..., :-1, :]).all(-1)
    assert_allclose(np.hypot(*np.moveaxis(moved[inside], -1, 0)), STEP)
    # A digit turns at walls alone.
    turned = np.sign(moved[..., 1:, :]) != np.sign(moved[..., :-1, :])
    assert turned.any() and not (turned & free[..., 1:-1, :]).any()


def test_the_brighter_digit_is_seen():
    clips = draw(INK, 3, np.arange(4), 16)
    assert clips.shape == (4, FRAMES, 16, 16, 1)
    lit = (clips > 0).sum((2, 3, 4))
    assert lit.max() <= 2 * 49 and lit.min() >= 49
    # Each frame holds the whole of one digit at least where nothing is brighter: its brightest pixels.
    assert clips.max() == INK.max()
    assert_array_equal(draw(INK, 3, np.array([2]), 16)[0], clips[2])
    assert not np.array_equal(draw(INK, 4, np.array([2]), 16)[0], clips[2])


def test_digits_are_enlarged_bilinearly():
    ramp = np.tile(np.arange(0, 80, 10, np.uint8), (2, 8, 1))
    assert_array_equal(enlarged(ramp, 8), ramp)
    larger = enlarged(ramp, 16).astype(int)
    assert larger.shape == (2, 16, 16)
    assert_allclose(np.diff(larger[0, 0, 1:-1]), 5, atol=1)
    assert (larger == larger[:, :1]).all()
