"""The files below a folder: one rule of what is read and what is left out, for training and for prediction."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrec.data.images import SUFFIXES, heif_is_read
from jaxrec.errors import UserError

CLUTTER = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir")
"""What systems put beside files, in lower case."""
HEIF = (".heic", ".heif")
"""Suffixes of images that Pillow reads with the package pillow-heif alone."""
IMAGES = "PNG, JPEG, WebP, TIFF or other image files"
"""What a user is asked to add to an empty folder."""
UNREADABLE = "unreadable"
"""The kind of the files that look like images and cannot be read."""


class LeftOut(NamedTuple):
    """A file that is not read, or a box in it."""

    path: Path
    kind: str
    """What such files are counted by: their suffix, or why none of them is read."""
    reason: str
    what: str = "file"
    """``file`` or ``box``."""


class Found(NamedTuple):
    """What lies below a folder."""

    images: list[Path]
    left_out: list[LeftOut]


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is passed over: a name with a dot in front, or clutter of a system's."""
    return path.name.startswith(".") or path.name.lower() in CLUTTER


def inside(folder: Path) -> list[Path]:
    """What lies in a folder, sorted by name, without what is hidden; raises UserError if it cannot be read."""
    return [path for path in _all(folder) if not is_hidden(path)]


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones."""
    return [path for path in inside(folder) if path.is_dir()]


def walk(folder: Path, also: Sequence[str] = ()) -> Found:
    """All files below a folder, whatever the folder they lie in: images by their suffix, and the others.

    Files of the suffixes ``also``, in lower case, are taken with the images.

    Hidden files and folders are passed over, but images among these files count as left out. Links are followed, but
    not to a folder that the walk is in.
    """
    found = Found([], [])
    for path in _files(folder, ()):
        reason = None if path.suffix.lower() in also else why_left_out(path)
        if is_hidden(path):
            found.left_out.append(LeftOut(path, "hidden", "its name begins with a dot"))
        elif reason is None:
            found.images.append(path)
        else:
            found.left_out.append(LeftOut(path, path.suffix.lower() or "without a suffix", reason))
    return found


def why_left_out(path: Path) -> str | None:
    """Why a file is not taken for an image that can be read; None if it is."""
    suffix = path.suffix.lower()
    if suffix in HEIF and not heif_is_read():
        return "HEIC is read with pillow-heif only: pip install 'jaxrec[heic]'"
    if suffix in (*SUFFIXES, *HEIF):
        return None
    return "its suffix is none of an image's"


def _files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:
        return
    for path in _all(folder):
        if path.is_dir():
            if not is_hidden(path):
                yield from _files(path, (*above, here))
        elif not is_hidden(path) or _is_hidden_image(path):
            yield path


def _all(folder: Path) -> list[Path]:
    """What lies in a folder, sorted by name; raises UserError if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read ({error.strerror}): change its permissions") from error


def _is_hidden_image(path: Path) -> bool:
    """Whether a hidden file may be an image; what macOS writes beside each file, ``._a.png``, is none."""
    return path.suffix.lower() in (*SUFFIXES, *HEIF) and not path.name.startswith("._")


def counted(left_out: Iterable[LeftOut]) -> str:
    """The line that says what was left out, such as ``3 files left out: 2 .txt, 1 unreadable``."""
    lines = []
    listed = list(left_out)
    for what, plural in (("file", "files"), ("box", "boxes")):
        kinds = Counter(each.kind for each in listed if each.what == what)
        total = sum(kinds.values())
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        if total:
            lines.append(f"{total} {plural if total > 1 else what} left out: {told}")
    return "; ".join(lines)


def shown(name: str | Path) -> str:
    """A file's name as text that can be written anywhere: bytes that are not UTF-8 as ``\\xe9``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
