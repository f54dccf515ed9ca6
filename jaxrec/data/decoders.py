"""One decoder per kind of feature: what it finds in a prepared TFDS set, and how it reads an example of it."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from jaxrec.data.features import Feature
from jaxrec.data.files import Options
from jaxrec.data.images import convert_to, formats, has_colour, upright_size
from jaxrec.data.masks import MaskClasses, decode_mask, mask_classes
from jaxrec.errors import UserError

Example = Mapping[str, Any]
"""A parsed record: the lists of numbers or bytes under each key."""
Decode = Callable[[Example], np.ndarray]


@dataclass(frozen=True)
class Context:
    """What a decoder is told of the set that it reads."""

    dataset: str
    features: Mapping[str, Any]
    """TFDS's description of each feature."""
    metadata: Mapping[str, Any]
    firsts: Sequence[Example]
    """The first examples, which tell what the description leaves open."""
    options: Options
    size: tuple[int, int] | None = None
    """Height and width of the images, once known; masks have the same."""


class Decoder(NamedTuple):
    """How features of one kind are found and read."""

    finds: Callable[[str, Any], bool]
    """Whether TFDS's feature under a key is of this kind."""
    open: Callable[[str, Context], tuple[Feature, Decode]]
    """The feature under a key, and what reads it from an example."""


def image_in(encoded: bytes) -> Any:
    """An encoded image as Pillow opens it, not decoded yet."""
    from PIL import Image

    return Image.open(io.BytesIO(encoded), formats=formats())


def _bytes(example: Example, key: str) -> bytes:
    (value,) = example[key].bytes_list.value
    return value


def _is_image(key: str, feature: Any) -> bool:
    from tensorflow_datasets.core.features import Image

    return isinstance(feature, Image) and not _is_mask(key, feature)


def _open_image(key: str, context: Context) -> tuple[Feature, Decode]:
    shape = _shape(context.features[key].shape, key, context)
    deep = context.features[key].np_dtype == np.uint16
    feature = Feature("image", shape, "uint16" if deep else "uint8", resize=context.options.resize)
    return feature, lambda example: convert_to(image_in(_bytes(example, key)), feature)


def _shape(stated: tuple, key: str, context: Context) -> tuple[int, int, int]:
    """The stated shape, with what it leaves open taken from the first images; the options overrule the size."""
    height, width, channels = stated
    if None in stated:
        first = [image_in(_bytes(example, key)) for example in context.firsts]
        if None in (height, width):
            height, width = upright_size(first[0])
        channels = channels or (3 if any(map(has_colour, first)) else 1)
    height, width = context.options.size or (height, width)
    return (height, width, 1 if channels == 1 else 3)


def _is_mask(key: str, feature: Any) -> bool:
    """TFDS has no feature for masks but LabeledImage, so a color map or the key gives them away."""
    from tensorflow_datasets.core.features import Image, LabeledImage

    if not isinstance(feature, Image) or cast(Any, feature.shape)[-1] not in (1, None):
        return False
    named = any(part in key.lower() for part in ("mask", "segment", "annotation"))
    return named or isinstance(feature, LabeledImage) or bool(getattr(feature, "_use_colormap", False))


def _open_mask(key: str, context: Context) -> tuple[Feature, Decode]:
    size, resize = context.size or _shape(context.features[key].shape, key, context)[:2], context.options.resize
    found = _mask_classes(key, context, lambda example: decode_mask(image_in(_bytes(example, key)), size))
    classes = found.bordered(resize)

    def numbers(example: Example) -> np.ndarray:
        return decode_mask(image_in(_bytes(example, key)), size, resize, classes.void or 0)

    def decode(example: Example) -> np.ndarray:
        try:
            return classes.number(numbers(example))
        except ValueError as error:
            raise UserError(
                f"dataset '{context.dataset}' cannot be read ({error}): "
                "state class_names and ignore_index in its metadata.json"
            ) from error

    return classes.feature(size, resize), decode


def _mask_classes(key: str, context: Context, numbers: Decode) -> MaskClasses:
    """The classes that the set's metadata or LabeledImage names, or those in the first masks."""
    names = context.metadata.get("class_names") or getattr(context.features[key], "names", None)
    void = context.metadata.get("ignore_index")
    if names is None:
        values = set()
        for example in context.firsts:
            values |= set(np.unique(numbers(example)).tolist())
        return mask_classes(values, None, void)
    if void == len(names) - 1:
        # A name for void stands at the end of the list, and is no class.
        names = names[:-1]
    return MaskClasses(tuple(names), void)


def _is_class(key: str, feature: Any) -> bool:
    from tensorflow_datasets.core.features import ClassLabel

    return isinstance(feature, ClassLabel)


def _open_class(key: str, context: Context) -> tuple[Feature, Decode]:
    def decode(example: Example) -> np.ndarray:
        (label,) = example[key].int64_list.value
        if label < 0:
            raise UserError(
                f"dataset '{context.dataset}' has examples without a label in this split: choose another split"
            )
        return np.array(label, np.int32)

    return Feature("class", (), "int32", tuple(context.features[key].names)), decode


def _is_classes(key: str, feature: Any) -> bool:
    """A sequence of classes, or a dictionary with yes or no for each class."""
    from tensorflow_datasets.core.features import FeaturesDict, Sequence

    if isinstance(feature, Sequence):
        return _is_class(key, feature.feature)
    if isinstance(feature, FeaturesDict):
        return all(_is_yes_or_no(each) for each in feature.values())
    return False


def _is_yes_or_no(feature: Any) -> bool:
    if _is_class("", feature):
        return feature.num_classes == 2
    return getattr(feature, "shape", None) == () and getattr(feature, "np_dtype", None) == np.bool_


def _open_classes(key: str, context: Context) -> tuple[Feature, Decode]:
    from tensorflow_datasets.core.features import Sequence

    found = context.features[key]
    if isinstance(found, Sequence):
        names = tuple(cast(Any, found.feature).names)

        def decode(example: Example) -> np.ndarray:
            applies = np.zeros(len(names), np.int32)
            applies[list(example[key].int64_list.value)] = 1
            return applies

    else:
        names = tuple(found)

        def decode(example: Example) -> np.ndarray:
            answers = [example[f"{key}/{name}"].int64_list.value[0] for name in names]
            return np.array(answers, np.int32)

    return Feature("classes", (len(names),), "int32", names), decode


def _is_number(key: str, feature: Any) -> bool:
    from tensorflow_datasets.core.features import Tensor

    if not isinstance(feature, Tensor) or _is_class(key, feature) or feature.shape != ():
        return False
    return np.dtype(cast(Any, feature.np_dtype)).kind in "iuf"


def _open_number(key: str, context: Context) -> tuple[Feature, Decode]:
    def decode(example: Example) -> np.ndarray:
        (value,) = [*example[key].float_list.value, *example[key].int64_list.value]
        return np.array(value, np.float32)

    return Feature("number", (), "float32"), decode


DECODERS = {
    "image": Decoder(_is_image, _open_image),
    "mask": Decoder(_is_mask, _open_mask),
    "class": Decoder(_is_class, _open_class),
    "classes": Decoder(_is_classes, _open_classes),
    "number": Decoder(_is_number, _open_number),
}
"""By kind; images come before masks, which take their size."""


def kinds_of(features: Mapping[str, Any]) -> dict[str, str]:
    """The kind of each of a TFDS set's features that has one."""
    found = {}
    for key, feature in features.items():
        for kind, decoder in DECODERS.items():
            if decoder.finds(key, feature):
                found[key] = kind
    return found
