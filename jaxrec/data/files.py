"""Image files and what belongs to them, as a source: what folders and tables of images share."""

import contextlib
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxrec.data.boxes import Objects, resized, told_cut_off
from jaxrec.data.cache import cache_dir
from jaxrec.data.decoded import Decoded
from jaxrec.data.features import Feature, Features, blank, nbytes, to_json
from jaxrec.data.headers import remarks as told_of_files
from jaxrec.data.images import Header, Unreadable, decode_file, open_image, probe_file, strict_pillow
from jaxrec.data.levels import Extent, Levels, extent, find_levels
from jaxrec.data.masks import MaskClasses, decode_mask
from jaxrec.data.sizes import Resizing, Size
from jaxrec.data.splits import Read, Source, cut, from_arrays, not_kept, same_split
from jaxrec.data.walk import UNREADABLE, LeftOut
from jaxrec.errors import UserError, nearest
from jaxrec.waiting import counted

HELD = 2**30
"""Bytes of decoded examples up to which a set of files is held in memory."""

LARGE = 1024
"""Pixels along a side from which an image's size is not given to all others unless asked for."""

PIECE, PIECES = 2**14, 16
"""Bytes of a piece, and pieces of a large file, by which its content is told."""

NAMED = 10
"""Unreadable files that an error names."""

T = TypeVar("T")


class File(NamedTuple):
    """One example: an image file and what belongs to it."""

    image: Path
    split: str = ""
    """Empty if the set is to be cut."""
    values: Mapping[str, Any] = {}
    """Classes and numbers, by name in the batch."""
    mask: Path | None = None
    objects: Objects | None = None
    """The boxes in the image, if the set has boxes."""
    columns: Mapping[str, str] = {}
    """The cells of its row, if a table names the examples."""
    frames: tuple[Path, ...] = ()
    """The images that a clip's folder holds, or its animated file; empty if the example is an image."""
    partner: Path | None = None
    """The second image of a pair of two files."""


class Readable(NamedTuple):
    """The files of a set that can be read, and how."""

    files: list[File]
    features: dict[str, Feature]
    read: Read
    """Rows of ``files`` to examples."""
    left_out: list[LeftOut]
    """The files that cannot be read."""
    remarks: tuple[str, ...] = ()
    """What a user should know of how they are read."""


class Parts:
    """The part of a set, such as a split, that each file belongs to; a file is known by its name and its content.

    Args:
        files: Name, digest and part of each. If copies of one file belong to several parts, a copy under a new name
            belongs to the first of these in ``order``.
        order: The parts, from the one that a copy had rather belong to.
    """

    def __init__(self, files: Iterable[tuple[str, str, str]] = (), order: Sequence[str] = ()) -> None:
        self.by_name: dict[str, str] = {}
        self.by_content: dict[str, str] = {}
        self.by_both: dict[tuple[str, str], str] = {}
        rank = {part: place for place, part in enumerate(order)}
        for name, digest, part in sorted(files, key=lambda file: rank.get(file[2], len(rank)), reverse=True):
            self.by_name[name] = part
            self.by_content[digest] = part
            self.by_both[name, digest] = part

    def of(self, names: Sequence[str], digests: Sequence[str]) -> list[str | None] | None:
        """The part of each file, None if it is not known; None in all if it is another set.

        A file under another name is known by its content, and one with another content by its name.
        """
        # Names alone, such as 001.png, say nothing.
        if not any(digest in self.by_content for digest in digests):
            return None
        found = []
        for name, digest in zip(names, digests, strict=True):
            by_one = self.by_content.get(digest, self.by_name.get(name))
            found.append(self.by_both.get((name, digest), by_one))
        return found


class Known(NamedTuple):
    """What a run knows of the set that it was trained on."""

    features: Features
    """What its examples are made of: classes keep their numbers, and images their form."""
    splits: Parts = Parts()
    """The split of each file."""
    unknown: str = "train"
    """The split of other files, if the set states none."""


class Options(NamedTuple):
    """How the files of a set are read."""

    size: Size | None = None
    """Of the images; None: the size of the first one."""
    resize: str = "crop"
    skip_bad: bool = False
    image_key: str | None = None
    """The feature of a prepared set that is the image, or the folder of a set of pairs; None: the usual one."""
    held: int = HELD
    known: Known | None = None


