"""Translations of images: what pairs are made of, metrics, the pool, and what is learned, told and drawn."""

import csv
import json
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import close, small
from PIL import Image
from systems import tiny_translator

from jaxrec.augment.made_pairs import MADE
from jaxrec.cli import predict
from jaxrec.cli.train import main
from jaxrec.data import Feature, Split
from jaxrec.data.splits import from_arrays
from jaxrec.errors import UserError
from jaxrec.metrics import Translation, ssim
from jaxrec.models.translator import Generator
from jaxrec.parallel import stream
from jaxrec.run import answers, reader
from jaxrec.run.data import open_data
from jaxrec.run.reader import VOID, Labels, find_labels
from jaxrec.run.teachers import teacher
from jaxrec.run.trained import load
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Train
from jaxrec.tasks import translator
from jaxrec.tasks.state import State
from jaxrec.tasks.system import Facts, system_of
from jaxrec.tasks.translator import cycle, discriminator, generator, passes, training
from jaxrec.tasks.translator.pairs import augmented

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 8, 8, 1), np.uint8)
COLORS = RNG.integers(0, 256, (6, 8, 8, 3), np.uint8)
INIT = jax.jit(translator.init, static_argnums=0)
STEP = jax.jit(translator.train_step)


# Made pairs


@pytest.mark.parametrize("kind", MADE)
def test_what_pairs_are_made_of_is_an_image_and_concerns_each_alone(kind):
    images = RNG.uniform(size=(3, 12, 10, 3)).astype(np.float32)
    made = np.asarray(MADE[kind](jnp.asarray(images)))
    assert made.shape == (3, 12, 10, 1 if kind in ("grey", "edges") else 3) and made.dtype == np.float32
    assert made.min() >= 0 and made.max() <= 1 + 1e-6
    np.testing.assert_allclose(made[1:2], MADE[kind](jnp.asarray(images[1:2])), atol=1e-6)
    flat = jnp.full((1, 12, 10, 3), 0.25)
    expected = {"edges": 0.0, "negative": 0.75}.get(kind, 0.25)
    border = np.asarray(MADE[kind](flat))[:, :2]
    np.testing.assert_allclose(border, expected, atol=1e-6)


def test_edges_are_half_of_sobels_gradient_of_a_ramp():
    ramp = jnp.broadcast_to(jnp.arange(10, dtype=jnp.float32)[None, None, :, None] / 40, (1, 8, 10, 1))
    np.testing.assert_allclose(MADE["edges"](ramp)[:, :, 1:-1], 2 * 4 / 40 / 2, rtol=1e-5)


def test_the_middle_is_hidden_and_nothing_else():
    images = jnp.asarray(RNG.uniform(size=(2, 8, 12, 3)), jnp.float32)
    made = np.array(MADE["inpaint"](images))
    assert (made[:, 2:6, 3:9] == 0.5).all()
    made[:, 2:6, 3:9] = images[:, 2:6, 3:9]
    np.testing.assert_array_equal(made, images)


def test_squares_of_one_value_keep_it_in_their_middle():
    squares = RNG.uniform(size=(1, 4, 4, 1)).astype(np.float32)
    images = jnp.asarray(squares.repeat(4, 1).repeat(4, 2))
    made = np.asarray(MADE["superres"](images))
    # Between the two middle pixels of a square the line through the means has the square's value.
    middles = made.reshape(1, 4, 4, 4, 4, 1)[:, :, 1:3, :, 1:3].mean((2, 4))
    np.testing.assert_allclose(middles[:, 1:3, 1:3], squares[:, 1:3, 1:3], atol=0.1)


def test_the_usual_pairs_follow_from_the_features():
    def usual(**channels):
        features = {name: Feature("image", (8, 8, count), "uint8") for name, count in channels.items()}
        return translator.complete(tiny_translator(), Facts(features, None, None)).pairs

    assert usual(image=3) == "grey" and usual(image=1) == "inpaint" and usual(image=1, target=3) == "own"


# Metrics


