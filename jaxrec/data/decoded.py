"""Decoded examples of a set, kept on disk from one run to the next."""

import contextlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.data.features import Features, blank, nbytes, record
from jaxrec.files import open_atomically, write_atomically
from jaxrec.waiting import counted

LIMIT = 4 * 2**30
"""Bytes of decoded examples of all sets together above which the least recently used sets are removed."""
NAME = "name.txt"
"""Holds the name of a set."""
BLOCK = 2**22
"""Bytes of one file, about."""
SMALL = 2**14
"""Bytes of an example above which decoding outlasts Python's own share of the work."""


def decoding_threads(features: Features) -> ThreadPoolExecutor:
    """As many threads as make decoding quicker: one for small examples, which wait for Python's lock."""
    return ThreadPoolExecutor(1 if nbytes(features) < SMALL else None)


class Kept(NamedTuple):
    """A set that is kept."""

    name: str
    size: int
    """Bytes of its files."""
    used: datetime
    """When it was last used."""


def kept_sets(folder: Path) -> list[Kept]:
    """The sets in the folder of all decoded sets, the last used first."""
    found = []
    for each in folder.glob("*/"):
        with contextlib.suppress(OSError):
            name = os.fsdecode((each / NAME).read_bytes()) if (each / NAME).exists() else each.name
            size = sum(file.stat().st_size for file in each.iterdir())
            found.append(Kept(name, size, datetime.fromtimestamp(each.stat().st_mtime)))
    return sorted(found, key=lambda kept: kept.used, reverse=True)


@dataclass(frozen=True)
class Decoded:
    """The decoded examples of one set, in files of a block of rows each.

    All slices of a set share its files, and a slice decodes only the blocks that it touches.
    """

    folder: Path
    """Belongs to this set, these features and this version of the files."""
    rows: int
    """Number of examples of the set, all splits together."""
    features: Features
    limit: int = LIMIT
    name: str = ""
    """What the set is called, for those who look into the cache."""

    @property
    def _size(self) -> int:
        """Rows of a block."""
        return max(1, BLOCK // nbytes(self.features))

    def open(
        self, read: Callable[[np.ndarray], dict[str, np.ndarray]], rows: np.ndarray
    ) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """What reads the given rows from the files, after writing those that are missing or damaged with ``read``."""
        numbers = np.unique(rows // self._size).tolist()
        with decoding_threads(self.features) as pool:
            found = pool.map(lambda number: self._block(read, number), numbers)
            counts = counted(found, "decoding", len(numbers) * self._size, self._size)
            blocks = dict(zip(numbers, counts, strict=True))
        with contextlib.suppress(OSError):
            if self.name:
                write_atomically(self.folder / NAME, os.fsencode(self.name))
            os.utime(self.folder)
        _evict(self.folder, self.limit)

        def mapped(wanted: np.ndarray) -> dict[str, np.ndarray]:
            number, place = np.divmod(wanted, self._size)
            examples = blank(self.features, len(wanted))
            for each in np.unique(number).tolist():
                here = number == each
                for name, values in examples.items():
                    values[here] = blocks[each][name][place[here]]
            return examples

        return mapped

    def _block(self, read: Callable[[np.ndarray], dict[str, np.ndarray]], number: int) -> np.ndarray:
        """The examples of one block, a row each, mapped from its file."""
        rows = np.arange(number * self._size, min((number + 1) * self._size, self.rows))
        path = self.folder / f"{number:06}.npy"
        found = self._found(path, len(rows))
        if found is not None:
            return found
        table = np.empty(len(rows), record(self.features))
        for name, values in read(rows).items():
            table[name] = values
        _write(path, table)
        # Mapped, so that a large set does not stay in memory. Without a file, it has to.
        found = self._found(path, len(rows))
        return table if found is None else found

    def _found(self, path: Path, count: int) -> np.ndarray | None:
        try:
            table = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # not there, or cut short
            return None
        fits = table.dtype == record(self.features) and table.shape == (count,)
        return table if fits else None


def _write(path: Path, table: np.ndarray) -> None:
    """Writes a file; without room or permission, the next run decodes again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(path) as file:
            np.save(file, table)
            # After a power cut, a file of the right size could hold anything.
            file.flush()
            os.fsync(file.fileno())


def _evict(used: Path, limit: int) -> None:
    """Removes the sets that were not used for longest until all fit the limit; never the one in use.

    What another process has mapped stays readable to it.
    """
    with contextlib.suppress(OSError):
        folders = [folder for folder in used.parent.iterdir() if folder.is_dir()]
        sizes = {folder: sum(file.stat().st_size for file in folder.iterdir()) for folder in folders}
        total = sum(sizes.values())
        for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime):
            if total <= limit:
                break
            if folder != used:
                shutil.rmtree(folder, ignore_errors=True)
                total -= sizes[folder]
