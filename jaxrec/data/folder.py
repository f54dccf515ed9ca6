"""A folder of images, in a folder per class or, for systems that need no classes, in any order."""

import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

from jaxrec.data.features import Feature
from jaxrec.data.files import File, Options, arrange, check_trained, known_names, numbered, open_files, to_source
from jaxrec.data.folder_boxes import open_folder_boxes
from jaxrec.data.folder_masks import open_folder_masks
from jaxrec.data.reads import Reads, choose, needs, wants
from jaxrec.data.splits import SAME_SPLIT, Source, same_split
from jaxrec.data.walk import IMAGES, LeftOut, folders, inside, shown, walk, why_left_out
from jaxrec.errors import UserError


class Tree(NamedTuple):
    """A folder of images, and how it is cut into splits."""

    root: Path
    """The folder that holds the splits or classes."""
    splits: tuple[str, ...]
    """The names of the folders that are splits; none if the set is to be cut."""
    remarks: tuple[str, ...] = ()


class Placed(NamedTuple):
    """An image file, and the folders that it lies in."""

    path: Path
    split: str
    """Empty if the set is to be cut."""
    folder: str
    """The folder inside the split, which is a class's if classes are read; empty if it lies in none."""


def open_folder(path: str, reads: Reads, options: Options) -> Source:
    """The images in a folder, with what is read beside them.

    For a class, images lie below PATH/CLASS/; for a mask, in PATH/images/ with masks in PATH/masks/; with neither,
    anywhere in PATH. Each may lie below a folder per split: ``train`` or ``training``; ``val``, ``valid`` or
    ``validation``; ``test`` or ``testing``, in small or capital letters. Without them the set is cut 80/20 into train
    and test. A single folder around it all is entered. Classes are sorted by name; the cut and the order within a split
    are seeded. For boxes, see ``open_folder_boxes``. Raises UserError naming what is amiss.
    """
    root = Path(os.path.expanduser(path))
    if not root.is_dir():
        moved = "" if options.known is None else "; if it was moved, name it with --dataset folder:PATH"
        raise UserError(f"folder {root} does not exist: expected a folder of images{moved}")
    if wants(reads, "boxes"):
        source = open_folder_boxes(root, reads, options)
        if source is not None:
            return source
        if needs(reads, "boxes"):
            raise UserError(
                f"folder {root} holds no boxes: expected COCO's JSON, Pascal VOC's XML or YOLO's text, "
                "beside the images or in a folder such as annotations/ or labels/"
            )
    tree = _tree(root, wants(reads, "class"))
    if wants(reads, "mask"):
        return open_folder_masks(tree.root, reads, options, tree.remarks)
    placed, left_out = _placed(tree)
    if needs(reads, "class") or (wants(reads, "class") and _has_classes(tree, placed)):
        return _open_classes(tree, placed, left_out, reads, options)
    (image,) = choose(f"folder:{root}", reads, {"image": "image"})
    if not placed:
        raise UserError(f"folder {root} holds no images: add {IMAGES}")
    opened = open_files([File(each.path, each.split) for each in placed], image, {}, options)
    arranged = arrange(tree.root, opened.files, options.known, None)
    return to_source(tree.root, opened, arranged, left_out, tree.remarks)


def _open_classes(tree: Tree, placed: list[Placed], left_out: list[LeftOut], reads: Reads, options: Options) -> Source:
    root = tree.root
    chosen = choose(f"folder:{root}", reads, {"image": "image", "label": "class"})
    image, label = sorted(chosen, key=lambda name: chosen[name])
    _check_class_folders(tree, placed)
    found = [each for each in placed if each.folder]
    outside = [each for each in placed if not each.folder]
    left_out += [LeftOut(each.path, "outside the class folders", "it lies in no class folder") for each in outside]
    if not found:
        raise UserError(f"folder {root} holds no images in class folders: add {IMAGES}")
    where = f"folder {root}"
    names = numbered(where, sorted({class_name(each.folder) for each in found}), known_names(options.known, label))
    if len(names) < 2:
        raise UserError(
            f"folder {root} holds one class only, '{', '.join(names)}': expected at least two class folders"
        )
    files = []
    for each in found:
        files.append(File(each.path, each.split, {label: names.index(class_name(each.folder))}))
    opened = open_files(files, image, {label: Feature("class", (), "int32", tuple(names))}, options)
    if options.known is None:
        check_trained(where, opened.files, label, names)
    arranged = arrange(root, opened.files, options.known, label, names)
    return to_source(root, opened, arranged, left_out, tree.remarks)