def test_metrics_are_those_of_numpy_pooled_and_per_image():
    made, target = RNG.uniform(size=(2, 4, 12, 13, 3)).astype(np.float32)
    real = np.array([True, True, True, False])
    found = jax.device_get(jax.jit(Translation.from_batch)({"": made, "copy_": target}, target, real)).compute()
    errors = (made - target)[:3].astype(np.float64)
    squares = (errors**2).mean((1, 2, 3))
    assert found["l1"] == pytest.approx(abs(errors).mean(), rel=1e-5)
    assert found["psnr_pooled"] == pytest.approx(-10 * np.log10(squares.mean()), rel=1e-5)
    assert found["psnr_per_image"] == pytest.approx(-10 * np.log10(squares).mean(), rel=1e-5)
    assert found["ssim"] == pytest.approx(float(ssim(jnp.asarray(made[:3]), jnp.asarray(target[:3])).mean()), rel=1e-5)
    assert (found["copy_l1"], found["copy_psnr_pooled"], found["copy_ssim"]) == pytest.approx((0, 100, 1))


def test_the_mean_of_the_targets_is_that_of_all_steps():
    config = tiny_translator(game="none", pairs="own")
    state = INIT(config, KEY, {"image": IMAGES, "target": COLORS})
    for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
        state, _ = STEP(state, {"image": IMAGES[part], "target": COLORS[part]})
    batch = {"image": IMAGES, "target": COLORS}
    found = jax.device_get(jax.jit(translator.eval_step)(state, batch))["translation"].compute()
    mean = COLORS.mean(0, keepdims=True) / 255
    assert found["mean_l1"] == pytest.approx(abs(COLORS / 255 - mean).mean(), rel=1e-4)
    copy = np.broadcast_to(IMAGES / 255, COLORS.shape)
    assert found["copy_l1"] == pytest.approx(abs(COLORS / 255 - copy).mean(), rel=1e-4)


# The pool


