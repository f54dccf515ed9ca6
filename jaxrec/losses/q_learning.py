"""Q-learning: targets, losses, and the replay of what happened in proportion to what is left to learn from it."""

import jax
import jax.numpy as jnp
import optax

FIRST_CORRECTION = 0.4
"""Exponent of the importance weights at the beginning of a run; at its end it is 1 (Schaul et al. 2016)."""


def dueling(value: jax.Array, advantage: jax.Array) -> jax.Array:
    """Action values, float32 [..., A], of a state's value [...] and its actions' advantages [..., A].

    The advantages count from their mean, so that value and advantages are determined (Wang et al. 2016).
    """
    advantage = jnp.asarray(advantage, jnp.float32)
    return jnp.asarray(value, jnp.float32)[..., None] + advantage - advantage.mean(-1, keepdims=True)


def double_q_target(
    reward: jax.Array, done: jax.Array, discount: float, online: jax.Array, target: jax.Array
) -> jax.Array:
    """What the value of the action that was made should be, float32 [...] (van Hasselt et al. 2016).

    The online network chooses the next action, and the target network says what it is worth.

    Args:
        reward: of the action that was made, [...].
        done: whether it ended the episode, bool [...]: nothing follows then.
        discount: what a reward is worth one action later.
        online: action values of the next state by the network that learns, [..., A].
        target: the same by the target network.
    """
    best = online.argmax(-1)
    following = jnp.take_along_axis(jnp.asarray(target, jnp.float32), best[..., None], axis=-1)[..., 0]
    return jnp.asarray(reward, jnp.float32) + discount * jnp.where(done, 0.0, following)


def q_loss(values: jax.Array, action: jax.Array, target: jax.Array) -> jax.Array:
    """Half the squared error, float32 [...], of the values [..., A] at the actions that were made, int [...].

    The target [...] has no gradient. Huber's loss would be steadier, but where chance decides what follows, its minimum
    is not the mean of the targets.
    """
    made = jnp.take_along_axis(jnp.asarray(values, jnp.float32), action[..., None], axis=-1)[..., 0]
    return optax.losses.l2_loss(made, jax.lax.stop_gradient(target))


def sampled(key: jax.Array, priority: jax.Array, count: int) -> jax.Array:
    """Numbers, int32 [count], drawn in proportion to priorities, float32 [N], at least 0.

    The sum of the priorities is cut into ``count`` equal parts and one number drawn from each, as in the paper on
    prioritized replay (Schaul et al. 2016); a priority of 0 is not drawn, unless all are 0.
    """
    ends = jnp.cumsum(priority)
    place = jnp.arange(count, dtype=jnp.float32) + jax.random.uniform(key, (count,), jnp.float32)
    place = jnp.searchsorted(ends, place / count * ends[-1], side="right").astype(jnp.int32)
    # Rounding may reach beyond the last number that has a priority.
    last = (ends < ends[-1]).sum(dtype=jnp.int32)
    return jnp.minimum(place, jnp.minimum(last, len(priority) - 1))


def importance_weights(priority: jax.Array, place: jax.Array, correction: jax.Array) -> jax.Array:
    """Weights, float32 [count] in [0, 1], that undo the preference of :func:`sampled`: (1 / (N P)) ^ ``correction``.

    They are divided by the greatest of them. Numbers of priority 0 get the weight 0.

    Args:
        priority: float32 [N]; N counts those above 0.
        place: the numbers that were drawn, int [count].
        correction: how much of the preference is undone, 0 to 1.
    """
    chosen = priority[place]
    there = chosen > 0
    # The number and the sum of all priorities cancel when the weights are divided by the greatest.
    weight = jnp.where(there, jnp.where(there, chosen, 1.0) ** -correction, 0.0)
    return weight / jnp.maximum(weight.max(), 1e-30)


def correction(progress: jax.Array) -> jax.Array:
    """The exponent of the importance weights when ``progress``, 0 to 1, of a run is over: from 0.4 to 1."""
    return FIRST_CORRECTION + (1 - FIRST_CORRECTION) * progress


def explored(progress: jax.Array, share: float, last: float) -> jax.Array:
    """Share of actions that explore: it falls linearly from 1 to ``last`` over the first ``share`` of a run.

    ``progress`` is what part of the run is over, 0 to 1.
    """
    fallen = jnp.minimum(progress / max(share, 1e-6), 1.0)
    return 1 - (1 - last) * fallen
