"""What each system does with a batch: evaluation, two players, accumulation, precision, freezing, mistakes of use."""

import dataclasses
from functools import cache, partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrec import losses, optimizers
from jaxrec.data.splits import Split, from_arrays
from jaxrec.errors import UserError
from jaxrec.models import layers
from jaxrec.parallel import stream
from jaxrec.run import evaluation
from jaxrec.run.evaluation import Evaluator
from jaxrec.run.world.devices import Devices
from jaxrec.settings import GAN, Autoencoder, Classifier, Optimizer, Rule
from jaxrec.tasks import autoencoder, classifier, gan, task_of

SGD = Optimizer(name="sgd", lr=0.1, schedule="constant", warmup=0.0)
tiny_classifier = partial(Classifier, classes=4, width=0.0625, optimizer=SGD)
tiny_autoencoder = partial(Autoencoder, architecture="dense", width=1, code=3, average=0.0, optimizer=SGD)
tiny_vae = partial(tiny_autoencoder, model="vae", likelihood="bernoulli", binarize=True, eval_samples=4)
# Residual players have no batch statistics, so a batch is the mean of its parts.
tiny_gan = partial(
    GAN, architecture="residual", classes=4, width=2, latents=4, r1=0.0, r2=0.0, average=0.0, optimizer=SGD
)


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)
    return {"image": image, "label": rng.integers(0, 4, count).astype(np.int32)}


BATCH = {**examples(16), "index": np.arange(16, dtype=np.int32), "epoch": np.zeros(16, np.int32)}


@cache
def start(config):
    return jax.jit(partial(task_of(config).init, config))(jax.random.key(0), BATCH)


@cache
def compiled(function):
    return jax.jit(function)


def step(config, batch=BATCH, **changes):
    state = start(config)
    return compiled(task_of(config).train_step)(state.replace(**changes), batch)


def assert_close(got, want, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance), got, want)


def moved(before, after):
    """Whether any array of a tree changed."""
    same = jax.tree.map(np.array_equal, jax.device_get(before), jax.device_get(after))
    return not all(jax.tree.leaves(same))


# Evaluation counts every example once


EVALUATED = {
    "softmax": tiny_classifier(model="speednet", activation="gelu"),
    "sigmoid": tiny_classifier(head="sigmoid"),
    "autoencoder": tiny_autoencoder(noise=0.2),
    "vae": tiny_vae(),
    "gan": tiny_gan(architecture="dcgan", spectral_norm=True),
}


HELD_OUT = examples(130, seed=1)
SPLIT = Split(from_arrays(HELD_OUT["image"], HELD_OUT["label"]), np.arange(130), (8, 8, 1))


@cache
def at_once(row):
    """The figures of all held-out examples in one batch, without padding."""
    config, batch = EVALUATED[row], {**HELD_OUT, "index": np.arange(130, dtype=np.int32)}
    metrics = jax.device_get(compiled(task_of(config).eval_step)(start(config), batch))
    return {name: value for metric in metrics.values() for name, value in metric.compute().items()}


@pytest.mark.parametrize("row", EVALUATED)
@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_depends_on_neither_batch_size_nor_devices(row, devices, monkeypatch):
    config, state = EVALUATED[row], start(EVALUATED[row])
    found = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda: found)
    evaluator = Evaluator(config, Devices())
    state = evaluator.devices.copy(state)
    expected = at_once(row)
    for size in (7, 64, 1000):
        monkeypatch.setattr(evaluation, "evaluation_batch_size", lambda *_, size=size: size)
        results = evaluator(state, SPLIT)
        assert results.keys() == expected.keys()
        for name, value in expected.items():
            exact = np.issubdtype(np.asarray(value).dtype, np.integer)
            np.testing.assert_allclose(results[name], value, rtol=0 if exact else 1e-6, atol=0 if exact else 1e-6)


def test_a_bound_on_more_codes_is_tighter_and_one_code_gives_the_evidence_bound():
    for codes, tighter in ((1, False), (8, True)):
        config = tiny_vae(eval_samples=codes)
        bounds = compiled(autoencoder.eval_step)(start(config), BATCH)["bounds"].compute()
        assert bounds["loss"] == -bounds["elbo"] and bounds["kl"] > 0
        gap = -bounds["elbo"] - bounds["nll"]
        assert gap > 1e-3 if tighter else abs(gap) < 1e-4


# Two players


