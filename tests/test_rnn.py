"""Recurrent networks: their cells against flax's and plain loops, padding, and what the system reads and tells."""

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import close
from PIL import Image
from systems import at, batches, tiny_rnn

from jaxrec.cli import predict
from jaxrec.errors import UserError
from jaxrec.models.rnn import GRU, LRU, LSTM, ConvLSTM, Pooling, SequenceClassifier, diagonal, with_changes
from jaxrec.run.fit import fit
from jaxrec.run.trained import load
from jaxrec.settings import Train
from jaxrec.tasks import rnn

BATCH, TIME, UNITS = 3, 5, 4
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(BATCH, TIME, 6)).astype(np.float32)
MAPS = RNG.normal(size=(BATCH, TIME, 4, 5, 2)).astype(np.float32)
KEY = jax.random.key(0)


def with_biases(params):
    """Parameters whose biases are not the ones of the start, which hide mistakes."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32), jax.device_get(params))


def gates(values, count):
    return np.split(values, count, axis=-1)


def by_flax(cell, params, x, carry_shape):
    start = cell.initialize_carry(KEY, carry_shape)
    return jax.jit(nn.RNN(cell).apply)({"params": {"cell": params}}, x, initial_carry=start)


def first_params(layer, x=VECTORS):
    return jax.jit(layer.init)(KEY, x)["params"]


def test_gru_is_that_of_flax():
    params = with_biases(first_params(GRU(UNITS)))
    names = ("r", "z", "n")
    inputs = zip(names, gates(params["input"]["kernel"], 3), gates(params["input"]["bias"], 3), strict=True)
    theirs = {f"i{name}": {"kernel": kernel, "bias": bias} for name, kernel, bias in inputs}
    theirs |= {f"h{name}": {"kernel": kernel} for name, kernel in zip(names, gates(params["kernel"], 3), strict=True)}
    theirs["hn"]["bias"] = params["bias"]
    expected = by_flax(nn.GRUCell(UNITS), theirs, VECTORS, (BATCH, 6))
    close(jax.jit(GRU(UNITS).apply)({"params": params}, VECTORS), expected)


def test_lstm_is_that_of_flax():
    params = with_biases(first_params(LSTM(UNITS)))
    theirs = {}
    parts = (gates(params["input"]["kernel"], 4), gates(params["kernel"], 4), gates(params["bias"], 4))
    for name, into, kernel, bias in zip(("i", "f", "g", "o"), *parts, strict=True):
        theirs |= {f"i{name}": {"kernel": into}, f"h{name}": {"kernel": kernel, "bias": bias}}
    expected = by_flax(nn.OptimizedLSTMCell(UNITS), theirs, VECTORS, (BATCH, 6))
    close(jax.jit(LSTM(UNITS).apply)({"params": params}, VECTORS), expected)


def test_convlstm_is_that_of_flax():
    params = with_biases(first_params(ConvLSTM(UNITS), MAPS))

    def in_their_order(values):
        into, keep, new, out = gates(values, 4)
        return np.concatenate([into, new, keep, out], axis=-1)

    theirs = {"ih": jax.tree.map(in_their_order, params["input"])}
    theirs["ih"]["bias"] -= np.eye(4, dtype=np.float32)[2].repeat(
        UNITS
    )  # flax adds 1 to the sum of the forget gate itself
    theirs["hh"] = {"kernel": in_their_order(params["kernel"]), "bias": np.zeros(4 * UNITS, np.float32)}
    expected = by_flax(nn.ConvLSTMCell(UNITS, (3, 3)), theirs, MAPS, (BATCH, 4, 5, 2))
    close(jax.jit(ConvLSTM(UNITS).apply)({"params": params}, MAPS), expected)


def test_the_linear_recurrence_is_a_plain_loop():
    decay = 0.9 * np.exp(1j * RNG.uniform(0, 6, 6))
    inputs = VECTORS * (1 + 0.5j)
    state, expected = np.zeros((BATCH, 6), complex), []
    for step in range(TIME):
        state = decay * state + inputs[:, step]
        expected.append(state)
    found = diagonal(*(jnp.float32(part) for part in (decay.real, decay.imag, inputs.real, inputs.imag)))
    real, imaginary = map(np.asarray, found)
    np.testing.assert_allclose(real + 1j * imaginary, np.stack(expected, 1), rtol=1e-5, atol=1e-6)


def test_linear_units_start_on_the_ring():
    params = first_params(LRU(500))
    absolute = np.exp(-np.exp(params["log_rate"]))
    assert absolute.min() >= 0.5 and absolute.max() <= 0.999
    # Uniform on the ring: the squares are uniform.
    assert np.mean(absolute**2) == pytest.approx((0.5**2 + 0.999**2) / 2, abs=0.03)
    np.testing.assert_allclose(np.exp(params["log_gain"]), np.sqrt(1 - absolute**2), rtol=1e-4)


@pytest.mark.parametrize("layer, count", [(GRU(UNITS), 3), (LSTM(UNITS), 4)])
def test_recurrent_kernels_start_orthogonal_and_forget_gates_open(layer, count):
    params = first_params(layer)
    for kernel in gates(params["kernel"], count):
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(UNITS), atol=1e-5)
    if count == 4:
        np.testing.assert_array_equal(params["bias"], np.eye(4)[1].repeat(UNITS))


def test_a_normalized_lstm_does_not_see_the_scale_of_its_input():
    def change(layer):
        apply, params = jax.jit(layer.apply), {"params": first_params(layer)}
        return np.abs(apply(params, 100 * VECTORS) - apply(params, VECTORS)).max()

    assert change(LSTM(UNITS, layer_norm=True)) < 1e-3 < 0.1 < change(LSTM(UNITS))


@pytest.mark.parametrize("kind", ["mean", "last", "attention"])
def test_pooling_is_of_the_steps_that_are_there(kind):
    pool = Pooling(kind)
    params = pool.init(KEY, VECTORS, jnp.int32([TIME] * BATCH))
    length = jnp.int32([2, 2, 2])
    after = np.where(np.arange(TIME)[:, None] < 2, VECTORS, np.inf)
    apply = jax.jit(pool.apply)
    found = apply(params, after, length)
    close(found, apply(params, VECTORS[:, :2], length), 1e-6)
    if kind == "mean":
        close(found, jnp.asarray(VECTORS[:, :2].mean(1)))
    if kind == "last":
        close(found, jnp.asarray(VECTORS[:, 1]))
    # The slope at steps that are there is not lost in the infinite ones after them.
    slope = jax.jit(jax.grad(lambda x: pool.apply(params, x, length).sum()))(after)
    assert np.isfinite(slope).all() and np.abs(slope[:, 1]).max() > 0 and not slope[:, 2:].any()


@pytest.mark.parametrize("cell, pool", [("gru", "mean"), ("lstm", "last"), ("convlstm", "attention"), ("lru", "mean")])
def test_padded_clips_get_the_answer_of_unpadded_ones(cell, pool):
    net = SequenceClassifier(4, cell, layers=2, units=8, width=3, earlier=2, pool=pool, layer_norm=cell == "lstm")
    clips = RNG.normal(size=(2, 6, 9, 8, 1)).astype(np.float32)

    @jax.jit
    def answers(clips):
        params = net.init(KEY, clips, jnp.int32([6, 4]))
        return net.apply(params, clips, jnp.int32([6, 4])), net.apply(params, clips[1:, :4], jnp.int32([4]))

    padded, alone = answers(clips)
    assert np.abs(padded[0]).max() > 1e-3
    for one, other in zip(padded, alone, strict=True):
        np.testing.assert_allclose(one[1], other[0], rtol=0, atol=1e-6)


def test_the_encoder_sees_how_frames_change():
    found = with_changes(jnp.asarray(MAPS), 2)
    assert found.shape == (BATCH, TIME, 4, 5, 6)
    for step in range(TIME):
        now, before, long_before = MAPS[:, step], MAPS[:, max(step - 1, 0)], MAPS[:, max(step - 2, 0)]
        close(found[:, step], jnp.concatenate([now, now - before, now - long_before], -1))


# The system


def state_and_batch(**settings):
    config = tiny_rnn(**settings)
    batch = at(batches(config, 1, 4), 0)
    return jax.jit(partial(rnn.init, config))(KEY, batch), batch


PREDICT = jax.jit(rnn.predict)


def probabilities(state, inputs, length=None):
    return np.asarray(PREDICT(state, inputs, length)["probabilities"])


def test_a_clip_is_read_in_its_order_and_to_its_end():
    state, batch = state_and_batch()
    clips, length = batch["clip"], np.full(4, 2, np.int32)
    told = probabilities(state, clips, length)
    assert np.abs(probabilities(state, clips[:, 1::-1], length) - told).max() > 1e-4
    close(probabilities(state, clips[:, :2]), told, 1e-6)
    assert np.abs(probabilities(state, clips) - told).max() > 1e-4


def test_the_middle_frame_alone():
    state, batch = state_and_batch(sequence="frame")
    clips = np.concatenate([batch["clip"], batch["clip"][::-1]], 1)
    length = np.array([5, 5, 3, 4], np.int32)
    others = np.zeros_like(clips)
    others[[0, 1, 2, 3], [2, 2, 1, 1]] = clips[[0, 1, 2, 3], [2, 2, 1, 1]]
    close(probabilities(state, others, length), probabilities(state, clips, length), 1e-6)
    assert np.abs(probabilities(state, 0 * clips, length) - probabilities(state, clips, length)).max() > 1e-4


def test_the_control_is_the_accuracy_on_clips_that_stand_still():
    state, batch = state_and_batch(earlier=1)
    batch["clip"] = np.concatenate([batch["clip"], batch["clip"][::-1]], 1)
    batch["length"] = np.array([5, 5, 3, 4], np.int32)
    standing = batch["clip"][np.arange(4), [2, 2, 1, 1]][:, None].repeat(batch["clip"].shape[1], axis=1)
    # The answers themselves are the labels, so that both figures can be told apart.
    batch["label"] = probabilities(state, standing, batch["length"]).argmax(-1).astype(np.int32)
    batch["label"][0] = (batch["label"][0] + 1) % state.config.classes

    def figures(batch):
        found = jax.jit(rnn.eval_step)(state, batch)
        return found["classification"].compute()["accuracy"], found["standing"].compute()["frame_only_accuracy"]

    assert figures(batch)[1] == 0.75
    assert figures({**batch, "clip": standing}) == (0.75, 0.75)
    validating = state.replace(config=rnn.validation_config(state.config))
    assert jax.eval_shape(rnn.eval_step, state, batch).keys() - jax.eval_shape(rnn.eval_step, validating, batch).keys()


@pytest.mark.parametrize("sequence, steps, numbers", [("rows", 8, 16), ("pixels", 64, 2)])
def test_an_image_is_read_from_its_top(sequence, steps, numbers):
    config = rnn.Config(sequence=sequence, classes=2)
    images = np.arange(3 * 8 * 8 * 2, dtype=np.float32).reshape(3, 8, 8, 2)
    found, length = rnn._sequences(config, {"image": jnp.asarray(images)})
    np.testing.assert_array_equal(found, images.reshape(3, steps, numbers))
    np.testing.assert_array_equal(length, [steps] * 3)


@pytest.mark.parametrize(
    "option, settings",
    [
        ("--cell", {"cell": "convlstm", "sequence": "rows"}),
        ("--layer-norm", {"layer_norm": True}),
        ("--layer-norm", {"layer_norm": True, "cell": "lstm", "sequence": "pixels"}),
        ("classes", {"classes": 1}),
    ],
)
def test_settings_that_do_not_fit_are_refused(option, settings):
    with pytest.raises(UserError, match=option):
        state_and_batch(**settings)


def test_pictures_show_the_frames_that_are_there():
    state, batch = state_and_batch()
    batch["length"] = np.int32([1, 2, 3, 3])
    shown = jax.jit(rnn.artifacts)(state, batch)["predictions"]["images"]
    width = batch["clip"].shape[3]
    assert shown.shape == (4, 1, 8, 3 * width + 2, 1)
    first = batch["clip"][0, 0] / np.float32(255)
    for start in (0, width + 1, 2 * (width + 1)):
        np.testing.assert_allclose(shown[0, 0, :, start : start + width], first, rtol=1e-6)
    np.testing.assert_allclose(shown[1, 0, :, -width:], batch["clip"][1, 1] / np.float32(255), rtol=1e-6)


def test_all_frames_of_a_clip_move_alike():
    state, batch = state_and_batch(augment=replace(tiny_rnn().augment, translate=0.3, rotate=90.0))
    batch["clip"], batch["length"] = np.repeat(batch["clip"][:, :1], 3, axis=1), np.full(4, 3, np.int32)
    moved = jax.jit(partial(rnn._augmented, state.config))(KEY, batch)["clip"]
    np.testing.assert_allclose(moved[:, 1:], moved[:, :2], atol=1e-6)
    assert np.abs(moved - batch["clip"] / np.float32(255)).max() > 0.1


@pytest.mark.usefixtures("as_users_run_it")
def test_images_are_predicted_by_their_rows(trained, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "one.png")
    predict.main([str(trained("rnn")), str(tmp_path / "one.png"), "--out", str(tmp_path / "out")])
    with (tmp_path / "out" / "predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    shares = [float(row[name]) for name in map(str, range(10))]
    assert sum(shares) == pytest.approx(1, abs=1e-5) and float(row["probability"]) == max(shares)
    assert (tmp_path / "out" / "predictions.png").is_file()
    assert (trained("rnn") / "pictures" / "confusion_matrix.png").is_file()


@pytest.mark.usefixtures("as_users_run_it")
def test_files_of_clips_get_the_answers_of_arrays(tmp_path):
    """A clip is a folder of frames or an animated file; each of another length."""
    task = rnn.Config(width=2, units=4)
    clips = RNG.integers(0, 256, (12, 4, 8, 8, 1), np.uint8)
    length = np.int32([4, 2, 3] * 4)
    data = {"clip": clips, "length": length, "label": np.arange(12) % 2}
    run = fit(Train(task=task, steps=1, batch_size=8, runs=str(tmp_path)), {"train": data, "test": data}).folder
    for place, path in enumerate([tmp_path / "clips" / "one", tmp_path / "clips" / "two"]):
        path.mkdir(parents=True)
        for number, frame in enumerate(clips[place, : length[place], ..., 0]):
            Image.fromarray(frame).save(path / f"{number}.png")
    first, *others = map(Image.fromarray, clips[2, :3, ..., 0])
    first.save(tmp_path / "clips" / "three.png", save_all=True, append_images=others)
    others[0].save(tmp_path / "clips" / "still.png")
    expected = load(run).predict(clips[:3], length[:3])["probabilities"]
    paths = [tmp_path / "clips" / name for name in ("one", "two", "three.png")]
    np.testing.assert_allclose(load(run).predict(paths)["probabilities"], expected, atol=1e-6)
    with pytest.raises(UserError, match="clips"):
        load(run).predict(clips[:, 0])
    predict.main([str(run), str(tmp_path / "clips"), "--out", str(tmp_path / "out")])
    told = {}
    for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        told[Path(row["path"]).name] = list(row["probabilities"].values())
    for path, values in zip(paths, expected, strict=True):
        np.testing.assert_allclose(told[path.name], values, atol=1e-6)
    assert "still.png" in (tmp_path / "out" / "skipped.csv").read_text()
    worst = (run / "pictures" / "worst_mistakes.csv").read_text().splitlines()
    assert len(worst) == 13 and "probability" in worst[0]
