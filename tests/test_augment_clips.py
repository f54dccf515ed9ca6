"""Clips under augmentation: one movement for all frames, stretches of time, and playing backwards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxrec.augment import augment, augment_examples
from jaxrec.errors import UserError
from jaxrec.settings import Augment

KINDS = {"clip": "clip", "count": "length", "label": "class"}
BATCH, FRAMES, SIZE = 24, 6, 32
INDEX = jnp.arange(BATCH)
KEY = jax.random.key(3)
MOVES = Augment(flip="random", translate=0.05, rotate=90.0, scale=0.2, window=(30, 28))


@functools.partial(jax.jit, static_argnums=0)
def changed(config, key, examples):
    kinds = {name: KINDS[name] for name in examples}
    return augment_examples(config, key, examples, kinds, INDEX, jnp.array(0))


def squares():
    """A square of 5 pixels that moves 1 pixel down and 2 to the right from frame to frame."""
    clips = np.zeros((BATCH, FRAMES, SIZE, SIZE, 1), np.float32)
    for frame in range(FRAMES):
        clips[:, frame, 10 + frame : 15 + frame, 8 + 2 * frame : 13 + 2 * frame] = 0.6
    return jnp.asarray(clips)


def test_a_square_moves_evenly_after_a_movement():
    result = changed(MOVES, KEY, {"clip": squares()})["clip"]
    assert result.shape == (BATCH, FRAMES, 30, 28, 1)
    clips = np.float64(result[..., 0])
    mass = clips.sum((2, 3))
    down = (clips.sum(3) * np.arange(30)).sum(2) / mass
    across = (clips.sum(2) * np.arange(28)).sum(2) / mass
    steps = np.diff(down + 1j * across, axis=1)
    assert_allclose(steps, np.broadcast_to(steps.mean(1, keepdims=True), steps.shape), atol=0.15)
    # Other clips are turned and enlarged otherwise, by up to a fifth.
    assert_allclose(np.abs(steps) / np.sqrt(5), 1, atol=0.22)
    assert np.abs(steps[:, None, 0] - steps[None, :, 0]).max() > 2


@pytest.mark.parametrize(
    "config", [MOVES, Augment(crop=2, brightness=0.3, contrast=0.3, cutout=5), Augment(randaugment=2)]
)
def test_each_frame_is_changed_as_an_image(config):
    clips = jax.random.uniform(jax.random.key(0), (BATCH, 3, 32, 32, 3))
    result = changed(config, KEY, {"clip": clips})["clip"]
    alone = jax.jit(augment, static_argnums=0)
    for frame in range(3):
        assert_allclose(result[:, frame], alone(config, KEY, clips[:, frame], INDEX, jnp.array(0)), atol=1e-5)


def numbered(length):
    """Clips whose frames say their number, from 1 on, and blank ones after their length."""
    frame = jnp.arange(FRAMES)
    value = jnp.where(frame < length[:, None], (frame + 1) / 10, 0)
    return jnp.broadcast_to(value[:, :, None, None, None], (BATCH, FRAMES, 2, 2, 1)).astype(jnp.float32)


def numbers(result):
    return np.rint(10 * np.asarray(result["clip"][:, :, 0, 0, 0])).astype(int)


def test_frames_that_are_not_there_stay_blank():
    length = 1 + INDEX % FRAMES
    config = Augment(brightness=0.05)
    result = changed(config, KEY, {"clip": numbered(length), "count": length, "label": INDEX})
    there = np.arange(FRAMES) < np.asarray(length)[:, None]
    assert_array_equal(np.asarray(result["clip"])[~there], 0)
    assert (np.asarray(result["clip"])[there] > 0).all()
    assert_array_equal(result["count"], length)
    assert_array_equal(result["label"], INDEX)


def test_half_of_the_clips_are_played_backwards():
    length = 2 + INDEX % (FRAMES - 1)
    result = numbers(changed(Augment(reverse=True), KEY, {"clip": numbered(length), "count": length}))
    backwards = result[:, 0] != 1
    for place, count in enumerate(length.tolist()):
        forwards = np.arange(1, count + 1)
        expected = forwards[::-1] if backwards[place] else forwards
        assert_array_equal(result[place], np.pad(expected, (0, FRAMES - count)))
    assert 5 < backwards.sum() < 19
    whole = numbers(changed(Augment(reverse=True), KEY, {"clip": numbered(jnp.full(BATCH, FRAMES))}))
    assert_array_equal(whole[:, 0] == FRAMES, backwards)


def test_stretches_lie_anywhere_in_what_is_there():
    length = 1 + INDEX % FRAMES
    seen = set()
    for seed in range(8):
        result = changed(Augment(frames=3), jax.random.key(seed), {"clip": numbered(length), "count": length})
        assert_array_equal(result["count"], np.minimum(length, 3))
        for count, shown in zip(length.tolist(), numbers(result), strict=True):
            kept = min(count, 3)
            assert_array_equal(shown, np.pad(shown[0] + np.arange(kept), (0, 3 - kept)))
            seen.add((count, int(shown[0])))
    expected = {(count, first) for count in range(1, FRAMES + 1) for first in range(1, max(1, count - 2) + 1)}
    assert seen == expected


def test_a_stretch_longer_than_the_clips_leaves_them_whole():
    clips = numbered(jnp.full(BATCH, FRAMES))
    assert_array_equal(changed(Augment(frames=99), KEY, {"clip": clips})["clip"], clips)


@pytest.mark.parametrize("config", [Augment(reverse=True), Augment(frames=3)])
def test_images_cannot_be_played_backwards(config):
    with pytest.raises(UserError, match=r"augment\.(reverse|frames)"):
        augment(config, KEY, jnp.zeros((2, 4, 4, 1)), jnp.arange(2), jnp.array(0))


def test_clips_make_no_mosaics():
    with pytest.raises(UserError, match="mosaic"):
        augment_examples(
            Augment(mosaic=0.5), KEY, {"clip": squares()}, {"clip": "clip"}, jnp.arange(BATCH), jnp.array(0)
        )
