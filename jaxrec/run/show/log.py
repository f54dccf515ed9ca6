"""What a run says while it trains: a progress bar or plain lines on the screen, metrics.jsonl, TensorBoard."""

import importlib.util
import json
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxrec.errors import UserError
from jaxrec.files import write_atomically
from jaxrec.run.store.folder import resume_command
from jaxrec.run.world import processes
from jaxrec.settings import Train, registry

SCREEN_METRICS = 3
"""Metrics of a row that the screen shows."""
PLAIN_LINES = 20
"""Lines on a screen without a progress bar."""


def check_tensorboard() -> None:
    """Raises UserError if the package that writes TensorBoard's files is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError("--tensorboard needs tensorboardX: pip install 'jaxrec[tensorboard]'")


class Log:
    """Writes the metrics of a run; a context manager, so that the terminal is left tidy.

    If several processes train, all but the first write and say nothing.

    Args:
        folder: the run's folder.
        steps: steps of the whole run.
        start: steps made already. What an interrupted run logged past them is dropped from the file.
        unevaluated: whether the evaluation of ``start`` was interrupted, so that its row is dropped too.
        config: the run's settings.
    """

    def __init__(self, folder: Path, steps: int, start: int, unevaluated: bool, config: Train) -> None:
        first = processes.first()
        self.path = folder / "metrics.jsonl" if first else Path(os.devnull)
        self.steps, self.start = steps, start
        self.batch_size = config.batch_size
        self.console = Console(highlight=False, quiet=not first)
        self._drop_after(start, unevaluated)
        self._file = self.path.open("a", encoding="utf-8")
        self._bar = None
        self._shown = start
        self._writer = None
        if config.tensorboard and first:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"))

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
        if self.console.is_terminal:
            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[text]}")
            self._bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=self.console)
            self._task = self._bar.add_task("training", total=self.steps, completed=self.start, text="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def start_clock(self, step: int, members: int = 1) -> None:
        """Rates and the time left count from here, after ``step``; from now on so many runs train at once."""
        self._counted_from, self._members = step, members
        self._clock, self._paused = time.perf_counter(), 0.0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Takes what is done inside, such as an evaluation, out of the rate."""
        began = time.perf_counter()
        yield
        self._paused += time.perf_counter() - began

    def say(self, text: str) -> None:
        """One line on the screen."""
        self.console.print(text, markup=False, soft_wrap=True)

    def compiled(self, seconds: float) -> None:
        """Says that the step is compiled, and which steps are left."""
        left = f"training steps {self.start + 1} to {self.steps}"
        if self.start == self.steps:
            left = "no steps are left"
        self.say(f"step compiled in {seconds:.1f} s; {left}")

    def stopped(self, number: signal.Signals, step: int, config: Train) -> None:
        """Says that a signal has stopped the run, and how to go on."""
        again = resume_command(str(config.name), config.runs, registry.file_of(config.task))
        self.say(f"stopped by {number.name} after step {step}, state saved; go on with: {again}")

    def write(self, step: int, split: str, metrics: Mapping[str, float], state: str | None = None) -> None:
        """One row of metrics.jsonl, and the same on the screen; ``state`` is the digest of the state after the step."""
        self.write_rows(step, split, metrics, [metrics if state is None else {**metrics, "state": state}])

    def write_rows(
        self, step: int, split: str, shown: Mapping[str, float], rows: Sequence[Mapping[str, float | str]]
    ) -> None:
        """Rows of metrics.jsonl, such as one for each of many runs; the screen shows ``shown``."""
        for row in rows:
            known = {name: _json_number(value) for name, value in row.items()}
            self._file.write(json.dumps({"step": step, "split": split, **known}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in shown.items():
                self._writer.add_scalar(f"{split}/{name}", value, step)
        self._show(step, split, shown)

    def _show(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        first = list(metrics.items())[:SCREEN_METRICS]
        text = "  ".join(f"{name} {value:.4g}" for name, value in first)
        if split != "train":
            self.say(f"step {step}: {split} {text}")
            return
        seconds = time.perf_counter() - self._clock - self._paused
        size = self.batch_size * self._members
        rate = (step - self._counted_from) * size / max(seconds, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=f"{text}  {rate:,.0f} examples/s")
        elif step - self._shown >= self.steps / PLAIN_LINES or step == self.steps:
            self._shown = step
            left = (self.steps - step) * size / max(rate, 1e-9)
            self.say(f"step {step}/{self.steps}  {text}  {rate:,.0f} examples/s  {math.ceil(left)} s left")


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


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The logged rows of ``run/metrics.jsonl``, in the order written; an empty list if there are none.

    A line cut short by a crash is left out, wherever it stands: a resumed run writes on after it.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = [read_row(line) for line in path.read_text("utf-8", errors="replace").splitlines()]
    return [row for row in rows if row is not None]


def scores_line(metrics: Mapping[str, Any]) -> str:
    """The single numbers among metrics in one line for the screen."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return "  ".join(f"{name} {value:.5g}" for name, value in numbers.items())
