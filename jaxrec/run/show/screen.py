"""What the terminal shows while a run trains: the bar's line, rates over the last seconds, and a table of metrics."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TimeElapsedColumn,
)
from rich.text import Text

RATE_SECONDS = 10.0
"""Rates are means over so many seconds."""
WAITING_SECONDS = 10.0
"""Seconds between two lines about long work, if the screen is no terminal."""
BAR = 10
"""Width of the bar itself, in characters."""
SHARED = 3
"""Figures on a line of the table at the end."""
NUMBERS = ("lr", "gradient_norm", "update_norm", "epoch")
"""What a training row holds beside the system's own metrics; a player's name may stand before it."""


class Pace:
    """How fast steps are made, over the last seconds."""

    def __init__(self, step: int, seconds: float) -> None:
        self.seen = deque([(step, seconds)])

    def at(self, step: int, seconds: float) -> None:
        """Notes that ``step`` steps were made at a time in seconds."""
        self.seen.append((step, seconds))
        while len(self.seen) > 2 and seconds - self.seen[1][1] >= RATE_SECONDS:
            self.seen.popleft()

    @property
    def step_seconds(self) -> float:
        """Seconds per step; 0 if no step was made yet."""
        first, last = self.seen[0], self.seen[-1]
        if last[0] <= first[0]:
            return 0.0
        return max(last[1] - first[1], 1e-9) / (last[0] - first[0])


def told(metrics: Mapping[str, float]) -> list[str]:
    """The metrics of a row that a person follows, the loss first: ``["loss 0.31", "accuracy 0.9"]``."""
    names = [name for name in metrics if name != "loss" and not name.endswith(NUMBERS)]
    if "loss" in metrics:
        names = ["loss", *names]
    return [f"{name} {metrics[name]:.4g}" for name in names]


def fitted(needed: Sequence[str], wished: Sequence[str], width: int) -> str:
    """All of ``needed``, and of ``wished`` from the first on as many as ``width`` characters hold."""
    line = "  ".join(needed)
    for part in wished:
        if len(line) + 2 + len(part) > width:
            break
        line += f"  {part}"
    return line


class Line(ProgressColumn):
    """Step, epoch, time left and loss, and what else the terminal's width holds."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def render(self, task: Task) -> Text:
        """The line as it is now; what is done between two steps, such as evaluating, stands first."""
        step = f"step {int(task.completed)}/{int(task.total or 0)}"
        if task.fields.get("doing"):
            step += f", {task.fields['doing']}"
        needed, wished = task.fields["needed"], task.fields["wished"]
        text = fitted([step, *needed], wished, self.console.width - BAR - 1)
        return Text(text, no_wrap=True, overflow="ellipsis")


def open_bar(console: Console) -> Progress:
    """The bar of a run; its task has the fields ``needed`` and ``wished``, texts in order of importance."""
    return Progress(BarColumn(BAR), Line(console), console=console)


def clock(seconds: float) -> str:
    """A time as 0:01:07."""
    return str(timedelta(seconds=round(seconds)))


def figures(values: Mapping[str, str]) -> list[str]:
    """Lines of a small table; names that begin with the same word share a line if there are many of them."""
    groups: dict[str, list[str]] = {}
    for name in values:
        groups.setdefault(name.partition("_")[0], []).append(name)
    rows: list[tuple[str, str]] = []
    for word, names in groups.items():
        if len(names) < SHARED:
            rows += [(name, values[name]) for name in names]
            continue
        cells = [f"{name.removeprefix(word).strip('_')} {values[name]}".strip() for name in names]
        for first in range(0, len(cells), SHARED):
            rows.append(("" if first else word, "   ".join(cells[first : first + SHARED])))
    width = max((len(label) for label, _ in rows), default=0)
    return [f"  {label:<{width}}  {text}" for label, text in rows]


class Waiting:
    """Shows how far long work is: on a terminal in a line that vanishes, elsewhere in a line now and then."""

    def __init__(self, console: Console, say: Callable[[str], None]) -> None:
        self.console, self.say = console, say
        self.text, self.said_at = "", 0.0
        self.line: Progress | None = None
        self.told: set[str] = set()

    def __call__(self, text: str, done: int, total: int) -> None:
        """Takes how far the work is; it ends when all is done."""
        if text != self.text:
            self.close()
            self.text, self.said_at = text, time.monotonic()
            self._begin(total)
        if self.line is not None:
            self.line.update(self.line.task_ids[0], completed=done)
        elif time.monotonic() - self.said_at >= WAITING_SECONDS:
            self.said_at = time.monotonic()
            self.say(f"{text}: {done:,} of {total:,}")
        if done >= total:
            self.close()

    def _begin(self, total: int) -> None:
        if self.console.is_terminal:
            counts = [MofNCompleteColumn()] if total > 1 else []
            columns = (SpinnerColumn(), "{task.description}", *counts, TimeElapsedColumn())
            self.line = Progress(*columns, console=self.console, transient=True)
            self.line.add_task(self.text, total=total)
            self.line.start()
        elif total == 1 and self.text not in self.told:
            # Nothing is heard of it before it ends.
            self.told.add(self.text)
            self.say(self.text)

    def close(self) -> None:
        """Takes the line away."""
        if self.line is not None:
            self.line.stop()
        self.line, self.text = None, ""
