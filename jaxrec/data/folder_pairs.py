"""A folder of pairs of images: in folders A and B, side by side in one picture, or unpaired in trainA and trainB."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.data.features import Features
from jaxrec.data.files import (
    File,
    Options,
    Readable,
    arrange,
    attempt,
    feature_of_files,
    readable,
    readable_by,
    to_source,
)
from jaxrec.data.folder_masks import by_name, check_partners
from jaxrec.data.images import (
    Header,
    Unreadable,
    convert_to,
    decode_file,
    open_image,
    probe_file,
    strict_pillow,
    upright,
)
from jaxrec.data.layout import place, tree_of
from jaxrec.data.reads import Reads, choose, images_read
from jaxrec.data.splits import Source
from jaxrec.data.unpaired import UNPAIRED, A, B, Sides, partners, split_pairs
from jaxrec.data.walk import IMAGES, LeftOut, folders, walk
from jaxrec.errors import UserError, nearest

BESIDE = "it lies in no folder of one of the two kinds"


class Pair(NamedTuple):
    """What the headers of the two images of an example say."""

    a: Header
    b: Header


def open_folder_pairs(root: Path, reads: Reads, options: Options) -> Source | None:
    """The pairs in a folder, of two features of kind image; None if it holds single images, and these will do, too.

    - PATH/A/ and PATH/B/: two images of one name, except for the extension, are a pair. Both folders may lie in a
      folder per split.
    - PATH/trainA/, trainB/, testA/ and testB/, perhaps valA/ and valB/: no image of A belongs to one of B. Each
      example has the next one of both; the smaller folder is repeated. So it is with A and B in a folder per split if
      no pairs are to be read.
    - any other folder, if it has to hold pairs: the left and the right half of each picture.

    What is read first lies in A, unless ``options.image_key`` is B. The images of A may have other channels than those
    of B, but all have one size. Raises UserError naming what is amiss.
    """
    sides = _sides(root, reads, options)
    remarks: tuple[str, ...] = ()
    left_out: list[LeftOut] = []
    places = _unpaired(root, reads)
    if places:
        found = _matched(places)
        left_out = _beside(root, found)
        remarks = _repeated(found)
    elif _holds_both(root):
        found = _named_alike(root)
        left_out = _beside(root, found)
    elif all(reads[name].endswith("?") for name in images_read(reads)[1:]):
        return None
    else:
        tree = tree_of(root, classes=False)
        placed, left_out = place(tree)
        root, remarks = tree.root, tree.remarks
        found = [File(each.path, each.split) for each in placed]
    if not found:
        raise UserError(f"folder {root} holds no images: add {IMAGES}")
    opened = _open(found, sides, options)
    arranged = arrange(root, opened.files, options.known, None)
    return to_source(root, opened, arranged, left_out, remarks)


def _sides(root: Path, reads: Reads, options: Options) -> Sides:
    """Which of the two names that are read lies in A.

    Raises UserError if ``image_key`` names neither A nor B, or something else has to be read.
    """
    choose(f"folder:{root}", reads, {A: "image", B: "image"})
    first, second = images_read(reads)[:2]
    if options.image_key not in (None, A, B):
        raise UserError(
            f"--image-key is '{options.image_key}', and a folder of pairs has A and B: give one of these"
            f"{nearest(str(options.image_key), (A, B))}"
        )
    return Sides(second, first) if options.image_key == B else Sides(first, second)


class Place(NamedTuple):
    """The two folders of a split whose images are of two kinds."""

    split: str
    a: Path
    b: Path


def _unpaired(root: Path, reads: Reads) -> list[Place]:
    """The folders of images that are no pairs; none if there are no such folders."""
    names = {path.name: path for path in folders(root)}
    splits = split_pairs(f"folder {root}", names)
    if splits:
        _check_unpaired(root, reads)
        return [Place(split, names[split + A], names[split + B]) for split in splits]
    if images_read(reads)[1] != UNPAIRED:
        return []
    both = _with_both(root)
    if root in both:
        _check_named_alike(root)
        return []
    return [Place(path.name, path / A, path / B) for path in both]


def _check_named_alike(root: Path) -> None:
    """Raises UserError if the images in A are not called as those in B.

    They would be cut into splits here, and an image of the smaller folder would be in several of them.
    """
    if by_name(root / A, B).keys() != by_name(root / B, A).keys():
        raise UserError(
            f"the images in {root / A} and {root / B} have other names, so they are no pairs: "
            f"put them into the folders train{A}, train{B}, test{A} and test{B}"
        )


def _matched(places: Sequence[Place]) -> list[File]:
    """An image of A and one of B for each example of each split."""
    found = []
    for split, a, b in places:
        first, second = walk(a).images, walk(b).images
        for folder, images in ((a, first), (b, second)):
            if not images:
                raise UserError(f"folder {folder} holds no images: add {IMAGES}")
        for one, other in partners(len(first), len(second)).tolist():
            found.append(File(first[one], split, partner=second[other]))
    return found


def _repeated(found: Sequence[File]) -> tuple[str, ...]:
    """The sentences that say in which splits images are repeated, as there are more of the other kind."""
    told = []
    for split in dict.fromkeys(file.split for file in found):
        examples = [file for file in found if file.split == split]
        of_a = {file.image for file in examples}
        of_b = {file.partner for file in examples}
        counts = {A: len(of_a), B: len(of_b)}
        fewer, more = sorted(counts, key=lambda kind: counts[kind])
        if counts[fewer] < counts[more]:
            told.append(
                f"split {split} has {counts[fewer]} images of kind {fewer}, which are repeated, and {counts[more]} of "
                f"kind {more}"
            )
    return tuple(told)


def _check_unpaired(root: Path, reads: Reads) -> None:
    """Raises UserError if images that belong together are read."""
    second = images_read(reads)[1]
    if second != UNPAIRED:
        raise UserError(
            f"folder {root} holds images of two kinds in train{A} and train{B} that are no pairs, and '{second}' is "
            f"read as the partner of an image: train with --unpaired, or call the folders train/{A} and train/{B}"
        )


def _holds_both(root: Path) -> bool:
    return bool(_with_both(root))


def _with_both(root: Path) -> list[Path]:
    """The folders that hold A and B: this one, or those in it."""
    return [path for path in (root, *folders(root)) if (path / A).is_dir() and (path / B).is_dir()]


def _named_alike(root: Path) -> list[File]:
    """Each image in a folder A with the one of its name in the folder B beside it."""
    found = []
    for folder in _with_both(root):
        split = "" if folder == root else folder.name
        first, second = by_name(folder / A, B), by_name(folder / B, A)
        check_partners(first, second, folder / B, "partner")
        check_partners(second, first, folder / A, "partner")
        found += [File(path, split, partner=second[name]) for name, path in first.items()]
    return found


def _beside(root: Path, found: Sequence[File]) -> list[LeftOut]:
    """The files below a folder that belong to no example."""
    taken: set[Path | None] = set()
    for file in found:
        taken |= {file.image, file.partner}
    below = walk(root)
    beside = [LeftOut(path, "beside A and B", BESIDE) for path in below.images if path not in taken]
    return below.left_out + beside


def _open(found: Sequence[File], sides: Sides, options: Options) -> Readable:
    """Checks the header of every image, and decodes all that fit; see ``jaxrec.data.files.open_files``."""
    with strict_pillow(), ThreadPoolExecutor() as pool:
        pairs, files, left_out = readable(pool.map(attempt(_probe), found), found, options.skip_bad)
        first, remarks = feature_of_files(pool, files, [pair.a for pair in pairs], sides.a, options)
        # Both images are of one size, so that they can be compared and moved alike.
        sized = options._replace(size=(first.shape[0], first.shape[1]))
        seconds = [file._replace(image=file.partner or file.image) for file in files]
        second, said = feature_of_files(pool, seconds, [pair.b for pair in pairs], sides.b, sized)
        features = {sides.a: first, sides.b: second}
        opened = readable_by(pool, partial(_decode, features=features, sides=sides), files, features, options)
        said = tuple(line for line in said if line not in remarks)
        return opened._replace(left_out=left_out + opened.left_out, remarks=remarks + said)


def _probe(file: File) -> Pair:
    """The headers of both images; raises UserError if one cannot be read or a picture cannot be halved."""
    header = probe_file(file.image)
    if file.partner is not None:
        return Pair(header, probe_file(file.partner))
    height, width = header.size
    if width < 2 or width % 2:
        raise Unreadable(
            file.image,
            f"{file.image} has {height}x{width} pixels, and the left and the right half of a picture are to be a pair: "
            "expected an even width",
        )
    half = header._replace(size=(height, width // 2))
    return Pair(half, half)


def _decode(file: File, features: Features, sides: Sides) -> dict[str, Any]:
    """Both images of an example."""
    if file.partner is not None:
        return {
            sides.a: decode_file(file.image, features[sides.a]),
            sides.b: decode_file(file.partner, features[sides.b]),
        }
    with open_image(file.image) as opened:
        whole = upright(opened)
        middle = whole.width // 2
        return {
            sides.a: convert_to(whole.crop((0, 0, middle, whole.height)), features[sides.a]),
            sides.b: convert_to(whole.crop((middle, 0, whole.width, whole.height)), features[sides.b]),
        }
