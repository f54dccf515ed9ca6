"""Distillation: a network learns from the answers of another one beside the labels (Hinton et al. 2015)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.tasks.state import Batch, Metrics, State
from jaxrec.tasks.system import System

Teacher = Callable[[jax.Array], jax.Array]
"""From images [B, H, W, C], as batches hold them, to logits [B, classes]."""
SHARE = 0.7
TEMPERATURE = 2.0


def soft_labels(label: jax.Array, probabilities: jax.Array, share: jax.Array | float) -> jax.Array:
    """Shares of classes float32 [B, C]: ``share`` of the teacher's probabilities, and the true label for the rest.

    ``label`` holds class numbers [B], or 0 or 1 for each class [B, C].
    """
    classes = probabilities.shape[-1]
    if label.ndim == 2:
        true = label.astype(jnp.float32)
    elif classes == 1:
        true = label.astype(jnp.float32)[:, None]
    else:
        true = jax.nn.one_hot(label, classes, dtype=jnp.float32)
    return (1 - share) * true + share * probabilities


def with_teacher(state: State, share: float = SHARE, temperature: float = TEMPERATURE) -> State:
    """The state with what ``distilled`` needs, among its hyper-parameters.

    Args:
        state: of a system that learns shares of classes.
        share: of the teacher's answer in the label.
        temperature: the teacher's logits are divided by it, so that more is seen of what it holds for possible.
    """
    taught = {"teacher": jnp.float32(share), "temperature": jnp.float32(temperature)}
    return state.replace(hyper={**state.hyper, **taught})


def distilled(
    train_step: Callable[..., tuple[State, Metrics]], teacher: Teacher
) -> Callable[..., tuple[State, Metrics]]:
    """A training step that learns from a teacher's answers to the images, as they are before augmentation.

    It takes and gives a state ``with_teacher``. ``train_step`` takes ``label`` as shares of the classes, float32
    [B, C], as a classifier's does.
    """

    def step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
        logits = jax.lax.stop_gradient(teacher(batch["image"])).astype(jnp.float32) / state.hyper["temperature"]
        # Several labels of an image, or a yes or no, are each probable by themselves.
        alone = batch["label"].ndim == 2 or logits.shape[-1] == 1
        probabilities = jax.nn.sigmoid(logits) if alone else jax.nn.softmax(logits)
        label = soft_labels(batch["label"], probabilities, state.hyper["teacher"])
        return train_step(state, {**batch, "label": label}, axis_name=axis_name)

    return step


def distilling(system: System, teacher: Teacher) -> System:
    """The system, trained by ``distilled``."""

    def init(*args: Any, **options: Any) -> State:
        return with_teacher(system.init(*args, **options))

    return replace(system, init=init, train_step=distilled(system.train_step, teacher))
