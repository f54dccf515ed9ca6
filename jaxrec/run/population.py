"""Many runs at once: members that differ in seed and hyper-parameters, trained by one compiled step."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.errors import UserError
from jaxrec.run.contract import check_contract
from jaxrec.run.drawing import Pictures
from jaxrec.run.ending import conclude, tested, worst_of
from jaxrec.run.evaluation import Evaluator, Interrupted, scalars
from jaxrec.run.fit import Run
from jaxrec.run.introduction import introduce
from jaxrec.run.members import Member, Members, MembersFeed, members_step, spread
from jaxrec.run.observers import Moment, Observer, hashes_now, validated, watch_steps
from jaxrec.run.profiling import Profile
from jaxrec.run.reporting import LiveReport
from jaxrec.run.session import Session, open_session
from jaxrec.run.show.log import Log
from jaxrec.run.steps import CompiledStep, Watch, run_steps, unharmed
from jaxrec.run.store import folder
from jaxrec.settings import Sweep, Train, to_dict, with_values
from jaxrec.settings.draws import draws
from jaxrec.tasks.system import system_of
from jaxrec.waiting import tell


def fit_members(
    config: Train, dataset: Any = None, observers: Sequence[Observer] = (), *, together: bool | None = None
) -> Run:
    """Trains ``config.seeds`` seeds, of a ``Sweep`` for each of its draws of hyper-parameters.

    At the ends of ``halving`` + 1 equal parts of the run, but the last, the worse half of the members is dropped.

    Args:
        config: the settings.
        dataset: as in ``fit``.
        observers: as in ``fit``; the state is a list of stacks of members.
        together: whether one call of the compiled step trains all members; default: not on a CPU.

    Returns:
        The run, with the best member's state and results.

    Raises:
        UserError: the settings do not allow many runs, or all members failed.
    """
    values: Sequence[Mapping[str, float]] = ({},)
    halving = 0
    if isinstance(config, Sweep):
        values, halving = draws(config), config.halving
        config = Train(**{each.name: getattr(config, each.name) for each in fields(Train)})
    _check(config, config.seeds * len(values), halving)
    # What a weight of 0 would leave out of the step has to be in it if any member's is above 0.
    highest = {}
    for option in values[0]:
        highest[option] = max(each[option] for each in values)
    with open_session(with_values(config, highest), dataset, members=True) as session:
        config, steps = session.config, session.config.steps or 0
        _check_session(session, halving)
        members = Members(session, values, together)
        stacks = members.initial()
        check_contract(session, members.shown(stacks))
        session.checkpoints.check_room(members.shown(stacks))
        with Log(session.folder, steps, 0, False, config, len(session.data.train)) as log:
            write_members(members)
            introduce(session, log, members.shown(stacks))
            log.say(f"{len(members.all)} members, trained {_how(members)} by one compiled step")
            feed, step, seconds = _prepare(members, stacks)
            log.compiled(seconds["compile"])
            began = time.perf_counter()
            evaluation = MembersEvaluation(members, log)
            watchers = [
                MembersLog(members, log),
                evaluation,
                MembersSaving(members),
                LiveReport(session, log),
                *observers,
            ]
            start = 0
            with Profile(session, log, step) as profile:
                for end in [steps * part // (halving + 1) for part in range(1, halving + 2)]:
                    if start:
                        width = members.width
                        stacks = members.halve(stacks, start)
                        _say_who_goes_on(members, log, start)
                        feed = MembersFeed(members, feed)
                        if members.width != width:
                            profile.end()  # Another program's operations have other names.
                            step = members_step(members, feed, stacks)
                    log.start_clock(start, len(members.remaining))
                    events = run_steps(step, feed, stacks, unharmed(session.devices, stacks), start, end)
                    stacks = watch_steps(session, events, [*watchers, profile], stacks, end)
                    if session.stop.signal is not None:
                        break
                    start = end
            session.checkpoints.wait()
            if session.stop.signal is not None:
                log.say(f"stopped by {session.stop.signal.name} after step {session.progress.step}")
                log.say(f"{members.best()} saved; a population cannot be resumed")
                return Run(session.folder, config, members.shown(stacks), stopped=session.stop.signal)
            session.stop.at_once()
            seconds["train"] = time.perf_counter() - began
            results = _finish(members, log, evaluation, stacks, seconds)
            return Run(session.folder, config, members.shown(stacks), results)


def _prepare(members: Members, stacks: list[Any]) -> tuple[MembersFeed, CompiledStep, dict[str, float]]:
    """The members' feed and step, and how many seconds each took."""
    began = time.perf_counter()
    feed = MembersFeed(members)
    loaded = time.perf_counter()
    tell("compiling the step", 0, 1)
    step = members_step(members, feed, stacks)
    tell("compiling the step", 1, 1)
    return feed, step, {"load": loaded - began, "compile": time.perf_counter() - loaded}


