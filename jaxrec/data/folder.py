"""A folder of images, in a folder per class or, for systems that need no classes, in any order."""

import os
from collections.abc import Iterator
from pathlib import Path

from jaxrec.data.features import Feature
from jaxrec.data.files import File, Options, arrange, check_trained, open_files, to_source
from jaxrec.data.folder_masks import open_folder_masks
from jaxrec.data.images import SUFFIXES
from jaxrec.data.reads import Reads, choose, needs, wants
from jaxrec.data.splits import Source
from jaxrec.errors import UserError

KINDS = ", ".join(SUFFIXES)


def open_folder(path: str, reads: Reads, options: Options) -> Source:
    """The images in a folder, with what is read beside them.

    For a class, images lie in PATH/CLASS/; for a mask, in PATH/images/ with masks in PATH/masks/; with neither,
    anywhere in PATH. Each may lie below a folder per split, of which one is called train; else the set is cut 80/20
    into train and test. Classes are sorted by name; the cut and the order within a split are seeded. Raises UserError
    naming what is amiss.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"folder {root} does not exist: expected a folder of images")
    if wants(reads, "mask"):
        return open_folder_masks(root, reads, options)
    if needs(reads, "class") or (wants(reads, "class") and _has_classes(root)):
        return _open_classes(root, reads, options)
    (image,) = choose(f"folder:{root}", reads, {"image": "image"})
    found = list(_any_images(root))
    if not found:
        raise UserError(f"folder {root} holds no images: add {KINDS} files")
    opened = open_files(found, image, {}, options)
    splits = arrange(f"folder {root}", opened.files, None)
    return to_source(root, opened, splits, len(found) - len(opened.files))


def _open_classes(root: Path, reads: Reads, options: Options) -> Source:
    chosen = choose(f"folder:{root}", reads, {"image": "image", "label": "class"})
    image, label = sorted(chosen, key=lambda name: chosen[name])
    found = _find_classes(root)
    names = sorted({class_name for class_name, _ in found})
    if len(names) < 2:
        raise UserError(f"folder {root} holds one class only, '{names[0]}': expected at least two class folders")
    files = [file._replace(values={label: names.index(class_name)}) for class_name, file in found]
    opened = open_files(files, image, {label: Feature("class", (), "int32", tuple(names))}, options)
    check_trained(f"folder {root}", opened.files, label, names)
    splits = arrange(f"folder {root}", opened.files, label, names)
    return to_source(root, opened, splits, len(files) - len(opened.files))


def _has_classes(root: Path) -> bool:
    """Whether the images lie in at least two folders, as those of classes do."""
    train = root / "train"
    places = folders(train) if train.is_dir() and folders(train) else folders(root)
    return sum(bool(images_in(place)) for place in places) >= 2


def _find_classes(root: Path) -> list[tuple[str, File]]:
    """Every image file and the name of its class."""
    has_splits = (root / "train").is_dir() and bool(folders(root / "train"))
    found = []
    for split in filter(folders, folders(root)) if has_splits else [root]:
        classes = folders(split)
        if not classes:
            raise UserError(f"folder {split} holds no class folders: expected images in {split}/CLASS/")
        for folder in classes:
            paths = images_in(folder)
            if not paths:
                raise UserError(f"class folder {folder} holds no images: add {KINDS} files or remove the folder")
            found += [(folder.name, File(path, split.name if has_splits else "")) for path in paths]
    return found


def _any_images(root: Path) -> Iterator[File]:
    """Every image file below a folder, whatever the folder it lies in."""
    has_splits = (root / "train").is_dir()
    for split in folders(root) if has_splits else [root]:
        for folder, below, _ in os.walk(split):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for path in images_in(Path(folder)):
                yield File(path, split.name if has_splits else "")


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
