"""Exact metrics over a split: every example once, whatever the batch size and the number of devices."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxrec.data import Split, at_once, eval_batches, pictured
from jaxrec.run.world import processes
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Task
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System
from jaxrec.waiting import counted

MOST = 500
"""Most examples that are evaluated at once."""
FEW = 128
"""Examples taken at once from a split with fewer than could be: small splits share one compiled program."""


def batch_size(most: int, split: Split) -> int:
    """Examples of a split to take at once: at most ``most``, fewer if each is large or the split is small."""
    size = at_once(most, pictured(split.features).shape)
    if size <= len(split):
        return size
    return min(size, FEW, len(split))


class Interrupted(Exception):
    """An evaluation was given up because the process is to end."""


class Evaluator:
    """Evaluates states; compiles once for each configuration and size of batch."""

    def __init__(self, config: Task, system: System, devices: Devices) -> None:
        self.config, self.system, self.devices = config, system, devices

        def eval_step(state: State, batch: Any) -> dict[str, Any]:
            with jax.sharding.use_abstract_mesh(devices.mesh.abstract_mesh):
                return system.eval_step(devices.gather(state), batch)

        self.step = jax.jit(eval_step, out_shardings=devices.replicated)

    def __call__(
        self, state: State, split: Split, stopped: Callable[[], bool] = lambda: False, size: int | None = None
    ) -> dict[str, Any]:
        """The metrics of ``split`` by name: floats, and arrays such as a metric of each class.

        ``size`` examples are taken at once; default: what fits. Raises Interrupted as soon as ``stopped`` says so.
        """
        size = self.system.evaluation_size(state.config, size or batch_size(MOST, split))
        size = self.devices.round_up(size)

        def metrics() -> Iterator[dict[str, Any]]:
            batches = eval_batches(split, size, processes.share())
            for batch in counted(batches, "evaluating", len(split), size):
                if stopped():
                    raise Interrupted
                yield self.devices.finish(self.step(state, self.devices.share(batch)))

        return summarize(metrics())


def summarize(metrics: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Merges the metrics of batches on the host, in 64 bits, and computes them."""
    total: dict[str, Any] = {}

    def merge(batch: dict[str, Any]) -> None:
        for name, metric in jax.device_get(batch).items():
            total[name] = total[name].merge(metric) if name in total else metric

    waiting = None
    for batch in metrics:
        # The previous batch is fetched while this one is computed.
        if waiting is not None:
            merge(waiting)
        waiting = batch
    if waiting is not None:
        merge(waiting)
    computed: dict[str, Any] = {}
    for metric in total.values():
        computed |= metric.compute()
    return computed


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics that are single numbers."""
    return {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0}


def plain(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics as JSON data; what is undefined, such as the accuracy of a class without examples, is None."""
    converted = {}
    for name, value in metrics.items():
        converted[name] = value if isinstance(value, str) else _finite(np.asarray(value).tolist())
    return converted


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
