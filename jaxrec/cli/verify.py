"""jaxrec verify RUN: makes steps of a run again and compares the states with those it logged and saved."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxrec.cli.arguments import check_numbers, parse
from jaxrec.errors import UserError


@dataclass(frozen=True)
class Verify:
    """Make steps of a run again, from its start and its checkpoints, and compare: exit code 1 where a state differs."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    steps: int = 200
    """Steps to make again from the start and from each checkpoint, at most."""


def main(argv: list[str]) -> int:
    """Prints what was compared and the first difference of each window; returns the exit code."""
    options = parse(Verify, argv, "jaxrec verify")
    check_numbers(options)
    from jaxrec.run.replay import Replay
    from jaxrec.run.store import folder
    from jaxrec.run.store.checkpoints import Checkpoints

    run = folder.find(options.run)
    replay = Replay(run)
    with Checkpoints(run, read_only=True) as checkpoints:
        found = [*checkpoints.damaged.items(), *replay.missing(checkpoints)]
        for step, what in found:
            print(f"step {step}: {what}")
        for start, end, differences in replay.windows(checkpoints, options.steps):
            for step, what in differences:
                found.append((step, what))
                print(f"step {step}: {what}")
            print(f"steps {start} to {end} made again" if end > start else f"the checkpoint of step {end} read")
    if not found and not replay.compared:
        raise UserError(f"run '{run.name}' has logged no step after a checkpoint: there is nothing to compare")
    print(f"{replay.compared} logged states compared: {'some differ' if found else 'all are as logged'}")
    return int(bool(found))
