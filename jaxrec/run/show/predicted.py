"""What is told and drawn of predicted files: a row and pictures of each, and a sheet of the first."""

import os
from pathlib import Path
from typing import Any

from jaxrec.data import class_names
from jaxrec.run.show.pictures import save_artifacts
from jaxrec.run.trained import Trained

SHOWN = 12
"""Images on a sheet."""
LABEL = 150
"""Most bytes of an image's name in the names of its pictures."""


def describe(
    trained: Trained, paths: list[Path], images: Any, outputs: dict[str, Any], out: Path, labels: set[str]
) -> list[dict[str, Any]]:
    """The rows of predicted images; writes the pictures that the system draws of each.

    ``labels`` are the names that pictures have already.
    """
    system, names = trained.system, class_names(trained.features)
    task, features = trained.config.task, trained.features
    outputs = trained.at_file_sizes(paths, outputs)
    told = trained.rows(images, outputs)
    rows = [{"path": str(path), **row} for path, row in zip(paths, told, strict=True)]
    if system.drawings is not None:
        for number, (row, path) in enumerate(zip(rows, paths, strict=True)):
            # One at a time: a photo may be a hundred times as large as what the model sees of it.
            one = {name: values[number] for name, values in outputs.items()}
            (drawing,) = system.drawings(task, *trained.at_own_size(path, images[number], one), features)
            label = free_label(path, labels)
            named = {f"{label}-{name}": picture for name, picture in drawing.items()}
            row["pictures"] = save_artifacts(out, named, names)
    return rows


def draw_sheet(trained: Trained, images: Any, outputs: dict[str, Any], out: Path) -> None:
    """Writes one picture of the first predicted images, if the system draws one."""
    sheet = trained.system.sheet
    if sheet is None:
        return
    few = {name: values[:SHOWN] for name, values in outputs.items()}
    drawn = sheet(trained.config.task, images[:SHOWN], few, trained.features)
    save_artifacts(out, drawn, class_names(trained.features))


def free_label(path: Path, taken: set[str]) -> str:
    """What an image's pictures are called: its name, with a number if another image of that name was there before."""
    # File systems take names of 255 bytes, and the picture's own name follows.
    name = os.fsdecode(os.fsencode(path.stem)[:LABEL])
    label, number = name, 2
    while label in taken:
        label, number = f"{name}-{number}", number + 1
    taken.add(label)
    return label
