"""Boxes on pictures: rectangles with the names of their classes and their scores."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxrec.run.show.fonts import fit, font_for, length, shown_name
from jaxrec.run.show.inks import RED, class_ink

SMALLEST = 240
"""Pixels of the shorter side from which on rectangles and names can be told apart."""
OTHERS = ("box_classes", "box_scores", "box_wrong")
"""What is told of each of the ``boxes`` of a picture."""

Tag = tuple[str, str | tuple[int, int, int]]
"""What is written at a box, and its color."""


def with_boxes(images: np.ndarray, artifact: Mapping[str, np.ndarray], class_names: Sequence[str]) -> np.ndarray:
    """The images with their boxes drawn on them; small ones are enlarged by a whole number first.

    Args:
        images: float [..., H, W, channels] in [0, 1]; of more than three channels the first three are shown, of two
            the first.
        artifact: ``boxes`` float [..., K, 4], y0, x0, y1, x1 in pixels of the images, and ``box_classes`` int [..., K],
            -1 for no box; optional are ``box_scores`` float [..., K], nan for a box without one, and ``box_wrong``
            bool [..., K], for boxes to be drawn in red. The first box lies on top.
        class_names: names of the classes; missing ones are written as numbers.

    Returns:
        float32 [..., H * scale, W * scale, 3].
    """
    leading, shape = images.shape[:-3], images.shape[-3:]
    scale = max(1, math.ceil(SMALLEST / min(shape[:2])))
    each = {name: np.asarray(artifact[name]) for name in ("boxes", *OTHERS) if name in artifact}
    # Counted, since arrays of no box at all do not tell how many images they are of.
    count = math.prod(leading)
    flat = {name: values.reshape(count, *values.shape[len(leading) :]) for name, values in each.items()}
    drawn = []
    for number, image in enumerate(np.asarray(images, np.float32).reshape(-1, *shape)):
        picture = _picture(image, scale)
        _draw(picture, {name: values[number] for name, values in flat.items()}, class_names, scale)
        drawn.append(np.asarray(picture, np.float32) / 255)
    return np.stack(drawn).reshape(*leading, *drawn[0].shape)


def _picture(image: np.ndarray, scale: int) -> Image.Image:
    image = image[..., : 3 if image.shape[-1] >= 3 else 1]
    pixels = np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return Image.fromarray(np.ascontiguousarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1)))


def _draw(picture: Image.Image, cell: Mapping[str, np.ndarray], class_names: Sequence[str], scale: int) -> None:
    """Draws the boxes of one picture, then their tags, so that no rectangle crosses a name."""
    draw = ImageDraw.Draw(picture)
    line = max(2, min(picture.size) // 200)
    placed: list[tuple[tuple[float, ...], Tag]] = []
    # The last first: what is drawn later lies on top.
    for slot in reversed(range(len(cell["boxes"]))):
        box = np.asarray(cell["boxes"][slot], np.float64) * scale
        if cell["box_classes"][slot] >= 0 and np.isfinite(box).all():
            placed.append((_inside(box, picture.size), _tag(cell, slot, class_names)))
    for (left, top, right, bottom), (_, ink) in placed:
        draw.rectangle((left, top, right, bottom), outline=ink, width=line)
    size = max(11, min(picture.size) // 32)
    for (left, top, *_), (text, ink) in placed:
        _write(draw, picture.size, (left, top), size, (text, ink))


def _inside(box: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the outermost pixels of a box, within a picture of that width and height."""
    y0, x0, y1, x1 = box.tolist()
    width, height = size
    left, top = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return left, top, max(left, min(x1, width) - 1), max(top, min(y1, height) - 1)


def _tag(cell: Mapping[str, np.ndarray], slot: int, class_names: Sequence[str]) -> Tag:
    number = int(cell["box_classes"][slot])
    text = shown_name(number, class_names)
    if "box_scores" in cell and np.isfinite(cell["box_scores"][slot]):
        text += f" {cell['box_scores'][slot]:.2f}"
    wrong = "box_wrong" in cell and bool(cell["box_wrong"][slot])
    return text, RED if wrong else class_ink(number)


def _write(
    draw: ImageDraw.ImageDraw, picture: tuple[int, int], corner: tuple[float, float], size: int, tag: Tag
) -> None:
    """Writes a tag above the box's upper left corner, or below it at the picture's upper border."""
    text = fit(tag[0], size, picture[0] - 4)
    width, height = length(text, size) + 4, size + 3
    left = min(corner[0], picture[0] - width)
    top = corner[1] - height if corner[1] >= height else corner[1]
    draw.rectangle((left, top, left + width, top + height), fill=tag[1])
    draw.text((left + 2, top + size), text, "white", font=font_for(text, size), anchor="ls")
