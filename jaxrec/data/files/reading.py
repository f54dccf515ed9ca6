"""Reading files: every header first, then what they hold, kept decoded if it fits."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.boxes import resized, told_cut_off
from jaxrec.data.cache import cache_dir
from jaxrec.data.decoded import Decoded
from jaxrec.data.features import Feature, Features, blank, nbytes, to_json
from jaxrec.data.files.example import File, images_of, paths_of
from jaxrec.data.files.form import feature_of_files
from jaxrec.data.files.options import Options
from jaxrec.data.files.unreadable import attempt, readable
from jaxrec.data.images import Header, decode_file, open_image, probe_file, strict_pillow
from jaxrec.data.masks import MaskClasses, decode_mask
from jaxrec.data.sizes import Resizing
from jaxrec.data.splits import Read, from_arrays
from jaxrec.data.walk import LeftOut
from jaxrec.errors import UserError
from jaxrec.waiting import counted


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
        probed = counted(pool.map(attempt(probe_file), images_of(found)), "reading headers", len(found))
        headers, files, left_out = readable(probed, found, options.skip_bad)
        feature, remarks = feature_of_files(pool, files, headers, image, options)
        height, width, _ = feature.shape
        features = {image: feature, **values}
        if mask is not None:
            name, classes = mask
            # What is padded beside an image is of no class.
            mask = (name, classes.bordered(feature.resize))
            features[name] = mask[1].feature((height, width), feature.resize)
        files, cut = _with_boxes(files, headers, values, feature)
        decode = partial(_decode, features=features, image=image, mask=mask)
        opened = readable_by(pool, decode, files, features, options)
        return opened._replace(left_out=left_out + opened.left_out, remarks=remarks + cut)


def readable_by(
    pool: ThreadPoolExecutor, decode: Callable[[File], Any], files: list[File], features: Features, options: Options
) -> Readable:
    """The files as ``decode`` reads each of them: its example, by name. See ``open_files``."""
    fits = len(files) * nbytes(features) <= options.held
    if fits:
        # A bad file ends this; below, all of them are named or left out.
        with contextlib.suppress(UserError):
            return Readable(files, dict(features), _kept(pool, decode, files, features), [])
        decoded, files, left_out = readable(pool.map(attempt(decode), files), files, options.skip_bad)
        return Readable(files, dict(features), from_arrays(_stack(features, decoded)), left_out)
    left_out = []
    if options.skip_bad:
        tried = attempt(partial(_try, decode))
        _, files, left_out = readable(pool.map(tried, files), files, options.skip_bad)

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        return _stack(features, [decode(files[row]) for row in rows.tolist()])

    return Readable(files, dict(features), read, left_out)


def _kept(pool: ThreadPoolExecutor, decode: Callable[[File], Any], files: Sequence[File], features: Features) -> Read:
    """Reads files as ``decode`` does, from what stays decoded from one run to the next."""
    # Classes and numbers are small, and come from the files' values, which may change without the files.
    pixels = {name: feature for name, feature in features.items() if feature.kind in ("image", "clip", "mask")}

    def decoded(rows: np.ndarray) -> dict[str, np.ndarray]:
        chosen = [files[row] for row in rows.tolist()]
        return _stack(pixels, list(pool.map(decode, chosen)))

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
        for path in paths_of(file):
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
    height, width, _ = image.shape
    objects = [file.objects for file in files if file.objects is not None]
    resizings = [Resizing(header.size, (height, width), image.resize) for header in headers]
    moved = []
    for file, one, resizing in zip(files, objects, resizings, strict=True):
        boxes, classes = resized(one, resizing, most)
        found = {name: boxes if feature.kind == "boxes" else classes for name, feature in boxed.items()}
        moved.append(file._replace(values={**file.values, **found}))
    return moved, told_cut_off(objects, resizings)


def _decode(file: File, features: Features, image: str, mask: tuple[str, MaskClasses] | None) -> dict[str, Any]:
    """The example of a file, by name: its values, its image and its mask."""
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
    """The examples as arrays [N, ...], by name."""
    stacked = blank(features, len(examples))
    for place, example in enumerate(examples):
        for name, values in stacked.items():
            values[place] = example[name]
    return stacked
