"""A run from its start to its end: processes, devices, data, complete settings, folder, lock, signals, checkpoints."""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jaxrec.data import cache_dir
from jaxrec.data.datasets import ARRAYS, absolute_name
from jaxrec.errors import TRAINING_MEMORY, UserError, memory_errors
from jaxrec.host import keep_programs
from jaxrec.run.around import FILE, Around, read_around
from jaxrec.run.data import Data, complete, open_data
from jaxrec.run.known import known_data
from jaxrec.run.show.report import Record
from jaxrec.run.show.screen import Waiting
from jaxrec.run.show.trackers import check_trackers
from jaxrec.run.start import Weights, add_statistics, for_weights, read_weights
from jaxrec.run.store import folder
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.world import processes
from jaxrec.run.world.devices import Devices
from jaxrec.run.world.stop import Stop
from jaxrec.settings import Train, registry
from jaxrec.tasks.system import System, system_of
from jaxrec.waiting import listening

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
"""Errors of a disk that is full, broken or may not be written."""


@dataclass
class Progress:
    """How far a run has come, as its checkpoints keep it."""

    step: int = 0
    best: float | None = None
    """The best score of an evaluation so far; less is better."""
    waited: int = 0
    """Evaluations since then."""
    seconds: float = 0.0
    """Time spent on training, of the runs before this one too."""
    skipped: int = 0
    """Updates that were skipped because they were not finite."""
    unevaluated: bool = False
    """Whether the run was stopped in the middle of the evaluation of ``step``."""
    made_with: list[Any] = field(default_factory=list)
    """Pairs of a step and the settings, of those that may change at a resume, that held from there on."""

    def update(self, saved: dict[str, Any]) -> None:
        """Takes what a checkpoint has kept."""
        for each in fields(self):
            if each.name in saved:
                setattr(self, each.name, saved[each.name])

    def as_json(self) -> dict[str, Any]:
        """The progress as JSON data."""
        return asdict(self)


@dataclass
class Session:
    """What a run has open while it trains."""

    config: Train
    """The settings, complete."""
    system: System
    data: Data
    devices: Devices
    began: float
    """When the run was started, by ``time.perf_counter``."""
    folder: Path
    resumed: bool
    checkpoints: Checkpoints
    stop: Stop
    progress: Progress = field(default_factory=Progress)
    weights: Weights | None = None
    """What the run starts from, if it is not drawn and there is no checkpoint yet."""
    start_notes: list[str] = field(default_factory=list)
    """What a user should know of those weights."""

    def restored(self, state: Any) -> Any:
        """The state of the newest whole checkpoint, whose progress is taken too; ``state`` if there is none."""
        # A run that was killed before its first checkpoint begins again.
        if not self.checkpoints.steps():
            return state
        _, (state, progress) = self.checkpoints.newest_whole(partial(self.checkpoints.restore, state))
        self.progress.update(progress)
        return state


@contextlib.contextmanager
def open_session(
    config: Train,
    dataset: Any = None,
    *,
    members: bool = False,
    around: Around | None = None,
    weights: Weights | None = None,
) -> Iterator[Session]:
    """Opens all that a run needs, and closes it at the end.

    A run that fails before its first checkpoint leaves no folder behind.

    Args:
        config: the settings as the user gave them.
        dataset: in place of the data set that they name; see ``open_data``.
        members: whether many runs are trained at once, in one folder.
        around: what stands around the system's own functions; default: what the folder of a resumed run says.
        weights: what the run starts from; default: what ``config.init_from`` names.

    Raises:
        UserError: anything that is wrong with settings, data, devices, folder or disk.
    """
    began = time.perf_counter()
    processes.join(config)
    console = Console(highlight=False, quiet=not processes.first())
    waiting = Waiting(console, console.print)
    try:
        with (
            listening(waiting),
            processes.together(members),
            _session(config, dataset, began, around, weights) as session,
        ):
            waiting.close()
            yield session
    finally:
        waiting.close()


