"""Statistics of a split against NumPy's."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxrec.data import STATISTICS_SAMPLE, Feature, class_counts, open_dataset, statistics
from jaxrec.data.splits import Split, from_arrays
from jaxrec.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")

RNG = np.random.default_rng(0)
IMAGES = {
    "uint8": RNG.integers(0, 256, (1200, 5, 4, 3), np.uint8),
    "uint16": RNG.integers(1000, 60000, (1200, 5, 4, 1)).astype(np.uint16),
    "float32": RNG.beta(2, 5, (1200, 5, 4, 7)).astype(np.float32),
}
SCALE = {"uint8": 255, "uint16": 65535, "float32": 1}


def split_of(**arrays):
    """A split whose features are what the arrays are."""
    features = {}
    for name, (array, kind, names, void) in arrays.items():
        features[name] = Feature(kind, array.shape[1:], array.dtype.name, names, void)
    arrays = {name: array for name, (array, *_) in arrays.items()}
    return Split(from_arrays(arrays), np.arange(len(next(iter(arrays.values())))), features)


@pytest.mark.parametrize("dtype", IMAGES)
def test_mean_and_deviation_of_every_dtype(dtype):
    split = split_of(photo=(IMAGES[dtype], "image", (), None))
    mean, deviation = statistics(split, name="photo")
    values = IMAGES[dtype].astype(np.float64) / SCALE[dtype]
    assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-9)
    assert_allclose(deviation, values.std((0, 1, 2)), rtol=1e-7)
    assert all(type(value) is float for value in (*mean, *deviation)) and STATISTICS_SAMPLE > 1200
    sampled = statistics(split, 600, name="photo")
    assert_allclose(sampled[0], mean, rtol=0.05)
    assert sampled != (mean, deviation)


@pytest.mark.parametrize("dtype", IMAGES)
def test_processes_together_find_what_one_finds(dtype):
    split = split_of(image=(IMAGES[dtype], "image", (), None))
    parts = []
    for part in range(3):
        statistics(split, share=(part, 3), merge=lambda counts: parts.append(counts) or counts)
    assert all(counts.dtype == np.int64 for counts in parts)
    merged = statistics(split, share=(0, 3), merge=lambda counts: sum(parts))
    assert_allclose(merged, statistics(split), rtol=1e-9)


@pytest.mark.parametrize("dtype", IMAGES)
def test_a_channel_without_contrast(dtype):
    constant = np.full((4, 2, 2, 1), SCALE[dtype], dtype)
    assert statistics(split_of(image=(constant, "image", (), None))) == ((1.0,), (1 / 255,))


def test_counts_of_labels_and_of_several_classes():
    label = RNG.integers(0, 3, 1100).astype(np.int32)
    several = RNG.integers(0, 2, (1100, 4)).astype(np.int32)
    split = split_of(label=(label, "class", tuple("abcd"), None), labels=(several, "classes", tuple("wxyz"), None))
    counts = class_counts(split, "label")
    assert counts.dtype == np.int64
    assert_array_equal(counts, np.bincount(label, minlength=4))
    assert_array_equal(class_counts(split, "labels"), several.sum(0))


@pytest.mark.parametrize("void", [None, 1, 5, 255])
def test_counts_of_pixels_without_void_ones(void):
    values = np.array([0, 1, 2, 4] + ([void] if void else []), np.uint8)
    mask = values[RNG.integers(0, len(values), (50, 6, 7))]
    split = split_of(mask=(mask, "mask", tuple("abcde"), void))
    expected = np.bincount(mask[mask != void] if void else mask.ravel(), minlength=5)
    assert_array_equal(class_counts(split, "mask"), expected)
    halves = [class_counts(split, "mask", share=(part, 2)) for part in range(2)]
    assert_array_equal(sum(halves), expected)


def test_counts_of_what_has_no_classes():
    with pytest.raises(UserError, match="'image'"):
        class_counts(open_dataset("digits").splits["test"], "image")
