"""jaxrec evaluate RUN: the metrics of a trained run on its test split."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxrec.cli.opened_run import OpenedModel, read_options
from jaxrec.cli.prediction_files import open_predictions, unwritable
from jaxrec.data.walk import counted
from jaxrec.errors import UserError

if TYPE_CHECKING:
    from jaxrec.run.data import Data
    from jaxrec.run.trained import Trained

EXAMPLES = (
    "jaxrec evaluate runs/cnn-mnist-1",
    "jaxrec evaluate runs/cnn-mnist-1 --split train --json",
    "jaxrec evaluate runs/cnn-photos-1 --dataset folder:new --predictions",
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
    column: Annotated[str | None, tyro.conf.arg(name="slice", metavar="COLUMN")] = None
    """Add metrics by each value of a column of the table; for csv: sets."""
    predictions: bool = False
    """Write what is predicted for each example, beside its true class or number."""
    calibrate: bool = False
    """Fit a temperature of the probabilities on the validation split, and measure calibration before and after. The
    report shows it."""
    weak_spots: bool = False
    """Find the worst class and slices, near-duplicates and probable label errors. The report lists them."""
    out: str | None = None
    """Folder for predictions.csv and predictions.jsonl. Default: RUN/predictions."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(argv: list[str]) -> None:
    """Prints the metrics."""
    options = read_options(Evaluate, argv, "jaxrec evaluate", EXAMPLES)
    if options.out is not None and not options.predictions:
        raise UserError("--out is the folder for predictions: add --predictions, or remove it")
    from jaxrec.host import tune_cpu
    from jaxrec.run.trained import load

    tune_cpu()
    trained = load(options.run, checkpoint=options.checkpoint)
    data = trained.open_data(options.test_split, options.dataset, tell, skip_bad=options.skip_bad)
    for remark in _remarks(data):
        tell(remark)
    slices = {}
    if options.column is not None:
        slices[options.column] = trained.evaluate_by(data, options.column)
    if options.predictions:
        _write_predictions(trained, data, options.out)
    found = _diagnosed(trained, data, options)
    results = trained.evaluate_data(data, options.test_split)
    if options.json:
        told = {**results, **found}
        if slices:
            told["slices"] = slices
        print(json.dumps(told))
        return
    _print(trained, results)
    if found:
        _print_diagnosis(trained, found)
    for column, metrics in slices.items():
        _print_slices(column, metrics)


def _diagnosed(trained: "Trained", data: "Data", options: Evaluate) -> dict[str, Any]:
    """What --calibrate and --weak-spots find, by these names; the report is written again with it."""
    if not (options.calibrate or options.weak_spots):
        return {}
    from jaxrec.run import diagnosis
    from jaxrec.run.show.report import write_report

    test = diagnosis.answers_of(trained, data.test)
    whole = diagnosis.open_splits(trained)
    found = {}
    if options.calibrate:
        found["calibration"] = diagnosis.calibrate(trained, whole.validation, test)
    if options.weak_spots:
        found["weak_spots"] = diagnosis.find_weak_spots(trained, whole, data.test, test)
    write_report(trained.folder)
    return found


def _write_predictions(trained: "Trained", data: "Data", folder: str | None) -> None:
    out = Path(folder) if folder else trained.folder / "predictions"
    rows = trained.predictions(data.test)
    try:
        with open_predictions(out) as write:
            for part in rows:
                write(part)
    except OSError as error:
        raise unwritable(out, error) from error
    tell(f"{out / 'predictions.csv'} and .jsonl hold the predictions of {len(data.test)} examples")


def _remarks(data: "Data") -> list[str]:
    """What training says of how the set is read."""
    remarks = list(data.dataset.remarks)
    if data.dataset.left_out:
        remarks.append(counted(data.dataset.left_out))
    return remarks


def tell(remark: str) -> None:
    """Says a sentence beside the metrics, which may be read by a program."""
    print(remark, file=sys.stderr)


def _checkpoint(trained: "Trained") -> str:
    """The step of the parameters, and that of the best ones if these are others."""
    if trained.best is None:
        return f"step {trained.step}"
    if trained.best == trained.step:
        return f"step {trained.step} (the best on validation)"
    return f"step {trained.step} (the best on validation is step {trained.best}: --checkpoint best)"


def _print(trained: "Trained", results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from jaxrec.data import class_names
    from jaxrec.run.introduction import for_the_report
    from jaxrec.run.show.figures import scores

    console = Console(highlight=False)
    title = f"{trained.folder.name}, split {results['split']}, {_checkpoint(trained)}"
    console.print(title, markup=False, soft_wrap=True)
    table = Table("metric", "value")
    facts = for_the_report(trained.system, trained.config.task)
    for name, value in scores(results, facts, class_names(trained.features)).items():
        table.add_row(name, Text(value))
    console.print(table)


def _print_slices(column: str, slices: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names: dict[str, None] = {}
    for metrics in slices.values():
        names.update(dict.fromkeys(metrics))
    table = Table()
    for name in (column, *names):
        table.add_column(Text(name))
    for value, metrics in slices.items():
        cells = ["undefined" if metrics.get(name) is None else f"{metrics[name]:.5g}" for name in names]
        table.add_row(Text(value or "(empty)"), *cells)
    Console(highlight=False).print(table)


def _print_diagnosis(trained: "Trained", found: dict[str, Any]) -> None:
    if "calibration" in found:
        known = found["calibration"]
        before, after = known["before"], known["after"]
        print(f"temperature {known['temperature']:.4g}, fitted on {known['validation']} validation examples")
        for name in before:
            print(f"{name.replace('_', ' ')}: {before[name]:.4g} before, {after[name]:.4g} after")
    if "weak_spots" in found:
        known = found["weak_spots"]
        print(f"worst class: {known['class']}, accuracy {known['class_accuracy']:.4g}")
        for each in known["slices"][:1]:
            limits = f"{each['by']} from {each['from']:.3g} to {each['to']:.3g}"
            print(f"worst slice: {limits}, accuracy {each['accuracy']:.4g} of {each['examples']}")
        print(f"{known['label_errors']} probable label errors, {known['near_duplicates']} near-duplicates")
    print(f"read {trained.folder / 'report.html'}")
