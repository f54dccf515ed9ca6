"""Images drawn from a generator, in parts that fit the memory."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxrec.data import at_once
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System

MOST = 500
"""Most images that are drawn at once."""


def generated(
    system: System, state: State, count: int, seed: int, shape: tuple[int, ...], chosen: Mapping[str, Any] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """``count`` images of ``shape``, a part at a time.

    Each part has ``image`` float32 [n, H, W, C] in [0, 1] and, if the generator is told classes, ``label`` int32 [n].
    ``chosen`` are further arguments of the system's ``generate``. Images are determined by the seed and, if they are
    more than are drawn at once, by the size of a part.
    """
    assert system.generate is not None
    size = min(count, at_once(MOST, shape))
    draw = jax.jit(system.generate, static_argnums=2)
    key = jax.random.key(seed)
    for first in range(0, count, size):
        part = jax.device_get(draw(state, key, size, np.int32(first), **(chosen or {})))
        yield {name: values[: count - first] for name, values in part.items()}
        key = jax.random.fold_in(key, first)
