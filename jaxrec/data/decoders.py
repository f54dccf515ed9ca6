"""One decoder per kind of feature: what it finds in a prepared TFDS set, and how it reads an example of it."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np

from jaxrec.data.boxes import CROWD, CUT_OFF, DIFFICULT, NO_CLASS, Objects, cut_off, faults, resized, told
from jaxrec.data.features import Feature
from jaxrec.data.files import Options
from jaxrec.data.images import convert_to, formats, has_color, upright_size
from jaxrec.data.masks import MaskClasses, decode_mask, mask_classes
from jaxrec.data.sizes import Resizing, Size
from jaxrec.errors import UserError

Example = Mapping[str, Any]
"""A parsed record: the lists of numbers or bytes under each key."""
Decode = Callable[[Example], np.ndarray]


@dataclass(frozen=True)
class Context:
    """What a decoder is told of the set that it reads."""

    dataset: str
    features: Mapping[str, Any]
    """TFDS's description of each feature, see ``described``."""
    metadata: Mapping[str, Any]
    firsts: Sequence[Example]
    """The first examples, which tell what the description leaves open."""
    options: Options
    size: tuple[int, int] | None = None
    """Height and width of the images, once known; masks and boxes fit them."""
    image: str = ""
    """The key of the images that boxes are boxes of; empty if the set has none."""
    most_boxes: int = 1
    """The largest number of boxes of one example."""
    most_frames: Mapping[str, int] = field(default_factory=dict)
    """The largest number of frames of one clip, by the key of the clips."""


class Part(NamedTuple):
    """One of the features that a sequence holds of each object in an image."""

    key: str
    """The sequence's."""
    feature: Any


class Length(NamedTuple):
    """The number of frames of the clips that a sequence of images holds."""

    key: str
    """The sequence's."""


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
        first = [image_in(example[key].bytes_list.value[0]) for example in context.firsts]
        if None in (height, width):
            height, width = upright_size(first[0])
        channels = channels or (3 if any(map(has_color, first)) else 1)
    height, width = context.options.size or (height, width)
    return (height, width, 1 if channels == 1 else 3)


def _is_clip(key: str, feature: Any) -> bool:
    from tensorflow_datasets.core.features import Sequence

    return isinstance(feature, Sequence) and _is_image(key, feature.feature)


def _open_clip(key: str, context: Context) -> tuple[Feature, Decode]:
    frame = cast(Any, context.features[key]).feature
    height, width, channels = _shape(frame.shape, key, context)
    dtype = "uint16" if frame.np_dtype == np.uint16 else "uint8"
    shape = (context.most_frames[key], height, width, channels)
    feature = Feature("clip", shape, dtype, resize=context.options.resize)
    image = feature._replace(kind="image", shape=shape[1:])

    def decode(example: Example) -> np.ndarray:
        clip = np.zeros(shape, dtype)
        for place, encoded in enumerate(example[key].bytes_list.value):
            clip[place] = convert_to(image_in(encoded), image)
        return clip

    return feature, decode


def _is_length(key: str, feature: Any) -> bool:
    return isinstance(feature, Length)


def _open_length(key: str, context: Context) -> tuple[Feature, Decode]:
    clips = context.features[key].key
    return Feature("length", (), "int32"), lambda example: np.array(len(example[clips].bytes_list.value), np.int32)


def survey_clips(context: Context, keys: Sequence[str], every: Iterable[Example]) -> dict[str, int]:
    """The largest number of frames of one clip, by the key of the clips; raises UserError for a clip without any."""
    most = dict.fromkeys(keys, 1)
    for example in every:
        for key in keys:
            count = len(example[key].bytes_list.value)
            if not count:
                raise UserError(f"dataset '{context.dataset}' has examples without a frame in '{key}': prepare it anew")
            most[key] = max(most[key], count)
    return most


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


def described(features: Mapping[str, Any]) -> dict[str, Any]:
    """A TFDS set's features by key, with the boxes of objects and their classes by the keys that records have for them.

    Clips have their lengths beside them. If there are several sequences of objects, the one called ``objects``, or the
    first, is taken.
    """
    found = dict(features)
    for key, feature in features.items():
        if _is_clip(key, feature):
            found[f"{key}/length"] = Length(key)
    for key in sorted(features, key=lambda key: (key != "objects", key)):
        parts = _parts(key, features[key])
        if parts:
            return {**found, **parts}
    return found


def _parts(key: str, feature: Any) -> dict[str, Part]:
    """The box and the class of the objects that a sequence holds; none if it holds something else."""
    from tensorflow_datasets.core.features import BBoxFeature, FeaturesDict, Sequence

    if not isinstance(feature, Sequence) or not isinstance(feature.feature, FeaturesDict):
        return {}
    inner = feature.feature
    boxes = [name for name in inner if isinstance(inner[name], BBoxFeature)]
    labels = sorted((name for name in inner if _is_class(name, inner[name])), key=lambda name: (name != "label", name))
    return {f"{key}/{name}": Part(key, inner[name]) for name in boxes[:1] + labels[:1] if boxes}


