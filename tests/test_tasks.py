"""What each system does with a batch: evaluation, two players, accumulation, precision, freezing, mistakes of use."""

import dataclasses
from functools import cache, partial
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxrec import losses, optimizers
from jaxrec.data.features import Feature
from jaxrec.data.splits import Split, from_arrays
from jaxrec.errors import UserError
from jaxrec.models.cpu.forms import plain_forms
from jaxrec.parallel import stream
from jaxrec.run import evaluation
from jaxrec.run.evaluation import Evaluator
from jaxrec.run.world.devices import Devices
from jaxrec.settings import GAN, Autoencoder, Classifier, Optimizer, Rule
from jaxrec.tasks import autoencoder, classifier, gan
from jaxrec.tasks.learning import accumulated, adversarial, learn, mean_gradient, per_example
from jaxrec.tasks.system import system_of

SGD = Optimizer(name="sgd", lr=0.1, schedule="constant", warmup=0.0)
tiny_classifier = partial(Classifier, classes=4, width=0.0625, optimizer=SGD)
tiny_autoencoder = partial(Autoencoder, architecture="dense", width=1, code=3, average=0.0, optimizer=SGD)
tiny_vae = partial(tiny_autoencoder, model="vae", likelihood="bernoulli", binarize=True, eval_samples=4)
# Residual players have no batch statistics, so a batch is the mean of its parts.
tiny_gan = partial(
    GAN, architecture="residual", classes=4, width=2, latents=4, r1=0.0, r2=0.0, average=0.0, optimizer=SGD
)


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)
    return {"image": image, "label": rng.integers(0, 4, count).astype(np.int32)}


BATCH = {**examples(16), "index": np.arange(16, dtype=np.int32), "epoch": np.zeros(16, np.int32)}


@cache
def start(config):
    return jax.jit(partial(system_of(config).init, config))(jax.random.key(0), BATCH)


@cache
def compiled(function):
    return jax.jit(function)


def step(config, batch=BATCH, **changes):
    state = start(config)
    return compiled(system_of(config).train_step)(state.replace(**changes), batch)


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
FEATURES = {"image": Feature("image", (8, 8, 1), "uint8"), "label": Feature("class", (), "int32", tuple("0123"))}
SPLIT = Split(from_arrays(HELD_OUT), np.arange(130), FEATURES)


@cache
def at_once(row):
    """The metrics of all held-out examples in one batch, without padding."""
    config, batch = EVALUATED[row], {**HELD_OUT, "index": np.arange(130, dtype=np.int32)}
    metrics = jax.device_get(compiled(system_of(config).eval_step)(start(config), batch))
    return {name: value for metric in metrics.values() for name, value in metric.compute().items()}


@pytest.mark.parametrize("row", EVALUATED)
@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_depends_on_neither_batch_size_nor_devices(row, devices, monkeypatch):
    config, state = EVALUATED[row], start(EVALUATED[row])
    found = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda: found)
    evaluator = Evaluator(config, system_of(config), Devices())
    state = evaluator.devices.copy(state)
    expected = at_once(row)
    for size in (7, 64, 1000):
        monkeypatch.setattr(evaluation, "batch_size", lambda *_, size=size: size)
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
    predict = compiled(system_of(config).predict)

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
        with plain_forms():  # as plain operations, which can be counted
            program = jax.make_jaxpr(lambda *args: classifier.train_step(*args))(start(config), BATCH)
        return str(program).count("conv_general_dilated[")

    # Forward twice and three gradients; without conv1's neither its kernel's nor its output's.
    assert (convolutions(free), convolutions(frozen)) == (5, 3)


def test_the_divergence_warms_up():
    config = tiny_vae(kl_warmup=0.4, kl_weight=0.5, optimizer=dataclasses.replace(SGD, lr=0.0, steps=10))
    for at, share in ((0, 0.25), (2, 0.75), (9, 1.0)):
        _, metrics = step(config, step=jnp.int32(at))
        np.testing.assert_allclose(metrics["loss"] - metrics["reconstruction"], 0.5 * share * metrics["kl"], rtol=1e-3)


