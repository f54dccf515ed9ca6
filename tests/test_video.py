"""Forecasts of frames: the networks, the metrics, what counts, and what the system tells and draws."""

import csv
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import close
from PIL import Image
from systems import tiny_video

from jaxrec.cli import predict
from jaxrec.errors import UserError
from jaxrec.metrics import Forecast, ssim
from jaxrec.models.video import ConvLSTM, apart, to_patches, to_pixels, together
from jaxrec.tasks import video

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
CLIPS = RNG.integers(0, 256, (4, 4, 8, 8, 1), np.uint8)
PREDICT = jax.jit(video.predict)
EVALUATE = jax.jit(video.eval_step)


@cache
def initializer(given, architecture):
    return jax.jit(partial(video.init, tiny_video(given=given, architecture=architecture)))


def state_of(batch, given=2, architecture="simvp"):
    return initializer(given, architecture)(KEY, batch)


def batch_of(clips, length=None):
    length = np.full(len(clips), clips.shape[1], np.int32) if length is None else np.int32(length)
    return {"clip": clips, "length": length}


def metrics_of(state, batch):
    return jax.device_get(EVALUATE(state, batch))


# Metrics


def test_metrics_are_sums_over_pixels_and_means_over_frames_that_are_there():
    forecast, true = RNG.uniform(size=(2, 3, 4, 12, 16, 1)).astype(np.float32)
    last = RNG.uniform(size=(3, 12, 16, 1)).astype(np.float32)
    there = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    found = jax.device_get(jax.jit(Forecast.from_batch)(forecast, last, true, there)).compute()
    for name, frames in (("", forecast), ("copy_", np.broadcast_to(last[:, None], true.shape))):
        difference = (frames - true)[there].astype(np.float64)
        squares = (difference**2).sum((1, 2, 3))
        assert found[f"{name}mse"] == pytest.approx(squares.mean(), rel=1e-5)
        assert found[f"{name}mae"] == pytest.approx(abs(difference).sum((1, 2, 3)).mean(), rel=1e-5)
        assert found[f"{name}psnr"] == pytest.approx(-10 * np.log10(squares / (12 * 16)).mean(), rel=1e-5)


def test_ssim_is_the_mean_over_the_frames_that_are_there():
    forecast, true = RNG.uniform(size=(2, 2, 3, 16, 12, 1)).astype(np.float32)
    last = RNG.uniform(size=(2, 16, 12, 1)).astype(np.float32)
    there = np.array([[1, 1, 1], [1, 0, 0]], bool)
    found = jax.device_get(jax.jit(Forecast.from_batch)(forecast, last, true, there)).compute()
    copies = np.broadcast_to(last[:, None], true.shape)
    for name, frames in (("ssim", forecast), ("copy_ssim", copies)):
        assert found[name] == pytest.approx(float(ssim(frames[there], true[there]).mean()), rel=1e-5)


def test_a_copy_of_the_last_frame_is_exact_on_still_clips():
    batch = batch_of(np.repeat(CLIPS[:, :1], 4, axis=1))
    found = metrics_of(state_of(batch), batch)["forecast"].compute()
    assert (found["copy_mse"], found["copy_mae"], found["copy_psnr"]) == (0, 0, 100)
    assert found["copy_ssim"] == pytest.approx(1) and found["mse"] > 0.1


# What counts


@pytest.mark.parametrize("architecture", ["simvp", "convlstm"])
def test_a_forecast_is_made_of_the_given_frames_alone(architecture):
    batch = batch_of(CLIPS)
    state = state_of(batch, architecture=architecture)
    others = CLIPS.copy()
    others[:, 2:] = 255 - others[:, 2:]
    told, again = PREDICT(state, CLIPS)["forecast"], PREDICT(state, others)["forecast"]
    assert told.shape == (4, 2, 8, 8, 1)
    np.testing.assert_array_equal(told, again)
    assert np.abs(PREDICT(state, 255 - CLIPS)["forecast"] - told).max() > 1e-4
    one, other = metrics_of(state, batch), metrics_of(state, batch_of(others))
    assert one["forecast"].compute()["mse"] != other["forecast"].compute()["mse"]


