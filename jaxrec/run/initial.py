"""The state of a run at step 0."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxrec.data import Split, nbytes
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Task
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System

Judge = tuple[Any, Any]
"""A model of images, and its variables."""
EXAMPLES = 5000
"""Most training examples shown to a model when it is initialized: speednet takes its whitening filters from them."""
BYTES = 2**24
"""Most bytes of them."""


def initial_state(
    config: Task, system: System, devices: Devices, seed: int, train: Split, judge: Judge | None = None
) -> State:
    """The state at step 0, on the devices; ``judge`` as ``jaxrec.run.teachers`` gives it."""
    make = initializer(config, system, devices, judge=judge)
    return devices.finish(make(jax.random.key(seed), first_examples(train)))


def first_examples(train: Split) -> dict[str, np.ndarray]:
    """The examples that models are initialized with."""
    fitting = max(1, BYTES // nbytes(train.features))
    count = min(EXAMPLES, fitting, len(train))
    return train.read(np.arange(count))


def initializer(
    config: Task, system: System, devices: Devices, *, members: bool = False, judge: Judge | None = None
) -> jax.stages.Wrapped:
    """The system's ``(key, batch) -> State``, compiled once and put on the devices; of ``members``, keys to states."""
    known = {} if judge is None else {"judge": judge}

    def init(key: jax.Array, batch: Any) -> State:
        return devices.cut(system.init(config, key, batch, **known))

    made: Callable[..., Any] = jax.vmap(init, in_axes=(0, None)) if members else init
    whole = devices.replicated if devices.mesh.shape["model"] == 1 else None
    # It runs once. On a CPU, optimizing it took four fifths of its time (resnet18: 8 of 10 seconds).
    fast = {"xla_backend_optimization_level": 0} if devices.platform == "cpu" else None
    return jax.jit(made, out_shardings=whole, compiler_options=fast)


def count_parameters(state: State) -> int:
    """The number of parameters of all players."""
    total = 0
    for player in state.players.values():
        total += sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(player.params))
    return total
