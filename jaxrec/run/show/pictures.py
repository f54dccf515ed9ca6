"""Pictures of a run, drawn with numpy and pillow: image grids, matrices of counts, curves and a time-lapse."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxrec.data.images import open_image
from jaxrec.errors import UserError
from jaxrec.files import write_atomically
from jaxrec.tasks.palette import PALETTE

GAP = 2
LINE = 15
FRAMES = 24
STEP_NAME = re.compile(r"(?P<name>.+)-(?P<step>\d{8,})")

INK, RED, FAINT = (32, 36, 42), (200, 30, 30), (110, 116, 124)
CORRECT, MISTAKEN = np.array([24, 92, 168]), np.array([204, 66, 28])
# Middle tones, so that one string is readable on a light and on a dark page.
STROKES = ("#2b7de0", "#e07b00", "#17965a", "#c0449a", "#8a63d2", "#80868b")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 250, 56, 12, 28, 26

Artifact = Mapping[str, np.ndarray]
History = Mapping[str, Sequence[tuple[int, float]]]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _fit(text: str, size: int, width: float) -> str:
    """``text``, shortened with dots until it is at most ``width`` pixels wide."""
    if _font(size).getlength(text) <= width:
        return text
    while text and _font(size).getlength(text + "..") > width:
        text = text[:-1]
    return text + ".."


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
                draw.text((x, y + number * LINE), _fit(line, 12, width), ink, font=_font(12), anchor="ma")
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
    names = [_fit(_name(index, class_names), size, 170) for index in range(count)]
    margin = 50 + math.ceil(max(_font(size).getlength(name) for name in names))
    picture = Image.new("RGB", (margin + count * cell, margin + count * cell), "white")
    picture.paste(Image.fromarray(tiles), (margin, margin))
    draw = ImageDraw.Draw(picture)
    middle = margin + count * cell / 2
    draw.text((middle, 6), "predicted", FAINT, font=_font(size), anchor="ma")
    _sideways(picture, "true", size, FAINT, (6, middle))
    short = all(_font(size).getlength(name) < cell - 4 for name in names)
    for index, name in enumerate(names):
        place = margin + (index + 0.5) * cell
        draw.text((margin - 10, place), name, INK, font=_font(size), anchor="rm")
        if short:
            draw.text((place, margin - 10), name, INK, font=_font(size), anchor="md")
        else:
            _sideways(picture, name, size, INK, (place - size * 0.65, None, margin - 8))
    for row, column in np.argwhere(np.asarray(matrix) > 0):
        at = (margin + (column + 0.5) * cell, margin + (row + 0.5) * cell)
        ink = "white" if tiles[row * cell, column * cell].mean() < 160 else INK
        text = f"{matrix[row, column]}"
        fit = min(size, int(size * (cell - 6) / _font(size).getlength(text)))
        draw.text(at, text, ink, font=_font(max(fit, 8)), anchor="mm")
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
    strip = Image.new("RGB", (math.ceil(_font(size).getlength(text)), math.ceil(size * 1.3)), "white")
    ImageDraw.Draw(strip).text((0, 0), text, ink, font=_font(size))
    strip = strip.rotate(90, expand=True)
    top = at[2] - strip.height if at[1] is None else at[1] - strip.height / 2
    picture.paste(strip, (round(at[0]), round(top)))


def _name(index: int, class_names: Sequence[str]) -> str:
    return str(class_names[index]) if 0 <= index < len(class_names) else str(index)


def _captions(artifact: Artifact, class_names: Sequence[str]) -> tuple[list[list[str]] | None, np.ndarray | None]:
    """What to write under each cell, and which cells were predicted wrongly, from a grid's optional arrays."""
    label, prediction, confidence = (artifact.get(key) for key in ("label", "prediction", "confidence"))
    shown = prediction if prediction is not None else label
    if shown is None:
        return None, None
    wrong = prediction != label if prediction is not None and label is not None else None

    def caption(cell: tuple[int, ...]) -> str:
        text = _name(int(shown[cell]), class_names)
        if confidence is not None:
            text += f" {confidence[cell]:.0%}"
        if label is not None and label[cell] != shown[cell]:
            text += f"\nis {_name(int(label[cell]), class_names)}"
        return text

    return [[caption((r, c)) for c in range(shown.shape[1])] for r in range(shown.shape[0])], wrong


