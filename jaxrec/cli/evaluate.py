"""jaxrec evaluate RUN: the metrics of a trained run on its test split."""

import json
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxrec.cli.opened_run import OpenedModel, read_options

if TYPE_CHECKING:
    from jaxrec.run.trained import Trained

EXAMPLES = (
    "jaxrec evaluate runs/cnn-mnist-1",
    "jaxrec evaluate runs/cnn-mnist-1 --split train --json",
    "jaxrec evaluate runs/cnn-photos-1 --dataset folder:new --split test",
    "jaxrec evaluate runs/cnn-mnist-1 --split 'test[:1000]' --checkpoint best",
)


@dataclass(frozen=True)
class Evaluate(OpenedModel):
    """Compute the metrics of a trained run on its test split."""

    test_split: Annotated[str | None, tyro.conf.arg(aliases=["--split"])] = None
    """Split to evaluate on; TFDS slices such as test[:50%] are allowed. Default: the run's own."""
    dataset: str | None = None
    """Data set to evaluate on: the run's own in another place, or another one of the same classes, such as
    folder:PATH. Default: the run's own."""
    skip_bad: bool = False
    """Leave out unreadable images instead of stopping."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(argv: list[str]) -> None:
    """Prints the metrics."""
    options = read_options(Evaluate, argv, "jaxrec evaluate", EXAMPLES)
    from jaxrec.host import tune_cpu
    from jaxrec.run.trained import load

    tune_cpu()
    trained = load(options.run, checkpoint=options.checkpoint)
    if options.skip_bad:
        trained.config = replace(trained.config, skip_bad=True)
    results = trained.evaluate(options.test_split, options.dataset, tell)
    if options.json:
        print(json.dumps(results))
    else:
        _print(results, f"{trained.folder.name}, split {results['split']}, {_checkpoint(trained)}")


def tell(remark: str) -> None:
    """Says a sentence beside the figures, which may be read by a program."""
    print(remark, file=sys.stderr)


def _checkpoint(trained: "Trained") -> str:
    """The step of the parameters, and that of the best ones if these are others."""
    if trained.best is None:
        return f"step {trained.step}"
    if trained.best == trained.step:
        return f"step {trained.step} (the best on validation)"
    return f"step {trained.step} (the best on validation is step {trained.best}: --checkpoint best)"


def _print(results: dict[str, Any], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(title, markup=False, soft_wrap=True)
    table = Table("metric", "value")
    for name, value in results.items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:.6g}")
    console.print(table)
