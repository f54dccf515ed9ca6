"""A folder of images and their segmentation masks."""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.data.files import File, Options, arrange, attempt, open_files, readable, to_source
from jaxrec.data.images import open_image, probe_file, strict_pillow
from jaxrec.data.masks import MaskClasses, decode_mask, mask_classes
from jaxrec.data.reads import Reads, choose
from jaxrec.data.splits import Source, same_split
from jaxrec.data.walk import IMAGES, LeftOut, folders, inside, walk, why_left_out
from jaxrec.errors import UserError

CLASSES = "classes.txt"
"""Names the classes."""
BESIDE = "it lies neither in images/ nor in masks/"


class ClassList(NamedTuple):
    """What ``classes.txt`` says."""

    names: tuple[str, ...] | None = None
    void: int | None = None


def open_folder_masks(root: Path, reads: Reads, options: Options, remarks: tuple[str, ...]) -> Source:
    """The images in PATH/images/ and their masks in PATH/masks/, or both in PATH/SPLIT/ with a split named train.

    A mask is a palette or grey image of its image's size and name; its extension may differ. ``classes.txt`` in PATH
    may name the classes, one a line, and state ``void N``, the value of pixels that do not count. Without it, masks of
    0 and 255 alone are background and foreground; in others classes are numbers, and 255 is void.

    Raises UserError naming what is amiss.
    """
    chosen = choose(f"folder:{root}", reads, {"image": "image", "mask": "mask"})
    image, mask = sorted(chosen, key=lambda name: chosen[name])
    found = _find(root)
    listed = _read_classes(root / CLASSES)
    # The set is the same to whoever opens it, so its identity holds what the file says and not what a run knows.
    stated = repr(listed)
    if options.known is not None:
        feature = options.known.features[mask]
        listed = ClassList(feature.names, feature.void)
    with strict_pillow(), ThreadPoolExecutor() as pool:
        values, files, left_out = readable(pool.map(attempt(_values), found), found, options.skip_bad)
    classes = _classes(root, values, files, listed)
    opened = open_files(files, image, {}, options, (mask, classes))
    arranged = arrange(root, opened.files, options.known, None)
    taken = {path for file in found for path in (file.image, file.mask)}
    below = walk(root)
    left_out += [each for each in below.left_out if each.path != root / CLASSES]
    left_out += [LeftOut(path, "beside images/ and masks/", BESIDE) for path in below.images if path not in taken]
    return to_source(root, opened, arranged, left_out, remarks, also=stated)


def _find(root: Path) -> list[File]:
    """Every image with its mask."""
    if (root / "images").is_dir():
        return list(_pairs(root, ""))
    splits = [path for path in folders(root) if (path / "images").is_dir()]
    if not any(same_split(path.name, split) for path in splits for split in ("train", "test")):
        raise UserError(
            f"folder {root} holds no images with masks: expected {root}/images/ and {root}/masks/, "
            "or both of them in train/ and test/"
        )
    return [file for split in splits for file in _pairs(split, split.name)]


def _pairs(folder: Path, split: str) -> Iterator[File]:
    images, masks = _by_name(folder / "images"), _by_name(folder / "masks")
    if not images:
        raise UserError(f"folder {folder / 'images'} holds no images: add {IMAGES}")
    _check_partners(images, masks, folder / "masks", "mask")
    _check_partners(masks, images, folder / "images", "image")
    for name, path in images.items():
        yield File(path, split, mask=masks[name])


def _by_name(folder: Path) -> dict[str, Path]:
    """The image files in a folder by their name without the extension."""
    if not folder.is_dir():
        raise UserError(f"folder {folder} does not exist: expected images/ and masks/ side by side")
    found: dict[str, Path] = {}
    for path in inside(folder):
        if why_left_out(path) is not None:
            continue
        if path.stem in found:
            raise UserError(f"{found[path.stem]} and {path} have the same name: remove one of them")
        found[path.stem] = path
    return found


def _check_partners(files: Mapping[str, Path], partners: Mapping[str, Path], where: Path, kind: str) -> None:
    alone = [path for name, path in files.items() if name not in partners]
    if alone:
        others = f", nor have {len(alone) - 1} others" if len(alone) > 1 else ""
        raise UserError(
            f"{alone[0]} has no {kind} in {where}{others}: expected a file named {alone[0].stem} there, "
            "with any extension"
        )


def _values(file: File) -> set[int]:
    """The values of a mask's pixels, after a look at its size."""
    size = probe_file(file.image).size
    assert file.mask is not None
    with open_image(file.mask) as opened:
        mask = decode_mask(opened, (opened.height, opened.width))
    if mask.shape != size:
        raise UserError(
            f"{file.mask} has {mask.shape[0]}x{mask.shape[1]} pixels and its image {size[0]}x{size[1]}: "
            "give both the same size"
        )
    return set(np.unique(mask).tolist())


def _read_classes(path: Path) -> ClassList:
    """The names in a file, one a line, and its stated void value; nothing if there is no file."""
    if not path.exists():
        return ClassList()
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): expected the name of a class on each line") from error
    names, void = [], None
    for line in filter(None, lines):
        stated = re.fullmatch(r"void\s+(\d+)", line)
        if stated:
            void = int(stated[1])
        else:
            names.append(line)
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a class twice: expected a different name on each line")
    return ClassList(tuple(names) or None, void)


def _classes(root: Path, values: Sequence[set[int]], files: Sequence[File], listed: ClassList) -> MaskClasses:
    together = set().union(*values)
    try:
        return mask_classes(together, listed.names, listed.void, f"the masks of folder {root}")
    except ValueError as error:
        void = 255 if listed.void is None else listed.void
        beyond = {value for value in together if value >= len(listed.names or ())} - {void}
        wrong = next((file.mask for file, held in zip(files, values, strict=True) if held & beyond), files[0].mask)
        raise UserError(
            f"{wrong} does not fit the classes of folder {root} ({error}): "
            f"name each class, or state 'void N', in {root / 'classes.txt'}"
        ) from error