def save_artifacts(
    folder: Path,
    artifacts: Mapping[str, Artifact],
    class_names: Sequence[str],
    step: int | None = None,
    kept: Sequence[str] = (),
) -> None:
    """Draws what a system shows and writes each picture, whole or not at all, as ``folder/NAME.png``.

    Args:
        folder: the run's pictures; made if missing.
        artifacts: by name, {"images": float [R, C, H, W, ch], "label", "prediction", "confidence": [R, C], optional}
            or {"matrix": int [K, K]}; or, written as they are, {"picture": float [H, W, 3]} in [0, 1] or
            {"indices": int [H, W]} with colors for the numbers.
        class_names: names of the classes; missing ones are written as numbers.
        step: the step that the artifacts are of.
        kept: names of those that are also kept as ``NAME-00000200.png``, by their step.

    Raises:
        ValueError: an artifact is neither a grid nor a matrix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, artifact in artifacts.items():
        if "indices" in artifact:
            picture = indexed(artifact["indices"])
        elif "picture" in artifact:
            picture = Image.fromarray(np.round(np.clip(artifact["picture"], 0, 1) * 255).astype(np.uint8))
        elif "matrix" in artifact:
            picture = matrix_picture(artifact["matrix"], class_names)
        elif "images" in artifact:
            picture = grid(artifact["images"], *_captions(artifact, class_names))
        else:
            raise ValueError(
                f"artifact '{name}' holds {sorted(artifact)}; expected 'images', 'matrix', 'picture' or 'indices'"
            )
        data = io.BytesIO()
        picture.save(data, "PNG", compress_level=3)  # a third sooner than pillow's own 6, and a sixth larger
        write_atomically(folder / f"{name}.png", data.getvalue())
        if step is not None and name in kept:
            write_atomically(folder / f"{name}-{step:08d}.png", data.getvalue())


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
        ImageDraw.Draw(frame).text((2, picture.height + 3), f"step {step}", INK, font=_font(13))
        frames.append(frame)
    if len(frames) < 2:
        return None
    # One palette for all frames: a palette of its own for each would flicker.
    palette = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames])).quantize(64)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    data = io.BytesIO()
    waits = [250] * (len(frames) - 1) + [2500]
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=waits, loop=0)
    write_atomically(folder / f"{name}.gif", data.getvalue())
    return folder / f"{name}.gif"


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers (1, 2 or 5 times a power of ten apart) between ``low`` and ``high``."""
    rough = (high - low) / 4
    unit = 10 ** math.floor(math.log10(rough))
    gap = unit * min((1, 2, 5, 10), key=lambda factor: abs(math.log(factor * unit / rough)))
    first, last = math.ceil(low / gap - 1e-9), math.floor(high / gap + 1e-9)
    return [float(f"{number * gap:.12g}") for number in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Exponents of the powers of ten between two exponents, thinned to about six."""
    exponents = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    return [float(exponent) for exponent in exponents[:: math.ceil(len(exponents) / 6)]]


def _number(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1000 * size and abs(value) >= 1e4:
            return f"{value / size:.4g}{letter}"
    return f"{value:.6g}"


def curves(history: History) -> str:
    """Draws named series of (step, value) as one SVG string that is readable on light and dark pages.

    Values that are not finite are left out. The vertical axis is logarithmic if all values are positive and the largest
    is over 100 times the smallest. At most 400 points of a series are drawn, its first and last among them; a series of
    up to 30 points also has its points marked.
    """
    series = {}
    for name, points in history.items():
        finite = sorted((step, value) for step, value in points if math.isfinite(value))
        picked = np.linspace(0, len(finite) - 1, min(len(finite), 400)).round().astype(int)
        if finite:
            series[name] = [finite[index] for index in picked]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="12"'
    head += ' font-family="system-ui, sans-serif" fill="currentColor">'
    if not series:
        return f'{head}<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no finite values</text></svg>'
    values = [value for points in series.values() for _, value in points]
    steps = [step for points in series.values() for step, _ in points]
    log = min(values) > 0 and max(values) / min(values) > 100
    x0, x1 = _widen(min(steps), max(steps), 0)
    y0, y1 = _widen(
        math.log10(min(values)) if log else min(values), math.log10(max(values)) if log else max(values), 0.04
    )

    def across(step: float) -> float:
        return LEFT + (step - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [head]
    for tick in _decades(y0, y1) if log else _ticks(y0, y1):
        text, y = _number(10**tick if log else tick), up(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".14"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill-opacity=".7">{text}</text>')
    for tick in _ticks(x0, x1):
        anchor = "end" if across(tick) > WIDTH - RIGHT - 14 else "start" if across(tick) < LEFT + 14 else "middle"
        place = f'x="{across(tick):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}"'
        parts.append(f'<text {place} fill-opacity=".7">{_number(tick)}</text>')
    parts.append(f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".5"/>')
    parts.append(f'<text x="{LEFT - 6}" y="{HEIGHT - 8}" text-anchor="end" fill-opacity=".7">step</text>')
    if log:
        parts.append(f'<text x="{WIDTH - RIGHT}" y="16" text-anchor="end" fill-opacity=".7">log scale</text>')
    legend = float(LEFT)
    for (name, points), colour in zip(series.items(), cycle(STROKES), strict=False):
        parts.append(_line(name, points, [(across(x), up(math.log10(y) if log else y)) for x, y in points], colour))
        text = f"{name} {points[-1][1]:.4g}"
        parts.append(f'<circle cx="{legend + 5:.0f}" cy="12" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{legend + 15:.0f}" y="16">{escape(text)}</text>')
        legend += 33 + _font(12).getlength(text) * 1.1
    return "".join([*parts, "</svg>"])


def _line(name: str, points: list[tuple[int, float]], places: list[tuple[float, float]], colour: str) -> str:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"'
    parts = [f'<polyline points="{line}" {style}/>']
    for (x, y), (step, value) in zip(places, points, strict=True) if len(points) <= 30 else ():
        label = f"<title>{escape(name)}, step {step}: {value:.4g}</title>"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">{label}</circle>')
    return "".join(parts)


def _widen(low: float, high: float, share: float) -> tuple[float, float]:
    """The range with ``share`` of its width added at both ends; a range of one value gets some width."""
    room = (high - low) * share or (0.0 if high > low else max(abs(low) * 0.1, 1e-3))
    return low - room, high + room
