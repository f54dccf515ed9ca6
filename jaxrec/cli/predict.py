"""jaxrec predict RUN PATH...: the predictions of a trained run for images from disk."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxrec.cli.opened_run import OpenedModel, read_options
from jaxrec.cli.prediction_files import open_predictions, unwritable
from jaxrec.data.videos import SUFFIXES as VIDEOS
from jaxrec.data.videos import is_video
from jaxrec.data.walk import IMAGES, UNREADABLE, LeftOut, counted, walk
from jaxrec.errors import UserError, check_installed
from jaxrec.run.store.listing import LEFT_OUT, table_cells, write_left_out
from jaxrec.settings.ranges import AT_LEAST_ONE, NOT_NEGATIVE, SHARE

if TYPE_CHECKING:
    from jaxrec.run.trained import Trained

EXAMPLES = (
    "jaxrec predict runs/cnn-mnist-1 photo.png",
    "jaxrec predict runs/cnn-mnist-1 photos --out predictions",
    "jaxrec predict runs/cnn-mnist-1 photos --top 5 --ensemble runs/cnn-mnist-2",
    "find photos -name '*.png' | jaxrec predict runs/unet-scenes-1 -",
)
LISTED = 50
"""Images in the table on the screen."""


@dataclass(frozen=True)
class Predict(OpenedModel):
    """Apply a trained run to images or clips: classify them, segment them, find objects in them, reconstruct or
    translate them, or forecast how they go on."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """Images, or folders of images; if the run reads clips, animated images, videos, or folders of frames. - reads
    paths from standard input, one a line."""
    top: Annotated[int, NOT_NEGATIVE] = 0
    """Add columns for this many classes, the most probable first, each with its probability."""
    score: Annotated[float | None, SHARE] = None
    """Tell and draw boxes of at least this score. Default: the run's --score."""
    ensemble: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Another run of the same classes; the probabilities of all runs are averaged. Repeat it for each run."""
    calibrated: bool = False
    """Divide logits by the temperature that `jaxrec evaluate RUN --calibrate` has fitted, so that probabilities are as
    often right as they say."""
    out: str | None = None
    """Folder for predictions.csv, predictions.jsonl, other files and pictures. Default: RUN/predictions."""
    skip_bad: bool = False
    """Leave out unreadable images instead of stopping; skipped.csv lists them."""
    engine: Literal["ray", "spark"] | None = None
    """Predict by Ray Data or Spark, for more images than one machine holds: PATH is one folder of images or of Parquet
    files with the columns path and content (the bytes of an image), and the answers are Parquet files. Unreadable
    images are counted and left out."""
    workers: Annotated[int, AT_LEAST_ONE] = 2
    """Workers of --engine; each opens the run once."""


def find_images(paths: tuple[str, ...]) -> tuple[list[Path], list[LeftOut]]:
    """The image files at the paths and in their folders, and what is left out; raises UserError if there are none.

    Videos are found with the images: only the run tells which of them it reads.
    """
    found: list[Path] = []
    left_out: list[LeftOut] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = walk(path, VIDEOS)
            if not inside.images:
                others = f", but {counted(inside.left_out)}" if inside.left_out else ""
                raise UserError(f"folder '{path}' holds no images{others}; expected {IMAGES}")
            found += inside.images
            left_out += inside.left_out
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"there is no image or folder '{path}'; check the path")
    if not found:
        raise UserError("no images were named; give the paths of images or folders after the run")
    return found, left_out


def without_videos(paths: list[Path], named: tuple[str, ...], left_out: list[LeftOut]) -> list[Path]:
    """The images among the files of ``find_images``; adds videos that were found in folders to ``left_out``.

    Raises UserError if no image is left.
    """
    found: list[Path] = []
    asked_for = set(map(Path, named))
    for path in paths:
        # A video that was named by itself stays, and is refused when it is opened.
        if is_video(path) and path not in asked_for:
            left_out.append(LeftOut(path, path.suffix.lower(), "the run reads single images"))
        else:
            found.append(path)
    if not found:
        raise UserError(f"the folders hold no images, but {counted(left_out)}; expected {IMAGES}")
    return found


def find_clips(paths: tuple[str, ...], left_out: list[LeftOut]) -> list[Path]:
    """The clips at the paths, each a file or a folder of images; adds images that are none to ``left_out``."""
    from jaxrec.data.folder_clips import clips_below

    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        clips, others = clips_below(path)
        found += clips
        left_out += others
    return found


def main(argv: list[str]) -> None:
    """Prints a table and writes predictions.csv and .jsonl, the system's own lists, and the pictures that it draws."""
    options = read_options(Predict, argv, "jaxrec predict", EXAMPLES)
    if options.engine is not None:
        _predict_by_engine(options)
    else:
        _predict(options)


