"""What a run's folder knows of the data set that it was trained on, and what has changed since."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxrec.data import Dataset, Split
from jaxrec.data.datasets import PATHS
from jaxrec.data.features import from_json, to_json
from jaxrec.data.files import Known, Parts
from jaxrec.data.walk import shown
from jaxrec.errors import UserError
from jaxrec.run.store.listing import Listed, read_examples
from jaxrec.run.store.manifest import read_dataset

PADDED = ("clip", "boxes", "box_classes")
"""Kinds whose first side is the largest number of one example, which may differ from set to set."""
NAMED = 5
"""Files that a sentence names."""


@dataclass(frozen=True)
class KnownData:
    """The data of a run, as its folder describes them."""

    described: dict[str, Any]
    """What the manifest says."""
    examples: list[Listed] = field(default_factory=list)
    """What examples.csv says; empty if the examples were in no files of their own."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the settings were completed with, as the manifest has it."""
        return self.described.get("facts", {})

    def for_opening(self, unknown: str) -> Known:
        """What a set is opened with; files that the run does not know belong to the split ``unknown``."""
        # Copies count as trained on: nothing that was trained on is tested on.
        splits = Parts(((each.path, each.digest, each.split) for each in self.examples), order=("train",))
        return Known(from_json(self.described["features"]), splits, unknown)

    @property
    def uses(self) -> Parts:
        """What each file is used as: ``train``, ``validation`` or ``test``."""
        files = ((each.path, each.digest, each.used_as) for each in self.examples)
        return Parts(files, order=("train", "validation"))

    def changes(self, dataset: Dataset) -> tuple[str, ...]:
        """The sentence that says how a set differs from the run's; none if it does not.

        Raises UserError if it has other classes or features.
        """
        self._check_features(dataset)
        if dataset.fingerprint == self.described["fingerprint"]:
            return ()
        if not self.examples or not dataset.files:
            return (f"dataset '{shown(dataset.name)}' differs from the one that the run was trained on",)
        before = {each.path: each.digest for each in self.examples}
        now = dict(zip(dataset.files, dataset.digests, strict=True))
        contents = set(before.values())
        kept = set(now.values())
        if not contents & kept:
            return (
                f"dataset '{shown(dataset.name)}' is not the one that the run was trained on: "
                f"none of its {len(now)} files is known",
            )
        removed = [path for path, digest in before.items() if path not in now and digest not in kept]
        added = [path for path, digest in now.items() if path not in before and digest not in contents]
        replaced = [path for path, digest in now.items() if path in before and before[path] != digest]
        parts = (_told("removed", removed), _told("added", added), _told("replaced", replaced))
        told = ", ".join(filter(None, parts)) or "files have other names, splits or classes"
        return (f"the data set has changed since the run began: {told}",)

    def _check_features(self, dataset: Dataset) -> None:
        before, now = self.described["features"], to_json(dataset.features)
        for name, feature in now.items():
            for part, value in feature.items():
                known = before.get(name, {}).get(part)
                if part == "shape" and feature["kind"] in PADDED:
                    known, value = (known or [])[1:], value[1:]
                if known != value and part != "names":
                    raise UserError(
                        f"dataset '{dataset.name}' is not what the run was trained on: {part} of '{name}' is {value}, "
                        f"and was {known}; give a set of the same kind"
                    )
                # Numbered classes of which the highest do not occur are the same classes.
                if part == "names" and list(known or [])[: len(value)] != value:
                    raise UserError(
                        f"dataset '{dataset.name}' is not what the run was trained on: its classes are "
                        f"{_few(value)}, and were {_few(known or [])}; give a set of the same classes"
                    )


def known_data(run: Path) -> KnownData:
    """What a run's folder knows of its data; raises UserError if it is damaged."""
    return KnownData(read_dataset(run), read_examples(run))


def check_there(name: str | None) -> None:
    """Raises UserError if the folder or file that a run was trained on is not where it was."""
    kind, colon, path = (name or "").partition(":")
    if colon and kind in PATHS and not Path(path).exists():
        raise UserError(f"dataset '{name}' is not there any more: if it was moved, name it with --dataset {kind}:PATH")


def seen_in_training(known: KnownData, dataset: Dataset, test: Split) -> tuple[str, ...]:
    """The sentence that says how many of the examples to evaluate on were trained on; none if none was."""
    if not dataset.digests:
        return ()
    trained = {each.digest for each in known.examples if each.used_as == "train"}
    count = sum(dataset.digests[row] in trained for row in test.rows.tolist())
    if not count:
        return ()
    were = "was" if count == 1 else "were"
    return (f"{count} of the {len(test)} examples {were} trained on, so the metrics are too good",)


def _told(what: str, paths: Sequence[str]) -> str:
    if not paths:
        return ""
    return f"{len(paths)} {what} ({_few([shown(path) for path in paths])})"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
