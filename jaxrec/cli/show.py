"""jaxrec inspect RUN: settings, parameters and checkpoints of a run; needs no device."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from jaxrec.cli.opened_run import OpenedRun, read_options
from jaxrec.errors import UserError
from jaxrec.run.store import folder
from jaxrec.settings import to_dict

EXAMPLES = (
    "jaxrec inspect runs/cnn-mnist-1",
    "jaxrec inspect runs/cnn-mnist-1 --leaves",
    "jaxrec inspect runs/rotation-digits-1 --system rotation.py",
)


@dataclass(frozen=True)
class Inspect(OpenedRun):
    """Show the settings, modules and checkpoints of a run. Needs no device."""

    leaves: bool = False
    """List every array instead of the modules."""


def saved_arrays(run: Path) -> tuple[int, dict[str, tuple[int, ...]]]:
    """The newest checkpoint's step and the shapes of its model's arrays by path, from its metadata alone."""
    steps = [int(path.name) for path in (run / "checkpoints").glob("*") if re.fullmatch("[0-9]+", path.name)]
    if not steps:
        raise UserError(f"run '{run.name}' has no checkpoint yet; wait until it has saved one")
    import jax

    from jaxrec.run.store.checkpoints import saved_shapes

    # Orbax asks for the default device even to describe files, and a CPU is always there.
    jax.config.update("jax_platforms", "cpu")
    return max(steps), saved_shapes(run, max(steps))


def main(argv: list[str]) -> None:
    """Prints settings, modules and the checkpoint tree."""
    from math import prod

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    options = read_options(Inspect, argv, "jaxrec inspect", EXAMPLES)
    run = folder.find(options.run)
    console = Console(highlight=False)
    console.print(json.dumps(to_dict(folder.read_config(run)), indent=2), markup=False)
    step, arrays = saved_arrays(run)
    table = Table("module", "arrays", "numbers", title=f"checkpoint of step {step}")
    groups: dict[str, list[tuple[int, ...]]] = {}
    for name, shape in arrays.items():
        module = f"{name} {list(shape)}" if options.leaves else name.rpartition("/")[0]
        groups.setdefault(module, []).append(shape)
    for module, shapes in groups.items():
        table.add_row(Text(module), str(len(shapes)), f"{sum(map(prod, shapes)):,}")
    console.print(table)
    parameters = sum(prod(shape) for name, shape in arrays.items() if name.split("/")[1] == "params")
    console.print(f"{parameters:,} parameters")
