"""A folder of images and their segmentation masks."""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.data.features import Feature
from jaxrec.data.files import Arranged, File, Options, arrange, attempt, open_files, readable, to_source
from jaxrec.data.headers import told_pages
from jaxrec.data.images import Header, Unreadable, open_image, probe_file, strict_pillow
from jaxrec.data.masks import MaskClasses, decode_mask, mask_classes, renumbered
from jaxrec.data.reads import Reads, choose
from jaxrec.data.splits import Source, few, named_split, same_split
from jaxrec.data.walk import IMAGES, LeftOut, folders, inside, walk, why_left_out
from jaxrec.errors import UserError

CLASSES = "classes.txt"
"""Names the classes."""
BESIDE = "it lies neither in images/ nor in masks/"


class ClassList(NamedTuple):
    """What ``classes.txt`` says."""

    names: tuple[str, ...] | None = None
    void: int | None = None


class Seen(NamedTuple):
    """What a look at a mask has shown."""

    path: Path
    values: set[int]
    colors: dict[int, tuple[int, ...]]
    """Of its values, by its palette; none if it is gray."""
    header: Header
    turned_alike: bool
    """Whether EXIF turns it as it turns its image."""


def open_folder_masks(root: Path, reads: Reads, options: Options, remarks: tuple[str, ...]) -> Source:
    """The images in PATH/images/ and their masks in PATH/masks/, or both in PATH/SPLIT/ with a split named train.

    A mask is a palette or grey image of its image's size and name; its extension may differ. ``classes.txt`` in PATH
    may name the classes, one a line, and state ``void N``, the value of pixels that do not count. Without it, masks of
    0 and 255 alone are background and foreground; in others classes are numbers, and 255 is void.

    Raises UserError naming what is amiss.
    """
    chosen = choose(f"folder:{root}", reads, {"image": "image", "mask": "mask"})
    named = {kind: name for name, kind in chosen.items()}
    image, mask = named["image"], named["mask"]
    found = _find(root)
    listed = _read_classes(root / CLASSES)
    with strict_pillow(), ThreadPoolExecutor() as pool:
        seen, files, left_out = readable(pool.map(attempt(_look), found), found, options.skip_bad)
    _check_palettes(seen)
    known = None if options.known is None else options.known.features[mask]
    classes = _classes(root, seen, listed, known)
    opened = open_files(files, image, {}, options, (mask, classes))
    arranged = arrange(root, opened.files, options.known, None)
    remarks += _remarks(seen, classes)
    if known is None:
        training = [opened.files[row].mask for row in _training(arranged)]
        remarks += _untrained(seen, classes, training)
    taken: set[Path | None] = set()
    for file in found:
        taken |= {file.image, file.mask}
    below = walk(root)
    left_out += [each for each in below.left_out if each.path != root / CLASSES]
    left_out += [LeftOut(path, "beside images/ and masks/", BESIDE) for path in below.images if path not in taken]
    return to_source(root, opened, arranged, left_out, remarks, also=repr(listed))


def _find(root: Path) -> list[File]:
    """Every image with its mask."""
    if (root / "images").is_dir():
        return list(_pairs(root, ""))
    splits = [path for path in folders(root) if (path / "images").is_dir()]
    known = [path for path in splits if same_split(path.name, "train") or same_split(path.name, "test")]
    if not known:
        raise UserError(
            f"folder {root} holds no images with masks: expected {root}/images/ and {root}/masks/, "
            "or both of them in train/ and test/"
        )
    files: list[File] = []
    for split in splits:
        files += _pairs(split, split.name)
    return files


def _pairs(folder: Path, split: str) -> Iterator[File]:
    images, masks = by_name(folder / "images", "masks"), by_name(folder / "masks", "images")
    if not images:
        raise UserError(f"folder {folder / 'images'} holds no images: add {IMAGES}")
    check_partners(images, masks, folder / "masks", "mask")
    check_partners(masks, images, folder / "images", "image")
    for name, path in images.items():
        yield File(path, split, mask=masks[name])


def by_name(folder: Path, other: str) -> dict[str, Path]:
    """The image files in a folder by their name without the extension; ``other`` is the folder of their partners."""
    if not folder.is_dir():
        raise UserError(f"folder {folder} does not exist: expected {folder.name}/ and {other}/ side by side")
    found: dict[str, Path] = {}
    for path in inside(folder):
        if why_left_out(path) is not None:
            continue
        if path.stem in found:
            raise UserError(f"{found[path.stem]} and {path} have the same name: remove one of them")
        found[path.stem] = path
    return found


