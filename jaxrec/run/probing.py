"""A linear head on the features of the weights that a run starts from, which are computed once."""

from typing import Any

import jax
import numpy as np

from jaxrec.after.probe import linear_head, neighbors_accuracy
from jaxrec.data import Split, class_names, eval_batches
from jaxrec.errors import UserError
from jaxrec.run.data import Data
from jaxrec.run.evaluation import MOST, batch_size
from jaxrec.run.start import put
from jaxrec.run.world import processes
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Train
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System
from jaxrec.waiting import counted


def probed(state: State, config: Train, system: System, devices: Devices, data: Data) -> tuple[State, list[str]]:
    """The state with the linear head that fits the training features best, and the lines that say how good it is.

    The strength of the head's penalty is chosen on the validation split.

    Raises:
        UserError: the system or its model has no linear head on features, or several processes train.
    """
    if not config.probe:
        return state, []
    if system.linear_head is None or data.train.features["label"].kind != "class":
        raise UserError(
            f"--probe fits a linear head that tells one class of each image, and this {system.name} has none; remove it"
        )
    if processes.several():
        raise UserError("--probe is computed by one process; give --processes 1")
    paths = system.linear_head(config.task)
    train = _features(state, system, devices, data.train)
    held_out = None if data.validation is None else _features(state, system, devices, data.validation)
    classes = len(class_names(data.train.features))
    head = linear_head(*train, classes, held_out)
    said = [f"linear probe of {train[0].shape[1]} features: training accuracy {head.accuracy(*train):.1%}"]
    if held_out is not None:
        near = neighbors_accuracy(*train, *held_out)
        said.append(f"on the validation split: linear {head.accuracy(*held_out):.1%}, nearest neighbors {near:.1%}")
    return put(state, dict(zip(paths, head, strict=True))), said


def _features(state: State, system: System, devices: Devices, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The features float32 [N, D] of a split's images, as they are in evaluation, and their classes int [N]."""

    def features(state: State, images: Any) -> jax.Array:
        return system.predict(devices.gather(state), images)["features"]

    step = jax.jit(features, out_shardings=devices.replicated)
    size = devices.round_up(system.evaluation_size(state.config, batch_size(MOST, split)))
    found, labels = [], []
    for batch in counted(eval_batches(split, size, processes.share()), "computing features", len(split), size):
        real = np.asarray(batch["real"])
        made = devices.finish(step(state, devices.share({"image": batch["image"]})["image"]))
        found.append(np.asarray(made)[real])
        labels.append(np.asarray(batch["label"])[real])
    return np.concatenate(found), np.concatenate(labels)
