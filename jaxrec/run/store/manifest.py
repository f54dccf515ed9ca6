"""What made a run, as its folder records it: versions, devices, data set, command, and what changed on its way."""

import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jaxrec
from jaxrec.errors import UserError
from jaxrec.run.store.folder import read_json, write_json

LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


def write_manifest(run: Path, dataset: dict[str, Any], devices: list[str], more: dict[str, Any]) -> None:
    """Writes what makes the run, and ``more``; the record of a run that is resumed stays, under ``resumed_from``."""
    path, record = run / "manifest.json", {**manifest(dataset, devices), **more}
    if path.exists():
        record["resumed_from"] = read_json(path)
    write_json(path, record)


def manifest(dataset: dict[str, Any], devices: list[str]) -> dict[str, Any]:
    """What makes a run: versions, devices, source commit, data set, command."""
    versions = {"python": sys.version.split()[0], "jaxrec": jaxrec.__version__}
    versions |= {name: version(name) for name in LIBRARIES}
    return {
        "versions": versions,
        "devices": devices,
        "git": source_commit(),
        "dataset": dataset,
        "command": _command(),
    }


def _command() -> str:
    """The command that was typed; of a program that is not jaxrec's, its name."""
    program = Path(sys.argv[0])
    if program.parent.name == "jaxrec" and program.stem == "train":
        program_name = "python -m jaxrec.train"
    elif program.parent.name == "jaxrec" or program.stem == "jaxrec":
        program_name = "jaxrec"
    else:
        return program.name
    return shlex.join([program_name, *sys.argv[1:]]).replace("'python -m jaxrec.train'", program_name)


def source_commit() -> str:
    """The commit of the source that runs; empty if git does not know it."""
    if shutil.which("git") is None:
        return ""
    describe = ["git", "describe", "--always", "--dirty"]
    folder = Path(__file__).parent
    return subprocess.run(describe, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()


def read_dataset(run: Path) -> dict[str, Any]:
    """What a run's manifest says of its data set; raises UserError if it says nothing."""

    def described(manifest: Any) -> dict[str, Any]:
        dataset = manifest["dataset"]
        for name in ("name", "fingerprint", "features"):
            dataset[name]  # raises KeyError if it is missing
        return dataset

    return read_json(run / "manifest.json", described)


def write_history(run: Path, made_with: list[Any]) -> None:
    """Writes down from which step on a run was made with which settings, as pairs (step, settings)."""
    write_json(run / "history.json", {"made_with": made_with})


def read_history(run: Path) -> dict[int, dict[str, Any]]:
    """The settings that a run's steps were made with, by the step from which on they held; at least one entry."""
    path = run / "history.json"
    settings = read_json(path, lambda history: {int(since): dict(each) for since, each in history["made_with"]})
    if not settings:
        raise UserError(f"'{path}' is damaged (it is empty); restore it, or verify another run")
    return settings