def _tree(root: Path, classes: bool) -> Tree:
    """The splits of a folder or, if it holds a single folder and no image, of that one."""
    remarks: tuple[str, ...] = ()
    while True:
        splits = _split_folders(root, classes)
        below = folders(root)
        # A single folder with images of its own is a class, or a set without classes.
        wraps = len(below) == 1 and bool(folders(below[0])) and not _holds_images(root, below[0])
        if splits or not wraps:
            return Tree(root, splits, remarks)
        root = below[0]
        remarks = (f"the set is taken from {shown(root)}, the only folder there",)


def _split_folders(root: Path, classes: bool) -> tuple[str, ...]:
    """The names of the folders that are splits; none if the folders are those of classes."""
    below = folders(root)
    known = [path for path in below if any(same_split(path.name, group[0]) for group in SAME_SPLIT)]
    trained = [path for path in known if same_split(path.name, "train")]
    # A class may be called train: then it stands beside others, and holds no folders.
    stated = bool(trained) if not classes else any(folders(path) for path in trained)
    if not stated and (not known or len(known) < len(below)):
        return ()
    for group in SAME_SPLIT:
        named = [path.name for path in below if same_split(path.name, group[0])]
        if len(named) > 1:
            raise UserError(
                f"folder {root} holds {' and '.join(named)}, which mean one split: "
                "put their images together, or rename one of them"
            )
    return tuple(path.name for path in below)


def _holds_images(*places: Path) -> bool:
    """Whether images lie in one of the folders themselves."""
    return any(path.is_file() and why_left_out(path) is None for place in places for path in inside(place))


def _placed(tree: Tree) -> tuple[list[Placed], list[LeftOut]]:
    """Every image file with its split and folder, and what is left out."""
    found, left_out = walk(tree.root)
    placed = []
    for path in found:
        above = path.relative_to(tree.root).parts[:-1]
        if tree.splits and not above:
            left_out.append(LeftOut(path, "beside the splits", "it lies in no split's folder"))
            continue
        split, rest = (above[0], above[1:]) if tree.splits else ("", above)
        placed.append(Placed(path, split, rest[0] if rest else ""))
    return placed, left_out


def _has_classes(tree: Tree, placed: list[Placed]) -> bool:
    """Whether the images to train on lie in at least two folders, as those of classes do."""
    return len({each.folder for each in placed if each.folder and _trains(tree, each.split)}) >= 2


def _trains(tree: Tree, split: str) -> bool:
    return not tree.splits or same_split(split, "train")


def _check_class_folders(tree: Tree, placed: list[Placed]) -> None:
    """Raises UserError if there are no class folders, or if one of those to train on is empty."""
    filled = {(each.split, each.folder) for each in placed}
    for split in filter(lambda split: _trains(tree, split), tree.splits or ("",)):
        place = tree.root / split
        classes = folders(place)
        if not classes:
            raise UserError(f"folder {place} holds no class folders: expected images in {place}/CLASS/")
        for folder in classes:
            if (split, folder.name) not in filled:
                raise UserError(f"class folder {folder} holds no images: add {IMAGES}, or remove the folder")


def class_name(folder: str) -> str:
    """What a class is called: its folder's name, the same whatever system wrote it, and writable everywhere."""
    return unicodedata.normalize("NFC", shown(folder))
