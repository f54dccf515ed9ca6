"""A folder of images, in a folder per class or, for systems that need no classes, in any order."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jaxrec.data.features import Feature, Features
from jaxrec.data.files import (
    File,
    Options,
    Readable,
    arrange,
    check_trained,
    known_names,
    numbered,
    open_files,
    to_source,
)
from jaxrec.data.folder_boxes import open_folder_boxes
from jaxrec.data.folder_clips import CLIPS, FORMS, clips_in, open_clips
from jaxrec.data.folder_masks import open_folder_masks
from jaxrec.data.folder_pairs import open_folder_pairs
from jaxrec.data.labels import slips
from jaxrec.data.layout import Placed, Tree, is_split, place, tree_of
from jaxrec.data.reads import Reads, choose, images_read, needs, wants
from jaxrec.data.splits import Source, same_split
from jaxrec.data.walk import IMAGES, LeftOut, counted, folders, shown
from jaxrec.errors import UserError


def open_folder(path: str, reads: Reads, options: Options) -> Source:
    """The images in a folder, with what is read beside them.

    For a class, images lie below PATH/CLASS/; for a mask, in PATH/images/ with masks in PATH/masks/; with neither,
    anywhere in PATH. Each may lie below a folder per split: ``train`` or ``training``; ``val``, ``valid`` or
    ``validation``; ``test`` or ``testing``, in small or capital letters. Such a folder may also lie in each CLASS (see
    ``tree_of``). Without them the set is cut 80/20 into train and test. A single folder around it all is entered.
    If clips are read, each is a folder of images inside these folders, or an animated file, see ``clips_in``.
    Classes are sorted by name; the cut and the order within a split are seeded. For boxes, see ``open_folder_boxes``.
    For pairs of images, see ``open_folder_pairs``.
    Raises UserError naming what is amiss.
    """
    root = Path(os.path.expanduser(path))
    if not root.is_dir():
        raise UserError(f"folder {root} does not exist: expected a folder of images")
    source = _pairs_or_boxes(root, reads, options)
    if source is not None:
        return source
    clips = wants(reads, "clip")
    tree = tree_of(root, wants(reads, "class"), clips)
    if wants(reads, "mask"):
        return open_folder_masks(tree.root, reads, options, tree.remarks)
    frames: dict[Path, tuple[Path, ...]] = {}
    if clips:
        placed, frames, left_out = clips_in(tree, wants(reads, "class"))
    else:
        placed, left_out = place(tree)
    if needs(reads, "class") or (wants(reads, "class") and _has_classes(tree, placed)):
        return _open_classes(tree, placed, frames, left_out, reads, options)
    named = _named(root, reads, CLIPS if clips else {"image": "image"})
    if not placed:
        raise UserError(f"folder {root} holds no images: add {IMAGES}")
    files = [File(each.path, each.split, frames=frames.get(each.path, ())) for each in placed]
    opened = _opened(files, named, {}, options)
    arranged = arrange(tree.root, opened.files, options.known, None)
    empty = _empty(tree, placed, left_out)
    source = to_source(tree.root, opened, arranged, left_out, tree.remarks + _told(empty))
    return replace(source, empty={**source.empty, **empty})


def _pairs_or_boxes(root: Path, reads: Reads, options: Options) -> Source | None:
    """The set with pairs of images or with boxes; None if it has neither, and need not."""
    if len(images_read(reads)) > 1:
        return open_folder_pairs(root, reads, options)
    if not wants(reads, "boxes"):
        return None
    source = open_folder_boxes(root, reads, options)
    if source is None and needs(reads, "boxes"):
        raise UserError(
            f"folder {root} holds no boxes: expected COCO's JSON, Pascal VOC's XML or YOLO's text, "
            "beside the images or in a folder such as annotations/ or labels/"
        )
    return source


def _named(root: Path, reads: Reads, there: Mapping[str, str]) -> dict[str, str]:
    """What each of the folder's features is called in the batch."""
    return {key: name for name, key in choose(f"folder:{root}", reads, there).items()}


