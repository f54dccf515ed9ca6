"""Arrays in memory, or in a NumPy file, as a source."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.array_names import UNCUT, by_split
from jaxrec.data.boxes import faults, packed
from jaxrec.data.features import KINDS, NO_BOX, Feature, frames_there
from jaxrec.data.labels import check_numbers
from jaxrec.data.masks import are_sparse, mask_classes
from jaxrec.data.reads import USUAL, Reads, alternatives, check_clear, choose, wants
from jaxrec.data.splits import Source, cut, from_arrays, same_split
from jaxrec.errors import UserError

Arrays = Mapping[str, Any]
"""Arrays by name, or such mappings by split."""

NAMES = "class_names"
DARK = 4
"""What white is divided by to tell images that are so dark that another white may be meant."""
CHANNELS = (1, 2, 3, 4)
"""How many channels most images have."""


def open_arrays(arrays: Arrays, reads: Reads, name: str = "arrays", *, trains: bool = True) -> Source:
    """Examples that lie in arrays of one length, by the names under which a system reads them.

    ===========  =====================================================================================
    kind         array
    ===========  =====================================================================================
    image        uint8, uint16, or floats in [0, 1]; [N, H, W, C], or [N, H, W] for a single channel
    clip         as image, [N, T, H, W, C], or [N, T, H, W] for a single channel
    length       integers [N], how many of the T frames are there; without it, all are
    class        integers or booleans [N], from 0
    classes      0 and 1, or booleans [N, K]
    mask         integers [N, H, W], class numbers from 0; -1 is void, and 255 if it is no class
    boxes        numbers [N, M, 4]: y0, x0, y1, x1 in pixels, in the image (see ``Feature``)
    box_classes  integers [N, M], class numbers from 0; -1 in the rows that hold no box
    number       floats or integers [N]
    ===========  =====================================================================================

    Args:
        arrays: ``{"image": ..., "label": ...}``, cut 80/20 into train and test with equal shares of each class; or such
            mappings by split, ``{"train": {...}, "test": {...}}``, or names with a split, ``{"train_image": ...,
            "test_image": ...}`` or ``{"x_train": ...}``. ``class_names`` in it names the classes.
        reads: What is read, see ``open_dataset``.
        name: What the set is called in an error.
        trains: Whether the set is to be trained on, so that its classes have to be there.

    Raises:
        UserError: An array is missing, has another shape, dtype or range, or may be any of several.
    """
    if not arrays:
        raise UserError(f"{name} is empty: expected arrays by name, such as image and label")
    names = _class_names(arrays.get(NAMES))
    splits, stray, remarks = by_split(name, {key: array for key, array in arrays.items() if key != NAMES}, reads)
    kinds = _kinds(splits, reads)
    if wants(reads, "length") and "length" not in kinds.values() and "clip" in kinds.values():
        splits = _with_lengths(splits, kinds)
        kinds = _kinds(splits, reads)
    chosen = choose(name, reads, kinds)
    check_clear(name, kinds, chosen)
    features: dict[str, Feature] = {}
    whole: dict[str, np.ndarray] = {}
    for each, key in chosen.items():
        array = _together(name, key, splits)
        convert = CONVERT[_kind(reads[each], key, array)]
        features[each], whole[each] = convert(f"'{key}' of {name}", array, names)
    _check_lengths(name, chosen, splits)
    _check_sizes(name, features)
    _pack_boxes(name, features, whole)
    _blank_frames(name, features, whole)
    sizes = {split: len(np.asarray(values[next(iter(chosen.values()))])) for split, values in splits.items()}
    identity = _identity(whole, features, sizes)
    training = np.concatenate(
        [np.full(size, split == UNCUT or same_split(split, "train")) for split, size in sizes.items()]
    )
    remarks += _unread(splits, chosen, stray)
    for each, feature in features.items():
        what = f"'{chosen[each]}' of {name}"
        if feature.kind in ("image", "clip"):
            remarks += _dark(what, whole[each])
        if feature.kind in ("class", "box_classes") and trains and training.any():
            remarks += check_numbers(what, whole[each], training, feature, names is not None)
    if list(splits) == [UNCUT]:
        rows = _cut(name, features, whole)
        sizes = {split: len(each) for split, each in rows.items()}
        order = np.concatenate(list(rows.values()))
        return Source(lambda wanted: from_arrays(whole)(order[wanted]), sizes, features, identity, remarks=remarks)
    return Source(from_arrays(whole), sizes, features, identity, remarks=remarks)


def open_npz(path: str, reads: Reads, *, trains: bool = True) -> Source:
    """The arrays in a NumPy file, as in ``open_arrays``."""
    file = Path(os.path.expanduser(path))
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as saved:
            arrays = {key: saved[key] for key in saved.files}
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"NumPy file {file} cannot be read ({reason}): expected an .npz file of arrays") from error
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on broken files
        raise UserError(
            f"NumPy file {file} cannot be read: it is not an .npz file of numbers, as numpy.savez writes it"
        ) from error
    return open_arrays(arrays, reads, f"npz:{path}", trains=trains)


def _class_names(names: Any) -> tuple[str, ...] | None:
    """The names of classes, which NumPy files may hold as bytes."""
    if names is None:
        return None
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def _unread(splits: Mapping[str, Arrays], chosen: Mapping[str, str], stray: Sequence[str]) -> tuple[str, ...]:
    """The sentence that names the arrays that are not read; none if all are."""
    there: set[str] = set()
    for values in splits.values():
        there.update(values)
    unread = sorted((there - set(chosen.values())).union(stray))
    return (f"arrays that are not read: {', '.join(unread)}",) if unread else ()


def _dark(what: str, images: np.ndarray) -> tuple[str, ...]:
    """The sentence that says that images may have another white than their dtype's; none if they use its range."""
    white = 1 if images.dtype.kind == "f" else np.iinfo(images.dtype).max
    top = images.max().item()
    if not 0 < top <= white / DARK:
        return ()
    return (
        f"{what} is dark, for {white} is white and the largest value {top:g}: "
        f"if that is to be white, multiply by {white / top:g}",
    )


