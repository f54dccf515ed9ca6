"""Pictures of a run, drawn with numpy and pillow: image grids, matrices of counts, animations and a time-lapse."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from jaxrec.data.images import open_image
from jaxrec.errors import UserError
from jaxrec.files import write_atomically
from jaxrec.run.show.fonts import fit, font_for, latin, length, shown_name
from jaxrec.run.show.inks import FAINT, INK, RED
from jaxrec.run.show.plots import counts_picture, curves_picture
from jaxrec.run.show.rectangles import with_boxes
from jaxrec.tasks.palette import PALETTE

GAP = 2
LINE = 15
FRAMES = 24
MOMENT, LAST_MOMENT = 150, 1000
"""Milliseconds for which a moment of an animation is shown, and its last one."""
STEP_NAME = re.compile(r"(?P<name>.+)-(?P<step>\d{8,})")

CORRECT, MISTAKEN = np.array([24, 92, 168]), np.array([204, 66, 28])

Artifact = Mapping[str, np.ndarray]


def grid(
    images: np.ndarray, captions: Sequence[Sequence[str]] | None = None, wrong: np.ndarray | None = None
) -> Image.Image:
    """Lays out images in rows, 2 white pixels apart; small ones are enlarged by a whole number.

    Args:
        images: float [R, C, H, W, channels] in [0, 1]; values outside are clipped, NaN is black. Of more than three
            channels the first three are shown, of two the first.
        captions: text under each cell, [R][C]; lines are separated by a newline.
        wrong: bool [R, C]; captions to write in red.

    Returns:
        An RGB picture: cell (r, c) has its corner at (c * (W * scale + 2), r * (H * scale + text + 2)).
    """
    images = np.asarray(images)
    images = images[..., : 3 if images.shape[-1] >= 3 else 1]
    pixels = np.round(np.clip(np.nan_to_num(np.asarray(images, np.float32)), 0, 1) * 255).astype(np.uint8)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:-1], 3))
    scale = max(1, math.ceil((84 if captions else 56) / min(pixels.shape[2:4])))
    pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
    rows, columns, height, width, _ = pixels.shape
    lines = max(text.count("\n") + 1 for row in captions for text in row) if captions else 0
    foot = lines * LINE + 4 if lines else 0
    canvas = np.full((rows, height + foot + GAP, columns, width + GAP, 3), 255, np.uint8)
    canvas[:, :height, :, :width] = pixels.transpose(0, 2, 1, 3, 4)
    picture = Image.fromarray(np.ascontiguousarray(canvas.reshape(-1, columns * (width + GAP), 3)[:-GAP, :-GAP]))
    draw = ImageDraw.Draw(picture)
    for r, row in enumerate(captions or ()):
        for c, text in enumerate(row):
            ink = RED if wrong is not None and wrong[r, c] else INK
            x, y = c * (width + GAP) + width / 2, r * (height + foot + GAP) + height + 2
            for number, line in enumerate(text.split("\n")):
                shown = fit(line, 12, width)
                # From the base line: fonts of two scripts begin at two heights.
                draw.text((x, y + number * LINE + 12), shown, ink, font=font_for(shown, 12), anchor="ms")
    return picture


def shades(matrix: np.ndarray) -> np.ndarray:
    """Color of each cell of a matrix of counts, uint8 [K, K, 3]: the darker, the larger its share of its row.

    Blue on the diagonal and red off it; the square root keeps a few mistakes among thousands visible.
    """
    counts = np.asarray(matrix, np.float64)
    share = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[..., None]
    hue = np.where(np.eye(len(counts), dtype=bool)[..., None], CORRECT, MISTAKEN)
    return np.round(250 + (hue - 250) * share).astype(np.uint8)


def matrix_picture(matrix: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """Draws how often each true class (a row) was predicted as each class (a column): int [K, K].

    Counts and class names are written for up to 20 classes; beyond, the shades speak alone.
    """
    count = len(matrix)
    cell = max(44, 640 // count) if count <= 20 else max(1, 800 // count)
    tiles = shades(matrix).repeat(cell, axis=0).repeat(cell, axis=1)
    if count > 20:
        return Image.fromarray(tiles)
    if cell > GAP:
        tiles.reshape(count, cell, count, cell, 3)[:, -1:, :, :] = 255
        tiles.reshape(count, cell, count, cell, 3)[:, :, :, -1:] = 255
    size = 20 if cell >= 56 else 16
    names = [fit(shown_name(index, class_names), size, 170) for index in range(count)]
    margin = 50 + math.ceil(max(length(name, size) for name in names))
    picture = Image.new("RGB", (margin + count * cell, margin + count * cell), "white")
    picture.paste(Image.fromarray(tiles), (margin, margin))
    draw = ImageDraw.Draw(picture)
    middle = margin + count * cell / 2
    draw.text((middle, 6), "predicted", FAINT, font=latin(size), anchor="ma")
    _sideways(picture, "true", size, FAINT, (6, middle))
    short = all(length(name, size) < cell - 4 for name in names)
    for index, name in enumerate(names):
        place = margin + (index + 0.5) * cell
        draw.text((margin - 10, place), name, INK, font=font_for(name, size), anchor="rm")
        if short:
            draw.text((place, margin - 10), name, INK, font=font_for(name, size), anchor="md")
        else:
            _sideways(picture, name, size, INK, (place - size * 0.65, None, margin - 8))
    for row, column in np.argwhere(np.asarray(matrix) > 0):
        at = (margin + (column + 0.5) * cell, margin + (row + 0.5) * cell)
        ink = "white" if tiles[row * cell, column * cell].mean() < 160 else INK
        text = f"{matrix[row, column]}"
        largest = min(size, int(size * (cell - 6) / latin(size).getlength(text)))
        draw.text(at, text, ink, font=latin(max(largest, 8)), anchor="mm")
    return picture


def indexed(numbers: np.ndarray) -> Image.Image:
    """Class numbers int [H, W] as a palette picture: its pixels are the numbers, shown in colors.

    Numbers above 255 make it a grey picture of 16 bits.
    """
    if np.max(numbers, initial=0) > 255:
        return Image.fromarray(np.asarray(numbers, np.uint16))
    picture = Image.fromarray(np.asarray(numbers, np.uint8), mode="P")
    picture.putpalette(PALETTE.tobytes())
    return picture


def _sideways(picture: Image.Image, text: str, size: int, ink: tuple[int, int, int], at: tuple) -> None:
    """Writes text turned to read upwards at (left, middle), or at (left, None, bottom)."""
    strip = Image.new("RGB", (max(1, math.ceil(length(text, size))), math.ceil(size * 1.3)), "white")
    ImageDraw.Draw(strip).text((0, size), text, ink, font=font_for(text, size), anchor="ls")
    strip = strip.rotate(90, expand=True)
    top = at[2] - strip.height if at[1] is None else at[1] - strip.height / 2
    picture.paste(strip, (round(at[0]), round(top)))


def _captions(artifact: Artifact, class_names: Sequence[str]) -> tuple[list[list[str]] | None, np.ndarray | None]:
    """What to write under each cell, and which cells were predicted wrongly, from a grid's optional arrays.

    Integers are classes, which are right or wrong. Floats are quantities, of which none is told to be wrong.
    """
    label, prediction, confidence = (artifact.get(key) for key in ("label", "prediction", "confidence"))
    shown = prediction if prediction is not None else label
    if shown is None:
        return None, None
    wrong = None
    if prediction is not None and label is not None and _are_classes(prediction) and _are_classes(label):
        wrong = prediction != label

    def caption(cell: tuple[int, ...]) -> str:
        said = text = _written(shown, cell, class_names)
        if confidence is not None:
            text += f" {confidence[cell]:.0%}"
        truth = said if label is None else _written(label, cell, class_names)
        if truth != said:
            text += f"\nis {truth}"
        return text

    return [[caption((r, c)) for c in range(shown.shape[1])] for r in range(shown.shape[0])], wrong


def _are_classes(values: np.ndarray) -> bool:
    return values.dtype.kind in "iub"


def _written(values: np.ndarray, cell: tuple[int, ...], class_names: Sequence[str]) -> str:
    """The name of a class, or a quantity with three digits."""
    if _are_classes(values):
        return shown_name(int(values[cell]), class_names)
    return f"{float(values[cell]):.3g}"


def drawn(name: str, artifact: Artifact, class_names: Sequence[str]) -> Image.Image:
    """One of the artifacts of :func:`save_artifacts` as a picture; raises ValueError if it is none of them."""
    if "boxes" in artifact:
        (shown,) = [key for key in ("images", "picture") if key in artifact]
        artifact = {**artifact, shown: with_boxes(np.asarray(artifact[shown]), artifact, class_names)}
    if "indices" in artifact:
        return indexed(artifact["indices"])
    if "picture" in artifact:
        return Image.fromarray(np.round(np.clip(artifact["picture"], 0, 1) * 255).astype(np.uint8))
    if "matrix" in artifact:
        return matrix_picture(artifact["matrix"], class_names)
    if "curves" in artifact:
        return curves_picture(artifact, class_names)
    if "counts" in artifact:
        return counts_picture(artifact["counts"], class_names)
    if "images" in artifact:
        return grid(artifact["images"], *_captions(artifact, class_names))
    raise ValueError(
        f"artifact '{name}' holds {sorted(artifact)}; expected 'images', 'picture', 'matrix', 'indices', 'curves' or "
        "'counts'"
    )


def save_artifacts(
    folder: Path,
    artifacts: Mapping[str, Artifact],
    class_names: Sequence[str],
    step: int | None = None,
    kept: Sequence[str] = (),
) -> list[str]:
    """Draws what a system shows and writes each picture, whole or not at all, as ``folder/NAME.png``.

    Returns the names of the files: ``NAME.gif`` of an animation.

    Args:
        folder: the run's pictures; made if missing.
        artifacts: by name, {"images": float [R, C, H, W, ch], "label", "prediction", "confidence": [R, C], optional}
            (classes if "label" and "prediction" are integers, quantities if they are floats) or
            {"matrix": int [K, K]}; or, written as they are, {"picture": float [H, W, 3]} in [0, 1] or
            {"indices": int [H, W]} with colors for the numbers. "images" and "picture" may come with "boxes" and
            what :func:`jaxrec.run.show.rectangles.with_boxes` takes beside them, of each cell [R, C, ...] or of the
            picture [...]. Plots are {"curves", "at", "axes"}, see
            :func:`jaxrec.run.show.plots.curves_picture`, and {"counts"}, see
            :func:`jaxrec.run.show.plots.counts_picture`. An animation is {"frames": float [T, R, C, H, W, ch]}, at
            each moment a grid of images.
        class_names: names of the classes; missing ones are written as numbers.
        step: the step that the artifacts are of.
        kept: names of those that are also kept as ``NAME-00000200.png``, by their step.

    Raises:
        ValueError: an artifact is none of these.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, artifact in artifacts.items():
        if "frames" in artifact:
            moments = [grid(images) for images in artifact["frames"]]
            waits = [MOMENT] * (len(moments) - 1) + [LAST_MOMENT]
            write_atomically(folder / f"{name}.gif", animation(moments, waits))
            written.append(f"{name}.gif")
            continue
        picture = drawn(name, artifact, class_names)
        data = io.BytesIO()
        picture.save(data, "PNG", compress_level=3)  # a third sooner than pillow's own 6, and a sixth larger
        write_atomically(folder / f"{name}.png", data.getvalue())
        if step is not None and name in kept:
            write_atomically(folder / f"{name}-{step:08d}.png", data.getvalue())
        written.append(f"{name}.png")
    return written


