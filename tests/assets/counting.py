"""A system in one file: it tells the number that belongs to an image, by linear regression. It augments nothing.

python -m jaxrec.train --system tests/assets/counting.py --dataset csv:TABLE.csv
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.metrics import Average, Worst
from jaxrec.settings import Task
from jaxrec.tasks.inputs import pixels, places, scaled
from jaxrec.tasks.learning import learn
from jaxrec.tasks.state import Batch, Metrics, State, new_player, new_state
from jaxrec.tasks.system import Score


@dataclass(frozen=True)
class Config(Task):
    """Linear regression of a number on pixels."""


PRESETS = {"counting": Config()}
READS = {"image": "image", "count": "number"}
SCORE = Score("mae")
HEADLINE = ("mae", "loss")


class Net(nn.Module):
    """Images [B, H, W, C] to numbers [B], float32."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1)(x.reshape(len(x), -1))[:, 0]


def init(config: Config, key: jax.Array, batch: Batch) -> State:
    return new_state(config, key, {"net": new_player(config, Net(), Net().init(key, pixels(batch)))})


def measured(numbers: jax.Array, batch: Batch) -> Metrics:
    """The metrics of each example, float32 [B]."""
    errors = numbers - batch["count"]
    return {"loss": errors**2, "mae": jnp.abs(errors)}


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update; pure."""

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        numbers = state.player.model.apply({"params": params}, examples["image"])
        means = jax.tree.map(jnp.mean, measured(numbers, examples))
        return means["loss"], (means, stats)

    examples = {"image": pixels(batch), "count": batch["count"]}
    player, metrics = learn(state.player, state, loss, examples, state.key, axis_name=axis_name)
    return state.replace(step=state.step + 1, players={"net": player}), metrics


def eval_step(state: State, batch: Batch) -> dict[str, Any]:
    """Mergeable metrics of one batch; examples whose ``real`` is False do not count."""
    metrics, real = measured(predict(state, batch["image"])["number"], batch), batch.get("real")
    worst = Worst.from_batch(metrics["loss"], places(batch)[0], real)
    return {"errors": Average.from_batch(metrics, real), "worst": worst}


def predict(state: State, inputs: jax.Array) -> dict[str, jax.Array]:
    """The ``number`` float32 [B] of images [B, H, W, C]."""
    return {"number": state.player.model.apply(state.player.variables(), scaled(inputs))}


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``images``: a row of the first four images."""
    return {"images": {"images": pixels(batch)[None, :4]}}


def worst(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_counts``: images with their numbers and the predicted ones."""
    number = predict(state, batch["image"])["number"]
    cells = {"images": pixels(batch)[:, None], "label": batch["count"], "prediction": number}
    return {"worst_counts": cells}


def rows(config: Config, inputs: Any, outputs: Any, features: Any) -> list[dict[str, Any]]:
    """What ``predict`` tells of each image: its number."""
    return [{"count": number} for number in outputs["number"]]
