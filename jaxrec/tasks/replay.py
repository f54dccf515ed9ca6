"""A replay in the state: the latest episodes, and how much there is to learn from each of their moves.

A replay is a dict of arrays with room for N examples, each with K episodes of T moves:

- ``example``: what the episodes of an example have in common, arrays [N, ...] by name;
- ``observation``: what was seen before each move and after the last, a tree of arrays [N, K, T + 1, ...];
- ``action`` int32, ``reward`` float32 and ``done`` bool [N, K, T];
- ``priority`` float32 [N, K, T]: 0 is no move, or one that does not count.

A move's number counts through all of them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.environments import Episode
from jaxrec.parallel import from_all_replicas, greatest_over_replicas

Replay = dict[str, Any]
LEAST = 1e-3
"""Priority of a move from which nothing is left to learn."""


def empty(room: int, shape: tuple[int, int], example: Any, observation: Any) -> Replay:
    """A replay with room for so many examples with ``shape`` = (K, T), without episodes.

    ``example`` holds arrays [1, ...] of one example, and ``observation`` those [1, 1, ...] of one state.
    """
    copies, moves = shape

    def seen(x: jax.Array) -> jax.Array:
        return jnp.zeros((room, copies, moves + 1, *x.shape[2:]), x.dtype)

    return {
        "example": jax.tree.map(lambda x: jnp.zeros((room, *x.shape[1:]), x.dtype), example),
        "observation": jax.tree.map(seen, observation),
        "action": jnp.zeros((room, *shape), jnp.int32),
        "reward": jnp.zeros((room, *shape), jnp.float32),
        "done": jnp.zeros((room, *shape), bool),
        "priority": jnp.zeros((room, *shape), jnp.float32),
    }


def with_episodes(
    replay: Replay,
    step: jax.Array,
    example: Any,
    episode: Episode,
    counting: jax.Array,
    most: int,
    axis_name: str | None = None,
) -> Replay:
    """The replay with episodes in place of the oldest.

    Args:
        replay: the replay.
        step: the training step; every step adds as many examples.
        example: what the episodes of an example have in common, arrays [B, ...].
        episode: [B, K, T].
        counting: which of the moves count, bool [B, K, T].
        most: of so many examples of the batch, at most, episodes are kept.
        axis_name: the mapped axis of ``pmap`` or ``shard_map``: each replica contributes as many.
    """
    room = len(replay["action"])
    new = {
        "example": example,
        "observation": episode.observation,
        "action": episode.action,
        "reward": episode.reward,
        "done": episode.done,
        # What is new is learned from soon: nothing has a higher priority.
        "priority": jnp.where(counting, jnp.maximum(replay["priority"].max(), 1.0), 0.0),
    }
    new = from_all_replicas(new, min(most, room), axis_name)
    count = len(new["action"])
    # As if the step's number times the count were taken, which could overflow.
    place = (step % room * count + jnp.arange(count, dtype=jnp.int32)) % room
    return jax.tree.map(lambda old, values: old.at[place].set(values), replay, new)


def weighed(replay: Replay, exponent: float) -> jax.Array:
    """The priorities of all moves, float32 [N * K * T], to the power of ``exponent``; 0 stays 0."""
    priority = replay["priority"].reshape(-1)
    return jnp.where(priority > 0, jnp.maximum(priority, LEAST) ** exponent, 0.0)


def recalled(replay: Replay, place: jax.Array) -> dict[str, Any]:
    """Moves by their numbers, int [M].

    ``example``, ``action``, ``reward`` and ``done`` are [M, ...]; what was seen ``before`` and ``after`` the move is
    [M, 1, ...].
    """
    _, copies, moves = replay["action"].shape
    example, copy, move = place // (copies * moves), place // moves % copies, place % moves
    found = {name: replay[name][example, copy, move] for name in ("action", "reward", "done")}
    found["example"] = jax.tree.map(lambda x: x[example], replay["example"])
    found["before"] = jax.tree.map(lambda x: x[example, copy, move][:, None], replay["observation"])
    found["after"] = jax.tree.map(lambda x: x[example, copy, move + 1][:, None], replay["observation"])
    return found


def reranked(replay: Replay, place: jax.Array, surprise: jax.Array, axis_name: str | None = None) -> Replay:
    """The replay with new priorities of the moves at ``place`` [M]: by how much, [M], the network was wrong."""
    priority = replay["priority"].reshape(-1)
    found = jnp.full_like(priority, -1.0).at[place].max(surprise)
    found = greatest_over_replicas(found, axis_name)
    known = (found >= 0) & (priority > 0)
    priority = jnp.where(known, jnp.maximum(found, LEAST), priority)
    return {**replay, "priority": priority.reshape(replay["priority"].shape)}
