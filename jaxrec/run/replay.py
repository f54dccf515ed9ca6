"""Makes steps of a run again and compares the states with those that it logged and saved."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jaxrec.data import cache_dir
from jaxrec.errors import UserError
from jaxrec.host import keep_programs
from jaxrec.run.around import read_around
from jaxrec.run.data import check_same_data, complete, open_data
from jaxrec.run.feed import Feed
from jaxrec.run.fit import prepare
from jaxrec.run.initial import initial_state
from jaxrec.run.known import check_there
from jaxrec.run.probing import probed
from jaxrec.run.show.log import read_metrics
from jaxrec.run.start import read_weights, started
from jaxrec.run.steps import CompiledStep, run_steps, unharmed
from jaxrec.run.store import folder
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.store.hashes import Hashes, hashes_of
from jaxrec.run.store.manifest import read_dataset, read_history
from jaxrec.run.store.state import split_state
from jaxrec.run.teachers import teacher
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Task
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System, system_of

Difference = tuple[int, str]
"""A step, and what is different there."""


def _hashes(state: State) -> Hashes:
    return hashes_of(*split_state(state))


def _system(run: Path, task: Task) -> System:
    """The run's system as the run trains it."""
    system, around = system_of(task), read_around(run)
    if around is not None and around.narrower:
        raise UserError(
            f"run '{run.name}' began with channels of another run removed, and its settings do not say which; verify "
            "runs that compress --structured did not make"
        )
    return system if around is None else around(system)


class Replay:
    """A run's steps, to be made again; ``compared`` counts the logged states that were compared so far.

    Raises UserError if the run is a population, has logged nothing, or its data set has changed.
    """

    def __init__(self, run: Path, dataset: Any = None) -> None:
        if (run / "members.json").exists():
            raise UserError(f"run '{run.name}' is a population, whose states are not logged; verify runs of one member")
        self.run, self.config, self.compared = run, folder.read_config(run), 0
        keep_programs(cache_dir() / "programs")
        self.system = _system(run, self.config.task)
        self.devices = Devices(self.config.mesh)
        self.devices.check_batch(self.config.batch_size)
        if dataset is None:
            check_there(self.config.dataset)
        self.data = open_data(self.config, self.system, dataset, trains=True)
        described = read_dataset(run)
        check_same_data(self.data, described)
        # Statistics may have come with the weights that the run started from.
        self.data.facts.update(described.get("facts", {}))
        self.made_with = read_history(run)
        self.logged: dict[int, set[str]] = {}
        for row in read_metrics(run):
            if "state" in row:
                self.logged.setdefault(row["step"], set()).add(str(row["state"]))
        if not self.logged:
            raise UserError(f"run '{run.name}' has logged no step yet; let it train on")
        self._steps_from = cache(self._compiled)

    def _compiled(self, since: int) -> tuple[State, Feed, CompiledStep]:
        """The state at step 0, and what makes the steps as the run made them from ``since`` on."""
        settings = self.made_with[since]
        pauses = dict.fromkeys(("log_every", "eval_every", "save_every"), settings["fuse_steps"])
        config = complete(replace(self.config, **settings, **pauses), self.data, self.system)
        state = self._initial(config.task)
        feed, step, _ = prepare(config, self.system, self.data, self.devices, state, since)
        return state, feed, step

    def _initial(self, task: Task) -> State:
        judge = teacher(task, self.system, self.data)
        state = initial_state(task, self.system, self.devices, self.config.seed, self.data.train, judge)
        state, _ = started(state, self.config, self.system, read_weights(self.config, self.system))
        state, _ = probed(state, self.config, self.system, self.devices, self.data)
        return state

    def missing(self, checkpoints: Checkpoints) -> list[Difference]:
        """The newest checkpoint, if the log ends before it."""
        saved, last = checkpoints.latest(), max(self.logged)
        return [(saved, f"it was saved, and the log ends at step {last}")] if saved > last else []

    def windows(self, checkpoints: Checkpoints, most: int) -> Iterator[tuple[int, int, Iterator[Difference]]]:
        """First step, last step and differences of up to ``most`` steps from the start and from each checkpoint on."""
        saved = sorted(checkpoints.steps())
        ends = [*saved, max(saved[-1], *self.logged)]
        for start, following in zip([0, *saved], ends, strict=True):
            since = max(step for step in self.made_with if step <= start)
            fused = self.made_with[since]["fuse_steps"]
            whole = start + max(fused, most - most % fused)
            changes = [step for step in self.made_with if step > start]
            end = min(following, whole, *changes)
            yield start, end, self._made_again(checkpoints, since, start, end)

    def _made_again(self, checkpoints: Checkpoints, since: int, start: int, end: int) -> Iterator[Difference]:
        state, feed, step = self._steps_from(since)
        if start:
            try:
                state, _ = checkpoints.restore(state, start)
            except UserError as error:
                yield start, str(error)
                return
        else:
            # The step takes a state's memory over, and this one is needed again.
            state = self._initial(state.config)
        if start in self.logged and (difference := self._difference(start, state)):
            yield start, f"the checkpoint's state is {difference}"
        agrees = True
        for event in run_steps(step, feed, state, unharmed(self.devices, state), start, end):
            state = event.state
            if event.step not in self.logged or not agrees:
                continue
            difference = self._difference(event.step, state)
            if difference:
                agrees = False
                yield event.step, f"made again from step {start}, the state is {difference}"
        if end in checkpoints.steps() and end > start:
            yield from self._against_checkpoint(checkpoints, end, state)

    def _against_checkpoint(self, checkpoints: Checkpoints, step: int, state: State) -> Iterator[Difference]:
        try:
            saved = checkpoints.record(step)["hashes"]
        except UserError:  # The window that starts from this checkpoint says so.
            return
        found = _hashes(state).by_path()
        changed = [name for name, value in found.items() if saved.get(name) != value]
        if changed:
            yield step, f"{changed[0]} and {len(changed) - 1} more arrays differ from the checkpoint's"

    def _difference(self, step: int, state: State) -> str:
        """How a state's digest differs from what was logged; "" if it does not."""
        self.compared += 1
        found, logged = _hashes(state).digest(), self.logged[step]
        return "" if {found} == logged else f"{found}, the run logged {' and '.join(sorted(logged))}"