@pytest.mark.parametrize("architecture", ["dcgan", "residual"])
@pytest.mark.parametrize("loss", get_args(losses.GANLoss))
def test_each_players_loss_gives_the_other_exactly_zero_gradient(loss, architecture, monkeypatch):
    """One program, in which either loss is made ten times as large: the other player must not notice."""
    scales = {}

    def scaled(name, function):
        return lambda real, fake, loss: scales[name] * function(real, fake, loss)

    for name in ("discriminator", "generator"):
        monkeypatch.setattr(losses, f"{name}_loss", scaled(name, getattr(losses, f"{name}_loss")))

    @jax.jit
    def players(state, discriminator, generator):
        scales.update(discriminator=discriminator, generator=generator)
        return {name: each.params for name, each in gan.train_step(state, BATCH)[0].players.items()}

    state = start(tiny_gan(loss=loss, architecture=architecture))
    # A generator that looks at a discriminator that has moved would notice that, so for it the discriminator rests.
    resting = state.replace(hyper={**state.hyper, "discriminator_lr": jnp.float32(0)})
    plain, larger = (players(resting, jnp.float32(scale), jnp.float32(1))["generator"] for scale in (1, 10))
    assert not moved(plain, larger)
    assert moved(plain, players(resting, jnp.float32(1), jnp.float32(10))["generator"])
    plain, larger = (players(state, jnp.float32(1), jnp.float32(scale))["discriminator"] for scale in (1, 10))
    assert not moved(plain, larger)
    assert moved(plain, players(state, jnp.float32(10), jnp.float32(1))["discriminator"])


def test_penalties_go_with_the_game():
    def weights(**options):
        return {
            name for name in ("r1", "r2", "gradient_penalty") if name in start(GAN(classes=4, width=2, **options)).hyper
        }

    assert weights() == weights(loss="hinge") == {"r1", "r2"}
    assert weights(loss="hinge", spectral_norm=True) == set()
    assert weights(loss="wasserstein") == {"gradient_penalty"}
    assert weights(loss="wasserstein", gradient_penalty=0.0, r1=0.5) == {"r1"}


