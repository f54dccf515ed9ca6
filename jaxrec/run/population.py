"""Many runs at once: members that differ in seed and hyper-parameters, trained by one compiled step."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import mean, stdev
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data import Split
from jaxrec.errors import UserError
from jaxrec.run.evaluation import initializer, scalars
from jaxrec.run.loop import Trainer, test_results, train
from jaxrec.run.setup import CompiledStep, Data, Watch, batches, compile_step, stack
from jaxrec.run.show.log import Log
from jaxrec.run.store import folder
from jaxrec.run.store.checkpoints import hashes_of, split_state
from jaxrec.run.world.devices import Devices
from jaxrec.settings import GAN, Train, to_dict, with_values
from jaxrec.tasks.state import State


@dataclass
class Member:
    """One of the runs, and its record in members.json."""

    member: int
    """Its number, from 0."""
    seed: int
    values: Mapping[str, float]
    """Its own hyper-parameters by option, such as ``optimizer.lr``."""
    validation_loss: float | None = None
    """At the last evaluation; a gan has none that tells better from worse."""
    failed: int | None = None
    """The step at which its loss was found not to be finite."""
    dropped: int | None = None
    """The step after which halving dropped it."""
    test: dict[str, Any] | None = None
    """Its figures on the test split, where it came to the end."""

    def __str__(self) -> str:
        values = "".join(f", {name} {value:g}" for name, value in self.values.items())
        return f"member {self.member} (seed {self.seed}{values})"


def train_population(config: Train, draws: Sequence[Mapping[str, float]] = ({},), halving: int = 0) -> int:
    """Trains ``config.seeds`` seeds of each of ``draws``, hyper-parameters by option; returns the exit code.

    At the ends of ``halving`` + 1 equal parts of the run, but the last, the worse half of the members is dropped.
    """
    members = config.seeds * len(draws)
    if config.resume:
        raise UserError("a population of runs cannot be resumed; train it again under another --name, without --resume")
    if config.patience:
        raise UserError(
            f"--patience {config.patience} would stop each of {members} members at another step; "
            "drop it, or train the members one by one"
        )
    if halving and isinstance(config.task, GAN):
        raise UserError(
            "--halving needs a figure to halve by, and a gan's losses do not tell better from worse: drop it"
        )
    if halving and not config.validation:
        raise UserError("--halving decides on the validation split, and --validation 0 cuts none; give .1, say")
    if 2**halving > members:
        raise UserError(
            f"--halving {halving} leaves nobody of {members} members; expected at most {int(math.log2(members))}"
        )
    # What a weight of 0 would leave out of the step has to be in it where any member's is above 0.
    highest = {option: max(values[option] for values in draws) for option in draws[0]}
    return train(with_values(config, highest), partial(Population, draws=draws, halving=halving))


class Population(Trainer):
    """Trains its members by the loop of a run. Their states are a list of stacks of ``width`` members each."""

    def __init__(
        self, config: Train, data: Data, devices: Devices, *, draws: Sequence[Mapping[str, float]], halving: int
    ) -> None:
        super().__init__(config, data, devices)
        if config.on_nonfinite != "stop":
            raise UserError(
                f"--on-nonfinite {config.on_nonfinite} is for one run: of many, a failing one is passed over; drop it"
            )
        if devices.mesh.shape["model"] > 1:
            raise UserError(f"--mesh {config.mesh} cuts a run's state, and of many runs each is held whole; drop model")
        if (config.steps or 0) <= halving:
            raise UserError(f"a run of {config.steps} steps cannot be cut for --halving {halving}; give more --steps")
        seeds = range(config.seed, config.seed + config.seeds)
        runs = [(seed, values) for values in draws for seed in seeds]
        self.members = [Member(number, *run) for number, run in enumerate(runs)]
        self.remaining, self.halving = self.members, halving
        # With a kernel per member a convolution becomes a grouped one, and on a CPU XLA's take up to twice the time:
        # there the compiled step is that of a stack of one, called for each member. Elsewhere one call trains all.
        self.width = 1 if devices.platform == "cpu" else len(self.members)
        self.take = jax.jit(
            lambda state, places: jax.tree.map(lambda leaf: leaf[places], state), out_shardings=devices.replicated
        )

    def initial(self) -> list[State]:
        """The members' states at step 0."""
        make, examples = initializer(self.config.task, self.devices, members=True), self._examples()
        stacks = []
        for members in self._stacked():
            state = make(jnp.stack([jax.random.key(member.seed) for member in members]), examples)
            own = {
                option.rpartition(".")[2].replace("-", "_"): np.array([m.values[option] for m in members], np.float32)
                for option in members[0].values
            }
            stacks.append(state.replace(hyper={**state.hyper, **self.devices.copy(own)}))
        return stacks

    def _stacked(self) -> list[list[Member]]:
        return [self.remaining[n : n + self.width] for n in range(0, len(self.remaining), self.width)]

    def _states(self, stacks: list[State]) -> Iterator[tuple[Member, State]]:
        for members, states in zip(self._stacked(), stacks, strict=True):
            yield from ((member, self.take(states, place)) for place, member in enumerate(members))

    def _batches(self, start: int, steps: int) -> Iterator[tuple[int, Any]]:
        # Members of one seed see the same batches, which are read once.
        seeds = list(dict.fromkeys(member.seed for member in self.remaining))
        streams = [batches(self.config, self.data, self.devices, seed, start, steps) for seed in seeds]
        before, shared = None, []
        for found in zip(*streams, strict=True):
            made, first = found[0]
            if first is not before:  # If one seed's are new, all are.
                by_seed = {seed: batch for seed, (_, batch) in zip(seeds, found, strict=True)}
                parts = [stack([by_seed[member.seed] for member in members]) for members in self._stacked()]
                before, shared = first, [self.devices.share(part) for part in parts]
            yield made, shared

    def _compile(self, state: list[State]) -> CompiledStep:
        _, batch = next(self._batches(0, self.config.steps or 0))
        one = compile_step(self.config, self.data, self.devices, state[0], batch[0])

        def step(state: Any, watch: Any, batch: Any) -> tuple[Any, Any, Any]:
            made = [one(*each) for each in zip(state, watch, batch, strict=True)]
            state, watch, metrics = (list(each) for each in zip(*made, strict=True))
            return state, watch, metrics

        return step

    def _best(self) -> Member:
        """The member of least loss on the validation split; where nothing is to be compared, the first."""
        return min(self.remaining, key=_rank)

    def _shown(self, state: list[State]) -> State:
        return next(one for member, one in self._states(state) if member is self._best())

    def _write_config(self) -> None:
        # The folder's settings are those of the one run whose checkpoint it holds.
        best = self._best()
        config = replace(with_values(self.config, best.values), seed=best.seed, seeds=1)
        folder.write_json(self.run / "config.json", to_dict(config))
        folder.write_json(self.run / "members.json", [asdict(member) for member in self.members])

    def _introduce(self, log: Log, state: State) -> None:
        super()._introduce(log, state)
        how = "by turns" if self.width == 1 else "together"
        log.say(f"{len(self.members)} members, trained {how} by one compiled step")

    def _saved(self) -> str:
        return f"{self._best()} saved; a population cannot be resumed"

    def _steps(self, log: Log, state: Any, step: CompiledStep, start: int, steps: int) -> Any:
        parts = self.halving + 1
        for part in range(1, parts + 1):
            end = steps * part // parts
            log.start_clock(start, self.config.batch_size * len(self.remaining))
            state = super()._steps(log, state, step, start, end)
            if part == parts or self.stop.signal is not None:
                break
            before, start = self.width, end
            state = self._halve(log, state, end)
            if self.width != before:
                step = self._compile(state)
        return state

    def _halve(self, log: Log, state: list[State], made: int) -> list[State]:
        kept = sorted(self.remaining, key=_rank)[: -(-len(self.remaining) // 2)]
        places = [place for place, member in enumerate(self.remaining) if member in kept]
        for member in self.remaining:
            member.dropped = None if member in kept else made
        self.remaining = [self.remaining[place] for place in places]
        if self.width == 1:
            state = [state[place] for place in places]
        else:
            self.width = len(places)
            state = [self.take(state[0], np.array(places))]
        log.say(f"step {made}: {len(self.remaining)} members go on, {', '.join(str(m.member) for m in self.remaining)}")
        return state

    def _save(self, made: int, state: Any, score: float | None, *, may_wait: bool) -> None:
        self._write_config()
        # The settings name the member whose checkpoint it is, so none waits. Where it is not finite nothing is saved,
        # and the member is passed over when its loss shows it.
        shown = self._shown(state)
        self.checkpoints.save(made, shown, hashes_of(*split_state(shown)), self.progress, None)

    def _check(self, watch: list[Watch]) -> None:
        for member, step in zip(self.remaining, np.concatenate([each.failed for each in watch]), strict=True):
            if step >= 0 and member.failed is None:
                member.failed = int(step)
        self._check_any()

    def _check_any(self) -> None:
        if all(member.failed is not None for member in self.remaining):
            raise UserError(
                "the loss of every member is not finite, of the last from step "
                f"{max(member.failed or 0 for member in self.remaining)} on; lower --optimizer.lr or set "
                "--optimizer.clip 1, and train under another --name"
            )

    def _seen(self, state: list[State], watch: list[Watch]) -> tuple[list[Watch], None]:
        # No hashes: a population is not resumed, and its members' states agree with their own runs' but for rounding.
        return jax.tree.map(lambda each: each + 0, watch), None

    def _log(self, log: Log, made: int, metrics: Any, watch: Any, hashes: None) -> None:
        metrics, watch = jax.device_get((metrics, watch))
        self._check(watch)
        rows = [
            scalars({name: values[place] for name, values in found.items()})
            for found, members in zip(metrics, self._stacked(), strict=True)
            for place in range(len(members))
        ]
        self._write(log, made, "train", rows)

    def _write(self, log: Log, made: int, split: str, rows: list[dict[str, float]]) -> None:
        """A row of metrics.jsonl for each remaining member; the screen shows the mean over those that did not fail."""
        shown = [row for row, member in zip(rows, self.remaining, strict=True) if member.failed is None]
        numbers = [member.member for member in self.remaining]
        means = {name: mean(row[name] for row in shown) for name in shown[0]}
        log.write(made, split, means, list(zip(numbers, rows, strict=True)))

    def _evaluate(self, log: Log, state: Any, made: int) -> None:
        validation, before = self.data.validation, self._best()
        if validation is not None:
            self._validate(log, state, made, validation)
        if self._best() is not before:
            self.pictured = -math.inf  # Those that are there are of another member.
        self._pictures(self._shown(state), validation or self.data.train, made)

    def _validate(self, log: Log, state: Any, made: int, validation: Split) -> None:
        rows = [self._validated(one, validation) for _, one in self._states(state)]
        for member, row in zip(self.remaining, rows, strict=True):
            if not math.isfinite(row["loss"]):
                member.failed = member.failed or made
            elif not isinstance(self.config.task, GAN):
                member.validation_loss = row["loss"]
        self._check_any()
        self._write(log, made, "validation", rows)
        if (best := self._best()).validation_loss is not None:
            log.say(f"best: {best}, validation loss {best.validation_loss:.4g}")

    def _test(self, log: Log, state: Any, step: int) -> dict[str, Any]:
        best, shown = self._best(), {}
        for member, one in self._states(state):
            if member.failed is not None:
                continue
            results = test_results(self.config, self.data, self.evaluator, one, step)
            if results["loss"] is None:
                member.failed = step
                continue
            shown = results if member is best else shown
            member.test = {name: value for name, value in results.items() if isinstance(value, int | float | None)}
        if best.failed is not None:
            self._give_up(f"the loss of {best} on the test split is not finite", step)
        self._write_config()
        tests = [member.test for member in self.remaining if member.test is not None]
        common = {name: shown[name] for name in ("split", "examples", "step")}
        figures = spread([{name: each[name] for name in each if name not in common} for each in tests])
        results = {**common, "members": len(tests), "checkpoint_of": best.member, **figures}
        folder.write_json(self.run / "results.json", results)
        scores = (
            f"{name} {figures[name]:.5g} ± {figures.get(f'{name}_std', 0.0):.2g}" for name in shown if name in figures
        )
        log.say(f"test, {len(tests)} members: {'  '.join(scores)}")
        log.say(f"the checkpoint is of {best}")
        return shown


def _rank(member: Member) -> float:
    return math.inf if member.failed is not None else member.validation_loss or 0.0


def spread(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean and, as ``NAME_std``, sample standard deviation of each figure that every row has; of one row, no deviation.

    The number of a class, ``worst_class``, has no mean and is left out.
    """
    rows = list(rows)
    known = [name for name in rows[0] if name != "worst_class" and all(row[name] is not None for row in rows)]
    figures = {}
    for name in known:
        values = [row[name] for row in rows]
        figures[name] = mean(values)
        if len(values) > 1:
            figures[f"{name}_std"] = stdev(values)
    return figures
