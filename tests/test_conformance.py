"""Every system under every transform of jax: a table of small systems against a table of transforms.

A system that draws anything draws its own numbers on each replica, so under an axis name it equals the plain loop only
if two things are taken away: the replica's number from its keys, and its share of the batch, in place of which every
replica gets all of it. What is left must be the plain step exactly; that replicas draw apart is a test of its own.
"""

import sys
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from systems import ROWS, at, batches, systems

from jaxrec import parallel
from jaxrec.settings import registry
from jaxrec.tasks.system import system_of

REPLICAS, BATCH, STEPS = jax.device_count(), 16, 3
# The second Python of the gate tries the rows that draw nothing; the marks deselect there and nowhere else.
SLOW = {name: pytest.mark.slow if row.draws else () for name, row in ROWS.items()}
each_row = pytest.mark.parametrize("row", [pytest.param(name, marks=SLOW[name]) for name in ROWS])
DRAWING = {registry.name_of(row.config): name for name, row in reversed(ROWS.items()) if row.draws}
"""The first row of each system that draws random numbers."""


# One row: its batches, its states and its step, compiled once for all tests.


@cache
def batches_of(row):
    return batches(ROWS[row].config, STEPS, BATCH)


def first(row):
    return at(batches_of(row), 0)


def repeated(row):
    """Every replica's share is the whole batch."""
    return {name: np.concatenate([values] * REPLICAS, axis=1) for name, values in batches_of(row).items()}


@cache
def initialiser(row):
    config = ROWS[row].config
    return jax.jit(partial(system_of(config).init, config))


def new_state(row, seed=0, **hyper):
    state = initialiser(row)(jax.random.key(seed), first(row))
    return state.replace(hyper={**state.hyper, **{name: jnp.float32(value) for name, value in hyper.items()}})


def train_step(row):
    return system_of(ROWS[row].config).train_step


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
    for i in range(len(batches["index"])):
        state, metrics = step(state, at(batches, i))
    return state, metrics


def plain(row, seed=0, **hyper):
    """What everything is held against: a Python loop over the jitted step, on the host."""
    return on_host(loop(counted_step(row)[0], new_state(row, seed, **hyper), batches_of(row)))


def on_host(tree):
    return jax.device_get(jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree))


def is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def difference(a, b):
    """The largest difference between two results' arrays, each relative to its largest number, if that is above 1."""
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x.shape, y.shape), a, b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    apart = partial(np.subtract, dtype=np.float64)
    return max(np.max(np.abs(apart(x, y)), initial=0) / np.max(np.abs(y), initial=1) for x, y in pairs)


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

    return jax.jit(run)(new_state(row), batches_of(row))


def sharded(row):
    batches = jax.device_put(batches_of(row), NamedSharding(MESH, PartitionSpec(None, "data")))
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
# normalization amplifies where a channel hardly varies.
WHOLE_BATCH = {"scan": (scanned, 1e-5), "sharded jit": (sharded, 1e-4)}
REPLICATED = {
    "pmap": (pmapped, 1e-4),
    "shard_map": (partial(shard_mapped, check_vma=True), 1e-4),
    "unchecked shard_map": (partial(shard_mapped, check_vma=False), 1e-4),
}
MEMBERS_TOLERANCE = 1e-5


def test_every_system_has_a_row():
    assert set(systems()) >= {*registry.own(), "rotation"}


@each_row
@pytest.mark.parametrize("transform", WHOLE_BATCH)
def test_whole_batch_transforms_equal_the_plain_loop(row, transform):
    run, tolerance = WHOLE_BATCH[transform]
    assert difference(on_host(run(row)), plain(row)) < tolerance


