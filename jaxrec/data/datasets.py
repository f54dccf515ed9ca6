"""Opens the set that a name stands for, and cuts its splits."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.cache import cache_dir
from jaxrec.data.decoded import Decoded
from jaxrec.data.features import Features, check, nbytes, to_json
from jaxrec.data.files import Known, Options
from jaxrec.data.reads import Reads, check_reads, images_read, wants
from jaxrec.data.sizes import check_resize, parse_size
from jaxrec.data.slices import parse_slices
from jaxrec.data.splits import Source, Split, named_split
from jaxrec.data.walk import LeftOut
from jaxrec.errors import UserError, nearest

READS = {"image": "image", "label": "class"}
ARRAYS = "arrays"
"""The name of a data set that was given as arrays."""
BOUNCING = {"bouncing": ("digits", 32), "bouncing_mnist": ("mnist", 64)}
"""The sets of bouncing digits: the set whose digits they are drawn with, and the usual side of a frame."""
SCATTERED = {
    "translated": ("digits", 32, 0),
    "translated_mnist": ("mnist", 60, 0),
    "cluttered": ("digits", 32, 4),
    "cluttered_mnist": ("mnist", 60, 4),
}
"""The sets of a digit on a canvas: whose digits, the usual side, and how many pieces of other digits."""
STACKED = {"stacked": "digits", "stacked_mnist": "mnist"}
"""The sets of three digits each: the set whose digits they are made of."""
KEPT = 2**30
"""Bytes of decoded examples up to which a split is kept decoded from one run to the next."""


@dataclass(frozen=True)
class Dataset:
    """An image set, opened."""

    name: str
    """As the user gave it."""
    features: Features
    """What an example is made of."""
    splits: dict[str, Split]
    """``train``, ``test`` and, if the set has one of its own, ``validation``."""
    fingerprint: str
    """Hexadecimal SHA-256 that differs if the set's files, its classes, image shape or training split differ.

    Files are told apart by name, size and, of the first hundred, content.
    """
    left_out: tuple[LeftOut, ...] = ()
    """Files that are not read."""
    files: tuple[str, ...] = ()
    """The file of each row of the set's source, its path from the folder of the set; empty if there are none."""
    digests: tuple[str, ...] = ()
    """What tells the content of each of these files apart."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Number of rows in each split of the source, one after the other."""
    remarks: tuple[str, ...] = ()
    """What a user should know of how the images are read, a sentence each."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The cells of each row of the set's source by column, if a table names the examples."""
    channels: "Dataset | None" = None
    """The set whose images are this set's channels, if there is one; classes are the channels' in turn."""


def open_dataset(
    data: str | Mapping[str, Any],
    *,
    reads: Reads = READS,
    data_dir: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    validation_split: str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    resize: str | None = None,
    image_key: str | None = None,
    skip_bad: bool = False,
    known: Known | None = None,
    only_test: bool = False,
) -> Dataset:
    """Opens a set by its name, or arrays.

    Args:
        data: ``digits``, ``scenes``, ``moving``, ``bouncing``, ``translated``, ``cluttered``, ``stacked``, these four
            with ``_mnist``, ``synthetic``, ``folder:PATH``, ``csv:FILE``, ``npz:FILE``, the name of a prepared TFDS
            set, or a dictionary of arrays (see ``open_arrays``).
        reads: What to read: names in the batch and their kinds, such as ``{"image": "image", "mask": "mask"}``. A kind
            may be one of several, ``"class|classes"``, of which the first that the set has is taken.
        data_dir: Where prepared sets lie, or the original files of MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100.
        train_split: What ``train`` is, in TFDS's slicing, such as ``train[:80%]``; on every kind of set.
        test_split: What ``test`` is.
        validation_split: What ``validation`` is. Default: the set's split called validation, val or valid, unless that
            is in ``train`` or ``test``.
        image_size: Resizes images, and masks with them: to a square of this side, or to height x width, ``"224x160"``
            or ``(224, 160)``. Default: the images' own size or, if they differ, that of the first one.
        resize: How images of another shape are brought to that size: ``crop``, ``pad`` or ``stretch``. Default:
            ``pad`` if boxes are read, ``crop`` otherwise.
        image_key: The feature of a prepared set that is the image, if it has several; of a folder of pairs, A or B.
        skip_bad: Leaves out files that cannot be read, instead of stopping there.
        known: What a run knows of the set that it was trained on: classes keep their numbers, images their form, and
            files their split.
        only_test: Opens ``test`` alone; no other split need be there.

    Raises:
        UserError: The set is not there, has not what is read, or cannot be read.
    """
    resize = resize or _usual_resize(reads)
    check_resize(resize)
    options = Options(parse_size(image_size), resize, skip_bad, image_key, known=known)
    check_reads(reads)
    if isinstance(data, str):
        name, source = data, _open_source(data, reads, data_dir, options)
    else:
        name, source = ARRAYS, _arrays(data, reads, options)
    if wants(reads, "boxes"):
        source = _with_resize(source, resize)
    check(source.features)
    specs = {"test": test_split}
    if not only_test:
        specs = {"train": train_split, **specs}
        own = validation_split or _own_validation(specs, source.sizes)
        specs |= {} if own is None else {"validation": own}
    splits = {}
    for role, spec in specs.items():
        rows = _rows(name, spec, role, source)
        kept = _kept(name, source, rows)
        splits[role] = Split(source.read, rows, source.features, kept, source.files, source.classes)
    content = (source.identity, to_json(source.features), train_split)
    fingerprint = hashlib.sha256(repr(content).encode()).hexdigest()
    remarks = source.remarks if only_test else (*source.remarks, *_unused(specs, source.sizes))
    return Dataset(
        name,
        source.features,
        splits,
        fingerprint,
        source.left_out,
        source.files,
        source.digests,
        source.sizes,
        remarks,
        source.columns,
        source.channels,
    )


