"""Segmentation masks: images whose pixels are class numbers, and the classes that they hold."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxrec.data.features import Feature
from jaxrec.data.images import upright
from jaxrec.data.sizes import Resizing, Size

if TYPE_CHECKING:
    import PIL.Image

VOID = 255
"""The value of pixels that do not count, unless another one is stated."""
BINARY = ("background", "foreground")
MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
"""Pillow's modes in which a pixel is one number."""


class MaskClasses(NamedTuple):
    """What the pixels of a set's masks stand for."""

    names: tuple[str, ...]
    void: int | None
    binary: bool = False
    """The files say 255 for class 1."""
    values: tuple[int, ...] = ()
    """The files' values of the classes, in order; empty: the numbers of the classes."""

    def bordered(self, resize: str) -> "MaskClasses":
        """The classes with a void value for the borders of padded masks, if they are padded and have none."""
        if resize != "pad" or self.void is not None:
            return self
        free = VOID if len(self.names) <= VOID and not self.binary else len(self.names)
        return self._replace(void=free)

    def feature(self, size: Size, resize: str = "crop") -> Feature:
        """The feature of masks of a height and width."""
        largest = max(len(self.names) - 1, self.void or 0)
        dtype = "uint8" if largest <= 255 else "int32"
        return Feature("mask", size, dtype, self.names, self.void, resize, values=self.values)

    def number(self, values: np.ndarray) -> np.ndarray:
        """Class numbers from a file's pixels; raises ValueError for a pixel that is neither a class nor void."""
        if self.binary:
            values = np.where(values == 255, 1, values)
        wrong = ~np.isin(values, self.values) if self.values else values >= len(self.names)
        if self.void is not None:
            wrong &= values != self.void
        if wrong.any():
            known = f" of the values {', '.join(map(str, self.values))}" if self.values else ""
            void = "no void value" if self.void is None else f"the void value {self.void}"
            raise ValueError(
                f"a mask holds the value {values[wrong][0]}, beyond {len(self.names)} classes{known} and {void}"
            )
        if not self.values:
            return values
        numbers = np.searchsorted(self.values, values)
        return numbers if self.void is None else np.where(values == self.void, self.void, numbers)


def decode_mask(image: "PIL.Image.Image", size: Size, resize: str = "crop", border: int = 0) -> np.ndarray:
    """The numbers in a Pillow image as an integer array [H, W]: palette indices, or grey values as they are.

    An image of another size is brought to H x W as ``convert_image`` does it, but takes the nearest pixel instead of a
    mean, and ``border`` is what it is padded with. Raises ValueError if pixels are no single numbers, or if the file's
    compression changes them.
    """
    from PIL import Image

    if image.format == "JPEG":
        raise ValueError("JPEG changes the class numbers of a mask; save it as PNG")
    if image.mode not in MODES:
        raise ValueError(f"a mask has to be a palette or grey image, and this one is {image.mode}")
    image = upright(image)
    if image.mode == "1":
        image = image.convert("L")
    return Resizing((image.height, image.width), size, resize).apply(image, Image.Resampling.NEAREST, border)


def mask_classes(
    values: Iterable[int], names: Sequence[str] | None = None, void: int | None = None, what: str = "masks"
) -> MaskClasses:
    """The classes of masks that hold the given pixel values.

    Without names, 0 and 255 alone are background and foreground; else classes are numbered up to the largest value.
    Unless a void value is stated, 255 is void if it is no class. With two names, 255 may stand for class 1.
    Raises ValueError if the values do not fit.
    """
    found = set(values)
    # A run that has padded such masks knows a void value beyond both classes.
    grey = found <= {0, 255} and void not in (0, 1, VOID)
    if grey and 255 in found and (names is None or len(names) == 2):
        return MaskClasses(tuple(names or BINARY), void, binary=True)
    if void is None and VOID in found and (names is None or len(names) <= VOID):
        void = VOID
    if names is None:
        counted = found - {void}
        if not counted:
            raise ValueError(f"{what} hold void pixels only")
        names = [str(number) for number in range(max(counted) + 1)]
    classes = MaskClasses(tuple(names), void)
    classes.number(np.array(sorted(found)))
    return classes


def are_sparse(classes: MaskClasses, values: Iterable[int]) -> bool:
    """Whether masks of the given pixel values lack most of their numbered classes, but hold several."""
    found = set(values) - {classes.void}
    return not classes.binary and len(found) > 1 and 2 * len(found) < len(classes.names)


def renumbered(classes: MaskClasses, values: Iterable[int]) -> MaskClasses:
    """The classes that occur in masks of the given pixel values, each called by its value, if most others do not.

    Masks that a person is to see as pictures hold 0, 100 and 200 instead of 0, 1 and 2.
    """
    found = sorted(set(values) - {classes.void})
    if not are_sparse(classes, found) or len(found) > VOID:
        return classes
    return MaskClasses(tuple(map(str, found)), classes.void, values=tuple(found))