def test_a_learned_prior_starts_as_the_normal_one_and_goes_where_the_codes_are(monkeypatch):
    optimizer = dataclasses.replace(SGD, lr=0.02, rules=(Rule("coder", freeze=True),))
    tested = compiled(autoencoder.eval_step)

    def begun(config):
        state = start(config)
        layer = state.player.params["encoder"]["code"]
        # The means of the codes come to lie about 2, where a standard normal prior is far away.
        layer["bias"] = layer["bias"].at[: config.code].add(2.0)
        return state

    def bounds(state):
        return tested(state, BATCH)["bounds"].compute()

    usual, state = bounds(begun(tiny_vae())), begun(tiny_vae(couplings=2, kl_warmup=0.0, optimizer=optimizer))
    before = bounds(state)
    for name in ("nll", "elbo"):
        np.testing.assert_allclose(before[name], usual[name], rtol=1e-5)
    for _ in range(50):
        state, _ = compiled(autoencoder.train_step)(state, BATCH)
    after = bounds(state)
    assert after["kl"] < 0.5 * before["kl"]
    # Encoder and decoder are kept, so the rest of the bound is as before.
    np.testing.assert_allclose(after["elbo"] + after["kl"], before["elbo"] + before["kl"], rtol=1e-4)
    # Images are drawn from codes that the prior maps to the normal draws.
    key, player = jax.random.key(5), state.player
    monkeypatch.setattr(autoencoder, "_decode", lambda state, code: code)
    codes = autoencoder.generate(state, key, 3)["image"]
    normal = jax.random.normal(key, codes.shape)
    mapped, _ = player.model.apply(player.variables(), codes, method="to_normal")
    np.testing.assert_allclose(mapped, normal, atol=1e-4)
    assert np.abs(codes - normal).max() > 0.01


def test_a_sigmoid_head_takes_class_numbers_and_flags_alike():
    config = tiny_classifier(head="sigmoid")
    numbers, flags = step(config), step(config, {**BATCH, "label": np.eye(4, dtype=np.int32)[BATCH["label"]]})
    assert_close(numbers[1], flags[1], 0)


def test_probabilities_are_written_with_all_their_digits():
    features = {"label": Feature("class", (), "int32", ("a", "b", "c"))}
    probabilities = np.float32([[1 / 3, 1e-7, 2e-38], [0.1, 0.2, 0.7]])
    rows = classifier.rows(tiny_classifier(), BATCH["image"], {"probabilities": probabilities}, features)
    written = np.array([list(row["probabilities"].values()) for row in rows])
    np.testing.assert_array_equal(np.float32(written), probabilities)
    assert written[1].tolist() == [0.1, 0.2, 0.7]


def test_what_a_multi_label_net_is_judged_by_is_nothing_if_it_finds_nothing():
    label = (np.arange(160).reshape(16, 10) % 10 == 0).astype(np.int32)
    nothing = classifier.MultiLabel.from_batch(jnp.full((16, 10), -1.0), jnp.asarray(label), None, jnp.zeros(16))
    found = nothing.compute()
    assert found["label_accuracy"] == pytest.approx(0.9)
    lead = next(name for name in classifier.HEADLINE if name in found)
    assert found[lead] == 0


# Models, optimizers, losses and gradients of one's own


class Layer(NamedTuple):
    """A node of parameters that is no dictionary."""

    kernel: jax.Array
    biases: list[jax.Array]


class Network(NamedTuple):
    first: Layer
    rest: tuple[Layer, ...]


def new_network(key, images):
    keys = jax.random.split(key, 2)
    sizes = ((images[0].size, 6), (6, 4))
    layers = []
    for each, (before, after) in zip(keys, sizes, strict=True):
        kernel = jax.random.normal(each, (before, after), jnp.float32) / before**0.5
        layers.append(Layer(kernel, [jnp.zeros(after)]))
    return Network(layers[0], (layers[1],))


