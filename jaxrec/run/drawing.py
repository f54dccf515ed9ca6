"""What a run draws of its model: pictures at evaluations and at the end, and the examples of highest loss."""

import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxrec.data import Split, batch_indices, class_names
from jaxrec.metrics.worst import MOST
from jaxrec.run.evaluation import batch_size
from jaxrec.run.session import Session
from jaxrec.run.show.gallery import MISTAKES
from jaxrec.run.show.pictures import save_artifacts
from jaxrec.run.show.rectangles import OTHERS
from jaxrec.run.store.listing import table_cells, write_table
from jaxrec.run.told import told
from jaxrec.run.world import processes
from jaxrec.tasks.state import State
from jaxrec.waiting import tell

PICTURE_SECONDS = 10
"""Pictures that the next evaluation draws again are written at most this often."""
PICTURE_EXAMPLES = 1000
"""Most examples that a system is given to draw pictures of."""
COLUMNS = 8
"""Images in a row of the picture of the worst examples."""
TALLEST = 8
"""Examples of several images each in that picture, one in a row."""
LARGEST_CELL = 256
"""Pixels of an image's side in that picture, about; larger images are shrunk."""
LARGEST_WITH_BOXES = 640
"""The same of images with boxes, whose names are to be read."""

OF_IMAGES = ("images", "boxes", *OTHERS)
"""What a picture holds for each of the images of an example."""


class Pictures:
    """Draws what the system would show a person, and writes it into the run's folder."""

    def __init__(self, session: Session) -> None:
        self.session, system = session, session.system
        replicated = session.devices.replicated
        self.draw = jax.jit(system.artifacts, out_shardings=replicated)
        self.draw_worst = None if system.worst is None else jax.jit(system.worst, out_shardings=replicated)
        self.written = -math.inf
        """When all pictures were written last."""
        self.evolving = system.evolving
        """The pictures that are kept at every evaluation; once some were drawn, those that there are."""
        self.shown_batch = processes.by_first((session.folder / "pictures" / "batch.png").exists)

    def at(self, state: State, step: int, worst: np.ndarray | None) -> None:
        """The pictures of an evaluation. Those that do not evolve are left out if some were just written.

        ``worst`` holds number and loss of the examples of highest loss, [K, 2], as ``jaxrec.metrics.Worst`` gives them.
        """
        recent = processes.by_first(lambda: time.monotonic() - self.written < PICTURE_SECONDS)
        if recent and not self.evolving:
            return
        split = self.session.data.validation or self.session.data.train
        tell("drawing pictures", 0, 1)
        pictures = self._drawn(state, split)
        self.evolving = tuple(name for name in self.evolving if name in pictures)
        if recent:
            pictures = {name: pictures[name] for name in self.evolving}
        else:
            pictures |= self._worst(state, split, worst) | self._batch(state, step)
            self.written = time.monotonic()
        self._write(pictures, step)
        tell("drawing pictures", 1, 1)

    def last(self, state: State, worst: np.ndarray | None) -> None:
        """The pictures of the test split, and a table of its worst examples."""
        split = self.session.data.test
        tell("drawing pictures", 0, 1)
        self._write({**self._drawn(state, split), **self._worst(state, split, worst)}, None)
        tell("drawing pictures", 1, 1)
        if worst is not None:
            rows = [table_cells(row) for row in self._told(state, split, worst)]
            if processes.first() and rows:
                folder = self.session.folder / "pictures"
                folder.mkdir(exist_ok=True)
                write_table(folder / MISTAKES, list(rows[0]), (list(row.values()) for row in rows))

    def _drawn(self, state: State, split: Split) -> dict[str, Any]:
        count = batch_size(PICTURE_EXAMPLES, split)
        batch = self._read(split, np.arange(count, dtype=np.int32))
        return jax.device_get(self.session.devices.finish(self.draw(state, batch)))

    def _read(self, split: Split, index: np.ndarray) -> Any:
        return self.session.devices.copy({**split.read(index), "index": index})

    def _worst(self, state: State, split: Split, worst: np.ndarray | None) -> dict[str, Any]:
        """The pictures of the worst examples, which are drawn a few at a time, as memory allows."""
        if self.draw_worst is None or worst is None:
            return {}
        parts = []
        for index in self._pieces(split, worst):
            drawn = self.draw_worst(state, self._read(split, index))
            parts.append(jax.device_get(self.session.devices.finish(drawn)))
        pictures = {}
        for name in parts[0]:
            whole = {}
            for key in parts[0][name]:
                whole[key] = np.concatenate([np.asarray(part[name][key]) for part in parts])[: len(worst)]
            pictures[name] = arranged(whole)
        return pictures

    def _batch(self, state: State, step: int) -> dict[str, Any]:
        """The batch of the next step as augmented, once in a run."""
        seen = self.session.system.seen
        if self.shown_batch or seen is None:
            return {}
        self.shown_batch = True
        session, split = self.session, self.session.data.train
        index, epoch = batch_indices(session.config.seed, step, session.config.batch_size, len(split))
        count = min(MOST, batch_size(PICTURE_EXAMPLES, split), len(index))
        batch = {**split.read(index[:count]), "index": index[:count], "epoch": epoch[:count]}
        draw = jax.jit(seen, out_shardings=session.devices.replicated)
        drawn = jax.device_get(session.devices.finish(draw(state, session.devices.copy(batch))))
        pictures = {}
        for name, cells in drawn.items():
            pictures[name] = arranged({key: np.asarray(values) for key, values in cells.items()})
        return pictures

    def _pieces(self, split: Split, worst: np.ndarray) -> Iterator[np.ndarray]:
        """The numbers of the worst examples in pieces of one size; the last is filled up with its last example."""
        index = worst[:, 0].astype(np.int32)
        size = min(len(index), batch_size(PICTURE_EXAMPLES, split))
        for start in range(0, len(index), size):
            piece = index[start : start + size]
            yield np.pad(piece, (0, size - len(piece)), mode="edge")

    def _told(self, state: State, split: Split, worst: np.ndarray) -> list[dict[str, Any]]:
        """A row for each of the worst examples: where it is, what it is, and what the system says of it."""
        system, devices = self.session.system, self.session.devices
        compiled = jax.jit(system.predict, out_shardings=devices.replicated)

        def predict(*shown: np.ndarray) -> dict[str, np.ndarray]:
            outputs = devices.finish(compiled(state, *map(devices.copy, shown)))
            return {name: np.asarray(value) for name, value in jax.device_get(outputs).items()}

        rows: list[dict[str, Any]] = []
        for index in self._pieces(split, worst):
            found = told(system, self.session.config.task, split, index, predict)
            for number, row in zip(index.tolist(), found, strict=True):
                rows.append({"example": number, "file": split.file(number), **row})
        return [{**row, "loss": loss} for row, loss in zip(rows, worst[:, 1].tolist(), strict=False)]

    def _write(self, pictures: dict[str, Any], step: int | None) -> None:
        if not processes.first():
            return
        session = self.session
        names = class_names(session.data.dataset.features)
        kept = self.evolving if step is not None else ()
        save_artifacts(session.folder / "pictures", pictures, names, step, kept)


