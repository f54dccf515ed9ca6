"""Opens a finished run again, for evaluation, prediction and generation."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec.data import cache_dir
from jaxrec.run.evaluation import initializer
from jaxrec.run.store import folder
from jaxrec.run.store.checkpoints import Checkpoints, model_of
from jaxrec.run.world.devices import Devices, keep_programs
from jaxrec.settings import Train
from jaxrec.tasks.state import State


def load_run(path: str | Path, devices: Devices) -> tuple[Path, Train, dict[str, Any], State, int]:
    """A run's folder, settings, data set description, state with trained parameters, and their step.

    The parameters are the best ones where the run stopped early by validation, else the latest. Raises UserError where
    the folder holds no run, or a checkpoint of another model.
    """
    keep_programs(cache_dir() / "programs")
    run = folder.find(path)
    config = folder.read_config(run)
    dataset = folder.read_dataset(run)
    blank = {"image": np.zeros((2, *dataset["image_shape"]), np.uint8), "label": np.zeros(2, np.int32)}
    initialize, key = initializer(config.task, devices), jax.random.key(config.seed)
    # Of shapes alone: damaged settings may ask for more than the memory holds.
    model = model_of(initialize.trace(key, blank).out_info)
    with Checkpoints(run, read_only=True) as checkpoints:

        def read(step: int) -> State:
            checkpoints.check_fits(step, model)
            return checkpoints.restore_model(initialize(key, blank), step)

        step, state = checkpoints.newest_whole(read, checkpoints.best() if config.patience else None)
        return run, config, dataset, state, step
