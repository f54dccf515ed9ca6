"""A run's folder: where it lies, its settings, its record of what made it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

from jaxrec.cli.arguments import check_numbers
from jaxrec.errors import UserError, nearest
from jaxrec.settings import Train, from_dict, to_dict

LIBRARIES = ("jaxrec", "jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
FREE_TO_CHANGE = (
    "epochs", "steps", "log_every", "eval_every", "save_every", "patience", "min_delta", "on_nonfinite",
    "fuse_steps", "name", "runs", "resume", "tensorboard", "tune_allocator", "data_dir", "memory_mb", "mesh",
    "coordinator", "processes", "process",
)  # fmt: skip
"""Settings that may differ when a run is resumed; the others decide what is computed."""


MOST_NUMBERS = 2**28
"""Most numbers in an image that a run can have been trained on."""


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    os.replace(part, path)


def read_json(path: Path) -> Any:
    """The value in a JSON file of a run; raises UserError where it is missing or damaged."""
    try:
        if path.exists() and not path.is_file():  # Reading a pipe would wait for ever.
            raise ValueError("not a file")
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is missing or damaged ({error}); restore it, or train again") from error


def create(config: Train) -> Path:
    """Makes the folder of a new run, its settings in it, and returns it.

    Raises UserError where it cannot be written or is taken.
    """
    runs = Path(config.runs)
    prefix = f"{config.task.model}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', config.dataset).strip('-')}"
    taken = {path.name for path in runs.iterdir()} if runs.is_dir() else set()
    name = config.name or next(each for n in range(1, 10**6) if (each := f"{prefix}-{n}") not in taken)
    if not re.fullmatch(r"[^/\\\0]+", name) or name in (".", ".."):
        raise UserError(f"--name '{name}' is not a folder's name; expected one without slashes")
    run = runs.absolute() / name
    if run.exists():
        raise UserError(f"run folder '{run}' is there already; go on with it by --resume, or choose another --name")
    # In one go: a process that is killed leaves no folder that could neither be resumed nor begun again.
    part = run.with_name(f".{name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)  # In a container every process may have the number of one that was killed.
    try:
        part.mkdir(parents=True)
        write_json(part / "config.json", to_dict(replace(config, name=name)))
        part.rename(run)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(
            f"run folder '{run}' cannot be made ({error.strerror}); choose another place with --runs"
        ) from error
    return run


def find(run: str | Path) -> Path:
    """The absolute path of a run's folder; raises UserError where there is no run."""
    path = Path(run).absolute()
    if not path.is_dir():
        near = nearest(path.name, [each.name for each in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise UserError(f"there is no run folder '{run}'{near or '; give the path that jaxrec.train printed'}")
    if not (path / "config.json").is_file():
        raise UserError(f"'{run}' is not a run folder: it has no config.json; give the path that jaxrec.train printed")
    return path


def lock(run: Path) -> int:
    """Keeps other processes from training the run until the descriptor that it returns is closed.

    Raises UserError where one trains it. Where the system has no such locks, nothing is locked.
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


def read_history(run: Path) -> tuple[dict[int, dict[str, Any]], list[int]]:
    """What a run's steps were made with, by the step from which on, and the steps that it went back to, in order.

    Raises UserError where that is missing or damaged.
    """
    path = run / "history.json"
    history = read_json(path)
    try:
        names = ("steps", "on_nonfinite", "fuse_steps")
        made_with = {step: {name: each[name] for name in names} for step, each in history["made_with"]}
        went_back = list(history["went_back"])
        numbers = [*went_back, *made_with, *(each[name] for each in made_with.values() for name in names[::2])]
        whole = made_with and all(type(number) is int and 0 <= number <= 2**53 for number in numbers)
        known = all(each["on_nonfinite"] in ("stop", "skip", "rollback") for each in made_with.values())
        if whole and known and all(each["fuse_steps"] for each in made_with.values()):
            return made_with, went_back
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(f"'{path}' is damaged; restore it, or verify another run")


def read_config(run: Path) -> Train:
    """The settings of a run, with what was filled in from the data."""
    path = run / "config.json"
    try:
        config = from_dict(read_json(path))
        check_numbers(config)
        return config
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"'{path}' is damaged ({error}); restore it, or train again") from error


def read_dataset(run: Path) -> dict[str, Any]:
    """What a run's manifest says of its data set: ``name``, ``fingerprint``, ``image_shape``, ``class_names``.

    Raises UserError where it says none of that.
    """
    path = run / "manifest.json"
    manifest = read_json(path)
    found = manifest.get("dataset") if isinstance(manifest, dict) else None
    kinds = {"name": str, "fingerprint": str, "image_shape": list, "class_names": list}
    if (
        not isinstance(found, dict)
        or any(not isinstance(found.get(name), kind) for name, kind in kinds.items())
        or len(found["image_shape"]) != 3
        or not all(type(side) is int and side > 0 for side in found["image_shape"])
        or prod(found["image_shape"]) > MOST_NUMBERS
        or not all(isinstance(name, str) for name in found["class_names"])
    ):
        raise UserError(f"'{path}' is damaged (it describes no data set); restore it, or train again")
    return found


def _leads_out(link: Path, run: Path) -> bool:
    try:
        return not link.resolve().is_relative_to(run.resolve())
    except RuntimeError:  # Links in a circle, to Python before 3.13.
        return True


def refuse_links(run: Path) -> None:
    """Raises UserError where a run's folder, which a stranger may have given, holds a link out of it.

    To be called before anything is written there.
    """
    for path in run.rglob("*"):
        if path.is_symlink() and _leads_out(path, run):
            raise UserError(
                f"'{path}' is a link out of the run's folder, and nothing is written through it; "
                "put there what it points to, or remove it"
            )


def check_same(saved: Train, given: Train) -> None:
    """Raises UserError where ``given`` would compute something else than the run that is to be resumed."""
    flat_saved, flat_given = settings(saved), settings(given)
    # What the run itself was told comes before what follows from it, such as the number of classes.
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


def write_manifest(run: Path, dataset: dict[str, Any], devices: list[str], parameters: int) -> None:
    """Writes what makes the run; of a resumed run, the record of what began it stays, under ``resumed_from``."""
    path, record = run / "manifest.json", manifest(dataset, devices, parameters)
    if path.exists():
        record["resumed_from"] = read_json(path)
    write_json(path, record)


def manifest(dataset: dict[str, Any], devices: list[str], parameters: int) -> dict[str, Any]:
    """What makes a run: versions, devices, source commit, data set, command."""
    source = Path(__file__).parent
    describe = ["git", "describe", "--always", "--dirty"]
    program = "sweep" if Path(sys.argv[0]).stem == "sweep" else "train"
    commit = ""
    if shutil.which("git"):
        commit = subprocess.run(describe, cwd=source, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in LIBRARIES}},
        "devices": devices,
        "git": commit,
        "dataset": dataset,
        "parameters": parameters,
        "command": " ".join([f"python -m jaxrec.{program}", *sys.argv[1:]]),
    }
