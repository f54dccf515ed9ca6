"""What is said of the classes that examples have: numbers and names that look like a slip."""

from collections.abc import Sequence

import numpy as np

from jaxrec.data.features import NO_BOX, Feature
from jaxrec.data.splits import few
from jaxrec.errors import UserError

BLANK = ("nan", "none", "null", "n/a", "na", "?")
"""What programs write for a label that is missing, in small letters."""


def check_numbers(
    what: str, numbers: np.ndarray, training: np.ndarray, feature: Feature, named: bool
) -> tuple[str, ...]:
    """The sentence that says which classes never occur in training; none if all do.

    Args:
        what: What the numbers are called.
        numbers: Class numbers, int [N] or [N, M], -1 for none.
        training: bool [N], which examples are trained on.
        feature: The feature of the numbers.
        named: Whether the classes' names are given, so that their number is meant.

    Raises:
        UserError: A class has examples but none to train on, or most numbers up to the highest are no class.
    """
    names = feature.names
    trained = _there(numbers[training])
    unseen = sorted(_there(numbers) - trained)
    if unseen and feature.kind == "class":
        raise UserError(
            f"{what} has no training example of class '{names[unseen[0]]}', which other splits have: "
            "add some or leave the class out"
        )
    missing = [number for number in range(len(names)) if number not in trained]
    if not named and 2 * len(missing) > len(names):
        raise UserError(
            f"{what} holds only {len(trained)} of the numbers from 0 to {len(names) - 1}: expected classes numbered "
            "from 0, as numpy.unique(labels, return_inverse=True) numbers them, or class_names for all of them"
        )
    if not missing:
        return ()
    return (f"{len(missing)} of the {len(names)} classes of {what} never occur in training: {few(names, missing)}",)


def slips(names: Sequence[str]) -> tuple[str, ...]:
    """The sentences that say which classes seem to be one, or none."""
    remarks: list[str] = []
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault("".join(name.casefold().split()), []).append(name)
    for same in alike.values():
        if len(same) > 1:
            told = " and ".join(f"'{name}'" for name in same)
            remarks.append(f"{told} are taken for different classes, and differ in capital letters or spaces only")
    blank = [name for name in names if name.strip().casefold() in BLANK]
    if blank:
        told = " and ".join(f"'{name}'" for name in blank)
        remarks.append(
            f"{told} is taken for the name of a class: leave out the examples if it means that they have none"
        )
    return tuple(remarks)


def _there(numbers: np.ndarray) -> set[int]:
    return set(np.unique(numbers).tolist()) - {NO_BOX}