def _kinds(splits: Mapping[str, Arrays], reads: Reads) -> dict[str, str]:
    """The kind of each array that all splits have: what it is read as, or what its shape says."""
    keys = [set(values) for values in splits.values()]
    shared = set.intersection(*keys)
    first = next(iter(splits.values()))
    kinds = {}
    for key in first:
        if key in shared:
            kinds[key] = _kind(reads.get(key, "|".join(KINDS)), key, np.asarray(first[key]))
    return kinds


def _kind(kinds: str, key: str, array: np.ndarray) -> str:
    """Of alternative kinds, the one that an array's shape and dtype fit; the first one if none does."""
    whole = array.dtype.kind in "iub"
    fits = {
        "image": (array.ndim == 4 and key != "clip") or (array.ndim == 3 and key not in ("mask", "boxes")),
        "clip": array.ndim in (4, 5),
        "length": array.ndim == 1 and whole and key == USUAL["length"],
        "mask": array.ndim == 3 and whole and key != "boxes",
        "boxes": array.ndim == 3 and array.shape[2] == 4,
        "classes": array.ndim == 2 and key != "box_classes",
        "box_classes": array.ndim == 2 and whole,
        "class": array.ndim == 1 and whole and key != USUAL["length"],
        "number": array.ndim == 1,
    }
    possible = alternatives(kinds)
    fitting = [kind for kind in possible if fits[kind]]
    return fitting[0] if fitting else possible[0]


def _with_lengths(splits: Mapping[str, Arrays], kinds: Mapping[str, str]) -> dict[str, Arrays]:
    """The splits with the length of each clip, which is all of its frames."""
    of_clips = [key for key, kind in kinds.items() if kind == "clip"]
    key = of_clips[0]
    found = {}
    for split, values in splits.items():
        clips = np.asarray(values[key])
        found[split] = {**values, USUAL["length"]: np.full(len(clips), clips.shape[1], np.int32)}
    return found


def _array(name: str, split: str, key: str, values: Arrays) -> np.ndarray:
    array = np.asarray(values[key])
    if array.dtype.kind not in "iufb" or array.ndim < 1 or not len(array):
        where = "" if split == UNCUT else f" in split '{split}'"
        raise UserError(f"'{key}' of {name}{where} is {array.dtype} {array.shape}: expected numbers for some examples")
    return array


def _together(name: str, key: str, splits: Mapping[str, Arrays]) -> np.ndarray:
    """An array of all splits, one after the other."""
    found = {split: _array(name, split, key, values) for split, values in splits.items()}
    if len({(array.shape[1:], array.dtype) for array in found.values()}) > 1:
        told = ", ".join(f"{split} {array.dtype} {array.shape}" for split, array in found.items())
        raise UserError(f"'{key}' of {name} differs in shape or dtype from split to split ({told}): give all the same")
    arrays = list(found.values())
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _check_lengths(name: str, chosen: Mapping[str, str], splits: Mapping[str, Arrays]) -> None:
    for split, values in splits.items():
        lengths = {key: len(np.asarray(values[key])) for key in chosen.values()}
        if len(set(lengths.values())) > 1:
            where = "" if split == UNCUT else f" in split '{split}'"
            told = ", ".join(f"{length} of '{key}'" for key, length in lengths.items())
            raise UserError(f"{name} has different numbers of examples{where} ({told}): give as many of each")


