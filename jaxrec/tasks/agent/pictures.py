"""What is shown and told of an agent: the box on its way over images, and what it found."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.boxes import iou
from jaxrec.data.features import Features
from jaxrec.parallel import stream
from jaxrec.settings.agent import Agent as Config
from jaxrec.tasks.agent.episodes import AgentState
from jaxrec.tasks.agent.evaluation import predict
from jaxrec.tasks.agent.examples import augmented, examples_of
from jaxrec.tasks.inputs import pixels, rgb, scaled
from jaxrec.tasks.state import Batch

SHOWN = 8
"""Images in the picture of paths."""
STILLS = 5
"""Boxes on the way that are shown, at most."""


def artifacts(state: AgentState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at: ``paths``, each image with its objects, and the box on its way."""
    if state.environment is not None:
        return {}
    first = {name: values[:SHOWN] for name, values in batch.items()}
    return {"paths": _paths(state, first)}


def worst(state: AgentState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_paths``: the same of the images of least IoU."""
    return {"worst_paths": _paths(state, batch)}


def _paths(state: AgentState, batch: Batch) -> dict[str, jax.Array]:
    """Images [B, n, H, W, 3] with boxes in pixels: the objects, then boxes of the path, first and last."""
    images = pixels(batch)
    examples = examples_of(state.config, batch)
    way = _stills(predict(state, batch["image"])["path"])
    there = examples["there"]
    sides = jnp.array([*images.shape[1:3]] * 2, jnp.float32)
    # Of each box on the way with each object: [B, n, N].
    overlaps = iou((way / sides)[:, :, None], examples["boxes"][:, None])
    overlaps = jnp.where(there[:, None], overlaps, 0.0)
    found = overlaps.max(-1)
    label = jnp.where(there, batch["label"].astype(jnp.int32), -1)
    nearest = overlaps.argmax(-1)
    nearest_label = jnp.take_along_axis(label[:, None], nearest[..., None], axis=-1)[..., 0]
    # A box is drawn, and has a name, even if there is nothing to find.
    named = jnp.where(nearest_label >= 0, nearest_label, max(state.config.target_class, 0))
    room = label.shape[1]

    def alone(values: jax.Array, fill: float) -> jax.Array:
        """Values [B, n, ...] as [B, n, room, ...], the first of the room's.

        The stills stand beside the picture of the objects, which has room for so many boxes.
        """
        after = [(0, 0)] * (values.ndim - 2)
        return jnp.pad(values[:, :, None], [(0, 0), (0, 0), (0, room - 1), *after], constant_values=fill)

    none = jnp.full_like(label, jnp.nan, jnp.float32)
    right = jnp.zeros_like(label[:, None], bool)
    return {
        "images": jnp.repeat(rgb(images)[:, None], 1 + way.shape[1], axis=1),
        "boxes": jnp.concatenate([batch["boxes"][:, None], alone(way, 0.0)], 1),
        "box_classes": jnp.concatenate([label[:, None], alone(named, -1)], 1),
        "box_scores": jnp.concatenate([none[:, None], alone(found, jnp.nan)], 1),
        "box_wrong": jnp.concatenate([right, alone(found < 0.5, False)], 1),
    }


def _stills(path: jax.Array) -> jax.Array:
    """A few of the boxes of paths [B, T, 4], evenly from the first to the last: [B, n, 4]."""
    time = path.shape[1]
    count = min(STILLS, time)
    moments = [place * (time - 1) // max(count - 1, 1) for place in range(count)]
    return path[:, moments]


def seen(state: AgentState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``batch``: images and the objects to be found as the training step augments them, [B, 1, H, W, 3]."""
    examples = augmented(state, stream(state.key, "augment", state.step), batch)
    there = examples_of(state.config, examples)["there"]
    label = jnp.where(there, examples["label"].astype(jnp.int32), -1)
    shown = {"images": rgb(examples["image"]), "boxes": examples["boxes"], "box_classes": label}
    return {"batch": {name: values[:, None] for name, values in shown.items()}}


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each image: the last box, the moves, whether the agent stopped; the boxes on the way in JSON."""
    told = []
    for place in range(len(outputs["boxes"])):
        y0, x0, y1, x1 = _rounded(outputs["boxes"][place][0])
        row: dict[str, Any] = {"y0": y0, "x0": x0, "y1": y1, "x1": x1}
        row["moves"] = int(outputs["moves"][place])
        row["stopped"] = bool(outputs["stopped"][place])
        row["way"] = [_rounded(box) for box in _way(outputs, place)]
        told.append(row)
    return told


def _rounded(box: np.ndarray) -> list[float]:
    """The four numbers of a box, to a hundredth of a pixel."""
    return [round(float(each), 2) for each in box]


def _way(outputs: Mapping[str, np.ndarray], place: int) -> np.ndarray:
    """The boxes of one image from the first to the last, [moves + 1, 4], without the repetitions of the last."""
    return outputs["path"][place][: int(outputs["moves"][place]) + 1]


def drawings(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """The image with the boxes on the way, and with the last one by itself."""
    images = np.asarray(rgb(scaled(inputs)))
    drawn = []
    for place, image in enumerate(images):
        path = _picture(config, image, _way(outputs, place))
        box = _picture(config, image, outputs["boxes"][place])
        drawn.append({"path": path, "box": box})
    return drawn


def _picture(config: Config, image: np.ndarray, boxes: np.ndarray) -> dict[str, Any]:
    """A picture of an image and boxes [n, 4] of the class to find; none has a score."""
    classes = np.full(len(boxes), max(config.target_class, 0))
    scores = np.full(len(boxes), np.nan)
    return {"picture": image, "boxes": boxes, "box_classes": classes, "box_scores": scores}
