"""Any number of devices: every task on several meshes, what lies where, and runs that go on on other meshes."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest
from conftest import arrays, small
from jax.sharding import PartitionSpec

from jaxrec.cli.train import main
from jaxrec.errors import UserError
from jaxrec.run import evaluation, feed
from jaxrec.run.data import Data, complete, open_data
from jaxrec.run.evaluation import Evaluator, scalars
from jaxrec.run.feed import Feed, open_feed
from jaxrec.run.fit import first_call
from jaxrec.run.initial import initial_state
from jaxrec.run.observers import TrainingLog, moment
from jaxrec.run.session import Progress
from jaxrec.run.show.log import read_metrics
from jaxrec.run.steps import compile_step, program, run_steps, unharmed, watched_step
from jaxrec.run.store.leaves import to_host
from jaxrec.run.world import devices
from jaxrec.run.world.devices import Devices, bytes_per_device, read_mesh
from jaxrec.settings import Augment, Optimizer, Task, Train, preset
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System, system_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]

MESHES = ["data", "data=4,model=2"]
SGD = Optimizer(name="momentum", lr=0.01, clip=1.0)
TASKS: dict[str, Task] = {
    "cnn": replace(preset("cnn"), optimizer=SGD, average=0.9, dropout=0.2, augment=Augment(translate=0.1)),
    "speednet": replace(preset("speednet"), optimizer=SGD, width=0.125, accumulate=2),
    "autoencoder": replace(preset("autoencoder"), width=4, noise=0.2),
    "vae": replace(preset("vae"), optimizer=replace(SGD, lr=1e-4), architecture="dense", width=4, eval_samples=3),
    "gan": replace(preset("gan"), optimizer=replace(SGD, lr=1e-3), width=8),
}
TOLERANCE = 1e-4
"""Largest difference after four steps, relative to an array's largest number: sums are made in another order."""


def train(runs: Path, name: str, *options: object) -> Path:
    assert main([*map(str, options), "--runs", str(runs), "--name", name]) == 0
    return runs / name


def difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    return max(float(np.max(np.abs(a[name] - b[name])) / max(1e-2, np.max(np.abs(b[name])))) for name in a)


@dataclass
class Opened:
    """What a run on a mesh needs."""

    config: Train
    system: System
    data: Data
    devices: Devices
    feed: Feed

    def initial(self) -> State:
        return initial_state(self.config.task, self.system, self.devices, 0, self.data.train)

    def events(self, state: State, steps: int) -> Any:
        """The events of the first steps."""
        watch, sent = unharmed(self.devices, state), first_call(self.feed, 0)
        step = compile_step(self.system, self.feed, self.devices, state, watch, sent)
        return run_steps(step, self.feed, state, watch, 0, steps)

    def evaluated(self, state: State) -> Any:
        return Evaluator(self.config.task, self.system, self.devices)(state, self.data.test)


def opened(task: Task, mesh: str) -> Opened:
    config = Train(task=task, batch_size=64, steps=8, mesh=mesh, memory_mb=0)
    found, system = Devices(mesh), system_of(task)
    data = open_data(config, system, trains=True)
    config = complete(config, data, system)
    return Opened(config, system, data, found, open_feed(config, data, found, 0))


@pytest.fixture
def quickly_compiled():
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def steps_and_metrics(task: Task, mesh: str) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    """The state's arrays after four steps; their metrics, and those of the test split."""
    made, rows = opened(task, mesh), []
    state = made.initial()
    cut = [leaf for leaf in jax.tree.leaves(state) if not leaf.sharding.is_fully_replicated]
    assert bool(cut) == ("model" in mesh)
    for event in made.events(state, 4):
        state = event.state
        rows.append(scalars(jax.device_get(event.metrics)))
    rows.append(scalars(made.evaluated(state)))
    return to_host(state), rows