def animation(frames: Sequence[Image.Image], waits: Sequence[int]) -> bytes:
    """A GIF of pictures of one size, each shown for so many milliseconds, over and over."""
    # One palette for all frames: a palette of its own for each would flicker.
    palette = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames])).quantize(64)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    data = io.BytesIO()
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=list(waits), loop=0)
    return data.getvalue()


def timeline(folder: Path, name: str) -> Path | None:
    """Joins the kept ``NAME-STEP.png`` into ``NAME.gif``, at most 24 frames, first and last among them.

    Returns:
        The animation's path, or None if fewer than two steps were kept.
    """
    found = [(match, path) for path in folder.glob("*.png") if (match := STEP_NAME.fullmatch(path.stem))]
    kept = sorted((int(match["step"]), path) for match, path in found if match["name"] == name)
    if len(kept) < 2:
        return None
    frames = []
    for index in np.linspace(0, len(kept) - 1, min(len(kept), FRAMES)).round().astype(int):
        step, path = kept[index]
        try:
            with open_image(path) as opened:
                picture = opened.convert("RGB")
        except UserError:  # damaged since
            continue
        # Two dozen larger frames would outgrow what the report embeds.
        picture.thumbnail((288, 288), Image.Resampling.BOX)
        frame = Image.new("RGB", (picture.width, picture.height + 20), "white")
        frame.paste(picture, (0, 0))
        ImageDraw.Draw(frame).text((2, picture.height + 3), f"step {step}", INK, font=latin(13))
        frames.append(frame)
    if len(frames) < 2:
        return None
    waits = [250] * (len(frames) - 1) + [2500]
    write_atomically(folder / f"{name}.gif", animation(frames, waits))
    return folder / f"{name}.gif"
