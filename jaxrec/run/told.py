"""What is told of the examples of a split, a row for each: their true classes and what the system says of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.data import Features, Split
from jaxrec.settings import Task
from jaxrec.tasks.system import System

Predict = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""Images [n, H, W, C] to the system's outputs by name, [n, ...]."""


def told(system: System, config: Task, split: Split, index: np.ndarray, predict: Predict) -> list[dict[str, Any]]:
    """A row for each example at int indices [n]: ``truth`` if it has classes, then what the system tells of its image.

    If the system reads no images, nothing but the truth is told.
    """
    examples = split.read(index)
    said: Sequence[Mapping[str, Any]] = [{}] * len(index)
    if system.rows is not None and "image" in examples:
        images = examples["image"]
        said = system.rows(config, images, predict(images), split.features)
    rows = []
    for place in range(len(index)):
        truth = true_classes(split.features, {name: values[place] for name, values in examples.items()})
        rows.append({**truth, **said[place]})
    return rows


def true_classes(features: Features, example: Mapping[str, Any]) -> dict[str, str]:
    """``truth``: the names of the classes that an example has; empty if it has none."""
    for name, feature in features.items():
        if name not in example:
            continue
        if feature.kind == "class":
            return {"truth": feature.names[int(example[name])]}
        if feature.kind == "classes":
            there = np.flatnonzero(example[name])
            return {"truth": " ".join(feature.names[number] for number in there)}
    return {}
