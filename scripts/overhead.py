"""What the commands add to their compiled steps, how soon the first step is made, and what many runs at once cost.

    python scripts/overhead.py                                  every table
    python scripts/overhead.py steps start --write docs/performance.md

Reads prepared data sets from TFDS_DATA_DIR. Linux.
"""

import argparse
import contextlib
import gc
import io
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
from typing import Any
from unittest import mock

import jax
from benchmark import conditions, table, write

import jaxrec
from jaxrec.data import datasets
from jaxrec.data.datasets import KEPT
from jaxrec.run.loop import Trainer, train
from jaxrec.run.setup import unharmed
from jaxrec.settings import Train, preset

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = f"jaxrec {jaxrec.__version__}", f"jax {jax.__version__}"
ROUNDS = 7
START_ROUNDS = 3
WINDOW_SECONDS = 1.0
RUNS = 16


class Stepwise(Trainer):
    """Makes steps by the command's loop and by the compiled step alone, in turn; evaluates and saves nothing."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stream: Iterator[tuple[int, Any]] | None = None
        self.loop: list[float] = []
        self.bare: list[float] = []
        self.waits: list[float] = []
        self.waited = 0.0

    def _batches(self, start: int, steps: int) -> Iterator[tuple[int, Any]]:
        if self.stream is None:
            self.stream = super()._batches(start, steps)
        for _ in range(start, steps):
            began = time.perf_counter()
            item = next(self.stream)
            self.waited += time.perf_counter() - began
            yield item

    def _evaluate(self, log: Any, state: Any, made: int) -> None:
        pass

    def _save(self, made: int, state: Any, score: Any, *, may_wait: bool) -> None:
        pass

    def _finish(self, log: Any, state: Any, seconds: dict[str, float], began: float) -> None:
        pass

    def _steps(self, log: Any, state: Any, step: Any, start: int, steps: int) -> Any:
        batch = next(super()._batches(0, steps))[1]
        # One stream for all windows, as a run has.
        self.stream = super()._batches(start, steps)
        watch = unharmed(self.devices, state)
        count = 20
        for number in range(-1, ROUNDS):
            self.waited, began = 0.0, time.perf_counter()
            state = jax.block_until_ready(super()._steps(log, state, step, start, start + count))
            middle = time.perf_counter()
            for _ in range(count):
                state, watch, _ = step(state, watch, batch)
            jax.block_until_ready(state)
            end = time.perf_counter()
            start += count
            if number >= 0:  # The first window tells how many steps the others take.
                self.loop.append((middle - began) / count)
                self.bare.append((end - middle) / count)
                self.waits.append(self.waited / (middle - began))
            else:
                count = max(1, round(WINDOW_SECONDS * count / (end - middle)))
        return state


class Accounted(Trainer):
    """Trains as always and notes the seconds that go to logging, checkpoints, pictures and evaluation."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.spent: dict[str, float] = dict.fromkeys(("logging", "checkpoints", "pictures", "validation"), 0.0)

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent[name] += time.perf_counter() - began

    def _seen(self, state: Any, watch: Any) -> Any:
        with self._counted("logging"):
            return super()._seen(state, watch)

    def _log(self, log: Any, made: int, metrics: Any, watch: Any, hashes: Any) -> None:
        # What is waited for is the step, whose time is not logging's.
        jax.block_until_ready(metrics)
        with self._counted("logging"):
            super()._log(log, made, metrics, watch, hashes)

    def _save(self, made: int, state: Any, score: Any, *, may_wait: bool) -> None:
        jax.block_until_ready(state)
        with self._counted("checkpoints"):
            super()._save(made, state, score, may_wait=may_wait)

    def _pictures(self, state: Any, split: Any, step: int | None) -> None:
        jax.block_until_ready(state)
        with self._counted("pictures"):
            super()._pictures(state, split, step)

    def _validated(self, state: Any, split: Any) -> dict[str, float]:
        with self._counted("validation"):
            return super()._validated(state, split)

    def train(self, state: Any, began: float) -> int:
        """Notes the whole time, too."""
        wait = self.checkpoints.wait

        def counted() -> None:
            with self._counted("checkpoints"):
                wait()

        self.checkpoints.wait = counted
        code = super().train(state, began)
        self.total = time.perf_counter() - began
        return code


def trained(kind: type[Trainer], config: Train) -> Any:
    """The trainer after its run, of which nothing is kept."""
    made: list[Trainer] = []
    gc.set_threshold(20_000)  # as the commands have it

    def make(*arguments: Any) -> Trainer:
        made.append(kind(*arguments))
        return made[0]

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(replace(config, runs=folder), make)
    return made[0]


def part(values: list[float], of: list[float] | None = None) -> str:
    """Median and range, in percent; with ``of``, of how much more the values are."""
    shares = [100 * (a / b - 1) for a, b in zip(values, of, strict=True)] if of else [100 * value for value in values]
    return f"{statistics.median(shares):.1f} ({min(shares):.1f} to {max(shares):.1f})"


def steps() -> str:
    """The loop of the command against the compiled step alone."""
    rows = []
    for model, dataset in (("cnn", "mnist"), ("cnn", "cifar10"), ("autoencoder", "mnist"), ("gan", "mnist")):
        for where, megabytes, kept in (
            ("on the device", 4096, KEPT),
            ("streamed", 0, KEPT),
            ("streamed and decoded", 0, 0),
        ):
            datasets.KEPT = kept
            config = Train(task=preset(model), dataset=dataset, steps=10**6, log_every=50, memory_mb=megabytes)
            run = trained(Stepwise, config)
            bare = 1000 * statistics.median(run.bare)
            rows.append([f"{model}, {dataset}", where, f"{bare:.2f}", part(run.loop, run.bare), part(run.waits)])
            print(rows[-1], file=sys.stderr)
    head = ["", "images", "bare step ms", "the loop takes more by %", "waiting for batches, %"]
    return table(head, rows)


def account(model: str, dataset: str) -> tuple[float, dict[str, float]]:
    """The seconds of a whole run with default options, and those that it spends on each part."""
    run = trained(Accounted, Train(task=preset(model), dataset=dataset))
    return run.total, run.spent


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
            write(options.write, {title: text})


if __name__ == "__main__":
    main()
