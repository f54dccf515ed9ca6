"""Kills training runs at random moments, resumes them, and holds them against a run that was left alone.

    python scripts/crash_test.py                            every task, 50 kills each
    python scripts/crash_test.py --tasks gan --kills 3

A kill is SIGKILL, at a moment drawn anew: while jax is imported, a program compiled, a step made, a checkpoint saved,
the validation split evaluated or the report written; a quarter of them follow a SIGTERM, into the saving that it asks
for. Each process draws whether its images lie on the device or are streamed. A run that ends is compared, and another
begun until the kills are made. Exit code 1 where a run differs. Linux.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.store.leaves import to_host
from jaxrec.run.trained import load
from jaxrec.run.world.devices import Devices

EVAL_EVERY, LOG_EVERY = 40, 5
COMMON = ["--steps", "240", "--batch-size", "64", "--eval-every", str(EVAL_EVERY), "--save-every", "30"]
COMMON += ["--log-every", str(LOG_EVERY)]
COMMON += ["--average", "0.9", "--accumulate", "2", "--augment.translate", "0.1", "--augment.rotate", "8"]
TASKS = {
    "cnn": ["--model", "cnn", "--dropout", "0.3", "--cutmix", "1", "--patience", "2", "--min-delta", "0.05"],
    "autoencoder": ["--model", "autoencoder", "--noise", "0.2", "--patience", "2", "--min-delta", "0.01"],
    "vae": ["--model", "vae", "--eval-samples", "3", "--patience", "2", "--min-delta", "1"],
    "gan": ["--model", "gan", "--width", "8", "--diffaugment", "translation"],
}
"""Options beside the common ones: everything that draws random numbers or keeps a state of its own is on."""


def command(runs: Path, name: str, options: list[str], streamed: bool) -> list[str]:
    """Begins the run, or goes on with it where it has begun."""
    place = ["--runs", str(runs), "--name", name, "--memory-mb", "0" if streamed else "512"]
    begun = (runs / name / "config.json").exists()
    return [sys.executable, "-m", "jaxrec.train", *(["--resume"] if begun else [*COMMON, *options]), *place]


def environment(cache: Path) -> dict[str, str]:
    """A process's surroundings with its caches in ``cache``."""
    return {**os.environ, "JAXREC_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}


def content(run: Path) -> dict[str, str]:
    """What two equal runs have alike: a hash of every array of the state, the metrics and the results."""
    state = load(run, Devices()).state
    with Checkpoints(run, read_only=True) as checkpoints:
        state, progress = checkpoints.restore(state, checkpoints.latest())
    digest = hashlib.sha256()
    for path, array in to_host(state).items():
        digest.update(f"{path} {array.dtype} {array.shape}".encode() + array.tobytes())
    del progress["seconds"]
    rows = [(json.loads(line), line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    places = [(row["step"], row["split"]) for row, _ in rows]
    assert len(places) == len(set(places)), f"{run.name} has logged a step twice"
    return {
        "state": digest.hexdigest(),
        "progress": json.dumps(progress),
        # A process that SIGTERM lets end logs the step that it saves, too.
        "metrics": "\n".join(line for row, line in rows if row["step"] % LOG_EVERY == 0 and row["split"] != "clock"),
        "results": (run / "results.json").read_text(),
    }


def phase(said: str, run: Path) -> str:
    """What a process was at when it had said so much."""
    # The rows of a step, of which that of the clock is the last, are written before its evaluation's.
    rows = (run / "metrics.jsonl").read_text().splitlines() if "step compiled" in said else []
    if rows and rows[-1].startswith("{") and rows[-1].endswith("}"):
        row = json.loads(rows[-1])
        if row["split"] == "clock" and row["step"] % EVAL_EVERY == 0 and "test, " not in said:
            return "evaluating"  # perhaps while the checkpoint before is still being written
    if any(".orbax-checkpoint-tmp" in path.name for path in (run / "checkpoints").glob("*")):
        return "saving"
    for sign, name in (("test, ", "report"), ("step compiled", "training"), ("run folder", "compiling")):
        if sign in said:
            return name
    return "starting"


def newest(run: Path) -> float | None:
    """When the newest checkpoint was finished, in seconds since the epoch."""
    return max((path.stat().st_mtime for path in (run / "checkpoints").glob("*") if path.name.isdigit()), default=None)


def trial(name: str, kills: int, folder: Path, rng: random.Random) -> bool:
    """Prints how a task bears its kills; returns whether every run ended as the one left alone."""
    runs, cache = folder / "runs", folder / "cache"
    shutil.rmtree(runs, ignore_errors=True)
    for left_alone in ("first", "alone", "again"):  # The first two of them compile.
        began = time.perf_counter()
        subprocess.run(
            command(runs, left_alone, TASKS[name], streamed=left_alone == "first"),
            env=environment(cache),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        taken = time.perf_counter() - began
    expected, phases, lost, ended, differing = content(runs / "alone"), Counter(), [], 0, []
    for other in ("first", "again"):
        got = content(runs / other)
        differing += [f"the {other} run's {part}" for part in expected if got[part] != expected[part]]
    last, attempt = False, 0
    while not last:
        run, attempt = runs / f"run{ended}", attempt + 1
        last = sum(phases.values()) >= kills
        # A third of the processes find no compiled programs, so that many are killed while they compile.
        empty = not last and rng.random() < 0.3
        with (folder / "output").open("w+") as output:
            process = subprocess.Popen(
                command(runs, run.name, TASKS[name], streamed=rng.random() < 0.5),
                env=environment(folder / f"cache{attempt}" if empty else cache),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                code = process.wait(None if last else rng.uniform(0, 0.9 * taken))
            except subprocess.TimeoutExpired:
                saved, now, at = newest(run), time.time(), phase((folder / "output").read_text(), run)
                if rng.random() < 0.25:
                    process.send_signal(signal.SIGTERM)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(rng.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
                process.wait()
                phases[at] += 1
                if at in ("training", "saving") and saved:
                    lost.append(now - saved)
                continue
            said = (folder / "output").read_text()
        shutil.rmtree(folder / f"cache{attempt}", ignore_errors=True)
        if code:
            print(f"{name}: exit code {code} after {sum(phases.values())} kills: {said[-600:]}")
            return False
        got = content(run)
        differing += [f"{run.name}'s {part}" for part in expected if got[part] != expected[part]]
        ended += 1
    middle = f"{statistics.median(lost):.2f} (at most {max(lost):.2f})" if lost else "none"
    at = ", ".join(f"{count} {each}" for each, count in phases.most_common())
    print(
        f"{name}: {sum(phases.values())} kills ({at}); training lost per kill {middle} s; {ended} runs ended, "
        + (f"DIFFERENT: {', '.join(differing)}" if differing else f"all with state {expected['state'][:16]}"),
        flush=True,
    )
    return not differing


def main() -> int:
    """Reads the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    logging.disable(logging.WARNING)  # Orbax remarks on folders opened for reading alone.
    with tempfile.TemporaryDirectory() as folder:
        return int(not all([trial(name, options.kills, Path(folder), rng) for name in options.tasks]))


if __name__ == "__main__":
    sys.exit(main())