def apply_network(params, images):
    x = images.reshape(len(images), -1)
    x = jnp.tanh(x @ params.first.kernel + params.first.biases[0])
    (last,) = params.rest
    return x @ last.kernel + last.biases[0]


class Bare(nn.Module):
    """Takes no ``train``, gives logits alone."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x.reshape(len(x), -1))


class Told(nn.Module):
    """Takes ``train``, gives logits and features."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(len(x), -1)
        return nn.Dense(4)(x), x


def sum_of_squares(logits, targets):
    return jnp.sum((jax.nn.softmax(logits) - targets) ** 2, axis=-1)


OWN = {
    "functions": {"model": (new_network, apply_network)},
    "bare logits": {"model": Bare()},
    "logits and features": {"model": Told()},
    "optax": {"model": (new_network, apply_network), "optimizer": optax.adamw(1e-3)},
    "loss": {"model": Bare(), "loss": sum_of_squares},
    "all": {"model": (new_network, apply_network), "optimizer": optax.adamw(1e-2), "loss": sum_of_squares},
    "optax and jaxrec's model": {"optimizer": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))},
}


@pytest.mark.parametrize("row", OWN)
def test_what_is_ones_own_learns(row):
    config = tiny_classifier(optimizer=dataclasses.replace(SGD, lr=0.05), average=0.9)
    init = jax.jit(lambda key, batch: classifier.init(config, key, batch, **OWN[row]))
    found = []
    with jax.numpy_dtype_promotion("standard"):  # optax corrects Adam's bias with integers among its floats
        state = init(jax.random.key(0), BATCH)
        train_step = jax.jit(classifier.train_step)
        for _ in range(20):
            state, metrics = train_step(state, BATCH)
            found.append(float(metrics["loss"]))
        measured = jax.jit(classifier.eval_step)(state, BATCH)
        predicted = jax.jit(classifier.predict)(state, BATCH["image"])
    assert int(state.step) == 20
    assert found[-1] < found[0]
    assert measured["metrics" if "metrics" in measured else next(iter(measured))].compute()
    np.testing.assert_allclose(predicted["probabilities"].sum(1), 1, rtol=1e-5)


def test_an_optimizer_and_a_loss_of_ones_own_make_the_updates_that_they_name():
    config = tiny_classifier(standardize="unit")
    optimizer = optax.adamw(1e-3)
    given = {"model": (new_network, apply_network), "optimizer": optimizer, "loss": sum_of_squares}
    state = classifier.init(config, jax.random.key(0), BATCH, **given)
    images, targets = BATCH["image"].astype(np.float32) / 255, jax.nn.one_hot(BATCH["label"], 4)
    params = state.player.params
    assert isinstance(params, Network)

    def loss(params):
        return sum_of_squares(apply_network(params, images), targets).mean()

    with jax.numpy_dtype_promotion("standard"):
        moments = optimizer.init(params)
        for _ in range(3):
            state, metrics = jax.jit(classifier.train_step)(state, BATCH)
            value, slopes = jax.value_and_grad(loss)(params)
            np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
            updates, moments = optimizer.update(slopes, moments, params)
            params = optax.apply_updates(params, updates)
    assert_close(state.player.params, params, 1e-6)


def test_an_autoencoder_takes_functions_and_a_loss():
    def from_images(key, images):
        return {"kernel": 0.1 * jax.random.normal(key, (images[0].size, images[0].size), jnp.float32)}

    def to_images(params, images):
        return (images.reshape(len(images), -1) @ params["kernel"]).reshape(images.shape)

    def error(outputs, images):
        return jnp.abs(outputs - images).mean(axis=(1, 2, 3))

    state = autoencoder.init(tiny_autoencoder(), jax.random.key(0), BATCH, (from_images, to_images), loss=error)
    train_step, found = jax.jit(autoencoder.train_step), []
    for _ in range(5):
        state, metrics = train_step(state, BATCH)
        found.append(float(metrics["loss"]))
    assert found == sorted(found, reverse=True)
    assert jax.jit(autoencoder.predict)(state, BATCH["image"]).keys() == {"reconstruction"}


