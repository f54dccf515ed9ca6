"""What is told of the examples of a split, a row for each: what is true of them and what the system says of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.data import Features, Split
from jaxrec.settings import Task
from jaxrec.tasks.system import System

Predict = Callable[..., Mapping[str, np.ndarray]]
"""Images [n, H, W, C], or clips [n, T, H, W, C] and their lengths [n], to the system's outputs by name, [n, ...]."""


def told(system: System, config: Task, split: Split, index: np.ndarray, predict: Predict) -> list[dict[str, Any]]:
    """A row for each example at int indices [n]: ``truth``, then what the system tells of its image or clip.

    If the system reads neither, nothing but the truth is told; see ``true_values``.
    """
    examples = split.read(index)
    said: Sequence[Mapping[str, Any]] = [{}] * len(index)
    shown = _shown(examples)
    if system.rows is not None and shown:
        said = system.rows(config, shown[0], predict(*shown), split.features)
    rows = []
    for place in range(len(index)):
        example = {name: values[place] for name, values in examples.items()}
        truth = true_values(split.features, example)
        rows.append({**truth, **said[place]})
    return rows


def _shown(examples: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What the system sees of examples: their images, or their clips and lengths; empty if they have none."""
    if "image" in examples:
        return [examples["image"]]
    return [examples[name] for name in ("clip", "length") if name in examples]


def true_values(features: Features, example: Mapping[str, Any]) -> dict[str, Any]:
    """``truth``: the classes of an example, by name, or its number; empty if it has none.

    Of several such features each has a column of its own, such as ``truth_count``. So none of them has the name of a
    feature, which a system may give to what it predicts.
    """
    found: dict[str, Any] = {}
    for name, feature in features.items():
        if name not in example:
            continue
        if feature.kind == "class":
            found[name] = feature.names[int(example[name])]
        elif feature.kind == "classes":
            found[name] = " ".join(feature.names[number] for number in np.flatnonzero(example[name]))
        elif feature.kind == "box_classes":
            found[name] = _counted(feature.names, np.asarray(example[name]))
        elif feature.kind == "number":
            found[name] = example[name]
    if len(found) == 1:
        (value,) = found.values()
        return {"truth": value}
    return {f"truth_{name}": value for name, value in found.items()}


def _counted(names: Sequence[str], classes: np.ndarray) -> str:
    """How often each class occurs, such as ``12 RBC, 1 WBC``; -1 is none."""
    counts = np.bincount(classes[classes >= 0], minlength=len(names))
    return ", ".join(f"{count} {name}" for name, count in zip(names, counts.tolist(), strict=True) if count)
