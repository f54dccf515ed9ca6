"""Clips in a folder: each a folder of images, an animated GIF, WebP or PNG, or a video."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.features import Feature, Features
from jaxrec.data.files import (
    File,
    Options,
    Readable,
    attempt,
    image_format,
    levels_in,
    readable,
    readable_by,
    to_measure,
)
from jaxrec.data.headers import remarks as told_of_files
from jaxrec.data.images import Header, Unreadable, convert_to, open_image, pages_of, probe_file, strict_pillow
from jaxrec.data.layout import Placed, Tree, place
from jaxrec.data.levels import Levels
from jaxrec.data.videos import EXTRA, SUFFIXES, is_video, probe_video, video_frames, video_is_read
from jaxrec.data.walk import LeftOut, walk
from jaxrec.errors import UserError
from jaxrec.waiting import counted

CLIPS = {"clip": "clip", "length": "length"}
"""The features of a folder of clips, and their kinds."""
FORMS = "a folder of images for each clip, animated GIF, WebP or PNG files, or videos"
"""What a user is asked to add to an empty folder."""


SINGLE, NOT_ANIMATED = "single images", "it is not animated, and no frame of a clip"
"""What images that are in no clip are called, and why they are left out."""
AMONG, ANIMATED = "animated among frames", "it is animated, and most images in its folder are not, which make up a clip"
"""What animated files in a clip's folder are called, and why they are left out."""
STILL = (".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")
"""Suffixes of files that have one page, and need not be asked for it."""


class Clips(NamedTuple):
    """The clips of a folder."""

    placed: list[Placed]
    """The folder, the animated file or the video of each."""
    frames: dict[Path, tuple[Path, ...]]
    """The files of each, in their order."""
    left_out: list[LeftOut]
    """Files that are no clips."""


def clips_in(tree: Tree, classes: bool) -> Clips:
    """The clips in a folder, in which the folders of the splits may hold those of classes.

    A folder of images is a clip, and its images are the frames, sorted by name with numbers by their value; but in the
    folder of a class or split itself, and in a folder of which at least half is animated, each animated file is one.
    Videos are like animated images; they are left out if PyAV is not there.

    Raises UserError if there are no clips.
    """
    read = video_is_read()
    placed, left_out = place(tree, SUFFIXES if read else ())
    mended = ""
    for number, each in enumerate(left_out):
        if is_video(each.path) and not read:
            left_out[number] = each._replace(reason=EXTRA)
            mended = f"; {EXTRA}"
    groups: dict[Path, list[Placed]] = defaultdict(list)
    for each in placed:
        groups[each.path.parent].append(each)
    clips = Clips([], {}, left_out)
    with strict_pillow():
        _gather(tree, groups, classes, clips)
    if not clips.placed:
        raise UserError(f"folder {tree.root} holds no clips: expected {FORMS}{mended}")
    return clips


def _gather(tree: Tree, groups: Mapping[Path, list[Placed]], classes: bool, clips: Clips) -> None:
    """Adds what the images, by the folder that they lie in, make up."""
    for folder, members in groups.items():
        home = folder == _home(tree, members[0], classes)
        animated, frames, left_out = _parted([each.path for each in members], home)
        if frames:
            clips.placed.append(members[0]._replace(path=folder))
            clips.frames[folder] = tuple(frames)
        for path in animated:
            clips.placed.append(members[0]._replace(path=path))
            clips.frames[path] = (path,)
        clips.left_out.extend(left_out)


def _parted(files: Sequence[Path], home: bool = False) -> tuple[list[Path], list[Path], list[LeftOut]]:
    """The files of a folder that are a clip each, or else those that are the frames of one, and what is left out.

    What cannot be read counts as what most files are, and is named when it is opened. In a ``home`` of clips, no file
    is a frame.
    """
    pages = {path: _pages(path) for path in sorted(files, key=_in_order)}
    animated = [path for path, count in pages.items() if count > 1]
    still = [path for path, count in pages.items() if count == 1]
    if home or len(animated) >= len(still):
        clips = [path for path, count in pages.items() if count != 1]
        return clips, [], [LeftOut(path, SINGLE, NOT_ANIMATED) for path in still]
    frames = [path for path, count in pages.items() if count <= 1]
    return [], frames, [LeftOut(path, AMONG, ANIMATED) for path in animated]


def _home(tree: Tree, each: Placed, classes: bool) -> Path:
    """The folder whose folders are clips: that of an image's class or, if classes are not read, of its split."""
    outer = each.path.relative_to(tree.root).parts
    if tree.inner:
        return tree.root / outer[0] / outer[1]
    base = tree.bases[outer[0]] if tree.splits else tree.root
    return base / each.folder if classes else base