PLAIN = Options()
"""Nothing but what is usual."""


def open_files(
    found: Sequence[File], image: str, values: Features, options: Options, mask: tuple[str, MaskClasses] | None = None
) -> Readable:
    """Checks every file's header, and decodes all images if they are at most ``held`` bytes or ``skip_bad`` is set.

    Decoded images of whole sets are kept for later runs; see ``Decoded``.

    Images are RGB if any has color, uint16 if all have 16 bits, float32 if all have floats, and are brought to the size
    that the options name or to that of the first one (see ``convert_image``).

    Args:
        found: The examples.
        image: What images are called in the batch.
        values: The features of the examples' ``values``.
        options: How to read.
        mask: What masks are called in the batch and the classes they hold, if the examples have masks.

    Raises:
        UserError: A file cannot be read; ``skip_bad`` leaves such files out instead.
    """
    with strict_pillow(), ThreadPoolExecutor() as pool:
        probed = counted(pool.map(attempt(probe_file), _images(found)), "reading headers", len(found))
        headers, files, left_out = readable(probed, found, options.skip_bad)
        feature, remarks = feature_of_files(pool, files, headers, image, options)
        height, width, _ = feature.shape
        features = {image: feature, **values}
        if mask is not None:
            mask = (mask[0], mask[1].bordered(feature.resize))
            features[mask[0]] = mask[1].feature((height, width), feature.resize)
        files, cut = _with_boxes(files, headers, values, feature)
        remarks += cut
        decode = partial(_decode, features=features, image=image, mask=mask)
        opened = readable_by(pool, decode, files, features, options)
        return opened._replace(left_out=left_out + opened.left_out, remarks=remarks)


def feature_of_files(
    pool: ThreadPoolExecutor, files: Sequence[File], headers: Sequence[Header], image: str, options: Options
) -> tuple[Feature, tuple[str, ...]]:
    """The feature that the files' images are, as a run knows it or as found; and what a user should know of them.

    ``image`` is what images are called in the batch.
    """
    paths = _images(files)
    if options.known is not None:
        feature = options.known.features[image]
        return feature, told_of_files(pool, paths, headers, feature)
    shape, dtype = image_format(files, headers, options.size)
    measured = _images(to_measure(files, headers))
    levels = levels_in(pool, measured)
    feature = Feature("image", shape, dtype, resize=options.resize, levels=levels.values)
    return feature, told_of_files(pool, paths, headers, feature, measured) + levels.remarks


def readable_by(
    pool: ThreadPoolExecutor, decode: Callable[[File], Any], files: list[File], features: Features, options: Options
) -> Readable:
    """The files as ``decode`` reads each of them: its example, by name. See ``open_files``."""
    held = len(files) * nbytes(features) <= options.held
    if held:
        with contextlib.suppress(UserError):  # Of a bad file: all of them are named or left out below.
            return Readable(files, dict(features), _kept(pool, decode, files, features), [])
    left_out: list[LeftOut] = []
    decoded: list[dict[str, Any]] = []
    if held or options.skip_bad:
        tried = attempt(decode if held else partial(_try, decode))
        decoded, files, left_out = readable(pool.map(tried, files), files, options.skip_bad)

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        return _stack(features, [decode(files[row]) for row in rows.tolist()])

    return Readable(files, dict(features), from_arrays(_stack(features, decoded)) if held else read, left_out)


def _kept(pool: ThreadPoolExecutor, decode: Callable[[File], Any], files: Sequence[File], features: Features) -> Read:
    """Reads files as ``decode`` does, from what stays decoded from one run to the next."""
    pixels = {name: feature for name, feature in features.items() if feature.kind in ("image", "clip", "mask")}

    def decoded(rows: np.ndarray) -> dict[str, np.ndarray]:
        return _stack(pixels, list(pool.map(decode, [files[row] for row in rows.tolist()])))

    folder = cache_dir() / "decoded" / _content_key(files, pixels)
    mapped = Decoded(folder, len(files), pixels, name=str(files[0].image.parent)).open(decoded, np.arange(len(files)))

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        found = mapped(rows)
        chosen = [files[row].values for row in rows.tolist()]
        for name in features.keys() - pixels.keys():
            found[name] = _stack({name: features[name]}, chosen)[name]
        return {name: found[name] for name in features}

    return read


