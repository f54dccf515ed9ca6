"""Files in splits, and the source that a set of files becomes."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.data.files.example import File
from jaxrec.data.files.identity import digest_of, names_of
from jaxrec.data.files.known import Known
from jaxrec.data.files.reading import Readable
from jaxrec.data.splits import Source, cut, not_kept, same_split
from jaxrec.data.walk import LeftOut
from jaxrec.errors import UserError, nearest


class Arranged(NamedTuple):
    """Files in splits."""

    splits: dict[str, np.ndarray]
    """The rows of each."""
    digests: list[str]
    """What tells each file's content apart."""
    classes: np.ndarray | None = None
    """int [N], the class of each file."""
    remarks: tuple[str, ...] = ()
    empty: Mapping[str, str] = {}
    """As in ``Source.empty``."""


def arrange(
    root: Path, files: Sequence[File], known: Known | None, label: str | None, names: Sequence[str] = ()
) -> Arranged:
    """The rows of each split in a seeded order, so that a slice of a split holds every class.

    Files that state no split are cut 80/20 into train and test, with equal shares of each class if ``label`` names one;
    but what a run knows already keeps its split. Raises UserError if there is a single file to be cut.
    """
    rows = np.random.default_rng(0).permutation(len(files))
    labels = None if label is None else np.array([file.values[label] for file in files], np.int32)
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest_of, files))
    remarks = _named_again(files)
    if files[0].split:
        splits = _rows_by_split(rows, np.array([file.split for file in files]))
        return Arranged(splits, digests, labels, remarks)
    dealt = _dealt(root, files, digests, known)
    if dealt is not None:
        splits = _rows_by_split(rows, dealt)
        empty = {}
        if set(splits) == {"train"}:
            empty["test"] = (
                f"all {len(files)} images are in the run's split train; give --split train to evaluate on it"
            )
        return Arranged(splits, digests, labels, remarks, empty)
    if len(files) < 2:
        raise UserError(f"{root} holds a single image: expected two or more, one for training and one for the test")
    train, test = cut(rows, 0.2, labels)
    if labels is not None:
        remarks += not_kept("the test split", names, labels[train], labels[test])
    return Arranged({"train": train, "test": test}, digests, labels, remarks)


def _rows_by_split(rows: np.ndarray, split_of: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of each split in the order that they have, from the split of each file."""
    splits = {}
    for split in sorted(set(split_of.tolist())):
        splits[split] = rows[split_of[rows] == split]
    return splits


def _named_again(files: Sequence[File]) -> tuple[str, ...]:
    """The sentence that says how many images several rows of a table name; none if none is."""
    rows: dict[Path, list[str]] = defaultdict(list)
    for file in files:
        # How often an image of a pair is taken is said where pairs are made.
        if file.partner is None:
            rows[file.image].append(_said_of(file))
    again = [said for said in rows.values() if len(said) > 1]
    if not again:
        return ()
    different = sum(len(set(said)) > 1 for said in again)
    return (
        f"{len(again)} of the {len(rows)} images are named in several rows, {different} of them with different labels "
        "or numbers: each row is an example",
    )


def _said_of(file: File) -> str:
    """A row's labels and numbers, to be compared with those of other rows."""
    plain = [(name, np.asarray(each).tolist()) for name, each in file.values.items()]
    return repr(sorted(plain))


def _dealt(root: Path, files: Sequence[File], digests: Sequence[str], known: Known | None) -> np.ndarray | None:
    """The split of each file as a run has dealt them; None if it knows none of them, and deals them itself."""
    if known is None:
        return None
    found = known.splits.of(names_of(root, files), digests)
    if found is None:
        return None if known.unknown == "train" else np.array([known.unknown] * len(files))
    return np.array([split or known.unknown for split in found])


def check_trained(where: str, files: Sequence[File], label: str, names: Sequence[str]) -> None:
    """Raises UserError if training has no readable image of a class."""
    training = [file for file in files if not file.split or same_split(file.split, "train")]
    trained = {names[int(file.values[label])] for file in training}
    unseen = sorted(set(names) - trained)
    if unseen:
        raise UserError(
            f"{where} has no readable training image of class '{unseen[0]}', which it names: "
            f"add images or remove the class{nearest(unseen[0], trained)}"
        )


def to_source(
    root: Path,
    opened: Readable,
    arranged: Arranged,
    left_out: Iterable[LeftOut] = (),
    remarks: tuple[str, ...] = (),
    also: str = "",
) -> Source:
    """The source of files in the order of their splits.

    Args:
        root: What the files' names are relative to.
        opened: The files.
        arranged: The rows of each split.
        left_out: What was left out before the files were opened.
        remarks: What a user should know of how the set was taken.
        also: What else belongs to the set's identity.
    """
    order = np.concatenate(list(arranged.splits.values()))
    names = names_of(root, opened.files)
    in_order = order.tolist()
    return Source(
        read=lambda rows: opened.read(order[rows]),
        sizes={split: len(numbers) for split, numbers in arranged.splits.items()},
        features=opened.features,
        identity=_identity(names, arranged.digests, also),
        left_out=(*left_out, *opened.left_out),
        remarks=(*remarks, *arranged.remarks, *opened.remarks),
        classes=None if arranged.classes is None else arranged.classes[order],
        files=tuple(names[row] for row in in_order),
        digests=tuple(arranged.digests[row] for row in in_order),
        columns=_columns([opened.files[row] for row in in_order]),
        empty=arranged.empty,
    )


def _identity(names: Sequence[str], digests: Sequence[str], also: str) -> str:
    """What tells a set from others: hexadecimal SHA-256 of its files' names and digests, and of what else it has."""
    identity = hashlib.sha256(also.encode("utf-8", "surrogateescape"))
    for name, digest in zip(names, digests, strict=True):
        identity.update(os.fsencode(name) + f" {digest}\n".encode())
    return identity.hexdigest()


def _columns(files: Sequence[File]) -> dict[str, tuple[str, ...]]:
    """The cells of each column of a table, without spaces around them."""
    columns = {}
    for name in files[0].columns:
        columns[name] = tuple(file.columns[name].strip() for file in files)
    return columns
