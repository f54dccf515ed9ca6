"""Checkpoints of a run: model, training state and progress saved together, the latest and the best kept (Orbax)."""

import ast
import contextlib
import json
import re
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import traverse_util
from orbax.checkpoint import checkpoint_managers

from jaxrec.errors import UserError
from jaxrec.run.store.folder import read_json, write_json
from jaxrec.run.store.hashes import Hashes, fingerprints
from jaxrec.run.world.devices import fetch, place
from jaxrec.run.world.processes import arrays_by_first, by_first, first, several
from jaxrec.tasks.state import State

T = TypeVar("T")

WRITE_SECONDS = 10
"""A checkpoint that may wait does so in memory where one was written less than this ago."""


def model_of(state: State) -> dict[str, Any]:
    """What inference needs of a state: each player's ``params``, ``stats`` and, where there is one, ``average``."""
    model: dict[str, Any] = {}
    for name, player in state.players.items():
        model[name] = {"params": player.params, "stats": player.stats}
        if player.average is not None:
            model[name]["average"] = player.average
    return model


def split_state(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state as (model, train): ``model_of`` it, and what going on with the training needs besides."""
    optimizers = {name: player.opt_state for name, player in state.players.items()}
    key = jax.random.key_data(state.key)
    return model_of(state), {"step": state.step, "key": key, "hyper": state.hyper, "opt_state": optimizers}


def join_state(state: State, model: dict[str, Any], train: dict[str, Any] | None = None) -> State:
    """``state`` with its arrays replaced by restored ones; without ``train``, the optimizer's are left as they are."""
    players = {name: player.replace(**model[name]) for name, player in state.players.items()}
    if train is None:
        return state.replace(players=players)
    opt_state = train["opt_state"]
    players = {name: player.replace(opt_state=opt_state[name]) for name, player in players.items()}
    key = jax.random.wrap_key_data(train["key"], impl=jax.random.key_impl(state.key))
    return state.replace(step=train["step"], key=key, hyper=train["hyper"], players=players)


def saved_shapes(run: Path, step: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a saved model's arrays by path, such as ``net/params/conv1/kernel``, from metadata alone."""
    item = run / "checkpoints" / str(step) / "model"
    try:
        if any(not path.is_file() and not path.is_dir() for path in item.rglob("*")):
            raise OSError("a pipe, which would be waited for")
        with ocp.StandardCheckpointer() as checkpointer:
            metadata: Any = checkpointer.metadata(item)
        return _shapes(metadata.item_metadata.tree)
    except Exception as error:  # Orbax raises a dozen kinds on damaged files.
        raise UserError(f"checkpoint {step} in '{item.parents[1]}' is damaged (its metadata cannot be read)") from error


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    flat: Any = traverse_util.flatten_dict(tree, sep="/")
    return {name: tuple(leaf.shape) for name, leaf in flat.items()}


leaking_to_json = ts.KvStore.Spec.to_json
_reading = threading.Lock()


def to_json(self: ts.KvStore.Spec, include_defaults: bool = False) -> Any:
    """As ``tensorstore.KvStore.Spec.to_json``, but read from the representation.

    tensorstore's own never frees the strings that it returns (0.1.71 to 0.1.86 at least), and Orbax calls it for each
    array of each save, in several threads.
    """
    if include_defaults:
        return leaking_to_json(self, include_defaults)
    with _reading:  # Python 3.11's parser fails now and then when two threads are in it: these here take turns.
        found = ast.literal_eval(repr(self).removeprefix("KvStore.Spec(").removesuffix(")"))
    # It shows the bytes of a string in UTF-8 as a character each.
    return jax.tree.map(lambda leaf: leaf.encode("latin-1").decode() if isinstance(leaf, str) else leaf, found)


def hashes_of(model: Any, train: Any = None) -> Hashes:
    """The hash of each array of ``split_state``."""
    return fingerprints({"model": model} | ({} if train is None else {"train": train}))


def _needed(state: State) -> int:
    """Bytes that a checkpoint takes at most."""
    return 2**16 + sum(leaf.nbytes for leaf in jax.tree.leaves(split_state(state)))


def _sums(file: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    size, crc = 0, 0
    with file.open("rb") as opened:
        while piece := opened.read(2**24):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
    return [size, crc]


def _sum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


class LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the latest checkpoint and the one of least score; the best alone would have a resumed run go back to it.

    Orbax's own policy reads scores from files of its own, and fails over a damaged one before it can be named.
    """

    def __init__(self, scores: dict[int, float]) -> None:
        self.scores = scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether to keep each checkpoint."""
        steps = [each.step for each in checkpoints]
        scores = {step: self.scores[step] for step in steps if step in self.scores}
        kept = {max(steps, default=None), min(scores, key=lambda step: scores[step], default=None)}
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints in ``run/checkpoints``; a context manager that waits at its end for what is being saved.

    Of several processes the first alone reads and writes, and all of them make the same calls.

    Which checkpoints are kept follows from steps and scores, never from the clock, which only decides when they are
    written. The latest and the best are kept, in memory as on the disk.

    The size and CRC-32 of each one's files lie in ``run/sums``, and each array's hash beside the progress. One whose
    files are not what they were is not among ``steps``; a run that goes on moves it to ``run/damaged``.
    """

    def __init__(self, run: Path, *, read_only: bool = False) -> None:
        self.folder, self.sums, self.read_only = run / "checkpoints", run / "sums", read_only
        self.replaced = run / "replaced"
        self.scores: dict[int, float] = {}
        self.waiting: dict[int, tuple[ocp.args.Composite, int]] = {}
        self.written = time.monotonic()  # When the last one was; a run's first waits, too.
        by_first(self._open)

    def _open(self) -> None:
        if self.read_only and not self.folder.is_dir():
            name = self.folder.parent.name
            raise UserError(f"run '{name}' has no checkpoint yet; let it train until its first, or start it again")
        self._put_back()
        there = [int(path.name) for path in self.folder.glob("*") if re.fullmatch("[0-9]+", path.name)]
        self.damaged = {step: damage for step in there if (damage := self._damage(step))}
        if self.damaged and len(self.damaged) == len(there):
            raise UserError(f"{self.damaged[max(there)]}, and so is every other; put them back, or train again")
        for step in () if self.read_only else self.damaged:
            self._set_aside(step)
        if not self.read_only:
            self.folder.mkdir(exist_ok=True)
        ts.KvStore.Spec.to_json = to_json
        self.manager = ocp.CheckpointManager(
            self.folder,
            item_names=("model", "train", "progress"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=None if self.read_only else LatestAndBest(self.scores),
                read_only=self.read_only,
                create=False,
                # Threads that wait for a folder which could not be made keep the process from ending.
                async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
                multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes={0})
                if several()
                else ocp.options.MultiprocessingOptions(),
            ),
        )
        for step in self._steps():
            with contextlib.suppress(UserError):  # A damaged one is said to be when it is restored.
                if (score := self._record(step)["score"]) is not None:
                    self.scores[step] = score

    def _set_aside(self, step: int) -> None:
        aside = self.folder.parent / "damaged"
        aside.mkdir(exist_ok=True)
        (self.folder / str(step)).rename(aside / f"{step}-{time.time_ns()}")

    def _damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint's files, as far as their sums are known; the arrays' hashes know the rest."""
        try:
            record = read_json(self.sums / f"{step}.json")
            known = record["files"]
            whole = record["sum"] == _sum(known)
        except (UserError, KeyError, TypeError, AttributeError):  # killed before they were written, or damaged itself
            return None
        files = self._files(step)
        for name, sums in known.items() if whole else ():
            if name not in files or _sums(files[name]) != sums:
                what = "is not what was saved" if name in files else "is missing"
                return f"checkpoint {step} in '{self.folder}' is damaged ({name} {what})"
        return None

    def _files(self, step: int) -> dict[str, Path]:
        """A checkpoint's files by name."""
        folder = self.folder / str(step)
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def _seal(self) -> None:
        """Writes the sums of what has been saved since, and drops those of what has been deleted."""
        kept = self.manager.all_steps()
        self.sums.mkdir(exist_ok=True)
        for path in self.sums.glob("*.json"):
            if path.stem not in map(str, kept):
                path.unlink()
        for step in kept:
            path = self.sums / f"{step}.json"
            if not path.exists():
                files = {name: _sums(file) for name, file in self._files(step).items()}
                write_json(path, {"files": files, "sum": _sum(files)})
        for step in kept:
            shutil.rmtree(self.replaced / str(step), ignore_errors=True)

    def _put_back(self) -> None:
        """Puts a checkpoint back that a killed process had moved away to write it anew."""
        for old in () if self.read_only else self.replaced.glob("[0-9]*"):
            if (self.folder / old.name).exists():
                shutil.rmtree(old)
            else:
                old.rename(self.folder / old.name)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            try:
                # Who asks a second time wants the end at once.
                if first() and (kind is None or issubclass(kind, Exception)):
                    self._write()
            finally:
                if first():
                    self.manager.close()
            if first() and not self.read_only:
                self._seal()
        except Exception:
            # What ended the run is worth more than what followed from it.
            if kind is None:
                raise

    def check_room(self, state: State) -> None:
        """Raises UserError where the disk has no room for a checkpoint; Orbax fails far less clearly."""
        by_first(lambda: self._check_room(_needed(state)))

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"a checkpoint needs {needed / 2**20:.1f} MiB and '{self.folder}' has room for {free / 2**20:.1f} MiB; "
                "make room, or choose another place with --runs"
            )

    def save(
        self,
        step: int,
        state: State,
        hashes: Hashes,
        progress: dict[str, Any],
        score: float | None,
        *,
        may_wait: bool = False,
    ) -> bool:
        """Takes a checkpoint; ``score`` is what the best one has least of (None: no candidate).

        It is written in the background, with those that wait; or waits itself, where it may and one was written less
        than `WRITE_SECONDS` ago, for the next that does not, for `wait` or for the end. ``hashes`` are those of the
        state's arrays: Orbax notices what is missing or cut short, and a changed number not. Where a number of the
        state is not finite no checkpoint is taken, and False returned.
        """
        model, train = split_state(state)
        # Of jax's arrays Orbax would leave a little memory behind with every save.
        model, train = fetch((model, train)) if several() else jax.device_get((model, train))
        numbers = [leaf for leaf in jax.tree.leaves((model, train)) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        if not all(np.isfinite(leaf).all() for leaf in numbers):
            return False
        record = {"progress": dict(progress), "hashes": hashes.by_path(), "score": score}
        arguments = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            train=ocp.args.StandardSave(train),
            progress=ocp.args.JsonSave({**record, "sum": _sum(record)}),
        )
        if score is not None:
            self.scores[step] = score
        by_first(lambda: self._take(step, arguments, _needed(state), may_wait))
        return True

    def _take(self, step: int, arguments: ocp.args.Composite, needed: int, may_wait: bool) -> None:
        best = min(self.scores, key=lambda each: (self.scores[each], each), default=None)
        self.waiting = {each: kept for each, kept in self.waiting.items() if each == best}
        self.waiting[step] = arguments, needed
        if not may_wait or time.monotonic() - self.written >= WRITE_SECONDS:
            self._write()

    def _write(self) -> None:
        """Writes what waits; where that fails, nothing later either, which would be the best for want of a better."""
        waiting, self.waiting = self.waiting, {}
        for step in sorted(waiting):
            self._settle()
            self._save(step, *waiting[step])
            self.written = time.monotonic()

    def _save(self, step: int, arguments: ocp.args.Composite, needed: int) -> None:
        self._check_room(needed)
        with self._writing():
            if step in self._steps():  # saved without a score, by a run that was stopped while it evaluated
                self.replaced.mkdir(exist_ok=True)
                (self.folder / str(step)).rename(self.replaced / str(step))
                self.manager.reload()
            (self.sums / f"{step}.json").unlink(missing_ok=True)
            self.damaged.pop(step, None)  # The one of this step that was moved away is made anew.
            self.manager.save(step, args=arguments)

    def wait(self) -> None:
        """Has everything written, and waits for it; raises UserError where that fails."""
        by_first(self._wait)

    def _wait(self) -> None:
        self._write()
        self._settle()

    def _settle(self) -> None:
        """Waits for what is being written."""
        with self._writing():
            self.manager.wait_until_finished()
            self._seal()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"a checkpoint could not be written to '{self.folder}' ({reason}); make room or give permission"
            ) from error

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are written or being written."""
        return by_first(self._steps)

    def _steps(self) -> list[int]:
        return [step for step in self.manager.all_steps() if step not in self.damaged]

    def drop_from(self, step: int) -> None:
        """Deletes the checkpoints of ``step`` and later."""
        for each in self._steps() if first() else ():
            if each >= step:
                self.manager.delete(each)
        for each in [each for each in self.scores if each >= step]:
            del self.scores[each]

    def latest(self) -> int:
        """The step of the newest checkpoint; raises UserError where there is none."""
        steps = self.steps()
        if not steps and any(self.replaced.glob("[0-9]*")):
            raise UserError(
                f"run '{self.folder.parent.name}' was killed while its only checkpoint was written anew; "
                "go on with it by --resume, which puts the former one back"
            )
        if not steps:
            raise UserError(f"there is no checkpoint in '{self.folder}' yet; start the run again under another --name")
        return max(steps)

    def best(self) -> int:
        """The step of the checkpoint with the least score; the newest where none has one."""
        latest = self.latest()
        scores = by_first(lambda: [[self.scores[step], step] for step in self._steps() if step in self.scores])
        return min(scores)[1] if scores else latest

    def restore(self, state: State, step: int) -> tuple[State, dict[str, Any]]:
        """The state and the progress saved at ``step``; ``state`` gives shapes and placement.

        Raises UserError where a file is missing, cut short or changed.
        """
        found = self._restore(state, step, ("model", "train"))
        return join_state(state, found["model"], found["train"]), self.record(step)["progress"]

    def restore_model(self, state: State, step: int) -> State:
        """``state`` with the parameters and statistics saved at ``step``; raises as ``restore``."""
        return join_state(state, self._restore(state, step, ("model",))["model"])

    def record(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays: ``progress``, ``score``, and ``hashes``, those of the arrays by path.

        Raises UserError where it is damaged.
        """
        return by_first(lambda: self._record(step))

    def _record(self, step: int) -> dict[str, Any]:
        try:
            found: Any = self.manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
            record = found["progress"]
            if record.pop("sum") == _sum(record) and record["progress"]["step"] == step:
                return record
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            pass
        if not (self.folder / str(step)).exists():
            raise UserError(
                f"checkpoint {step} in '{self.folder}' was deleted while it was read; let the run that trains end first"
            )
        raise UserError(f"checkpoint {step} in '{self.folder}' is damaged (its progress is not what was saved)")

    def newest_whole(self, read: Callable[[int], T], preferred: int | None = None) -> tuple[int, T]:
        """The newest step that ``read`` can restore, ``preferred`` before all others, and what it made of it.

        Says which are damaged; a run that goes on moves them away, for Orbax saves no step before its latest. Raises
        UserError where none is whole.
        """
        steps = sorted(self.steps(), key=lambda step: (step == preferred, step), reverse=True)
        failures: dict[int, UserError] = {}
        for step in steps or [self.latest()]:
            try:
                found = read(step)
            except UserError as error:
                failures[step] = error
                continue
            if first():
                self._pass_over(failures, step)
            return step, found
        raise next(iter(failures.values()))

    def _pass_over(self, failures: dict[int, UserError], step: int) -> None:
        for complaint in (*self.damaged.values(), *failures.values()):
            print(f"jaxrec: {complaint}; going on with checkpoint {step}", file=sys.stderr)
        if failures and not self.read_only:
            for failed in failures:
                self._set_aside(failed)
                self.scores.pop(failed, None)
            self.manager.reload()

    def check_fits(self, step: int, model: dict[str, Any]) -> None:
        """Raises UserError where the model saved at ``step`` has other arrays; Orbax fails far less clearly."""
        saved, expected = saved_shapes(self.folder.parent, step), _shapes(model)
        for name in sorted(saved.keys() | expected.keys()):
            shape, fits = saved.get(name), expected.get(name)
            if shape != fits:
                raise UserError(
                    f"checkpoint {step} in '{self.folder}' is of another model: its {name} has shape {shape}, "
                    f"expected {fits}; put the run's own checkpoints back, or train again"
                )

    def _restore(self, state: State, step: int, items: tuple[str, ...]) -> dict[str, Any]:
        placed: dict[str, Any] = dict(zip(("model", "train"), split_state(state), strict=True))
        placed = {name: placed[name] for name in items}
        by_first(lambda: self.check_fits(step, placed["model"]))
        # Of several processes the first reads the arrays into its own memory and gives them to the others.
        blank = (lambda leaf: np.zeros(leaf.shape, leaf.dtype)) if several() else ocp.utils.to_shape_dtype_struct
        found = jax.tree.map(blank, placed)

        def read() -> None:
            found.update(self._read(step, found))

        by_first(read)
        return place(arrays_by_first(found), placed) if several() else found

    def _read(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        record = self._record(step)
        arguments: Any = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        try:
            found: Any = self.manager.restore(step, args=ocp.args.Composite(**arguments))
            hashes = hashes_of(**{name: found[name] for name in wanted}).by_path()
        except Exception as error:  # Orbax and what it builds on raise a dozen kinds on damaged files
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(f"checkpoint {step} in '{self.folder}' is damaged ({reason})") from error
        changed = [name for name, value in hashes.items() if record["hashes"].get(name) != value]
        if changed:
            raise UserError(f"checkpoint {step} in '{self.folder}' is damaged ({changed[0]} is not what was saved)")
        return {name: found[name] for name in wanted}