@each_row
@pytest.mark.parametrize("transform", REPLICATED)
def test_replicas_equal_the_plain_loop(row, transform, monkeypatch):
    run, tolerance = REPLICATED[transform]
    batches = batches_of(row)
    if ROWS[row].draws:
        # A system may be several files: streams of replicas are asked for in that of the step.
        module = sys.modules[system_of(ROWS[row].config).train_step.__module__]
        monkeypatch.setattr(module, "stream", stream_of_one_device)
        batches = repeated(row)
    assert difference(on_host(run(row, batches)), plain(row)) < tolerance


def stream_of_one_device(key, name, step, axis_name=None):
    return parallel.stream(key, name, step)


@pytest.mark.skipif(REPLICAS == 1, reason="one device has no replicas")
@pytest.mark.parametrize("row", DRAWING.values())
def test_replicas_draw_apart_but_alike_under_pmap_and_shard_map(row):
    """Given the same examples, replicas that drew the same numbers would all make the plain step."""
    tolerance = REPLICATED["shard_map"][1]
    under_pmap = on_host(pmapped(row, repeated(row)))
    under_shard_map = on_host(shard_mapped(row, repeated(row), check_vma=True))
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
    rates = np.float32(ROWS[row].config.optimizer.lr) * np.array([1.0, 0.5], np.float32)
    states = [new_state(row, seed, lr=rate) for seed, rate in enumerate(rates)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    members = on_host(loop(jax.jit(jax.vmap(train_step(row), (0, None))), together, batches_of(row)))
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
        state, values = counted_step(row)[0](state, first(row))
        metrics.append(values)
    metrics = jax.device_get(metrics)
    assert all(np.isfinite(value) for values in metrics for value in values.values())
    losses = [values["loss"] for values in metrics]
    if ROWS[row].descends:
        assert np.mean(losses[-5:]) < np.mean(losses[:5])


@each_row
def test_a_step_keeps_the_form_of_the_state_and_counts_one(row):
    before = jax.eval_shape(lambda: new_state(row))
    after, metrics = jax.eval_shape(train_step(row), before, first(row))
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
    state, batch = new_state(row), jax.device_put(first(row))
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
    monkeypatch.setattr(nn.Dropout, "__call__", lambda _, x, **__: x)
    # Allowed 64 bits, a program shows where it takes jax's default instead of naming its dtype.
    with jax.enable_x64(True):
        program = jax.make_jaxpr(train_step(row))(state, first(row))
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


# What is asked of a state


@each_row
def test_evaluation_counts_each_real_example_once(row):
    """The padding of one batch is what counts in the other: together they are the batch without padding."""
    state, batch = new_state(row), first(row)
    evaluate = jax.jit(system_of(ROWS[row].config).eval_step)

    def metrics(real):
        return jax.device_get(evaluate(state, {**batch, "real": real}))

    half = np.arange(BATCH) < BATCH // 2 + 1
    together = metrics(np.ones(BATCH, bool))
    one, other = metrics(half), metrics(~half)
    assert one.keys() == together.keys()
    for name, metric in together.items():
        merged = one[name].merge(other[name]).compute()
        for value, expected in metric.compute().items():
            np.testing.assert_allclose(merged[value], expected, rtol=1e-5, atol=1e-6, err_msg=value)


@each_row
def test_predictions_and_pictures_are_of_the_images(row):
    config, batch = ROWS[row].config, first(row)
    system = system_of(config)
    if system.rows is not None:
        inputs = batch["clip"] if "clip" in batch else batch["image"]
        whole = jax.device_get(jax.jit(system.predict)(new_state(row), inputs))
        backwards = jax.device_get(jax.jit(system.predict)(new_state(row), inputs[::-1]))
        assert difference({name: values[::-1] for name, values in backwards.items()}, whole) < 1e-5
        assert {len(values) for values in whole.values()} == {BATCH}
    pictures = jax.device_get(jax.jit(system.artifacts)(new_state(row), batch))
    for picture in pictures.values():
        images = picture["frames"][0] if "frames" in picture else picture["images"]
        assert images.ndim == 5
        assert np.isfinite(images).all()
        assert images.min() >= 0 and images.max() <= 1
