"""Curves and counts of classes as pictures."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from jaxrec.run.show.charts import ticks
from jaxrec.run.show.fonts import fit, font_for, latin, shown_name
from jaxrec.run.show.inks import FAINT, GRID, INK, class_ink

SHARP = 2
"""Pictures are drawn this many times as large, and shrunk: pillow's lines are not smooth."""
MOST_NAMED = 12
"""Classes that are told apart."""
PANEL = 250
"""Pixels of a side of the plot of one class's counts."""

Place = Callable[[float, float], tuple[float, float]]
"""Where a point of a plot lies in its picture."""


def curves_picture(artifact: Mapping[str, Any], class_names: Sequence[str]) -> Image.Image:
    """Draws a curve for each class in the unit square; the key gives the mean of its points.

    Of more than 12 classes all curves are grey, and their mean is drawn. ``artifact`` holds

    - ``curves``: float [C, P] in [0, 1]; classes with a nan are left out.
    - ``at``: float [P] in [0, 1], the places of the points.
    - ``axes``: the names of the two axes, across and up.
    """
    lines, at = np.asarray(artifact["curves"], np.float64), np.asarray(artifact["at"], np.float64)
    picture, draw = _canvas(640, 420)
    across, up = artifact["axes"]
    place = _frame(draw, (60, 34, 450, 370), (0, 1), (0, 1))
    _text(draw, (450, 400), across, FAINT, "rs")
    _text(draw, (60, 22), up, FAINT, "ms")
    drawn = [number for number in range(len(lines)) if not np.isnan(lines[number]).any()]
    many = len(drawn) > MOST_NAMED
    for row, number in enumerate(drawn):
        _line(draw, place, at, lines[number], GRID if many else class_ink(number))
        if not many:
            _key(draw, row, shown_name(number, class_names), lines[number].mean(), class_ink(number))
    if many:
        mean = lines[drawn].mean(axis=0)
        _line(draw, place, at, mean, INK)
        _key(draw, 0, f"{len(drawn)} classes", mean.mean(), INK)
    return _shrunk(picture)


def reliability_picture(drawn: Mapping[str, Any]) -> Image.Image:
    """Draws the accuracy over the confidence of predictions, and the line on which both are equal.

    ``drawn`` holds by name what ``jaxrec.after.calibration.reliability`` gives; the key gives the calibration error.
    """
    picture, draw = _canvas(640, 420)
    place = _frame(draw, (60, 34, 450, 370), (0, 1), (0, 1))
    _text(draw, (450, 400), "confidence", FAINT, "rs")
    _text(draw, (60, 22), "accuracy", FAINT, "ms")
    draw.line([place(0, 0), place(1, 1)], fill=FAINT, width=SHARP)
    for row, (name, found) in enumerate(drawn.items()):
        there = found.count > 0
        _line(draw, place, found.confidence[there], found.accuracy[there], class_ink(row))
        _key(draw, row, name, found.error, class_ink(row))
    return _shrunk(picture)


