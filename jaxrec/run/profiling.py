"""A profile of a few steps: a trace to look at, and the operations that cost most."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from jaxrec.errors import UserError
from jaxrec.run.observers import Moment
from jaxrec.run.session import Session
from jaxrec.run.show.log import Log
from jaxrec.run.steps import CompiledStep
from jaxrec.run.world import processes

FOLDER = "profile"
"""Where the traces lie in the run's folder."""
SHOWN = 10
"""Operations that are printed."""
OPERATIONS = "XLA Ops"
"""The line of a device that repeats what its other lines show, operation by operation."""


class Cost(NamedTuple):
    """What an operation of the compiled step costs."""

    seconds: float
    """Without the operations inside it, over all its calls, summed over devices and threads."""
    share: float
    """Of the time of all operations of the step."""
    name: str
    """As in the trace."""
    origin: str
    """The module and the function that it comes from; empty if the compiler made it."""


class Profile:
    """Traces the number of steps that the settings ask for; a context manager, so that no trace is left open.

    The first call of the step is left out, because it is not like the others: memory is taken and threads are started.
    If several processes train, only the first is traced.
    """

    def __init__(self, session: Session, log: Log, step: CompiledStep) -> None:
        self.folder, self.log, self.step = session.folder / FOLDER, log, step
        self.steps = session.config.profile if processes.first() else None
        self.start: int | None = None
        self.last: Moment | None = None

    def __enter__(self) -> "Profile":
        return self

    def __call__(self, moment: Moment) -> None:
        """Starts the trace after the first call, and ends it after so many steps or with the run."""
        if self.steps is None:
            return
        if self.start is None:
            self._begin(moment)
            self.start = moment.step
        self.last = moment
        if moment.last or moment.step - self.start >= self.steps:
            self.end()

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.end()
        elif self.steps is not None and self.start is not None:
            jax.profiler.stop_trace()

    def _begin(self, moment: Moment) -> None:
        jax.block_until_ready(moment.state)
        options = jax.profiler.ProfileOptions()
        # Each call of a Python function would be in the trace, and there are thousands to a step.
        options.python_tracer_level = 0
        try:
            jax.profiler.start_trace(self.folder, profiler_options=options)
        except RuntimeError as error:
            raise UserError(
                f"--profile cannot start a trace ({error}); end the other one, or remove --profile"
            ) from error

    def end(self) -> None:
        """Writes the trace and prints the dearest operations, if it has not been done."""
        if self.steps is None or self.start is None or self.last is None:
            return
        with self.log.pause():
            jax.block_until_ready(self.last.state)
            jax.profiler.stop_trace()
            self._tell(self.start, self.last.step)
        self.steps = self.last = None

    def _tell(self, start: int, end: int) -> None:
        made = end - start
        if made == 0:
            self.log.say("--profile: nothing was traced, because the run has made only one call of the step")
            return
        self.log.say(f"profile of steps {start + 1} to {end}: {self.folder}")
        # Their names are the times at which they were written.
        trace = max(self.folder.glob("plugins/profile/*/*.xplane.pb"))
        found = costs(jax.profiler.ProfileData.from_file(str(trace)), self.step.text())
        if not found:
            self.log.say("the trace names no operations of the step; look at it with xprof or Perfetto")
        for cost in found[:SHOWN]:
            time = f"{1000 * cost.seconds / made:9.3f} ms a step"
            self.log.say(f"{time}  {cost.share:6.1%}  {cost.name}  {cost.origin}".rstrip())


def costs(trace: Any, text: str) -> list[Cost]:
    """What each operation of a program costs by a trace, the dearest first.

    Args:
        trace: a ``jax.profiler.ProfileData``; what it holds of other programs is passed over.
        text: the compiled program.
    """
    module = text.split(maxsplit=2)[1].rstrip(",")
    spent: dict[str, float] = defaultdict(float)
    for line in _lines(trace):
        for name, nanoseconds in own_times(_operations(line, module)).items():
            spent[name] += nanoseconds
    whole = sum(spent.values())
    origins = _origins(text)
    found = []
    for name, nanoseconds in spent.items():
        found.append(Cost(nanoseconds * 1e-9, nanoseconds / whole, name, origins.get(name, "")))
    return sorted(found, reverse=True)


def _lines(trace: Any) -> list[Any]:
    """The lines of the devices; those of the host's threads, which are a CPU's device, if there are none."""
    of_devices, every = [], []
    for plane in trace.planes:
        lines = list(plane.lines)
        every += lines
        if plane.name.startswith("/device:"):
            of_devices += [line for line in lines if line.name == OPERATIONS] or lines
    return of_devices or every


def _operations(line: Any, module: str) -> list[tuple[float, float, str]]:
    """Start and end, in nanoseconds, and name of each operation of the program ``module``."""
    found = []
    for event in line.events:
        about = dict(event.stats)
        # A TPU's line of operations writes the operation itself: "%fusion.3 = f32[8]{0} fusion(...)".
        written = event.name.partition(" = ")[0].lstrip("%") if line.name == OPERATIONS else None
        name = about.get("hlo_op", written)
        if name is not None and about.get("hlo_module", module) == module:
            found.append((event.start_ns, event.start_ns + event.duration_ns, str(name)))
    return found


def own_times(events: Iterable[tuple[float, float, str]]) -> Mapping[str, float]:
    """The time of each name, without that of the events inside its own.

    Args:
        events: start, end and name of events of which any two lie apart or one inside the other.
    """
    spent: dict[str, float] = defaultdict(float)
    around: list[tuple[float, str]] = []
    for start, end, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while around and around[-1][0] <= start:
            around.pop()
        if around:
            spent[around[-1][1]] -= min(end, around[-1][0]) - start
        spent[name] += end - start
        around.append((end, name))
    return spent


def _origins(text: str) -> dict[str, str]:
    """Where each operation of a compiled program comes from: ``jvp(CNN)/Conv_0/conv_general_dilated``."""
    found = {}
    for line in text.splitlines():
        match = re.match(r'\s*(?:ROOT )?%?([\w.-]+) = .*op_name="([^"]*)"', line)
        if match is not None:
            found[match[1]] = re.sub(r"^(jit\(\w+\)/)+", "", match[2])
    return found