@pytest.mark.parametrize("name", TASKS)
def test_any_mesh_makes_the_steps_of_one_device(name, monkeypatch, quickly_compiled):
    monkeypatch.setattr(devices, "LARGE", 32)  # so that these small models' arrays are cut
    expected, rows = steps_and_metrics(TASKS[name], "data=1")
    for mesh in MESHES:
        state, found = steps_and_metrics(TASKS[name], mesh)
        assert difference(state, expected) < TOLERANCE
        for row, like in zip(found, rows, strict=True):
            assert row == pytest.approx(like, rel=1e-3, abs=1e-3)


def test_several_devices_of_a_cpu_end_one_program_before_the_next_begins(monkeypatch):
    """Else they can wait for each other for ever: 800 steps that were called ahead never came to their end."""
    made = opened(TASKS["cnn"], "data")
    state = made.initial()
    config = replace(made.config, log_every=1, eval_every=8)
    session: Any = SimpleNamespace(devices=made.devices, config=config, progress=Progress())
    log = TrainingLog(session, MagicMock())
    monkeypatch.setattr(evaluation, "summarize", lambda metrics: list(map(ready, metrics)))
    for event in made.events(state, 4):
        state = event.state
        assert ready((event.state, event.watch, event.metrics))
        log(moment(event, config, end=10**9))
        assert ready(log.waiting[2:])
    evaluated = made.evaluated(state)
    assert evaluated
    assert all(evaluated)


