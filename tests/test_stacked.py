"""Images of three digits: each channel is a digit, and the judge reads channel by channel."""

import numpy as np
import pytest

from jaxrec.data import open_dataset
from jaxrec.run.judge import look_by_channel


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_channels_are_digits_of_the_split_and_the_class_is_their_number(split):
    stacked, digits = open_dataset("stacked"), open_dataset("digits")
    of = digits.splits["test" if split == "test" else "train"].load()
    found = stacked.splits[split].read(np.array([0, 1, 500, 0]))
    assert found["image"].shape == (4, 8, 8, 3) and found["image"].dtype == np.uint8
    names = stacked.features["label"].names
    assert len(names) == 1000
    for image, label in zip(found["image"], found["label"], strict=True):
        for channel, digit in enumerate(names[label]):
            same = (of["image"][..., 0] == image[..., channel]).all((1, 2))
            assert str(of["label"][same.argmax()]) == digit and same.any()
    np.testing.assert_array_equal(found["image"][0], found["image"][3])


def test_stacks_are_of_all_classes_and_of_several_splits_at_once():
    stacked = open_dataset("stacked")
    labels = stacked.splits["train"].read(np.arange(20_000))["label"]
    assert len(np.unique(labels)) == 1000
    # No split begins as another does.
    for split in ("test", "validation"):
        assert (stacked.splits[split].read(np.arange(8))["label"] != labels[:8]).any()


def test_a_judge_of_one_channel_reads_all_of_them():
    """Of the joint classes, the probabilities are products, and each channel's sum is its own probability."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)

    def look(image):
        assert image.shape == (5, 4, 4, 1)
        logits = image.reshape(5, 16)[:, :10].astype(np.float64)
        return {"features": logits[:, :7], "probabilities": logits / logits.sum(1, keepdims=True)}

    seen = look_by_channel(look, images)
    assert seen["features"].shape == (5, 21)
    joint = seen["probabilities"].reshape(5, 10, 10, 10)
    for channel in range(3):
        others = tuple(axis for axis in (1, 2, 3) if axis != channel + 1)
        alone = look(images[..., channel : channel + 1])
        np.testing.assert_allclose(joint.sum(others), alone["probabilities"], rtol=1e-12)
        np.testing.assert_array_equal(seen["features"][:, 7 * channel : 7 * channel + 7], alone["features"])
