"""What a run says while it trains: a progress bar or plain lines on the screen, metrics.jsonl, TensorBoard."""

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SCREEN_METRICS = 3
PLAIN_LINES = 20


class Log:
    """Writes the metrics of a run; a context manager, so that the terminal is left tidy.

    Without a ``run`` it writes and says nothing: of several processes, the first alone does.
    """

    def __init__(
        self, run: Path | None, steps: int, start: int, *, unevaluated: bool = False, tensorboard: bool = False
    ) -> None:
        self.path = Path(os.devnull) if run is None else run / "metrics.jsonl"
        self.steps = steps
        self.console = Console(highlight=False, quiet=run is None)
        self._drop_after(start, unevaluated)
        self._file = self.path.open("a", encoding="utf-8")
        self._bar = None
        self._start = self._shown = start
        self._writer = None
        if tensorboard and run is not None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(run / "tensorboard"))

    def _drop_after(self, step: int, unevaluated: bool = False) -> None:
        """Leaves out what an interrupted run logged past the checkpoint it is resumed from, and lines that are none.

        Where ``unevaluated``, the evaluation of ``step`` is past it too.
        """
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text("utf-8", errors="replace").splitlines():
            row = read_row(line)
            if row is None or row["step"] > step:
                continue
            if not (unevaluated and row["step"] == step and row.get("split") == "validation"):
                kept.append(line + "\n")
        part = self.path.with_name(self.path.name + ".part")
        part.write_text("".join(kept), "utf-8")
        part.replace(self.path)

    def go_back(self, step: int) -> None:
        """Forgets what was logged after ``step``."""
        self._file.close()
        self._drop_after(step)
        self._file = self.path.open("a", encoding="utf-8")
        self._shown = step
        self.start_clock(step, self.batch_size)

    def __enter__(self) -> "Log":
        if self.console.is_terminal:
            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[text]}")
            self._bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=self.console)
            self._task = self._bar.add_task("training", total=self.steps, completed=self._start, text="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def start_clock(self, step: int, batch_size: int) -> None:
        """Rates and the time left count from here, after ``step``; from now on a step takes this many examples."""
        self._start, self.batch_size = step, batch_size
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

    def write(
        self,
        step: int,
        split: str,
        metrics: dict[str, float],
        members: Sequence[tuple[int, dict[str, float]]] = (),
        state: str | None = None,
    ) -> None:
        """One row of metrics.jsonl, and the same on the screen; of ``members``, by number, one row each.

        ``state`` is the digest of the state after the step.
        """
        rows = [{"member": member, **row} for member, row in members] or [metrics]
        hashed = {} if state is None else {"state": state}
        for row in rows:
            # JSON has no NaN.
            known = {name: value if math.isfinite(value) else None for name, value in row.items()}
            self._file.write(json.dumps({"step": step, "split": split, **known, **hashed}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(f"{split}/{name}", value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:SCREEN_METRICS])
        if split != "train":
            self.say(f"step {step}: {split} {shown}")
            return
        seconds = time.perf_counter() - self._clock - self._paused
        rate = (step - self._start) * self.batch_size / max(seconds, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=f"{shown}  {rate:,.0f} examples/s")
        elif step - self._shown >= self.steps / PLAIN_LINES or step == self.steps:
            self._shown = step
            left = (self.steps - step) * self.batch_size / max(rate, 1e-9)
            self.say(f"step {step}/{self.steps}  {shown}  {rate:,.0f} examples/s  {math.ceil(left)} s left")


def read_row(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None where it is none, such as one cut short by a crash."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def scores_line(metrics: dict[str, Any]) -> str:
    """The single numbers among metrics in one line for the screen."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return "  ".join(f"{name} {value:.5g}" for name, value in numbers.items())