def ready(tree: Any) -> bool:
    """Whether all arrays are computed; of a random key nothing is known."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "is_ready")]
    return all(array.is_ready() for array in arrays)


@pytest.mark.parametrize("mesh", ["data=1", *MESHES])
@pytest.mark.parametrize("steps", [(), (3,)])
def test_each_device_takes_its_examples_of_a_batch(mesh, steps):
    found = Devices(mesh)
    batch = {"image": np.arange(np.prod(steps, dtype=int) * 16 * 4, dtype=np.uint8).reshape(*steps, 16, 2, 2, 1)}
    batch["index"] = batch["image"][..., 0, 0, 0].astype(np.int32)
    shared = found.share(batch, leading=len(steps))
    for name, values in batch.items():
        np.testing.assert_array_equal(shared[name], values)
        assert shared[name].dtype == values.dtype
        each = {part.device: np.asarray(part.data) for part in shared[name].addressable_shards}
        parts = np.split(values, found.mesh.size, len(steps))
        for device, part in zip(found.mesh.devices.flat, parts, strict=True):
            np.testing.assert_array_equal(each.pop(device), part)
        assert not each


@pytest.mark.parametrize("streamed", [True, False])
def test_a_run_goes_on_on_any_number_of_devices(streamed, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "LARGE", 32)
    monkeypatch.setattr(feed, "AHEAD", 4)
    seen = []
    shared = Devices.share

    def noting(self: Devices, batch: Any, leading: int = 0) -> Any:
        seen.append(batch)
        return shared(self, batch, leading)

    monkeypatch.setattr(Devices, "share", noting)
    options = [
        *small("autoencoder", "--log-every", 1, "--average", 0.9),
        "--eval-every",
        2,
        "--optimizer.schedule",
        "constant",
        *(["--memory-mb", 0] if streamed else []),
    ]
    whole = train(tmp_path, "whole", *options, "--steps", 10, "--mesh", "data=8")
    indices = [batch["index"] for batch in seen if isinstance(batch, dict) and "epoch" in batch]
    assert bool(indices) == streamed
    seen.clear()
    run = train(tmp_path, "moved", *options, "--steps", 2, "--mesh", "data=8")
    for steps, mesh in ((4, "data=2"), (6, "data=1"), (8, "data=2,model=4"), (10, "data")):
        before = arrays(run)
        train(tmp_path, "moved", "--resume", "--steps", steps, "--mesh", mesh)
        assert json.loads((run / "config.json").read_text())["mesh"] == mesh
        assert difference(arrays(run), before) > 1e-3
    # Every time the step is compiled for the run's first batch, which is read once more.
    restarted = [batch["index"] for batch in seen if isinstance(batch, dict) and "epoch" in batch]
    made = [index for place, index in enumerate(restarted) if place % 3]
    assert len(made) == (10 if streamed else 0)
    assert list(map(np.ndarray.tolist, made)) == list(map(np.ndarray.tolist, indices[1:]))
    assert difference(arrays(run), arrays(whole)) < TOLERANCE
    steps = [row["step"] for row in read_metrics(run) if row["split"] == "train"]
    assert steps == list(range(1, 11))


@pytest.mark.parametrize("model", ["cnn", "autoencoder", "gan"])
def test_the_state_is_cut_and_falls_by_the_length_of_the_axis(model):
    whole = opened(preset(model), "data=1").initial()
    held = {}
    for parts in (1, 2, 4):
        state = opened(preset(model), f"data=2,model={parts}").initial()
        held[parts] = bytes_per_device(state)
        expected = 0
        for leaf, like in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
            numbers = math.prod(like.shape)
            cut = numbers >= 4096 and any(side % parts == 0 for side in like.shape)
            expected += (leaf.nbytes // max(numbers, 1)) * (numbers // parts if cut else numbers)
        assert held[parts] == expected
    assert held[4] < 0.35 * held[1]
    assert held[2] < 0.6 * held[1]


def test_parameters_are_gathered_once_and_gradients_added_up_once():
    """The collectives of fully sharded data parallelism, and none of activations."""
    made = opened(preset("vit"), "data=4,model=2")
    state, sent = made.initial(), first_call(made.feed, 0)
    steps = jax.jit(program(watched_step(made.system, made.devices, False), made.feed, made.devices))
    text = steps.lower(state, unharmed(made.devices, state), sent, {}).compile().as_text()
    cut = [leaf for leaf in jax.tree.leaves(state.player.params) if not leaf.sharding.is_fully_replicated]
    assert len(cut) == text.count(" all-gather(") > 10
    assert not any(f" {kind}(" in text for kind in ("all-to-all", "collective-permute"))
    after, _, _ = steps(state, unharmed(made.devices, state), sent, {})
    same = jax.tree.map(lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), after, state)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    ("text", "available", "expected"),
    [
        ("data", 8, (8, 1)),
        ("data=4,model=2", 8, (4, 2)),
        ("model=2,data", 8, (4, 2)),
        ("data=2", 8, (2, 1)),
        ("model", 6, (1, 6)),
        ("data=1", 1, (1, 1)),
    ],
)
def test_meshes_are_read(text, available, expected):
    assert read_mesh(text, available) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tensor=2", "--mesh tensor=2 has the part 'tensor=2'"),
        ("data=0", "--mesh data=0 has the part 'data=0'"),
        ("data=2,data=4", "'data=4'"),
        ("", "''"),
        ("data=16", "--mesh data=16 does not fit the 8 devices"),
        ("data,model=3", "8 devices"),
        ("data,model", "8 devices"),
    ],
)
def test_other_meshes_are_refused_in_one_sentence(text, sentence):
    with pytest.raises(UserError) as error:
        read_mesh(text, 8)
    assert sentence in str(error.value)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    arguments = small("cnn", "--runs", tmp_path, "--batch-size", 60, "--mesh", "data=4,model=2")
    with pytest.raises(UserError, match=r"batch size 60 .*--batch-size"):
        main(arguments)
    assert not list(tmp_path.iterdir())


def test_large_arrays_are_cut_along_their_longest_axis_that_divides():
    found = Devices("data=2,model=4")

    def spec(*shape: int) -> Any:
        return found.layout(shape).spec

    assert spec(3, 3, 64, 128) == PartitionSpec(None, None, None, "model")
    assert spec(3, 3, 128, 64) == PartitionSpec(None, None, "model")
    assert spec(8, 1001) == PartitionSpec("model")
    assert spec(999, 1001) == PartitionSpec()
    assert spec(64, 16) == PartitionSpec()
