"""The turn of double deep Q-learning: play, remember, and learn from moves of a replay.

Mnih et al. 2015 (https://doi.org/10.1038/nature14236), van Hasselt et al. 2016 (https://arxiv.org/abs/1509.06461); the
replay may prefer moves from which much is left to learn (Schaul et al. 2016, https://arxiv.org/abs/1511.05952).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.losses import q_learning
from jaxrec.tasks import replay
from jaxrec.tasks.agent.episodes import AgentState, moves_that_count, played, told
from jaxrec.tasks.agent.examples import Examples, kept, read
from jaxrec.tasks.agent.policies import action_values, exploring, judged, newest
from jaxrec.tasks.learning import learn
from jaxrec.tasks.state import Metrics


def q_step(
    state: AgentState, examples: Examples, keys: jax.Array, key: Callable, axis_name: str | None
) -> tuple[AgentState, Metrics]:
    """Plays, remembers, and learns from moves of the replay.

    Args:
        state: the state before the step.
        examples: those of the batch.
        keys: of the episodes, [B, copies].
        key: ``key(name)``, of other streams of this step.
        axis_name: the mapped axis of ``pmap`` or ``shard_map``.
    """
    config, player = state.config, state.players["net"]
    progress = _progress(state)
    share = q_learning.explored(progress, config.explore, config.explore_last)
    episode = played(state, examples, exploring(state, examples, share), keys, axis_name)
    counts = moves_that_count(episode, examples)
    news = {**told(episode, counts), "explored": share}
    memory = replay.with_episodes(
        state.extra["replay"], state.step, kept(examples), episode, counts, config.kept, axis_name
    )
    place, moves = _remembered(state, memory, key("replay"), progress)
    moves["target"], surprise = targets(state, moves)

    def loss(params: Any, stats: Any, moves: Any, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        judgment = judged(state, {"params": params, **stats}, moves["example"], moves["before"])
        each = q_learning.q_loss(action_values(judgment)[:, 0], moves["action"], moves["target"])
        value = (moves["weight"] * each).mean()
        return value, ({"loss": value, "value": judgment.value.mean(), **news}, stats)

    player, metrics = learn(player, state, loss, moves, key("model"), axis_name=axis_name)
    if config.priority:
        memory = replay.reranked(memory, place, surprise, axis_name)
    return state.replace(players={**state.players, "net": player}, extra={**state.extra, "replay": memory}), metrics


def _progress(state: AgentState) -> jax.Array:
    """What part of the run is over, float32 scalar in [0, 1]; all of it if its length is not known."""
    steps = state.config.optimizer.steps
    return jnp.minimum(state.step.astype(jnp.float32) / steps, 1.0) if steps else jnp.float32(1.0)


def _remembered(
    state: AgentState, memory: replay.Replay, key: jax.Array, progress: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """The numbers, int32 [M], of moves drawn from the replay, and these moves with their weights in the loss."""
    config = state.config
    weighed = replay.weighed(memory, config.priority)
    place = q_learning.sampled(key, weighed, config.samples)
    moves = replay.recalled(memory, place)
    moves["example"] = read(config, moves["example"])
    # Moves that are drawn more often weigh less, so that the mean is that of all moves.
    moves["weight"] = q_learning.importance_weights(weighed, place, q_learning.correction(progress))
    return place, moves


def targets(state: AgentState, moves: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """What the values of moves [M] should be, and by how much the network is wrong about them, float32 [M] each.

    The network that learns chooses the next move, and its moving average says what that is worth: one network for both
    would prefer what it overrates.
    """
    config, player = state.config, state.players["net"]

    def values(variables: Any, moment: str) -> jax.Array:
        return action_values(judged(state, variables, moves["example"], moves[moment]))[:, 0]

    following = values(newest(player), "after")
    trusted = values(player.variables(), "after")
    target = q_learning.double_q_target(moves["reward"], moves["done"], config.discount, following, trusted)
    if not config.priority:
        # Nobody asks how wrong the network is, which would cost another pass.
        return target, target
    now = values(newest(player), "before")
    made = jnp.take_along_axis(now, moves["action"][:, None], axis=-1)[:, 0]
    return target, jnp.abs(target - made)
