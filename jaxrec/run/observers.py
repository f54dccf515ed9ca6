"""What watches a run: the log, evaluations, pictures and checkpoints, each called after every call of the step."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxrec.errors import UserError
from jaxrec.run.drawing import Pictures
from jaxrec.run.evaluation import Evaluator, Interrupted, scalars
from jaxrec.run.session import Session
from jaxrec.run.show.log import Log
from jaxrec.run.steps import Event, Watch
from jaxrec.run.store.hashes import Hashes, hashes_of
from jaxrec.run.store.state import split_state
from jaxrec.settings import Train
from jaxrec.tasks.state import State


@dataclass
class Moment(Event):
    """An event, what is due at it, and what the observers have found so far."""

    logs: bool = False
    evaluates: bool = False
    saves: bool = False
    last: bool = False
    """Whether the run ends here."""
    hashes: Hashes | None = None
    """Of the state, if it is evaluated or saved."""
    score: float | None = None
    """The state's score on the validation split; less is better."""
    rows: list[tuple[int, str, dict[str, float]]] = field(default_factory=list)
    """Step, split and metrics of each row that was logged; a training row follows a logged step or more late."""


Observer = Callable[[Moment], None]


def watch_steps(session: Session, events: Iterable[Event], observers: Sequence[Observer], state: Any, end: int) -> Any:
    """Shows the observers what is due after each call, until step ``end`` or something else ends it.

    That is a signal, an evaluation that was interrupted, or enough evaluations without a better score. Returns the last
    state; it is ``state`` if no call is made.
    """
    if ended(session):
        return state
    for event in events:
        state = event.state
        seen = moment(event, session.config, end, stops=session.stop.due())
        for observer in observers:
            observer(seen)
        if seen.last or ended(session):
            break
    return state


def ended(session: Session) -> bool:
    """Whether an evaluation was interrupted, or the run has waited long enough for a better score."""
    patience = session.config.patience
    return session.progress.unevaluated or 0 < patience <= session.progress.waited


def moment(event: Event, config: Train, end: int, *, stops: bool = False) -> Moment:
    """The event with what is due: a function of the absolute step, but for a signal that ``stops`` the run.

    What follows step ``end``, of the run or of a part of it, builds on an evaluation and a checkpoint.
    """
    step, evaluate, save = event.step, config.eval_every or 1, config.save_every
    last = stops or step == config.steps
    return Moment(
        **vars(event),
        logs=step % config.log_every == 0,
        evaluates=step % evaluate == 0 or step == end,
        saves=last or step == end or (save is not None and step % save == 0),
        last=last,
    )


class TrainingLog:
    """Logs training metrics and the state's hash.

    A logged step's metrics are fetched while later steps run, because waiting for them would leave the devices idle.
    """

    def __init__(self, session: Session, log: Log) -> None:
        self.session, self.log = session, log
        self.skipped_before = session.progress.skipped
        self.waiting: tuple[int, Any, Any, Any] | None = None
        self.look = jax.jit(_copied_and_hashed)

    def __call__(self, moment: Moment) -> None:
        """Logs the step before if one waits, and this one at once if it is evaluated or saved."""
        due = moment.evaluates or moment.saves
        if moment.logs or due:
            self._flush(moment)
            watch, hashes = self.session.devices.finish(self.look(moment.state, moment.watch))
            self.waiting = moment.step, moment.metrics, watch, hashes
        if due:
            moment.hashes = self._flush(moment)
        self.log.tick(moment.step)
        self.session.progress.step = moment.step

    def _flush(self, moment: Moment) -> Hashes | None:
        if self.waiting is None:
            return None
        step, metrics, watch, hashes = jax.device_get(self.waiting)
        self.waiting = None
        self._check(watch)
        row = scalars(metrics)
        if self.session.config.on_nonfinite == "skip":
            row["skipped"] = self.session.progress.skipped
        self.log.write(int(step), "train", row, state=hashes.digest())
        moment.rows.append((int(step), "train", row))
        return hashes

    def _check(self, watch: Watch) -> None:
        self.session.progress.skipped = self.skipped_before + int(watch.skipped)
        if watch.failed >= 0:
            give_up(self.session, f"the loss is not finite at step {watch.failed}", int(watch.failed))


def _copied_and_hashed(state: State, watch: Watch) -> tuple[Watch, Hashes]:
    """A copy of the watch, which the next step overwrites, and the hashes of the state."""
    return jax.tree.map(lambda each: each + 0, watch), hashes_of(*split_state(state))