def _usual_resize(reads: Reads) -> str:
    """Boxes are not to be cut off, so images with boxes get borders."""
    return "pad" if wants(reads, "boxes") else "crop"


def _with_resize(source: Source, resize: str) -> Source:
    """The source whose images say how others are brought to their size, even if none of its own had another."""
    features = {}
    for name, feature in source.features.items():
        features[name] = feature._replace(resize=resize) if feature.kind == "image" else feature
    return replace(source, features=features)


def absolute_name(name: str) -> str:
    """The name of a set with a path that holds in every working directory."""
    kind, colon, path = name.partition(":")
    if colon and path and kind in PATHS:
        return f"{kind}:{os.path.abspath(Path(path).expanduser())}"
    return name


def _own_validation(specs: Mapping[str, str], sizes: Mapping[str, int]) -> str | None:
    """The name of the set's own validation split, unless another role takes it."""
    found = named_split("validation", sizes)
    return None if found is None or found in _used(specs, sizes) else found


def _used(specs: Mapping[str, str], sizes: Mapping[str, int]) -> set[str | None]:
    """The splits of which the roles take something."""
    used = set()
    for spec in specs.values():
        for part in spec.split("+"):
            split = part.partition("[")[0].strip()
            used.add(named_split(split, sizes))
    return used


