"""jaxrec export RUN: a trained run as a file that is used without jaxrec."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jaxrec.cli.opened_run import OpenedModel, read_options
from jaxrec.errors import UserError, check_installed
from jaxrec.settings.ranges import AT_LEAST_ONE

if TYPE_CHECKING:
    from jaxrec.run.trained import Trained

EXAMPLES = (
    "jaxrec export runs/cnn-mnist-1",
    "jaxrec export runs/cnn-mnist-1 --format onnx --int8",
    "jaxrec export runs/gan-mnist-1 --format stablehlo --out shipped",
)


@dataclass(frozen=True)
class Export(OpenedModel):
    """Write a trained run as a file that is used without jaxrec, and check that it says the same."""

    format: Literal["onnx", "stablehlo", "tflite"] = "onnx"
    """onnx: for ONNX Runtime and what reads ONNX. stablehlo: for JAX on a CPU, GPU or TPU. tflite: not written; the
    message says what to do."""
    int8: bool = False
    """Also write int8/model.onnx, whose convolutions and products are computed in 8 bits."""
    calibrate: Annotated[int, AT_LEAST_ONE] = 512
    """Training examples from which the ranges of an 8-bit model are taken."""
    out: str | None = None
    """Folder for the file and a script that uses it. Default: RUN/exported."""
    dataset: str | None = None
    """Data set that the file is checked with. Default: the run's own."""


def main(argv: list[str]) -> int:
    """Writes the file and the script beside it; returns 1 if the file's answers are not the run's."""
    options = read_options(Export, argv, "jaxrec export", EXAMPLES)
    check_options(options)
    from jaxrec.run.export.exporting import TOLERANCE, examples_for, write
    from jaxrec.run.trained import load

    trained = load(options.run, checkpoint=options.checkpoint)
    if options.int8:
        check_reads_images(trained)
    data = None
    if trained.system.drawn_from is None:
        data = trained.open_data(dataset=options.dataset, tell=print)
    inputs = examples_for(trained, data)
    folder = Path(options.out) if options.out else trained.folder / "exported"
    try:
        path = write(trained, options.format, folder)
        same = tell(trained, options.format, path, inputs) <= TOLERANCE
        if options.int8:
            _write_int8(trained, options, path, inputs)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be written ({error.strerror}); choose another one with --out") from error
    if not same:
        print(f"the difference is above {TOLERANCE:g}")
        return 1
    return 0


def _write_int8(trained: "Trained", options: Export, path: Path, inputs: dict) -> None:
    """Writes the model in 8 bits too, and prints the same of it; its answers differ more."""
    from jaxrec.run.export.exporting import right_answers
    from jaxrec.run.export.int8 import write_int8

    training = trained.open_data(trained.config.train_split, options.dataset).test
    small = write_int8(path, training, options.calibrate)
    tell(trained, options.format, small, inputs)
    test = trained.open_data(dataset=options.dataset).test
    shares = {each: right_answers(trained, each, test) for each in (path, small)}
    for each, share in shares.items():
        if share is not None:
            print(f"{each}: right about {share:.2%} of the test split")


def check_options(options: Export) -> None:
    """Raises UserError if the format is not written or its packages are missing."""
    if options.format == "tflite":
        raise UserError(
            "--format tflite needs TensorFlow, which jaxrec does without; give --format onnx, which LiteRT's tools "
            "convert and ONNX Runtime runs on the same devices"
        )
    if options.format != "onnx" and options.int8:
        raise UserError(f"--int8 is for --format onnx, and the format is {options.format}; remove one of them")
    if options.format == "onnx":
        check_installed("--format onnx", ("onnx", "onnxruntime"), "export")


def check_reads_images(trained: "Trained") -> None:
    """Raises UserError if the run cannot be written in 8 bits."""
    if trained.system.drawn_from is not None:
        raise UserError(f"--int8 takes ranges from images, and {trained.folder.name} reads none; remove it")


def tell(trained: "Trained", kind: str, path: Path, inputs: dict) -> float:
    """Prints how large the file is, how it answers and how fast; returns the difference of its answers."""
    from jaxrec.run.export.exporting import check, timed

    found = check(trained, kind, path, inputs)
    count = len(next(iter(inputs.values())))
    print(f"{path}: {path.stat().st_size / 1000:,.1f} kB")
    line = f"its answers on {count} examples differ from the run's by at most {found.difference:.2g} ({found.output})"
    if found.agreement is not None:
        line += f"; its class is the run's in {found.agreement:.1%}"
    print(line)
    if kind == "onnx":
        times = timed(path, inputs)
        print(
            f"one example on one core: {times['median']:.3f} ms (median of {times['runs']}), {times['p99']:.3f} ms "
            f"(99th percentile); {times['memory']:.0f} MiB of memory"
        )
    return found.difference
