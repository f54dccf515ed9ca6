"""Checkpoints of a run: model, training state and progress saved together, the latest and the best kept (Orbax)."""

import contextlib
import json
import logging
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jaxrec.errors import UserError
from jaxrec.files import write_atomically
from jaxrec.run.store.hashes import Hashes
from jaxrec.run.store.leaves import from_host, leaves_by_path, misfit, to_host
from jaxrec.run.store.state import changed_array, first_line, flat, join_state, nested, split_state
from jaxrec.run.world.processes import arrays_by_first, by_first, first, several
from jaxrec.tasks.state import State

T = TypeVar("T")

ITEMS = ("model", "train", "progress")
"""The parts of a checkpoint: one can restore the model alone."""
RECORD = Path("progress", "metadata")
"""Where Orbax writes the item ``progress`` within a checkpoint's folder."""


@contextlib.contextmanager
def _without(warning: str) -> Iterator[None]:
    """Keeps Orbax from printing a warning, which begins so, of what is meant."""

    def others(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(warning)

    logger = logging.getLogger("absl")
    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)


def saved_arrays(run: Path, step: int) -> dict[str, Any]:
    """Shape and dtype of a saved model's arrays by path, such as ``net/params/conv1/kernel``, from metadata alone."""
    item = run / "checkpoints" / str(step) / "model"
    try:
        # A checkpointer would warn that the file of whole checkpoints is missing in a part of one.
        metadata: Any = ocp.StandardCheckpointHandler().metadata(cast(Any, item))
        return leaves_by_path(metadata.tree)
    except Exception as error:  # Orbax raises a dozen kinds of errors on damaged files.
        raise UserError(f"checkpoint {step} in '{item.parents[1]}' is damaged (its metadata cannot be read)") from error