def _say_who_goes_on(members: Members, log: Log, step: int) -> None:
    numbers = ", ".join(str(member.member) for member in members.remaining)
    log.say(f"step {step}: {len(members.remaining)} members go on, {numbers}")


def _check(config: Train, members: int, halving: int) -> None:
    """Raises UserError if the settings are for one run alone."""
    if config.resume:
        raise UserError("a population of runs cannot be resumed; train it again under another --name, without --resume")
    if config.probe:
        raise UserError("--probe fits one head to one run; train the members one by one, or remove it")
    if config.patience:
        raise UserError(
            f"--patience {config.patience} would stop each of {members} members at another step; "
            "remove it, or train the members one by one"
        )
    if config.on_nonfinite != "stop":
        raise UserError(
            f"--on-nonfinite {config.on_nonfinite} is for one run; a member that fails is passed over: remove it"
        )
    if halving and system_of(config.task).score is None:
        raise UserError(
            "--halving needs a metric that tells a better run from a worse one, and there is none: remove it"
        )
    if 2**halving > members:
        raise UserError(
            f"--halving {halving} leaves nobody of {members} members; expected at most {int(math.log2(members))}"
        )


def _check_session(session: Session, halving: int) -> None:
    config = session.config
    if halving and session.data.validation is None:
        raise UserError("--halving decides on the validation split, and --validation 0 cuts none; try --validation .1")
    if session.devices.mesh.shape["model"] > 1:
        raise UserError(f"--mesh {config.mesh} cuts a run's state, but each of many runs is held whole; remove model")
    if (config.steps or 0) <= halving:
        raise UserError(f"a run of {config.steps} steps cannot be cut for --halving {halving}; give more --steps")


def _how(members: Members) -> str:
    return "in turn" if members.width == 1 else "together"


def write_members(members: Members) -> None:
    """Writes the members' records, and the settings of the one whose checkpoint the folder holds."""
    session, best = members.session, members.best()
    config = replace(with_values(session.config, best.values), seed=best.seed, seeds=1)
    folder.write_json(session.folder / "config.json", to_dict(config))
    folder.write_json(session.folder / "members.json", [asdict(member) for member in members.all])


class MembersLog:
    """Logs a row for each remaining member, a logged step late; notes the members that failed."""

    def __init__(self, members: Members, log: Log) -> None:
        self.members, self.log = members, log
        self.waiting: tuple[int, Any, Any] | None = None

    def __call__(self, moment: Moment) -> None:
        """Logs the step before if one waits, and this one at once if it is evaluated or saved."""
        due = moment.evaluates or moment.saves
        if moment.logs or due:
            self._flush(moment)
            watch = jax.tree.map(lambda each: jnp.copy(each), moment.watch)
            self.waiting = moment.step, moment.metrics, watch
        if due:
            self._flush(moment)
        self.log.tick(moment.step)
        self.members.session.progress.step = moment.step

    def _flush(self, moment: Moment) -> None:
        if self.waiting is None:
            return
        step, metrics, watch = jax.device_get(self.waiting)
        self.waiting = None
        self._note_failures(watch)
        rows = []
        for found, group in zip(metrics, self.members.groups(), strict=True):
            for place in range(len(group)):
                rows.append(scalars({name: values[place] for name, values in found.items()}))
        moment.rows.append((int(step), "train", log_members(self.members, self.log, int(step), "train", rows)))

    def _note_failures(self, watch: list[Watch]) -> None:
        failed = np.concatenate([each.failed for each in watch])
        for member, step in zip(self.members.remaining, failed, strict=True):
            if step >= 0 and member.failed is None:
                member.failed = int(step)
        check_some_left(self.members)


def check_some_left(members: Members) -> None:
    """Raises UserError if every remaining member has failed."""
    failed = [member.failed for member in members.remaining]
    if all(step is not None for step in failed):
        raise UserError(
            f"the loss of every member is not finite, of the last from step {max(step or 0 for step in failed)} on; "
            "lower --optimizer.lr or set --optimizer.clip 1, and train under another --name"
        )


