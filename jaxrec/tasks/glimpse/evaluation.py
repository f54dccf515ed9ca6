"""How often the network is wrong about a class, and what it says of images."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxrec.metrics import Average, Classification, Metric, Worst
from jaxrec.tasks.answers import log_odds
from jaxrec.tasks.glimpse.baselines import baseline_errors
from jaxrec.tasks.glimpse.classes import class_loss, wrong
from jaxrec.tasks.glimpse.looks import aimed
from jaxrec.tasks.inputs import places
from jaxrec.tasks.state import Batch, State


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch; examples whose ``real`` is False do not count.

    At the end of a run also those of controls: the same network looking at random or at the center, and the CNN.
    """
    config, real = state.config, batch.get("real")
    label = batch["label"].astype(jnp.int32)
    logits = aimed(state, batch).logits[-1]
    loss = class_loss(config, logits[None], label, 0.0)
    errors = {"error": wrong(logits, label)}
    if config.control:
        errors |= baseline_errors(state, batch, label)
        errors["looks"] = jnp.full(label.shape, config.looks, jnp.float32)
    index, _ = places(batch)
    return {
        "classification": Classification.from_batch(logits, batch["label"], real, loss),
        "errors": Average.from_batch(errors, real),
        "worst": Worst.from_batch(loss, index, real),
    }


def predict(state: State, inputs: jax.Array) -> dict[str, jax.Array]:
    """The classes of images, and where the network looked.

    Args:
        state: the state; the moving average predicts if one is kept.
        inputs: images [B, H, W, C] of uint8, uint16 or floats in [0, 1].

    Returns:
        ``logits`` and ``probabilities`` [B, classes], ``features`` [B, D] and ``looks`` [B, T, 2], in [-1, 1]: down and
        to the right from the center, 1 is half the image's side. All are float32.
    """
    looks = aimed(state, {"image": inputs})
    logits = looks.logits[-1]
    # What lies beyond the border is taken for the border.
    where = jnp.clip(looks.action, -1, 1).swapaxes(0, 1)
    return {"logits": logits, "probabilities": jax.nn.softmax(logits), "features": looks.features, "looks": where}


def explained(state: State, inputs: jax.Array, target: Mapping[str, jax.Array]) -> jax.Array:
    """The log-odds float32 [B] of the target's class in images [B, H, W, C], after all looks."""
    return log_odds(predict(state, inputs)["logits"], target["class"])
