"""What a user should know of image files before they are read: sizes, pages, colors, depths and values."""

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from jaxrec.data.features import Feature
from jaxrec.data.images import Header, is_one_color
from jaxrec.data.levels import Extent, extent
from jaxrec.data.sizes import told
from jaxrec.errors import UserError

LOOKED_AT = 100
"""Most images with transparency that are decoded to see what is left of them."""


def remarks(
    pool: Executor,
    paths: Sequence[Path],
    headers: Sequence[Header],
    feature: Feature,
    measured: Sequence[Path] = (),
    pages: str = "images",
) -> tuple[str, ...]:
    """The sentences that say how many files lose or change something when they are read; none if none does.

    Args:
        pool: Decodes files; those that cannot be decoded are passed over.
        paths: The files.
        headers: What each of them says of itself.
        feature: What they are read as.
        measured: The files that black and white were found from.
        pages: What to call files of which one page is read; empty if all pages are.
    """
    said = told([header.size for header in headers], (feature.shape[0], feature.shape[1]), feature.resize)
    if pages:
        said += told_pages(paths, headers, pages)
    said += _told_gray(headers, feature) + _told_depth(headers, feature)
    known = set(measured)
    deep = []
    for path, header in zip(paths, headers, strict=True):
        if header.dtype != "uint8" and feature.dtype in ("uint8", header.dtype) and path not in known:
            deep.append(path)
    clear = [path for path, header in zip(paths, headers, strict=True) if header.transparent]
    return said + _told_beyond(pool, deep, len(headers), feature) + _told_blank(pool, clear)


def told_pages(paths: Sequence[Path], headers: Sequence[Header], what: str) -> tuple[str, ...]:
    """The sentence that says how many files have more than one page or frame."""
    several = [path for path, header in zip(paths, headers, strict=True) if header.pages > 1]
    if not several:
        return ()
    return (
        f"{len(several)} of {len(paths)} {what} have several pages or frames, such as {several[0]}: the first is read",
    )


def _told_gray(headers: Sequence[Header], feature: Feature) -> tuple[str, ...]:
    colored = sum(header.color for header in headers)
    if feature.shape[2] != 1 or not colored:
        return ()
    return (f"{colored} of {len(headers)} images have color and are read as gray, like those of training",)


def _told_depth(headers: Sequence[Header], feature: Feature) -> tuple[str, ...]:
    other = sum(header.dtype not in ("uint8", feature.dtype) for header in headers)
    if not other:
        return ()
    line = f"{other} of {len(headers)} images have another depth than the others, and are brought to theirs"
    if feature.levels and feature.dtype == "uint8":
        return (line,)
    return (f"{line}: 65535 is white (of floats 1, or 255 if a value is above 1)",)


def _told_beyond(pool: Executor, paths: Sequence[Path], count: int, feature: Feature) -> tuple[str, ...]:
    """Of those of ``count`` files that have more than 8 bits and are read by the levels of training."""
    if not feature.levels:
        return ()
    black, white = feature.levels
    beyond = []
    for path, found in zip(paths, pool.map(_extent, paths), strict=True):
        if found is not None and (found.low < black or found.high > white):
            beyond.append(path)
    if not beyond:
        return ()
    return (
        f"{len(beyond)} of {count} images have values below {black:g} or above {white:g}, which are black and "
        f"white in training, such as {beyond[0]}: they are cut off there",
    )


def _extent(path: Path) -> Extent | None:
    try:
        return extent(path)
    except UserError:
        return None


def _told_blank(pool: Executor, paths: Sequence[Path]) -> tuple[str, ...]:
    """Of files with transparency: a white drawing on nothing becomes a white image."""
    some = paths[:LOOKED_AT]
    blank = [path for path, found in zip(some, pool.map(_is_blank, some), strict=True) if found]
    if not blank:
        return ()
    first = f"the first {len(some)} of " if len(some) < len(paths) else ""
    return (
        f"{len(blank)} of {first}{len(paths)} images with transparency are of one color when they are laid over white, "
        f"such as {blank[0]}: lay them over another color",
    )


def _is_blank(path: Path) -> bool:
    try:
        return is_one_color(path)
    except UserError:
        return False
