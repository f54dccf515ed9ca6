"""What arrays are called: the split that each belongs to, and the name under which it is read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.reads import USUAL, Reads
from jaxrec.data.splits import SAME_SPLIT, same_split
from jaxrec.errors import UserError

UNCUT = ""
"""What stands for the split of arrays that are to be cut."""
COLUMN = "label"
"""The feature that some published sets keep as a column: [N, 1], one number each."""
USUALLY = {"images": "image", "x": "image", "masks": "mask", "labels": "labels", "y": "label"}
USUALLY |= {"clips": "clip", "video": "clip", "videos": "clip", "lengths": "length"}
"""What arrays of these names, in small or capital letters, are read as."""
SPLITS = {name for group in SAME_SPLIT for name in group}


class Placed(NamedTuple):
    """An array and where its name puts it."""

    given: str
    """Its whole name."""
    split: str
    key: str
    """The name without the split."""
    array: Any


class Named(NamedTuple):
    """Arrays by split and usual name."""

    splits: dict[str, dict[str, Any]]
    """``UNCUT`` alone if no split is stated."""
    stray: tuple[str, ...] = ()
    """The arrays that belong to no split, though others do."""
    remarks: tuple[str, ...] = ()


def by_split(name: str, arrays: Mapping[str, Any], reads: Reads) -> Named:
    """Arrays by split, as mappings state it or names such as ``train_image`` and ``x_test``.

    Args:
        name: What the set is called in an error.
        arrays: Arrays by name, or such mappings by split.
        reads: What is read: an array of such a name keeps it.

    Raises:
        UserError: Some arrays are in splits and others are not, or two names mean one array.
    """
    splits: dict[str, dict[str, Any]] = {}
    stray, other = [], {}
    places = _places(name, arrays)
    stated = any(each.split != UNCUT for each in places)
    for each in places:
        key, array = _usual(each.key, each.array, reads)
        if stated and each.split == UNCUT:
            if key in USUAL.values():
                raise UserError(f"{name} mixes splits with the array '{each.given}': give one for each split")
            stray.append(each.given)
            continue
        if key in splits.setdefault(each.split, {}):
            raise UserError(f"'{each.given}' of {name} is read as '{key}', which is there, too: remove one of them")
        splits[each.split][key] = array
        if key not in (each.key, each.key.removesuffix("s")):
            other[each.key] = key
    _check_splits(name, splits)
    remarks: tuple[str, ...] = ()
    if other:
        told = ", ".join(f"'{given}' as '{key}'" for given, key in other.items())
        remarks = (f"arrays are read under other names: {told}",)
    return Named(splits, tuple(stray), remarks)


def _places(name: str, arrays: Mapping[str, Any]) -> list[Placed]:
    nested = {key: values for key, values in arrays.items() if isinstance(values, Mapping)}
    if nested:
        alone = [key for key in arrays if key not in nested]
        if alone:
            raise UserError(f"{name} mixes splits with the array '{alone[0]}': give one for each split")
        places = []
        for split, values in nested.items():
            places += [Placed(key, split, key, array) for key, array in values.items()]
        return places
    parted = [_parted(given, array) for given, array in arrays.items()]
    # A number called test_score states no split.
    if any(each.split != UNCUT and _is_example(each) for each in parted):
        return parted
    return [Placed(given, UNCUT, given, array) for given, array in arrays.items()]


def _parted(given: str, array: Any) -> Placed:
    """An array by the split at the beginning or the end of its name."""
    first, _, rest = given.partition("_")
    if rest and first.lower() in SPLITS:
        return Placed(given, first.lower(), rest, array)
    rest, _, last = given.rpartition("_")
    if rest and last.lower() in SPLITS:
        return Placed(given, last.lower(), rest, array)
    return Placed(given, UNCUT, given, array)


def _is_example(each: Placed) -> bool:
    return np.ndim(each.array) >= 3 or USUALLY.get(each.key.lower(), each.key) in USUAL.values()


def _usual(key: str, array: Any, reads: Reads) -> tuple[str, Any]:
    """The name under which an array is read, and the array."""
    if key in reads or key.lower() not in USUALLY:
        return key, array
    usual = USUALLY[key.lower()]
    if usual == "image" and np.ndim(array) == 5:
        return "clip", array
    if usual in ("image", "mask", "clip", "length"):
        return usual, array
    array = np.asarray(array)
    if array.ndim >= 3:
        return "mask", array
    if array.ndim >= 1 and array.size == len(array):
        return COLUMN, array.reshape(-1)
    return usual, array


def _check_splits(name: str, splits: Mapping[str, Any]) -> None:
    """Raises UserError if two splits mean the same."""
    for split in splits:
        alike = [each for each in splits if same_split(each, split)]
        if len(alike) > 1:
            raise UserError(f"{name} has the splits {' and '.join(alike)}, which mean one: put them together")
