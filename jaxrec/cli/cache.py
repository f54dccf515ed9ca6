"""jaxrec cache [--clear]: what jaxrec keeps between runs, and how to get rid of it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from jaxrec.cli.arguments import parse
from jaxrec.data.cache import KINDS, cache_dir
from jaxrec.data.decoded import LIMIT, kept_sets
from jaxrec.errors import UserError

EXAMPLES = ("jaxrec cache", "jaxrec cache --clear")


@dataclass(frozen=True)
class Cache:
    """Show what is kept between runs, such as decoded images, and how much room it takes."""

    clear: bool = False
    """Remove it all; later runs make it again."""


def bytes_in(folder: Path) -> int:
    """The size of all files below a folder; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def clear(place: Path) -> None:
    """Removes what jaxrec keeps in its cache folder, and nothing else that lies there.

    Raises UserError if something cannot be removed.
    """
    for kind in KINDS:
        if (place / kind).exists():
            try:
                shutil.rmtree(place / kind)
            except OSError as error:
                raise UserError(f"{error.filename} cannot be removed ({error.strerror}): remove it yourself") from error


def main(argv: list[str]) -> None:
    """Prints the cache's place, its size and its limit, and the sets in it; or empties it."""
    options = parse(Cache, argv, "jaxrec cache", examples=EXAMPLES)
    place = cache_dir()
    if options.clear:
        freed = sum(bytes_in(place / kind) for kind in KINDS)
        clear(place)
        print(f"{_size(freed)} removed from {place}")
        return
    print(f"{place} ($JAXREC_CACHE chooses another folder)")
    for kind, what in KINDS.items():
        limit = f", at most {_size(LIMIT)}" if kind == "decoded" else ""
        print(f"{_size(bytes_in(place / kind)):>10}  {what}{limit}")
    for kept in kept_sets(place / "decoded"):
        print(f"{_size(kept.size):>14}  {kept.name}, last used on {kept.used:%Y-%m-%d}")


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