def arranged(cells: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures of examples, ``images`` [K, n, H, W, C] and others [K], as a grid: 8 in a row, or one if n is above 1.

    What is told of the boxes of images is [K, n, ...]. Large images are shrunk by a whole number. A last row that is
    not full is left out, unless it is the only one.
    """
    count, images = cells["images"].shape[:2]
    columns = min(COLUMNS, count)
    rows = count // columns
    if images > 1:
        rows, columns = min(TALLEST, count), 1
    grid = {}
    for name, values in cells.items():
        of_example = values[: rows * columns]
        if name in OF_IMAGES:
            grid[name] = of_example.reshape(rows, columns * images, *values.shape[2:])
        else:
            grid[name] = of_example.reshape(rows, columns, *values.shape[1:])
    height, width = grid["images"].shape[2:4]
    factor = math.ceil(max(height, width) / (LARGEST_WITH_BOXES if "boxes" in grid else LARGEST_CELL))
    grid["images"] = shrunk(grid["images"], factor)
    if "boxes" in grid:
        grid["boxes"] = grid["boxes"] / factor
    return grid


def shrunk(images: np.ndarray, factor: int) -> np.ndarray:
    """Images [..., H, W, C] with sides that are ``factor`` times as short: means of squares of pixels."""
    if factor == 1:
        return images
    height, width, channels = images.shape[-3:]
    high, wide = height // factor, width // factor
    squares = images[..., : high * factor, : wide * factor, :]
    return squares.reshape(*images.shape[:-3], high, factor, wide, factor, channels).mean((-4, -2))
