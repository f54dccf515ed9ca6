"""A folder of images and the boxes of what is in them, in the formats that annotation tools write."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.data.boxes import COPY, CROWD, DIFFICULT, Objects, faults, turned
from jaxrec.data.coco import read_coco
from jaxrec.data.features import Feature
from jaxrec.data.files import File, Options, arrange, attempt, known_names, numbered, open_files, readable, to_source
from jaxrec.data.images import open_image, orientation, stated_orientation, strict_pillow, upright_size
from jaxrec.data.marks import Annotations, Below, Marked
from jaxrec.data.reads import Reads, choose
from jaxrec.data.sizes import Size
from jaxrec.data.splits import Source, few, same_split
from jaxrec.data.voc import read_voc
from jaxrec.data.walk import IMAGES, LeftOut, shown
from jaxrec.data.yolo import read_yolo
from jaxrec.errors import UserError
from jaxrec.waiting import counted

ANYWAY = (CROWD, DIFFICULT, COPY)
"""What is left out in any case."""
FORMATS: tuple[Callable[[Below], Annotations | None], ...] = (read_coco, read_voc, read_yolo)


class Seen(NamedTuple):
    """The sound boxes of an image, and what is wrong with others."""

    boxes: np.ndarray
    """float32 [n, 4], in pixels of the upright image."""
    names: list[str]
    """The class of each."""
    problems: list[LeftOut]
    left_out: list[LeftOut]
    unsure: bool
    """Whether an orientation tag may or may not have been obeyed as the boxes were drawn."""


def open_folder_boxes(root: Path, reads: Reads, options: Options) -> Source | None:
    """The images below a folder and their boxes; None if no file there states boxes.

    The formats are COCO's JSON (``read_coco``), Pascal VOC's XML (``read_voc``) and YOLO's text (``read_yolo``), of
    which the first one that is there is read. Splits are named by lists, files or folders, or the set is cut 80/20 into
    train and test. Images may have no boxes. Boxes are moved with images that are resized (see ``Resizing``).

    Raises UserError naming what is amiss: annotations without an image or images without annotations, and boxes
    without area, outside the image or of no class. ``skip_bad`` leaves these out instead.
    """
    below = Below(root)
    annotations = _annotations(below)
    if annotations is None:
        return None
    chosen = choose(f"folder:{root}", reads, {"image": "image", "boxes": "boxes", "box_classes": "box_classes"})
    named = {kind: name for name, kind in chosen.items()}
    seen, files, left_out = _checked(root, annotations, options)
    names = _names(root, annotations, seen, known_names(options.known, named.get("box_classes", "")))
    numbers = {name: number for number, name in enumerate(names)}
    files = [_file(file, one, numbers) for file, one in zip(files, seen, strict=True)]
    opened = open_files(files, named["image"], _features(named, names, files, options), options)
    arranged = arrange(root, opened.files, options.known, None)
    used = annotations.files | {each.path for each in left_out}
    left_out += [each for each in below.others if each.path not in used]
    remarks = (f"boxes are read from {annotations.format}", *annotations.remarks, *_unsure(seen))
    remarks += _remarks(opened.files, names)
    return to_source(root, opened, arranged, left_out, remarks, also=repr(names))


def _annotations(below: Below) -> Annotations | None:
    """What the files of the first format that is there say; None if there is none."""
    for read in FORMATS:
        found = read(below)
        if found is not None:
            return found
    return None


def _checked(root: Path, annotations: Annotations, options: Options) -> tuple[list[Seen], list[File], list[LeftOut]]:
    """What is seen in each image, the images, and what is left out; raises UserError for what is amiss."""
    marked, left_out = _in_splits(annotations.marked)
    if not marked:
        amiss = [*annotations.problems, *annotations.left_out]
        told = f"; {amiss[0].path}: {amiss[0].reason}" if amiss else f": add {IMAGES}"
        raise UserError(f"folder {root} holds no images with annotations ({annotations.format}){told}")
    with strict_pillow(), ThreadPoolExecutor() as pool:
        plain = [File(each.image, each.split) for each in marked]
        found = counted(pool.map(attempt(_seen), marked), "checking boxes", len(marked))
        seen, files, unreadable = readable(found, plain, options.skip_bad)
    problems = [*annotations.problems, *unreadable]
    left_out += annotations.left_out
    for one in seen:
        problems += one.problems
        left_out += one.left_out
    _check(problems, options)
    return seen, files, left_out + problems


def _in_splits(marked: Sequence[Marked]) -> tuple[list[Marked], list[LeftOut]]:
    """The images in splits, if some are in one, and those beside them."""
    if not any(each.split for each in marked):
        return list(marked), []
    inside, beside = [], []
    for each in marked:
        if each.split:
            inside.append(each)
        else:
            beside.append(LeftOut(each.image, "beside the splits", "it is in no split"))
    return inside, beside


def _seen(marked: Marked) -> Seen:
    """The boxes of an image, checked against it; raises UserError if it cannot be read."""
    with open_image(marked.image) as image:
        raw = (image.height, image.width)
        own = upright_size(image)
        on_its_side = own != raw and marked.size == raw
        turn = orientation(image) if on_its_side else 1
        tagged = stated_orientation(image) in range(2, 9)
    # What a file states without the orientation tag is turned with the image.
    size = raw if on_its_side else own
    if marked.size not in (None, size):
        stated = "x".join(map(str, marked.size or ()))
        raise UserError(
            f"{marked.image} has {own[0]}x{own[1]} pixels, and {stated} by {marked.source}: annotate the image as it is"
        )
    boxes = np.array([mark.box for mark in marked.marks], np.float64).reshape(-1, 4)
    if marked.shares:
        boxes = boxes * (*size, *size)
    wrong = faults(boxes, size)
    names: list[str] = []
    problems: list[LeftOut] = []
    left_out: list[LeftOut] = []
    sound = []
    stated = set()
    for place, mark in enumerate(marked.marks):
        fault = mark.fault or str(wrong[place])
        same = (mark.name, *mark.box)
        if not fault and same in stated:
            fault = COPY
        if not fault:
            stated.add(same)
            sound.append(place)
            names.append(mark.name)
            continue
        if mark.fault or fault == COPY:
            reason = f"{mark.where} is {fault}"
        else:
            reason = f"{mark.where} has {_told(boxes[place], fault, size)}"
        rejected = left_out if fault in ANYWAY else problems
        rejected.append(LeftOut(marked.source, fault, reason, "box"))
    inside = boxes[sound].clip(0, (*size, *size))
    unsure = tagged and bool(sound) and (own == raw or marked.size is None)
    return Seen(turned(inside, turn, size).astype(np.float32), names, problems, left_out, unsure)


def _told(box: np.ndarray, fault: str, size: Size) -> str:
    top, left, bottom, right = box.tolist()
    place = f"rows {top:g} to {bottom:g} and columns {left:g} to {right:g} of {size[0]}x{size[1]} pixels"
    return f"a box {fault} ({place})"


def _check(problems: Sequence[LeftOut], options: Options) -> None:
    """Raises UserError naming the first of the problems, unless they are to be left out."""
    if not problems or options.skip_bad:
        return
    first = problems[0]
    others = ""
    if len(problems) > 1:
        kinds = Counter(each.kind for each in problems)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        others = f"; {len(problems)} such in all: {counts}"
    raise UserError(f"{first.path}: {first.reason}{others}; correct that, or leave all such out with --skip-bad")


def _names(root: Path, annotations: Annotations, seen: Sequence[Seen], known: Sequence[str]) -> tuple[str, ...]:
    """The classes in the order of their numbers."""
    used: set[str] = set()
    for one in seen:
        used.update(one.names)
    if not used:
        raise UserError(f"folder {root} holds no boxes ({annotations.format}): expected one in an image at least")
    if known:
        return numbered(f"folder {root}", sorted(used), known)
    return annotations.names or tuple(sorted(used))


def _file(file: File, seen: Seen, numbers: dict[str, int]) -> File:
    classes = np.array([numbers[name] for name in seen.names], np.int32)
    return file._replace(objects=Objects(seen.boxes, classes))


def _features(
    named: dict[str, str], names: tuple[str, ...], files: Sequence[File], options: Options
) -> dict[str, Feature]:
    """The features of boxes, with room for as many as an image has, or as a run knows."""
    counts = [len(file.objects.boxes) for file in files if file.objects]
    if options.known is not None:
        known = options.known.features
        counts += [known[name].shape[0] for kind, name in named.items() if kind != "image"]
    most = max([1, *counts])
    features = {}
    if "boxes" in named:
        features[named["boxes"]] = Feature("boxes", (most, 4), "float32")
    if "box_classes" in named:
        features[named["box_classes"]] = Feature("box_classes", (most,), "int32", names)
    return features


def _unsure(seen: Sequence[Seen]) -> tuple[str, ...]:
    count = sum(one.unsure for one in seen)
    if not count:
        return ()
    told = "boxes are taken as those of the upright image, since no stated size tells"
    return (f"{count} of {len(seen)} images have an orientation tag, and their {told}",)


def _remarks(files: Sequence[File], names: Sequence[str]) -> tuple[str, ...]:
    """What a user should know of the boxes and their classes."""
    empty = sum(not len(file.objects.boxes) for file in files if file.objects)
    training = [file for file in files if not file.split or same_split(file.split, "train")]
    trained = _numbers(training)
    used = _numbers(files)
    unused = sorted(set(range(len(names))) - used)
    untrained = sorted(used - trained)
    shown_names = [shown(name) for name in names]
    remarks: tuple[str, ...] = ()
    if empty:
        remarks += (f"{empty} of {len(files)} images have no boxes",)
    if unused:
        remarks += (f"{len(unused)} of {len(names)} classes have no box: {few(shown_names, unused)}",)
    if untrained and trained:
        remarks += (f"{len(untrained)} of {len(names)} classes have no box to train on: {few(shown_names, untrained)}",)
    return remarks


def _numbers(files: Sequence[File]) -> set[int]:
    """The classes of which the files have a box."""
    numbers: set[int] = set()
    for file in files:
        if file.objects:
            numbers.update(file.objects.classes.tolist())
    return numbers
