"""Charts as SVG that is readable on light and dark pages."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle

import numpy as np

from jaxrec.run.show.inks import STROKES

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 250, 56, 12, 12, 26
MOST_POINTS = 400
"""Points of a series that are drawn."""

History = Mapping[str, Sequence[tuple[int, float]]]


def ticks(low: float, high: float) -> list[float]:
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
    series = drawn_points(history)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="12"'
    head += ' font-family="system-ui, sans-serif" fill="currentColor"'
    if not series:
        return f'{head}><text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no finite values</text></svg>'
    values = [value for points in series.values() for _, value in points]
    steps = [step for points in series.values() for step, _ in points]
    low, high = min(values), max(values)
    log = low > 0 and high / low > 100
    scaled = math.log10 if log else float
    x0, x1 = _widen(min(steps), max(steps), 0.0)
    y0, y1 = _widen(scaled(low), scaled(high), 0.04)

    def across(step: float) -> float:
        return LEFT + (step - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    known = []
    for name, points in series.items():
        # Fewer digits make a smaller page.
        known.append((name, [(step, float(f"{value:.5g}")) for step, value in points]))
    frame = (x0, x1, LEFT, WIDTH - RIGHT, WIDTH)
    parts = [f'{head} data-range="{escape(json.dumps(frame))}" data-series="{escape(json.dumps(known))}">']
    for tick in _decades(y0, y1) if log else ticks(y0, y1):
        text, y = _number(10**tick if log else tick), up(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".14"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill-opacity=".7">{text}</text>')
    for tick in ticks(x0, x1):
        x = across(tick)
        place = f'x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{_anchor(x)}"'
        parts.append(f'<text {place} fill-opacity=".7">{_number(tick)}</text>')
    parts.append(f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".5"/>')
    parts.append(f'<text x="{LEFT - 6}" y="{HEIGHT - 8}" text-anchor="end" fill-opacity=".7">step</text>')
    if log:
        parts.append(f'<text x="{WIDTH - RIGHT}" y="10" text-anchor="end" fill-opacity=".7">log scale</text>')
    for (name, points), color in zip(series.items(), cycle(STROKES), strict=False):
        places = [(across(step), up(scaled(value))) for step, value in points]
        parts.append(_line(name, points, places, color))
    parts.append('<path class="at" d="" stroke="currentColor" stroke-opacity=".4"/>')
    return "".join([*parts, "</svg>"])


def _anchor(x: float) -> str:
    """Which part of a tick's number stands at the tick: at either end of the axis, it must not be cut off."""
    if x > WIDTH - RIGHT - 14:
        return "end"
    if x < LEFT + 14:
        return "start"
    return "middle"


def drawn_points(history: History) -> dict[str, list[tuple[int, float]]]:
    """The finite points of each series in order of steps, at most 400, the first and the last among them."""
    series = {}
    for name, points in history.items():
        finite = sorted((step, value) for step, value in points if math.isfinite(value))
        picked = np.linspace(0, len(finite) - 1, min(len(finite), MOST_POINTS)).round().astype(int)
        if finite:
            series[name] = [finite[index] for index in picked]
    return series


def chart(title: str, note: str, history: History) -> str:
    """A figure: title, a note beside it, a key with the last value of each series, the curves, and a line for values.

    The page's script shows the values under the pointer in that line.
    """
    keys = []
    for (name, points), color in zip(drawn_points(history).items(), cycle(STROKES), strict=False):
        last = f"{name} {points[-1][1]:.4g}"
        keys.append(f'<span><span class="dot" style="background:{color}"></span>{escape(last)}</span>')
    beside = f" <span>{escape(note)}</span>" if note else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{beside}</figcaption><div class="key">{"".join(keys)}</div>'
        f'{curves(history)}<p class="values"></p></figure>'
    )


def _line(name: str, points: list[tuple[int, float]], places: list[tuple[float, float]], color: str) -> str:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    style = f'fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round"'
    parts = [f'<polyline points="{line}" {style}/>']
    if len(points) > 30:
        return parts[0]
    for (x, y), (step, value) in zip(places, points, strict=True):
        label = f"<title>{escape(name)}, step {step}: {value:.4g}</title>"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}">{label}</circle>')
    return "".join(parts)


def _widen(low: float, high: float, share: float) -> tuple[float, float]:
    """The range with ``share`` of its width added at both ends; a range of one value gets some width."""
    room = (high - low) * share if high > low else max(abs(low) * 0.1, 1e-3)
    return low - room, high + room
