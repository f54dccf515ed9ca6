"""What a run needs before its first step: its data, its complete settings, and its compiled step."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
from jaxrec.run.world import processes
from jaxrec.run.world.devices import Devices, leading
from jaxrec.settings import GAN, Task, Train
from jaxrec.tasks import task_of
from jaxrec.tasks.state import State

DEFAULT_STEPS = 2000
"""Length of a run that states neither --steps nor --epochs."""
EVALUATIONS = 10
"""Evaluations in a run that does not state --eval-every."""
STATISTICS_BYTES = 2**30
"""Decoded size from which the mean and deviation are taken over a sample, whether the set is streamed or not."""

AHEAD = 64
"""Steps whose examples are named to the devices at once where the images lie there: for one it would take as long, on a
CPU a twentieth of a small step."""

CompiledStep = Callable[[Any, Any, Any], tuple[Any, Any, Any]]


class Watch(NamedTuple):
    """What is watched on the device, so that watching costs no wait: int32 scalars."""

    failed: Any
    """The first step whose loss was not finite, or -1."""
    skipped: Any
    """Updates that were left out."""


class Orders(NamedTuple):
    """The examples of `AHEAD` steps, the first a multiple of it; a step takes its own row: int32 [AHEAD, B]."""

    index: Any
    epoch: Any


@dataclass(frozen=True)
class Data:
    """A data set cut for a run."""

    dataset: Dataset
    train: Split
    validation: Split | None
    test: Split
    resident: bool
    """The training images live on the devices."""


def open_data(config: Train, *, trains: bool = False) -> Data:
    """Opens the configured data set and cuts its validation split from the training split.

    What only evaluates leaves ``trains`` out, and the training images are not held.
    """
    dataset = open_dataset(
        config.dataset,
        data_dir=config.data_dir,
        train_split=config.train_split,
        test_split=config.test_split,
        image_size=config.image_size,
        skip_bad=config.skip_bad,
    )
    train, validation = dataset.splits["train"], None
    # Of several processes each reads its part of every batch, and no more.
    alone = processes.share()[1] == 1
    resident = trains and alone and train.nbytes <= config.memory_mb * 2**20
    if resident or (trains and alone and train.kept):
        train = train.cached()
    if config.validation:
        train, validation = cut_validation(train, config.validation)
    if len(train) < config.batch_size:
        raise UserError(
            f"batch size {config.batch_size} is larger than the training split of {len(train)} examples; "
            f"choose at most {len(train)} with --batch-size"
        )
    return Data(dataset, train, validation, dataset.splits["test"], resident)


def check_same_data(data: Data, described: dict[str, Any]) -> None:
    """Raises UserError where ``data`` is not the set that a run's manifest describes."""
    if data.dataset.fingerprint != described["fingerprint"]:
        raise UserError(
            f"dataset '{data.dataset.name}' is not what the run was trained on: its files, classes or image shape "
            "have changed; put it back as it was, or train another run"
        )


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
    sample = STATISTICS_SAMPLE if data.train.nbytes > STATISTICS_BYTES else None
    mean, std = statistics(data.train, sample, share=processes.share(), merge=processes.summed)
    optimizer = replace(config.task.optimizer, steps=steps)
    found = {"classes": len(data.dataset.class_names), "mean": mean, "std": std, "optimizer": optimizer}
    task = replace(config.task, **{name: found[name] for name in found if hasattr(config.task, name)})
    every = config.eval_every or max(1, steps // EVALUATIONS)
    if config.eval_every is None and every > config.log_every:
        # On logged steps, so that many steps between two of them can be one program.
        every -= every % config.log_every
    return replace(config, task=task, steps=steps, epochs=None, eval_every=every)


def steps_at_once(config: Train, devices: Devices) -> int:
    """How many steps one compiled program makes, at most.

    Raises UserError where the number asked for would pass over a step that is logged, evaluated or saved.
    """
    pauses = {"log-every": config.log_every, "eval-every": config.eval_every, "save-every": config.save_every}
    if config.fuse_steps == "auto":
        # A loop's convolutions are 20 times slower on a CPU, and unrolled steps gain too little for their compilation.
        return 1 if devices.platform == "cpu" else math.gcd(*filter(None, pauses.values()))
    for option, every in pauses.items():
        if every and every % config.fuse_steps:
            raise UserError(
                f"--fuse-steps {config.fuse_steps} passes over steps of --{option} {every}; give a divisor of {every}"
            )
    return config.fuse_steps


def batches(config: Train, data: Data, devices: Devices, seed: int, start: int, end: int) -> Iterator[tuple[int, Any]]:
    """For each call of the compiled step from step ``start`` to ``end``: the steps made after it, and their batches.

    Batches are on the host, [B, ...] or, for steps made at once, [K, B, ...]. Where the images lie on the devices they
    name the examples alone, and steps that are made one by one are given one `Orders` after the other.
    """
    fused = steps_at_once(config, devices)
    if data.resident and fused == 1:
        found = None
        for step in range(start, end):
            if found is None or step % AHEAD == 0:
                first = step - step % AHEAD
                drawn = (batch_indices(seed, first + row, config.batch_size, len(data.train)) for row in range(AHEAD))
                found = stack([Orders(*each) for each in drawn])
            yield step + 1, found
        return
    if data.resident:
        orders = (batch_indices(seed, step, config.batch_size, len(data.train)) for step in range(start, end))
        each = ({"index": index, "epoch": epoch} for index, epoch in orders)
    else:
        each = streamed(data.train, seed, config.batch_size, start, steps=end - start, share=processes.share())
    while start < end:
        # A run may go on from between two pauses, and the last steps may be too few.
        count = fused if start % fused == 0 and start + fused <= end else 1
        start += count
        yield start, stack(list(itertools.islice(each, count))) if count > 1 else next(each)


def stack(batches: list[Any]) -> Any:
    """Batches of one shape along a new first axis."""
    return jax.tree.map(lambda *each: np.stack(each), *batches)


def make_steps(
    task: Task, devices: Devices, skip: bool, state: State, watch: Watch, batch: Any, images: Any
) -> tuple[State, Watch, dict[str, jax.Array]]:
    """One step, with `Orders` or a batch [B, ...], or as many as a batch [K, B, ...] has rows. Pure.

    Gives the metrics of the last.

    With ``skip`` an update whose loss or result is not finite is left out and counted. ``images`` are all examples
    where they live on the devices: they are gathered here.
    """
    if isinstance(batch, Orders):
        batch = jax.tree.map(lambda each: each[state.step % AHEAD], batch._asdict())
    if batch["index"].ndim == 1:
        batch = {**batch, **{name: values[batch["index"]] for name, values in images.items()}}
        with jax.sharding.use_abstract_mesh(devices.mesh.abstract_mesh):
            after, metrics = task_of(task).train_step(_gathered(devices, state), batch)
            after = devices.cut(after)
        finite = jnp.isfinite(metrics["loss"])
        if skip:
            # A gradient that is not finite leaves its mark on the parameters or the optimizer's state.
            numbers = [leaf for leaf in jax.tree.leaves(after.players) if jnp.issubdtype(leaf.dtype, jnp.floating)]
            finite &= jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in numbers]))
            players = jax.tree.map(partial(jnp.where, finite), after.players, state.players)
            watch = Watch(watch.failed, watch.skipped + (~finite).astype(jnp.int32))
            return after.replace(players=players), watch, metrics
        failed = jnp.where(~finite & (watch.failed < 0), after.step, watch.failed)
        return after, Watch(failed, watch.skipped), metrics

    def one(carry: tuple[State, Watch], batch: Any) -> tuple[tuple[State, Watch], dict[str, jax.Array]]:
        state, watch, metrics = make_steps(task, devices, skip, *carry, batch, images)
        return (state, watch), metrics

    # No loop on a CPU: XLA has no fast convolutions there.
    unroll = len(batch["index"]) if devices.platform == "cpu" else 1
    (state, watch), metrics = jax.lax.scan(one, (state, watch), batch, unroll=unroll)
    return state, watch, jax.tree.map(lambda values: values[-1], metrics)