def hashes_now(session: Session, state: State) -> Hashes:
    """The hashes of a state, on the host."""
    return jax.device_get(session.devices.finish(jax.jit(hashes_of)(*split_state(state))))


def give_up(session: Session, reason: str, failed: int) -> None:
    """Ends the run over numbers that are not finite from step ``failed`` on.

    Raises:
        UserError: always; it names the last good checkpoint.
    """
    unwritten = ""
    try:
        session.checkpoints.wait()
    except UserError as error:  # What ended the run is worth more than what followed from it.
        unwritten = f", and {error}"
    kept = session.checkpoints.steps()
    # The step before made the parameters that this one failed with: they are finite, and a last resort.
    good = [step for step in kept if step < failed - 1] or [step for step in kept if step < failed]
    saved = f"the last good checkpoint is of step {max(good)}" if good else "no good checkpoint had been saved"
    raise UserError(
        f"{reason}; {saved}{unwritten}: lower --optimizer.lr or set --optimizer.clip 1, and train under another --name"
    )


class Evaluation:
    """Evaluates on the validation split, draws pictures, and notes the best score."""

    def __init__(self, session: Session, log: Log) -> None:
        self.session, self.log = session, log
        self.evaluator = Evaluator(session.config.task, session.system, session.devices)
        self.pictures = Pictures(session)

    def __call__(self, moment: Moment) -> None:
        """Evaluates if it is due; notes if it was interrupted, so that a resumed run does it first."""
        progress = self.session.progress
        progress.unevaluated = False
        if not moment.evaluates:
            return
        with self.log.pause():
            try:
                worst = self._evaluate(moment)
                self.pictures.at(moment.state, moment.step, worst)
                self.log.pictures(moment.step)
            except Interrupted:
                progress.unevaluated = True

    def _evaluate(self, moment: Moment) -> Any:
        """The worst examples of the validation split; None if there is none or the system does not say."""
        session = self.session
        if session.data.validation is None:
            return None
        found = validated(self.evaluator, moment.state, session)
        metrics, worst = _score_first(session, scalars(found)), found.get("worst")
        digest = moment.hashes.digest() if moment.hashes else None
        self.log.write(moment.step, "validation", metrics, state=digest)
        moment.rows.append((moment.step, "validation", metrics))
        check_finite(session, metrics, "validation", moment.step)
        if session.system.score is None:
            return worst
        moment.score = session.system.score.least(metrics)
        progress = session.progress
        if progress.best is None or moment.score < progress.best - session.config.min_delta:
            progress.best, progress.waited = moment.score, 0
        else:
            progress.waited += 1
        return worst


def _score_first(session: Session, metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics with those first that a person looks for: the score, then what the report leads with."""
    system = session.system
    leading = [] if system.score is None else [system.score.name]
    leading += system.headline
    first = {name: metrics[name] for name in leading if name in metrics}
    return {**first, **metrics}


def validated(evaluator: Evaluator, state: State, session: Session) -> dict[str, Any]:
    """The metrics on the validation split."""
    assert session.data.validation is not None
    cheaper = state.replace(config=session.system.validation_config(state.config))
    return evaluator(cheaper, session.data.validation, session.stop.due)


def check_finite(session: Session, metrics: dict[str, Any], split: str, step: int) -> None:
    """Ends the run, with a UserError, if the score's metric is not finite; without a score, if the loss is not."""
    name = session.system.score.name if session.system.score else "loss"
    value = metrics.get(name, 0.0)
    if value is None or not math.isfinite(value):
        give_up(session, f"{name} on the {split} split is not finite at step {step}", step)


class Saving:
    """Saves a checkpoint at every evaluation, at the steps that ``save_every`` names, and at the end."""

    def __init__(self, session: Session, log: Log) -> None:
        self.session, self.log = session, log
        self.clock = time.perf_counter() - session.progress.seconds

    def __call__(self, moment: Moment) -> None:
        """Saves if it is due."""
        if not (moment.evaluates or moment.saves):
            return
        progress = self.session.progress
        progress.seconds = time.perf_counter() - self.clock
        assert moment.hashes is not None
        with self.log.pause():
            saved = self.session.checkpoints.save(
                moment.step, moment.state, moment.hashes, progress.as_json(), moment.score
            )
            if not saved:
                reason = f"the parameters are not finite after step {moment.step}"
                give_up(self.session, reason, moment.step + 1)
