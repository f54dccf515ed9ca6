"""Several processes of one run, started as users do: the same run as one process's, and an end that is shared."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import arrays, surroundings

from jaxrec.run.show.log import read_metrics

pytestmark = pytest.mark.slow

COMMON = ["--batch-size", "64", "--log-every", "1", "--optimizer.name", "momentum", "--save-every", "2"]
TASKS = {
    "cnn": ["--model", "cnn", "--dropout", "0.2", "--mesh", "data=4,model=2"],
    "autoencoder": ["--model", "autoencoder", "--architecture", "dense", "--noise", "0.2", "--patience", "2"],
    "gan": ["--model", "gan", "--width", "8", "--average", "0.9", "--optimizer.lr", "1e-4"],
}


def start(devices: int, *arguments: object, cache: Path, script: str = "", **around: str) -> subprocess.Popen:
    """A training process with so many devices; ``script`` is run before it, ``around`` is its environment."""
    environment = surroundings(devices, PYTHONUNBUFFERED="1", JAXREC_CACHE=str(cache), **around)
    code = f"{script}\nfrom jaxrec.cli.running import run_command\nfrom jaxrec.cli.train import main\nrun_command(main)"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all processes keep their programs and the judge of gans."""
    return tmp_path_factory.mktemp("cache")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def joining(port: int, number: int) -> list[object]:
    """The options of one of two processes."""
    return ["--coordinator", f"localhost:{port}", "--processes", 2, "--process", number]


def start_two(*arguments: object, cache: Path, script: str = "", by_srun: bool = False) -> list[subprocess.Popen]:
    port, processes = free_port(), []
    for number in range(2):
        options, around = joining(port, number), {}
        if by_srun:
            around = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
            around |= {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "JAX_COORDINATOR_PORT": str(port)}
            options = []
        processes.append(start(4, *arguments, *options, cache=cache, script=script, **around))
    return processes


def finish(*processes: subprocess.Popen) -> list[str]:
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def assert_equal_runs(one: Path, other: Path) -> None:
    """Up to rounding: sums over eight devices are made in another order where they lie in two processes."""
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    for name in a:
        close = 1e-4 * max(1e-2, np.abs(b[name]).max())
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=close, err_msg=name)
    rows, others = read_metrics(one), read_metrics(other)
    assert [(row["step"], row["split"]) for row in rows] == [(row["step"], row["split"]) for row in others]
    for row, expected in zip(rows, others, strict=True):
        assert numbers(row) == pytest.approx(numbers(expected), rel=1e-3, abs=1e-4)
    results = [json.loads((run / "results.json").read_text()) for run in (one, other)]
    names = [name for name, value in results[0].items() if isinstance(value, float) and "distance" not in name]
    assert results[0].keys() == results[1].keys()
    for name in names:
        assert results[0][name] == pytest.approx(results[1][name], rel=0.02, abs=1e-3)


def numbers(row: dict[str, Any]) -> list[float]:
    return [value for value in row.values() if isinstance(value, float)]


READS = """
import json, sys
from jaxrec.data import splits
read, seen = splits.Split.read, []
def note(self, indices):
    if len(self) > 1000 and len(indices) < 100:
        seen.append(len(indices))
        print("READ", len(indices))
    return read(self, indices)
splits.Split.read = note
"""
WRITES = """
import builtins, os, sys
runs = sys.argv[sys.argv.index("--runs") + 1]
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(runs):
        if isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            print("WROTE", arguments[0])
    if event in ("os.mkdir", "os.rename", "os.remove") and str(arguments[0]).startswith(runs):
        print("WROTE", arguments[0])
sys.addaudithook(watch)
"""
FAILS = """
import jax.numpy as jnp
from jaxrec.tasks import classifier
train_step = classifier.train_step
def failing(state, batch):
    after, metrics = train_step(state, batch)
    return after, {**metrics, "loss": metrics["loss"] + jnp.where(after.step == 5, jnp.nan, 0)}
classifier.train_step = failing
"""
"""The loss is not finite at step 5."""
ENDS: dict[str, tuple[list[object], str]] = {
    "cnn": (["--on-nonfinite", "skip"], FAILS),
    "autoencoder": (["--patience", 1, "--min-delta", 10], ""),
    "gan": (["--judge-steps", 20], ""),
}
"""What else the processes have to agree on, to skip a step and to stop early, and what is run before."""


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_train_the_run_of_one(task, tmp_path, cache):
    ends, script = ENDS[task]
    options = ["--runs", tmp_path / "runs", *COMMON, *TASKS[task], *ends, "--steps", 6, "--eval-every", 3]
    finish(start(8, *options, "--name", "one", cache=cache, script=script))
    by_srun = task == "autoencoder"
    said = finish(*start_two(*options, "--name", "two", cache=cache, script=script + READS + WRITES, by_srun=by_srun))
    assert_equal_runs(tmp_path / "runs" / "two", tmp_path / "runs" / "one")
    first, second = said
    assert "on 8 x cpu" in first and "6/6" in first and "WROTE" in first
    assert not re.search("WROTE|step|examples/s", second)
    assert ("skipped 1 updates" in first) == (task == "cnn")
    # Training batches of 64, of which each process reads its half.
    for text in said:
        sizes = [int(size) for size in re.findall(r"^READ (\d+)$", text, re.M)]
        assert set(sizes) == {32} and len(sizes) >= 6
    # And it goes on with one process; restoring compares every array's hash with the one saved by two.
    resume = ["--resume", "--runs", tmp_path / "runs", "--name", "two", "--steps", 8]
    finish(start(8, *resume, cache=cache, script=script))
    steps = [row["step"] for row in read_metrics(tmp_path / "runs" / "two") if row["split"] == "train"]
    assert steps == list(range(1, 7 if task == "autoencoder" else 9))