@pytest.mark.parametrize("rounds", [1, 2])
def test_each_player_descends_its_own_loss_with_the_other_held(rounds):
    """The whole step written out: the discriminator's updates one after the other, then the generator's."""
    config = tiny_gan(loss="non-saturating", r1=0.0, r2=0.0, discriminator_steps=rounds, discriminator_lr=0.5)
    state = start(config)
    generator, discriminator = state.players["generator"], state.players["discriminator"]
    latents = jax.random.normal(stream(state.key, "latents", jnp.int32(0)), (rounds + 1, 16 // rounds, config.latents))
    real = BATCH["image"].astype(np.float32) / 255 * 2 - 1
    label = BATCH["label"]

    def scores(d, images, label):
        return discriminator.model.apply({"params": d}, images, label)

    def discriminator_loss(d, g, real, label, z):
        fake = generator.model.apply({"params": g}, z, label)
        return jnp.mean(jax.nn.softplus(-scores(d, real, label)) + jax.nn.softplus(scores(d, fake, label)))

    def generator_loss(g, d, label, z):
        return jnp.mean(jax.nn.softplus(-scores(d, generator.model.apply({"params": g}, z, label), label)))

    def descend(params, gradient, rate):
        return jax.tree.map(lambda value, slope: value - rate * slope, params, gradient)

    @jax.jit
    def by_hand(g, d):
        for turn, part in enumerate(np.arange(16).reshape(rounds, -1)):
            slopes = jax.grad(discriminator_loss)(d, g, real[part], label[part], latents[turn])
            d = descend(d, slopes, 0.5 * SGD.lr)
        return descend(g, jax.grad(generator_loss)(g, d, label[part], latents[-1]), SGD.lr), d

    after, _ = step(config)
    expected = by_hand(generator.params, discriminator.params)
    assert_close((after.players["generator"].params, after.players["discriminator"].params), expected, 1e-6)
    assert moved(generator.params, expected[0]) and moved(discriminator.params, expected[1])


def test_players_share_one_step_counter_and_count_their_own_updates():
    config = tiny_gan(architecture="dcgan", discriminator_steps=2, optimizer=dataclasses.replace(SGD, name="adam"))
    state = start(config)
    # optax corrects Adam's bias with integers among its floats.
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(3):
            state, _ = jax.jit(gan.train_step)(state, BATCH)
    updates = {name: int(player.opt_state[0].count) for name, player in state.players.items()}
    assert (int(state.step), updates) == (3, {"generator": 3, "discriminator": 6})


def test_a_player_without_a_learning_rate_stands_still():
    config = tiny_gan()
    before = start(config)
    after, _ = step(config, hyper={**before.hyper, "discriminator_lr": jnp.float32(0)})
    assert moved(before.players["generator"].params, after.players["generator"].params)
    assert not moved(before.players["discriminator"].params, after.players["discriminator"].params)


@pytest.mark.parametrize(
    ("config", "player"),
    [(tiny_classifier(average=0.9), "net"), (tiny_vae(average=0.9), "net"), (tiny_gan(average=0.9), "generator")],
    ids=["classifier", "vae", "gan"],
)
def test_the_moving_average_evaluates_and_the_parameters_learn(config, player):
    state, _ = step(config)
    latents = jax.random.normal(jax.random.key(1), (16, config.latents)) if isinstance(config, GAN) else None
    inputs = BATCH["image"] if latents is None else {"latents": latents, "label": BATCH["label"]}
    predict = compiled(task_of(config).predict)

    def without(part):
        one = state.players[player]
        blank = one.replace(**{part: jax.tree.map(jnp.zeros_like, getattr(one, part))})
        return state.replace(players={**state.players, player: blank})

    answer = predict(state, inputs)
    assert not moved(answer, predict(without("params"), inputs))
    assert moved(answer, predict(without("average"), inputs))
    first = start(config).players[player].params
    expected = optimizers.moving_average(first, state.players[player].params, 0.9, jnp.int32(0))
    assert_close(state.players[player].average, expected, 1e-6)


# One update, however it is computed


SMALL_TASKS = {
    "classifier": tiny_classifier(optimizer=dataclasses.replace(SGD, l2=0.1)),
    "autoencoder": tiny_autoencoder(),
    "gan": tiny_gan(),
}
each_task = pytest.mark.parametrize("name", SMALL_TASKS)


@each_task
def test_accumulated_gradients_equal_those_of_the_large_batch(name):
    config = SMALL_TASKS[name]
    whole, parts = step(config), step(dataclasses.replace(config, accumulate=2))
    for player in whole[0].players:
        assert_close(parts[0].players[player].params, whole[0].players[player].params, 1e-6)
    assert_close(parts[1], whole[1], 1e-6)


@each_task
def test_bfloat16_computes_and_float32_remembers(name):
    config = dataclasses.replace(SMALL_TASKS[name], optimizer=dataclasses.replace(SGD, name="momentum"))
    (_, exact), (state, rough) = step(config), step(dataclasses.replace(config, precision="bf16"))
    for value in jax.tree.leaves((state.players, rough)):
        assert value.dtype == jnp.float32
    for metric, value in exact.items():
        np.testing.assert_allclose(rough[metric], value, atol=0.05 * max(1, abs(value)), err_msg=metric)
    assert moved(exact, rough)


def test_l2_penalty_reaches_the_loss_and_equals_decay_under_sgd():
    penalised, decayed = (
        step(tiny_classifier(optimizer=dataclasses.replace(SGD, **{name: 0.5}))) for name in ("l2", "weight_decay")
    )
    assert_close(penalised[0].player.params, decayed[0].player.params, 1e-6)
    assert moved(penalised[0].player.params, step(tiny_classifier())[0].player.params)


def test_frozen_parameters_stay_and_cost_no_gradient():
    optimizer = dataclasses.replace(SGD, name="momentum", weight_decay=0.1, rules=(Rule("^conv1", freeze=True),))
    frozen, free = (tiny_classifier(optimizer=each) for each in (optimizer, dataclasses.replace(optimizer, rules=())))
    before, (after, _) = start(frozen), step(frozen)
    assert not moved(before.player.params["conv1"], after.player.params["conv1"])
    assert moved(before.player.params["conv2"], after.player.params["conv2"])
    momenta = {
        name
        for trace in jax.tree.leaves(after.player.opt_state, is_leaf=lambda x: isinstance(x, dict))
        for name in trace
    }
    assert momenta and not any(name.startswith("conv1") for name in momenta)

    def convolutions(config):
        with layers.forward_mode():  # as plain operations, which can be counted
            program = jax.make_jaxpr(lambda *args: classifier.train_step(*args))(start(config), BATCH)
        return str(program).count("conv_general_dilated[")

    # Forward twice and three gradients; without conv1's neither its kernel's nor its output's.
    assert (convolutions(free), convolutions(frozen)) == (5, 3)


def test_the_divergence_warms_up():
    config = tiny_vae(kl_warmup=0.4, kl_weight=0.5, optimizer=dataclasses.replace(SGD, lr=0.0, steps=10))
    for at, share in ((0, 0.25), (2, 0.75), (9, 1.0)):
        _, metrics = step(config, step=jnp.int32(at))
        np.testing.assert_allclose(metrics["loss"] - metrics["reconstruction"], 0.5 * share * metrics["kl"], rtol=1e-3)


def test_a_sigmoid_head_takes_class_numbers_and_flags_alike():
    config = tiny_classifier(head="sigmoid")
    numbers, flags = step(config), step(config, {**BATCH, "label": np.eye(4, dtype=np.int32)[BATCH["label"]]})
    assert_close(numbers[1], flags[1], 0)


def test_a_model_of_ones_own_learns():
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = x.reshape(len(x), -1)
            return nn.Dense(4)(x), x

    state = classifier.init(
        tiny_classifier(optimizer=dataclasses.replace(SGD, lr=0.05)), jax.random.key(0), BATCH, Linear()
    )
    losses = []
    for _ in range(20):
        state, metrics = compiled(classifier.train_step)(state, BATCH)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.2


# What is shown and what is refused


@pytest.mark.parametrize("row", EVALUATED)
def test_artifacts_are_tables_of_images(row):
    config = EVALUATED[row]
    tables = compiled(task_of(config).artifacts)(start(config), BATCH)
    assert bool(tables) == (row != "sigmoid")
    for table in tables.values():
        assert table["images"].dtype == jnp.float32 and table["images"].shape[2:] == (8, 8, 1)
        assert table["images"].min() >= 0 and table["images"].max() <= 1


def test_worst_mistakes_come_worst_first():
    config = tiny_classifier()
    table = classifier.artifacts(start(config), BATCH)["worst_mistakes"]
    probabilities = np.asarray(classifier.predict(start(config), BATCH["image"])["probabilities"])
    order = np.argsort(probabilities[np.arange(16), BATCH["label"]])
    np.testing.assert_array_equal(table["label"].ravel(), BATCH["label"][order])
    np.testing.assert_array_equal(table["prediction"].ravel(), probabilities[order].argmax(1))


def test_generated_images_show_the_classes_by_turns():
    made = gan.generate(start(tiny_gan()), jax.random.key(1), 6)
    np.testing.assert_array_equal(made["label"], [0, 1, 2, 3, 0, 1])
    assert (
        made["image"].shape == (6, 8, 8, 1)
        and autoencoder.generate(start(tiny_vae()), jax.random.key(1), 3)["image"].shape[0] == 3
    )


MISTAKES = {
    "accumulate": (tiny_classifier(accumulate=3), "batch of 16 cannot be accumulated in 3 equal parts"),
    "shares": (tiny_gan(discriminator_steps=3), "batch of 16 cannot be shared by 3"),
    "no classes": (tiny_classifier(classes=0), "classes is 0"),
    "one class": (tiny_classifier(classes=1), "use head='sigmoid'"),
    "conditional": (tiny_gan(classes=1), "use no-conditional"),
    "unet": (tiny_autoencoder(architecture="unet"), "give a noise above 0"),
    "unet vae": (tiny_vae(architecture="unet", noise=0.1), "for denoising alone"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    config, message = MISTAKES[mistake]
    task = task_of(config)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda batch: task.train_step(task.init(config, jax.random.key(0), batch), batch), BATCH)


def test_images_must_be_bytes_and_only_a_vae_generates():
    state, floats = start(tiny_classifier()), BATCH["image"].astype(np.float32) / 255
    for use in (
        lambda: classifier.init(tiny_classifier(), jax.random.key(0), {"image": floats}),
        lambda: classifier.train_step(state, {**BATCH, "image": floats}),
        lambda: classifier.predict(state, floats),
        lambda: autoencoder.predict(start(tiny_autoencoder()), floats),
    ):
        with pytest.raises(UserError, match=r"float32 \(16, 8, 8, 1\); expected uint8"):
            use()
    with pytest.raises(UserError, match="plain autoencoder"):
        autoencoder.generate(start(tiny_autoencoder()), jax.random.key(0), 1)
