"""Learning from rewards: returns, advantages, losses of a policy and of its value, distributions of actions.

Arrays are [T, B]: T steps of B episodes side by side. A step's discount is what the value of the step after it is
multiplied by: the discount rate, and 0 if the episode ends with this step.
"""

import math

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxrec.losses.arguments import floats


def discounted_returns(rewards: jax.Array, discounts: jax.Array, bootstrap: jax.Array) -> jax.Array:
    """The return of each step, float32 [T, B]: its reward, and the discounted return of the step after it.

    Args:
        rewards: of each step, [T, B].
        discounts: of each step, [T, B], in [0, 1].
        bootstrap: what is expected after the last step, [B]; 0 if all episodes end there.
    """
    rewards, discounts = floats(rewards, discounts)
    return _from_last(rewards, discounts, bootstrap)


def generalized_advantages(
    rewards: jax.Array, discounts: jax.Array, values: jax.Array, decay: jax.typing.ArrayLike
) -> jax.Array:
    """Generalized advantage estimates, float32 [T, B] (Schulman et al. 2016, https://arxiv.org/abs/1506.02438).

    Args:
        rewards: of each step, [T, B].
        discounts: of each step, [T, B], in [0, 1].
        values: of the state before each step, and of the one after the last, [T + 1, B].
        decay: lambda, in [0, 1]. 0: reward and value of the next state, less the value of this one. 1: the return,
            less the value.
    """
    rewards, discounts, before = floats(rewards, discounts, values[:-1])
    after = jnp.asarray(values[1:], jnp.float32)
    surprises = rewards + discounts * after - before
    return _from_last(surprises, discounts * decay, jnp.zeros_like(surprises[0]))


def _from_last(terms: jax.Array, factors: jax.Array, last: jax.Array) -> jax.Array:
    """The sums s[t] = terms[t] + factors[t] * s[t + 1], [T, B], in which s[T] is ``last`` [B]."""

    def step(after: jax.Array, here: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        term, factor = here
        found = term + factor * after
        return found, found

    # The product with 0 makes the start as much each replica's own as the terms are.
    start = jnp.asarray(last, jnp.float32) + 0 * terms[0]
    return lax.scan(step, start, (terms, factors), reverse=True)[1]


def policy_gradient_loss(log_probs: jax.Array, advantages: jax.Array) -> jax.Array:
    """Of each step, float32 [T, B]: the loss whose gradient is that of the expected return, negated.

    Williams 1992 (REINFORCE). The gradient does not pass through the advantages; they may be returns, or returns less
    any baseline that does not depend on the action.

    Args:
        log_probs: of the actions that were taken, [T, B].
        advantages: of these actions, [T, B].
    """
    log_probs, advantages = floats(log_probs, advantages)
    return -log_probs * lax.stop_gradient(advantages)


def clipped_policy_loss(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, clip: jax.typing.ArrayLike
) -> jax.Array:
    """Of each step, float32 [T, B]: the clipped surrogate of PPO (Schulman et al. 2017), negated.

    https://arxiv.org/abs/1707.06347. A policy gains nothing from actions whose probability it has already moved by the
    factor 1 + clip or 1 - clip.

    Args:
        log_probs: of the actions that were taken, under the policy that learns, [T, B].
        old_log_probs: under the policy that took them, [T, B].
        advantages: of these actions, [T, B].
        clip: above 0.
    """
    log_probs, old_log_probs, advantages = floats(log_probs, old_log_probs, advantages)
    advantages = lax.stop_gradient(advantages)
    ratio = jnp.exp(log_probs - lax.stop_gradient(old_log_probs))
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages)


def value_loss(values: jax.Array, returns: jax.Array) -> jax.Array:
    """Half the squared error of values, float32 [T, B]; the gradient does not pass through the returns [T, B]."""
    values, returns = floats(values, returns)
    return 0.5 * jnp.square(values - lax.stop_gradient(returns))


def categorical_log_prob(logits: jax.Array, actions: jax.Array) -> jax.Array:
    """The log probability, float32 [...], of actions int [...] under logits [..., A]."""
    chex.assert_equal_shape([logits[..., 0], actions])
    every = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    return jnp.take_along_axis(every, actions[..., None].astype(jnp.int32), axis=-1)[..., 0]


def categorical_entropy(logits: jax.Array) -> jax.Array:
    """The entropy in nats, float32 [...], of the actions under logits [..., A]; that of a logit -inf counts as 0."""
    every = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    chances = jnp.exp(every)
    return -jnp.where(chances > 0, chances * every, 0.0).sum(-1)


def gaussian_log_prob(mean: jax.Array, deviation: jax.typing.ArrayLike, actions: jax.Array) -> jax.Array:
    """The log density, float32 [...], of actions [..., D] whose D numbers are normal with this mean [..., D].

    ``deviation`` is the standard deviation, above 0, one number or an array that broadcasts to the actions.
    """
    mean, actions = floats(mean, actions)
    spread = jnp.broadcast_to(jnp.asarray(deviation, jnp.float32), mean.shape)
    away = (actions - mean) / spread
    return (-0.5 * jnp.square(away) - jnp.log(spread) - 0.5 * math.log(2 * math.pi)).sum(-1)


def gaussian_entropy(deviation: jax.Array) -> jax.Array:
    """The entropy in nats, float32 [...], of D normal numbers with standard deviations [..., D] above 0."""
    spread = jnp.asarray(deviation, jnp.float32)
    return (jnp.log(spread) + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