def test_a_pool_fills_then_gives_back_about_half_of_what_it_gets():
    images = jnp.arange(1, 25, dtype=jnp.float32).reshape(24, 1, 1, 1)
    pool, filled, given = jnp.zeros((4, 1, 1, 1)), 0, []
    for number in range(12):
        part = images[2 * number : 2 * number + 2]
        shown, pool = translator.exchanged(jax.random.key(number), pool, jnp.int32(filled), part)
        filled = min(4, filled + 2)
        given += shown.ravel().tolist()
        if number < 2:
            np.testing.assert_array_equal(shown, part)
    # Nothing is lost: each image was shown or still lies in the pool, and the first four were shown when they came.
    assert sorted({*given, *pool.ravel().tolist()}) == list(range(1, 25))
    old = sum(value not in (2 * (place // 2) + 1, 2 * (place // 2) + 2) for place, value in enumerate(given))
    assert 4 <= old <= 16


@pytest.mark.parametrize("unpaired", [True, False])
def test_discriminators_are_shown_what_each_way_translates(monkeypatch, unpaired):
    """One way adds 3, the other halves."""

    def run(model, way, params, stats, images, key):
        return (images + 3 if way == "there" else images / 2), stats

    monkeypatch.setattr(passes, "run", run)
    generator = SimpleNamespace(model=translator.Ways(None, None), params=None, stats=None)
    pool = jnp.zeros((4, 1, 1, 1))
    extra = {"there": pool, "back": pool, "filled": jnp.int32(1)} if unpaired else {}
    config = tiny_translator(unpaired=unpaired, pool=4)
    state = SimpleNamespace(config=config, players={"generator": generator}, extra=extra, key=KEY, step=jnp.int32(0))
    examples = {
        "input": jnp.array([5.0, 6.0]).reshape(2, 1, 1, 1),
        "target": jnp.array([20.0, 30.0]).reshape(2, 1, 1, 1),
    }
    answers, _ = passes.answers(config, passes.translating(state, None, KEY, None), None, examples)
    shown, extra = discriminator.shown(state, examples, answers, None)
    found = {name: images.ravel().tolist() for name, images in shown.items()}
    there = {"real there": [20, 30], "fake there": [8, 9]}
    if not unpaired:
        assert found == {**there, "given": [5, 6]} and extra == {}
        return
    assert found == {**there, "real back": [5, 6], "fake back": [10, 15]}
    assert int(extra["filled"]) == 3
    assert extra["there"].ravel().tolist() == [0, 8, 9, 0] and extra["back"].ravel().tolist() == [0, 10, 15, 0]


# What is learned


def test_terms_of_the_loss_add_up_by_their_weights():
    config = tiny_translator(
        pairs="grey", pixel=3.0, adversarial=2.0, matching=0.5, perceptual=4.0, discriminator_lr=0.0
    )
    model = (lambda key, images: {"scale": jnp.ones(3)}, lambda params, images: (images @ params["scale"]).mean((1, 2)))
    init = jax.jit(partial(translator.init, config, judge=(model, {"params": {"scale": jnp.ones(3)}})))
    state = init(KEY, {"image": COLORS})
    after, metrics = STEP(state, {"image": COLORS})
    names = {"pixel": "pixel_error", "adversarial": "generator_loss", "matching": "matching_error"}
    names["perceptual"] = "perceptual_error"
    total = sum(getattr(config, weight) * float(metrics[name]) for weight, name in names.items())
    assert float(metrics["loss"]) == pytest.approx(total, rel=1e-5)
    assert all(float(metrics[name]) > 0 for name in names.values())
    np.testing.assert_array_equal(after.extra["judge"].params["scale"], np.ones(3))
    before = state.players["discriminator"].params
    jax.tree.map(np.testing.assert_array_equal, after.players["discriminator"].params, before)


def test_terms_of_the_unpaired_loss_add_up_by_their_weights():
    config = tiny_translator(pairs="negative", unpaired=True, adversarial=3.0, cycle=7.0, identity=2.0)
    _, metrics = STEP(INIT(config, KEY, {"image": IMAGES}), {"image": IMAGES})
    names = {"adversarial": "generator_loss", "cycle": "cycle_error", "identity": "identity_error"}
    total = sum(getattr(config, weight) * float(metrics[name]) for weight, name in names.items())
    assert float(metrics["loss"]) == pytest.approx(total, rel=1e-5)
    assert all(float(metrics[name]) > 0 for name in names.values())


def test_cycles_lead_back_and_images_of_the_target_stay(monkeypatch):
    """One way adds 3, the other halves; each discriminator is asked of what it has to judge."""
    asked = []

    def judged(state, way, images, given):
        asked.append((way, float(images.mean())))
        return images.mean((1, 2, 3)), []

    def run(way, stats, images):
        return (images + 3 if way == "there" else images / 2), stats

    monkeypatch.setattr(cycle, "judged", judged)
    state = SimpleNamespace(config=tiny_translator(unpaired=True, game="wasserstein"))
    examples = {"input": jnp.full((1, 2, 2, 1), 5.0), "target": jnp.full((1, 2, 2, 1), 20.0)}
    answers = {"there": examples["input"] + 3, "back": examples["target"] / 2}
    terms, _ = cycle.cycle_terms(state, run, None, examples, answers)
    # There 5 becomes 8, and back again 4; back 20 becomes 10, and there again 13.
    assert terms["cycle"] == abs(4 - 5) + abs(13 - 20)
    assert terms["identity"] == 3 + 2.5
    assert terms["adversarial"] == -8 - 10
    assert sorted(asked) == [("back", 5.0), ("back", 10.0), ("there", 8.0), ("there", 20.0)]


def test_penalties_are_on_the_gradient_of_the_mean_patch():
    """A linear score has one gradient everywhere: 2 at each of 16 pixels, over 4 patches."""
    real, fake = jnp.zeros((3, 4, 4, 1)), jnp.ones((3, 4, 4, 1))

    def run(images, given):
        return (2 * images.reshape(3, 2, 2, 2, 2).sum((2, 4)), []), None

    gradient = 16 * (2 / 4) ** 2
    found = discriminator.penalty({"r1": jnp.float32(3)}, run, real, fake, None, KEY)
    assert float(found) == pytest.approx(3 / 2 * gradient)
    found = discriminator.penalty({"gradient_penalty": jnp.float32(5)}, run, real, fake, None, KEY)
    assert float(found) == pytest.approx(5 * (np.sqrt(gradient) - 1) ** 2)


def test_an_added_input_is_what_an_empty_generator_answers():
    images = jnp.asarray(RNG.uniform(size=(2, 4, 4, 1)), jnp.float32)
    model = Generator(3, width=2, depth=1, norm="group", add=True)
    shapes = jax.eval_shape(model.init, KEY, images)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), images.repeat(3, -1), atol=1e-6)


@pytest.mark.parametrize("size", [5, 6])
def test_unpaired_no_image_stays_beside_its_partner(monkeypatch, size):
    found = {}

    def turn(state, examples, *rest):
        found.update(examples)
        return state, {}

    made = SimpleNamespace(outputs={})
    monkeypatch.setattr(training, "answered", lambda *arguments: made)
    monkeypatch.setattr(training, "shown", lambda *arguments: ({}, {}))
    monkeypatch.setattr(training, "discriminator_turn", turn)
    monkeypatch.setattr(training, "generator_turn", turn)
    monkeypatch.setattr(training, "_with_mean", lambda state, mean: state)
    config = tiny_translator(pairs="own", unpaired=True)
    state = State(step=jnp.int32(0), key=KEY, hyper={}, players={}, config=config)
    translator.train_step(state, {"image": IMAGES[:size], "other": IMAGES[:size]})
    inputs, targets = np.asarray(found["input"]), np.asarray(found["target"])
    assert not (inputs == targets).all((1, 2, 3)).any()
    assert sorted(inputs.sum((1, 2, 3))) == sorted(targets.sum((1, 2, 3)))


def test_a_pass_that_both_players_see_is_learned_from_as_if_it_were_made_anew(monkeypatch):
    config = tiny_translator(pairs="negative", unpaired=True, dropout=0.2)
    batch = {"image": IMAGES}
    state = INIT(config, KEY, batch)
    together = jax.device_get(STEP(state, batch))

    def again(made, params, axis_name):
        inputs, targets = augmented(config, KEY, batch)
        inputs = jnp.roll(inputs, 1, axis=0)
        stats = state.players["generator"].stats
        key = stream(state.key, "generator", state.step)
        run = passes.translating(state, params, key, None)
        return passes.answers(config, run, stats, {"input": inputs, "target": targets})[0]

    monkeypatch.setattr(generator, "recalled", again)
    apart = jax.device_get(jax.jit(lambda *arguments: translator.train_step(*arguments))(state, batch))
    for name in ("generator", "discriminator"):
        for part in ("params", "stats"):
            close(getattr(together[0].players[name], part), getattr(apart[0].players[name], part))
    close(together[1], apart[1])


def test_unpaired_images_are_learned_from_in_any_order():
    batch = {"image": IMAGES, "other": 255 - IMAGES}
    config = tiny_translator(pairs="own", unpaired=True, pool=0, identity=0.0)
    state = INIT(config, KEY, batch)
    one, other = (
        STEP(state, {"image": IMAGES, "other": images})[1] for images in (batch["other"], batch["other"][::-1])
    )
    for name, value in one.items():
        assert float(value) == pytest.approx(float(other[name]), rel=1e-4), name


@pytest.mark.parametrize(
    "settings, option",
    [
        ({"game": "none", "unpaired": True}, "--unpaired"),
        ({"game": "none", "matching": 1.0}, "--matching"),
        ({"perceptual": 1.0, "unpaired": True}, "--perceptual"),
        ({"perceptual_run": "runs/a"}, "--perceptual-run"),
    ],
)
def test_settings_that_contradict_each_other(settings, option):
    with pytest.raises(UserError, match=option):
        translator.init(tiny_translator(pairs="negative", **settings), KEY, {"image": IMAGES})
    with pytest.raises(UserError, match="8x8 and 8x7"):
        translator.init(tiny_translator(pairs="own"), KEY, {"image": IMAGES, "target": IMAGES[:, :, 1:]})


# What is told and drawn


@pytest.mark.usefixtures("as_users_run_it")
def test_a_run_is_measured_beside_copies_and_translates_files(trained, tmp_path):
    run = trained("translator")
    results = json.loads((run / "results.json").read_text())
    judged = {"class_consistency", "real_class_consistency", "frechet_distance", "copy_frechet_distance"}
    assert judged | {"frechet_distance_train_test", "kernel_distance", "psnr_pooled", "mean_ssim"} <= results.keys()
    assert results["judge"].startswith("judge-") and results["judged"] == 360
    assert results.keys() - {"split", "examples", "step", "worst"} <= translator.MEANINGS.keys()
    with Image.open(run / "pictures" / "translations.png") as picture:
        assert picture.height > 2 * picture.width / 8
    Image.fromarray(IMAGES[0, ..., 0]).save(tmp_path / "one.png")
    out = tmp_path / "out"
    predict.main([str(run), str(tmp_path / "one.png"), "--out", str(out)])
    with (out / "predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {"l1", "psnr_per_image", "ssim"} <= row.keys() and float(row["l1"]) > 0
    with Image.open(out / "one-translation.png") as picture:
        assert picture.mode in ("RGB", "L")
    assert (out / "translations.png").is_file()


@pytest.mark.usefixtures("as_users_run_it", "own_cache")
def test_a_command_trains_the_judge_that_is_learned_from(tmp_path):
    assert (
        main(small("translator", "--perceptual", 1, "--steps", 2, "--eval-every", 2, "--runs", tmp_path, "--name", "a"))
        == 0
    )
    state = load(tmp_path / "a", Devices("data=1")).state
    assert "judge" not in state.extra
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    errors = [row["perceptual_error"] for row in rows if "perceptual_error" in row]
    assert errors and all(error > 0 for error in errors)


@pytest.mark.usefixtures("as_users_run_it")
def test_the_features_of_a_trained_run_are_those_that_it_predicts(trained):
    run = trained("cnn")
    config = tiny_translator(pairs="inpaint", perceptual=1.0, perceptual_run=str(run))
    system = system_of(config)
    data = open_data(Train(task=config), system)
    batch = data.train.read(np.arange(4))
    init = jax.jit(partial(translator.init, config, judge=teacher(config, system, data)))
    targets, answers = batch["image"] / np.float32(255), np.float32(RNG.uniform(size=batch["image"].shape))
    one, other = (load(run).predict(images)["features"] for images in (answers, targets))
    expected = np.square(one - other).mean() / np.square(other).mean()
    found = jax.jit(translator.perceptual_error)(init(KEY, batch).extra["judge"], answers, targets)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match="translator"):
        teacher(tiny_translator(perceptual=1.0, perceptual_run=str(trained("translator"))), system, data)
    with pytest.raises(UserError, match=r"8x8x1.*16x16x1"):
        teacher(config, system, open_data(Train(task=config, image_size=16), system))


def test_unpaired_the_best_checkpoint_is_not_chosen_by_the_players_losses():
    """Those of the generators fall if a discriminator gets worse."""
    config = tiny_translator(pairs="negative", unpaired=True)
    score = system_of(config).score.name
    state = INIT(config, KEY, {"image": IMAGES})

    def measured(state):
        metrics = jax.device_get(jax.jit(translator.eval_step)(state, {"image": IMAGES}))
        return {name: value for metric in metrics.values() for name, value in metric.compute().items()}

    player = state.players["discriminator"]
    worse = player.replace(params=jax.tree.map(lambda x: x + 1, player.params))
    before, after = measured(state), measured(state.replace(players={**state.players, "discriminator": worse}))
    assert before["loss"] != after["loss"] and before[score] == after[score]
    assert system_of(tiny_translator()).score.name == "loss"


def test_of_images_without_targets_nothing_is_compared():
    config = tiny_translator(pairs="own")
    state = jax.eval_shape(partial(translator.init, config), KEY, {"image": IMAGES, "target": COLORS})
    shapes = jax.eval_shape(translator.predict, state, IMAGES)
    outputs = {name: np.zeros(each.shape, each.dtype) for name, each in shapes.items()}
    assert outputs.keys() == {"image"} and outputs["image"].shape == COLORS.shape
    assert len(translator.rows(config, IMAGES, outputs, {})) == len(IMAGES)
    assert translator.sheet(config, IMAGES, outputs, {})["translations"]["images"].shape == (2, 6, 8, 8, 3)


def test_labels_are_few_colors_and_what_lies_between_two_is_void():
    rng = np.random.default_rng(0)
    colors = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 255]], np.uint8)
    numbers = rng.integers(0, 3, (20, 2, 2)).repeat(8, 1).repeat(8, 2)
    maps = colors[numbers]
    maps[:, :, 7] = [100, 0, 0]
    photos = rng.integers(0, 256, maps.shape, np.uint8)

    def data_of(**images):
        features = {name: Feature("image", values.shape[1:], "uint8") for name, values in images.items()}
        split = Split(from_arrays(images), np.arange(20), features)
        return SimpleNamespace(dataset=SimpleNamespace(features=features), train=split)

    labels = find_labels(data_of(image=maps, target=photos))
    assert labels.colors[np.lexsort(labels.colors.T)].tolist() == colors[np.lexsort(colors.T)].tolist()
    known = Labels(colors).numbers(maps)
    assert (known[:, :, 7] == VOID).all()
    np.testing.assert_array_equal(known[:, :, 8:], numbers[:, :, 8:])
    assert find_labels(data_of(image=photos, target=maps)) is None and find_labels(data_of(image=maps)) is None


