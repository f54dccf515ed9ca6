"""Losses of policies and values: a decision process small enough to be summed over, and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from jaxrec import losses

STATES, ACTIONS, STEPS = 2, 3, 3
DISCOUNT = 0.9
RNG = np.random.default_rng(0)
REWARD = jnp.asarray(RNG.uniform(0, 1, (STATES, ACTIONS)), jnp.float32)
"""What an action gives in a state."""
NEXT = jnp.asarray(RNG.dirichlet(np.ones(STATES), (STATES, ACTIONS)), jnp.float32)
"""The chance of each state after it; an episode starts in state 0 and ends after three steps."""
POLICY = jnp.asarray(RNG.normal(size=(STEPS, STATES, ACTIONS)), jnp.float32)
"""Logits of the actions, at each step."""


def exact_values(policy):
    """The value of each state before each step and after the last, [T + 1, S], by going back from the end."""
    values = [jnp.zeros(STATES)]
    for step in reversed(range(STEPS)):
        gain = REWARD + DISCOUNT * NEXT @ values[0]
        values.insert(0, (jax.nn.softmax(policy[step]) * gain).sum(-1))
    return jnp.stack(values)


@pytest.fixture(scope="module")
def episodes():
    """Four million episodes that follow the policy, those of one path together.

    States, actions and rewards [T, P] of each path, and the share of the episodes [P] that took it.
    """
    rng, count = np.random.default_rng(1), 2**22
    state, path = np.zeros(count, np.int8), np.zeros(count, np.int16)
    for step in range(STEPS):
        action = drawn(rng, jax.nn.softmax(POLICY[step]), state)
        path = (path * STATES + state) * ACTIONS + action
        state = drawn(rng, NEXT.reshape(-1, STATES), state * ACTIONS + action)
    counts = np.bincount(path)
    taken = np.flatnonzero(counts)
    steps = np.stack([taken // (STATES * ACTIONS) ** (STEPS - 1 - step) for step in range(STEPS)])
    states, actions = steps // ACTIONS % STATES, steps % ACTIONS
    return states, actions.astype(np.int32), REWARD[states, actions], (counts[taken] / count).astype(np.float32)


def drawn(rng, chances, rows):
    """One number for each of the rows int [N] of a table of chances [R, K], int8 [N]."""
    below = np.cumsum(np.asarray(chances), -1)[rows, :-1]
    return (rng.random((len(rows), 1)) > below).sum(-1, dtype=np.int8)


def discounts(rewards):
    """An episode ends with its last step."""
    return jnp.full_like(rewards, DISCOUNT).at[-1].set(0.0)


def of_states(table, states):
    """The rows of a table [T, S, ...] for states int [T, B]."""
    return table[np.arange(len(states))[:, None], states]


def test_the_process_is_summed_over_rightly():
    """The value by recursion is the sum over all paths of chance times return."""
    chances, total = jax.nn.softmax(POLICY), 0.0
    paths = itertools.product(range(ACTIONS), repeat=STEPS)
    for actions, between in itertools.product(list(paths), itertools.product(range(STATES), repeat=STEPS - 1)):
        states, chance, gain = (0, *between), 1.0, 0.0
        for step, (state, action) in enumerate(zip(states, actions, strict=True)):
            chance *= chances[step, state, action]
            gain += DISCOUNT**step * REWARD[state, action]
            if step + 1 < STEPS:
                chance *= NEXT[state, action, states[step + 1]]
        total += float(chance * gain)
    assert_allclose(exact_values(POLICY)[0, 0], total, rtol=1e-4)


@pytest.mark.parametrize("estimate", ["returns", "returns less values", "generalized", "clipped"])
def test_policy_gradient_is_that_of_the_expected_return(episodes, estimate):
    exact = jax.grad(lambda policy: exact_values(policy)[0, 0])(POLICY)
    states, actions, rewards, shares = episodes
    values = of_states(exact_values(POLICY)[:-1], states)
    advantages = losses.discounted_returns(rewards, discounts(rewards), jnp.zeros(len(shares)))
    if estimate == "returns less values":
        advantages = advantages - values
    if estimate == "generalized":
        # With exact values the estimates are unbiased for every decay.
        padded = jnp.concatenate([values, jnp.zeros_like(values[:1])])
        advantages = losses.generalized_advantages(rewards, discounts(rewards), padded, 0.7)
    # Later steps count less, as they do in the value of the start.
    advantages = advantages * DISCOUNT ** np.arange(STEPS, dtype=np.float32)[:, None]
    old = losses.categorical_log_prob(of_states(POLICY, states), actions)

    def loss(policy):
        log_probs = losses.categorical_log_prob(of_states(policy, states), actions)
        if estimate == "clipped":
            each = losses.clipped_policy_loss(log_probs, old, advantages, 0.2)
        else:
            each = losses.policy_gradient_loss(log_probs, advantages)
        return (each.sum(0) * shares).sum()

    assert_allclose(-jax.grad(loss)(POLICY), exact, atol=1e-3)


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_the_value_converges_to_the_exact_one(episodes, decay):
    """The targets are the estimated advantages and the values themselves; with decay 1, the returns."""
    states, _, rewards, shares = episodes
    exact = exact_values(POLICY)[:-1]

    def step(table, _):
        values = of_states(table, states)
        padded = jnp.concatenate([values, jnp.zeros_like(values[:1])])
        targets = values + losses.generalized_advantages(rewards, discounts(rewards), padded, decay)
        gradient = jax.grad(lambda table: (losses.value_loss(of_states(table, states), targets) * shares).sum())(table)
        return table - gradient, None

    values, _ = jax.lax.scan(step, jnp.zeros((STEPS, STATES)), length=200)
    # The second state is never there before the first step.
    assert_allclose(values[0, 0], exact[0, 0], atol=1e-3)
    assert_allclose(values[1:], exact[1:], atol=1e-3)


def test_returns_end_with_their_episodes():
    rewards = jnp.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    factors = jnp.array([[0.5, 0.5], [0.5, 0.0], [0.5, 0.5]])
    found = losses.discounted_returns(rewards, factors, jnp.array([8.0, 8.0]))
    assert_allclose(found, [[4.0, 2.0], [6.0, 2.0], [8.0, 8.0]])


@pytest.mark.parametrize("decay", [0.0, 0.6, 1.0])
def test_generalized_advantages_are_sums_of_surprises(decay):
    rng = np.random.default_rng(3)
    rewards, factors, values = rng.normal(size=(4, 3)), rng.uniform(size=(4, 3)), rng.normal(size=(5, 3))
    expected = np.zeros((4, 3))
    for start in range(4):
        weight = np.ones(3)
        for step in range(start, 4):
            expected[start] += weight * (rewards[step] + factors[step] * values[step + 1] - values[step])
            weight = weight * factors[step] * decay
    given = [jnp.asarray(x, jnp.float32) for x in (rewards, factors, values)]
    found = losses.generalized_advantages(*given, decay)
    assert found.dtype == jnp.float32
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if decay == 1.0:
        returns = losses.discounted_returns(*given[:2], given[2][-1])
        assert_allclose(found, returns - given[2][:-1], rtol=1e-5, atol=1e-6)


def test_clipping_stops_the_gradient_of_what_has_gained():
    old = jnp.log(jnp.full((1, 4), 0.5))
    new = old + jnp.log(jnp.array([[1.5, 1.5, 0.5, 0.5]]))
    advantages = jnp.array([[1.0, -1.0, 1.0, -1.0]])
    value, gradient = jax.value_and_grad(lambda x: losses.clipped_policy_loss(x, old, advantages, 0.2).sum())(new)
    assert_allclose(value, -(1.2 - 1.5 + 0.5 - 0.8), rtol=1e-5)
    assert_allclose(gradient, [[0.0, 1.5, -0.5, 0.0]], atol=1e-5)


def test_distributions_are_those_of_scipy():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(5, 3))
    chances = scipy.special.softmax(logits, -1)
    actions = np.array([0, 2, 1, 1, 0])
    given = jnp.asarray(logits, jnp.float32)
    assert_allclose(
        losses.categorical_log_prob(given, jnp.asarray(actions)), np.log(chances[np.arange(5), actions]), 1e-5
    )
    assert_allclose(losses.categorical_entropy(given), scipy.stats.entropy(chances, axis=-1), 1e-5)
    assert_allclose(losses.categorical_entropy(jnp.array([[0.0, 0.0, -jnp.inf]])), [np.log(2)], 1e-5)
    mean, spread, point = rng.normal(size=(5, 2)), rng.uniform(0.1, 2, (5, 2)), rng.normal(size=(5, 2))
    normal = scipy.stats.norm(mean, spread)
    found = losses.gaussian_log_prob(*(jnp.asarray(x, jnp.float32) for x in (mean, spread, point)))
    assert_allclose(found, normal.logpdf(point).sum(-1), 1e-4)
    assert_allclose(
        losses.gaussian_entropy(jnp.asarray(spread, jnp.float32)), normal.entropy().sum(-1), rtol=1e-4, atol=1e-5
    )
