"""A system in one file: it tells by which of four quarter turns an image was turned (Gidaris et al. 2018).

python -m jaxrec.train --system tests/assets/rotation.py --steps 200
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrec.metrics import Average
from jaxrec.parallel import stream
from jaxrec.settings import Task
from jaxrec.settings.ranges import AT_LEAST_ONE
from jaxrec.tasks.inputs import augmented, example_keys, pixels, scaled
from jaxrec.tasks.learning import learn
from jaxrec.tasks.state import Batch, Metrics, State, new_player, new_state
from jaxrec.tasks.system import Score


@dataclass(frozen=True)
class Config(Task):
    """Prediction of quarter turns."""

    width: Annotated[int, AT_LEAST_ONE] = 16
    """Channels of the first convolution; the second has twice as many."""


PRESETS = {"rotation": Config()}
READS = {"image": "image"}
SCORE = Score("turn_accuracy", lower=False)
HEADLINE = ("turn_accuracy", "loss")
CAPTIONS = {"turns": "Turned images with the predicted turn in degrees to the left; mistakes in red."}


class Net(nn.Module):
    """Square images [B, S, S, C] to logits [B, 4], float32: two convolutions, then a dense layer."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for channels in (self.width, 2 * self.width):
            x = nn.relu(nn.Conv(channels, (3, 3), strides=2, dtype=self.dtype)(x))
        return nn.Dense(4, dtype=self.dtype)(x.reshape(len(x), -1)).astype(jnp.float32)


def middle(images: jax.Array) -> jax.Array:
    """The middle square [B, S, S, C] of images [B, H, W, C], because all four turns of a square have one shape."""
    side = min(images.shape[1:3])
    top, left = ((length - side) // 2 for length in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def turned(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Square images [B, S, S, C], each turned by its number of quarter turns, int32 [B]."""
    every = jnp.stack([jnp.rot90(images, turn, axes=(1, 2)) for turn in range(4)], axis=1)
    return jnp.take_along_axis(every, turns[:, None, None, None, None], axis=1)[:, 0]


def init(config: Config, key: jax.Array, batch: Batch) -> State:
    net = Net(config.width, {"f32": jnp.float32, "bf16": jnp.bfloat16}[config.precision])
    variables = net.init(stream(key, "params", jnp.int32(0)), middle(pixels(batch)))
    return new_state(config, key, {"net": new_player(config, net, variables)})


def measured(logits: jax.Array, turns: jax.Array) -> Metrics:
    """The metrics of each example, float32 [B]."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, turns)
    return {"loss": loss, "turn_accuracy": (logits.argmax(-1).astype(jnp.int32) == turns).astype(jnp.float32)}


def drawn(state: State, batch: Batch, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """The images of a training batch after augmentation and turns, and their turns, int32 [B]."""
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    images = middle(augmented(state.config, key("augment"), batch))
    turns = jax.random.randint(key("turn"), images.shape[:1], 0, 4, jnp.int32)
    return turned(images, turns), turns


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update; pure. The turns are drawn anew for each step, on each replica by itself."""
    images, turns = drawn(state, batch, axis_name)

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        logits = state.player.model.apply({"params": params}, examples["image"])
        means = jax.tree.map(jnp.mean, measured(logits, examples["turn"]))
        return means["loss"], (means, stats)

    key = stream(state.key, "model", state.step, axis_name)
    player, metrics = learn(state.player, state, loss, {"image": images, "turn": turns}, key, axis_name=axis_name)
    return state.replace(step=state.step + 1, players={"net": player}), metrics


def seen(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``batch``: the turned images of a training batch, [B, 1, S, S, C]."""
    images, _ = drawn(state, batch, None)
    return {"batch": {"images": images[:, None]}}


def evaluated(state: State, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Turned images, their turns and the logits. An example's turn depends on its ``index`` alone."""
    turns = jax.vmap(lambda key: jax.random.randint(key, (), 0, 4, jnp.int32))(example_keys(batch, "turn"))
    images = turned(middle(pixels(batch)), turns)
    return images, turns, state.player.model.apply(state.player.variables(), images)


def eval_step(state: State, batch: Batch) -> dict[str, Average]:
    """Mergeable metrics of one batch; examples whose ``real`` is False do not count."""
    _, turns, logits = evaluated(state, batch)
    return {"turn": Average.from_batch(measured(logits, turns), batch.get("real"))}


def predict(state: State, inputs: jax.Array) -> dict[str, jax.Array]:
    """The probabilities of the four ``turns``, float32 [B, 4], of images [B, H, W, C]."""
    return {"turns": jax.nn.softmax(state.player.model.apply(state.player.variables(), middle(scaled(inputs))))}


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``turns``: a row of twelve turned images, with the turns and their predictions in degrees."""
    images, turns, logits = evaluated(state, {name: values[:12] for name, values in batch.items()})
    return {"turns": {"images": images[None], "label": 90 * turns[None], "prediction": 90 * logits.argmax(-1)[None]}}


def rows(config: Config, inputs: Any, outputs: Any, features: Any) -> list[dict[str, Any]]:
    """What ``predict`` tells of each image: its turn in degrees, and the probability of each turn."""
    return [{"turn": 90 * int(each.argmax()), "probabilities": each.tolist()} for each in outputs["turns"]]