def test_what_is_no_model_is_refused():
    for wrong in (3, (new_network,), (new_network, 3)):
        with pytest.raises(UserError, match="model"):
            classifier.init(tiny_classifier(), jax.random.key(0), BATCH, wrong)


PARTS = {"image": BATCH["image"].astype(np.float32) / 255, "label": BATCH["label"]}
KEY = jax.random.key(3)


def own_state(**changes):
    config = tiny_classifier(standardize="unit", **changes)
    return classifier.init(config, jax.random.key(0), BATCH, (new_network, apply_network))


def cross_entropy(params, stats, examples, key):
    logits = apply_network(params, examples["image"])
    values = optax.softmax_cross_entropy_with_integer_labels(logits, examples["label"])
    return values.mean(), ({"loss": values.mean()}, stats)


def updated(state, **options):
    """The parameters before a step of SGD and after it, and the metrics."""
    player, metrics = jax.jit(lambda state: learn(state.player, state, cross_entropy, PARTS, KEY, **options))(state)
    return state.player.params, player.params, metrics


def slopes_of(params, examples):
    return jax.grad(lambda params: cross_entropy(params, {}, examples, KEY)[0])(params)


@pytest.mark.parametrize("clip", [0.05, 4.0, 100.0])
def test_clipped_gradients_per_example_are_the_mean_of_the_clipped(clip):
    before, after, metrics = updated(own_state(), gradient=per_example(clip))
    total = jax.tree.map(jnp.zeros_like, before)
    norms = []
    for place in range(16):
        slopes = slopes_of(before, {name: values[place : place + 1] for name, values in PARTS.items()})
        norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(slopes)))
        norms.append(norm)
        scale = np.float32(min(1.0, clip / norm))
        total = jax.tree.map(lambda a, b, scale=scale: a + scale * b, total, slopes)
    assert_close(after, jax.tree.map(lambda value, slope: value - SGD.lr * slope / 16, before, total), 1e-6)
    np.testing.assert_allclose(metrics["loss"], cross_entropy(before, {}, PARTS, KEY)[0], rtol=1e-5)
    # Some are clipped by the middle bound, none by the highest.
    assert (min(norms) < clip) == (clip > 0.05)
    assert (max(norms) < clip) == (clip == 100)


def test_the_noise_of_private_gradients_has_the_deviation_that_was_asked_for():
    _, plain, _ = updated(own_state(), gradient=per_example(0.5))
    _, noisy, _ = updated(own_state(), gradient=per_example(0.5, noise=4.0))
    noise = np.concatenate([np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, (noisy, plain)), strict=True)])
    assert noise.size > 400
    deviation = SGD.lr * 4.0 * 0.5 / 16
    assert abs(noise.std() / deviation - 1) < 4 / (2 * noise.size) ** 0.5
    assert abs(noise.mean()) < 4 * deviation / noise.size**0.5


def test_gradients_per_example_need_examples_that_are_separate():
    state = start(tiny_classifier(model="speednet", activation="gelu"))
    assert "batch_stats" in state.player.stats
    with pytest.raises(UserError, match="BatchNorm"):
        learn(state.player, state, cross_entropy, PARTS, KEY, gradient=per_example(1.0))


@pytest.mark.parametrize("steps", [1, 3])
def test_adversarial_images_lie_within_the_radius_and_raise_the_loss(steps):
    seen, radius = [], 0.1

    def watching(loss, params, stats, examples, key):
        seen.append(examples["image"])
        return mean_gradient(loss, params, stats, examples, key)

    state = own_state()
    player, metrics = learn(
        state.player, state, cross_entropy, PARTS, KEY, gradient=adversarial(radius, steps, watching)
    )
    (images,) = seen
    changes = np.abs(images - PARTS["image"])
    assert 0 < changes.max() <= radius + 1e-6
    assert images.min() >= 0
    assert images.max() <= 1
    clean = cross_entropy(state.player.params, {}, PARTS, KEY)[0]
    worse = cross_entropy(state.player.params, {}, {**PARTS, "image": images}, KEY)[0]
    assert worse > clean
    np.testing.assert_allclose(metrics["loss"], worse, rtol=1e-6)
    slopes = slopes_of(state.player.params, {**PARTS, "image": images})
    expected = jax.tree.map(lambda value, slope: value - SGD.lr * slope, state.player.params, slopes)
    assert_close(player.params, expected, 1e-6)


