"""Exact figures over a split: every example once, whatever the batch size and the number of devices."""

import math
from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any

import jax
import numpy as np

from jaxrec.data import Split, eval_batches
from jaxrec.run.world import processes
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Autoencoder, Task
from jaxrec.tasks import task_of
from jaxrec.tasks.state import State

FEW = 128
"""Images taken at once of a split that has fewer than could be: small splits share one compiled program."""


def at_once(most: int, values: int, split: Split) -> int:
    """Images of a split to take at once: ``most``, or what ``values`` numbers hold; of a small split ``FEW``."""
    size = max(1, min(most, values // prod(split.image_shape)))
    return size if size <= len(split) else min(size, FEW, len(split))


def evaluation_batch_size(config: Task, split: Split) -> int:
    """Examples per evaluation batch: fewer where images are large or each stands for many decoded codes."""
    size = at_once(500, 2**22, split)
    if isinstance(config, Autoencoder) and config.model == "vae":
        return max(1, min(size, 4_000 // config.eval_samples))
    return size


class Interrupted(Exception):
    """An evaluation was given up, because the process is to end."""


class Evaluator:
    """Evaluates states; compiles once for each configuration and size of batch."""

    def __init__(self, config: Task, devices: Devices) -> None:
        self.devices = devices

        def eval_step(state: State, batch: Any) -> dict[str, Any]:
            with jax.sharding.use_abstract_mesh(devices.mesh.abstract_mesh):
                return task_of(config).eval_step(devices.gather(state), batch)

        self.step = jax.jit(eval_step, out_shardings=devices.replicated)

    def __call__(self, state: State, split: Split, stopped: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """The metrics of ``split`` by name: floats, and arrays such as the confusion matrix.

        Raises Interrupted as soon as ``stopped`` says so.
        """
        size = self.devices.round_up(evaluation_batch_size(state.config, split))

        def metrics() -> Iterator[dict[str, Any]]:
            for batch in eval_batches(split, size, processes.share()):
                if stopped():
                    raise Interrupted
                yield self.devices.finish(self.step(state, self.devices.share(batch)))

        return summarise(metrics())


def summarise(metrics: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Merges the metrics of batches on the host, in 64 bits, and computes them."""
    total: dict[str, Any] = {}

    def merge(batch: dict[str, Any]) -> None:
        for name, metric in jax.device_get(batch).items():
            total[name] = total[name].merge(metric) if name in total else metric

    waiting = None
    for batch in metrics:
        # The batch before is fetched while this one is computed.
        if waiting is not None:
            merge(waiting)
        waiting = batch
    if waiting is not None:
        merge(waiting)
    return {name: value for metric in total.values() for name, value in metric.compute().items()}


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics that are single numbers."""
    return {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0}


def plain(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics as JSON data; what is undefined, such as the accuracy of a class without examples, is None."""

    def convert(value: Any) -> Any:
        if isinstance(value, list):
            return [convert(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        name: value if isinstance(value, str) else convert(np.asarray(value).tolist())
        for name, value in metrics.items()
    }


def initializer(config: Task, devices: Devices, *, members: bool = False) -> jax.stages.Wrapped:
    """The task's ``(key, batch) -> State``, compiled once and put on the devices; of ``members``, keys to states."""

    def init(key: jax.Array, batch: Any) -> State:
        return devices.cut(task_of(config).init(config, key, batch))

    if members:
        init = jax.vmap(init, in_axes=(0, None))
    # It runs once: on a CPU, optimizing it took four fifths of its time (resnet18: 8 of 10 seconds).
    fast = {"xla_backend_optimization_level": 0} if devices.platform == "cpu" else None
    whole = devices.replicated if devices.mesh.shape["model"] == 1 else None
    return jax.jit(init, out_shardings=whole, compiler_options=fast)
