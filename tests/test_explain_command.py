"""`jaxrec explain`, and what each system says is to be explained."""

from functools import partial
from types import SimpleNamespace
from typing import get_args

import jax
import numpy as np
import pytest
from PIL import Image
from systems import ROWS, at, batches

from jaxrec.after.explain import METHODS
from jaxrec.after.explain.cam import map_layer
from jaxrec.cli import explain
from jaxrec.data import Feature
from jaxrec.errors import UserError
from jaxrec.run.explained import Explained, true_regions
from jaxrec.run.trained import load
from jaxrec.tasks.answers import log_odds
from jaxrec.tasks.system import system_of

pytestmark = [pytest.mark.usefixtures("as_users_run_it")]


def test_the_command_knows_every_method():
    assert get_args(explain.Method) == tuple(METHODS)


def test_integrated_gradients_add_up_and_files_are_explained_as_their_split_is(trained, tmp_path):
    run = trained("cnn")
    given = [str(run), "--method", "integrated-gradients", "grad-cam", "--class", "3"]
    explain.main([*given, "--split", "test[:3]", "--out", str(tmp_path / "split")])
    found = dict(np.load(tmp_path / "split" / "explanations.npz"))
    opened = load(run)
    images = opened.open_data("test[:3]").test.read(np.arange(3))["image"]
    probability = opened.predict(np.concatenate([images, 0 * images]))["probabilities"][:, 3]
    odds = np.log(probability / (1 - probability))
    np.testing.assert_allclose(found["score"], odds[:3], rtol=1e-3, atol=1e-3)
    gained = odds[:3] - odds[3:]
    np.testing.assert_allclose(found["integrated-gradients"].sum((1, 2)), gained, rtol=0.01, atol=0.01)
    assert (found["grad-cam"] >= 0).all()
    for number, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{number}.png")
    explain.main([*given, *(str(tmp_path / f"{number}.png") for number in range(3)), "--out", str(tmp_path / "files")])
    again = dict(np.load(tmp_path / "files" / "explanations.npz"))
    np.testing.assert_allclose(again["grad-cam"], found["grad-cam"], rtol=1e-4, atol=1e-6)
    page = (tmp_path / "files" / "explained.html").read_text()
    assert page.count("<img") == 3 and (tmp_path / "files" / "2-explained.png").is_file()


def test_masks_tell_whether_explanations_point_at_objects():
    mask = np.zeros((2, 4, 4), np.uint8)
    mask[:, 1:3, 1:3] = 1
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 1, 1], maps[1, 0, 0], maps[1, 2, 2] = 1, 3, 1
    explainer = SimpleNamespace(trained=SimpleNamespace(features={"mask": Feature("mask", (4, 4), "uint8")}))
    found = Explained({"class": np.array([1, 1])}, np.zeros(2), {"rise": maps})
    measured = explain.measured(explainer, explain.Part(["0", "1"], (), {"mask": mask}), found)
    np.testing.assert_allclose(measured["rise"], [[1, 1], [0, 0.25]])
    assert explain.summary(measured)[1] == ["rise", "2", "50.0%", "62.5%"]
    # Of a class that is nowhere, nothing is to be found.
    found.target["class"][:] = 2
    assert explain.summary(explain.measured(explainer, explain.Part(["0", "1"], (), {"mask": mask}), found)) == []


def test_what_cannot_be_explained_is_refused(trained, tmp_path):
    run = str(trained("rnn"))
    with pytest.raises(UserError, match="grad-cam"):
        explain.main([run, "--split", "test[:2]", "--method", "grad-cam", "--out", str(tmp_path)])
    with pytest.raises(UserError, match="--class 'ten'"):
        explain.main([run, "--split", "test[:2]", "--class", "ten"])
    with pytest.raises(UserError, match="--split"):
        explain.main([run])
    with pytest.raises(UserError, match="autoencoder"):
        explain.main([str(trained("autoencoder")), "--split", "test[:2]"])
    assert not (tmp_path / "explanations.npz").exists()


def started(name):
    """A system of the table of rows, its state before training, and a batch."""
    config = ROWS[name].config
    system, batch = system_of(config), at(batches(config, 1, 6), 0)
    return system, jax.jit(partial(system.init, config))(jax.random.key(0), batch), batch


