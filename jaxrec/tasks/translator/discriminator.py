"""The discriminator's turn: it learns to tell real images from translated ones."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.parallel import stream
from jaxrec.tasks.learning import learn
from jaxrec.tasks.state import Batch, Metrics, State
from jaxrec.tasks.translator.image_pool import Extra, exchanged
from jaxrec.tasks.translator.passes import run
from jaxrec.tasks.translator.players import ways


def shown(state: State, examples: Batch, answers: Batch, axis_name: str | None) -> tuple[Batch, Extra]:
    """What the discriminator is shown: real and translated images of each way; and the pools after that.

    Args:
        state: its pools are exchanged with, if it has any.
        examples: ``input`` and ``target``, images [B, H, W, .].
        answers: what the generators made of them, by way.
        axis_name: the mapped axis of ``pmap`` or ``shard_map``.

    Returns:
        Images ``real there`` and ``fake there``, likewise ``back``, and of pairs ``given``, what both were made from;
        and the state's ``extra``.
    """
    config, extra = state.config, dict(state.extra)
    found = {}
    for way in ways(config):
        real = examples["target" if way == "there" else "input"]
        fake = answers[way]
        if way in extra:
            # The same numbers on every replica, so that the pools stay alike.
            key = stream(state.key, f"pool {way}", state.step)
            fake, extra[way] = exchanged(key, extra[way], state.extra["filled"], fake, axis_name)
        found[f"real {way}"] = real
        found[f"fake {way}"] = fake
    if not config.unpaired:
        found["given"] = examples["input"]
    if "filled" in extra:
        # One number for both pools: each got as many images.
        size = examples["input"].shape[0]
        extra["filled"] = jnp.minimum(state.extra["filled"] + min(size, config.pool), config.pool)
    return found, extra


def discriminator_turn(
    state: State, examples: Batch, key: jax.Array, axis_name: str | None
) -> tuple[State, dict[str, jax.Array]]:
    """One update of the discriminator on what it is ``shown``, and the terms of its loss, means over the ways.

    Translated images are examples like the real ones, so no gradient goes back into the generator.
    """
    config, hyper, player = state.config, state.hyper, state.players["discriminator"]

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        found = []
        given = examples.get("given")
        for way in ways(config):
            real, fake = examples[f"real {way}"], examples[f"fake {way}"]
            model = getattr(player.model, way)
            (real_logits, _), stats = run(model, way, params, stats, real, given)
            (fake_logits, _), stats = run(model, way, params, stats, fake, given)
            game = losses.discriminator_loss(real_logits.reshape(-1), fake_logits.reshape(-1), config.game)

            # Penalties are of the discriminator as it stands: their passes change no statistics.
            settled = partial(run, model, way, params, stats, train=False)
            terms = {
                "discriminator_loss": game.mean(),
                "penalty": penalty(hyper, settled, real, fake, given, key),
                "real": real_logits.mean(),
                "fake": fake_logits.mean(),
            }
            found.append(terms)
        metrics = jax.tree.map(lambda *values: sum(values) / len(values), *found)
        return metrics["discriminator_loss"] + metrics["penalty"], (metrics, stats)

    rates = {**hyper, "lr": hyper["lr"] * hyper["discriminator_lr"]}
    player, metrics = learn(player, state, loss, examples, key, axis_name=axis_name, hyper=rates, name="discriminator")
    return state.replace(players={**state.players, "discriminator": player}), metrics


def penalty(
    hyper: Mapping[str, jax.Array],
    judging: Callable[..., Any],
    real: jax.Array,
    fake: jax.Array,
    given: jax.Array | None,
    key: jax.Array,
) -> jax.Array:
    """The penalties that are on, on the gradient of the mean of an image's patches: a float32 scalar.

    R1 (Mescheder et al. 2018) and the gradient penalty (Gulrajani et al. 2017).

    Args:
        hyper: the weights ``r1`` and ``gradient_penalty``, if they are on.
        judging: ``judging(images, given) -> ((logits [B, h, w], activations), statistics)``.
        real: images [B, H, W, C].
        fake: likewise.
        given: the inputs of pairs, or None.
        key: of the points between real and translated images.
    """

    def score(images: jax.Array) -> jax.Array:
        (logits, _), _ = judging(images, given)
        return logits.mean((1, 2))

    total = jnp.float32(0)
    if "r1" in hyper:
        total += hyper["r1"] / 2 * losses.gradient_norm_squared(score, real).mean()
    if "gradient_penalty" in hyper:
        total += hyper["gradient_penalty"] * losses.gradient_penalty(score, real, fake, key).mean()
    return total