def check_partners(files: Mapping[str, Path], partners: Mapping[str, Path], where: Path, kind: str) -> None:
    """Raises UserError if a file has no partner, which is of the given kind, in the folder ``where``."""
    alone = [path for name, path in files.items() if name not in partners]
    if alone:
        others = f", nor have {len(alone) - 1} others" if len(alone) > 1 else ""
        raise UserError(
            f"{alone[0]} has no {kind} in {where}{others}: expected a file named {alone[0].stem} there, "
            "with any extension"
        )


def _look(file: File) -> Seen:
    """What a mask holds; raises UserError if it or its image cannot be read, or if their sizes differ."""
    assert file.mask is not None
    image, header = probe_file(file.image), probe_file(file.mask)
    with open_image(file.mask) as opened:
        mask = decode_mask(opened, (opened.height, opened.width))
        palette = opened.getpalette("RGB") if opened.mode == "P" else None
    if mask.shape != image.size:
        raise Unreadable(
            file.mask,
            f"{file.mask} has {mask.shape[0]}x{mask.shape[1]} pixels and its image {image.size[0]}x{image.size[1]}: "
            "give both the same size",
        )
    values = set(np.unique(mask).tolist())
    colors = {value: tuple(palette[3 * value : 3 * value + 3]) for value in values} if palette else {}
    return Seen(file.mask, values, colors, header, image.orientation == header.orientation)


def _check_palettes(seen: Sequence[Seen]) -> None:
    """Raises UserError if a value has different colors in the palettes of two masks: it stands for different classes.

    Programs that reduce colors write such palettes, each mask's in an order of its own.
    """
    first: dict[int, tuple[tuple[int, ...], Path]] = {}
    for each in seen:
        for value, color in each.colors.items():
            known, path = first.setdefault(value, (color, each.path))
            if known != color:
                raise UserError(
                    f"the palettes of masks {path} and {each.path} differ: {value} is the color {known} in one and "
                    f"{color} in the other; save all masks with one palette, or as gray images of class numbers"
                )


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


def _values(seen: Sequence[Seen]) -> set[int]:
    """The values that occur in some of the masks."""
    values: set[int] = set()
    for each in seen:
        values |= each.values
    return values


def _classes(root: Path, seen: Sequence[Seen], listed: ClassList, known: Feature | None) -> MaskClasses:
    """The classes of the masks; raises UserError naming a mask that does not fit those listed or known to a run."""
    together = _values(seen)
    if known is not None:
        listed = ClassList(known.names, known.void)
    try:
        if known is not None and known.values:
            classes = MaskClasses(known.names, known.void, values=known.values)
            classes.number(np.array(sorted(together)))
            return classes
        classes = mask_classes(together, listed.names, listed.void, f"the masks of folder {root}")
    except ValueError as error:
        void = 255 if listed.void is None else listed.void
        fit = set(range(len(listed.names or ())))
        if known is not None and known.values:
            fit = set(known.values)
        beyond = together - fit - {void}
        misfits = [each.path for each in seen if each.values & beyond]
        wrong = misfits[0] if misfits else seen[0].path
        raise UserError(
            f"{wrong} does not fit the classes of folder {root} ({error}): "
            f"name each class, or state 'void N', in {root / 'classes.txt'}"
        ) from error
    if listed == ClassList():
        return renumbered(classes, together)
    return classes


def _remarks(seen: Sequence[Seen], classes: MaskClasses) -> tuple[str, ...]:
    """What a user should know of how masks are read."""
    said = told_pages([each.path for each in seen], [each.header for each in seen], "masks")
    apart = [each.path for each in seen if not each.turned_alike]
    if apart:
        said += (
            f"{len(apart)} of {len(seen)} masks, such as {apart[0]}, have another EXIF orientation than their images: "
            "each file is turned as it says itself, so the masks have to fit the images as viewers show them",
        )
    if classes.values:
        count = sum(classes.void in each.values for each in seen)
        void = f"; {classes.void} is void, in {count} of {len(seen)} masks" if count else ""
        said += (
            f"the masks hold only {len(classes.names)} of the values from 0 to {classes.values[-1]}, and these are "
            f"the classes: {few(classes.names, range(len(classes.names)))}{void}",
        )
    return said


def _training(arranged: Arranged) -> list[int]:
    """The rows of the training split."""
    name = named_split("train", arranged.splits)
    return [] if name is None else arranged.splits[name].tolist()


def _untrained(seen: Sequence[Seen], classes: MaskClasses, training: Sequence[Path | None]) -> tuple[str, ...]:
    """The sentence that says which classes occur in no training mask; none if all do."""
    masks = set(training)
    values = _values([each for each in seen if each.path in masks])
    numbers = set(classes.number(np.array(sorted(values), np.int64)).tolist())
    missing = [number for number in range(len(classes.names)) if number not in numbers]
    if not missing:
        return ()
    return (
        f"{len(missing)} of the {len(classes.names)} classes never occur in training: {few(classes.names, missing)}",
    )
