"""Semantic segmentation: what its step learns from, its metrics at native size, and what a run leaves."""

import csv
import json
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from jaxrec.cli import predict
from jaxrec.cli.train import main
from jaxrec.data import open_dataset
from jaxrec.run.evaluation import summarize
from jaxrec.settings import Augment, Optimizer, Segmenter
from jaxrec.tasks import palette, segmenter
from jaxrec.tasks.system import system_of

CONFIG = Segmenter(
    width=4, depth=2, classes=3, void=9, average=0.0, mean=(0.5,), std=(0.25,), optimizer=Optimizer(name="sgd", lr=0.1)
)


def batch(size=(12, 10), count=6, seed=0):
    """Images whose brightness tells the class of each pixel; a tenth of the pixels is void."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 3, (count, size[0] // 2, size[1] // 2)).repeat(2, 1).repeat(2, 2)
    image = (100 * mask + rng.integers(0, 50, mask.shape)).astype(np.uint8)[..., None]
    mask[rng.random(mask.shape) < 0.1] = 9
    return {"image": image, "mask": mask.astype(np.uint8)}


STEP, PREDICT, EVALUATE = jax.jit(segmenter.train_step), jax.jit(segmenter.predict), jax.jit(segmenter.eval_step)


@cache
def initializer(config):
    return jax.jit(partial(segmenter.init, config))


def start(config=CONFIG, **changes):
    return initializer(replace(config, **changes))(jax.random.key(0), batch())


def test_a_step_learns_from_the_pixels_that_count_alone():
    """What void pixels show, and which class lies under them, changes no parameter by way of the loss."""
    first = batch()
    void = first["mask"] == 9
    other = {**first, "mask": np.where(void, np.uint8(7), first["mask"])}  # no class either
    one, two = STEP(start(), first)[0], STEP(start(), other)[0]
    jax.tree.map(np.testing.assert_array_equal, one.player.params, two.player.params)
    wrong = {**first, "mask": np.where(void, np.uint8(1), first["mask"])}
    three = STEP(start(), wrong)[0]
    leaves = zip(jax.tree.leaves(one.player.params), jax.tree.leaves(three.player.params), strict=True)
    assert any((a != b).any() for a, b in leaves)


@pytest.mark.parametrize("model", ["unet", "resunet"])
def test_the_loss_falls_and_most_pixels_are_right(model):
    state = start(model=model, width=8, optimizer=Optimizer(name="momentum", lr=0.1))
    step = jax.jit(segmenter.train_step, donate_argnums=0)
    first = None
    for number in range(30):
        state, metrics = step(state, batch(seed=number))
        first = first or float(metrics["loss"])
    assert float(metrics["loss"]) < 0.7 * first
    assert float(metrics["pixel_accuracy"]) > 0.6


@pytest.mark.parametrize("views", ["one", "mirror"])
def test_metrics_are_those_of_the_predicted_pixels(views):
    state = start(views=views)
    parts = [batch(seed=seed) for seed in range(2)]
    found = summarize(EVALUATE(state, part) for part in parts)
    truth = np.concatenate([part["mask"].ravel() for part in parts])
    predicted = [np.asarray(PREDICT(state, part["image"])["classes"]).ravel() for part in parts]
    counts = truth != 9
    truth, predicted = truth[counts], np.concatenate(predicted)[counts]
    expected = jaccard_score(truth, predicted, labels=range(3), average=None, zero_division=0)
    np.testing.assert_allclose(np.nan_to_num(found["iou"]), expected, atol=1e-6)
    assert found["pixel_accuracy"] == pytest.approx((truth == predicted).mean(), abs=1e-6)


def test_views_are_the_mean_of_their_probabilities():
    state, image = start(views="mirror-scale"), batch()["image"] / np.float32(255)
    network = jax.jit(partial(state.player.model.apply, train=False))
    found = []
    for height, width in ((12, 10), (9, 8), (15, 12)):
        view = jax.image.resize(image, (6, height, width, 1), "bilinear")
        for step in (1, -1):
            inputs = (view[:, :, ::step] - np.float32(0.5)) / np.float32(0.25)
            logits = network(state.player.variables(), inputs)
            whole = jax.image.resize(logits, (6, 12, 10, 3), "bilinear")
            found.append(jax.nn.softmax(whole)[:, :, ::step])
    expected = np.mean(found, axis=0)
    np.testing.assert_allclose(PREDICT(state, image)["probabilities"], expected, atol=1e-5)


def test_padding_counts_nothing():
    state, examples = start(), batch()
    padded = {name: np.concatenate([values, values[:2]]) for name, values in examples.items()}
    real = np.arange(8) < 6
    whole = summarize([EVALUATE(state, examples)])
    same = summarize([EVALUATE(state, {**padded, "real": real})])
    np.testing.assert_array_equal(whole["confusion"], same["confusion"])
    assert whole["loss"] == pytest.approx(same["loss"], rel=1e-6)


def test_mirrored_images_have_mirrored_predictions():
    state, image = start(views="mirror"), batch()["image"]
    straight = PREDICT(state, image)["probabilities"]
    mirrored = PREDICT(state, image[:, :, ::-1])["probabilities"]
    np.testing.assert_allclose(mirrored[:, :, ::-1], straight, atol=1e-5)


@pytest.mark.parametrize("options", [{"shrink": 2}, {"model": "resunet", "stem": 4, "depth": 1}, {"depth": 3}])
def test_predictions_have_the_size_of_the_image(options):
    """Also where the network shrinks images, and where their sides are no multiples of what it halves them by."""
    state = start(**options)
    image = np.zeros((2, 13, 11, 1), np.uint8)
    found = PREDICT(state, image)
    assert found["classes"].shape == (2, 13, 11)
    np.testing.assert_allclose(found["probabilities"].sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("shrink", [1, 2])
def test_a_window_is_what_the_model_is_trained_on(shrink):
    """It is cut from the image at the scale that the network sees: a ramp is steeper if the image is shrunk."""
    seen = []

    def loss(logits, mask):
        seen.append((logits.shape[1:3], mask.shape[1:]))
        return logits.mean((1, 2, 3))

    config = replace(CONFIG, augment=Augment(window=(6, 4)), shrink=shrink)
    down, across = np.mgrid[:24, :20]
    ramp = np.broadcast_to((4 * down + 4 * across).astype(np.uint8)[..., None], (3, 24, 20, 1))
    given = {"image": ramp, "mask": np.zeros((3, 24, 20), np.uint8)}
    state = segmenter.init(config, jax.random.key(0), given, loss=loss)
    jax.eval_shape(segmenter.train_step, state, given)
    assert set(seen) == {((6, 4), (6, 4))}
    shown = 255 * np.asarray(segmenter.seen(state, given)["batch"]["images"][:, 0, :, :, 0])
    np.testing.assert_allclose(np.diff(shown, axis=1), 4 * shrink, atol=1e-3)
    np.testing.assert_allclose(np.diff(shown, axis=2), 4 * shrink, atol=1e-3)


def test_the_second_head_counts_by_its_weight():
    first = batch()
    losses = []
    for weight in (0.4, 0.8, 1.2):
        state = start(model="resunet", depth=1, auxiliary=weight)
        losses.append(float(STEP(state, first)[1]["loss"]))
    assert losses[1] - losses[0] > 0.1
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)


def test_class_weights_follow_from_the_training_masks():
    features = open_dataset("scenes", reads=segmenter.READS).features
    counts = np.array([1000, *[100] * 10])
    facts = segmenter.Facts(features, lambda name: ((0.5,), (0.2,)), lambda name: counts)
    config = segmenter.complete(Segmenter(class_weights="inverse"), facts)
    assert config.classes == 11
    assert config.weights[1] == pytest.approx(10 * config.weights[0], rel=1e-5)
    assert segmenter.complete(Segmenter(), facts).weights == ()


def test_colors_of_classes_differ():
    colors = {tuple(color) for color in palette.PALETTE.tolist()}
    assert len(colors) == 256
    shown = np.asarray(palette.colors(jnp.array([[0, 1], [2, 3]]), jnp.array([[True, True], [True, False]])))
    assert (shown[1, 1] == 0).all()
    assert len({tuple(color) for color in shown.reshape(-1, 3).tolist()}) == 4


def test_what_a_system_says_of_itself():
    system = system_of(CONFIG)
    assert (system.dataset, system.score.name, system.score.lower) == ("scenes", "miou", False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on scenes."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setenv("JAXREC_CACHE", str(runs / "cache"))
        options = ["--model", "unet", "--width", "4", "--depth", "2", "--batch-size", "32", "--steps", "12"]
        options += ["--log-every", "4", "--eval-every", "6", "--no-tune-allocator", "--train-split", "train[:400]"]
        options += ["--test-split", "test[:64]"]
        assert main([*options, "--runs", str(runs), "--name", "unet"]) == 0
        yield runs / "unet"


@pytest.mark.slow
def test_a_run_leaves_what_a_person_and_a_program_need(run):
    results = json.loads((run / "results.json").read_text())
    assert len(results["iou"]) == 11
    assert results["miou"] == pytest.approx(np.nanmean(np.array(results["iou"], float)), abs=1e-9)
    assert {"pixel_accuracy", "dice", "frequency_weighted_iou"} <= results.keys()
    page = (run / "report.html").read_text()
    assert f"miou {results['miou']:.4g}" in page
    assert "true classes, the predicted classes" in page
    names = {path.name for path in (run / "pictures").iterdir()}
    assert {"segmentation.png", "confusion_of_pixels.png"} <= names


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run_it")
def test_predict_writes_masks_overlays_and_shares(run, tmp_path):
    example = open_dataset("scenes", reads=segmenter.READS).splits["test"].read(np.arange(2))
    for number, image in enumerate(example["image"]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"scene{number}.png")
    (tmp_path / "more").mkdir()
    Image.fromarray(example["image"][1, ..., 0]).save(tmp_path / "more" / "scene0.png")
    predict.main([str(run), str(tmp_path), "--out", str(tmp_path / "out")])
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    drawn = [json.loads(line)["pictures"] for line in lines]
    assert len({name for names in drawn for name in names}) == 6
    assert all((tmp_path / "out" / name).exists() for names in drawn for name in names)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    (place,) = [n for n, row in enumerate(rows) if row["path"] == str(tmp_path / "scene0.png")]
    first = drawn[place][0]
    with Image.open(tmp_path / "out" / first) as picture:
        mode, mask = picture.mode, np.asarray(picture)
    assert mask.shape == (64, 64)
    assert mode == "P"
    shares = [float(rows[place][name]) for name in ("background", *"0123456789")]
    np.testing.assert_allclose(shares, np.bincount(mask.ravel(), minlength=11) / mask.size, atol=1e-6)
    with Image.open(tmp_path / "out" / drawn[place][1]) as picture:
        assert picture.mode == "RGB"


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run_it")
def test_masks_and_overlays_have_the_photos_size(run, tmp_path, capsys):
    photo = np.random.default_rng(0).integers(0, 256, (40, 100), np.uint8)
    Image.fromarray(photo).save(tmp_path / "wide.png")
    predict.main([str(run), str(tmp_path / "wide.png"), "--out", str(tmp_path / "out")])
    assert "1 of 1 images" in capsys.readouterr().out
    mask = np.asarray(Image.open(tmp_path / "out" / "wide-mask.png"))
    laid_over = np.asarray(Image.open(tmp_path / "out" / "wide-overlay.png"))
    assert mask.shape == (40, 100) and laid_over.shape == (40, 100, 3)
    # A square in the middle was seen; what the crop left out is void, and the photo itself in the overlay.
    assert (mask[:, :30] == 255).all() and (mask[:, 70:] == 255).all() and (mask[:, 30:70] <= 10).all()
    np.testing.assert_array_equal(laid_over[:, :30, 0], photo[:, :30])
    assert (laid_over[:, 30:70, 0] != photo[:, 30:70]).any()
