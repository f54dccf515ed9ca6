"""The episodes that are played with examples: K of each, [B, K], in the environment of their own.

An environment is of one episode, and of one example; ``reset`` and ``step`` map it over all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxrec.environments import Choose, Environment, Episode, Rules, box_search, overlap, play
from jaxrec.settings.agent import Agent as Config
from jaxrec.tasks.agent.examples import Examples
from jaxrec.tasks.state import Metrics, State


class AgentState(State):
    """A state with the environment that ``init`` was given in place of the box, or None."""

    environment: Environment | None = struct.field(pytree_node=False, default=None, kw_only=True)


def rules(config: Config) -> Rules:
    """How the box moves, and what is rewarded."""
    return Rules(config.moves, config.shift, config.zoom, config.squeeze, config.enough, config.reward)


def environment_of(config: Config, given: Environment | None, example: Examples) -> Environment:
    """The environment of one example: the given one, or a box over its image."""
    return given or box_search(example["boxes"], example["there"], rules(config))


def reset(config: Config, given: Environment | None, examples: Examples) -> Callable[[jax.Array], tuple[Any, Any]]:
    """``reset(keys [B, K])`` of the environments of all examples."""

    def one(example: Examples, key: jax.Array) -> tuple[Any, Any]:
        return environment_of(config, given, example).reset(key)

    of_example = jax.vmap(one, (None, 0))
    return partial(jax.vmap(of_example), examples)


def step(config: Config, given: Environment | None, examples: Examples) -> Callable[..., Any]:
    """``step(state [B, K], action [B, K], keys [B, K])`` of the environments of all examples."""

    def one(example: Examples, state: Any, action: jax.Array, key: jax.Array) -> Any:
        return environment_of(config, given, example).step(state, action, key)

    of_example = jax.vmap(one, (None, 0, 0, 0))
    return partial(jax.vmap(of_example), examples)


def played(
    state: AgentState, examples: Examples, choose: Choose, keys: jax.Array, axis_name: str | None = None
) -> Episode:
    """Episodes [B, K] with the examples, by a policy, one for each of the keys [B, K]."""
    parts = (state.config, state.environment, examples)
    return play(reset(*parts), step(*parts), choose, keys, state.config.moves, axis_name)


def moves_that_count(episode: Episode, examples: Examples) -> jax.Array:
    """Which moves count, bool [B, K, T]: those before the end, of examples with something to find."""
    if "there" not in examples:
        return episode.there
    findable = examples["there"].any(-1)
    return episode.there & findable[:, None, None]


def told(episode: Episode, counting: jax.Array) -> Metrics:
    """Mean return and number of moves of the episodes that count, float32 scalars."""
    # An episode counts if its first move does.
    episodes = jnp.maximum(counting[..., 0].sum(dtype=jnp.float32), 1.0)
    rewards = jnp.where(counting, episode.reward, 0.0)
    return {"return": rewards.sum() / episodes, "moves": counting.sum(dtype=jnp.float32) / episodes}


def sums(episode: Episode) -> dict[str, jax.Array]:
    """Return and number of moves of episodes [B, 1], float32 [B]."""
    return {"return": episode.reward[:, 0].sum(-1), "moves": episode.there[:, 0].sum(-1, dtype=jnp.float32)}


def ends(episode: Episode, examples: Examples) -> jax.Array:
    """IoU, float32 [B], of the last boxes of episodes [B, 1] with the objects that they overlap most."""
    return jax.vmap(overlap)(episode.state.box[:, 0], examples["boxes"], examples["there"])


def scores(found: jax.Array, prefix: str) -> dict[str, jax.Array]:
    """``success`` and ``mean_iou`` of IoUs float32 [B], each example's own, under names with this prefix."""
    return {f"{prefix}success": (found >= 0.5).astype(jnp.float32), f"{prefix}mean_iou": found}