def _content_key(files: Sequence[File], pixels: Features) -> str:
    """Differs if a file, what is made of it, or Pillow has changed."""
    from PIL import __version__

    digest = hashlib.sha256(repr((__version__, to_json(pixels))).encode())
    for file in files:
        for path in _paths(file):
            state = path.stat()
            digest.update(os.fsencode(path.absolute()) + f" {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _with_boxes(
    files: list[File], headers: Sequence[Header], values: Features, image: Feature
) -> tuple[list[File], tuple[str, ...]]:
    """The files with their boxes, in the images' new size, among their values; and the line on those cut off."""
    boxed = {name: feature for name, feature in values.items() if feature.kind in ("boxes", "box_classes")}
    if not boxed:
        return files, ()
    most = next(iter(boxed.values())).shape[0]
    objects = [file.objects for file in files if file.objects is not None]
    resizings = [Resizing(header.size, (image.shape[0], image.shape[1]), image.resize) for header in headers]
    moved = []
    for file, one, resizing in zip(files, objects, resizings, strict=True):
        boxes, classes = resized(one, resizing, most)
        found = {name: boxes if feature.kind == "boxes" else classes for name, feature in boxed.items()}
        moved.append(file._replace(values={**file.values, **found}))
    return moved, told_cut_off(objects, resizings)


def _images(files: Iterable[File]) -> list[Path]:
    return [file.image for file in files]


def _paths(file: File) -> list[Path]:
    """The files that an example is made of."""
    images = file.frames or (file.image,)
    beside = [path for path in (file.mask, file.partner) if path is not None]
    return [*images, *beside]


def to_measure(files: Sequence[File], headers: Sequence[Header]) -> list[File]:
    """The files of more than 8 bits from which black and white follow: those of the training split."""
    deep = [file for file, header in zip(files, headers, strict=True) if header.dtype != "uint8"]
    training = [file for file in deep if not file.split or same_split(file.split, "train")]
    return training or deep


def levels_in(pool: ThreadPoolExecutor, measured: Sequence[Path]) -> Levels:
    """Black and white of images of more than 8 bits."""
    found = pool.map(attempt(extent), measured)
    # A file that cannot be decoded is named when all are.
    return find_levels([each for each in found if isinstance(each, Extent)])


def image_format(
    files: Sequence[File], headers: Sequence[Header], size: Size | None
) -> tuple[tuple[int, int, int], str]:
    """Shape and dtype of a set's images."""
    height, width = size or headers[0].size
    if max(height, width) > LARGE and not size:
        raise UserError(
            f"{files[0].image} has {height}x{width} pixels, and all images would be given that size: "
            "choose a size such as 128 with --image-size"
        )
    channels = 3 if any(header.color for header in headers) else 1
    first = {header.dtype: file.image for file, header in zip(reversed(files), reversed(headers), strict=True)}
    if {"uint16", "float32"} <= first.keys():
        raise UserError(
            f"{first['float32']} holds floats and {first['uint16']} whole numbers of 16 bits: "
            "convert all images to one of them"
        )
    return (height, width, channels), next(iter(first)) if len(first) == 1 else "uint8"


def _decode(file: File, features: Features, image: str, mask: tuple[str, MaskClasses] | None) -> dict[str, Any]:
    example = {**file.values, image: decode_file(file.image, features[image])}
    if mask is not None and file.mask is not None:
        name, classes = mask
        height, width = features[name].shape
        with open_image(file.mask) as opened:
            values = decode_mask(opened, (height, width), features[name].resize, classes.void or 0)
            example[name] = classes.number(values)
    return example


def _try(decode: Callable[[File], Any], file: File) -> None:
    """Decodes a file only to see whether it can be."""
    decode(file)


