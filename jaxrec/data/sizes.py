"""How an image of one size is brought to another, and how what a model says of it is brought back."""

from collections.abc import Sequence
from math import floor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxrec.errors import UserError

if TYPE_CHECKING:
    import PIL.Image

Size = tuple[int, int]
"""Height and width in pixels."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""

RESIZES = ("crop", "pad", "stretch")
CHANGES = {"crop": "cropped", "pad": "padded", "stretch": "stretched"}


def parse_size(given: int | str | Sequence[int] | None) -> Size | None:
    """The size that a user means: ``64`` is a square, ``"224x160"`` and ``(224, 160)`` are height and width.

    Raises UserError for anything else, and for less than one pixel.
    """
    if given is None:
        return None
    if isinstance(given, str):
        sides: list[Any] = list(given.lower().replace("×", "x").split("x"))
    else:
        sides = [given] if isinstance(given, int) else list(given)
    if len(sides) == 1:
        sides *= 2
    try:
        height, width = (int(side) for side in sides)
    except (TypeError, ValueError):
        height, width = 0, 0
    if min(height, width) < 1:
        raise UserError(
            f"--image-size {given} is not a size: expected a number of pixels such as 64, "
            "or height x width such as 224x160"
        )
    return height, width


def check_resize(resize: str) -> None:
    """Raises UserError for a way of resizing that does not exist."""
    if resize not in RESIZES and not 0 < _share(resize) < 1:
        raise UserError(
            f"--resize cannot be '{resize}'; expected one of {', '.join(RESIZES)}, or crop:SHARE with a share below 1, "
            "such as crop:0.875"
        )


def _share(resize: str) -> float:
    """The share that ``crop:SHARE`` keeps; 0 for anything else."""
    kind, _, share = resize.partition(":")
    try:
        return float(share) if kind == "crop" else 0.0
    except ValueError:
        return 0.0


class Resizing(NamedTuple):
    """How an image is brought from its own size to another.

    ==========  ==============================================================================
    mode        what happens to an image of another shape
    ==========  ==============================================================================
    crop        it is scaled until it covers the new size, and cut about its center
    crop:SHARE  likewise, and of that only the middle is kept, by this share of both sides
    pad         it is scaled until it fits into the new size, and gets borders on two sides
    stretch     its height and its width are scaled each by its own factor
    ==========  ==============================================================================
    """

    original: Size
    size: Size
    mode: str = "crop"

    @property
    def part(self) -> Box:
        """What is seen of the original; the rest is cut off."""
        height, width = self.original
        if not self.mode.startswith("crop"):
            return (0, 0, width, height)
        seen_width, seen_height = float(width), float(height)
        ratio = self.size[1] / self.size[0]
        if width / height > ratio:
            seen_width = ratio * height
        elif width / height < ratio:
            seen_height = width / ratio
        share = _share(self.mode) or 1.0
        seen_width, seen_height = share * seen_width, share * seen_height
        left, top = (width - seen_width) / 2, (height - seen_height) / 2
        return (left, top, left + seen_width, top + seen_height)

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Where that part lies in the new image: left, top, right and bottom; the rest is border."""
        height, width = self.size
        if self.mode != "pad":
            return (0, 0, width, height)
        scale = min(height / self.original[0], width / self.original[1])
        inner_height = max(1, floor(self.original[0] * scale + 0.5))
        inner_width = max(1, floor(self.original[1] * scale + 0.5))
        left, top = (width - inner_width) // 2, (height - inner_height) // 2
        return (left, top, left + inner_width, top + inner_height)

    @property
    def changes_shape(self) -> bool:
        """Whether the image is cropped, padded or stretched, by a pixel or more."""
        height, width = self.original
        left, top, right, bottom = self.part
        if self.mode == "stretch":
            return abs(width / height * self.size[0] - self.size[1]) >= 1
        scale = self.size[0] / (bottom - top)
        cut = max(width - (right - left), height - (bottom - top)) * scale
        return cut >= 1 or self.place != (0, 0, self.size[1], self.size[0])

    def apply(self, image: "PIL.Image.Image", filter: Any, fill: int = 0) -> np.ndarray:
        """The Pillow image, whose size is ``original`` or a fraction of it, as an array of the new size.

        Args:
            image: The image, upright.
            filter: Pillow's filter.
            fill: The value of borders.
        """
        left, top, right, bottom = self.place
        box = self.part
        if image.size != self.original[::-1]:
            # Pillow has decoded the image at a fraction of its size.
            box = Resizing((image.height, image.width), self.size, self.mode).part
        whole = (0.0, 0.0, float(image.width), float(image.height))
        if image.size != (right - left, bottom - top) or box != whole:
            image = image.resize((right - left, bottom - top), filter, box=box)
        values = np.asarray(image)
        if values.shape[:2] == self.size:
            return values
        bordered = np.full((*self.size, *values.shape[2:]), fill, np.result_type(values, np.min_scalar_type(fill)))
        bordered[top:bottom, left:right] = values
        return bordered

    def move_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the original, float32 [N, 4] of y0, x0, y1, x1 in pixels, in the new image.

        They are cut at its border, so that a box of which nothing is seen has no area.
        """
        scale, shift = self._scale_and_shift()
        left, top, right, bottom = self.place
        moved = boxes.astype(np.float64) * scale + shift
        return moved.clip((top, left, top, left), (bottom, right, bottom, right)).astype(np.float32)

    def undo_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the new image, float32 [N, 4], in the original, and cut at its border."""
        scale, shift = self._scale_and_shift()
        height, width = self.original
        original = (boxes.astype(np.float64) - shift) / scale
        return original.clip(0, (height, width, height, width)).astype(np.float32)

    def _scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """What y0, x0, y1, x1 of the original are multiplied by and then moved by, float64 [4] each."""
        part = np.array(self.part)
        place = np.array(self.place)
        across, down = (place[2:] - place[:2]) / (part[2:] - part[:2])
        scale = np.array([down, across, down, across])
        first = np.array([1, 0, 1, 0])
        return scale, place[first] - part[first] * scale

    def undo(self, values: np.ndarray, fill: Any) -> np.ndarray:
        """What a model says of each pixel of the new image, ``[H, W, ...]``, for each pixel of the original.

        Each pixel takes the value of the nearest one. ``fill`` stands where the original was cut off.
        """
        rows, seen_rows = self._sources(0)
        columns, seen_columns = self._sources(1)
        original = values[rows][:, columns].copy()
        original[~seen_rows] = fill
        original[:, ~seen_columns] = fill
        return original

    def _sources(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """For each of the original's rows (0) or columns (1), the one to read in the new image, and if it is seen."""
        start, end = self.part[1 - axis], self.part[3 - axis]
        first, last = self.place[1 - axis], self.place[3 - axis]
        centers = np.arange(self.original[axis]) + 0.5
        seen = (centers >= start) & (centers < end)
        found = np.floor(first + (centers - start) * (last - first) / (end - start)).astype(int)
        return found.clip(first, last - 1), seen


def told(sizes: Sequence[Size], size: Size, mode: str, which: str = "") -> tuple[str, ...]:
    """One line that counts the images of another size, and those of another shape; none if all have the size.

    ``which`` stands before ``images``, such as ``"the first "``.
    """
    other = [each for each in sizes if each != size]
    if not other:
        return ()
    changed = sum(Resizing(each, size, mode).changes_shape for each in other)
    line = f"{len(other)} of {which}{len(sizes)} images have another size than {size[0]}x{size[1]} and are "
    change = CHANGES[mode.partition(":")[0]]
    if changed == len(other):
        return (f"{line}{change}; see --resize",)
    if changed:
        return (f"{line}resized, {changed} of them {change}; see --resize",)
    return (f"{line}resized",)
