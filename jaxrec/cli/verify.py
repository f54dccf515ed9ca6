"""jaxrec verify RUN: repeats steps of a run and compares the states with those that it logged and saved."""

from dataclasses import dataclass
from typing import Annotated

from jaxrec.cli.opened_run import OpenedRun, read_options
from jaxrec.errors import UserError
from jaxrec.settings.ranges import AT_LEAST_ONE

EXAMPLES = (
    "jaxrec verify runs/cnn-mnist-1",
    "jaxrec verify runs/cnn-mnist-1 --steps 50",
    "jaxrec verify runs/rotation-digits-1 --system rotation.py",
)


@dataclass(frozen=True)
class Verify(OpenedRun):
    """Repeat steps of a run, from its start and from its checkpoints, and compare the states with those it logged.

    The exit code is 1 if a state differs."""

    steps: Annotated[int, AT_LEAST_ONE] = 200
    """Largest number of steps to repeat from the start and from each checkpoint."""
    dataset: str | None = None
    """The run's data set in another place, such as folder:PATH; its files must be as they were."""


def main(argv: list[str]) -> int:
    """Prints what was compared and the first difference of each window; returns the exit code."""
    options = read_options(Verify, argv, "jaxrec verify", EXAMPLES)
    from jaxrec.host import tune_cpu
    from jaxrec.run.replay import Replay
    from jaxrec.run.store import folder
    from jaxrec.run.store.checkpoints import Checkpoints

    tune_cpu()
    run = folder.find(options.run)
    replay = Replay(run, options.dataset)
    with Checkpoints(run, read_only=True) as checkpoints:
        found = replay.missing(checkpoints)
        for step, what in found:
            print(f"step {step}: {what}")
        for start, end, differences in replay.windows(checkpoints, options.steps):
            for step, what in differences:
                found.append((step, what))
                print(f"step {step}: {what}")
            print(f"steps {start} to {end} repeated" if end > start else f"the checkpoint of step {end} read")
    if not found and not replay.compared:
        raise UserError(
            f"run '{run.name}' has logged no step after a checkpoint, so there is nothing to compare; train it further"
        )
    print(f"{replay.compared} logged states compared: {'some differ' if found else 'all are as logged'}")
    return int(bool(found))