def _stack(features: Features, examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    stacked = blank(features, len(examples))
    for place, example in enumerate(examples):
        for name, values in stacked.items():
            values[place] = example[name]
    return stacked


def attempt(function: Callable[[Any], T]) -> Callable[[Any], T | UserError]:
    """The function with its UserError returned instead of raised, for threads."""

    def tried(argument: Any) -> T | UserError:
        try:
            return function(argument)
        except UserError as error:
            return error

    return tried


def readable(
    results: Iterable[Any], files: Sequence[File], skip_bad: bool
) -> tuple[list[Any], list[File], list[LeftOut]]:
    """The results and files that are good, and the files that failed.

    Raises UserError naming files that failed, unless ``skip_bad`` leaves them out, or if all failed.
    """
    good: list[Any] = []
    kept: list[File] = []
    bad: list[LeftOut] = []
    for result, file in zip(results, files, strict=True):
        if isinstance(result, UserError):
            path = result.path if isinstance(result, Unreadable) else file.image
            bad.append(LeftOut(path, UNREADABLE, str(result)))
        else:
            good.append(result)
            kept.append(file)
    if bad and not skip_bad:
        raise UserError(f"{bad[0].reason}, or leave out all such files with --skip-bad{_others(bad[1:])}")
    if not good:
        raise UserError(f"none of the {len(files)} image files can be read, such as {bad[0].path}: replace them")
    return good, kept, bad


def _others(bad: Sequence[LeftOut]) -> str:
    if not bad:
        return ""
    named = ", ".join(str(each.path) for each in bad[:NAMED])
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"; {len(bad)} more cannot be read: {named}{more}"


class Arranged(NamedTuple):
    """Files in splits."""

    splits: dict[str, np.ndarray]
    """The rows of each."""
    digests: list[str]
    """What tells each file's content apart."""
    classes: np.ndarray | None = None
    """int [N], the class of each file."""
    remarks: tuple[str, ...] = ()
    empty: Mapping[str, str] = {}
    """As in ``Source.empty``."""


def arrange(
    root: Path, files: Sequence[File], known: Known | None, label: str | None, names: Sequence[str] = ()
) -> Arranged:
    """The rows of each split in a seeded order, so that a slice of a split holds every class.

    Files that state no split are cut 80/20 into train and test, with equal shares of each class if ``label`` names one;
    but what a run knows already keeps its split.
    """
    rows = np.random.default_rng(0).permutation(len(files))
    labels = None if label is None else np.array([file.values[label] for file in files], np.int32)
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest_of, files))
    remarks = _named_again(files)
    split_of = np.array([file.split for file in files])
    stated = bool(split_of[0])
    if not stated:
        split_of = _dealt(root, files, digests, known)
    if split_of is not None:
        splits = {split: rows[split_of[rows] == split] for split in sorted(set(split_of.tolist()))}
        empty = {}
        if not stated and set(splits) == {"train"}:
            empty["test"] = (
                f"all {len(files)} images are in the run's split train; give --split train to evaluate on it"
            )
        return Arranged(splits, digests, labels, remarks, empty)
    if len(files) < 2:
        raise UserError(f"{root} holds a single image: expected two or more, one for training and one for the test")
    train, test = cut(rows, 0.2, labels)
    if labels is not None:
        remarks += not_kept("the test split", names, labels[train], labels[test])
    return Arranged({"train": train, "test": test}, digests, labels, remarks)


def _named_again(files: Sequence[File]) -> tuple[str, ...]:
    """The sentence that says how many images several rows of a table name; none if none is."""
    rows: dict[Path, list[str]] = defaultdict(list)
    for file in files:
        # How often an image of a pair is taken is said where pairs are made.
        if file.partner is not None:
            continue
        rows[file.image].append(repr(sorted((name, np.asarray(each).tolist()) for name, each in file.values.items())))
    again = [values for values in rows.values() if len(values) > 1]
    if not again:
        return ()
    different = sum(len(set(values)) > 1 for values in again)
    return (
        f"{len(again)} of the {len(rows)} images are named in several rows, {different} of them with different labels "
        "or numbers: each row is an example",
    )


def _dealt(root: Path, files: Sequence[File], digests: Sequence[str], known: Known | None) -> np.ndarray | None:
    """The split of each file as a run has dealt them; None if it knows none of them, and deals them itself."""
    if known is None:
        return None
    found = known.splits.of(names_of(root, files), digests)
    if found is None:
        return None if known.unknown == "train" else np.array([known.unknown] * len(files))
    return np.array([split or known.unknown for split in found])