def _check_sizes(name: str, features: Mapping[str, Feature]) -> None:
    """Raises UserError if masks are not as large as the images."""
    sizes = {key: feature.shape[:2] for key, feature in features.items() if feature.kind in ("image", "mask")}
    masks = [feature for feature in features.values() if feature.kind == "mask"]
    if masks and len(set(sizes.values())) > 1:
        raise UserError(f"{name} has images and masks of different sizes ({sizes}): give masks as large as the images")


def _pack_boxes(name: str, features: Mapping[str, Feature], whole: dict[str, np.ndarray]) -> None:
    """Puts the rows that hold a box first; raises UserError for a box without area or outside its image."""
    kinds = {feature.kind: each for each, feature in features.items()}
    if not {"boxes", "box_classes"} <= kinds.keys():
        return
    boxes, classes = whole[kinds["boxes"]], whole[kinds["box_classes"]]
    if boxes.shape[:2] != classes.shape:
        raise UserError(
            f"{name} has boxes {boxes.shape} and their classes {classes.shape}: give a class, or -1, for each box"
        )
    boxes, classes = packed(boxes, classes)
    if "image" in kinds:
        height, width = features[kinds["image"]].shape[:2]
        there = classes != NO_BOX
        wrong = faults(boxes[there], (height, width))
        if wrong.any():
            number = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{name} has a box {wrong[number]}, {boxes[there][number].tolist()}, and {np.count_nonzero(wrong) - 1} "
                f"others: expected y0, x0, y1, x1 in pixels of an image of {height}x{width}, and class -1 for no box"
            )
        boxes = boxes.clip(0, np.array([height, width] * 2, np.float32))
    whole[kinds["boxes"]], whole[kinds["box_classes"]] = boxes, classes


def _blank_frames(name: str, features: Mapping[str, Feature], whole: dict[str, np.ndarray]) -> None:
    """Makes frames zeros that are not there; raises UserError for a clip without a frame or with too many."""
    kinds = {feature.kind: each for each, feature in features.items()}
    if not {"clip", "length"} <= kinds.keys():
        return
    clips, lengths = whole[kinds["clip"]], whole[kinds["length"]]
    most = clips.shape[1]
    if lengths.min() < 1 or lengths.max() > most:
        raise UserError(
            f"'{kinds['length']}' of {name} has values from {lengths.min()} to {lengths.max()}: "
            f"expected 1 to {most}, the number of frames that are there"
        )
    if lengths.min() < most:
        there = frames_there(most, lengths)
        whole[kinds["clip"]] = np.where(there[:, :, None, None, None], clips, np.zeros((), clips.dtype))


def _refuse(what: str, array: np.ndarray, expected: str) -> UserError:
    return UserError(f"{what} is {array.dtype} {array.shape}: expected {expected}")


def _image(what: str, array: np.ndarray, names: Sequence[str] | None) -> tuple[Feature, np.ndarray]:
    if array.ndim not in (3, 4) or min(array.shape) < 1:
        raise _refuse(what, array, "images [N, H, W, C] or [N, H, W]")
    if array.ndim == 3:
        array = array[..., None]
    array = _pixels(what, array, "[N, H, W, C]")
    return Feature("image", array.shape[1:], array.dtype.name), array


def _clip(what: str, array: np.ndarray, names: Sequence[str] | None) -> tuple[Feature, np.ndarray]:
    if array.ndim not in (4, 5) or min(array.shape) < 1:
        raise _refuse(what, array, "clips [N, T, H, W, C] or [N, T, H, W]")
    if array.ndim == 4:
        array = array[..., None]
    array = _pixels(what, array, "[N, T, H, W, C]")
    return Feature("clip", array.shape[1:], array.dtype.name), array


def _length(what: str, array: np.ndarray, names: Sequence[str] | None) -> tuple[Feature, np.ndarray]:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise _refuse(what, array, "the number of frames of each clip, integers [N]")
    return Feature("length", (), "int32"), array.astype(np.int32)


def _pixels(what: str, array: np.ndarray, axes: str) -> np.ndarray:
    """The array in a dtype that images have; raises UserError if it holds no images with their channels last."""
    if array.shape[-3] in (1, 3) and array.shape[-1] not in CHANNELS:
        raise UserError(
            f"{what} is {array.dtype} {array.shape}, which seems to have the channels first: "
            f"expected {axes}; transpose it with numpy.moveaxis(images, -3, -1)"
        )
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise UserError(
                f"{what} has values from {low:g} to {high:g}: expected floats in [0, 1], or uint8 or uint16"
            )
        return array.astype(np.float32)
    if array.dtype not in (np.uint8, np.uint16):
        raise _refuse(what, array, "uint8, uint16 or floats in [0, 1]; convert it with astype")
    return array


