"""The form that all images of a set get: shape, dtype, and what is black and white in images of more than 8 bits."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxrec.data.features import Feature
from jaxrec.data.files.example import File, images_of
from jaxrec.data.files.options import Options
from jaxrec.data.files.unreadable import attempt
from jaxrec.data.headers import remarks as told_of_files
from jaxrec.data.images import Header
from jaxrec.data.levels import Extent, Levels, extent, find_levels
from jaxrec.data.sizes import Size
from jaxrec.data.splits import same_split
from jaxrec.errors import UserError

LARGE = 1024
"""Pixels along a side from which an image's size is not given to all others unless asked for."""


def feature_of_files(
    pool: ThreadPoolExecutor, files: Sequence[File], headers: Sequence[Header], image: str, options: Options
) -> tuple[Feature, tuple[str, ...]]:
    """The feature that the files' images are, as a run knows it or as found; and what a user should know of them.

    ``image`` is what images are called in the batch.
    """
    paths = images_of(files)
    if options.known is not None:
        feature = options.known.features[image]
        return feature, told_of_files(pool, paths, headers, feature)
    shape, dtype = image_format(files, headers, options.size)
    measured = images_of(to_measure(files, headers))
    levels = levels_in(pool, measured)
    feature = Feature("image", shape, dtype, resize=options.resize, levels=levels.values)
    return feature, told_of_files(pool, paths, headers, feature, measured) + levels.remarks


def image_format(
    files: Sequence[File], headers: Sequence[Header], size: Size | None
) -> tuple[tuple[int, int, int], str]:
    """Shape (height, width, channels) and dtype of a set's images.

    Raises UserError if the first image is large and no size is asked for, or if images of floats and of 16 bits are
    mixed.
    """
    height, width = size or headers[0].size
    if max(height, width) > LARGE and not size:
        raise UserError(
            f"{files[0].image} has {height}x{width} pixels, and all images would be given that size: "
            "choose a size such as 128 with --image-size"
        )
    channels = 3 if any(header.color for header in headers) else 1
    # The first file of each dtype, to be named.
    first: dict[str, Path] = {}
    for file, header in zip(files, headers, strict=True):
        first.setdefault(header.dtype, file.image)
    if {"uint16", "float32"} <= first.keys():
        raise UserError(
            f"{first['float32']} holds floats and {first['uint16']} whole numbers of 16 bits: "
            "convert all images to one of them"
        )
    # Beside images of 8 bits, deeper ones are brought to 8 bits.
    dtype = next(iter(first)) if len(first) == 1 else "uint8"
    return (height, width, channels), dtype


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
