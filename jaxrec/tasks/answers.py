"""What is told and explained of an example whose class was predicted."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.settings import Task


def class_row(names: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    """The most probable of the named classes and its probability, then every class's, from float32 [classes]."""
    values = [exactly(value) for value in probabilities]
    best = int(np.argmax(probabilities))
    every = dict(zip(names, values, strict=True))
    return {"prediction": names[best], "probability": values[best], "probabilities": every}


def exactly(value: np.floating) -> float:
    """The number of fewest digits that is read back as ``value``, which is float32."""
    return float(str(value))


def targets(config: Task, outputs: Mapping[str, np.ndarray], wanted: int | None = None) -> dict[str, np.ndarray]:
    """The ``targets`` of a system that gives ``probabilities`` [N, classes]: the likeliest class, or the wanted one."""
    probabilities = outputs["probabilities"]
    if wanted is None:
        return {"class": probabilities.argmax(-1).astype(np.int32)}
    return {"class": np.full(len(probabilities), wanted, np.int32)}


def log_odds(logits: jax.Array, number: jax.Array) -> jax.Array:
    """log(p / (1 - p)) of the probability p that logits [..., classes] give the class int [...], float32 [...].

    What speaks for another class lowers it, and it never saturates as probabilities do.
    """
    chosen = jax.nn.one_hot(number, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, logits), axis=-1)
    return jnp.where(chosen, logits, 0).sum(-1) - others
