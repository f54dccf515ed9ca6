"""python -m jaxrec.verify RUN: makes steps of a run again and compares the states with those it logged and saved."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any

import tyro

from jaxrec.cli import check_numbers, parse, run_command
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
    options = parse(Verify, argv, "jaxrec.verify")
    check_numbers(options)
    import jax

    from jaxrec.data import cache_dir
    from jaxrec.run import folder
    from jaxrec.run.checkpoints import Checkpoints, hashes_of, split_state
    from jaxrec.run.devices import Devices, keep_programs
    from jaxrec.run.fingerprint import digest
    from jaxrec.run.loop import Trainer
    from jaxrec.run.report import read_metrics
    from jaxrec.run.setup import CompiledStep, check_same_data, complete, open_data, unharmed

    run = folder.find(options.run)
    if (run / "members.json").exists():
        raise UserError(f"run '{run.name}' is a population, whose states are not logged; verify runs of one member")
    config = folder.read_config(run)
    keep_programs(cache_dir() / "programs")
    devices = Devices(config.mesh)
    devices.check_batch(config.batch_size)
    data = open_data(config, trains=True)
    check_same_data(data, folder.read_dataset(run))
    logged = {row["step"]: row["state"] for row in read_metrics(run) if "state" in row}
    if not logged:
        raise UserError(f"run '{run.name}' has logged no step yet; let it train on")
    clean, compared = True, 0

    @cache
    def steps_of(length: int) -> tuple[Trainer, CompiledStep]:
        """What makes the steps of a run of that length, on which the learning rate depends."""
        trainer = Trainer(complete(replace(config, steps=length), data), data, devices)
        return trainer, trainer._compile(trainer.initial())

    def differs(step: int, what: str) -> None:
        nonlocal clean
        clean = False
        print(f"step {step}: {what}")

    with Checkpoints(run, read_only=True) as checkpoints:
        for step, damage in checkpoints.damaged.items():
            differs(step, damage)
        saved = sorted(checkpoints.steps())
        progress: Any = checkpoints.record(saved[-1])["progress"]
        lengths = dict(progress["schedules"])
        # After a rollback, the beginning's learning rate is not the run's.
        starts = [*([] if progress["rollbacks"] else [0]), *saved]
        if saved[-1] >= max(logged) + config.log_every:
            differs(saved[-1], f"it was saved, and the log ends at step {max(logged)}")
        for start, following in zip(starts, [*starts[1:], max(logged)], strict=True):
            begun = max(step for step in lengths if step <= start)
            following = min([following, *(step for step in lengths if step > start)])
            trainer, program = steps_of(lengths[begun])
            state = trainer.initial()
            if start:
                try:
                    state, _ = checkpoints.restore(state, start)
                except UserError as error:
                    differs(start, str(error))
                    continue
            hashes = jax.device_get(hashes_of(*split_state(state)))
            compared += start in logged
            if start in logged and digest(hashes) != logged[start]:
                differs(start, f"the checkpoint's state is {digest(hashes)}, the run logged {logged[start]}")
            end, watch, agrees = min(following, start + options.steps), unharmed(devices, state), True
            for made, batch in trainer._batches(start, end):
                state, watch, _ = program(state, watch, batch)
                if made in logged and agrees:
                    compared += 1
                    found = digest(jax.device_get(hashes_of(*split_state(state))))
                    agrees = found == logged[made]
                    if not agrees:
                        differs(made, f"made again from step {start}, the state is {found}, not {logged[made]}")
            if end in saved and end > start:
                hashes, found = checkpoints.record(end)["hashes"], jax.device_get(hashes_of(*split_state(state)))
                if changed := [name for name, value in found.items() if hashes.get(name) != int(value)]:
                    differs(end, f"{changed[0]} and {len(changed) - 1} more arrays differ from the checkpoint's")
            print(f"steps {start} to {end} made again")
    if clean and not compared:
        raise UserError(f"run '{run.name}' has logged no step after a checkpoint: there is nothing to compare")
    print(f"{compared} logged states compared: {'all are as logged' if clean else 'some differ'}")
    return int(not clean)


if __name__ == "__main__":
    run_command(main)
