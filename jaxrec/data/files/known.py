"""What a run knows of the set that it was trained on: its features, its classes, and the split of each file."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxrec.data.features import Features
from jaxrec.errors import UserError


class Parts:
    """The part of a set, such as a split, that each file belongs to; a file is known by its name and its content.

    Args:
        files: Name, digest and part of each. If copies of one file belong to several parts, a copy under a new name
            belongs to the first of these in ``order``.
        order: The parts, from the one that a copy had rather belong to.
    """

    def __init__(self, files: Iterable[tuple[str, str, str]] = (), order: Sequence[str] = ()) -> None:
        self.by_name: dict[str, str] = {}
        self.by_content: dict[str, str] = {}
        self.by_both: dict[tuple[str, str], str] = {}
        rank = {part: place for place, part in enumerate(order)}

        def place(file: tuple[str, str, str]) -> int:
            _, _, part = file
            return rank.get(part, len(rank))

        # The last one written stays: the first in the order.
        for name, digest, part in sorted(files, key=place, reverse=True):
            self.by_name[name] = part
            self.by_content[digest] = part
            self.by_both[name, digest] = part

    def of(self, names: Sequence[str], digests: Sequence[str]) -> list[str | None] | None:
        """The part of each file, None if it is not known; None in all if it is another set.

        A file under another name is known by its content, and one with another content by its name.
        """
        # Names alone, such as 001.png, say nothing.
        if not any(digest in self.by_content for digest in digests):
            return None
        found = []
        for name, digest in zip(names, digests, strict=True):
            by_one = self.by_content.get(digest, self.by_name.get(name))
            found.append(self.by_both.get((name, digest), by_one))
        return found


class Known(NamedTuple):
    """What a run knows of the set that it was trained on."""

    features: Features
    """What its examples are made of: classes keep their numbers, and images their form."""
    splits: Parts = Parts()
    """The split of each file."""
    unknown: str = "train"
    """The split of other files, if the set states none."""


def known_names(known: Known | None, name: str) -> tuple[str, ...]:
    """The classes of a feature, as a run knows them; none if there is no run."""
    if known is None or name not in known.features:
        return ()
    return known.features[name].names


def numbered(where: str, found: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The names of classes in the order of their numbers: as a run knows them, or as found.

    Raises UserError if a class was found that the run does not know.
    """
    if not known:
        return tuple(found)
    unknown = [name for name in found if name not in known]
    if unknown:
        others = " and others" if len(known) > 10 else ""
        raise UserError(
            f"{where} has the class '{unknown[0]}', and the run knows only {', '.join(known[:10])}{others}: give a set "
            "of the run's classes"
        )
    return tuple(known)
