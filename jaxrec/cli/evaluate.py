"""jaxrec evaluate RUN: the metrics of a trained run on its test split."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from jaxrec.cli.opened_run import OpenedRun, read_options

EXAMPLES = (
    "jaxrec evaluate runs/cnn-mnist-1",
    "jaxrec evaluate runs/cnn-mnist-1 --split train --json",
    "jaxrec evaluate runs/cnn-mnist-1 --split test[:1000]",
)


@dataclass(frozen=True)
class Evaluate(OpenedRun):
    """Compute the metrics of a trained run on its test split."""

    test_split: Annotated[str | None, tyro.conf.arg(aliases=["--split"])] = None
    """Split to evaluate on; TFDS slices such as test[:50%] are allowed. Default: the run's own."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(argv: list[str]) -> None:
    """Prints the metrics."""
    options = read_options(Evaluate, argv, "jaxrec evaluate", EXAMPLES)
    from jaxrec.host import tune_cpu
    from jaxrec.run.trained import load

    tune_cpu()
    trained = load(options.run)
    results = trained.evaluate(options.test_split)
    if options.json:
        print(json.dumps(results))
    else:
        _print(results, f"{trained.folder.name}, split {results['split']}, step {trained.step}")


def _print(results: dict[str, Any], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", title=title)
    for name, value in results.items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:.6g}")
    Console().print(table)
