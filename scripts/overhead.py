"""What the commands add to their compiled steps, how soon the first step is made, and what many runs at once cost.

    python scripts/overhead.py                                  every table
    python scripts/overhead.py steps start --write benchmarks/command.md

Reads prepared data sets from TFDS_DATA_DIR. Linux.
"""

import argparse
import contextlib
import gc
import io
import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest import mock

import jax
import jax.numpy as jnp
from benchmark import conditions, processor, table, write

import jaxrec
from jaxrec.data import datasets
from jaxrec.data.datasets import KEPT
from jaxrec.run import observers
from jaxrec.run.feed import Call, Feed
from jaxrec.run.fit import first_call, fit, prepare
from jaxrec.run.initial import initial_state
from jaxrec.run.observers import TrainingLog, moment
from jaxrec.run.session import open_session
from jaxrec.run.show.log import Log
from jaxrec.run.steps import run_steps, unharmed
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.settings import Train, preset

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = f"jaxrec {jaxrec.__version__}", f"jax {jax.__version__}"
ROUNDS = 7
START_ROUNDS = 3
WINDOW_SECONDS = 1.0
RUNS = 16


class Waiting:
    """A feed, and the seconds that its calls were waited for."""

    def __init__(self, feed: Feed) -> None:
        self.feed, self.seconds = feed, 0.0

    def calls(self, start: int, end: int) -> Iterator[Call]:
        """The feed's calls."""
        calls = self.feed.calls(start, end)
        while True:
            began = time.perf_counter()
            call = next(calls, None)
            self.seconds += time.perf_counter() - began
            if call is None:
                return
            yield call


class Windows(NamedTuple):
    """What was measured, a number for each window."""

    loop: list[float]
    """Seconds of a step that the command's loop makes."""
    bare: list[float]
    """Seconds of the compiled step alone."""
    waits: list[float]
    """The share of the loop that waits for batches."""


@contextmanager
def quietly(config: Train) -> Iterator[Train]:
    """The settings of a run that says nothing and of which nothing is kept."""
    gc.set_threshold(20_000)  # as the commands have it
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        yield replace(config, runs=folder)


def windows(config: Train, rounds: int = ROUNDS, seconds: float = WINDOW_SECONDS) -> Windows:
    """Makes steps by the command's loop and by the compiled step alone, in turn; evaluates and saves nothing."""
    found, last = Windows([], [], []), 10**9
    with (
        quietly(config) as settings,
        open_session(settings) as session,
        Log(session.folder, last, 0, False, session.config, len(session.data.train)) as log,
    ):
        config, devices = session.config, session.devices
        state = initial_state(config.task, session.system, devices, config.seed, session.data.train)
        feed, step, _ = prepare(config, session.system, session.data, devices, state, 0)
        sent, waiting, observer = first_call(feed, 0), Waiting(feed), TrainingLog(session, log)
        # A state of its own, because each step takes its state's memory over.
        alone, watch = jax.tree.map(jnp.copy, state), unharmed(devices, state)
        # One feed for all windows, as a run has.
        events = run_steps(step, cast(Feed, waiting), state, unharmed(devices, state), 0, last)
        log.start_clock(0)
        count = 20
        for number in range(-1, rounds):
            waiting.seconds, began = 0.0, time.perf_counter()
            for event in itertools.islice(events, count):
                observer(moment(event, config, end=10**9))
            jax.block_until_ready(event.state)
            middle = time.perf_counter()
            for _ in range(count):
                alone, watch, _ = step(alone, watch, sent)
            jax.block_until_ready(alone)
            end = time.perf_counter()
            if number < 0:  # The first window tells how many steps the others take.
                count = max(1, round(seconds * count / (end - middle)))
                continue
            found.loop.append((middle - began) / count)
            found.bare.append((end - middle) / count)
            found.waits.append(waiting.seconds / (middle - began))
    return found


PARTS = (
    ("logging", observers.TrainingLog, "__call__"),
    ("checkpoints", observers.Saving, "__call__"),
    ("checkpoints", Checkpoints, "wait"),
    ("pictures", observers.Pictures, "at"),
    ("pictures", observers.Pictures, "last"),
    ("validation", observers, "validated"),
)
"""What a run does beside its steps: a name, and the function that does it."""


@contextmanager
def accounted() -> Iterator[dict[str, float]]:
    """The seconds that the runs inside spend on each part."""
    spent = {name: 0.0 for name, _, _ in PARTS}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            # What is waited for here is the step, whose time is not the part's.
            jax.block_until_ready([getattr(each, "state", each) for each in arguments])
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent[name] += time.perf_counter() - began

        return call

    with contextlib.ExitStack() as patches:
        for name, owner, attribute in PARTS:
            function = timed(name, getattr(owner, attribute))
            patches.enter_context(mock.patch.object(owner, attribute, function))
        yield spent


def part(values: list[float], of: list[float] | None = None) -> str:
    """Median and range, in percent; with ``of``, of how much more the values are."""
    shares = [100 * (a / b - 1) for a, b in zip(values, of, strict=True)] if of else [100 * value for value in values]
    return f"{statistics.median(shares):.1f} ({min(shares):.1f} to {max(shares):.1f})"


