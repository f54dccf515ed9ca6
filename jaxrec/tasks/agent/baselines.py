"""What the agent is compared with: random moves, a box in the middle, one who knows the objects, and a CNN.

The CNN sees whole images, needs as many operations as an episode, and learns from the same batches.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.boxes import giou
from jaxrec.environments import overlap
from jaxrec.parallel import mean_over_replicas
from jaxrec.tasks.agent.episodes import AgentState, ends, played, scores, sums
from jaxrec.tasks.agent.examples import Examples, read
from jaxrec.tasks.agent.policies import at_random, knowing
from jaxrec.tasks.learning import learn
from jaxrec.tasks.state import Metrics

SLOWEST = 0.01
"""Least rate of the running mean of the objects' sides."""


def baseline_scores(state: AgentState, examples: Examples, keys: jax.Array) -> dict[str, jax.Array]:
    """The scores of all that the agent is compared with, float32 [B]; a prefix tells whose each is."""
    sides = state.extra["sides"] / 2
    middle = jnp.concatenate([0.5 - sides, 0.5 + sides])
    center = jax.vmap(partial(overlap, middle))(examples["boxes"], examples["there"])
    oracle = played(state, examples, knowing(state, examples), keys)
    random = played(state, examples, at_random, keys)
    return {
        **scores(ends(random, examples), "random_"),
        **scores(center, "center_"),
        **scores(ends(oracle, examples), "oracle_"),
        "oracle_moves": sums(oracle)["moves"],
        **_cnn_scores(state, examples),
    }


def _cnn_scores(state: AgentState, examples: Examples) -> dict[str, jax.Array]:
    """The scores of the CNN to compare with, if there is one."""
    if "cnn" not in state.players:
        return {}
    boxes = _cnn_box(state, state.players["cnn"].best_params, examples)
    found = jax.vmap(overlap)(boxes, examples["boxes"], examples["there"])
    return scores(found, "cnn_")


def object_sides(state: AgentState, examples: Examples, axis_name: str | None) -> jax.Array:
    """The running mean of the objects' heights and widths as shares of the image's, float32 [2]."""
    boxes, there = examples["boxes"], examples["there"]
    sides = boxes[..., 2:] - boxes[..., :2]
    total = jnp.where(there[..., None], sides, 0.0).sum((0, 1))
    total, count = mean_over_replicas((total, there.sum(dtype=jnp.float32)), axis_name)
    old = state.extra["sides"]
    # The mean of all steps at first, and later one that slowly forgets.
    rate = jnp.maximum(1 / (state.step.astype(jnp.float32) + 1), SLOWEST)
    new = old + rate * (total / jnp.maximum(count, 1.0) - old)
    return jnp.where(count > 0, new, old)


def cnn_step(
    state: AgentState, examples: Examples, key: jax.Array, axis_name: str | None
) -> tuple[AgentState, Metrics]:
    """An update of the CNN to compare with, which is told of each image where the nearest object is."""

    def loss(params: Any, stats: Any, examples: Any, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        boxes, there = examples["boxes"], examples["there"]
        found = _cnn_box(state, params, examples)
        each = jnp.where(there, 1 - giou(found[:, None], boxes), jnp.inf).min(-1)
        # Images with nothing to find do not count.
        counts = there.any(-1)
        value = jnp.where(counts, each, 0.0).sum() / jnp.maximum(counts.sum(dtype=jnp.float32), 1.0)
        return value, ({"cnn_loss": value}, stats)

    player, metrics = learn(state.players["cnn"], state, loss, examples, key, axis_name=axis_name, name="cnn")
    return state.replace(players={**state.players, "cnn": player}), {"cnn_loss": metrics["cnn_loss"]}


def _cnn_box(state: AgentState, params: Any, examples: Examples) -> jax.Array:
    """The box, float32 [B, 4] as shares of the image's sides, that the CNN finds in each image."""
    images = read(state.config, examples)["image"]
    outputs, _ = state.players["cnn"].model.apply({"params": params}, images)
    center, half = jax.nn.sigmoid(outputs[:, :2]), jax.nn.sigmoid(outputs[:, 2:]) / 2
    corners = jnp.concatenate([center - half, center + half], axis=-1)
    return jnp.clip(corners, 0.0, 1.0)
