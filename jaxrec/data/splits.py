"""A source of examples, and a split of it: the rows that a run trains or tests on."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxrec.data.decoded import Decoded, decoding_threads
from jaxrec.data.features import Features, blank, nbytes
from jaxrec.data.walk import LeftOut
from jaxrec.errors import UserError
from jaxrec.waiting import counted

SAME_SPLIT = (("train", "training"), ("validation", "val", "valid"), ("test", "testing"))
"""Names that mean one split, in small or capital letters."""

TOLD = 10
"""Classes that a sentence names."""

Read = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Source:
    """All examples of a set, its splits one after the other; what each kind of set has to provide."""

    read: Read
    """Rows int [n] to the features of these examples, [n, ...] each; called from several threads."""
    sizes: dict[str, int]
    """Number of examples in each split, in the order of the rows."""
    features: Features
    identity: str
    """Names the content: equal for equal examples."""
    left_out: tuple[LeftOut, ...] = ()
    """Files that are not read."""
    remarks: tuple[str, ...] = ()
    """What a user should know of how the examples are read, a sentence each."""
    files: tuple[str, ...] = ()
    """The file of each row, as a person would name it; empty if examples are not in files of their own."""
    digests: tuple[str, ...] = ()
    """What tells the content of each row's file apart; empty if examples are not in files of their own."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The cells of each row by column, if a table names the examples."""
    classes: np.ndarray | None = None
    """int [N], the class of each row, if it is known without decoding."""
    empty: Mapping[str, str] = field(default_factory=dict)
    """Splits that have a place but no examples, and why."""
    channels: Any = None
    """The opened set whose images are this set's channels, if there is one; classes are the channels' in turn."""
    version: str = ""
    """Differs if the files or their decoder may have changed; empty if decoded examples are not to be kept on disk."""


