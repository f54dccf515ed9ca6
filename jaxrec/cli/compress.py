"""jaxrec compress RUN: a trained run made smaller, as a new run beside it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxrec.cli.evaluate import tell
from jaxrec.cli.opened_run import OpenedRun, read_options
from jaxrec.errors import UserError
from jaxrec.settings.ranges import AT_LEAST_ONE, POSITIVE, Range

if TYPE_CHECKING:
    from jaxrec.run.trained import Trained

EXAMPLES = (
    "jaxrec compress runs/cnn-mnist-1 --prune .9",
    "jaxrec compress runs/cnn-mnist-1 --prune .5 --structured --int8",
    "jaxrec compress runs/small --distil runs/large --steps 500",
    "jaxrec compress runs/cnn-mnist-1 --int8 --steps 500",
)
SHOWN = (
    ("parameters", "parameters", "{:,}"),
    ("nonzero", "of them not zero", "{:,}"),
    ("bytes", "bytes, compressed", "{:,}"),
    ("operations", "operations an example", "{:,}"),
    ("milliseconds", "ms an example on one core", "{:.3f}"),
)
"""What is told of a run after its headline metric: the name, the words, the form."""


@dataclass(frozen=True)
class Compress(OpenedRun):
    """Make a trained run smaller: train it on from its weights, into a new run beside it."""

    prune: Annotated[float | None, Range(0, 1, open_start=True, open_end=True), tyro.conf.arg(metavar="SHARE")] = None
    """Share of the weights that become zero, those of least magnitude, more and more of them over the run."""
    scope: Literal["global", "layer"] = "global"
    """global: the smallest weights, wherever they are. layer: the same share of every layer."""
    structured: bool = False
    """Remove this share of each layer's channels for good, at the start: the new run is a narrower network."""
    distil: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """Learn from the answers of this run too; of the same images and classes. It may be the run itself."""
    int8: bool = False
    """Round kernels and activations to 8 bits in training, and export the new run, as it is and in 8 bits."""
    steps: Annotated[int | None, AT_LEAST_ONE] = None
    """Length of the training. Default: as many steps as the run has made."""
    lr: Annotated[float | None, POSITIVE] = None
    """Peak learning rate. Default: the run's own."""
    name: str | None = None
    """Name of the new run folder. Default: that of the run and -pruned, -distilled or -int8."""
    dataset: str | None = None
    """Data set to train on and to evaluate with. Default: the run's own."""


def main(argv: list[str]) -> int:
    """Trains the smaller run, and tells what both cost and how good they are."""
    options = read_options(Compress, argv, "jaxrec compress", EXAMPLES)
    _check(options)
    from jaxrec.host import tune_cpu
    from jaxrec.run.compressing import Wanted, compress
    from jaxrec.run.trained import load

    tune_cpu()
    trained = load(options.run)
    if options.int8:
        from jaxrec.cli.export import check_reads_images

        check_reads_images(trained)
    teacher = None if options.distil is None else load(options.distil)
    wanted = Wanted(
        prune=options.prune,
        scope=options.scope,
        structured=options.structured,
        teacher=teacher,
        int8=options.int8,
        steps=options.steps,
        lr=options.lr,
        name=options.name,
    )
    run = compress(trained, wanted, options.dataset)
    if run.stopped is not None:
        return 128 + run.stopped
    _tell(trained, load(run.folder), options.dataset)
    if options.int8:
        from jaxrec.cli import export

        return export.main([str(run.folder), "--int8", *(("--dataset", options.dataset) if options.dataset else ())])
    return 0


def _check(options: Compress) -> None:
    """Raises UserError if the options ask for nothing, or for what belongs to another one."""
    if options.prune is None and options.distil is None and not options.int8:
        raise UserError(
            "nothing is to be made smaller: give --prune, with or without --structured, --distil or --int8; for 8 bits "
            "without training, use jaxrec export RUN --int8"
        )
    if options.prune is None and options.structured:
        raise UserError("--structured removes the share of the channels that --prune gives; add --prune, such as .5")
    if options.structured and options.scope == "layer":
        raise UserError("--structured removes the same share of every layer; remove --scope")
    if options.int8:
        from jaxrec.cli.export import Export, check_options

        check_options(Export(options.run, int8=True))


def _tell(before: "Trained", after: "Trained", dataset: Any) -> None:
    """Prints what both runs cost, and writes it to ``compressed.json`` of the new one."""
    from jaxrec.run.compressing import measured
    from jaxrec.run.store.folder import write_json

    told = {}
    for name, trained in (("before", before), ("after", after)):
        data = None
        if before.system.drawn_from is None:
            data = trained.open_data(dataset=dataset, tell=tell)
        results = trained.evaluate(dataset=dataset, tell=tell) if data is None else trained.evaluate_data(data)
        told[name] = measured(trained, results, data)
    write_json(after.folder / "compressed.json", {"run": str(before.folder), **told})
    headline = next(iter(told["after"]))
    print(f"{'':26}{'before':>14}{'after':>14}")
    for key, words, form in ((headline, headline, "{:.4f}"), *SHOWN):
        cells = ["not measured" if told[name][key] is None else form.format(told[name][key]) for name in told]
        print(f"{words:26}{cells[0]:>14}{cells[1]:>14}")