@contextlib.contextmanager
def _session(
    config: Train,
    dataset: Any,
    began: float,
    around: Around | None,
    given: Weights | None,
) -> Iterator[Session]:
    keep_programs(cache_dir() / "programs")
    check_trackers(config)
    resumed = _resumed_folder(config)
    devices = Devices(config.mesh, config.require)
    devices.check_batch(config.batch_size)
    system = system_of(config.task)
    if resumed is not None:
        around = _recorded(resumed)
    if around is not None:
        system = around(system)
    config = replace(config, dataset=_dataset_name(config, system, dataset), init_from=_source(config))
    # A checkpoint takes the place of what the run started from, which need not be there any more.
    begun = resumed is not None and processes.by_first(lambda: _begun(resumed))
    weights = None if begun else given or read_weights(config, system)
    config = for_weights(config, weights, dataset)
    known = None
    if resumed is not None and (resumed / "manifest.json").exists():  # else it was killed before it wrote any
        known = known_data(resumed)
    data = open_data(config, system, dataset, trains=True, known=known)
    if known is None:
        add_statistics(data.facts, weights, data.dataset.features)
    config = replace(complete(config, data, system), resume=False, coordinator=None, processes=None, process=None)
    _check_agreement(config, data)
    if resumed is not None:
        folder.check_same(folder.read_config(resumed), config)
    more = None if around is None else {FILE: asdict(around)}
    run = resumed or Path(processes.by_first(lambda: str(folder.create(config, more))))
    config = replace(config, name=run.name)
    lock = processes.by_first(lambda: folder.lock(run))
    stop = Stop()
    try:
        with _failures(config, run, resumed is not None), Checkpoints(run) as checkpoints:
            session = Session(config, system, data, devices, began, run, resumed is not None, checkpoints, stop)
            session.weights = weights
            yield session
    finally:
        stop.restore()
        if processes.first():
            os.close(lock)


def _dataset_name(config: Train, system: System, dataset: Any) -> str:
    if isinstance(dataset, str):
        return absolute_name(dataset)
    if dataset is not None:
        return getattr(dataset, "name", ARRAYS)
    return absolute_name(system.dataset if config.dataset is None else config.dataset)


def _source(config: Train) -> str | None:
    """What the run starts from, a path as it holds in every folder."""
    given = config.init_from
    if given is None or not processes.by_first(Path(given).exists):
        return given
    return str(Path(given).absolute())


def _begun(run: Path) -> bool:
    """Whether a run has a checkpoint."""
    return any(path.name.isdigit() for path in (run / "checkpoints").glob("*"))


def _resumed_folder(config: Train) -> Path | None:
    """The folder of the run that is to be continued; None if a new one is to be started."""
    if not config.resume:
        return None
    if not config.name:
        raise UserError("--resume continues the run that --name names; give --name")
    path = Path(config.runs) / config.name
    if config.resume == "auto" and not processes.by_first(path.exists):
        return None
    run = folder.find(path)
    if (run / "members.json").exists():
        raise UserError(
            f"run '{run.name}' is a population of which only the best member was saved, so it cannot be resumed; "
            "train again under another --name"
        )
    Record(run)  # The report is written while the run trains: a damaged file would end it there.
    return run


def _recorded(run: Path) -> Around | None:
    """What stands around the system of a run that is resumed."""
    told = processes.by_first(lambda: None if (around := read_around(run)) is None else asdict(around))
    around = None if told is None else Around(**told)
    if around is not None and around.narrower and not processes.by_first(lambda: _begun(run)):
        raise UserError(
            f"run '{run.name}' has no checkpoint, and its settings do not say which channels it began with; remove its "
            "folder, and compress again"
        )
    return around


def _check_agreement(config: Train, data: Data) -> None:
    """Raises UserError if another process was started with other settings, data or versions."""
    same = folder.settings(config)
    for name in ("runs", "data_dir"):
        del same[name]
    processes.agree({**same, "the data set": data.dataset.fingerprint, "jax": jax.__version__})


@contextlib.contextmanager
def _failures(config: Train, run: Path, resumed: bool) -> Iterator[None]:
    """Says of a failure what it leaves behind: a run that can be resumed, or no folder at all."""
    try:
        with memory_errors(TRAINING_MEMORY):
            yield
    except BrokenPipeError:
        raise
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in DISK:
            raise  # It says itself what failed, such as a connection of an observer's.
        begun = _begun(run)
        if not begun and not resumed and processes.first():
            shutil.rmtree(run, ignore_errors=True)
        if isinstance(error, UserError):
            raise
        if (run / "members.json").exists():
            again = "train again under another --name"
        elif begun:
            again = f"go on with: {folder.resume_command(run.name, config.runs, registry.file_of(config.task))}"
        else:
            again = "start again"
        raise UserError(
            f"writing to run '{run}' failed ({error.strerror or error}); make room or give permission, then {again}"
        ) from error
