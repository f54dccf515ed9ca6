"""The turn of the advantage actor-critic: play by the policy, and learn from these episodes.

Mnih et al. 2016 (https://arxiv.org/abs/1602.01783), with generalized advantages (Schulman et al. 2016).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.losses import policy
from jaxrec.tasks.agent.episodes import AgentState, moves_that_count, played, told
from jaxrec.tasks.agent.examples import Examples, read
from jaxrec.tasks.agent.policies import judged, sampling
from jaxrec.tasks.learning import learn
from jaxrec.tasks.state import Metrics


def actor_critic_step(
    state: AgentState, examples: Examples, keys: jax.Array, key: Callable, axis_name: str | None
) -> tuple[AgentState, Metrics]:
    """Plays by the policy, and learns from these episodes.

    Args:
        state: the state before the step.
        examples: those of the batch.
        keys: of the episodes, [B, copies].
        key: ``key(name)``, of other streams of this step.
        axis_name: the mapped axis of ``pmap`` or ``shard_map``.
    """
    config, player = state.config, state.players["net"]
    seen = read(config, examples)
    episode = played(state, examples, sampling(state, seen), keys, axis_name)
    counts = moves_that_count(episode, examples)
    news = told(episode, counts)
    # What the environment ended as is not learned from.
    moves = {"example": seen, "episode": episode._replace(state=None), "counting": counts}

    def loss(params: Any, stats: Any, moves: Any, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        episode = moves["episode"]
        batch, copies, time = episode.action.shape

        def time_first(values: jax.Array) -> jax.Array:
            """Values [B, copies, T] as the losses of policies read them: [T, B * copies]."""
            return values.reshape(batch * copies, time).T

        # One call of the network for all states: the moves, and what was seen after the last.
        every = jax.tree.map(lambda x: x.reshape(batch, copies * (time + 1), *x.shape[3:]), episode.observation)
        judgment = judged(state, {"params": params, **stats}, moves["example"], every)
        values = judgment.value.reshape(batch * copies, time + 1).T
        logits = judgment.advantage.reshape(batch * copies, time + 1, -1).swapaxes(0, 1)[:-1]
        action, reward = time_first(episode.action), time_first(episode.reward)
        done, counts = time_first(episode.done), time_first(moves["counting"])

        # Nothing follows the end of an episode. No gradient goes through what policy and value are held against.
        discounts = jnp.where(done, jnp.float32(0), config.discount)
        advantages = policy.generalized_advantages(reward, discounts, jax.lax.stop_gradient(values), config.trace)
        log_probs = policy.categorical_log_prob(logits, action)
        entropy = policy.categorical_entropy(logits)
        each = policy.policy_gradient_loss(log_probs, advantages) - config.entropy * entropy
        each += policy.value_loss(values[:-1], advantages + values[:-1])

        number = jnp.maximum(counts.sum(dtype=jnp.float32), 1.0)
        value = jnp.where(counts, each, 0.0).sum() / number
        means = {"entropy": jnp.where(counts, entropy, 0.0).sum() / number, "value": judgment.value.mean()}
        return value, ({"loss": value, **means, **news}, stats)

    player, metrics = learn(player, state, loss, moves, key("model"), axis_name=axis_name)
    return state.replace(players={**state.players, "net": player}), metrics
