"""A run's folder: how it is made, found and locked, and the settings in it."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.errors import UserError, nearest
from jaxrec.files import write_atomically
from jaxrec.settings import Train, from_dict, to_dict

FREE_TO_CHANGE = (
    "epochs", "steps", "log_every", "eval_every", "save_every", "patience", "min_delta", "on_nonfinite",
    "fuse_steps", "name", "runs", "resume", "tensorboard", "tune_allocator", "data_dir", "memory_mb", "mesh", "require",
    "dataset", "skip_bad", "coordinator", "processes", "process", "log_to", "profile",
)  # fmt: skip
"""Settings that may differ when a run is resumed; the others decide what is computed."""

LONGEST_NAME = 200
"""Most bytes of a run's name: file systems take 255, and a folder that is being made has a longer one."""
LONGEST_DATASET = 60
"""Most characters of a data set's name in a run's name that nobody chose."""


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all; it may hold NumPy numbers and arrays."""
    write_atomically(path, (json.dumps(value, indent=2, default=plain_value) + "\n").encode())


def plain_value(value: object) -> Any:
    """A NumPy number or array as JSON can hold it; a float32 with the digits that tell it from others."""
    if isinstance(value, np.floating):
        return float(str(value))
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON; expected numbers, words, arrays or lists")


def read_json(path: Path, parse: Callable[[Any], Any] = lambda value: value) -> Any:
    """What ``parse`` makes of a JSON file of a run; raises UserError if the file is missing or damaged."""
    try:
        return parse(json.loads(path.read_text("utf-8")))
    except UserError:
        raise
    except Exception as error:  # What is missing in a damaged file shows as any kind of error.
        raise UserError(
            f"'{path}' is missing or damaged ({type(error).__name__}: {error}); restore it, or train again"
        ) from error


def create(config: Train, more: Mapping[str, Any] | None = None) -> Path:
    """Makes the folder of a new run, its settings and ``more`` JSON files by name in it, and returns it.

    Raises UserError if it cannot be written or exists already.
    """
    runs = Path(config.runs)
    name = config.name or _free_name(config, runs)
    if not re.fullmatch(r"[^/\\\0]+", name) or name in (".", ".."):
        raise UserError(f"--name '{name}' is not a folder's name; expected one without slashes")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise UserError(f"--name '{name[:20]}...' is too long; expected at most {LONGEST_NAME} bytes")
    run = runs.absolute() / name
    if run.exists():
        raise UserError(f"run folder '{run}' is there already; go on with it by --resume, or choose another --name")
    # The folder appears with its settings in it: a process that is killed leaves none that cannot be resumed.
    part = run.with_name(f".{name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a killed process of the same number, as in containers
    try:
        part.mkdir(parents=True)
        for file, value in {"config.json": to_dict(replace(config, name=name)), **(more or {})}.items():
            write_json(part / file, value)
        part.rename(run)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(
            f"run folder '{run}' cannot be made ({error.strerror}); choose another place with --runs"
        ) from error
    return run


def _free_name(config: Train, runs: Path) -> str:
    """The first of ``cnn-digits-1``, ``cnn-digits-2`` and so on that is not taken."""
    kind, colon, path = (config.dataset or "").partition(":")
    # Of a path, the last part is enough.
    named = f"{kind}-{Path(path).name}" if colon and os.sep in path else f"{kind}{colon}{path}"
    dataset = re.sub(r"[^A-Za-z0-9_.-]+", "-", named).strip("-")
    dataset = dataset[-LONGEST_DATASET:].strip("-")  # The end of a path tells more than its beginning.
    number = 1
    while (runs / f"{config.task.model}-{dataset}-{number}").exists():
        number += 1
    return f"{config.task.model}-{dataset}-{number}"


def find(run: str | Path) -> Path:
    """The absolute path of a run's folder; raises UserError if there is no run."""
    path = Path(run).absolute()
    if not path.is_dir():
        near = nearest(path.name, [each.name for each in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise UserError(f"there is no run folder '{run}'{near or '; give the path that jaxrec.train printed'}")
    if not (path / "config.json").is_file():
        raise UserError(f"'{run}' is not a run folder: it has no config.json; give the path that jaxrec.train printed")
    return path


def resume_command(name: str, runs: str, system: str | None) -> str:
    """What one types to go on with a run whose system is in the file ``system``, if it is in one."""
    command = f"jaxrec train --name {shlex.quote(name)} --runs {shlex.quote(runs)} --resume"
    return command if system is None else f"{command} --system {shlex.quote(system)}"


def lock(run: Path) -> int:
    """Keeps other processes from training the run until the descriptor that it returns is closed.

    Raises UserError if another one trains it. On systems without such locks, nothing is locked.
    """
    if sys.platform == "win32":
        return os.open(os.devnull, os.O_RDONLY)
    import fcntl

    handle = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(
            f"run '{run.name}' is being trained by another process; stop that, or wait until it has ended"
        ) from error
    except OSError:  # Not every file system has locks.
        pass
    return handle


def read_config(run: Path) -> Train:
    """The settings of a run, with what was filled in from the data; raises UserError if they are damaged."""
    return read_json(run / "config.json", from_dict)


def check_same(saved: Train, given: Train) -> None:
    """Raises UserError if ``given`` would compute something else than the run that is to be resumed."""
    flat_saved, flat_given = settings(saved), settings(given)
    # Name the run's own settings before those that follow from them, such as the number of classes.
    for name, value in sorted(flat_given.items(), key=lambda setting: setting[0].startswith("task.")):
        if name.split(".")[0] in FREE_TO_CHANGE or name == "task.optimizer.steps":
            continue
        if flat_saved.get(name) != value:
            raise UserError(
                f"this run was made with {name.removeprefix('task.')} = {flat_saved.get(name)}, now it is {value}; "
                "resume it with the settings it has, or start another run with another --name"
            )


def settings(config: Train) -> dict[str, Any]:
    """The settings by name, such as ``task.optimizer.lr``."""
    return dict(_flat(to_dict(config)))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for name, value in tree.items():
        nested = isinstance(value, Mapping)
        pairs += _flat(value, f"{prefix}{name}.") if nested else [(prefix + name, value)]
    return pairs
