"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Opens a binary file that appears as ``path`` at the end, in place of any former file of that name.

    Until then it has another name in the same folder. If the block raises, the former file stays as it was.

    Example::

        with open_atomically(folder / "images.npy") as file:
            np.save(file, images)
    """
    # The process's number keeps two processes that write the same file out of each other's way.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; raises OSError if it cannot be written."""
    with open_atomically(path) as file:
        file.write(content)