def _predict(options: Predict) -> None:
    """Predicts here, in this process."""
    named = named_paths(options.paths)
    files, left_out = find_images(named)
    every, temperatures = _opened(options)
    trained = every[0]
    remarks: list[str] = []
    for each in every:
        remarks += each.remarks(files)
    for remark in dict.fromkeys(remarks):
        print(remark)
    paths = find_clips(named, left_out) if trained.reads_clips else without_videos(files, named, left_out)
    out = Path(options.out) if options.out else trained.folder / "predictions"
    try:
        first, count = write_all(every, temperatures, paths, options, out, left_out)
        write_left_out(out, left_out)
    except OSError as error:
        raise unwritable(out, error) from error
    _print(first, count, out)
    if left_out:
        print(f"{counted(left_out)}; {out / LEFT_OUT} names them")


def _opened(options: Predict) -> tuple[tuple["Trained", ...], list[float]]:
    """The run and those of its ensemble, and the temperatures to divide their logits by, if any are asked for."""
    from jaxrec.host import tune_cpu
    from jaxrec.run.diagnosis import fitted_temperature
    from jaxrec.run.trained import load

    tune_cpu()
    trained = load(options.run, checkpoint=options.checkpoint)
    others = [load(run, trained.devices, checkpoint=options.checkpoint) for run in options.ensemble]
    check_ensemble(trained, others, options.top)
    if options.score is not None:
        set_score(trained, options.score)
    every = (trained, *others)
    temperatures = [fitted_temperature(each) for each in every] if options.calibrated else []
    return every, temperatures


def _predict_by_engine(options: Predict) -> None:
    """Predicts by Ray or Spark, and says how many images were answered and how fast."""
    import time

    from jaxrec.run.engines import ENGINES, PACKAGES, Job, counted_answers
    from jaxrec.run.trained import load

    engine = str(options.engine)
    check_installed(f"--engine {engine}", PACKAGES[engine], engine)
    if len(options.paths) != 1 or options.ensemble or options.top or options.calibrated:
        raise UserError(
            "--engine takes one PATH, and none of --ensemble, --top and --calibrated; remove what is too much"
        )
    trained = load(options.run, checkpoint=options.checkpoint)
    trained.check_reads_images()
    out = (Path(options.out) if options.out else trained.folder / "predictions").absolute() / "answers"
    if out.exists():
        raise UserError(f"'{out}' is there already; remove it or choose another folder with --out")
    source = str(Path(options.paths[0]).absolute())
    began = time.perf_counter()
    ENGINES[engine](Job(str(trained.folder.absolute()), options.checkpoint, source, str(out), options.workers))
    seconds = time.perf_counter() - began
    count, bad = counted_answers(str(out))
    left_out = [LeftOut(Path(path), UNREADABLE, reason) for path, reason in bad]
    write_left_out(out.parent, left_out)
    print(f"{count} images in {seconds:.0f} s, {count / seconds:,.0f} a second; their answers are in {out}")
    if left_out:
        print(f"{counted(left_out)}; {out.parent / LEFT_OUT} names them")


def write_all(
    every: tuple["Trained", ...],
    temperatures: list[float],
    paths: list[Path],
    options: Predict,
    out: Path,
    left_out: list[LeftOut],
) -> tuple[list[dict[str, Any]], int]:
    """Writes the predictions and pictures of all files; returns the first rows, and the number of all.

    ``temperatures`` are those of the runs, or none. Files that cannot be read are added to ``left_out`` if the options
    say so.
    """
    from jaxrec.run.diagnosis import calibrated
    from jaxrec.run.show.predicted import describe, draw_sheet

    trained, *others = every
    first: list[dict[str, Any]] = []
    count = 0
    labels: set[str] = set()
    with open_predictions(out) as write:
        for part, images, *length in read_images(trained, paths, options.skip_bad, left_out):
            # Each run brings the files to what it was trained on itself: the others may resize them in another way.
            said = [trained.predict(images, *length), *(each.predict(part) for each in others)]
            if temperatures:
                said = [calibrated(*each) for each in zip(said, temperatures, strict=True)]
            outputs = averaged(said)
            if not count:
                draw_sheet(trained, images, outputs, out)
            told = describe(trained, part, images, outputs, out, labels)
            rows = [with_top(row, options.top) for row in told]
            write(rows, listed(trained, rows))
            first += rows[: LISTED - len(first)]
            count += len(rows)
    return first, count


