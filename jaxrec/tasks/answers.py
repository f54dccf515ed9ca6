"""What is told of an example whose class was predicted."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def class_row(names: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    """The most probable of the named classes and its probability, then every class's, from float32 [classes]."""
    values = [exactly(value) for value in probabilities]
    best = int(np.argmax(probabilities))
    every = dict(zip(names, values, strict=True))
    return {"prediction": names[best], "probability": values[best], "probabilities": every}


def exactly(value: np.floating) -> float:
    """The number of fewest digits that is read back as ``value``, which is float32."""
    return float(str(value))