def test_frames_after_the_end_of_a_clip_do_not_count():
    clips = CLIPS.copy()
    state = state_of(batch_of(CLIPS))
    length = [4, 3, 4, 2]
    whole = metrics_of(state, batch_of(clips, length))
    step = jax.jit(video.train_step)
    _, before = step(state, batch_of(clips, length))
    for place, count in enumerate(length):
        clips[place, count:] = 77
    after = metrics_of(state, batch_of(clips, length))
    assert whole["forecast"].compute() == after["forecast"].compute()
    assert int(whole["forecast"].frames.count) == 2 + 1 + 2
    assert float(step(state, batch_of(clips, length))[1]["loss"]) == float(before["loss"])
    nothing = metrics_of(state, batch_of(clips, [2, 1, 2, 2]))
    with pytest.raises(UserError, match="--given"):
        nothing["forecast"].compute()


@pytest.mark.parametrize("settings, option", [({"given": 3}, "--given"), ({"augment": 2}, "--augment.frames")])
def test_clips_have_to_be_long_enough(settings, option):
    if "augment" in settings:
        settings = {"augment": replace(tiny_video().augment, frames=settings["augment"])}
    with pytest.raises(UserError, match=option):
        video.init(tiny_video(**settings), KEY, batch_of(CLIPS))


# The networks


def test_time_and_squares_fold_and_unfold():
    frames = jnp.asarray(RNG.normal(size=(6, 4, 6, 3)), jnp.float32)
    np.testing.assert_array_equal(to_pixels(to_patches(frames, 2), 2), frames)
    np.testing.assert_array_equal(to_patches(frames, 2)[1, 1, 2].reshape(2, 2, 3), frames[1, 2:4, 4:6])
    np.testing.assert_array_equal(apart(together(frames, 2), 3), frames)
    np.testing.assert_array_equal(together(frames, 2)[1, :, :, 3:6], frames[4])


def test_reading_only_true_frames_is_forecasting_one_frame_at_a_time():
    clips = RNG.uniform(size=(2, 5, 8, 6, 1)).astype(np.float32)
    given, following = clips[:, :2], clips[:, 2:]
    net = ConvLSTM(3, hidden=4, layers=2, patch=2, logits=True)
    params = jax.jit(net.init)(KEY, given)
    every = np.ones((2, 3), bool)
    told = jax.jit(net.apply)(params, given, following, every)
    one = jax.jit(ConvLSTM(1, hidden=4, layers=2, patch=2, logits=True).apply)
    for number in range(3):
        close(told[:, number : number + 1], one(params, clips[:, : 2 + number]), 1e-5)
    alone = jax.jit(net.apply)(params, given)
    close(jax.jit(net.apply)(params, given, following, ~every), alone, 1e-6)
    assert np.abs(told - alone)[:, 1:].max() > 1e-4


def test_the_share_of_true_frames_falls_over_the_run():
    config = tiny_video(architecture="convlstm", sampling=0.5)
    config = replace(config, optimizer=replace(config.optimizer, steps=8))
    shares = [float(video.true_share(config, jnp.int32(step))) for step in (0, 1, 2, 4, 8)]
    np.testing.assert_allclose(shares, [1, 0.75, 0.5, 0, 0])


# What is told and drawn


@pytest.mark.usefixtures("as_users_run_it")
def test_a_run_draws_and_forecasts_files(trained, tmp_path):
    run = trained("video")
    with Image.open(run / "pictures" / "forecast.gif") as animation:
        assert animation.n_frames == 4
    assert (run / "pictures" / "forecasts.png").is_file() and (run / "pictures" / "worst_forecasts.png").is_file()
    assert "forecast.gif" in (run / "report.html").read_text()
    frames = [Image.fromarray(RNG.integers(0, 256, (8, 8), np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "clip.png", save_all=True, append_images=frames[1:])
    out = tmp_path / "out"
    predict.main([str(run), str(tmp_path / "clip.png"), "--out", str(out)])
    with (out / "predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["frames"], row["compared"]) == ("3", "1") and float(row["mse"]) > 0
    with Image.open(out / "clip-forecast.gif") as animation:
        assert animation.n_frames == 4
    assert (out / "forecasts.png").is_file()


def test_a_clip_of_fewer_frames_than_are_given_is_forecast_but_not_compared():
    config, clips = tiny_video(given=2), CLIPS[:, :1]
    state = jax.eval_shape(partial(video.init, config), KEY, batch_of(CLIPS))
    outputs = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(video.predict, state, clips))
    assert outputs["forecast"].shape == (4, 2, 8, 8, 1)
    (row, *_) = video.rows(config, clips, {**outputs, "length": np.ones(4, np.int32)}, {})
    assert (row["frames"], row["compared"], row["mse"]) == (1, 0, "")
