"""A run's pictures in its page: embedded, as small as need be, with a link to the file."""

import base64
import csv
import io
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image, ImageSequence

from jaxrec.data.images import open_image
from jaxrec.errors import UserError
from jaxrec.run.show.page import folded, table, text
from jaxrec.run.show.pictures import STEP_NAME

AS_IT_IS = 150_000
"""Bytes up to which a picture is embedded as its file is."""
EMBEDDED = 400_000
"""Bytes up to which a smaller copy of a picture is tried; the smallest copy is taken in any case."""
COPIES = ((1600, 80), (1200, 70), (800, 60), (400, 50), (200, 40), (120, 30))
"""Width in pixels and quality of the copies, one after the other."""
TALLEST = 4
"""Times its width that a copy may be high."""


MISTAKES = "worst_mistakes.csv"
"""The table of the examples of highest loss, beside the pictures."""


class Embedded(NamedTuple):
    """What the page shows of a picture."""

    kind: str
    data: bytes
    width: int
    height: int
    """The size in pixels of the file."""


def embedded(path: Path) -> Embedded:
    """A picture as it is if its file is small, else a copy of at most about 400 kB as WebP; raises UserError."""
    with open_image(path) as picture:
        size = picture.size
        if path.stat().st_size <= AS_IT_IS:
            return Embedded(path.suffix[1:], path.read_bytes(), *size)
        data = b""
        for width, quality in COPIES:
            data = _copy(picture, width, quality)
            if len(data) <= EMBEDDED:
                break
    return Embedded("webp", data, *size)


def _copy(picture: Image.Image, width: int, quality: int) -> bytes:
    frames = []
    for frame in ImageSequence.Iterator(picture):
        small = frame.convert("RGB")
        small.thumbnail((width, TALLEST * width), Image.Resampling.BOX)
        frames.append(small)
    data = io.BytesIO()
    waits = picture.info.get("duration", 0) or 250
    more = {"save_all": True, "append_images": frames[1:], "duration": waits, "loop": 0} if len(frames) > 1 else {}
    frames[0].save(data, "WEBP", quality=quality, **more)
    return data.getvalue()


def gallery(folder: Path, captions: Mapping[str, str]) -> str:
    """Figures of all pictures in a folder, in the order of the captions."""
    figures = list(_figures(folder, captions))
    if not figures:
        return '<p class="note">No pictures have been drawn yet.</p>'
    return "\n".join(['<div class="columns">', *figures, "</div>"])


def _figures(folder: Path, captions: Mapping[str, str]) -> Iterator[str]:
    paths = [path for path in folder.glob("*.*") if path.suffix in (".png", ".gif")]
    paths = [path for path in paths if not STEP_NAME.fullmatch(path.stem)]
    known = list(captions)

    def place(path: Path) -> tuple[int, str]:
        named = [name for name in (path.name, path.stem) if name in known]
        return (known.index(named[0]) if named else len(known), path.name)

    paths.sort(key=place)
    for path in paths:
        caption = captions.get(path.name) or captions.get(path.stem) or f"{path.stem.replace('_', ' ').capitalize()}."
        try:
            shown = embedded(path)
        except UserError as error:
            yield f"<figure><figcaption>{escape(str(error))}</figcaption></figure>"
            continue
        yield _figure(path, shown, caption)


def _figure(path: Path, shown: Embedded, caption: str) -> str:
    span = ' class="full"' if shown.width > 1.5 * shown.height else ""
    data = base64.b64encode(shown.data).decode("ascii")
    image = (
        f'<img alt="{escape(path.stem)}" width="{shown.width}" height="{shown.height}" '
        f'src="data:image/{shown.kind};base64,{data}">'
    )
    link = f"pictures/{escape(quote(path.name))}"
    return (
        f'<figure{span}><a href="{link}">{image}</a>'
        f'<figcaption>{escape(caption)} <a href="{link}">Full size</a></figcaption></figure>'
    )


def mistakes(folder: Path) -> str:
    """The table of the worst examples, folded; nothing if none was written."""
    path = folder / MISTAKES
    if not path.is_file():
        return ""
    head, *rows = list(csv.reader(path.read_text("utf-8", errors="replace").splitlines())) or [[]]
    shown = [[_short(cell) for cell in row] for row in rows]
    link = f'<p class="note"><a href="pictures/{MISTAKES}">{MISTAKES}</a></p>'
    return folded(f"The {len(rows)} examples of highest loss", link + table(head, shown))


def _short(cell: str) -> str:
    """A number to 4 digits; anything else as it is."""
    try:
        return text(float(cell)) if "." in cell or "e" in cell else cell
    except ValueError:
        return cell