def steps() -> str:
    """The loop of the command against the compiled step alone."""
    rows = []
    places = (("on the device", 4096, KEPT), ("streamed", 0, KEPT), ("streamed and decoded", 0, 0))
    for model, dataset in (("cnn", "mnist"), ("cnn", "cifar10"), ("autoencoder", "mnist"), ("gan", "mnist")):
        for where, megabytes, kept in places:
            config = Train(task=preset(model), dataset=dataset, steps=10**6, log_every=50, memory_mb=megabytes)
            with mock.patch.object(datasets, "KEPT", kept):
                run = windows(config)
            bare = 1000 * statistics.median(run.bare)
            rows.append([f"{model}, {dataset}", where, f"{bare:.2f}", part(run.loop, run.bare), part(run.waits)])
            print(rows[-1], file=sys.stderr)
    head = ["", "images", "bare step ms", "the loop takes more by %", "waiting for batches, %"]
    return table(head, rows)


def account(model: str, dataset: str) -> tuple[float, dict[str, float]]:
    """The seconds of a whole run with default options, and those that it spends on each part."""
    began = time.perf_counter()
    with quietly(Train(task=preset(model), dataset=dataset)) as config, accounted() as spent:
        fit(config)
    return time.perf_counter() - began, spent


def run_parts() -> str:
    """What whole runs spend their time on: the first on a machine, and the second, which finds its programs."""
    rows = []
    for model, dataset in product(("cnn", "autoencoder", "gan"), ("digits", "mnist")):
        with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, JAXREC_CACHE=cache):
            for which in ("first", "second"):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    total, spent = process.submit(account, model, dataset).result()
                sides = sum(spent[name] for name in ("logging", "checkpoints", "pictures"))
                seconds = (f"{each:.2f}" for each in spent.values())
                rows.append([f"{model}, {dataset}, {which}", f"{total:.1f}", *seconds, f"{sides / total:.1%}"])
                print(rows[-1], file=sys.stderr)
    return table(["", "total s", "logging", "checkpoints", "pictures", "validation", "the first three"], rows)


def seconds_of(arguments: list[str], cache: Path, folder: Path, *, to_first_step: bool) -> float:
    """Seconds from the start of ``python -m jaxrec.train`` to its first logged step, or to its end."""
    began = time.perf_counter()
    environment = {**os.environ, "JAXREC_CACHE": str(cache)}
    command = [sys.executable, "-m", "jaxrec.train", *arguments, "--runs", str(folder), "--name", "run"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    log = folder / "run" / "metrics.jsonl"
    while to_first_step and process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.005)
    if not to_first_step:
        process.wait()
    taken = time.perf_counter() - began
    if process.poll():
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    process.kill()
    process.wait()
    return taken


def start() -> str:
    """Process start to the first step, with an empty and with a filled cache of programs."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for dataset in ("digits", "mnist"):
            arguments = ["--model", "cnn", "--dataset", dataset, "--steps", "100000", "--log-every", "1"]
            times: dict[str, list[float]] = {"first": [], "second": []}
            for number in range(START_ROUNDS):
                cache = Path(temporary, f"{dataset}{number}")
                for which in times:
                    folder = cache / which
                    times[which].append(seconds_of(arguments, cache, folder, to_first_step=True))
            cells = [f"{statistics.median(t):.1f} ({min(t):.1f} to {max(t):.1f})" for t in times.values()]
            rows.append([f"`python -m jaxrec.train {' '.join(arguments)}`", *cells])
    return "Seconds to step 1.\n\n" + table(["", "first start", "second start"], rows)


def runs() -> str:
    """A population against as many runs one after another."""
    arguments = ["--experiment", str(ROOT / "experiments" / "digits_cnn.py")]
    alone, together = [], []
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary, "cache")
        for number in range(4):
            for kind, extra, times in (("alone", [], alone), ("together", ["--seeds", str(RUNS)], together)):
                folder = Path(temporary, f"{kind}{number}")
                taken = seconds_of([*arguments, *extra], cache, folder, to_first_step=False)
                times += [taken] if number else []  # The first of each fills the cache.
    shares = [many / (RUNS * one) for many, one in zip(together, alone, strict=True)]
    line = f"`python -m jaxrec.train --experiment experiments/digits_cnn.py`: {statistics.median(alone):.1f} s; with "
    line += f"`--seeds {RUNS}`: {statistics.median(together):.1f} s, {statistics.median(shares):.2f} "
    return line + f"({min(shares):.2f} to {max(shares):.2f}) of {RUNS} runs in sequence. Whole processes, cache filled."


TABLES: dict[str, tuple[str, Callable[[], str], int]] = {
    "steps": ("The command's loop", steps, ROUNDS),
    "parts": ("What a run spends its time on", run_parts, 1),
    "start": ("Start", start, START_ROUNDS),
    "runs": ("Many runs at once", runs, 3),
}
"""Each table's heading, what measures it, and in how many rounds."""


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"some of {', '.join(TABLES)}; else all")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables on this page")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"there is no table {', '.join(sorted(unknown))}; the tables are {', '.join(TABLES)}")
    for name in options.tables or TABLES:
        title, measure, rounds = TABLES[name]
        text = f"{conditions(VERSIONS, rounds)}\n\n{measure()}"
        print(f"## {title}\n\n{text}\n", flush=True)
        if options.write:
            write(options.write, {f"{title}, {processor()}": text})


if __name__ == "__main__":
    main()
