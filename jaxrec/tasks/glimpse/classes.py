"""Answers of a policy's network beside the class of an image: their loss, and whether they are right."""

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.settings.glimpse import Glimpse as Config


def class_loss(config: Config, logits: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """The loss of each way of looking, float32 [N], from logits [L, N, classes]: the mean over the answers."""
    targets = losses.smooth(jax.nn.one_hot(label, config.classes, dtype=jnp.float32), smoothing, head="softmax")
    each = [losses.classification(answer, targets, head="softmax", loss="cross-entropy") for answer in logits]
    return jnp.stack(each).mean(0)


def right(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Whether the most probable class is the one of the label [N], float32 [N], from logits [N, classes]."""
    return (logits.argmax(-1).astype(jnp.int32) == label).astype(jnp.float32)


def wrong(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Whether it is another one, float32 [N]."""
    return 1 - right(logits, label)