def _gathered(devices: Devices, state: State) -> State:
    """The state with what the models read put together; the update is made on each device's part."""
    players = {
        name: player.replace(params=devices.gather(player.params), stats=devices.gather(player.stats))
        for name, player in state.players.items()
    }
    return state.replace(players=players)


def unharmed(devices: Devices, state: Any) -> Any:
    """The watch over a state, or over each state in a list, whose losses were all finite so far."""

    def watch(each: State) -> Watch:
        return devices.copy(Watch(np.full(each.step.shape, -1, np.int32), np.zeros(each.step.shape, np.int32)))

    return jax.tree.map(watch, state, is_leaf=lambda each: isinstance(each, State))


def compile_step(config: Train, data: Data, devices: Devices, state: State, batch: Any) -> CompiledStep:
    """The compiled ``(state, watch, batch) -> (state, watch, metrics)``; the state's memory goes to its successor.

    A state of several members, stacked along a first axis, takes their batches stacked along a first axis.
    """
    images = devices.copy(data.train.load()) if data.resident else {}
    steps = partial(make_steps, config.task, devices, config.on_nonfinite == "skip")
    if state.step.ndim:
        steps = jax.vmap(steps, in_axes=(0, 0, 0, None))
    program = jax.jit(steps, donate_argnums=(0, 1))
    # Where several steps are made at once, one that is left over is compiled when a run comes to it.
    compiled = {leading(batch): program.lower(state, unharmed(devices, state), batch, images).compile()}
    return lambda state, watch, batch: devices.finish(
        compiled.get(leading(batch), program)(state, watch, batch, images)
    )