def split_word(name: str) -> str:
    """The split that one word of a name stands for, such as ``train`` for ``train2017``; empty if none does."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    meant = [group[0] for group in SAME_SPLIT if words & set(group)]
    return meant[0] if len(meant) == 1 else ""


def same_split(name: str, other: str) -> bool:
    """Whether two names mean the same split."""
    if name == other:
        return True
    group = _group(name)
    return group != () and group == _group(other)


def _group(name: str) -> tuple[str, ...]:
    """The names that mean what this one does; none if it is not among those known."""
    for group in SAME_SPLIT:
        if name.strip().lower() in group:
            return group
    return ()


def named_split(name: str, splits: Iterable[str]) -> str | None:
    """The one of ``splits`` that a name means: that of the same name first; None if there is none."""
    found = [each for each in splits if same_split(each, name)]
    if name in found:
        return name
    return found[0] if found else None


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Read:
    """Reads rows of arrays [N, ...] that lie in memory, by the names of their features."""
    return lambda rows: {name: array[rows] for name, array in arrays.items()}


@dataclass(frozen=True, eq=False)
class Split:
    """Examples by index, from 0 to ``len(split) - 1``."""

    source: Read
    rows: np.ndarray
    """int [N], the rows of the source."""
    features: Features
    kept: Decoded | None = None
    """The files in which decoded examples stay from one run to the next."""
    files: tuple[str, ...] = ()
    """The file of each row of the source, if examples are in files of their own."""
    classes: np.ndarray | None = None
    """int [N], the class of each row of the source, if it is known without decoding."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all examples, decoded."""
        return len(self) * nbytes(self.features)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at int indices [n], which may repeat: each feature's values, [n, ...]."""
        return self.source(self.rows[indices])

    def load(self) -> dict[str, np.ndarray]:
        """All examples, read once: each feature's values, [N, ...]."""
        whole = blank(self.features, len(self))
        pieces = self.pieces(np.arange(len(self)))
        with decoding_threads(self.features) as pool:
            found = counted(pool.map(self.read, pieces), "decoding", len(self), len(pieces[0]) if pieces else 1)
            for piece, examples in zip(pieces, found, strict=True):
                for name, values in examples.items():
                    whole[name][piece] = values
        return whole

    def cached(self) -> "Split":
        """The same split decoded: held in memory or, with ``kept``, mapped from files that an earlier run wrote."""
        if self.kept is None:
            files = tuple(self.files[row] for row in self.rows.tolist()) if self.files else ()
            classes = None if self.classes is None else self.classes[self.rows]
            return Split(from_arrays(self.load()), np.arange(len(self)), self.features, files=files, classes=classes)
        source = self.kept.open(self.source, self.rows)
        return Split(source, self.rows, self.features, files=self.files, classes=self.classes)

    def subset(self, indices: np.ndarray) -> "Split":
        """The split of the examples at int indices [n]."""
        return Split(self.source, self.rows[indices], self.features, files=self.files, classes=self.classes)

    def file(self, index: int) -> str:
        """The file of an example, as a person would name it; empty if examples are not in files of their own."""
        return self.files[self.rows[index]] if self.files else ""

    def pieces(self, indices: np.ndarray) -> list[np.ndarray]:
        """Cuts indices into pieces of at most 1000 examples and 16 MiB."""
        size = min(1000, max(1, 2**24 // nbytes(self.features)))
        return [indices[start : start + size] for start in range(0, len(indices), size)]

    def values(self, name: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        """One feature of the examples at int indices, a piece at a time: [n, ...] with n at most 1000."""
        pieces = self.pieces(indices)
        read = counted(pieces, f"reading {name}", len(indices), len(pieces[0]) if pieces else 1)
        return (self.read(piece)[name] for piece in read)


def rows_by_split(rows: np.ndarray, sizes: Mapping[str, int]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The splits of a source that some of its rows int [n] lie in.

    Of each the name, the places of its rows among them, and the numbers of these rows in the split.
    """
    first = 0
    for split, count in sizes.items():
        places = np.flatnonzero((rows >= first) & (rows < first + count))
        if len(places):
            yield split, places, rows[places] - first
        first += count


def cut_validation(split: Split, share: float, seed: int = 0, labels: np.ndarray | None = None) -> tuple[Split, Split]:
    """Cuts a split into (train, validation); validation gets the rounded share, at least one example.

    The cut depends on the seed, the number of examples and their classes, int [N], alone. If ``labels`` are given, both
    parts get their share of each class (see ``quotas``). Raises UserError if nothing would be left to train on.
    """
    if not 0 < share < 1 or max(1, round(share * len(split))) >= len(split):
        raise UserError(
            f"validation share {share} of {len(split)} examples cannot be cut: "
            "expected a number between 0 and 1 that leaves at least one training example; change --validation"
        )
    rest, part = cut(np.random.default_rng(seed).permutation(len(split)), share, labels)
    return split.subset(np.sort(rest)), split.subset(np.sort(part))


def cut(order: np.ndarray, share: float, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cuts rows in two, (the rest, the share), each in the given order; the share has at least one row.

    Args:
        order: int [N], the rows 0 to N - 1 in a random order.
        share: Between 0 and 1.
        labels: int [N], the class of each row: the share is then taken from each class by ``quotas``.
    """
    taken = np.zeros(len(order), bool)
    if labels is not None:
        for number, quota in enumerate(quotas(np.bincount(labels), share).tolist()):
            taken[order[labels[order] == number][:quota]] = True
    if not taken.any():
        taken[order[: max(1, round(share * len(order)))]] = True
    return order[~taken[order]], order[taken[order]]


def quotas(counts: np.ndarray, share: float) -> np.ndarray:
    """How many examples of each class, of which there are ``counts`` int [C], a share gets: int [C].

    At least one of two or more, and never the last one; else the rounded share, so that the sum is rounded, too.
    """
    exact = share * counts
    least, most = (counts >= 2).astype(int), np.maximum(0, counts - 1)
    quota = np.clip(np.floor(exact).astype(int), least, most)
    wanted = round(share * int(counts.sum()))
    # What rounding down took away goes to the classes that lost most.
    for number in np.argsort(quota - exact, kind="stable").tolist():
        if quota.sum() >= wanted:
            break
        quota[number] = min(quota[number] + 1, most[number])
    return quota


def not_kept(part: str, names: Sequence[str], rest: np.ndarray, taken: np.ndarray) -> tuple[str, ...]:
    """The sentence that says which classes a cut could not put into both parts; none if it could.

    ``rest`` and ``taken`` are the classes, int [n], of the examples of each.
    """
    missing: list[int] = sorted(set(rest.tolist()) - set(taken.tolist()))
    if not missing:
        return ()
    told = few(names, missing)
    return (f"{part} has no example of {len(missing)} of {len(names)} classes, which have only one: {told}",)


def few(names: Sequence[str], numbers: Sequence[int]) -> str:
    """The names of some classes, the first ten of them."""
    more = f" and {len(numbers) - TOLD} more" if len(numbers) > TOLD else ""
    return ", ".join(names[number] for number in numbers[:TOLD]) + more
