"""What the network is compared with: itself with looks at random or at the center, and a CNN that sees whole images."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.augment import standardize
from jaxrec.tasks.glimpse.classes import class_loss, right, wrong
from jaxrec.tasks.glimpse.looks import aimed, anywhere
from jaxrec.tasks.inputs import pixels
from jaxrec.tasks.state import Batch, Metrics, State


def baseline_errors(state: State, batch: Batch, label: jax.Array) -> dict[str, jax.Array]:
    """Whether each of them is wrong about each example, float32 [B], by the metric's name."""
    config = state.config
    random = anywhere(batch, "random looks", config.looks)
    center = jnp.zeros_like(random)
    errors = {}
    errors["random_error"] = wrong(aimed(state, batch, random).logits[-1], label)
    errors["center_error"] = wrong(aimed(state, batch, center).logits[-1], label)
    if config.cnn:
        player = state.players["cnn"]
        images = standardize(pixels(batch), config.mean, config.std)
        logits, _ = player.model.apply(player.variables(), images)
        errors["cnn_error"] = wrong(logits, label)
    return errors


def cnn_loss(
    state: State, params: Any, stats: Any, examples: Batch, key: jax.Array
) -> tuple[jax.Array, tuple[Metrics, Any]]:
    """The loss of the CNN to compare with."""
    config = state.config
    images = standardize(examples["image"], config.mean, config.std)
    logits, _ = state.players["cnn"].model.apply({"params": params, **stats}, images)
    value = class_loss(config, logits[None], examples["label"], config.label_smoothing).mean()
    accuracy = right(logits, examples["label"]).mean()
    return value, ({"cnn_loss": value, "cnn_accuracy": accuracy}, stats)