def _opened(files: Sequence[File], named: Mapping[str, str], values: Features, options: Options) -> Readable:
    if "clip" in named:
        return open_clips(files, named["clip"], named.get("length"), values, options)
    return open_files(files, named["image"], values, options)


def _open_classes(
    tree: Tree,
    placed: list[Placed],
    frames: Mapping[Path, tuple[Path, ...]],
    left_out: list[LeftOut],
    reads: Reads,
    options: Options,
) -> Source:
    root = tree.root
    there = CLIPS if frames else {"image": "image"}
    named = _named(root, reads, {**there, "label": "class"})
    label = named["label"]
    what, wanted = ("clips", FORMS) if frames else ("images", IMAGES)
    _check_class_folders(tree, placed, what, wanted)
    found = [each for each in placed if each.folder]
    outside = [each for each in placed if not each.folder]
    left_out += [LeftOut(each.path, "outside the class folders", "it lies in no class folder") for each in outside]
    if not found:
        raise UserError(f"folder {root} holds no {what} in class folders: add {wanted}")
    where = f"folder {root}"
    used = sorted({class_name(each.folder) for each in found})
    names = numbered(where, used, known_names(options.known, label))
    if len(names) < 2:
        raise UserError(
            f"folder {root} holds only one class, '{', '.join(names)}': expected at least two class folders"
        )
    files = []
    for each in found:
        values = {label: names.index(class_name(each.folder))}
        files.append(File(each.path, each.split, values, frames=frames.get(each.path, ())))
    opened = _opened(files, named, {label: Feature("class", (), "int32", tuple(names))}, options)
    if options.known is None:
        check_trained(where, opened.files, label, names)
    arranged = arrange(root, opened.files, options.known, label, names)
    empty = _empty(tree, found, left_out)
    remarks = tree.remarks + _told(empty) + slips(names)
    source = to_source(root, opened, arranged, left_out, remarks)
    return replace(source, empty={**source.empty, **empty})


def _has_classes(tree: Tree, placed: list[Placed]) -> bool:
    """Whether the images to train on lie in at least two folders, as those of classes do."""
    trained = {each.folder for each in placed if each.folder and _trains(tree, each.split)}
    return len(trained) >= 2


def _trains(tree: Tree, split: str) -> bool:
    return not tree.splits or same_split(split, "train")


def _check_class_folders(tree: Tree, placed: Sequence[Placed], what: str, wanted: str) -> None:
    """Raises UserError if there are no class folders, or if one of those to train on is empty; says what to add."""
    filled = {(each.split, each.folder) for each in placed}
    bases = [(split, tree.bases[folder]) for folder, split in tree.splits.items() if folder in tree.bases]
    for split, base in bases or [("", tree.root)]:
        if tree.inner or not _trains(tree, split):
            continue
        classes = folders(base)
        if not classes:
            raise UserError(f"folder {base} holds no class folders: expected {what} in {base}/CLASS/")
        for folder in classes:
            if (split, folder.name) not in filled:
                raise UserError(f"class folder {folder} holds no {what}: add {wanted}, or remove the folder")


def _empty(tree: Tree, found: Sequence[Placed], left_out: Sequence[LeftOut]) -> dict[str, str]:
    """The splits that have a folder but no examples, and why."""
    filled = {each.split for each in found}
    empty = {}
    for folder, base in tree.bases.items():
        split = tree.splits[folder]
        if split in filled:
            continue
        below = [each for each in left_out if each.path.is_relative_to(base)]
        why = f" ({counted(below)})" if below else ""
        empty[split] = f"folder {base} holds no images that count{why}"
    return empty


def _told(empty: Mapping[str, str]) -> tuple[str, ...]:
    """The sentences that say which splits have no examples; folders of other names may be no splits."""
    return tuple(f"split {split} is empty: {why}" for split, why in empty.items() if is_split(split))


def class_name(folder: str) -> str:
    """What a class is called: its folder's name, the same whatever system wrote it, and writable everywhere."""
    return unicodedata.normalize("NFC", shown(folder))
