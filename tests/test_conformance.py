"""Every system under every transform of jax: a table of small systems against a table of transforms.

All systems learn by stochastic gradient descent, because Adam hides a gradient of the wrong scale. A system that draws
anything draws its own numbers on each replica, so under an axis name it equals the plain loop only where two things are
taken away: the replica's number from its keys, and its share of the batch, in place of which every replica gets all of
it. What is left must be the plain step exactly; that replicas draw apart is a test of its own.
"""

import dataclasses
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrec import parallel
from jaxrec.settings import GAN, Augment, Autoencoder, Classifier, Optimizer, Rule
from jaxrec.tasks import TASKS, task_of

REPLICAS, BATCH, STEPS = 8, 16, 3
SGD = Optimizer(name="sgd", lr=0.05, schedule="constant", warmup=0.0)
SLOW = dataclasses.replace(SGD, lr=0.01)
GRADUAL = dataclasses.replace(SGD, name="momentum", schedule="cosine", warmup=0.5, steps=8, clip=1.0, l2=0.01)
FROZEN = dataclasses.replace(SGD, weight_decay=0.1, rules=(Rule("decoder/dense1", freeze=True), Rule("bias", lr=2.0)))
CHANGES = Augment(flip="alternating", crop=1, scale=0.1, brightness=0.1, cutout=2)
tiny_classifier = partial(Classifier, classes=4, mean=(0.25,), std=(0.2,), width=0.0625, optimizer=SGD)
tiny_autoencoder = partial(Autoencoder, width=2, code=3, average=0.0, optimizer=SGD)
tiny_gan = partial(GAN, classes=4, width=2, latents=4, r1=0.0, r2=0.0, average=0.0, optimizer=SLOW)

FIXED = {
    "cnn": tiny_classifier(optimizer=GRADUAL, average=0.9, width=0.125),
    "resnet18": tiny_classifier(model="resnet18"),
    "speednet": tiny_classifier(model="speednet", activation="gelu"),
    "vit": tiny_classifier(model="vit", label_smoothing=0.1),
    "conv autoencoder": tiny_autoencoder(accumulate=2),
    "dense autoencoder": tiny_autoencoder(architecture="dense", optimizer=FROZEN),
}
RANDOM = {
    "augmented cnn": tiny_classifier(width=0.125, dropout=0.2, cutmix=1.0, augment=CHANGES),
    "vae": tiny_autoencoder(model="vae", likelihood="bernoulli", binarize=True, accumulate=2, optimizer=SLOW),
    "unet denoiser": tiny_autoencoder(architecture="unet", noise=0.3),
    "relativistic gan": tiny_gan(r1=0.1, r2=0.1, average=0.9, diffaugment=("translation",)),
    "hinge gan": tiny_gan(loss="hinge", spectral_norm=True, discriminator_steps=2),
    "wasserstein gan": tiny_gan(loss="wasserstein", architecture="residual", gradient_penalty=1.0),
}
ROWS = {**FIXED, **RANDOM}
# The second Python of the gate tries the first six; the marks deselect there and nowhere else.
each_row = pytest.mark.parametrize("row", [*FIXED, *(pytest.param(row, marks=pytest.mark.slow) for row in RANDOM)])


pytestmark = pytest.mark.usefixtures("compile_quickly")


# One row: its batches, its states and its step, compiled once for all tests.


def stack_of_batches(steps):
    """``steps`` batches of 8x8 pictures, each class a different stripe on noise."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (steps, BATCH)).astype(np.int32)
    image = rng.integers(0, 100, (steps, BATCH, 8, 8, 1))
    image[np.arange(steps)[:, None], np.arange(BATCH), 2 * label] += 150
    index = np.arange(steps * BATCH, dtype=np.int32).reshape(steps, BATCH)
    return {"image": image.astype(np.uint8), "label": label, "index": index, "epoch": index // 20}


BATCHES = stack_of_batches(STEPS)
REPEATED = {name: np.concatenate([x] * REPLICAS, axis=1) for name, x in BATCHES.items()}
"""Every replica's share is the whole batch."""
FIRST = {name: values[0] for name, values in BATCHES.items()}


@cache
def initialiser(row):
    config = ROWS[row]
    return jax.jit(partial(task_of(config).init, config))