def _in_order(path: Path) -> list[tuple[int, str]]:
    """What sorts files by name, and ``frame2`` before ``frame10``."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), part) if part.isascii() and part.isdigit() else (-1, part) for part in parts]


def _pages(path: Path) -> int:
    """How many frames a file has, 2 for any video; 0 if it cannot be read."""
    if is_video(path):
        return 2
    if path.suffix.lower() in STILL:
        return 1
    found = attempt(probe_file)(path)
    return 0 if isinstance(found, UserError) else found.pages


class _Probed(NamedTuple):
    """What a clip says of itself."""

    header: Header
    """Its first image's, as that of an image of one page."""
    length: int


def open_clips(found: Sequence[File], clip: str, length: str | None, values: Features, options: Options) -> Readable:
    """The clips as ``open_files`` opens images: all have the form that their first frames ask for.

    Args:
        found: The examples, each with its frames.
        clip: What clips are called in the batch.
        length: What their lengths are called; None if these are not read.
        values: The features of the examples' ``values``.
        options: How to read.

    Raises:
        UserError: A file cannot be read; ``skip_bad`` leaves such clips out instead.
    """
    with strict_pillow(), ThreadPoolExecutor() as pool:
        tried = counted(pool.map(attempt(_probe), found), "reading headers", len(found))
        probed, files, left_out = readable(tried, found, options.skip_bad)
        headers = [each.header for each in probed]
        most = max(each.length for each in probed)
        measured: list[Path] = []
        if options.known is None:
            shape, dtype = image_format(files, headers, options.size)
            for file in to_measure(files, headers):
                measured += file.frames
            levels = levels_in(pool, measured)
            image = Feature("image", shape, dtype, resize=options.resize, levels=levels.values)
        else:
            levels, known = Levels(), options.known.features[clip]
            image = known._replace(kind="image", shape=known.shape[1:])
        firsts = [file.frames[0] for file in files]
        remarks = told_of_files(pool, firsts, headers, image, measured) + levels.remarks
        features = {clip: image._replace(kind="clip", shape=(most, *image.shape)), **values}
        if length is not None:
            features[length] = Feature("length", (), "int32")
            for place, each in enumerate(probed):
                files[place] = files[place]._replace(values={**files[place].values, length: each.length})
        opened = readable_by(pool, partial(_decode, clip=clip, image=image, most=most), files, features, options)
        return opened._replace(left_out=left_out + opened.left_out, remarks=remarks)


def _probe(file: File) -> _Probed:
    first = file.frames[0]
    header = probe_video(first) if is_video(first) else probe_file(first)
    if header.pages > 1 and header.dtype != "uint8":
        raise Unreadable(
            file.image,
            f"{file.image} has several frames of more than 8 bits: write each into a file, and these into a folder",
        )
    count = header.pages if len(file.frames) == 1 else len(file.frames)
    return _Probed(header._replace(pages=1), count)


def _decode(file: File, clip: str, image: Feature, most: int) -> dict[str, Any]:
    frames = np.zeros((most, *image.shape), image.dtype)
    if is_video(file.image):
        for place, frame in enumerate(video_frames(file.image)):
            frames[place] = convert_to(frame, image)
        return {**file.values, clip: frames}
    for place, path in enumerate(file.frames):
        with open_image(path) as opened:
            frames[place] = convert_to(opened, image)
            if len(file.frames) > 1:
                continue
            for later in range(1, pages_of(opened)):
                opened.seek(later)
                frames[later] = convert_to(opened, image)
    return {**file.values, clip: frames}


def clips_below(folder: Path) -> tuple[list[Path], list[LeftOut]]:
    """The clips in a folder and its folders, each a folder of images, an animated file or a video, and what is no clip.

    In a folder of which at least half is animated or videos, each of these is a clip.
    """
    groups: dict[Path, list[Path]] = defaultdict(list)
    for path in walk(folder, SUFFIXES).images:
        groups[path.parent].append(path)
    found: list[Path] = []
    left_out: list[LeftOut] = []
    with strict_pillow():
        for inner, files in groups.items():
            animated, frames, others = _parted(files)
            found += [inner] if frames else animated
            left_out += others
    return found, left_out


def read_clip(path: Path, image: Feature) -> np.ndarray:
    """The frames [T, H, W, C] of an animated file, a video or a folder of images, each in the form of ``image``.

    Raises UserError if a frame cannot be read.
    """
    with strict_pillow():
        frames = [path]
        if path.is_dir():
            _, frames, _ = _parted([each for each in walk(path).images if each.parent == path])
        file = File(path, frames=tuple(frames))
        return _decode(file, "clip", image, _probe(file).length)["clip"]
