"""What tells files from each other: their names within a set, and digests of their contents."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from jaxrec.data.files.example import File, paths_of

PIECE, PIECES = 2**14, 16
"""Bytes of a piece, and pieces of a large file, by which its content is told."""


def names_of(root: Path, files: Iterable[File]) -> list[str]:
    """The path of each example's image from the folder of the set, or the whole one if it lies elsewhere.

    If several rows of a table name one image, ``#2`` stands behind the second one's, and so on: names differ.
    """
    names = []
    rows: Counter[Path] = Counter()
    for file in files:
        rows[file.image] += 1
        count = rows[file.image]
        name = str(_within(root, file.image))
        names.append(name if count == 1 else f"{name}#{count}")
    return names


def _within(root: Path, path: Path) -> Path:
    """The path from the folder of the set, if the file is in there."""
    return path.relative_to(root) if path.is_relative_to(root) else path


def digest_of(file: File) -> str:
    """What tells an example from others: hexadecimal SHA-256 of its files' sizes and contents, and of its boxes.

    Of a large file, it is of pieces from its beginning to its end.
    """
    digest = hashlib.sha256()
    for path in paths_of(file):
        size = path.stat().st_size
        digest.update(f"{size} ".encode())
        for piece in _pieces(path, size):
            digest.update(piece)
    if file.objects is not None:
        digest.update(file.objects.boxes.tobytes() + file.objects.classes.tobytes())
    return digest.hexdigest()[:32]


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """All of a small file; of a large one, pieces evenly from its beginning to its end."""
    with path.open("rb") as opened:
        if size <= PIECES * PIECE:
            yield opened.read()
            return
        for start in np.linspace(0, size - PIECE, PIECES, dtype=np.int64).tolist():
            opened.seek(start)
            yield opened.read(PIECE)