def wait_for_checkpoint(run: Path, process: subprocess.Popen) -> None:
    while process.poll() is None and not any(path.name.isdigit() for path in (run / "checkpoints").glob("*")):
        time.sleep(0.05)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_lost_process_ends_the_others_and_the_run_goes_on_with_one(killed, tmp_path, cache):
    options = [
        "--runs",
        tmp_path,
        "--name",
        "a",
        *COMMON,
        *TASKS["autoencoder"],
        "--steps",
        100_000,
        "--save-every",
        20,
    ]
    processes = start_two(*options, "--log-every", 20, cache=cache)
    wait_for_checkpoint(tmp_path / "a", processes[0])
    processes[killed].kill()
    began = time.perf_counter()
    last = processes[1 - killed].communicate(timeout=120)[0]
    taken = time.perf_counter() - began
    processes[killed].communicate()
    assert processes[1 - killed].returncode != 0, last
    assert taken < 60
    made = max(int(path.name) for path in (tmp_path / "a" / "checkpoints").iterdir() if path.name.isdigit())
    finish(start(2, "--resume", "--runs", tmp_path, "--name", "a", "--steps", made + 2, cache=cache))
    steps = [row["step"] for row in read_metrics(tmp_path / "a") if row["split"] == "train"]
    assert len(steps) == len(set(steps)) and steps[-1] == made + 2


@pytest.mark.parametrize(("told", "number"), [(1, signal.SIGTERM), (0, signal.SIGINT)])
def test_a_signal_to_one_process_stops_all_after_the_same_step(told, number, tmp_path, cache):
    options = ["--runs", tmp_path, "--name", "a", *COMMON, *TASKS["autoencoder"], "--steps", 100_000]
    processes = start_two(*options, "--save-every", 20, cache=cache)
    wait_for_checkpoint(tmp_path / "a", processes[0])
    processes[told].send_signal(number)
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2, said
    step = re.search(r"SIGTERM after step (\d+)", said[0])
    assert step is not None
    assert (tmp_path / "a" / "checkpoints" / step[1]).is_dir()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--coordinator", "here", "--processes", 2, "--process", 0], "--coordinator"),
        (["--coordinator", "localhost:1", "--processes", 2], "--process"),
        (["--coordinator", "localhost:99999", "--processes", 2, "--process", 0], "--coordinator"),
        (["--coordinator", "localhost:1", "--processes", 2, "--process", 2], "--process"),
        (["--processes", 2], "--coordinator"),
        (["--coordinator", "auto"], "--coordinator"),
    ],
)
def test_incomplete_settings_are_answered_in_one_sentence(options, sentence, tmp_path):
    process = start(1, "--model", "cnn", "--runs", tmp_path, *options, cache=tmp_path)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert said.startswith("jaxrec: ") and sentence in said and said.count("\n") == 1
    assert not (tmp_path / "cnn-digits-1").exists()


def test_a_process_that_finds_no_others_ends(tmp_path):
    hurried = "from jaxrec.run.world import processes\nprocesses.JOINING = 3"
    alone = [
        start(1, "--model", "cnn", "--runs", tmp_path, *joining(free_port(), number), cache=tmp_path, script=hurried)
        for number in range(2)
    ]
    for process in alone:
        said = process.communicate(timeout=120)[0]
        assert process.returncode != 0, said
    assert not list(tmp_path.glob("cnn*"))


def test_another_launcher_is_asked_for_the_address(tmp_path):
    process = start(1, "--model", "cnn", "--runs", tmp_path, cache=tmp_path, PMI_SIZE="2")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert said.startswith("jaxrec: ") and "PMI_SIZE" in said and said.count("\n") == 1


def test_processes_with_different_settings_end(tmp_path, cache):
    port = free_port()
    options = ["--runs", tmp_path, "--name", "a", *COMMON, *TASKS["autoencoder"], "--steps", 6]
    processes = [start(2, *options, "--seed", number, *joining(port, number), cache=cache) for number in range(2)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode for process in processes), said
    assert re.search("jaxrec: .*process 1.* seed ", said[1])
    assert not (tmp_path / "a" / "results.json").exists()


def test_processes_have_as_many_devices_as_each_other(tmp_path, cache):
    port = free_port()
    options = ["--runs", tmp_path, "--name", "a", *COMMON, *TASKS["autoencoder"], "--steps", 6, "--batch-size", 60]
    processes = [start(2 - number, *options, *joining(port, number), cache=cache) for number in range(2)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode for process in processes), said
    assert "[1, 2] devices" in "".join(said)
