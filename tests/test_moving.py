"""Digits that move: as described, and without a trace of the class in single frames."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxrec.data import Feature, open_dataset
from jaxrec.data.digits import open_digits
from jaxrec.data.moving import CLASSES, DIRECTIONS, FRAMES, SCALES, SEEDS, draw, paths
from jaxrec.data.scenes import strokes
from jaxrec.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

READS = {"clip": "clip", "length": "length", "label": "class"}
COUNT = len(CLASSES)


def opened(size=16, reads=READS):
    return open_dataset("moving", reads=reads, image_size=size)


def test_what_a_clip_is():
    data = open_dataset("moving", reads=READS)
    assert data.features["clip"] == Feature("clip", (20, 32, 32, 1), "uint8")
    assert (len(data.splits["train"]), len(data.splits["test"])) == (7000, 1400)
    rows = np.array([1999, 0, 7])
    examples = data.splits["train"].read(rows)
    assert_array_equal(examples["label"], rows % COUNT)
    assert_array_equal(examples["length"], [FRAMES] * 3)
    for place, row in enumerate(rows):
        assert_array_equal(data.splits["train"].read(rows[place : place + 1])["clip"][0], examples["clip"][place]), row
    assert not np.array_equal(data.splits["test"].read(rows[1:])["clip"], examples["clip"][1:])
    assert data.splits["test"].cached().classes is not None
    # Test clips hold the digits behind those of training.
    digits = open_digits({"image": "image", "label": "class"})
    ink = strokes(digits.read(digits.sizes["train"] + np.arange(digits.sizes["test"])))
    expected = draw(ink, SEEDS["test"], np.array([5]))
    assert_array_equal(data.splits["test"].read(np.array([5]))["clip"], expected["clip"])


def test_only_squares_are_drawn():
    assert opened(24).features["clip"].shape == (20, 24, 24, 1)
    with pytest.raises(UserError, match="--image-size"):
        opened("24x20")


def test_every_movement_is_what_its_name_says():
    found = paths(0, np.arange(20 * COUNT))
    moved = np.diff(found.center.astype(np.float64), axis=1)
    moved -= np.round(moved)  # across the joined borders
    turned, grown = np.diff(found.angle, axis=1), np.diff(np.log(found.scale), axis=1)
    name = np.array(CLASSES)[np.arange(20 * COUNT) % COUNT]
    for each in DIRECTIONS:
        rows = name == each
        angle = np.arctan2(-moved[rows, :, 0], moved[rows, :, 1])
        expected = DIRECTIONS.index(each) * np.pi / 4
        assert_allclose(np.cos(angle - expected), 1, atol=1e-4)
    speed = np.hypot(*np.moveaxis(moved, -1, 0))
    still = ~np.isin(name, [*DIRECTIONS, "bounce", "orbit"])
    assert_allclose(speed[still], 0, atol=1e-6)
    assert (turned[name == "turn-left"] > 0).all() and (turned[name == "turn-right"] < 0).all()
    assert_allclose(turned[~np.isin(name, ["turn-left", "turn-right"])], 0, atol=1e-6)
    # The one step at which the range of sizes starts over goes the other way.
    assert (np.sum(grown[name == "zoom-in"] < 0, axis=1) <= 1).all()
    assert (np.sum(grown[name == "zoom-out"] > 0, axis=1) <= 1).all()
    way = np.cumsum(moved, axis=1)
    assert (np.ptp(way[name == "bounce"], axis=1) <= 0.25 + 1e-6).all()
    assert (np.diff(np.sign(moved[name == "bounce"]), axis=1) != 0).any((1, 2)).all()
    # On a circle, steps are of one length and turn by one angle.
    steps = moved[name == "orbit"] @ np.array([1j, 1])
    assert_allclose(steps[:, 1:] / steps[:, :-1], np.tile(steps[:, 1:2] / steps[:, :1], FRAMES - 2), atol=1e-3)


@pytest.mark.parametrize("frame", [0, 10, 19])
def test_place_size_and_angle_are_uniform_in_every_class_and_frame(frame):
    from scipy.stats import kstest

    count = 150
    found = paths(0, np.arange(count * COUNT))
    zoom = np.log(found.scale / SCALES[0]) / np.log(SCALES[1] / SCALES[0])
    values = np.stack([*np.moveaxis(found.center, -1, 0), found.angle / (2 * np.pi) % 1, zoom])[..., frame]
    chance = kstest(values.reshape(4, count, COUNT), "uniform", axis=1).pvalue
    assert chance.min() > 0.01 / chance.size


def test_single_frames_tell_nothing_and_clips_do():
    data = opened()
    train, test = data.splits["train"].read(np.arange(1400)), data.splits["test"].read(np.arange(400))
    # Three deviations above what guesses reach.
    chance = 1 / COUNT + 3 * np.sqrt(1 / COUNT / len(test["label"]))
    for frame in (0, 10, 19):
        for describe in (pixels, waves):
            alone = accuracies(train, test, slice(frame, frame + 1), describe)
            assert max(alone) < chance, (frame, describe, alone)
    assert min(accuracies(train, test, slice(FRAMES), waves)) > 0.6


def accuracies(train, test, frames, describe):
    """What a linear classifier and the nearest neighbor reach from these frames of the clips."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier

    known, asked = describe(train["clip"][:, frames]), describe(test["clip"][:, frames])
    found = []
    for classifier in (RidgeClassifier(10), KNeighborsClassifier(1)):
        found.append(classifier.fit(known, train["label"]).score(asked, test["label"]))
    return found


def pixels(clips):
    return clips.reshape(len(clips), -1) / 255


def waves(clips):
    """The strength of slow waves, which does not depend on where the digit starts, for borders are joined."""
    found = np.abs(np.fft.fftn(clips[..., 0], axes=(1, 2, 3)))
    return np.log1p(found[:, :, np.r_[:4, -3:0], :4]).reshape(len(clips), -1)