def log_members(members: Members, log: Log, step: int, split: str, rows: list[dict[str, float]]) -> dict[str, float]:
    """A row of metrics.jsonl for each remaining member; the screen shows the mean over those that did not fail."""
    whole = [row for row, member in zip(rows, members.remaining, strict=True) if member.failed is None]
    means = {}
    for name in whole[0]:
        means[name] = sum(row[name] for row in whole) / len(whole)
    numbered = [{"member": member.member, **row} for member, row in zip(members.remaining, rows, strict=True)]
    log.write_rows(step, split, means, numbered)
    return means


class MembersEvaluation:
    """Evaluates every remaining member on the validation split, and draws the pictures of the best."""

    def __init__(self, members: Members, log: Log) -> None:
        session = members.session
        self.members, self.log = members, log
        self.evaluator = Evaluator(session.config.task, session.system, session.devices)
        self.pictures = Pictures(session)

    def __call__(self, moment: Moment) -> None:
        """Evaluates if it is due."""
        session, before = self.members.session, self.members.best()
        session.progress.unevaluated = False
        if not moment.evaluates:
            return
        with self.log.pause():
            worst: dict[int, Any] = {}
            try:
                if session.data.validation is not None:
                    worst = self._validate(moment)
            except Interrupted:
                session.progress.unevaluated = True
                return
            if self.members.best() is not before:
                self.pictures.written = -math.inf  # Those that are there are of another member.
            self.pictures.at(self.members.shown(moment.state), moment.step, worst.get(self.members.best().member))
            self.log.pictures(moment.step)

    def _validate(self, moment: Moment) -> dict[int, Any]:
        """The worst examples of each member by its number."""
        members, score = self.members, self.members.session.system.score
        rows, worst = [], {}
        for member, state in members.states(moment.state):
            found = validated(self.evaluator, state, members.session)
            rows.append(scalars(found))
            worst[member.member] = found.get("worst")
        name = score.name if score else "loss"
        for member, row in zip(members.remaining, rows, strict=True):
            if not math.isfinite(row.get(name, 0.0)):
                member.failed = member.failed or moment.step
            elif score is not None:
                member.validation = row[name]
        check_some_left(members)
        means = log_members(members, self.log, moment.step, "validation", rows)
        moment.rows.append((moment.step, "validation", means))
        best = members.best()
        if best.validation is not None:
            self.log.say(f"best: {best}, validation {name} {best.validation:.4g}")
        return worst


class MembersSaving:
    """Saves the best member's state, and the settings that name it."""

    def __init__(self, members: Members) -> None:
        self.members = members

    def __call__(self, moment: Moment) -> None:
        """Saves if it is due. A state that is not finite is not saved: its loss shows next."""
        if not (moment.evaluates or moment.saves):
            return
        write_members(self.members)
        session, shown = self.members.session, self.members.shown(moment.state)
        hashes = hashes_now(session, shown)
        session.checkpoints.save(moment.step, shown, hashes, session.progress.as_json(), None)


def _finish(
    members: Members, log: Log, evaluation: MembersEvaluation, stacks: list[Any], seconds: dict[str, float]
) -> dict[str, Any]:
    """The metrics of every remaining member on the test split, the best one's pictures, and the report."""
    session, step = members.session, members.session.progress.step
    best, shown = members.best(), {}
    for member, state in members.states(stacks):
        if member.failed is not None:
            continue
        results = tested(evaluation.evaluator, state, session.data, session.config.test_split, step)
        name = session.system.score.name if session.system.score else "loss"
        if results.get(name, 0.0) is None:
            member.failed = step
            continue
        if member is best:
            shown = results
        member.test = {name: value for name, value in results.items() if isinstance(value, int | float | None)}
    if best.failed is not None:
        raise UserError(
            f"the metrics of {best} on the test split are not finite; lower --optimizer.lr or set --optimizer.clip 1, "
            "and train under another --name"
        )
    write_members(members)
    results = _spread(members, best, shown)
    folder.write_json(session.folder / "results.json", results)
    log.results(f"{results['split']}, {results['members']} members:", _scores(results, shown), results)
    log.say(f"the checkpoint is of {best}")
    evaluation.pictures.last(members.shown(stacks), worst_of(shown))
    log.pictures(step)
    conclude(session, log, shown, seconds)
    return results


def _spread(members: Members, best: Member, shown: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a population: mean and deviation of each metric over its members."""
    common = {name: shown[name] for name in ("split", "examples", "step")}
    rows = []
    for member in members.remaining:
        if member.test is not None:
            rows.append({name: value for name, value in member.test.items() if name not in common})
    return {**common, "members": len(rows), "checkpoint_of": best.member, **spread(rows)}


def _scores(results: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in shown:
        if isinstance(results.get(name), float):
            found[name] = f"{results[name]:.5g} ± {results.get(f'{name}_std', 0.0):.2g}"
    return found
