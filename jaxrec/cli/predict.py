"""jaxrec predict RUN PATH...: what a trained run makes of images from disk."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxrec.cli.arguments import parse
from jaxrec.data.images import SUFFIXES, read_image
from jaxrec.errors import UserError

BATCH = 100
SHOWN = 12
"""Reconstructions that are drawn."""


@dataclass(frozen=True)
class Predict:
    """Classify images, or encode and reconstruct them."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """Images, or folders of images."""
    out: str | None = None
    """Folder for predictions.csv, predictions.jsonl and reconstructions; else RUN/predictions."""
    skip_bad: bool = False
    """Leave out unreadable images, and say how many, instead of stopping."""


def find_images(paths: tuple[str, ...]) -> list[Path]:
    """The image files that the paths name, folders searched through; raises UserError where there are none."""
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file()]
            if not inside:
                raise UserError(f"folder '{path}' holds no images; expected files such as PNG or JPEG")
            found += sorted(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"there is no image or folder '{path}'; check the path")
    if not found:
        raise UserError("no images were named; give the paths of images or folders after the run")
    return found


def read_images(paths: list[Path], shape: tuple[int, int, int], skip_bad: bool) -> Iterator[list[tuple[Path, Any]]]:
    """The readable images as uint8 [H, W, C], converted as training does, in lists of at most ``BATCH``."""
    left_out = 0
    for start in range(0, len(paths), BATCH):
        part = []
        for path in paths[start : start + BATCH]:
            try:
                part.append((path, read_image(path, shape)))
            except UserError as error:
                if not skip_bad:
                    raise UserError(f"{error}, or leave out all such files with --skip-bad") from error
                left_out += 1
        if part:
            yield part
    if left_out == len(paths):
        raise UserError(f"none of the {len(paths)} image files can be read, such as {paths[0]}: replace them")
    if left_out:
        print(f"{left_out} unreadable images left out")


def classify(probabilities: Any, names: list[str], head: str) -> dict[str, Any]:
    """One prediction as a row: the class and its probability, then every class's probability."""
    every = {name: round(float(value), 6) for name, value in zip(names, probabilities, strict=True)}
    if head == "sigmoid":
        chosen = [name for name, value in every.items() if value > 0.5]
        return {"prediction": " ".join(chosen), "probabilities": every}
    best = max(every, key=lambda name: every[name])
    return {"prediction": best, "probability": every[best], "probabilities": every}


def main(argv: list[str]) -> None:
    """Prints a table and writes predictions.csv and predictions.jsonl."""
    options = parse(Predict, argv, "jaxrec predict")
    paths = find_images(options.paths)
    import jax
    import numpy as np

    from jaxrec.run.show.pictures import save_artifacts
    from jaxrec.run.store import folder
    from jaxrec.run.trained import load_run
    from jaxrec.run.world.devices import Devices
    from jaxrec.settings import GAN, Classifier
    from jaxrec.tasks import task_of

    run, config, dataset, state, _ = load_run(options.run, Devices())
    if isinstance(config.task, GAN):
        raise UserError(f"'{run.name}' is a gan, which draws images and reads none; use python -m jaxrec generate")
    out = Path(options.out) if options.out else run / "predictions"
    if not options.out:
        folder.refuse_links(run)
    predict = jax.jit(task_of(config.task).predict)
    rows, shown = [], []
    for part in read_images(paths, tuple(dataset["image_shape"]), options.skip_bad):
        batch = np.stack([image for _, image in part])
        padded = np.concatenate([batch, np.zeros((BATCH - len(part), *batch.shape[1:]), np.uint8)])
        outputs = {name: np.asarray(value)[: len(part)] for name, value in predict(state, padded).items()}
        for number, (path, image) in enumerate(part):
            if isinstance(config.task, Classifier):
                row = classify(outputs["probabilities"][number], dataset["class_names"], config.task.head)
            else:
                error = float(np.mean((outputs["reconstruction"][number] - image / 255) ** 2))
                row = {"mse": error, "code": outputs["code"][number].tolist() if "code" in outputs else None}
                shown += [(image / 255, outputs["reconstruction"][number])] if len(shown) < SHOWN else []
            rows.append({"path": str(path), **row})
    try:
        _write(out, rows)
        if shown:
            pairs = {"images": np.stack([np.stack(side) for side in zip(*shown, strict=True)])}
            save_artifacts(out, {"reconstructions": pairs}, (), None)
    except OSError as error:
        raise UserError(f"'{out}' cannot be written ({error.strerror}); choose another folder with --out") from error
    _print(rows, out)


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return [name for name in rows[0] if name not in ("probabilities", "code")]


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "predictions.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    # File names need not be UTF-8; written so, they are the bytes that they were.
    with (out / "predictions.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, _columns(rows), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _print(rows: list[dict[str, Any]], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def shown(cell: Any) -> Text:
        text = f"{cell:.4g}" if isinstance(cell, float) else cell
        return Text(text.encode("utf-8", "backslashreplace").decode())

    columns = _columns(rows)
    table = Table(*columns)
    for row in rows[:50]:
        table.add_row(*(shown(row[name]) for name in columns))
    console = Console()
    console.print(table)
    more = f"; the first 50 of {len(rows)} are shown" if len(rows) > 50 else ""
    console.print(f"{out / 'predictions.csv'} and .jsonl hold all{more}", markup=False, soft_wrap=True)
