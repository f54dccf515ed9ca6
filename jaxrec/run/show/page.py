"""What all pages share: their style, the script that shows values under the pointer, and tables."""

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2126; --soft: #5d6570; --line: #dde1e6; --tint: #f4f6f8;
  --accent: #2b7de0; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e8eb; --soft: #9aa3ad; --line: #30363d;
  --tint: #1d2227; --accent: #62a3f0; } img { filter: brightness(.9); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
a { color: var(--accent); }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
.verdict { font-size: 1.15rem; margin: .5rem 0 0; overflow-wrap: anywhere; }
.note, figcaption, .values { color: var(--soft); font-size: .9rem; }
.note { margin: .35rem 0 0; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 0; }
.facts div { background: var(--tint); border-radius: 8px; padding: .6rem .9rem; min-width: 8rem; }
.facts dt { color: var(--soft); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem;
  grid-auto-flow: dense; align-items: start; }
figure { margin: 0; min-width: 0; }
figure.full { grid-column: 1 / -1; }
figure svg { display: block; width: 100%; max-width: 34rem; height: auto; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
figcaption { margin-top: .4rem; overflow-wrap: anywhere; }
.chart figcaption { color: var(--ink); font-weight: 600; margin: 0; }
.chart figcaption span { font-weight: 400; color: var(--soft); }
.key { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .85rem; margin: .15rem 0 .3rem; min-width: 0;
  overflow-wrap: anywhere; }
.dot { display: inline-block; width: .65rem; height: .65rem; border-radius: 50%; margin-right: .35rem; }
.values { margin: 0; min-height: 1.4rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93rem; min-width: 100%; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; overflow-wrap: break-word; max-width: 34rem; }
meter { width: 100%; min-width: 5rem; }
pre { background: var(--tint); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto; font-size: .88rem;
  margin: 0 0 .75rem; }
details { margin-top: 1rem; }
summary { cursor: pointer; font-weight: 600; }
details > .wide, details > .columns { margin-top: .5rem; }
@media (max-width: 500px) { main { padding: 1.25rem 1rem 3rem; } .facts div { min-width: 6.5rem; } }
"""
SCRIPT = """
for (const svg of document.querySelectorAll("svg[data-series]")) {
  const [x0, x1, left, right, width] = JSON.parse(svg.dataset.range);
  const series = JSON.parse(svg.dataset.series);
  const line = svg.querySelector(".at"), values = svg.parentElement.querySelector(".values");
  const near = (points, step) => points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * width;
    const wanted = x0 + (x - left) / (right - left) * (x1 - x0);
    const step = near(series.map(([, points]) => near(points, wanted)), wanted)[0];
    line.setAttribute("d", `M${left + (step - x0) / (x1 - x0) * (right - left)} 8V224`);
    values.textContent = `step ${step}: ` + series.map(([name, points]) => {
      const [at, value] = near(points, step);
      return `${name} ${value}` + (at === step ? "" : ` (step ${at})`);
    }).join(", ");
  });
  svg.addEventListener("pointerleave", () => { line.setAttribute("d", ""); values.textContent = ""; });
}
"""


def page(title: str, body: Iterable[str]) -> bytes:
    """A whole page that loads nothing and runs no script but its own."""
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
        *body,
        f"</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
    ]
    # A name that is not UTF-8 is shown with a sign in place of what cannot be.
    return "\n".join(parts).encode("utf-8", "replace")


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def words(key: str) -> str:
    """The name of a metric or a picture as a person writes it."""
    return key.replace("_", " ")


def text(value: Any) -> str:
    """A value as a person writes it: whole numbers in full, others to 4 significant digits."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 or not math.isfinite(value) else f"{value:,.0f}"
    if is_number(value):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value)) or "none"
    return "none" if value is None else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of texts and numbers."""
    return marked_table(head, ([escape(text(each)) for each in row] for row in rows))


def marked_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are HTML."""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{each}</td>" for each in row)
        body += f"<tr>{cells}</tr>\n"
    return f'<div class="wide"><table>\n<thead><tr>{names}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def folded(title: str, content: str) -> str:
    """Content that a click on its title shows."""
    return f"<details><summary>{escape(title)}</summary>\n{content}</details>"
