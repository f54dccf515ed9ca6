"""What a run says while it trains: on the screen and in log.txt, in metrics.jsonl, and to trackers of metrics."""

import json
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jaxrec.files import write_atomically
from jaxrec.run.show.screen import Pace, Waiting, clock, figures, open_bar, told
from jaxrec.run.show.trackers import new_pictures, numbers_in, open_trackers
from jaxrec.run.store.folder import resume_command
from jaxrec.run.world import processes
from jaxrec.settings import Train, registry
from jaxrec.waiting import listening

SCREEN_METRICS = 3
"""Metrics of a row that a line shows."""
PLAIN_LINES = 20
"""Lines of a whole run on a screen without a progress bar, and in log.txt, unless they were too far apart."""
PLAIN_SECONDS = 60
"""Most seconds between two of these lines."""
CLOCK = "clock"
"""The split of rows that depend on the machine and the hour; all other rows are the same if the run is made again."""


class Log:
    """Writes the metrics of a run; a context manager, so that the terminal is left tidy.

    If several processes train, all but the first write and say nothing.

    Args:
        folder: the run's folder.
        steps: steps of the whole run.
        start: steps made already. What an interrupted run logged past them is dropped from the file.
        unevaluated: whether the evaluation of ``start`` was interrupted, so that its row is dropped too.
        config: the run's settings.
        examples: examples in the training split, which are one epoch.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        start: int,
        unevaluated: bool,
        config: Train,
        examples: int,
    ) -> None:
        first = processes.first()
        self.path = folder / "metrics.jsonl" if first else Path(os.devnull)
        self.steps, self.start = steps, start
        self.batch_size, self.examples = config.batch_size, examples
        self.console = Console(highlight=False, quiet=not first)
        self._drop_after(start, unevaluated)
        self._file = self.path.open("a", encoding="utf-8")
        self._waiting = Waiting(self.console, self.say)
        self._bar = None
        self._shown, self._shown_at, self._ticked = start, time.perf_counter(), 0.0
        self._validated: list[str] = []
        self._results: dict[str, float] = {}
        self._pictures, self._seen_pictures = folder / "pictures", {}
        self._trackers = open_trackers(folder, config, start) if first else []
        said = folder / "log.txt" if first else Path(os.devnull)
        self._said = said.open("a", encoding="utf-8", errors="replace")
        began = f"resumed after step {start}" if start else "started"
        self._note(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {began}")

    def _drop_after(self, step: int, unevaluated: bool) -> None:
        """Drops the rows after ``step``, and lines that were cut short by a crash."""
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text("utf-8", errors="replace").splitlines():
            row = read_row(line)
            if row is None or row["step"] > step:
                continue
            if unevaluated and row["step"] == step and row.get("split") == "validation":
                continue
            kept.append(line + "\n")
        write_atomically(self.path, "".join(kept).encode())

    def __enter__(self) -> "Log":
        self._listening = listening(self._wait)
        self._listening.__enter__()
        return self

    def _wait(self, text: str, done: int, total: int) -> None:
        """Shows how far long work is; while the bar is there, its line says what is done."""
        if self._bar is None:
            self._waiting(text, done, total)
        else:
            self._bar.update(self._task, doing=text if done < total else "")

    def _start_bar(self) -> None:
        if self.console.is_terminal and self._bar is None:
            self._bar = open_bar(self.console)
            self._task = self._bar.add_task(
                "training", total=self.steps, completed=self.start, needed=[self._epoch(self.start)], wished=[]
            )
            self._bar.start()

    def __exit__(self, *_: object) -> None:
        self.stop_bar()
        self._waiting.close()
        self._listening.__exit__(None, None, None)
        for tracker in self._trackers:
            tracker.close(self._results)
        self._file.close()
        self._said.close()

    def stop_bar(self) -> None:
        """Leaves the bar as it is: what is said from here on stands below it."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def start_clock(self, step: int, members: int = 1) -> None:
        """Rates and the time left count from here, after ``step``; from now on so many runs train at once."""
        self._members, self._paused = members, 0.0
        self._pace = Pace(step, time.perf_counter())
        self._start_bar()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Takes what is done inside, such as an evaluation, out of the rate."""
        began = time.perf_counter()
        yield
        self._paused += time.perf_counter() - began

    def say(self, text: str) -> None:
        """One line on the screen and in log.txt."""
        self.console.print(text, markup=False, soft_wrap=True)
        self._note(text)

    def _note(self, text: str) -> None:
        self._said.write(text + "\n")
        self._said.flush()

    def compiled(self, seconds: float) -> None:
        """Says that the step is compiled, and which steps are left."""
        left = f"training steps {self.start + 1} to {self.steps}"
        if self.start == self.steps:
            left = "no steps are left"
        self.say(f"step compiled in {seconds:.1f} s; {left}")

    def stopped(self, number: signal.Signals, step: int, config: Train) -> None:
        """Says that a signal has stopped the run, and how to go on."""
        again = resume_command(str(config.name), config.runs, registry.file_of(config.task))
        self.stop_bar()
        self.say(f"stopped by {number.name} after step {step}, state saved; go on with: {again}")

    def results(self, title: str, values: Mapping[str, str], numbers: Mapping[str, Any]) -> None:
        """A table of the metrics at the end of a run, below the bar; the trackers get the numbers among ``numbers``."""
        self.stop_bar()
        self.say(title)
        for line in figures(values):
            self.say(line)
        self._results = numbers_in(numbers)

    def pictures(self, step: int) -> None:
        """Sends the pictures that were written since the last call to the trackers."""
        if not self._trackers:
            return
        for path in new_pictures(self._pictures, self._seen_pictures):
            for tracker in self._trackers:
                tracker.picture(step, path)

    def tick(self, step: int) -> None:
        """Moves the bar, at most twice a second: the next row may be long in coming."""
        if self._bar is None or time.perf_counter() - self._ticked < 0.5:
            return
        self._ticked = time.perf_counter()
        self._bar.update(self._task, completed=step)

    def write(self, step: int, split: str, metrics: Mapping[str, float], state: str | None = None) -> None:
        """One row of metrics.jsonl, and the same on the screen; ``state`` is the digest of the state after the step."""
        self.write_rows(step, split, metrics, [metrics if state is None else {**metrics, "state": state}])

    def write_rows(
        self, step: int, split: str, shown: Mapping[str, float], rows: Sequence[Mapping[str, float | str]]
    ) -> None:
        """Rows of metrics.jsonl, such as one for each of many runs; the screen and the trackers get ``shown``."""
        epoch = {"epoch": round(step * self.batch_size / self.examples, 4)}
        for row in rows:
            self._write(step, split, {**epoch, **row})
        self._track(step, split, {**epoch, **shown})
        if split == "train":
            self._time(step)
        self._file.flush()
        self._show(step, split, shown)

    def _write(self, step: int, split: str, row: Mapping[str, float | str]) -> None:
        known = {name: _json_number(value) for name, value in row.items()}
        self._file.write(json.dumps({"step": step, "split": split, **known}) + "\n")

    def _track(self, step: int, split: str, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.numbers(step, split, values)

    def _time(self, step: int) -> None:
        """The row of what depends on the machine and the hour."""
        self._pace.at(step, time.perf_counter() - self._paused)
        row = {"time": time.time()}
        seconds = self._pace.step_seconds
        if seconds:
            row |= {"step_seconds": seconds, "examples_per_second": self.batch_size * self._members / seconds}
        memory = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in memory:
            row["device_memory"] = memory["peak_bytes_in_use"]
        self._write(step, CLOCK, row)
        self._track(step, CLOCK, row)

    def _epoch(self, step: int) -> str:
        return f"epoch {step * self.batch_size / self.examples:.1f}"

    def _show(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        known = told(metrics)
        if split != "train":
            self._validated = [f"{split} {each}" for each in known[:1]]
            self.say(f"step {step}: {split} {'  '.join(known[:SCREEN_METRICS])}")
            return
        seconds = self._pace.step_seconds
        rate = f"{self.batch_size * self._members / max(seconds, 1e-9):,.0f} examples/s"
        left = (self.steps - step) * seconds
        if self._bar is not None:
            needed = [self._epoch(step), f"{clock(left)} left", *known[:1]]
            wished = [*self._validated, rate, *known[1:]]
            self._bar.update(self._task, completed=step, needed=needed, wished=wished)
        now = time.perf_counter()
        some = step - self._shown >= self.steps / PLAIN_LINES or now - self._shown_at >= PLAIN_SECONDS
        if not some and step != self.steps:
            return
        self._shown, self._shown_at = step, now
        shown = "  ".join(known[:SCREEN_METRICS])
        line = f"step {step}/{self.steps}  {self._epoch(step)}  {shown}  {rate}  {math.ceil(left)} s left"
        if self._bar is None:
            self.say(line)
        else:
            self._note(line)


def _json_number(value: float | str) -> float | str | None:
    """JSON has no NaN and no infinity."""
    if isinstance(value, str) or math.isfinite(value):
        return value
    return None


def read_row(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None if it is none, such as one cut short by a crash."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def read_metrics(run: Path, *, clock: bool = False) -> list[dict[str, Any]]:
    """The logged rows of ``run/metrics.jsonl``, in the order written; an empty list if there are none.

    A line cut short by a crash is left out, wherever it stands: a resumed run writes on after it.

    Args:
        run: the run's folder.
        clock: the rows of time, rate and memory, which no two runs have in common, in place of all others.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = [read_row(line) for line in path.read_text("utf-8", errors="replace").splitlines()]
    return [row for row in rows if row is not None and (row.get("split") == CLOCK) == clock]