def new_state(row, seed=0, **hyper):
    state = initialiser(row)(jax.random.key(seed), FIRST)
    return state.replace(hyper={**state.hyper, **{name: jnp.float32(value) for name, value in hyper.items()}})


def train_step(row):
    return task_of(ROWS[row]).train_step


@cache
def counted_step(row):
    """The jitted step, which takes its state over, and the list that gets an entry each time it is traced."""
    traces = []

    def step(state, batch):
        traces.append(row)
        return train_step(row)(state, batch)

    return jax.jit(step, donate_argnums=0), traces


def loop(step, state, batches):
    metrics = {}
    for i in range(len(batches["image"])):
        state, metrics = step(state, {name: values[i] for name, values in batches.items()})
    return state, metrics


def plain(row, seed=0, **hyper):
    """What everything is held against: a Python loop over the jitted step, on the host."""
    return on_host(loop(counted_step(row)[0], new_state(row, seed, **hyper), BATCHES))


def on_host(tree):
    return jax.device_get(jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree))


def is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def difference(a, b):
    """The largest difference between two results' arrays, each relative to its largest number, if that is above 1."""
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x.shape, y.shape), a, b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(np.max(np.abs(x - y), initial=0) / np.max(np.abs(y), initial=1) for x, y in pairs)


def movement(row):
    before, (after, _) = on_host(new_state(row)), plain(row)
    return {name: difference(after.players[name].params, before.players[name].params) for name in before.players}


# The transforms

MESH = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))


def on_every_device(state):
    """Where the steps leave it, so that the first compiles no program of its own."""
    return jax.device_put(state, NamedSharding(MESH, PartitionSpec()))


def scanned(row):
    def run(state, batches):
        state, metrics = jax.lax.scan(train_step(row), state, batches)
        return state, jax.tree.map(lambda x: x[-1], metrics)

    return jax.jit(run)(new_state(row), BATCHES)


def sharded(row):
    batches = jax.device_put(BATCHES, NamedSharding(MESH, PartitionSpec(None, "data")))
    return loop(jax.jit(train_step(row)), on_every_device(new_state(row)), batches)


def pmapped(row, batches):
    step = jax.pmap(partial(train_step(row), axis_name="data"), "data", in_axes=(None, 0), out_axes=None)
    cut = {name: x.reshape(len(x), REPLICAS, -1, *x.shape[2:]) for name, x in batches.items()}
    return loop(step, on_every_device(new_state(row)), cut)


def shard_mapped(row, batches, check_vma):
    step = jax.shard_map(
        partial(train_step(row), axis_name="data"),
        mesh=MESH,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
        check_vma=check_vma,
    )
    return loop(jax.jit(step), on_every_device(new_state(row)), batches)


# Each with the largest difference it may make over three steps: float32 sums in another order, which batch
# normalisation amplifies where a channel hardly varies.
WHOLE_BATCH = {"scan": (scanned, 1e-5), "sharded jit": (sharded, 1e-4)}
REPLICATED = {
    "pmap": (pmapped, 1e-4),
    "shard_map": (partial(shard_mapped, check_vma=True), 1e-4),
    "unchecked shard_map": (partial(shard_mapped, check_vma=False), 1e-4),
}
MEMBERS_TOLERANCE = 1e-5


def test_every_task_has_rows():
    assert {type(config).__name__ for config in ROWS.values()} == set(TASKS.values())


@each_row
@pytest.mark.parametrize("transform", WHOLE_BATCH)
def test_whole_batch_transforms_equal_the_plain_loop(row, transform):
    run, tolerance = WHOLE_BATCH[transform]
    assert difference(on_host(run(row)), plain(row)) < tolerance


@each_row
@pytest.mark.parametrize("transform", REPLICATED)
def test_replicas_equal_the_plain_loop(row, transform, monkeypatch):
    run, tolerance = REPLICATED[transform]
    batches = BATCHES
    if row in RANDOM:
        monkeypatch.setattr(task_of(ROWS[row]), "stream", stream_of_one_device)
        batches = REPEATED
    assert difference(on_host(run(row, batches)), plain(row)) < tolerance


def stream_of_one_device(key, name, step, axis_name=None):
    return parallel.stream(key, name, step)