def saved_shapes(run: Path, step: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a saved model's arrays by path, from metadata alone."""
    return {path: tuple(array.shape) for path, array in saved_arrays(run, step).items()}


def _sum(record: dict[str, Any]) -> int:
    """A checksum of what is saved beside the arrays; they have hashes of their own."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _sealed(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "sum": _sum(record)}


class LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the latest checkpoint and the one of least score; the best alone would have a resumed run go back to it.

    Orbax's own policy reads scores from files of its own, and fails over a damaged one before it can be named.
    """

    def __init__(self, scores: dict[int, float]) -> None:
        self.scores = scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether to keep each checkpoint."""
        steps = [each.step for each in checkpoints]
        scored = [step for step in steps if step in self.scores]
        latest = max(steps, default=None)
        best = min(scored, key=lambda step: self.scores[step], default=None)
        return [step in (latest, best) for step in steps]


class Checkpoints:
    """The checkpoints in ``run/checkpoints``; a context manager that waits at its end for what is being saved.

    If several processes train, all of them make the same calls, and only the first reads and writes.

    Which checkpoints are kept follows from their steps and scores, never from the clock. The hash of every array is
    saved beside the progress, so a changed number is found when a checkpoint is restored. A run that goes on from an
    older checkpoint moves newer, damaged ones to ``run/damaged``.
    """

    def __init__(self, run: Path, *, read_only: bool = False) -> None:
        self.folder, self.read_only = run / "checkpoints", read_only
        self.scores: dict[int, float] = {}
        by_first(self._open)

    def _open(self) -> None:
        if self.read_only and not self.folder.is_dir():
            name = self.folder.parent.name
            raise UserError(f"run '{name}' has no checkpoint yet; let it train until its first, or start it again")
        if not self.read_only:
            self.folder.mkdir(exist_ok=True)
        # Orbax would have the processes wait for each other, and only the first is here.
        alone = ocp.options.MultiprocessingOptions(active_processes={0})
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if self.read_only else LatestAndBest(self.scores),
            read_only=self.read_only,
            save_interval_steps=0 if self.read_only else 1,
            create=False,
            # Threads that wait for a folder which could not be made keep the process from ending.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
            multiprocessing_options=alone if several() else ocp.options.MultiprocessingOptions(),
        )
        with _without("Given directory is read only"):
            self.manager = ocp.CheckpointManager(self.folder, item_names=ITEMS, options=options)
        for step in self._steps():
            with contextlib.suppress(UserError):  # A damaged checkpoint is named when it is restored.
                self._note_score(step, self._record(step)["score"])

    def _note_score(self, step: int, score: float | None) -> None:
        if score is not None:
            self.scores[step] = score

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not first():
            return
        try:
            try:
                self._settle()
            finally:
                self.manager.close()
        except Exception:
            # What ended the run is worth more than what followed from it.
            if kind is None:
                raise

    def check_room(self, state: State) -> None:
        """Raises UserError if the disk has no room for a checkpoint; Orbax's own error is far less clear."""
        leaves = leaves_by_path(split_state(state)).values()
        needed = sum(leaf.nbytes for leaf in leaves)
        by_first(lambda: self._check_room(needed))

    def _check_room(self, arrays: int) -> None:
        needed = arrays + 2**16  # for Orbax's own files
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"a checkpoint needs {needed / 2**20:.1f} MiB and '{self.folder}' has room for {free / 2**20:.1f} MiB; "
                "make room, or choose another place with --runs"
            )

    def save(self, step: int, state: State, hashes: Hashes, progress: dict[str, Any], score: float | None) -> bool:
        """Saves a checkpoint in the background; an error shows in the next call, as a UserError.

        ``hashes`` are ``hashes_of(*split_state(state))``. ``progress`` is any JSON data, with the step as ``step``.
        ``score`` is what the best checkpoint has least of, or None if the step was not scored. Returns False, and saves
        nothing, if a number of the state is not finite.
        """
        model, train = split_state(state)
        arrays = {"model": to_host(model), "train": to_host(train)}
        everything = [*arrays["model"].values(), *arrays["train"].values()]
        numbers = [array for array in everything if jnp.issubdtype(array.dtype, jnp.inexact)]
        if not all(np.isfinite(array).all() for array in numbers):
            return False
        record = _sealed({"progress": dict(progress), "hashes": hashes.by_path(), "score": score})
        self._note_score(step, score)
        needed = sum(array.nbytes for array in everything)
        by_first(lambda: self._save(step, arrays, record, needed))
        return True

    def _save(self, step: int, arrays: dict[str, Any], record: dict[str, Any], needed: int) -> None:
        self._settle()  # An error of the save before is raised here, and what it replaces has made room.
        self._check_room(needed)
        if self._holds(step, record["hashes"]):
            # A run that was stopped while it evaluated is scored when it goes on: its arrays are there already.
            with self._writing():
                write_atomically(self.folder / str(step) / RECORD, json.dumps(record).encode())
            return
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(nested(arrays["model"])),
            train=ocp.args.StandardSave(nested(arrays["train"])),
            progress=ocp.args.JsonSave(record),
        )
        with self._writing():
            saved = self.manager.save(step, args=items)
        if not saved:  # Orbax saves no step before its latest.
            raise UserError(
                f"'{self.folder}' holds a checkpoint of step {step} or later already; train again under another --name"
            )

    def _holds(self, step: int, hashes: dict[str, int]) -> bool:
        return step in self._steps() and self._record(step)["hashes"] == hashes

    def wait(self) -> None:
        """Waits until everything is written; raises UserError if that fails."""
        by_first(self._settle)

    def _settle(self) -> None:
        with self._writing():
            self.manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise UserError(
                f"a checkpoint could not be written to '{self.folder}' ({first_line(error)}); "
                "make room or give permission"
            ) from error

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are written or being written."""
        return by_first(self._steps)

    def _steps(self) -> list[int]:
        return list(self.manager.all_steps())

    def latest(self) -> int:
        """The step of the newest checkpoint; raises UserError if there is none."""
        steps = self.steps()
        if not steps:
            raise UserError(f"there is no checkpoint in '{self.folder}' yet; start the run again under another --name")
        return max(steps)

    def best(self) -> int | None:
        """The step of the checkpoint with the least score; None if none has a score."""
        scored = by_first(lambda: [[self.scores[step], step] for step in self._steps() if step in self.scores])
        return min(scored)[1] if scored else None

    def restore(self, state: State, step: int) -> tuple[State, dict[str, Any]]:
        """The state and the progress saved at ``step``; ``state`` gives the structure and the devices.

        Raises UserError if the checkpoint is damaged, or of another model.
        """
        model, train = split_state(state)
        found = self._restore(step, {"model": model, "train": train})
        return join_state(state, found["model"], found["train"]), self.record(step)["progress"]

    def restore_model(self, state: State, step: int) -> State:
        """``state`` with the parameters and statistics saved at ``step``; raises as `restore`."""
        model, _ = split_state(state)
        return join_state(state, self._restore(step, {"model": model})["model"])

    def model_arrays(self, step: int) -> dict[str, np.ndarray]:
        """The model's arrays by path, such as ``net/params/conv1/kernel``, without a state of their shapes.

        Raises as `restore`. Only the process that calls this reads.
        """
        expected = {}
        for path, array in saved_arrays(self.folder.parent, step).items():
            expected[f"model/{path}"] = jax.ShapeDtypeStruct(array.shape, array.dtype)
        arrays = self._read(step, {"model": None}, expected)
        return {path.removeprefix("model/"): array for path, array in arrays.items()}

    def _restore(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        expected = leaves_by_path(like)
        # The first process fills these with what it reads, and gives them to the others.
        arrays = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in expected.items()}
        by_first(lambda: arrays.update(self._read(step, like, expected)))
        return from_host(like, arrays_by_first(arrays))

    def _read(self, step: int, like: dict[str, Any], expected: dict[str, Any]) -> dict[str, np.ndarray]:
        """The arrays of the items in ``like``, by path."""
        record = self._record(step)
        items = ocp.args.Composite(**{name: ocp.args.StandardRestore() for name in like})
        try:
            found: Any = self.manager.restore(step, args=items)
            arrays = flat({name: found[name] for name in like}, expected)
            changed = changed_array(arrays, record["hashes"])
        except Exception as error:  # Orbax raises a dozen kinds of errors on damaged files.
            raise UserError(f"checkpoint {step} in '{self.folder}' is damaged ({first_line(error)})") from error
        if changed is not None:
            raise UserError(f"checkpoint {step} in '{self.folder}' is damaged ({changed} is not what was saved)")
        self._refuse(step, misfit(arrays, expected))
        return arrays

    def check_fits(self, step: int, model: dict[str, Any]) -> None:
        """Raises UserError if the model saved at ``step`` has other arrays, without reading them.

        ``model`` is ``model_of`` a state, of which only shapes and dtypes are needed.
        """
        self._refuse(step, misfit(saved_arrays(self.folder.parent, step), leaves_by_path(model)))

    def _refuse(self, step: int, difference: str | None) -> None:
        if difference is not None:
            raise UserError(
                f"checkpoint {step} in '{self.folder}' is of another model or version of jaxrec: {difference}; "
                "put the run's own checkpoints back, or train again"
            )

    def record(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays: ``progress``, ``score``, and ``hashes``, those of the arrays by path.

        Raises UserError if it is damaged.
        """
        return by_first(lambda: self._record(step))

    def _record(self, step: int) -> dict[str, Any]:
        folder = self.folder / str(step)
        try:
            record = json.loads((folder / RECORD).read_text("utf-8"))
            if record.pop("sum") == _sum(record) and record["progress"]["step"] == step:
                return record
        except Exception:  # Of a damaged file anything can be missing. The sentence below says what to do.
            if not folder.exists():
                raise UserError(
                    f"checkpoint {step} in '{self.folder}' was deleted while it was read; "
                    "let the run that trains end first"
                ) from None
        raise UserError(f"checkpoint {step} in '{self.folder}' is damaged (its progress is not what was saved)")

    def newest_whole(self, read: Callable[[int], T], preferred: int | None = None) -> tuple[int, T]:
        """The newest step that ``read`` can restore, ``preferred`` before all others, and what it made of it.

        Names the damaged ones on stderr. A run that goes on moves them away, because Orbax saves no step before its
        latest. Raises UserError if no checkpoint is whole.
        """
        steps = sorted(self.steps(), key=lambda step: (step == preferred, step), reverse=True)
        failures: dict[int, UserError] = {}
        for step in steps or [self.latest()]:
            try:
                found = read(step)
            except UserError as error:
                failures[step] = error
                continue
            if first() and failures:
                self._pass_over(failures, step)
            return step, found
        raise next(iter(failures.values()))

    def _pass_over(self, failures: dict[int, UserError], step: int) -> None:
        for complaint in failures.values():
            print(f"jaxrec: {complaint}; going on with checkpoint {step}", file=sys.stderr)
        if self.read_only:
            return
        aside = self.folder.parent / "damaged"
        aside.mkdir(exist_ok=True)
        for failed in failures:
            (self.folder / str(failed)).rename(aside / f"{failed}-{time.time_ns()}")
            self.scores.pop(failed, None)
        self.manager.reload()