def test_a_box_is_found_again_with_its_own_score():
    system, state, batch = started("detector")
    outputs = jax.device_get(jax.jit(system.predict)(state, batch["image"]))
    config = state.config.__class__(**{**vars(state.config), "score": 0.0})
    target = system.targets(config, outputs, None)
    np.testing.assert_array_equal(target["box"], outputs["boxes"][:, 0])
    score = jax.jit(system.explained)(state, batch["image"], target)
    assert (score >= outputs["scores"][:, 0] - 1e-5).all()
    wanted = system.targets(config, outputs, 2)
    assert set(wanted["class"].tolist()) <= {2, -1}
    none = system.targets(state.config, {**outputs, "classes": np.full_like(outputs["classes"], -1)}, None)
    assert (none["class"] == -1).all()


def test_a_segmenter_is_asked_about_its_largest_class_after_the_first():
    system, state, batch = started("unet")
    outputs = jax.device_get(jax.jit(system.predict)(state, batch["image"]))
    classes = np.zeros((1, 8, 8), np.int32)
    classes[0, :2], classes[0, 3, :5] = 3, 1
    target = system.targets(state.config, {"classes": classes}, None)
    assert target["class"].tolist() == [3] and target["where"].sum() == 16
    assert system.targets(state.config, {"classes": classes}, 2)["class"].tolist() == [-1]
    target = system.targets(state.config, outputs, int(outputs["classes"][0, 0, 0]))
    probability = outputs["probabilities"][0, ..., target["class"][0]][target["where"][0]]
    expected = np.log(probability / (1 - probability)).mean()
    np.testing.assert_allclose(jax.jit(system.explained)(state, batch["image"], target)[0], expected, rtol=1e-3)


def test_frames_after_a_clips_end_have_no_part():
    system, state, batch = started("gru of clips")
    target = system.targets(
        state.config, jax.device_get(jax.jit(system.predict)(state, batch["clip"], batch["length"])), None
    )

    def score(clips):
        return system.explained(state, clips, target, batch["length"]).sum()

    slopes = jax.jit(jax.grad(score))(batch["clip"].astype(np.float32) / 255)
    there = np.arange(slopes.shape[1]) < batch["length"][:, None]
    strength = np.abs(slopes).sum((2, 3, 4))
    assert (strength[~there] == 0).all() and (strength[there] > 0).any()


def test_log_odds_are_those_of_the_probability():
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    number = np.array([0, 1, 2, 3, 3], np.int32)
    probability = np.asarray(jax.nn.softmax(logits))[np.arange(5), number]
    np.testing.assert_allclose(log_odds(logits, number), np.log(probability / (1 - probability)), rtol=1e-4)


def test_true_regions_are_the_boxes_or_pixels_of_the_class():
    features = {
        "image": Feature("image", (4, 6, 1), "uint8"),
        "boxes": Feature("boxes", (2, 4), "float32"),
        "label": Feature("box_classes", (2,), "int32"),
    }
    boxes = np.array([[[0, 0, 2, 3], [1, 4, 4, 6]]], np.float32)
    examples = {"image": np.zeros((1, 4, 6, 1)), "boxes": boxes, "label": np.array([[1, 2]])}
    region = true_regions(features, examples, np.array([2]))
    expected = np.zeros((4, 6), bool)
    expected[1:, 4:] = True
    np.testing.assert_array_equal(region[0], expected)
    mask = {"mask": Feature("mask", (4, 6), "uint8")}
    assert true_regions(mask, {"mask": np.eye(4, 6, dtype=np.uint8)[None]}, np.array([1])).sum() == 4
    assert true_regions({}, {}, np.array([1])) is None


@pytest.mark.parametrize("name", ["unet", "resunet", "cnn", "vit"])
def test_grad_cam_has_maps_of_every_kind_of_network(name):
    system, state, batch = started(name)
    target = {"class": np.ones(1, np.int32), "where": np.ones((1, 8, 8), bool)}

    def score(images):
        return system.explained(state, images, target)

    image = jax.numpy.asarray(batch["image"][0], jax.numpy.float32) / 255
    layer = map_layer(score, image)
    assert layer.marked == (name != "vit")
    assert layer.size[0] * layer.size[1] > 1
