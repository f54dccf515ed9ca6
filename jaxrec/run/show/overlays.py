"""Explanations laid over images, and the page that shows them."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxrec.data import class_names
from jaxrec.run.explained import Explained, Explainer
from jaxrec.run.show.gallery import embedded
from jaxrec.run.show.page import page, table
from jaxrec.run.show.pictures import grid
from jaxrec.tasks.inputs import frames

FOR, AGAINST = np.array([0.85, 0.2, 0.1]), np.array([0.1, 0.4, 0.75])
"""The colors of what speaks for a score and against it."""
EDGE = np.array([1.0, 0.85, 0.1])
"""The color of the line around what an explanation is about."""
FRAMES = 8
"""Frames of a clip that are shown, at most."""
STRONGEST = 99.5
"""Percentile of the absolute values that is shown in full color: a few higher ones would leave all others pale."""
SHOWN = 100
"""Images on the page."""


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """An image [H, W, 3] in [0, 1], grey and pale, with what speaks for the score in red and against it in blue."""
    grey = 0.45 + 0.55 * image.mean(-1, keepdims=True)
    strongest = np.percentile(np.abs(values), STRONGEST) or np.abs(values).max() or 1.0
    share = np.clip(np.abs(values) / strongest, 0, 1)[..., None]
    color = np.where(values[..., None] > 0, FOR, AGAINST)
    return (1 - share) * grey + share * color


def outlined(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """An image [H, W, 3] with a line around the region bool [H, W], inside it."""
    padded = np.pad(region, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.where((region & ~inner)[..., None], EDGE, image)


def region_of(target: Mapping[str, np.ndarray], size: tuple[int, int]) -> np.ndarray | None:
    """The part bool [H, W] of an image that its target names by ``where`` or ``box``; None if it names none."""
    if "where" in target:
        return target["where"]
    if "box" not in target:
        return None
    y, x = np.arange(size[0])[:, None] + 0.5, np.arange(size[1]) + 0.5
    y0, x0, y1, x1 = target["box"]
    return (y >= y0) & (y < y1) & (x >= x0) & (x < x1)


def sheet(
    image: np.ndarray, target: Mapping[str, np.ndarray], maps: Mapping[str, np.ndarray], caption: str
) -> Image.Image:
    """An image, or in each row some frames of a clip, beside its explanations by the names of the methods.

    Args:
        image: float [H, W, C] or [T, H, W, C] in [0, 1].
        target: what is explained of it.
        maps: float [H, W] or [T, H, W] by method.
        caption: what is written under the image.
    """
    moments = image if image.ndim == 4 else image[None]
    chosen = np.linspace(0, len(moments) - 1, min(len(moments), FRAMES)).round().astype(int)
    region = region_of(target, image.shape[-3:-1])
    rows = []
    for number in chosen.tolist():
        shown = np.broadcast_to(moments[number][..., :3], (*moments.shape[1:3], 3))
        first = shown if region is None else outlined(shown, region)
        layers = [values if image.ndim == 3 else values[number] for values in maps.values()]
        rows.append([first, *(overlay(shown, layer) for layer in layers)])
    captions = [[caption, *maps]] + [[""] * (1 + len(maps))] * (len(rows) - 1)
    return grid(np.array(rows), captions)


def draw_explained(
    explainer: Explainer, shown: Sequence[np.ndarray], found: Explained, place: int, path: Path
) -> dict[str, str]:
    """Writes the picture of one explained image or clip; returns the ``class`` that it is about, and its ``score``.

    Args:
        explainer: that explained it.
        shown: images [N, H, W, C], or clips [N, T, H, W, C] and their lengths [N].
        found: what the explainer gave for them.
        place: the number of the one among the N.
        path: of the picture.
    """
    names = class_names(explainer.trained.features)
    target = {name: values[place] for name, values in found.target.items()}
    number = int(target["class"])
    told = {"class": "nothing found"}
    if number >= 0:
        told = {"class": names[number] if names else str(number), "score": f"{found.score[place]:.4g}"}
    maps = {method: values[place] * (number >= 0) for method, values in found.maps.items()}
    image = np.asarray(frames(shown[0][place : place + 1]))[0]
    if len(shown) > 1:
        image = image[: shown[1][place]]
    sheet(image, target, maps, told["class"]).save(path)
    return told


def write_page(path: Path, title: str, rows: Sequence[Mapping[str, Any]], summary: Sequence[Sequence[Any]]) -> None:
    """Writes a page of its own with the pictures of the first 100 rows, each a dict with ``picture``, and what is told.

    ``summary`` are rows of a method and its measures, below their heading; empty if nothing was measured.
    """
    body = [f"<h1>{escape(title)}</h1>", f'<p class="note">{escape(LEGEND)}</p>']
    if summary:
        body.append(table(summary[0], summary[1:]))
    for row in rows[:SHOWN]:
        found = embedded(path.parent / row["picture"])
        data = base64.b64encode(found.data).decode("ascii")
        told = ", ".join(f"{name} {value}" for name, value in row.items() if name != "picture")
        body.append(
            f'<figure class="full"><img alt="{escape(row["picture"])}" src="data:image/{found.kind};base64,{data}">'
            f"<figcaption>{escape(told)}</figcaption></figure>"
        )
    if len(rows) > SHOWN:
        body.append(f'<p class="note">The first {SHOWN} of {len(rows)} are shown.</p>')
    path.write_bytes(page(title, body))


LEGEND = "Red speaks for what is explained, blue against it. A yellow line is around what it is about."
