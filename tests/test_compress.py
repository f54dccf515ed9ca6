"""Compression: pruning by magnitude, channels removed, a teacher's answers, and the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import ROWS, at, batches, systems

from jaxrec.after.prune import MASKS, Gradual, cubic, kernels, pruning, smallest_out
from jaxrec.errors import UserError
from jaxrec.tasks.system import system_of

SIZE = 8


def test_sparsity_rises_as_the_cube_says():
    schedule = Gradual(0.8, begin=10, end=30)
    expected = {0: 0, 10: 0, 15: 0.8 * (1 - 0.75**3), 20: 0.8 * (1 - 0.5**3), 30: 0.8, 1000: 0.8}
    for step, share in expected.items():
        np.testing.assert_allclose(cubic(schedule, step), share, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"sparsity": 0.0}, {"sparsity": 1.0}, {"begin": 20}, {"every": 0}])
def test_a_schedule_that_is_none_is_refused(wrong):
    with pytest.raises(UserError):
        Gradual(**{"sparsity": 0.5, "end": 20, **wrong})


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_exactly_the_smallest_are_left_out_and_stay_out(scope):
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(7, 9)), "b": 10 * rng.normal(size=(3, 3, 4, 5))}
    weights = {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}
    masks = {name: jnp.ones(value.shape, bool) for name, value in weights.items()}
    half = smallest_out(weights, masks, jnp.float32(0.5), scope)
    groups = [["a"], ["b"]] if scope == "layer" else [["a", "b"]]
    for group in groups:
        sizes = np.concatenate([np.abs(weights[name]).ravel() for name in group])
        kept = np.concatenate([np.asarray(half[name]).ravel() for name in group])
        assert (~kept).sum() == round(0.5 * sizes.size)
        assert sizes[~kept].max() < sizes[kept].min()
    # Those that were left out are the first of the next to be left out, however large they have become.
    grown = {name: jnp.where(half[name], value, 1000.0) for name, value in weights.items()}
    more = smallest_out(grown, half, jnp.float32(0.75), scope)
    assert all(not np.any(more[name] & ~half[name]) for name in weights)


def pruned_system(row):
    """A system with pruning around it, and batches."""
    config = ROWS[row].config
    return pruning(system_of(config), Gradual(0.75, end=4, every=2)), batches(config, 6, SIZE)


def test_zeros_stay_zero_through_training():
    """Of the parameters and of their average; the other weights go on learning."""
    system, many = pruned_system("cnn")
    state = system.init(ROWS["cnn"].config, jax.random.key(0), at(many, 0))
    step = jax.jit(system.train_step)
    shares, previous = [], state
    for number in range(6):
        previous = state
        state, metrics = step(state, at(many, number))
        shares.append(float(metrics["sparsity"]))
    np.testing.assert_allclose(shares, [0, 0.75 * (1 - 0.5**3), 0.75 * (1 - 0.5**3), 0.75, 0.75, 0.75], atol=0.005)
    masks, before = state.extra[MASKS]["net"], kernels(previous.player.params)
    averages = kernels(state.player.average)
    for name, value in kernels(state.player.params).items():
        assert np.array_equal(masks[name], previous.extra[MASKS]["net"][name])
        assert not np.any(np.where(masks[name], 0, value)) and not np.any(np.where(masks[name], 0, averages[name]))
        assert np.any(np.where(masks[name], value - before[name], 0)) or not masks[name].any()


@pytest.mark.parametrize("name", ["gan", "agent", "rotation"])
def test_a_pruned_step_keeps_what_else_a_state_keeps(name):
    """Of several players, with states of their own, and of a stranger's system."""
    row = systems()[name][0]
    system, many = pruned_system(row)
    before = jax.eval_shape(lambda key: system.init(ROWS[row].config, key, at(many, 0)), jax.random.key(0))
    after, metrics = jax.eval_shape(system.train_step, before, at(many, 0))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert jax.tree.leaves(after) == jax.tree.leaves(before)
    assert set(after.extra[MASKS]) == set(before.players)
    assert metrics["sparsity"].shape == ()