def _is_boxes(key: str, feature: Any) -> bool:
    from tensorflow_datasets.core.features import BBoxFeature

    return isinstance(feature, Part) and isinstance(feature.feature, BBoxFeature)


def _is_box_classes(key: str, feature: Any) -> bool:
    return isinstance(feature, Part) and _is_class(key, feature.feature)


def _open_boxes(key: str, context: Context) -> tuple[Feature, Decode]:
    stated = context.features[key].feature.bbox_format
    if stated is not None and stated.name != "REL_YXYX":
        raise UserError(
            f"dataset '{context.dataset}' has boxes in the format {stated.name}; expected REL_YXYX: choose another set"
        )
    size = _size_of_boxes(context)
    feature = Feature("boxes", (context.most_boxes, 4), "float32")
    return feature, lambda example: _resized_objects(context, size, example)[0]


def _open_box_classes(key: str, context: Context) -> tuple[Feature, Decode]:
    names = tuple(context.features[key].feature.names)
    feature = Feature("box_classes", (context.most_boxes,), "int32", names)
    size = _size_of_boxes(context)
    return feature, lambda example: _resized_objects(context, size, example)[1]


def _size_of_boxes(context: Context) -> Size:
    """Height and width of the images that boxes are brought to, whether images are read or not."""
    return context.size or _shape(context.features[context.image].shape, context.image, context)[:2]


def _resized_objects(context: Context, size: Size, example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and classes of an example whose image is brought to a size."""
    own = upright_size(image_in(_bytes(example, context.image)))
    objects, _ = _objects(context, example, own)
    return resized(objects, Resizing(own, size, context.options.resize), context.most_boxes)


def survey_boxes(context: Context, every: Iterable[Example]) -> tuple[int, tuple[str, ...]]:
    """The largest number of boxes of one example, at least 1, and the sentence that says which boxes are left out.

    Raises UserError if the set has no images, whose sizes the boxes are in units of.
    """
    if not context.image:
        raise UserError(f"dataset '{context.dataset}' has boxes and no image: choose another set")
    most, total = 1, 0
    bad: Counter[str] = Counter()
    size = _size_of_boxes(context)
    for example in every:
        own = upright_size(image_in(_bytes(example, context.image)))
        objects, wrong = _objects(context, example, own)
        most = max(most, len(objects.boxes))
        total += len(wrong)
        bad.update(wrong[wrong != ""].tolist())
        bad[CUT_OFF] += int(cut_off(objects.boxes, Resizing(own, size, context.options.resize)).sum())
    return most, told(bad, total)


def _objects(context: Context, example: Example, own: Size) -> tuple[Objects, np.ndarray]:
    """The sound objects of an example, in pixels of its image of size ``own``, and what is wrong with each, str [n]."""
    height, width = own
    boxes: np.ndarray = np.zeros((0, 4))
    classes: np.ndarray | None = None
    wrong = np.zeros(0, str)
    for key, part in context.features.items():
        if _is_boxes(key, part):
            shares = np.array(example[key].float_list.value, np.float64).reshape(-1, 4)
            boxes = shares * (height, width, height, width)
            wrong = faults(boxes, (height, width))
            wrong = np.where(_yes(f"{part.key}/is_difficult", example, len(boxes)), DIFFICULT, wrong)
            wrong = np.where(_yes(f"{part.key}/is_crowd", example, len(boxes)), CROWD, wrong)
        if _is_box_classes(key, part):
            classes = np.array(example[key].int64_list.value, np.int32)
    if classes is None:
        classes = np.zeros(len(boxes), np.int32)
    wrong = np.where(classes < 0, NO_CLASS, wrong)
    sound = wrong == ""
    inside = boxes[sound].clip(0, (height, width, height, width))
    return Objects(inside.astype(np.float32), classes[sound]), wrong


def _yes(key: str, example: Example, count: int) -> np.ndarray:
    """Which of an example's boxes are marked so, as COCO marks crowds and Pascal VOC difficult objects: bool [n]."""
    if key not in example:
        return np.zeros(count, bool)
    return np.array(example[key].int64_list.value, bool)


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
    "clip": Decoder(_is_clip, _open_clip),
    "length": Decoder(_is_length, _open_length),
    "mask": Decoder(_is_mask, _open_mask),
    "class": Decoder(_is_class, _open_class),
    "classes": Decoder(_is_classes, _open_classes),
    "boxes": Decoder(_is_boxes, _open_boxes),
    "box_classes": Decoder(_is_box_classes, _open_box_classes),
    "number": Decoder(_is_number, _open_number),
}
"""By kind."""


def kinds_of(features: Mapping[str, Any]) -> dict[str, str]:
    """The kind of each of the features, as ``described`` gives them, that has one."""
    found = {}
    for key, feature in features.items():
        for kind, decoder in DECODERS.items():
            if decoder.finds(key, feature):
                found[key] = kind
    return found
