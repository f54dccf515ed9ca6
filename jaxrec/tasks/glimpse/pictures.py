"""What is shown and told of a network that looks: the path of its looks on images, and its answers."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.features import Features, class_names
from jaxrec.settings.glimpse import Glimpse as Config
from jaxrec.tasks.answers import class_row
from jaxrec.tasks.glimpse.drawing import paths
from jaxrec.tasks.glimpse.evaluation import predict
from jaxrec.tasks.inputs import pixels, scaled
from jaxrec.tasks.state import Batch, State

SHOWN = 16
"""Images in a picture."""


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at: ``predictions``, the paths on images [R, C, H, W, 3], with label and prediction."""
    size = len(batch["image"])
    columns = min(8, size)
    rows = min(SHOWN, size) // columns
    first = {name: values[: rows * columns] for name, values in batch.items()}
    cells = _told(state, first)
    return {"predictions": {name: values.reshape(rows, columns, *values.shape[1:]) for name, values in cells.items()}}


def worst(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_mistakes``: the path on each image [B, 1, H, W, 3], with label and prediction."""
    cells = _told(state, batch)
    return {"worst_mistakes": {**cells, "images": cells["images"][:, None]}}


def _told(state: State, batch: Batch) -> dict[str, jax.Array]:
    """Paths on images, with label, prediction and confidence [B]."""
    outputs = predict(state, batch["image"])
    return {
        "images": paths(pixels(batch), outputs["looks"], state.config.patch),
        "label": batch["label"],
        "prediction": outputs["probabilities"].argmax(-1),
        "confidence": outputs["probabilities"].max(-1),
    }


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each image: the class and its probability, every class's, and the places of the looks."""
    names = class_names(features)
    told = []
    for probabilities, looks in zip(outputs["probabilities"], outputs["looks"], strict=True):
        told.append({**class_row(names, probabilities), "looks": looks.tolist()})
    return told


def sheet(
    config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features
) -> dict[str, dict[str, Any]]:
    """``predictions``: the paths on the images, each with its class and confidence."""
    images = np.asarray(paths(scaled(inputs), jnp.asarray(outputs["looks"]), config.patch))
    probabilities = outputs["probabilities"]
    cells = {"images": images, "prediction": probabilities.argmax(-1), "confidence": probabilities.max(-1)}
    return {"predictions": {name: values[:, None] for name, values in cells.items()}}