@pytest.mark.parametrize("row", ["augmented cnn", "vae", "relativistic gan"])
def test_replicas_draw_apart_but_alike_under_pmap_and_shard_map(row):
    """Given the same examples, replicas that drew the same numbers would all make the plain step."""
    tolerance = REPLICATED["shard_map"][1]
    under_pmap, under_shard_map = (on_host(REPLICATED[name][0](row, REPEATED)) for name in ("pmap", "shard_map"))
    assert difference(under_shard_map, under_pmap) < tolerance < difference(under_pmap, plain(row)) / 10


def test_streams_differ_by_name_step_and_replica():
    def keys(step):
        return [parallel.stream(jax.random.key(0), name, step, "data") for name in ("noise", "augment")]

    drawn = jax.pmap(lambda _: jax.vmap(keys)(jnp.arange(2)), "data")(np.arange(REPLICAS))
    words = np.stack(jax.device_get(jax.tree.map(jax.random.key_data, drawn))).reshape(-1, 2)
    assert len(np.unique(words, axis=0)) == 2 * 2 * REPLICAS


@each_row
def test_members_of_a_vmap_equal_separate_runs(row):
    """Over seeds and learning rates at once: a search is a vmap."""
    rates = np.float32(ROWS[row].optimizer.lr) * np.array([1.0, 0.5], np.float32)
    states = [new_state(row, seed, lr=rate) for seed, rate in enumerate(rates)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    members = on_host(loop(jax.jit(jax.vmap(train_step(row), (0, None))), together, BATCHES))
    for seed, rate in enumerate(rates):
        member = jax.tree.map(lambda x, seed=seed: x[seed], members)
        assert difference(member, plain(row, seed, lr=rate)) < MEMBERS_TOLERANCE


# What a step leaves as it was, and what it may not do


@each_row
def test_steps_learn(row):
    """A wrong scale of the gradient must show beside the tolerances, so every player has to move far more."""
    assert min(movement(row).values()) > 1e-3
    state, metrics = new_state(row), []
    for _ in range(30):
        state, values = counted_step(row)[0](state, FIRST)
        metrics.append(values)
    metrics = jax.device_get(metrics)
    assert all(np.isfinite(value) for values in metrics for value in values.values())
    losses = [values["loss"] for values in metrics]
    if not isinstance(ROWS[row], GAN):
        assert np.mean(losses[-5:]) < np.mean(losses[:5])


@each_row
def test_a_step_keeps_the_form_of_the_state_and_counts_one(row):
    before = jax.eval_shape(lambda: new_state(row))
    after, metrics = jax.eval_shape(train_step(row), before, FIRST)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert jax.tree.leaves(after) == jax.tree.leaves(before)
    assert all((value.shape, value.dtype) == ((), jnp.float32) for value in metrics.values())
    assert plain(row)[0].step == STEPS


@each_row
def test_steps_trace_once_whatever_the_hyperparameters(row):
    slow, _ = plain(row, lr=0.0)
    fast, _ = plain(row)
    assert counted_step(row)[1] == [row]
    before = on_host(new_state(row))
    for name, player in before.players.items():
        assert difference(slow.players[name].params, player.params) == 0
        assert difference(fast.players[name].params, player.params) > 0


@each_row
def test_a_step_takes_its_state_over_and_talks_to_no_host(row):
    state, batch = new_state(row), jax.device_put(FIRST)
    step, _ = counted_step(row)
    state, _ = step(state, batch)
    with jax.transfer_guard("disallow"):
        after, _ = step(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, batch)))


@each_row
def test_programs_hold_float32_and_nothing_of_the_host(row, monkeypatch):
    state = new_state(row)
    # flax's own draws with jax's default.
    monkeypatch.setattr(nn.Dropout, "__call__", lambda _, x: x)
    # Allowed 64 bits, a program shows where it takes jax's default instead of naming its dtype.
    with jax.enable_x64(True):
        program = jax.make_jaxpr(train_step(row))(state, FIRST)
    equations = list(all_equations(program.jaxpr))
    names = {equation.primitive.name for equation in equations}
    assert names & {"dot_general", "conv_general_dilated"}
    assert not {name for name in names if "callback" in name or name in ("device_put", "infeed", "outfeed")}
    dtypes = {str(out.aval.dtype) for equation in equations for out in equation.outvars}
    assert dtypes <= {"float32", "int32", "int64", "uint32", "uint8", "bool", "key<fry>"}


def all_equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from all_equations(inner)
