"""Opens the set a name stands for, and cuts its splits."""

import hashlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from jaxrec.data.prepared import cache_dir, open_prepared, tfds_dir
from jaxrec.data.splits import KEPT, Shape, Source, Split
from jaxrec.errors import UserError, nearest


@dataclass(frozen=True)
class Dataset:
    """An image set, opened."""

    name: str
    """As the user gave it."""
    image_shape: Shape
    """Height, width, and 1 (grey) or 3 (RGB) channels of every image."""
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    """``train`` and ``test``."""
    fingerprint: str
    """Hexadecimal SHA-256 that differs where the set's files, its classes, image shape or training split differ.

    Files are told apart by name, size and, of the first hundred, content.
    """
    skipped: int
    """Unreadable images left out."""


def open_dataset(
    name: str,
    *,
    data_dir: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    image_size: int | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """Opens ``digits``, ``synthetic``, ``folder:PATH`` or a prepared TFDS set.

    Splits use TFDS's slicing, such as ``train[:80%]``, on every kind of set. ``data_dir`` is where prepared sets lie;
    ``image_size`` resizes the images to a square, as ``convert_image`` does. Raises UserError naming what is amiss.
    """
    if image_size is not None and image_size < 1:
        raise UserError(f"image size {image_size} is not possible: expected 1 or more pixels; change --image-size")
    source = _open_source(name, data_dir, image_size, skip_bad)
    splits = {}
    for role, spec in (("train", train_split), ("test", test_split)):
        rows = _rows(name, spec, role, source.sizes)
        splits[role] = Split(source.read, rows, source.image_shape, _kept(source, rows))
    content = (source.identity, source.image_shape, source.class_names, train_split)
    fingerprint = hashlib.sha256(repr(content).encode()).hexdigest()
    return Dataset(name, source.image_shape, source.class_names, splits, fingerprint, source.skipped)


def _kept(source: Source, rows: np.ndarray) -> Path | None:
    """Where these rows stay decoded, if they do."""
    if not source.version or len(rows) * prod(source.image_shape) > KEPT:
        return None
    key = hashlib.sha256(repr((source.identity, source.version, source.image_shape)).encode() + rows.tobytes())
    return cache_dir() / "images" / f"{key.hexdigest()[:32]}.npy"


def _open_source(name: str, data_dir: str | None, image_size: int | None, skip_bad: bool) -> Source:
    if name.startswith("folder:"):
        from jaxrec.data.folder import open_folder

        return open_folder(name.removeprefix("folder:"), image_size, skip_bad)
    if name == "synthetic":
        from jaxrec.data.synthetic import open_synthetic

        return open_synthetic(image_size)
    if name == "digits":
        from jaxrec.data.digits import NAME, prepare_digits

        return open_prepared(NAME, prepare_digits(), image_size)
    return open_prepared(name, tfds_dir(data_dir), image_size)


def _rows(name: str, spec: str, role: str, sizes: dict[str, int]) -> np.ndarray:
    """The rows of a source that a split with TFDS's slicing stands for."""
    import tensorflow_datasets as tfds

    asked = [part.partition("[")[0].strip() for part in spec.split("+")]
    if missing := [split for split in asked if split not in sizes]:
        raise UserError(
            f"dataset '{name}' has no split '{missing[0]}', only {', '.join(sizes)}: "
            f"change --{role}-split{nearest(missing[0], sizes)}"
        )
    known = {split: tfds.core.SplitInfo(name=split, shard_lengths=[size], num_bytes=0) for split, size in sizes.items()}
    try:
        instructions = tfds.core.ReadInstruction.from_spec(spec).to_absolute(known)
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"--{role}-split {spec} of dataset '{name}' cannot be read: expected a slice such as {asked[0]}[:80%] "
            f"of the {sizes[asked[0]]} examples; change --{role}-split"
        ) from error
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    parts = [starts[part.splitname] + np.arange(sizes[part.splitname])[part.from_ : part.to] for part in instructions]
    rows = np.concatenate(parts)
    if not len(rows):
        raise UserError(f"--{role}-split {spec} of dataset '{name}' holds no examples: choose a larger slice")
    return rows