def _unused(specs: Mapping[str, str], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The sentence that says which splits are not used at all; none if all are."""
    unused = [f"{split} ({size:,})" for split, size in sizes.items() if split not in _used(specs, sizes)]
    return (f"splits that are not used, with their examples: {', '.join(unused)}",) if unused else ()


def _arrays(data: Any, reads: Reads, options: Options) -> Source:
    from jaxrec.data.arrays import open_arrays

    if not isinstance(data, Mapping):
        raise UserError(
            f"data are {type(data).__name__}: expected the name of a set, "
            "or a dictionary of arrays such as image and label"
        )
    _refuse_size("arrays", options)
    _refuse_image_key("arrays", options)
    return open_arrays(data, reads, trains=options.known is None)


def _kept(name: str, source: Source, rows: np.ndarray) -> Decoded | None:
    """Where the set's examples stay decoded, if these rows are few enough."""
    if not source.version or len(rows) * nbytes(source.features) > KEPT:
        return None
    key = hashlib.sha256(repr((source.identity, source.version, to_json(source.features))).encode())
    folder = cache_dir() / "decoded" / key.hexdigest()[:32]
    return Decoded(folder, sum(source.sizes.values()), source.features, name=name)


def _folder(path: str, reads: Reads, options: Options) -> Source:
    from jaxrec.data.folder import open_folder

    if len(images_read(reads)) < 2:
        _refuse_image_key(f"folder:{path}", options)
    return open_folder(path, reads, options)


def _csv(path: str, reads: Reads, options: Options) -> Source:
    from jaxrec.data.csv_file import open_csv

    _refuse_image_key(f"csv:{path}", options)
    return open_csv(path, reads, options)


def _npz(path: str, reads: Reads, options: Options) -> Source:
    from jaxrec.data.arrays import open_npz

    _refuse_image_key(f"npz:{path}", options)
    _refuse_size(f"npz:{path}", options)
    return open_npz(path, reads, trains=options.known is None)


def _refuse_size(what: str, options: Options) -> None:
    if options.size is not None:
        raise UserError(f"{what} have the size of their arrays: resize these, or drop --image-size")


def _refuse_image_key(what: str, options: Options) -> None:
    if options.image_key is not None:
        raise UserError(
            f"--image-key {options.image_key} cannot be applied to {what}: it chooses one of the images of a prepared "
            "data set; remove it"
        )


def _synthetic(reads: Reads, options: Options) -> Source:
    from jaxrec.data.synthetic import open_synthetic

    return open_synthetic(reads, options.size or (32, 32))


def _digits(reads: Reads, options: Options) -> Source:
    from jaxrec.data.digits import open_digits

    return open_digits(reads, options)


def _scenes(reads: Reads, options: Options) -> Source:
    from jaxrec.data.scenes import open_scenes

    return open_scenes(reads, _side("scenes", options, 64))


def _moving(reads: Reads, options: Options) -> Source:
    from jaxrec.data.moving import open_moving

    return open_moving(reads, _side("moving", options, 32))


def _bouncing(name: str, reads: Reads, data_dir: str | None, options: Options) -> Source:
    """Bouncing digits of another set, which has to be there."""
    from jaxrec.data.bouncing import open_bouncing

    digits_name, side = BOUNCING[name]
    digits = open_dataset(digits_name, reads={"image": "image"}, data_dir=data_dir)

    def ink(split: str) -> np.ndarray:
        whole = digits.splits[split].cached()
        return whole.read(np.arange(len(whole)))["image"][..., 0]

    return open_bouncing(name, reads, _side(name, options, side), ink, digits.fingerprint)


def _scattered(name: str, reads: Reads, data_dir: str | None, options: Options) -> Source:
    """Digits of another set on larger canvases; that set has to be there."""
    from jaxrec.data.scattered import Ink, open_scattered

    digits_name, side, pieces = SCATTERED[name]
    digits = open_dataset(digits_name, data_dir=data_dir)

    def ink(split: str) -> Ink:
        whole = digits.splits[split].cached()
        examples = whole.read(np.arange(len(whole)))
        return Ink(examples["image"][..., 0], examples["label"])

    counts = {split: len(digits.splits[split]) for split in ("train", "test")}
    return open_scattered(name, reads, _side(name, options, side), pieces, counts, ink, digits.fingerprint)


def _stacked(name: str, reads: Reads, data_dir: str | None, options: Options) -> Source:
    """Three digits of another set, which has to be there, as the channels of an image."""
    from jaxrec.data.stacked import open_stacked

    digits = open_dataset(STACKED[name], data_dir=data_dir, image_size=options.size)

    def examples(split: str) -> tuple[np.ndarray, np.ndarray]:
        found = whole(split)
        return found["image"], found["label"]

    @cache
    def whole(split: str) -> dict[str, np.ndarray]:
        kept = digits.splits[split].cached()
        return kept.read(np.arange(len(kept)))

    return open_stacked(name, reads, digits, examples)


def _side(name: str, options: Options, usual: int) -> int:
    """The side of the images of a set of squares."""
    height, width = options.size or (usual, usual)
    if height != width:
        raise UserError(f"--image-size {height}x{width} cannot be had of {name}, which are squares: give one number")
    return height


PATHS: dict[str, Callable[[str, Reads, Options], Source]] = {"folder": _folder, "csv": _csv, "npz": _npz}
MADE: dict[str, Callable[[Reads, Options], Source]] = {
    "synthetic": _synthetic,
    "digits": _digits,
    "scenes": _scenes,
    "moving": _moving,
}
DRAWN = ((BOUNCING, _bouncing), (SCATTERED, _scattered), (STACKED, _stacked))
"""Sets that are drawn with the digits of others, and what opens them."""


def _open_source(name: str, reads: Reads, data_dir: str | None, options: Options) -> Source:
    kind, colon, path = name.partition(":")
    if not name.strip():
        raise UserError("--dataset is empty: name a data set, or leave the option out")
    if colon and kind in PATHS:
        # An empty path would be the working directory.
        if not path.strip():
            raise UserError(f"--dataset {name} names no path: expected {kind}:PATH")
        return PATHS[kind](path, reads, options)
    if name == ARRAYS:
        raise UserError(
            "the run was trained on arrays given in Python; give them again: "
            "jaxrec.load(run).evaluate(dataset=arrays), or jaxrec.fit(config, arrays) to go on"
        )
    if name in MADE:
        _refuse_image_key(name, options)
        return MADE[name](reads, options)
    for names, opener in DRAWN:
        if name in names:
            _refuse_image_key(name, options)
            return opener(name, reads, data_dir, options)
    return _open_found(name, reads, data_dir, options)


def _open_found(name: str, reads: Reads, data_dir: str | None, options: Options) -> Source:
    """A prepared set or, without it, the files that a set's authors publish."""
    from jaxrec.data.originals import ORIGINALS, open_original, where_to_get
    from jaxrec.data.prepared import find_prepared, missing_set, open_prepared, tfds_dir

    folder = tfds_dir(data_dir)
    path = find_prepared(name, folder)
    if path is not None:
        return open_prepared(name, path, reads, options)
    others = [*MADE, *BOUNCING, *SCATTERED, *STACKED, *ORIGINALS]
    if name not in ORIGINALS:
        raise missing_set(name, folder, others)
    found = open_original(name, folder, reads, options)
    if found is None:
        raise missing_set(name, folder, others, where_to_get(name, folder))
    _refuse_image_key(f"{name} from its original files", options)
    return found


def _rows(name: str, spec: str, role: str, source: Source) -> np.ndarray:
    """The rows of a source that a split with TFDS's slicing stands for."""
    sizes = source.sizes
    spec, asked = _known_names(name, spec, role, source)
    firsts = np.cumsum([0, *sizes.values()]).tolist()
    rows_of = {split: first + np.arange(size) for (split, size), first in zip(sizes.items(), firsts, strict=False)}
    if "[" in spec:
        parts = [rows_of[split][part] for split, part in _slices(name, spec, role, sizes)]
    else:
        parts = [rows_of[split] for split in asked]
    rows = np.concatenate(parts)
    if not len(rows):
        raise UserError(f"--{role}-split {spec} of dataset '{name}' holds no examples: choose a larger slice")
    return rows


def _known_names(name: str, spec: str, role: str, source: Source) -> tuple[str, list[str]]:
    """A split in TFDS's slicing with the set's own names, and these; ``train`` may stand for ``Training``."""
    parts, asked = [], []
    for part in spec.split("+"):
        split, bracket, rest = part.strip().partition("[")
        known = named_split(split.strip(), source.sizes)
        if known is None:
            raise _no_split(name, split.strip(), role, source)
        parts.append(f"{known}{bracket}{rest}")
        asked.append(known)
    return "+".join(parts), asked


def _no_split(name: str, split: str, role: str, source: Source) -> UserError:
    """What to say if a split is asked for that is not there, or is empty."""
    empty = named_split(split, source.empty)
    if empty is not None:
        return UserError(f"split '{empty}' of dataset '{name}' is empty: {source.empty[empty]}")
    advice = f"change --{role}-split{nearest(split, source.sizes)}"
    train = named_split("train", source.sizes)
    if split == role == "test" and train is not None:
        others = [f"--test-split {each}" for each in source.sizes if each != train]
        cut = f"--train-split '{train}[:80%]' --test-split '{train}[80%:]'"
        advice = f"give {' or '.join([*others, cut])}"
    return UserError(f"dataset '{name}' has no split '{split}', only {', '.join(source.sizes)}: {advice}")


def _slices(name: str, spec: str, role: str, sizes: dict[str, int]) -> list[tuple[str, slice]]:
    try:
        return parse_slices(spec, sizes)
    except ValueError as error:
        first = spec.partition("[")[0].partition("+")[0].strip()
        raise UserError(
            f"--{role}-split {spec} of dataset '{name}' cannot be read: expected a slice such as {first}[:80%] "
            f"of the {sizes[first]} examples; change --{role}-split"
        ) from error
