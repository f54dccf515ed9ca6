"""Fonts for text in pictures: one that has the letters of a name, whatever its script."""

import shutil
import subprocess
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

KNOWN = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "/System/Library/Fonts/PingFang.ttc",
    "C:/Windows/Fonts/msyh.ttc",
    "C:/Windows/Fonts/malgun.ttf",
    "C:/Windows/Fonts/Nirmala.ttc",
    "C:/Windows/Fonts/segoeui.ttf",
)
"""Fonts of usual systems; asking fontconfig takes longer, and not all have it."""
BESIDE = " 0123456789%.is"
"""What a caption writes beside a name: a font has to have these, too."""
NOWHERE = "\U000f0000"
"""A character that no font has; what is drawn for it stands for every missing one."""


@cache
def latin(size: int) -> Font:
    """Pillow's own font, which has Latin letters and little else."""
    return ImageFont.load_default(size=size)


def font_for(text: str, size: int) -> Font:
    """A font with every letter of the text; Pillow's own, which draws boxes, if there is none."""
    place = _place(text)
    return latin(size) if place is None or not place[0] else _opened(*place, size)


def can_write(name: str) -> bool:
    """Whether there is a font with every letter of the name, and it can be written in the right order."""
    return _place(name + BESIDE) is not None


def length(text: str, size: int) -> float:
    """The width of a text in pixels."""
    return font_for(text, size).getlength(text)


def fit(text: str, size: int, width: float) -> str:
    """``text``, shortened with dots until it is at most ``width`` pixels wide."""
    if length(text, size) <= width:
        return text
    while text and length(text + "..", size) > width:
        text = text[:-1]
    return text + ".."


def shown_name(index: int, class_names: Sequence[str]) -> str:
    """The name of a class; its number if it has none, or if no font here has the letters of its name."""
    if 0 <= index < len(class_names) and can_write(class_names[index]):
        return class_names[index]
    return str(index)


@cache
def _opened(file: str, index: int, size: int) -> Font:
    return ImageFont.truetype(file, size, index=index)


@cache
def _place(text: str) -> tuple[str, int] | None:
    """File and number of a font with every letter of the text; an empty file for Pillow's own, None if none has."""
    letters = sorted({letter for letter in text if not letter.isspace()})
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        return None
    if _needs_shaping(letters) and not features.check("raqm"):
        return None
    if _has(latin(12), letters):
        return "", 0
    for file, index in _candidates(letters):
        try:
            if _has(_opened(file, index, 12), letters):
                return file, index
        except OSError:  # not there, or of colored bitmaps
            continue
    return None


def _needs_shaping(letters: list[str]) -> bool:
    """Whether letters run from right to left or stand on each other, which takes more than drawing them in turn."""
    for letter in letters:
        if unicodedata.bidirectional(letter) in ("R", "AL") or unicodedata.category(letter) in ("Mn", "Mc"):
            return True
    return False


def _has(font: Font, letters: list[str]) -> bool:
    missing = _drawn(font, NOWHERE)
    return all(_drawn(font, letter) != missing for letter in letters)


def _drawn(font: Font, letter: str) -> bytes:
    picture = Image.new("L", (40, 40))
    ImageDraw.Draw(picture).text((8, 8), letter, 255, font=font)
    return picture.tobytes()


def _candidates(letters: list[str]) -> Iterator[tuple[str, int]]:
    """Files and numbers of fonts that may have the letters: the usual ones, then what fontconfig finds."""
    for file in KNOWN:
        if Path(file).is_file():
            yield file, 0
    if shutil.which("fc-match"):
        wanted = " ".join(f"{ord(letter):x}" for letter in letters)
        command = ["fc-match", "--format", "%{file}\n%{index}", f"sans-serif:charset={wanted}"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\n")
        if len(answer) == 2 and answer[1].isdigit():
            # The upper half of the number names a variant of a variable font.
            yield answer[0], int(answer[1]) & 0xFFFF
