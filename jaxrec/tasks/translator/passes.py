"""Passes through the players' models, in training and in evaluation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.settings.translator import Translator as Config
from jaxrec.tasks.learning import Pass, passed
from jaxrec.tasks.model import for_replicas
from jaxrec.tasks.state import Batch, State
from jaxrec.tasks.translator.players import ways

OneWay = Callable[[str, Any, jax.Array], tuple[jax.Array, Any]]
"""``(way, stats, images) -> (answers, statistics after them)``."""


def run(
    model: Any, way: str, params: Any, stats: Any, *inputs: Any, train: bool = True, key: jax.Array | None = None
) -> tuple[Any, Any]:
    """The outputs of one way's model, and the statistics of all ways after them.

    Args:
        model: that of the way.
        way: ``there`` or ``back``.
        params: of all ways, by way.
        stats: the player's other collections, each by way; what has no such way, as ``targets``, stays as it is.
        inputs: what the model is called with.
        train: whether it is called as in training.
        key: of dropout; None: nothing is dropped.
    """
    own = {name: values[way] for name, values in stats.items() if way in values}
    rngs = None if key is None else {"dropout": key}
    outputs, changed = model.apply({"params": params[way], **own}, *inputs, train=train, mutable=list(own), rngs=rngs)
    after = dict(stats)
    for name, values in changed.items():
        after[name] = {**stats[name], way: values}
    return outputs, after


def translating(state: State, params: Any, key: jax.Array, axis_name: str | None) -> OneWay:
    """The passes of the generators in training, with these parameters."""

    def one_way(way: str, stats: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        model = for_replicas(getattr(state.players["generator"].model, way), axis_name)
        return run(model, way, params, stats, images, key=key)

    return one_way


def answers(config: Config, one_way: OneWay, stats: Any, examples: Batch) -> tuple[Batch, Any]:
    """The generators' answers to the examples' ``input`` and ``target``, by way, and the statistics after them."""
    found = {}
    for way in ways(config):
        images = examples["input" if way == "there" else "target"]
        found[way], stats = one_way(way, stats, images)
    return found, stats


def answered(state: State, examples: Batch, key: jax.Array, axis_name: str | None) -> Pass:
    """One pass of the generators over the examples, as a ``Pass`` of answers by way; both players learn from it."""
    player = state.players["generator"]

    def answers_with(params: Any) -> tuple[Batch, Any]:
        one_way = translating(state, params, key, axis_name)
        return answers(state.config, one_way, player.stats, examples)

    return passed(player, state, answers_with, axis_name)


def judged(state: State, way: str, images: jax.Array, given: jax.Array | None) -> tuple[jax.Array, list[jax.Array]]:
    """What the discriminator says of images [B, H, W, C], given the inputs of pairs; it does not change.

    Returns:
        The logits [N] of all patches of all images, and the activations before them.
    """
    player = state.players["discriminator"]
    model = getattr(player.model, way)
    (logits, layers), _ = run(model, way, player.params, player.stats, images, given, train=False)
    return logits.reshape(-1), layers


def translate(state: State, images: jax.Array, way: str = "there") -> jax.Array:
    """What images [B, H, W, C] in [0, 1] are translated into, float32 [B, H, W, D] in [0, 1]; or the way ``back``."""
    player = state.players["generator"]
    stats = {name: values for name, values in player.stats.items() if way in values}
    made, _ = run(getattr(player.model, way), way, player.best_params, stats, images, train=False)
    return jnp.clip(made, 0, 1)