@pytest.mark.parametrize("parts", [2, 4, 16])
def test_accumulated_gradients_are_the_mean_gradient(parts):
    before, whole, metrics = updated(own_state())
    assert moved(before, whole)
    for gradient in (accumulated(parts), accumulated(parts, per_example(100.0))):
        _, after, parted = updated(own_state(), gradient=gradient)
        assert_close(after, whole, 1e-6)
        assert_close(parted, metrics, 1e-6)
    _, after, _ = updated(own_state(accumulate=parts))
    assert_close(after, whole, 1e-6)


# What is shown and what is refused


@pytest.mark.parametrize("row", EVALUATED)
def test_artifacts_are_tables_of_images(row):
    config = EVALUATED[row]
    tables = compiled(system_of(config).artifacts)(start(config), BATCH)
    assert bool(tables) == (row != "sigmoid")
    for table in tables.values():
        assert table["images"].dtype == jnp.float32 and table["images"].shape[2:] == (8, 8, 1)
        assert table["images"].min() >= 0 and table["images"].max() <= 1


@pytest.mark.parametrize("row", EVALUATED)
def test_pictures_of_the_worst_have_an_entry_for_each_example(row):
    config = EVALUATED[row]
    drawn = system_of(config).worst
    assert (drawn is None) == isinstance(config, gan.Config)
    for picture in compiled(drawn)(start(config), BATCH).values() if drawn else ():
        assert all(len(values) == 16 for values in picture.values())
        assert picture["images"].shape[2:] == (8, 8, 1) and picture["images"].dtype == jnp.float32


def test_generated_images_show_the_classes_by_turns():
    made = gan.generate(start(tiny_gan()), jax.random.key(1), 6)
    np.testing.assert_array_equal(made["label"], [0, 1, 2, 3, 0, 1])
    later = gan.generate(start(tiny_gan()), jax.random.key(1), 3, 6)
    np.testing.assert_array_equal(later["label"], [2, 3, 0])
    assert (
        made["image"].shape == (6, 8, 8, 1)
        and autoencoder.generate(start(tiny_vae()), jax.random.key(1), 3)["image"].shape[0] == 3
    )