def named_paths(given: tuple[str, ...]) -> tuple[str, ...]:
    """The paths as given; ``-`` stands for those on standard input, one a line or separated by zero bytes."""
    if "-" not in given:
        return given
    read = sys.stdin.buffer.read()
    separator = b"\0" if b"\0" in read else b"\n"
    listed = tuple(os.fsdecode(path) for path in read.split(separator) if path.strip())
    place = given.index("-")
    return (*given[:place], *listed, *given[place + 1 :])


def check_ensemble(trained: "Trained", others: list["Trained"], top: int) -> None:
    """Raises UserError if runs cannot be averaged, or --top is asked of a system that gives no probabilities."""
    from jaxrec.data import class_names, image_shape

    names, shape = class_names(trained.features), image_shape(trained.features)
    for other in others:
        same = class_names(other.features) == names and image_shape(other.features) == shape
        if not same or other.system.name != trained.system.name:
            raise UserError(
                f"--ensemble {other.folder.name} differs from {trained.folder.name} in its system, classes or image "
                "size; expected runs of the same kind"
            )
    if (others or top) and not names:
        raise UserError(f"--ensemble and --top need class probabilities, and {trained.folder.name} has no classes")


def set_score(trained: "Trained", score: float) -> None:
    """Sets the least score of what is told; raises UserError if the system's settings have none."""
    from jaxrec.tasks.system import with_known

    task = trained.config.task
    if not hasattr(task, "score"):
        raise UserError(f"--score is for runs that find boxes, and {trained.folder.name} is a {task.model}; remove it")
    trained.config = replace(trained.config, task=with_known(task, score=score))


def listed(trained: "Trained", rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What the rows add to the system's own lists."""
    if trained.system.listed is None:
        return {}
    return trained.system.listed(trained.config.task, rows, trained.features)


def averaged(outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """The outputs of the first run, with the probabilities averaged over all runs."""
    if len(outputs) == 1:
        return outputs[0]
    if "probabilities" not in outputs[0]:
        raise UserError("--ensemble averages class probabilities, and these runs give none; remove it")
    import numpy as np

    mean = np.mean([each["probabilities"] for each in outputs], axis=0)
    found = {**outputs[0], "probabilities": mean}
    if "classes" in found:
        found["classes"] = mean.argmax(-1).astype(found["classes"].dtype)
    return found


def with_top(row: dict[str, Any], count: int) -> dict[str, Any]:
    """The row with the ``count`` most probable classes as columns; raises UserError if it has no probabilities."""
    if not count:
        return row
    known = row.get("probabilities")
    if not isinstance(known, dict):
        raise UserError("--top needs the probability of each class, and this run gives none; remove it")
    best = sorted(known, key=lambda name: -known[name])[:count]
    columns = {}
    for place, name in enumerate(best, 1):
        columns |= {f"top_{place}": name, f"top_{place}_probability": known[name]}
    return {**row, **columns}


def read_images(
    trained: "Trained", paths: list[Path], skip_bad: bool, left_out: list[LeftOut]
) -> Iterator[tuple[Any, ...]]:
    """Paths and images [N, H, W, C] of readable files, converted as in training, as many as are predicted at once.

    If the run reads clips: paths, clips [N, T, H, W, C] and lengths [N].

    With ``skip_bad``, files that cannot be read are added to ``left_out``.
    """
    bad = 0
    for start in range(0, len(paths), trained.at_once):
        readable, images = [], []
        for path in paths[start : start + trained.at_once]:
            try:
                images.append(trained.read(path))
                readable.append(path)
            except UserError as error:
                if not skip_bad:
                    raise UserError(f"{error}, or skip all such files with --skip-bad") from error
                left_out.append(LeftOut(path, UNREADABLE, str(error)))
                bad += 1
        if readable:
            yield readable, *trained.together(images)
    if bad == len(paths):
        raise UserError(f"none of the {len(paths)} image files can be read, such as {paths[0]}: replace them")


def _print(rows: list[dict[str, Any]], count: int, out: Path) -> None:
    """A table of the first rows of ``count``."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def shown(cell: Any) -> Text:
        text = f"{cell:.4g}" if isinstance(cell, float) else str(cell)
        return Text(text.encode("utf-8", "backslashreplace").decode())

    table = Table(*table_cells(rows[0]))
    for row in rows:
        table.add_row(*map(shown, table_cells(row).values()))
    console = Console()
    console.print(table)
    more = f"; the first {len(rows)} of {count} are shown" if count > len(rows) else ""
    console.print(f"{out / 'predictions.csv'} and .jsonl hold all{more}", markup=False, soft_wrap=True)