def _class(what: str, array: np.ndarray, names: Sequence[str] | None) -> tuple[Feature, np.ndarray]:
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise _refuse(what, array, "the number of a class for each example, integers [N]")
    if array.min() < 0:
        raise UserError(f"{what} holds the class {array.min()}: expected numbers from 0; leave unlabeled examples out")
    names = _names(what, names, int(array.max()) + 1)
    return Feature("class", (), "int32", names), array.astype(np.int32)


def _classes(what: str, array: np.ndarray, names: Sequence[str] | None) -> tuple[Feature, np.ndarray]:
    if array.ndim != 2 or not np.isin(array, (0, 1)).all():
        raise _refuse(what, array, "0 or 1 for each example and class [N, K]")
    count = array.shape[1]
    names = _names(what, names, count)
    if len(names) != count:
        raise UserError(f"{what} has {count} columns and {NAMES} {len(names)} names: give a name for each column")
    return Feature("classes", (count,), "int32", names), array.astype(np.int32)


def _mask(what: str, array: np.ndarray, names: Sequence[str] | None) -> tuple[Feature, np.ndarray]:
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3 or array.dtype.kind not in "iub":
        raise _refuse(what, array, "the number of a class for each pixel, integers [N, H, W]")
    if array.min() < -1:
        raise UserError(f"{what} holds the value {array.min()}: expected class numbers from 0, and -1 for void")
    void = None
    if array.min() == -1:
        # In an unsigned mask, void is 255 or, if that is a class, the number after the last class.
        void = max(255, int(array.max()) + 1) if 255 in array or array.max() > 255 else 255
        array = np.where(array == -1, void, array)
    there = np.unique(array).tolist()
    try:
        classes = mask_classes(there, names, void, what)
    except ValueError as error:
        raise UserError(f"{what} does not fit ({error}): change it or {NAMES}") from error
    if names is None and are_sparse(classes, there):
        raise UserError(
            f"{what} holds only {len(there)} of the numbers from 0 to {max(there)}: expected classes "
            f"numbered from 0, as numpy.unique(masks, return_inverse=True) does, or {NAMES} for all of them"
        )
    feature = classes.feature(array.shape[1:])
    return feature, classes.number(array).astype(feature.dtype)


def _boxes(what: str, array: np.ndarray, names: Sequence[str] | None) -> tuple[Feature, np.ndarray]:
    if array.ndim != 3 or array.shape[2] != 4 or array.shape[1] < 1:
        raise _refuse(what, array, "boxes [N, M, 4]: y0, x0, y1, x1 in pixels")
    return Feature("boxes", array.shape[1:], "float32"), array.astype(np.float32)


def _box_classes(what: str, array: np.ndarray, names: Sequence[str] | None) -> tuple[Feature, np.ndarray]:
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.shape[1] < 1:
        raise _refuse(what, array, "the number of a class for each box, integers [N, M], and -1 for no box")
    if array.min() < NO_BOX:
        raise UserError(f"{what} holds the class {array.min()}: expected numbers from 0, and -1 for no box")
    names = _names(what, names, int(array.max()) + 1)
    if not names:
        raise UserError(f"{what} holds no box at all: give some boxes, or {NAMES}")
    return Feature("box_classes", array.shape[1:], "int32", names), array.astype(np.int32)


def _number(what: str, array: np.ndarray, names: Sequence[str] | None) -> tuple[Feature, np.ndarray]:
    if array.ndim != 1 or not np.isfinite(array).all():
        raise _refuse(what, array, "a finite number for each example [N]")
    return Feature("number", (), "float32"), array.astype(np.float32)


CONVERT = {
    "image": _image,
    "clip": _clip,
    "length": _length,
    "class": _class,
    "classes": _classes,
    "mask": _mask,
    "boxes": _boxes,
    "box_classes": _box_classes,
    "number": _number,
}


def _names(what: str, names: Sequence[str] | None, least: int) -> tuple[str, ...]:
    if names is None:
        return tuple(str(number) for number in range(least))
    if len(names) < least:
        raise UserError(f"{what} holds {least} classes and {NAMES} {len(names)} names: give a name for each class")
    return tuple(str(name) for name in names)


def _cut(name: str, features: Mapping[str, Feature], whole: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of train and test: a seeded cut, with equal shares of each class if there are classes."""
    count = len(next(iter(whole.values())))
    if count < 2:
        raise UserError(f"{name} has {count} example: expected two or more, or a mapping for each of train and test")
    labels = [whole[each] for each, feature in features.items() if feature.kind == "class"]
    rows = np.random.default_rng(0).permutation(count)
    train, test = cut(rows, 0.2, labels[0] if labels else None)
    return {"train": train, "test": test}


def _identity(whole: Mapping[str, np.ndarray], features: Mapping[str, Feature], sizes: Mapping[str, int]) -> str:
    digest = hashlib.sha256(repr((features, sizes)).encode())
    for array in whole.values():
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
