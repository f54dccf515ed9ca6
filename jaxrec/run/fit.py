"""Training a run, from its settings to its report."""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxrec.errors import UserError
from jaxrec.run.around import Around
from jaxrec.run.contract import check_contract
from jaxrec.run.data import Data
from jaxrec.run.ending import finish, note_history, write_config
from jaxrec.run.feed import Feed, open_feed
from jaxrec.run.initial import initial_state
from jaxrec.run.introduction import introduce
from jaxrec.run.observers import Evaluation, Moment, Observer, Saving, TrainingLog, hashes_now, watch_steps
from jaxrec.run.probing import probed
from jaxrec.run.profiling import Profile
from jaxrec.run.reporting import LiveReport
from jaxrec.run.session import Session, open_session
from jaxrec.run.show.log import Log, read_metrics
from jaxrec.run.start import Weights, started
from jaxrec.run.steps import CompiledStep, compile_step, run_steps, unharmed
from jaxrec.run.teachers import teacher
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Sweep, Train
from jaxrec.tasks.system import System
from jaxrec.waiting import tell


@dataclass
class Run:
    """What ``fit`` returns."""

    folder: Path
    config: Train
    """The settings, with what followed from the data."""
    state: Any
    """The last state; with ``patience``, its parameters are those of the best score."""
    results: dict[str, Any] = field(default_factory=dict)
    """The metrics on the test split; empty if the run was stopped before its end."""
    stopped: signal.Signals | None = None
    """The signal that stopped the run; it can be resumed."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """The logged rows in order: ``step``, ``split``, then each metric by name."""
        return read_metrics(self.folder)


def fit(
    config: Train,
    dataset: Any = None,
    observers: Sequence[Observer] = (),
    *,
    around: Around | None = None,
    weights: Weights | None = None,
) -> Run:
    """Trains a system as configured, and leaves a run folder to look at.

    Args:
        config: the settings; with ``seeds`` above 1, or a ``Sweep``, many runs are trained at once.
        dataset: arrays to train on in place of ``config.dataset``: ``{"image": [N, H, W, C], "label": [N]}``, the same
            under ``"train"`` and ``"test"``, or a ``jaxrec.data.Dataset``.
        observers: each is called with a ``Moment`` after every call of the compiled step: the step, the state on the
            devices, and the rows that were logged. The next call takes the state's memory over: copy what you keep.
        around: what stands around the system's own functions in this run, such as pruning; default: what the folder
            of a resumed run says.
        weights: what the run starts from, in place of what ``config.init_from`` holds.

    Returns:
        The run's folder, settings, state, history and results.

    Raises:
        UserError: the settings, the data or the disk do not allow the run.

    Example::

        run = jaxrec.fit(Train(task=preset("cnn"), steps=200), {"image": images, "label": labels})
        print(run.results["accuracy"], run.folder / "report.html")
    """
    if config.seeds > 1 or isinstance(config, Sweep):
        from jaxrec.run.population import fit_members

        if around is not None or weights is not None:
            raise UserError("around and weights are for a single run; set seeds to 1, or remove them")

        return fit_members(config, dataset, observers)
    with open_session(config, dataset, around=around, weights=weights) as session:
        config, progress = session.config, session.progress
        state = _initial(session)
        check_contract(session, state)
        state = session.restored(state)
        start, end = _length(session)
        session.checkpoints.check_room(state)
        with Log(session.folder, end, start, progress.unevaluated, config, len(session.data.train)) as log:
            # Only now, because the log has dropped the rows of steps that are made again.
            write_config(session)
            note_history(session)
            introduce(session, log, state)
            evaluation, saving = Evaluation(session, log), Saving(session, log)
            if end == 0:
                return _without_training(session, log, evaluation, saving, state)
            feed, step, seconds = prepare(config, session.system, session.data, session.devices, state, start)
            log.compiled(seconds["compile"])
            log.start_clock(start)
            if progress.unevaluated:
                # The run was stopped in the middle of this evaluation, and its checkpoint has no score yet.
                missed = Moment(start, state, None, None, evaluates=True, hashes=hashes_now(session, state))
                evaluation(missed)
                saving(missed)
            watchers = [TrainingLog(session, log), evaluation, saving, LiveReport(session, log), *observers]
            events = run_steps(step, feed, state, unharmed(session.devices, state), start, end)
            with Profile(session, log, step) as profile:
                state = watch_steps(session, events, [*watchers, profile], state, end)
            session.checkpoints.wait()
            if session.stop.signal is not None:
                log.stopped(session.stop.signal, progress.step, config)
                return Run(session.folder, config, state, stopped=session.stop.signal)
            # All is saved: from here a signal ends the process at once, and a resumed run takes the metrics.
            session.stop.at_once()
            state, results = finish(session, log, evaluation, state, {**seconds, "train": progress.seconds})
    return Run(session.folder, config, state, results)


def _initial(session: Session) -> Any:
    config, data = session.config, session.data
    judge = teacher(config.task, session.system, data)
    state = initial_state(config.task, session.system, session.devices, config.seed, data.train, judge)
    state, said = started(state, config, session.system, session.weights)
    if session.checkpoints.steps():
        return state
    state, found = probed(state, config, session.system, session.devices, data)
    session.start_notes = [*said, *found]
    return state


def _without_training(session: Session, log: Log, evaluation: Evaluation, saving: Saving, state: Any) -> Run:
    """Evaluates and saves the state that a run starts from, and ends the run."""
    log.start_clock(0)
    begun = Moment(0, state, None, None, evaluates=True, hashes=hashes_now(session, state))
    evaluation(begun)
    saving(begun)
    session.checkpoints.wait()
    session.stop.at_once()
    state, results = finish(session, log, evaluation, state, {"load": 0.0, "compile": 0.0, "train": 0.0})
    return Run(session.folder, session.config, state, results)


def _length(session: Session) -> tuple[int, int]:
    """The step to start from and the step to end at."""
    start, end = session.progress.step, session.config.steps or 0
    if start > end:
        name = session.folder.name
        raise UserError(f"run '{name}' has made {start} steps already; give more than {end} with --steps")
    return start, end


def prepare(
    config: Train, system: System, data: Data, devices: Devices, state: Any, start: int
) -> tuple[Feed, CompiledStep, dict[str, float]]:
    """The feed and the compiled step, and how many seconds each took."""
    began = time.perf_counter()
    feed = open_feed(config, data, devices, config.seed)
    example = first_call(feed, start)
    loaded = time.perf_counter()
    tell("compiling the step", 0, 1)
    skip = config.on_nonfinite == "skip"
    step = compile_step(system, feed, devices, state, unharmed(devices, state), example, skip=skip)
    tell("compiling the step", 1, 1)
    return feed, step, {"load": loaded - began, "compile": time.perf_counter() - loaded}


def first_call(feed: Feed, start: int) -> Any:
    """What a call sends, to compile the step with."""
    begin = start - start % feed.steps_per_call
    return next(iter(feed.calls(begin, begin + feed.steps_per_call))).sent
