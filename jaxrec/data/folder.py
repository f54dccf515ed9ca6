"""A folder of class folders, as an image set."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxrec.data.images import SUFFIXES, decode_file, probe_file, strict_pillow
from jaxrec.data.splits import Read, Shape, Source, from_arrays
from jaxrec.errors import UserError

HELD = 2**30
"""Bytes of decoded images up to which a folder is held in memory."""

LARGE = 1024
"""Pixels along a side from which an image's size is not given to all others unless asked for."""

_KINDS = ", ".join(SUFFIXES)
T = TypeVar("T")


@dataclass(frozen=True)
class _File:
    split: str
    label: str
    path: Path


def open_folder(path: str, image_size: int | None, skip_bad: bool) -> Source:
    """The images in PATH/CLASS/ or in PATH/SPLIT/CLASS/ with a split named train; else cut 80/20 into train and test.

    Classes are sorted by name; the cut and the order within a split are seeded. Images are RGB if any has colour, and
    ``image_size`` a side or the first one's size (see ``convert_image``). Every file's header is checked first, and
    every image decoded if they fit in memory together or ``skip_bad`` is set. Raises UserError naming what is amiss;
    ``skip_bad`` leaves unreadable files out and counts them.
    """
    root = Path(path).expanduser()
    found = _find(root)
    with strict_pillow(), ThreadPoolExecutor() as pool:
        probe = partial(_attempt, probe_file)
        headers, files = _readable(pool.map(probe, [file.path for file in found]), found, skip_bad)
        height, width = (image_size, image_size) if image_size else headers[0][0]
        if max(height, width) > LARGE and not image_size:
            raise UserError(
                f"{files[0].path} has {height}x{width} pixels, and all images would be given that size: "
                "choose a side such as 128 with --image-size"
            )
        shape = (height, width, 3 if any(colour for _, colour in headers) else 1)
        held = len(files) * prod(shape) <= HELD
        images: list[np.ndarray] = []
        if held or skip_bad:
            decode = partial(_attempt, partial(_decode, shape=shape, keep=held))
            images, files = _readable(pool.map(decode, [file.path for file in files]), files, skip_bad)
    classes = _classes(root, found, files)
    labels = np.array([classes.index(file.label) for file in files], np.int32)
    splits = _arrange(root, files, labels)
    order = np.concatenate(list(splits.values()))
    read = from_arrays(np.stack(images), labels) if held else _from_files([file.path for file in files], labels, shape)
    digest = hashlib.sha256()
    for place, file in enumerate(files):
        digest.update(f"{file.path.relative_to(root)} {file.path.stat().st_size}\n".encode())
        digest.update(file.path.read_bytes() if place < 100 else b"")
    return Source(
        read=lambda rows: read(order[rows]),
        sizes={split: len(rows) for split, rows in splits.items()},
        image_shape=shape,
        class_names=classes,
        identity=digest.hexdigest(),
        skipped=len(found) - len(files),
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _find(root: Path) -> list[_File]:
    """Every image file, its class and its split, "" where the folder has none."""
    if not root.is_dir():
        raise UserError(f"folder {root} does not exist: expected a folder with one folder of images per class")
    has_splits = (root / "train").is_dir() and bool(_folders(root / "train"))
    found = []
    for split in filter(_folders, _folders(root)) if has_splits else [root]:
        classes = _folders(split)
        if not classes:
            raise UserError(f"folder {split} holds no class folders: expected images in {split}/CLASS/")
        for folder in classes:
            paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            if not paths:
                raise UserError(f"class folder {folder} holds no images: add {_KINDS} files or remove the folder")
            found += [_File(split.name if has_splits else "", folder.name, path) for path in paths]
    return found


def _attempt(function: Callable[[Path], T], path: Path) -> T | UserError:
    try:
        return function(path)
    except UserError as error:
        return error


def _readable(results: Iterable, files: list[_File], skip_bad: bool) -> tuple[list, list[_File]]:
    """Drops the files that failed, or raises the first failure."""
    good = []
    for result, file in zip(results, files, strict=True):
        if not isinstance(result, UserError):
            good.append((result, file))
        elif not skip_bad:
            raise UserError(f"{result}, or leave out all such files with --skip-bad") from result
    if not good:
        raise UserError(f"none of the {len(files)} image files can be read, such as {files[0].path}: replace them")
    return [result for result, _ in good], [file for _, file in good]


def _decode(path: Path, shape: Shape, keep: bool) -> np.ndarray | None:
    image = decode_file(path, shape)
    return image if keep else None


def _classes(root: Path, found: list[_File], files: list[_File]) -> tuple[str, ...]:
    """The sorted class names, all of which training has readable images of."""
    names = sorted({file.label for file in found})
    if len(names) < 2:
        raise UserError(f"folder {root} holds one class only, '{names[0]}': expected at least two class folders")
    trained = {file.label for file in files if file.split in ("", "train")}
    if unseen := sorted(set(names) - trained):
        raise UserError(
            f"folder {root} has no readable training image of class '{unseen[0]}', "
            f"though a folder of that name: add images or remove the folder"
        )
    return tuple(names)


def _arrange(root: Path, files: list[_File], labels: np.ndarray) -> dict[str, np.ndarray]:
    """The files of each split in a seeded order, so that a slice of a split holds every class."""
    split_of = np.array([file.split for file in files])
    rows = np.random.default_rng(0).permutation(len(files))
    if split_of[0]:
        return {split: rows[split_of[rows] == split] for split in sorted(set(split_of.tolist()))}
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels)
    if counts.min() < 2:
        raise UserError(
            f"folder {root} has a single image of class '{files[labels.tolist().index(counts.argmin())].label}': "
            "expected two or more, one for training and one for the test; add some or give train and test folders"
        )
    test_size = max(len(counts), round(0.2 * len(files)))
    cut: Any = train_test_split(rows, test_size=test_size, random_state=0, stratify=labels[rows])
    return {"train": cut[0], "test": cut[1]}


def _from_files(paths: list[Path], labels: np.ndarray, shape: Shape) -> Read:
    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": np.stack([decode_file(paths[row], shape) for row in rows]), "label": labels[rows]}

    return read
