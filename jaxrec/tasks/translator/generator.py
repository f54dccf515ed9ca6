"""The generator's turn: it learns from its errors, and from what the discriminator says of its answers."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.errors import UserError
from jaxrec.tasks.learning import Pass, learn, recalled
from jaxrec.tasks.state import Batch, Metrics, Player, State
from jaxrec.tasks.translator.cycle import cycle_terms
from jaxrec.tasks.translator.passes import answers, judged, translating

EMPTY = 1e-8
"""Keeps features that are all 0 from dividing by 0."""
METRIC_OF = {
    "adversarial": "generator_loss",
    "pixel": "pixel_error",
    "matching": "matching_error",
    "perceptual": "perceptual_error",
    "cycle": "cycle_error",
    "identity": "identity_error",
}
"""What the terms of the loss are called among the metrics, by the names of their weights."""


def generator_turn(
    state: State, examples: Batch, made: Pass | None, key: jax.Array, axis_name: str | None
) -> tuple[State, dict[str, jax.Array]]:
    """One update of the generators.

    Args:
        state: the state after the discriminator's turn, which learned first.
        examples: ``input`` and ``target``, images [B, H, W, .].
        made: the pass whose answers the discriminator was shown, or None; it is not made twice.
        key: of dropout; that of the pass.
        axis_name: the mapped axis of ``pmap`` or ``shard_map``.

    Returns:
        The state with the generators after the update, and the terms of their loss without the weights.
    """
    config, player = state.config, state.players["generator"]

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        one_way = translating(state, params, key, axis_name)
        # Accumulating, each part of a batch is a pass of its own.
        if made is None or config.accumulate > 1:
            found, stats = answers(config, one_way, stats, examples)
        else:
            found, stats = recalled(made, params, axis_name), made.after
        if config.unpaired:
            terms, stats = cycle_terms(state, one_way, stats, examples, found)
        else:
            terms = _pair_terms(state, examples, found["there"])
        total = jnp.float32(0)
        metrics = {}
        for weight, term in terms.items():
            total += state.hyper[weight] * term
            metrics[METRIC_OF[weight]] = term
        return total, ({**metrics, "loss": total}, stats)

    player, metrics = learn(player, state, loss, examples, key, axis_name=axis_name, name="generator")
    return state.replace(players={**state.players, "generator": player}), metrics


def _pair_terms(state: State, examples: Batch, made: jax.Array) -> dict[str, jax.Array]:
    """The terms of the translations that were ``made``, whose targets are known, by the names of their weights."""
    config, inputs, targets = state.config, examples["input"], examples["target"]
    terms = {"pixel": jnp.abs(made - targets).mean()}
    if config.game != "none":
        fake_logits, fake_layers = judged(state, "there", made, inputs)
        # Only the relativistic game and matching look at the real images here; otherwise XLA drops this pass.
        real_logits, real_layers = judged(state, "there", targets, inputs)
        terms["adversarial"] = losses.generator_loss(real_logits, fake_logits, config.game).mean()
        if config.matching:
            terms["matching"] = _matching_error(fake_layers, real_layers)
    if config.perceptual:
        if "judge" not in state.extra:
            raise UserError("--perceptual compares features of a judge, and init was given none: give it judge=")
        terms["perceptual"] = perceptual_error(state.extra["judge"], made, targets)
    return terms


def _matching_error(fake: list[jax.Array], real: list[jax.Array]) -> jax.Array:
    """The mean over the layers of the absolute error of the discriminator's activations (Wang et al. 2018)."""
    errors = []
    for fake_layer, real_layer in zip(fake, real, strict=True):
        errors.append(jnp.abs(fake_layer - real_layer).mean())
    return jnp.stack(errors).astype(jnp.float32).mean()


def perceptual_error(judge: Player, images: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean squared error of a judge's features of images [B, H, W, C] in [0, 1], over the targets' mean square.

    Feature reconstruction of Johnson et al. (2016), https://arxiv.org/abs/1603.08155; as a share, the weight does not
    depend on how large the judge's features are.
    """

    def features(values: jax.Array) -> jax.Array:
        found = judge.model.apply({"params": judge.params, **judge.stats}, values)
        return found[-1] if isinstance(found, tuple) else found

    wanted = features(targets)
    error = jnp.square(features(images) - wanted).mean()
    return error / (jnp.square(wanted).mean() + EMPTY)
