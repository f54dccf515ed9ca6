"""jaxrec evaluate RUN: the figures of a trained run on its test split."""

import json
from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from jaxrec.cli.arguments import parse


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained run."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    test_split: Annotated[str | None, tyro.conf.arg(aliases=["--split"])] = None
    """Split to evaluate on, with TFDS slicing; else the run's own."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(argv: list[str]) -> None:
    """Prints the figures."""
    options = parse(Evaluate, argv, "jaxrec evaluate")
    from jaxrec.run.evaluation import Evaluator
    from jaxrec.run.loop import test_results
    from jaxrec.run.setup import check_same_data, open_data
    from jaxrec.run.trained import load_run
    from jaxrec.run.world.devices import Devices

    devices = Devices()
    run, config, dataset, state, step = load_run(options.run, devices)
    config = replace(config, test_split=options.test_split or config.test_split)
    data = open_data(config)
    check_same_data(data, dataset)
    results = test_results(config, data, Evaluator(config.task, devices), state, step)
    if options.json:
        print(json.dumps(results))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", title=f"{run.name}, split {results['split']}, step {step}")
    for name, value in results.items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:.6g}")
    Console().print(table)