def names_of(root: Path, files: Iterable[File]) -> list[str]:
    """The path of each example's image from the folder of the set, or the whole one if it lies elsewhere.

    If several rows of a table name one image, ``#2`` stands behind the second one's, and so on: names differ.
    """
    names = []
    rows: Counter[Path] = Counter()
    for file in files:
        rows[file.image] += 1
        count = rows[file.image]
        name = str(_within(root, file.image))
        names.append(name if count == 1 else f"{name}#{count}")
    return names


def digest_of(file: File) -> str:
    """What tells an example from others: hexadecimal SHA-256 of its files' sizes and contents, and of its boxes.

    Of a large file, it is of pieces from its beginning to its end.
    """
    digest = hashlib.sha256()
    for path in _paths(file):
        size = path.stat().st_size
        digest.update(f"{size} ".encode())
        with path.open("rb") as opened:
            if size <= PIECES * PIECE:
                digest.update(opened.read())
                continue
            for start in np.linspace(0, size - PIECE, PIECES, dtype=np.int64).tolist():
                opened.seek(start)
                digest.update(opened.read(PIECE))
    if file.objects is not None:
        digest.update(file.objects.boxes.tobytes() + file.objects.classes.tobytes())
    return digest.hexdigest()[:32]


def known_names(known: Known | None, name: str) -> tuple[str, ...]:
    """The classes of a feature, as a run knows them; none if there is no run."""
    return known.features[name].names if known is not None and name in known.features else ()


def numbered(where: str, found: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The names of classes in the order of their numbers: as a run knows them, or as found.

    Raises UserError if a class was found that the run does not know.
    """
    if not known:
        return tuple(found)
    unknown = [name for name in found if name not in known]
    if unknown:
        raise UserError(
            f"{where} has the class '{unknown[0]}', and the run knows only {', '.join(known[:10])}"
            f"{' and others' if len(known) > 10 else ''}: give a set of the run's classes"
        )
    return tuple(known)


def check_trained(where: str, files: Sequence[File], label: str, names: Sequence[str]) -> None:
    """Raises UserError if training has no readable image of a class."""
    numbers = {int(file.values[label]) for file in files if not file.split or same_split(file.split, "train")}
    trained = {names[number] for number in numbers}
    unseen = sorted(set(names) - trained)
    if unseen:
        raise UserError(
            f"{where} has no readable training image of class '{unseen[0]}', which it names: "
            f"add images or remove the class{nearest(unseen[0], trained)}"
        )


def to_source(
    root: Path,
    opened: Readable,
    arranged: Arranged,
    left_out: Iterable[LeftOut] = (),
    remarks: tuple[str, ...] = (),
    also: str = "",
) -> Source:
    """The source of files in the order of their splits.

    Args:
        root: What the files' names are relative to.
        opened: The files.
        arranged: The rows of each split.
        left_out: What was left out before the files were opened.
        remarks: What a user should know of how the set was taken.
        also: What else belongs to the set's identity.
    """
    order = np.concatenate(list(arranged.splits.values()))
    identity = hashlib.sha256(also.encode("utf-8", "surrogateescape"))
    names = names_of(root, opened.files)
    for name, digest in zip(names, arranged.digests, strict=True):
        identity.update(os.fsencode(name) + f" {digest}\n".encode())
    rows = order.tolist()
    return Source(
        read=lambda rows: opened.read(order[rows]),
        sizes={split: len(rows) for split, rows in arranged.splits.items()},
        features=opened.features,
        identity=identity.hexdigest(),
        left_out=(*left_out, *opened.left_out),
        remarks=(*remarks, *arranged.remarks, *opened.remarks),
        classes=None if arranged.classes is None else arranged.classes[order],
        files=tuple(names[row] for row in rows),
        digests=tuple(arranged.digests[row] for row in rows),
        columns=_columns([opened.files[row] for row in rows]),
        empty=arranged.empty,
    )


def _columns(files: Sequence[File]) -> dict[str, tuple[str, ...]]:
    """The cells of each column of a table, without spaces around them."""
    return {name: tuple(file.columns[name].strip() for file in files) for name in files[0].columns}


def _within(root: Path, path: Path) -> Path:
    """The path from the folder of the set, if the file is in there."""
    return path.relative_to(root) if path.is_relative_to(root) else path
