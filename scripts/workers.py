"""The processes of the benchmark's contestants: started, asked for steps, ended, and how their times compare. Linux."""

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BURST = 1.0
"""Seconds that a contestant trains at a time."""
TOLERANCE = {"speednet": 1.0}
"""Largest relative difference of first losses, by default .25; speednet's head starts with large random numbers."""
PRODUCT, COPY = "matrix product", "memory"
"""What the machine can do at most; no models."""

Entry = tuple[str, list[str], dict[str, str]]
"""A contestant's script in scripts/peers, its options and its environment."""


class Failure(Exception):
    """A contestant ended before it answered."""


class Worker:
    """A contestant's process. It has to be waited for with `ready`, then `warm`, before its bursts count."""

    def __init__(
        self, python: Path, workload: str, entry: Entry, folder: Path, flags: list[str], burst: float = BURST
    ) -> None:
        script, options, environment = entry
        program = ROOT / "scripts" / "peers" / f"{script}.py"
        self.aim = burst
        self.steps, self.loss, self.peak = 1, 0.0, 0
        self.seconds: list[float] = []
        self.facts: dict[str, Any] = {}
        self.errors = (folder / "errors.txt").open("w+")
        self.asked = time.monotonic()
        self.process = subprocess.Popen(
            [python, program, workload, *options, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=surroundings(folder, flags) | environment,
            # So that the processes which it starts itself can be ended with it.
            start_new_session=True,
        )

    def ready(self, limit: float | None = None) -> None:
        """Waits for its facts, which it tells after its first step; raises Failure after ``limit`` seconds."""
        self.facts = self._answer(limit)

    def warm(self, limit: float | None = None) -> None:
        """Finds how many steps a burst has. The first steps are slower; the second guess is of warm ones."""
        # What a call makes at a time.
        self.steps = multiple = self.facts.get("steps", 1)
        for aim in (self.aim / 5, self.aim):
            calls = round(aim * self.steps / self.train(self.steps, limit)[0] / multiple)
            self.steps = max(1, calls) * multiple

    def _answer(self, limit: float | None = None) -> dict[str, Any]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._end()

        timer = threading.Timer(limit or threading.TIMEOUT_MAX, end)
        timer.daemon = True
        timer.start()
        try:
            for line in self.process.stdout:
                if line.startswith("{"):
                    return json.loads(line)
        finally:
            timer.cancel()
        self.process.wait()
        if late.is_set():
            raise Failure(f"no answer after {time.monotonic() - self.asked:.0f} s")
        raise Failure(self._reason())

    def _reason(self) -> str:
        """The last line of what it wrote that names an error, else its last line."""
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
        told = [*lines[-1:], *named[-1:]]
        return told[-1][:300] if told else f"exit code {self.process.returncode}"

    def train(self, steps: int, limit: float | None = None) -> tuple[float, float]:
        """Seconds and the last loss of so many steps."""
        self.asked = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            print(steps, file=self.process.stdin, flush=True)
        answer = self._answer(limit)
        return answer["seconds"], answer["loss"]

    def stop(self) -> None:
        """Stops the process, so that no thread of it spins in another's time."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets a stopped process go on."""
        self.process.send_signal(signal.SIGCONT)

    def burst(self, limit: float | None = None) -> None:
        """One turn of this contestant."""
        seconds, self.loss = self.train(self.steps, limit)
        self.seconds.append(seconds / self.steps)

    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)

    def finish(self, limit: float | None = None) -> None:
        """Ends the process and notes its peak memory."""
        self.process.stdin.close()
        self.peak = self._answer(limit)["peak"]
        self.process.wait()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Ends the process, and those that it started, if they are still there."""
        self._end()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            # What it was still to be told is of no use.
            with contextlib.suppress(BrokenPipeError):
                file.close()


def surroundings(folder: Path, flags: Iterable[str] = ()) -> dict[str, str]:
    """A contestant's environment: caches of compiled code are off or empty, and TensorFlow is silent."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    caches = {"JAX_ENABLE_COMPILATION_CACHE": "false", "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    platform = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if "--gpu" in flags and "--tiny" not in flags:
        # Many processes share the card, of which jax would take nearly all. Without a card jax is to fail.
        platform = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_PLATFORMS": "cuda,cpu"}
    return {**os.environ, **quiet, **caches, **platform}


def cheats(name: str, workers: dict[str, Worker]) -> dict[str, str]:
    """The contestants that do not do jaxrec's work, and how it shows."""
    own, found = workers["jaxrec"].facts, {}
    for label, worker in workers.items():
        if label in (PRODUCT, COPY):
            continue
        count, loss = worker.facts["parameters"], worker.facts["loss"]
        if count != own["parameters"]:
            found[label] = f"{count} trainable parameters, jaxrec has {own['parameters']}"
        elif not abs(loss / own["loss"] - 1) <= TOLERANCE.get(name, 0.25):
            found[label] = f"first loss {loss:.3f}, jaxrec's is {own['loss']:.3f}"
        elif not worker.loss < loss:
            found[label] = f"the loss did not fall: {loss:.3f}, then {worker.loss:.3f}"
    return found


def ratio(slower: Worker, faster: Worker) -> str:
    """How many times faster: the median over rounds of the ratio of times, and its range."""
    ratios = [a / b for a, b in zip(slower.seconds, faster.seconds, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def best_peer(workers: dict[str, Worker]) -> str | None:
    """The fastest contestant but jaxrec; None if there is no other."""
    others = [label for label in workers if not label.startswith("jaxrec")]
    return min(others, key=lambda label: statistics.median(workers[label].seconds), default=None)


def comparison(workers: dict[str, Worker], best: str | None) -> str:
    """A sentence on jaxrec against the best peer and plain Flax, as far as there are any."""
    found = []
    if best:
        found.append(f"against the best peer, {best}: {ratio(workers[best], workers['jaxrec'])}")
    if "flax" in workers:
        found.append(f"against plain Flax: {ratio(workers['flax'], workers['jaxrec'])}")
    sentence = "; ".join(found)
    return f"{sentence[0].upper()}{sentence[1:]}. " if found else ""


def summary_row(workers: dict[str, Worker], best: str | None) -> list[str]:
    """jaxrec's milliseconds, the best peer, its milliseconds, and how much faster jaxrec is than it and plain Flax."""
    cells = {label: f"{1000 * statistics.median(worker.seconds):.2f}" for label, worker in workers.items()}
    row = [cells["jaxrec"], "", "", "", ""]
    if best:
        row[1:4] = [best, cells[best], ratio(workers[best], workers["jaxrec"])]
    if "flax" in workers:
        row[4] = ratio(workers["flax"], workers["jaxrec"])
    return row


SUMMARY = ["", "jaxrec ms", "best peer", "its ms", "jaxrec is faster by", "than plain flax by"]
"""The heads of the columns of `summary_row`, behind the workload's name."""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
