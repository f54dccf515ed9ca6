"""Q-learning's parts against closed forms, and its values against the exact ones of a decision process."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.losses import q_learning

RNG = np.random.default_rng(0)


def test_the_mean_of_dueling_values_is_the_states_value():
    value, advantage = RNG.normal(size=5).astype(np.float32), RNG.normal(size=(5, 3)).astype(np.float32)
    values = q_learning.dueling(value, advantage)
    np.testing.assert_allclose(values.mean(-1), value, atol=1e-6)
    np.testing.assert_allclose(np.diff(values), np.diff(advantage), atol=1e-6)


def test_one_network_chooses_the_next_action_and_the_other_says_what_it_is_worth():
    online, target = jnp.array([[1.0, 5.0], [1.0, 5.0]]), jnp.array([[9.0, 2.0], [9.0, 2.0]])
    found = q_learning.double_q_target(jnp.array([1.0, 1.0]), jnp.array([False, True]), 0.5, online, target)
    np.testing.assert_array_equal(found, [1 + 0.5 * 2, 1])


def test_the_loss_is_half_the_squared_error_at_the_action_that_was_made():
    values, action, target = jnp.array([[0.0, 1.0], [4.0, 0.0]]), jnp.array([1, 0]), jnp.array([1.5, 1.0])
    np.testing.assert_allclose(q_learning.q_loss(values, action, target), [0.5 * 0.5**2, 0.5 * 3**2])
    slope = jax.grad(lambda values: q_learning.q_loss(values, action, target).sum())(values)
    np.testing.assert_allclose(slope, [[0, -0.5], [3, 0]])


def test_numbers_are_drawn_in_proportion_to_their_priorities():
    priority = jnp.array([0.0, 1.0, 0.0, 3.0, 0.5, 0.0])
    place = q_learning.sampled(jax.random.key(0), priority, 900)
    # One from each of 900 equal parts: a number gets its share but for the two parts at its ends.
    counts = np.bincount(place, minlength=6)
    assert np.abs(counts - 900 * np.asarray(priority) / 4.5).max() <= 2
    assert counts[np.asarray(priority) == 0].sum() == 0


def test_without_any_priority_numbers_are_still_places():
    place = np.asarray(q_learning.sampled(jax.random.key(0), jnp.zeros(4), 8))
    assert ((place >= 0) & (place < 4)).all()
    assert not q_learning.importance_weights(jnp.zeros(4), place, jnp.float32(1)).any()


def test_importance_weights_undo_the_preference():
    priority = jnp.array([0.0, 1.0, 2.0, 5.0])
    place, correction = jnp.array([1, 3, 2, 1, 0]), 0.7
    chance, count = np.asarray(priority) / 8, 3
    expected = [(1 / (count * chance[i])) ** correction if chance[i] else 0 for i in place]
    found = q_learning.importance_weights(priority, place, jnp.float32(correction))
    np.testing.assert_allclose(found, expected / np.max(expected), rtol=1e-5)
    # Fully undone, the weighted draws have the plain mean.
    every = q_learning.importance_weights(priority, jnp.arange(4), jnp.float32(1))
    weighted = chance * every
    np.testing.assert_allclose(weighted[1:] / weighted.sum(), [1 / 3] * 3, rtol=1e-5)


def test_exploring_falls_to_its_last_share():
    found = [q_learning.explored(jnp.float32(at), 0.5, 0.1) for at in (0, 0.25, 0.5, 1)]
    np.testing.assert_allclose(found, [1, 0.55, 0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose([q_learning.correction(jnp.float32(at)) for at in (0, 1)], [0.4, 1])


def test_values_converge_to_the_exact_ones_of_a_decision_process():
    """Three states, two actions, chances and rewards; the last state's second action ends the episode."""
    states, actions, discount = 3, 2, 0.8
    chance = RNG.dirichlet(np.ones(states), (states, actions)).astype(np.float32)
    reward = RNG.normal(size=(states, actions)).astype(np.float32)
    ends = np.zeros((states, actions), bool)
    ends[2, 1] = True
    exact = np.zeros((states, actions))
    for _ in range(200):
        exact = reward + discount * ~ends * (chance @ exact.max(-1))

    # All that may happen, each as often as it does.
    state, action, following = np.indices(chance.shape).reshape(3, -1)
    moves = jnp.array(reward[state, action]), jnp.array(ends[state, action]), discount

    def step(tables, _):
        online, target = tables
        wanted = q_learning.double_q_target(*moves, online[following], target[following])
        slope = jax.grad(lambda table: (chance.ravel() * q_learning.q_loss(table[state], action, wanted)).sum())(online)
        online = online - 0.5 * slope
        return (online, target + 0.2 * (online - target)), None

    start = jnp.zeros((states, actions))
    (found, _), _ = jax.jit(lambda table: jax.lax.scan(step, (table, table), None, length=400))(start)
    np.testing.assert_allclose(found, exact, atol=1e-3)
