"""What one example of a data set is made of: features by name, each with its kind, shape and dtype."""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.sizes import check_resize
from jaxrec.errors import UserError

KINDS = ("image", "clip", "length", "class", "classes", "mask", "boxes", "box_classes", "number")
RESERVED = ("index", "epoch", "real")
"""Names that a batch uses itself: the example's number, its epoch, and whether it is more than evaluation's padding."""
NO_BOX = -1
"""The class of a row of ``boxes`` that holds no box."""
NUMBERS = 2**22
"""Most numbers in the images or clips that are worked on at once."""


class Feature(NamedTuple):
    """One part of an example, as it lies in a batch after the first axis.

    ===========  ============  =========================================  =================================
    kind         shape         dtype                                      meaning
    ===========  ============  =========================================  =================================
    image        [H, W, C]     uint8, uint16, or float32 in [0, 1]        any number of channels
    clip         [T, H, W, C]  uint8, uint16, or float32 in [0, 1]        a sequence of images, its frames
    length       []            int32                                      how many of the frames are there
    class        []            int32                                      number of a class
    classes      [K]           int32                                      1 for each class that applies
    mask         [H, W]        uint8, or int32 for more than 255 classes  number of each pixel's class
    boxes        [N, 4]        float32                                    a box around each object
    box_classes  [N]           int32                                      number of each box's class, or -1
    number       []            float32                                    a quantity
    ===========  ============  =========================================  =================================

    A box is y0, x0, y1, x1 in pixels of the image as it lies in the batch: top, left, bottom, right. Pixel (i, j)
    covers [i, i + 1] x [j, j + 1], so the box around the whole image is 0, 0, H, W. N is the largest number of boxes of
    one example, over all splits, and at least 1. Rows without a box come last; they hold zeros, and class -1.

    T is the largest number of frames of one clip, over all splits. The frames that are there come first; the others
    hold zeros. Clips of one length have a length, too.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    names: tuple[str, ...] = ()
    """Names of the classes that the numbers stand for (class, classes, mask, box_classes)."""
    void: int | None = None
    """The value of pixels that do not count (mask)."""
    resize: str = "crop"
    """How a file of another size is brought to this one, see ``jaxrec.data.sizes.Resizing`` (image, clip, mask)."""
    levels: tuple[float, ...] = ()
    """The two values of files of 16 bits or floats that are black and white (image); empty: the whole range."""
    values: tuple[int, ...] = ()
    """The values of files that stand for the classes, in order (mask); empty: the numbers of the classes."""


Features = Mapping[str, Feature]
"""Features by their name in a batch, such as ``image`` and ``label``."""


def check(features: Features) -> None:
    """Raises UserError if a feature has a name that batches use themselves, or a kind that does not exist."""
    for name, feature in features.items():
        if name in RESERVED:
            raise UserError(
                f"a feature cannot be called '{name}': batches use {', '.join(RESERVED)} themselves; "
                "choose another name"
            )
        if feature.kind not in KINDS:
            raise UserError(f"feature '{name}' has the kind '{feature.kind}'; expected one of {', '.join(KINDS)}")


def blank(features: Features, count: int) -> dict[str, np.ndarray]:
    """``count`` examples of zeros, without a box and of one frame: what a batch with these features looks like."""
    fills = {"box_classes": NO_BOX, "length": 1}
    empty = {}
    for name, feature in features.items():
        empty[name] = np.full((count, *feature.shape), fills.get(feature.kind, 0), feature.dtype)
    return empty


def nbytes(features: Features) -> int:
    """Bytes of one example, decoded."""
    return sum(prod(feature.shape) * np.dtype(feature.dtype).itemsize for feature in features.values())


def record(features: Features) -> np.dtype:
    """The structured dtype of one example, with a field per feature."""
    return np.dtype([(name, feature.dtype, feature.shape) for name, feature in features.items()])


def class_names(features: Features) -> tuple[str, ...]:
    """The class names of the first feature that has some; without any, empty."""
    for feature in features.values():
        if feature.names:
            return feature.names
    return ()


def pictured(features: Features) -> Feature:
    """The feature ``image`` or, without one of that name, the first image; without images, the first clip.

    Raises UserError if there is none.
    """
    for kind in ("image", "clip"):
        found = [name for name, feature in features.items() if feature.kind == kind]
        if found:
            return features[kind if kind in found else found[0]]
    raise UserError(f"there is no image among the features {', '.join(features)}: read one")


def image_feature(features: Features) -> Feature:
    """What ``pictured`` gives or, of a clip, one of its frames."""
    feature = pictured(features)
    return feature._replace(kind="image", shape=feature.shape[-3:])


def image_shape(features: Features) -> tuple[int, int, int]:
    """Height, width and channels of ``image_feature``."""
    height, width, channels = image_feature(features).shape
    return height, width, channels


def frames_there(count: int, lengths: np.ndarray) -> np.ndarray:
    """Which of the ``count`` frames of clips of int [N] lengths are there: bool [N, count]."""
    return np.arange(count) < np.asarray(lengths)[:, None]


def at_once(most: int, shape: tuple[int, ...]) -> int:
    """How many images or clips of this shape are worked on at once: at most ``most``, and at least one.

    Together they hold at most ``NUMBERS`` numbers, so that large ones take no more memory than many small ones.
    """
    return max(1, min(most, NUMBERS // prod(shape)))


def to_json(features: Features) -> dict[str, Any]:
    """Features as JSON data, which ``from_json`` reads."""
    return {name: _plain(feature) for name, feature in features.items()}


def _plain(feature: Feature) -> dict[str, Any]:
    fields = {name: list(each) if isinstance(each, tuple) else each for name, each in feature._asdict().items()}
    if not feature.values:
        del fields["values"]  # Runs of earlier versions know their sets by what is written without it.
    return fields


def from_json(data: Any) -> dict[str, Feature]:
    """The features that ``to_json`` wrote; raises ValueError if the data are something else."""
    if not isinstance(data, dict):
        raise ValueError("features are no JSON object")
    return {name: _feature(name, fields) for name, fields in data.items()}


def _feature(name: str, fields: Any) -> Feature:
    expected = {"kind": str, "shape": list, "dtype": str, "names": list, "void": int | None}
    expected |= {"resize": str, "levels": list, "values": list}
    if isinstance(fields, dict):
        fields = {"resize": "crop", "levels": [], "values": [], **fields}  # which earlier versions did not write
    if not isinstance(fields, dict) or fields.keys() != expected.keys():
        raise ValueError(f"feature '{name}' has not the fields {', '.join(expected)}")
    for field, kind in expected.items():
        if not isinstance(fields[field], kind):
            raise ValueError(f"{field} of feature '{name}' is {fields[field]!r}")
    if not all(type(side) is int and side > 0 for side in fields["shape"]):
        raise ValueError(f"shape of feature '{name}' is {fields['shape']!r}")
    counts = {"names": len(fields["names"]), "levels": 2, "values": len(fields["names"])}
    for field, kind in {"names": str, "levels": int | float, "values": int}.items():
        of_kind = all(isinstance(each, kind) for each in fields[field])
        if not of_kind or len(fields[field]) not in (0, counts[field]):
            raise ValueError(f"{field} of feature '{name}' are {fields[field]!r}")
    try:
        check_resize(fields["resize"])
    except UserError as error:
        raise ValueError(f"resize of feature '{name}' is {fields['resize']!r}") from error
    if fields["dtype"] not in ("uint8", "uint16", "int32", "float32"):
        raise ValueError(f"dtype of feature '{name}' is {fields['dtype']!r}")
    tuples = {each: tuple(fields[each]) for each in ("shape", "names", "levels", "values")}
    return Feature(**{**fields, **tuples})
