"""Makes steps of a run again and compares the states with those it logged and saved."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from jaxrec.data import cache_dir
from jaxrec.errors import UserError
from jaxrec.run.loop import Trainer
from jaxrec.run.setup import CompiledStep, check_same_data, complete, open_data, unharmed
from jaxrec.run.show.report import read_metrics
from jaxrec.run.store import folder
from jaxrec.run.store.checkpoints import Checkpoints, hashes_of, split_state
from jaxrec.run.store.hashes import Hashes
from jaxrec.run.world.devices import Devices, keep_programs
from jaxrec.tasks.state import State

Difference = tuple[int, str]
"""A step, and what is other there than it was."""


def _hashes(state: State) -> Hashes:
    return hashes_of(*split_state(state))


class Replay:
    """A run's steps, to be made again; ``compared`` counts the logged states that were compared so far.

    Raises UserError where the run is a population, has logged nothing, or its data set has changed.
    """

    def __init__(self, run: Path) -> None:
        if (run / "members.json").exists():
            raise UserError(f"run '{run.name}' is a population, whose states are not logged; verify runs of one member")
        self.run, self.config, self.compared = run, folder.read_config(run), 0
        keep_programs(cache_dir() / "programs")
        self.devices = Devices(self.config.mesh)
        self.devices.check_batch(self.config.batch_size)
        self.data = open_data(self.config, trains=True)
        check_same_data(self.data, folder.read_dataset(run))
        self.made_with, self.went_back = folder.read_history(run)
        self.logged: dict[int, set[str]] = {}
        for row in read_metrics(run):
            if "state" in row:
                self.logged.setdefault(row["step"], set()).add(str(row["state"]))
        if not self.logged:
            raise UserError(f"run '{run.name}' has logged no step yet; let it train on")
        self._steps_of = cache(self._compile)

    def _compile(self, since: int) -> tuple[Trainer, CompiledStep]:
        """What makes the steps as the run made them from ``since`` on."""
        settings = self.made_with[since]
        pauses = dict.fromkeys(("log_every", "eval_every", "save_every"), settings["fuse_steps"])
        config = complete(replace(self.config, **settings, **pauses), self.data)
        trainer = Trainer(config, self.data, self.devices)
        return trainer, trainer._compile(trainer.initial())

    def missing(self, checkpoints: Checkpoints) -> list[Difference]:
        """The newest checkpoint where the log ends before it."""
        saved, last = checkpoints.latest(), max(self.logged)
        return [(saved, f"it was saved, and the log ends at step {last}")] if saved > last else []

    def windows(self, checkpoints: Checkpoints, most: int) -> Iterator[tuple[int, int, Iterator[Difference]]]:
        """First step, last step and differences of up to ``most`` steps from the start and from each checkpoint on."""
        saved = sorted(checkpoints.steps())
        rollbacks = {0: 0}  # How many there had been, by the step from which on.
        for count, back_to in enumerate(self.went_back, 1):
            rollbacks = {step: each for step, each in rollbacks.items() if step < back_to} | {back_to: count}
        for start, following in zip([0, *saved], [*saved, max(saved[-1], *self.logged)], strict=True):
            if start < min(self.made_with):  # by a version of jaxrec that did not write it down
                continue
            since, slower = (max(step for step in each if step <= start) for each in (self.made_with, rollbacks))
            at_once = self.made_with[since]["fuse_steps"]
            whole = start + max(at_once, most - most % at_once)
            end = min(following, whole, *(step for step in (*self.made_with, *rollbacks) if step > start))
            yield start, end, self._made_again(checkpoints, since, rollbacks[slower], start, end)

    def _made_again(
        self, checkpoints: Checkpoints, since: int, rollbacks: int, start: int, end: int
    ) -> Iterator[Difference]:
        trainer, program = self._steps_of(since)
        state = first = trainer.initial()
        if start:
            try:
                state, _ = checkpoints.restore(state, start)
            except UserError as error:
                yield start, str(error)
                return
        if start in self.logged and (what := self._differs(start, state)):
            yield start, f"the checkpoint's state is {what}"
        if rollbacks:  # A checkpoint that the run went back to holds the learning rate from before.
            state = trainer._slowed(state, first, rollbacks)
        watch, agrees = unharmed(self.devices, state), True
        for made, batch in trainer._batches(start, end):
            state, watch, _ = program(state, watch, batch)
            if made in self.logged and agrees and (what := self._differs(made, state)):
                agrees = False
                yield made, f"made again from step {start}, the state is {what}"
        if end in checkpoints.steps() and end > start:
            saved, found = checkpoints.record(end)["hashes"], _hashes(state).by_path()
            if changed := [name for name, value in found.items() if saved.get(name) != value]:
                yield end, f"{changed[0]} and {len(changed) - 1} more arrays differ from the checkpoint's"

    def _differs(self, step: int, state: State) -> str:
        """How a state's digest differs from what was logged; "" where it does not."""
        self.compared += 1
        found, logged = _hashes(state).digest(), self.logged[step]
        return "" if {found} == logged else f"{found}, the run logged {' and '.join(sorted(logged))}"