MISTAKES = {
    "accumulate": (tiny_classifier(accumulate=3), "batch of 16 .* 3 equal parts"),
    "shares": (tiny_gan(discriminator_steps=3), "batch of 16 .* 3"),
    "no classes": (tiny_classifier(classes=0), "classes is 0"),
    "one class": (tiny_classifier(classes=1), "head='sigmoid'"),
    "conditional": (tiny_gan(classes=1), "conditional"),
    "unet": (tiny_autoencoder(architecture="unet"), "'unet'.*noise"),
    "unet vae": (tiny_vae(architecture="unet", noise=0.1), "'unet'"),
    "couplings": (tiny_autoencoder(couplings=2), "couplings 2"),
    # Of 8 pixels a side, a resnet leaves one.
    "one value": (tiny_classifier(model="resnet18", width=0.05, accumulate=16), "'stage4.*--batch-size"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    config, message = MISTAKES[mistake]
    task = system_of(config)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda batch: task.train_step(task.init(config, jax.random.key(0), batch), batch), BATCH)


class Normalized(nn.Module):
    """A network of one's own: the mean over the image, and a normalization of it."""

    axis_name: str | None = None
    groups: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = jnp.repeat(x.mean((1, 2)), 2, -1)
        norm = nn.GroupNorm(None, group_size=1) if self.groups else nn.BatchNorm(not train, axis_name=self.axis_name)
        return nn.Dense(4)(norm(x))


class Unshared(nn.Module):
    """The network, without a place for the axis of the replicas."""

    network: nn.Module

    @nn.compact
    def __call__(self, x, train=False):
        return self.network(x, train)


def test_single_values_are_not_normalized_whatever_cuts_the_batch_so_small():
    def trace(model, shares):
        state = classifier.init(tiny_classifier(), jax.random.key(0), BATCH, model)
        step = partial(classifier.train_step, axis_name="replicas")
        batch = {name: values[:8].reshape(shares, -1, *values.shape[1:]) for name, values in BATCH.items()}
        jax.eval_shape(jax.vmap(step, in_axes=(None, 0), axis_name="replicas"), state, batch)

    trace(Normalized(), 4)
    trace(Normalized("replicas"), 8)
    # The systems give the axis to a model that has a place for it, and this one has none.
    with pytest.raises(UserError, match="--batch-size"):
        trace(Unshared(Normalized()), 8)
    with pytest.raises(UserError, match="group normalization"):
        trace(Normalized(groups=True), 4)


def test_images_are_bytes_words_or_floats_and_mean_the_same():
    state = start(tiny_classifier())
    floats = BATCH["image"].astype(np.float32) / 255
    words = BATCH["image"].astype(np.uint16) * 257
    expected = classifier.predict(state, BATCH["image"])
    for images in (floats, words):
        assert_close(classifier.predict(state, images), expected, 1e-5)


def test_what_is_no_image_is_refused():
    state, numbers = start(tiny_classifier()), BATCH["image"].astype(np.int32)
    for use in (
        lambda: classifier.init(tiny_classifier(), jax.random.key(0), {"image": numbers}),
        lambda: classifier.train_step(state, {**BATCH, "image": numbers}),
        lambda: classifier.predict(state, numbers),
        lambda: autoencoder.predict(start(tiny_autoencoder()), numbers),
    ):
        with pytest.raises(UserError, match=r"int32 \(16, 8, 8, 1\).* uint8"):
            use()


def test_only_a_vae_among_autoencoders_generates():
    with pytest.raises(UserError, match="vae"):
        autoencoder.generate(start(tiny_autoencoder()), jax.random.key(0), 1)


def test_the_share_of_augmented_images_follows_the_sign_of_the_logits():
    """Where the discriminator is surer than asked of real images, the share rises by the images that it has seen."""
    share = gan.adapted_share(jnp.float32(0.5), jnp.float32(0.9), 0.6, 1000)
    assert float(share) == pytest.approx(0.5 + 1000 / gan.ADAPTED_OVER)
    assert float(gan.adapted_share(jnp.float32(0.5), jnp.float32(0.1), 0.6, 1000)) < 0.5
    assert float(gan.adapted_share(jnp.float32(1.0), jnp.float32(0.9), 0.6, 1000)) == 1.0
    assert float(gan.adapted_share(jnp.float32(0.0), jnp.float32(0.1), 0.6, 1000)) == 0.0


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
def test_a_discriminator_that_knows_real_images_is_shown_more_augmented_ones(loss):
    """Its logit is 2 if an image has any light, as real ones have; generated ones are black."""

    def logits(params, images, label):
        light = (images.max((1, 2, 3)) > -1).astype(jnp.float32)
        return light * 3 - 1 + 0 * params["unused"]

    def black(params, latents, label):
        return jnp.full((len(latents), 8, 8, 1), -1.0) + 0 * params["unused"]

    def nothing(*_):
        return {"unused": jnp.float32(0)}

    config = tiny_gan(loss=loss, adapt_to=0.6, discriminator_steps=2, r1=0.0, r2=0.0)
    models = ((nothing, black), (nothing, logits))
    state = gan.init(config, jax.random.key(0), BATCH, models=models)
    assert float(state.extra["augmented"]) == 0
    after, metrics = gan.train_step(state, BATCH)
    assert float(metrics["sign"]) == 1
    assert float(after.extra["augmented"]) == pytest.approx(16 / gan.ADAPTED_OVER)