def counts_picture(counts: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """Draws for each class how many boxes images have and how many were detected: the larger a dot, the more images.

    ``counts`` is int [M, 4]: class, true number, detected number, and the images of which this holds. Of more than 12
    classes those with the most boxes are drawn.
    """
    counts = np.asarray(counts, np.int64).reshape(-1, 4)
    boxes = np.bincount(counts[:, 0], weights=counts[:, 1] * counts[:, 3])
    shown = np.sort(np.argsort(-boxes, kind="stable")[:MOST_NAMED])
    columns = max(1, min(4, len(shown)))
    picture, draw = _canvas(columns * PANEL, max(1, math.ceil(len(shown) / columns)) * PANEL)
    for place, number in enumerate(shown.tolist()):
        corner = place % columns * PANEL, place // columns * PANEL
        _counts_of_class(draw, corner, counts[counts[:, 0] == number], shown_name(number, class_names))
    return _shrunk(picture)


def _counts_of_class(draw: ImageDraw.ImageDraw, corner: tuple[int, int], counts: np.ndarray, name: str) -> None:
    x, y = corner
    number, true, detected, images = counts.T
    # Half a step beyond the largest number, for its dot.
    top = max(true.max(initial=0), detected.max(initial=0), 1) + 0.5
    place = _frame(draw, (x + 40, y + 44, x + PANEL - 14, y + PANEL - 40), (-0.5, top), (-0.5, top), whole=True)
    error = float((np.abs(true - detected) * images).sum() / max(images.sum(), 1))
    _text(draw, (x + 8, y + 16), fit(name, 13 * SHARP, (PANEL - 90) * SHARP), INK, "ls")
    _text(draw, (x + PANEL - 14, y + 16), f"off by {error:.2g}", FAINT, "rs")
    _text(draw, (x + 8, y + 36), "detected", FAINT, "ls")
    _text(draw, (x + PANEL - 14, y + PANEL - 8), "there", FAINT, "rs")
    draw.line([place(-0.5, -0.5), place(top, top)], fill=FAINT, width=SHARP)
    # Dots that are neighbors touch at most.
    largest = min(max(place(0.5, 0)[0] - place(0, 0)[0], 3 * SHARP), 8 * SHARP)
    for one, other, count in zip(true.tolist(), detected.tolist(), images.tolist(), strict=True):
        radius = max(2 * SHARP, largest * math.sqrt(count / images.max()))
        across, up = place(one, other)
        draw.ellipse((across - radius, up - radius, across + radius, up + radius), fill=class_ink(int(number[0])))


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (width * SHARP, height * SHARP), "white")
    return picture, ImageDraw.Draw(picture)


def _shrunk(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width // SHARP, picture.height // SHARP), Image.Resampling.BOX)


def _frame(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    across: tuple[float, float],
    up: tuple[float, float],
    whole: bool = False,
) -> Place:
    """Draws the lines and numbers of a plot from left, top to right, bottom; ``whole``: at whole numbers alone."""
    left, top, right, bottom = (SHARP * side for side in box)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - across[0]) / (across[1] - across[0]) * (right - left),
            bottom - (y - up[0]) / (up[1] - up[0]) * (bottom - top),
        )

    for tick in ticks(*up):
        if not whole or tick == round(tick):
            y = place(0, tick)[1]
            draw.line([(left, y), (right, y)], fill=GRID, width=SHARP)
            _text(draw, (box[0] - 6, y / SHARP), f"{tick:g}", FAINT, "rm")
    for tick in ticks(*across):
        if not whole or tick == round(tick):
            x = place(tick, 0)[0]
            draw.line([(x, top), (x, bottom)], fill=GRID, width=SHARP)
            _text(draw, (x / SHARP, box[3] + 16), f"{tick:g}", FAINT, "ms")
    return place


def _line(draw: ImageDraw.ImageDraw, place: Place, at: np.ndarray, values: np.ndarray, ink: Any) -> None:
    points = [place(x, y) for x, y in zip(at.tolist(), values.tolist(), strict=True)]
    draw.line(points, fill=ink, width=2 * SHARP, joint="curve")


def _key(draw: ImageDraw.ImageDraw, row: int, name: str, mean: float, ink: Any) -> None:
    """A line of the key beside the curves."""
    y = 44 + 24 * row
    draw.rectangle([SHARP * side for side in (470, y - 5, 482, y + 5)], fill=ink)
    _text(draw, (490, y), fit(name, 13 * SHARP, 100 * SHARP), INK, "lm")
    _text(draw, (632, y), f"{mean:.3f}", FAINT, "rm")


def _text(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, ink: Any, anchor: str) -> None:
    font = font_for(text, 13 * SHARP) if text else latin(13 * SHARP)
    draw.text((at[0] * SHARP, at[1] * SHARP), text, ink, font=font, anchor=anchor)
