"""A disk that fills up, or a folder that may no longer be written, in the middle of a run."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from conftest import same_arrays, small

from jaxrec.cli.train import main
from jaxrec.errors import UserError
from jaxrec.run.show.log import Log, read_metrics
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.trained import load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]

OPTIONS = ["--steps", 12, "--log-every", 1, "--eval-every", 4, "--save-every", 2, "--average", 0.9]
ROOMS = [0, 4_000, 60_000, 200_000, 300_000, 350_000]
"""Bytes left when the disk fills up: for nothing, some lines, some pictures, a checkpoint in part or whole."""
LAST_ROOM = 4_000
"""Bytes left at most when the last checkpoint is written: too few for the pictures of the test split."""


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 4 MiB."""
    folder = Path(tempfile.mkdtemp())
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=1777", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("to mount a small disk takes root's rights")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with room enough."""
    runs = tmp_path_factory.mktemp("runs")
    with jax.numpy_dtype_promotion("standard"):
        assert main(small("autoencoder", "--runs", runs, "--name", "a", *OPTIONS)) == 0
    return runs / "a"


def fill(disk: Path, room: int) -> None:
    free = shutil.disk_usage(disk).free
    with (disk / "filler").open("ab") as file:
        file.write(b"x" * max(0, free - room))


# Orbax leaves tasks behind that fail in the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("room", ROOMS)
def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(room, small_disk, whole, monkeypatch):
    write, results = Log.write, Log.results

    def filling(log: Log, step: int, *rest: Any, **named: Any) -> None:
        write(log, step, *rest, **named)
        if step >= 5:  # Again at every step, for a checkpoint that is dropped makes room.
            fill(small_disk, room)

    def filling_last(log: Log, *given: Any) -> None:
        results(log, *given)
        fill(small_disk, min(room, LAST_ROOM))

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", filling)
        patch.setattr(Log, "results", filling_last)
        with pytest.raises(UserError) as error:
            main(small("autoencoder", "--runs", small_disk, "--name", "a", *OPTIONS))
    sentence, run = str(error.value), small_disk / "a"
    assert "make room" in sentence and str(small_disk) in sentence and "\n" not in sentence
    with Checkpoints(run, read_only=True) as checkpoints:
        assert checkpoints.latest() >= 2  # That of step 4 was still being written.
    assert load(run).step >= 2
    assert json.loads((run / "config.json").read_text())["steps"] == 12
    (small_disk / "filler").unlink()
    assert main(["--resume", "--runs", str(small_disk), "--name", "a"]) == 0
    assert same_arrays(run, whole)
    assert read_metrics(run) == read_metrics(whole)
    assert not list(run.rglob("*.part"))


FILLED_WHILE_IT_SAVES = """
import shutil, sys
from pathlib import Path
from jaxrec.cli.running import run_command
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.cli.train import main
check, disk = Checkpoints._check_room, Path(sys.argv.pop())
def check_and_fill(checkpoints, needed):
    check(checkpoints, needed)
    if checkpoints.steps():
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
Checkpoints._check_room = check_and_fill
run_command(main)
"""


def test_a_disk_that_another_program_fills_during_a_save(small_disk):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    arguments = small("autoencoder", "--runs", small_disk, "--name", "a", *OPTIONS)
    command = [sys.executable, "-c", FILLED_WHILE_IT_SAVES, *arguments, str(small_disk)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert re.fullmatch("jaxrec: .*make room.*\n", done.stderr)
    with Checkpoints(small_disk / "a", read_only=True) as checkpoints:
        assert checkpoints.latest() == 2


OBEY_PERMISSIONS = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Takes from root the right to write anywhere."""


def test_a_folder_that_may_no_longer_be_written(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    arguments = small("autoencoder", "--runs", tmp_path, "--name", "a", "--steps", 200_000, "--save-every", 20)
    command = [sys.executable, "-c", OBEY_PERMISSIONS, "-m", "jaxrec.train", *arguments]
    kind: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    process = subprocess.Popen(command, **kind)
    checkpoints = tmp_path / "a" / "checkpoints"
    try:
        while process.poll() is None and not any(path.name.isdigit() for path in checkpoints.glob("*")):
            time.sleep(0.05)
        for each in (checkpoints, checkpoints.parent):
            os.chmod(each, 0o555)
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 2, said
        last = said.rstrip().splitlines()[-1]
        assert last.startswith("jaxrec: ") and "give permission" in last
        assert "Traceback" not in said
        for each in (checkpoints, checkpoints.parent):
            os.chmod(each, 0o755)
        saved = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
        command = [sys.executable, "-m", "jaxrec.train", "--resume", "--runs", str(tmp_path), "--name", "a"]
        done = subprocess.run([*command, "--steps", str(saved + 3)], **kind, check=False)
        assert done.returncode == 0, done.stdout
        assert f"steps {saved + 1} to {saved + 3}" in done.stdout
    finally:
        process.kill()
        process.communicate()
