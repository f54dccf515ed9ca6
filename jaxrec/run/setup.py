"""What a run needs before its first step: its data, its complete settings, and its compiled step."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.config import GAN, Train
from jaxrec.data import (
    STATISTICS_SAMPLE,
    Dataset,
    Split,
    batch_indices,
    cut_validation,
    open_dataset,
    statistics,
    streamed,
)
from jaxrec.errors import UserError
from jaxrec.run.devices import Devices
from jaxrec.tasks import task_of
from jaxrec.tasks.state import State

DEFAULT_STEPS = 2000
"""Length of a run that states neither --steps nor --epochs."""
EVALUATIONS = 10
"""Evaluations in a run that does not state --eval-every."""

CompiledStep = Callable[[Any, Any, Any], tuple[Any, Any, Any]]


@dataclass(frozen=True)
class Data:
    """A data set cut for a run."""

    dataset: Dataset
    train: Split
    validation: Split | None
    test: Split
    resident: bool
    """The training images live on the devices."""


def open_data(config: Train) -> Data:
    """Opens the configured data set and cuts its validation split from the training split."""
    dataset = open_dataset(
        config.dataset,
        data_dir=config.data_dir,
        train_split=config.train_split,
        test_split=config.test_split,
        image_size=config.image_size,
        skip_bad=config.skip_bad,
    )
    train, validation = dataset.splits["train"], None
    resident = train.nbytes <= config.memory_mb * 2**20
    if resident:
        train = train.cached()
    if config.validation:
        train, validation = cut_validation(train, config.validation)
    if len(train) < config.batch_size:
        raise UserError(
            f"batch size {config.batch_size} is larger than the training split of {len(train)} examples; "
            f"choose at most {len(train)} with --batch-size"
        )
    return Data(dataset, train, validation, dataset.splits["test"], resident)


def complete(config: Train, data: Data) -> Train:
    """The configuration with what follows from the data: length in steps, classes, mean and deviation."""
    if config.steps is not None and config.epochs is not None:
        raise UserError(f"got --steps {config.steps} and --epochs {config.epochs}; give one of them")
    steps = config.steps
    if steps is None:
        passes = config.epochs
        steps = DEFAULT_STEPS if passes is None else math.ceil(passes * len(data.train) / config.batch_size)
    if steps < 1:
        raise UserError(f"a run of {steps} steps trains nothing; give at least 1 with --steps")
    if config.patience and data.validation is None:
        raise UserError("--patience decides on the validation split, and --validation 0 cuts none; give .1, say")
    if config.patience and isinstance(config.task, GAN):
        raise UserError("--patience needs a figure to watch, and a gan's losses do not tell better from worse: drop it")
    mean, std = statistics(data.train, None if data.resident else STATISTICS_SAMPLE)
    optimizer = replace(config.task.optimizer, steps=steps)
    task = replace(config.task, classes=len(data.dataset.class_names), mean=mean, std=std, optimizer=optimizer)
    every = config.eval_every or max(1, steps // EVALUATIONS)
    return replace(config, task=task, steps=steps, epochs=None, eval_every=every, save_every=config.save_every or every)


def batches(config: Train, data: Data, seed: int, start: int) -> Iterator[dict[str, np.ndarray]]:
    """The batches of the steps from ``start`` on; indices alone where the images lie on the devices already."""
    steps = config.steps or 0
    if data.resident:
        for step in range(start, steps):
            index, epoch = batch_indices(seed, step, config.batch_size, len(data.train))
            yield {"index": index, "epoch": epoch}
    else:
        yield from streamed(data.train, seed, config.batch_size, start, steps=steps - start)


def unharmed(devices: Devices, state: Any) -> Any:
    """The compiled step's ``bad`` of a state, or of each state in a list, whose losses were all finite so far: -1."""
    return jax.tree.map(
        lambda each: devices.copy(np.full(each.step.shape, -1, np.int32)),
        state,
        is_leaf=lambda each: isinstance(each, State),
    )


def compile_step(config: Train, data: Data, devices: Devices, state: State, batch: Any) -> CompiledStep:
    """The compiled ``(state, bad, batch) -> (state, bad, metrics)``; the state's memory is given to its successor.

    ``bad`` is the first step whose loss was not finite, or -1: a scalar on the device, so that watching costs no wait.
    Where the images live on the devices, they are gathered inside the step. A state of several members, stacked along
    a first axis, takes a batch whose arrays have the members as their second axis, after the examples.
    """
    train_step = task_of(config.task).train_step
    images = devices.copy(data.train.load()) if data.resident else {}

    def step(state: State, bad: jax.Array, batch: Any, images: Any) -> tuple[State, jax.Array, Any]:
        made = state.step + 1
        batch = {**batch, **{name: values[batch["index"]] for name, values in images.items()}}
        state, metrics = train_step(state, batch)
        failed = ~jnp.isfinite(metrics["loss"]) & (bad < 0)
        return state, jnp.where(failed, made, bad), metrics

    mapped = jax.vmap(step, in_axes=(0, 0, 1, None)) if state.step.ndim else step
    lowered = jax.jit(mapped, donate_argnums=(0, 1)).lower(state, unharmed(devices, state), batch, images)
    compiled = lowered.compile()
    return lambda state, bad, batch: compiled(state, bad, batch, images)