def split_of(**arrays):
    """A split of arrays of images and classes."""
    features = {}
    for name, values in arrays.items():
        features[name] = Feature("image" if values.ndim == 4 else "class", values.shape[1:], str(values.dtype))
    return Split(from_arrays(arrays), np.arange(len(next(iter(arrays.values())))), features)


@jax.tree_util.register_static
class Nothing:
    """A state without arrays."""

    config = None


@pytest.mark.parametrize("answer, accuracy", [("truth", 1.0), ("elsewhere", 0.0)])
def test_what_a_reader_reads_is_held_against_the_label_maps(monkeypatch, answer, accuracy):
    """The label of a pixel is told from its brightness; the mean photo is of one brightness, that of one label."""
    numbers = np.array([0, 1, 2, 1, 1])[:, None, None].repeat(16, 1).repeat(16, 2)
    maps = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 255]], np.uint8)[numbers]
    photos = (100 * numbers).astype(np.uint8)[..., None].repeat(3, -1)
    split = split_of(image=maps, target=photos)
    data = SimpleNamespace(dataset=SimpleNamespace(features=split.features), train=split, test=split)

    def predict(state, images):
        red, blue = images[..., 0] > 0, images[..., 2] > 0
        number = jnp.where(red, 1, jnp.where(blue, 2, 0))
        number = number if answer == "truth" else (number + 1) % 3
        return {"image": jnp.broadcast_to(number[..., None] * 100 / 255, images.shape)}

    def told(network, images):
        # Found labels are in the order of their colors: black, blue, red.
        order = jnp.array([0, 2, 1])[jnp.round(images[..., 0] / 100).astype(int)]
        return {"probabilities": jax.nn.one_hot(order, 3)}

    monkeypatch.setattr(reader, "_trained_reader", lambda *_: (Nothing(), "reader"))
    monkeypatch.setattr(reader, "system_of", lambda _: SimpleNamespace(predict=told))
    found = reader.read_answers(SimpleNamespace(predict=predict), Nothing(), data)
    assert (found["reader_miou"], found["reader_pixel_accuracy"]) == (accuracy, accuracy)
    assert (found["real_reader_miou"], found["real_reader_pixel_accuracy"]) == (1, 1)
    assert found["mean_reader_pixel_accuracy"] == pytest.approx(3 / 5)


def test_a_judge_sees_answers_and_the_inputs_that_they_were_made_of():
    inputs = RNG.integers(0, 256, (6, 4, 4, 1), np.uint8)
    split = split_of(image=inputs, target=RNG.integers(0, 256, (6, 4, 4, 3), np.uint8))
    system = SimpleNamespace(predict=lambda state, images: {"image": 1 - images.repeat(3, -1) / 255})

    def look(images):
        assert images.dtype == np.uint8 and images.shape[-1] == 3
        return {"features": images.mean((1, 2)), "probabilities": images.mean((1, 2))}

    made, copies = answers._made(system, Nothing(), split, np.arange(6), look)
    np.testing.assert_allclose(copies["features"], inputs.mean((1, 2)).repeat(3, -1), atol=0.5)
    np.testing.assert_allclose(made["features"], 255 - copies["features"], atol=0.5)
