"""The training step: the network learns the class and where to look, and the CNN beside it learns the class."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.parallel import stream
from jaxrec.tasks.glimpse.baselines import cnn_loss
from jaxrec.tasks.glimpse.classes import class_loss, right
from jaxrec.tasks.glimpse.looks import by_step, looked, of_ways
from jaxrec.tasks.glimpse.policy_gradient import estimates, experience, of_policy, policy_and_value
from jaxrec.tasks.inputs import augmented
from jaxrec.tasks.learning import learn
from jaxrec.tasks.state import Batch, Metrics, State


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update, or with ppo several, of the network, and one of the CNN to compare with; pure.

    Metrics: ``loss`` and ``accuracy`` of the class, ``reward``, ``value_loss``, ``deviation`` and, if it is learned,
    ``entropy``; means over the batch, the ways of looking and all replicas.
    """
    config, players = state.config, dict(state.players)
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    examples = {"image": augmented(config, key("augment"), batch), "label": batch["label"].astype(jnp.int32)}
    plain = dict(examples)
    updates = 1
    if config.policy == "ppo":
        # All updates learn from the same looks, those of the policy as it is before the first.
        examples |= experience(state, examples, key("looks"))
        updates = config.updates
    loss = partial(_loss, state)
    metrics: Metrics = {}
    for _ in range(updates):
        players["net"], metrics = learn(players["net"], state, loss, examples, key("looks"), axis_name=axis_name)
    if config.cnn:
        of_cnn = partial(cnn_loss, state)
        players["cnn"], beside = learn(
            players["cnn"], state, of_cnn, plain, key("cnn"), axis_name=axis_name, name="cnn"
        )
        metrics |= {name: beside[name] for name in ("cnn_loss", "cnn_accuracy")}
    return state.replace(step=state.step + 1, players=players), metrics


def _loss(
    state: State, params: Any, stats: Any, examples: Batch, key: jax.Array
) -> tuple[jax.Array, tuple[Metrics, Any]]:
    """The losses of class, policy and value, added; the metric ``loss`` is that of the class."""
    config, hyper = state.config, state.hyper
    actions = by_step(examples["action"]) if "action" in examples else None
    looks = looked(state, params, stats, examples["image"], key, actions)
    label = of_ways(config, examples["label"])
    total = of_class = class_loss(config, looks.logits, label, config.label_smoothing).mean()
    gained, advantages, targets = estimates(config, looks, label)
    of_looks, of_value = policy_and_value(config, looks, examples, advantages, targets)
    # Looks at random are nobody's choice.
    if config.policy != "random":
        total = total + hyper["policy_weight"] * of_looks + hyper["value_weight"] * of_value
    spread = of_policy(config, looks.deviation)
    metrics = {
        "loss": of_class,
        "accuracy": right(looks.logits[-1], label).mean(),
        "reward": gained.sum(0).mean(),
        "value_loss": of_value,
        "deviation": spread.mean(),
    }
    if config.learned_deviation:
        entropy = losses.gaussian_entropy(spread)
        total = total - hyper["entropy"] * entropy.sum(0).mean()
        metrics["entropy"] = entropy.mean()
    return total, (metrics, stats)
