"""One image, of whatever format, as an array [H, W, C]."""

import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxrec.data.features import Feature
from jaxrec.data.sizes import Resizing, Size
from jaxrec.errors import UserError

if TYPE_CHECKING:
    import PIL.Image

SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff",
    ".avif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
"""Of image files, in lower case; HEIC needs a package beside."""
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")
"""What an image's content may be, whatever its name; Pillow would also run PostScript as a program."""
ORIENTATION = 0x0112
"""EXIF tag; from 5 on, the image lies on its side."""
LARGEST = 2**28
"""Most pixels of an image: 16384 x 16384. A small file could otherwise ask for all memory."""
FINER = 2
"""A JPEG may be decoded at a fraction of its size that is still this many times as fine as what it is resized to."""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R 601), as in Pillow."""


def convert_image(
    image: "PIL.Image.Image",
    shape: tuple[int, int, int],
    dtype: str = "uint8",
    resize: str = "crop",
    levels: Sequence[float] = (),
) -> np.ndarray:
    """A Pillow image as an array of the shape [H, W, C], C being 1 (grey) or 3 (RGB).

    The EXIF orientation is applied, transparency laid over white, and of an animation the first frame taken.

    Args:
        image: The image, best not decoded yet.
        shape: The array's shape. An image of another size is resized (bilinear).
        dtype: ``uint8``, ``uint16`` or ``float32``, which has black at 0 and white at 1.
        resize: How an image of another shape is brought to H x W, see ``Resizing``; borders are black.
        levels: The values of an image of 16 bits or floats that are black and white; what lies beyond is cut off.
            Default: 0 and 65535, and of floats 0 and 1, or 0 and 255 if one is above 1.
    """
    from PIL import Image

    height, width, channels = shape
    if dtype != "uint8" or is_deep(image):
        values = _values(image, channels, levels)
        return _resized_values(values, Resizing(values.shape[:2], (height, width), resize), dtype)
    own = _draft(image, (height, width), resize)
    plain = _plain(image, channels)
    resizing = Resizing(own or (plain.height, plain.width), (height, width), resize)
    return np.array(resizing.apply(plain, Image.Resampling.BILINEAR)).reshape(shape)


def convert_to(image: "PIL.Image.Image", feature: Feature) -> np.ndarray:
    """A Pillow image as an example's image feature holds it."""
    height, width, channels = feature.shape
    levels = feature.levels
    if feature.dtype != "uint8" and (image.mode == "F") != (feature.dtype == "float32"):
        levels = ()  # They are said of files of the other kind.
    return convert_image(image, (height, width, channels), feature.dtype, feature.resize, levels)


def _draft(image: "PIL.Image.Image", size: Size, resize: str) -> Size | None:
    """Lets a JPEG much larger than needed be decoded at a half, a quarter or an eighth of its size, which is returned.

    Other images, for which None is returned, may tell their orientation after their pixels.
    """
    if image.format != "JPEG":
        return None
    own = upright_size(image)
    left, top, right, bottom = Resizing(own, size, resize).part
    scale = max(size[0] / (bottom - top), size[1] / (right - left))
    image.draft(None, (ceil(image.width * scale * FINER), ceil(image.height * scale * FINER)))
    return own


def _plain(image: "PIL.Image.Image", channels: int) -> "PIL.Image.Image":
    """An image of 8 bits upright, without transparency, and grey or RGB."""
    from PIL import Image

    image = upright(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    if image.mode == "LAB":  # Pillow makes it gray by way of RGB only.
        image = image.convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _values(image: "PIL.Image.Image", channels: int, levels: Sequence[float]) -> np.ndarray:
    """The upright image as float32 [h, w, channels] from 0 (black) to 1 (white), of whatever depth it is."""
    if not is_deep(image):
        values = np.asarray(_plain(image, channels), np.float32) / np.float32(255)
        return values.reshape(*values.shape[:2], channels)
    found = deep_values(image).astype(np.float64)
    low, high = levels or _usual_levels(found, image.mode)
    values = (found - low) / ((high - low) or 1)
    values = np.nan_to_num(values).clip(0, 1).astype(np.float32)
    if values.shape[2] == 4:
        opaque = values[..., 3:]
        values = values[..., :3] * opaque + 1 - opaque
    if values.shape[2] == 3 and channels == 1:
        return values @ np.array(GREY, np.float32)[:, None]
    return np.repeat(values, channels, 2) if values.shape[2] < channels else values


def _usual_levels(values: np.ndarray, mode: str) -> tuple[float, float]:
    """Black and white of an image that belongs to no set."""
    if mode != "F":
        return (0, 65535)
    return (0, 255) if np.nanmax(values) > 1 else (0, 1)


def _resized_values(values: np.ndarray, resizing: Resizing, dtype: str) -> np.ndarray:
    """Values in [0, 1], resized channel by channel, in the dtype."""
    from PIL import Image

    # Pillow resizes images of 16 bits by some filters only, but floats by all.
    planes = [Image.fromarray(np.ascontiguousarray(values[..., each])) for each in range(values.shape[2])]
    resized = np.stack([resizing.apply(plane, Image.Resampling.BILINEAR) for plane in planes], -1).clip(0, 1)
    if dtype == "float32":
        return resized.astype(np.float32)
    return np.rint(resized * np.iinfo(dtype).max).astype(dtype)


def upright(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """The image decoded and turned as its EXIF orientation says."""
    from PIL import ImageOps

    image.load()  # some files tell their orientation after their pixels
    return image if orientation(image) == 1 else ImageOps.exif_transpose(image)


def orientation(image: "PIL.Image.Image") -> int:
    """What an image's EXIF block says, from 1 to 8; 1 without one, or if it is not what EXIF should be."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises half a dozen kinds; the pixels do not depend on it.
        return 1


def pixel_dtype(image: "PIL.Image.Image") -> str:
    """What an opened image's values need: uint8, uint16 or float32."""
    if image.mode == "F":
        return "float32"
    return "uint16" if image.mode.startswith("I") or _deep_color(image) else "uint8"


def is_deep(image: "PIL.Image.Image") -> bool:
    """Whether an opened image has more than 8 bits a channel."""
    return pixel_dtype(image) != "uint8"


def deep_values(image: Any) -> np.ndarray:
    """The values of a Pillow image of more than 8 bits, upright, as they are in the file: [h, w, C], C being 1, 3, 4.

    The image is not decoded yet.
    """
    if not _deep_color(image):
        values = np.asarray(upright(image))
        return values[..., None]
    # Pillow keeps one byte of a color's two. Which one it keeps can be told to it: so the file is decoded twice.
    image.fp.seek(0)
    other = type(image)(io.BytesIO(image.fp.read()))
    (tile,) = other.tile
    other.tile = [tile._replace(args=_other_byte(tile.args))]
    high, low = np.asarray(upright(image)), np.asarray(upright(other))
    return high.astype(np.uint16) * np.uint16(256) + low


def _deep_color(image: "PIL.Image.Image") -> bool:
    """Whether an opened image, not decoded yet, has 16 bits for each of red, green and blue."""
    tiles = getattr(image, "tile", [])
    return len(tiles) == 1 and _raw_mode(tiles[0].args).startswith(("RGB;16", "RGBA;16"))


def _raw_mode(args: Any) -> str:
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else ""


def _other_byte(args: Any) -> Any:
    """A decoder's arguments for the bytes that it would leave out."""
    mode = _raw_mode(args)
    native = "L" if sys.byteorder == "little" else "B"
    order = native if mode[-1] == "N" else mode[-1]
    other = mode[:-1] + ("B" if order == "L" else "L")
    return (other, *args[1:]) if isinstance(args, tuple) else other


def read_image(path: str | Path, shape: tuple[int, int, int], dtype: str = "uint8") -> np.ndarray:
    """The image in a file, through ``convert_image``; raises UserError naming a file that cannot be read."""
    return read_as(path, Feature("image", shape, dtype))


def read_as(path: str | Path, feature: Feature) -> np.ndarray:
    """The image in a file as an image feature holds it; raises UserError naming a file that cannot be read."""
    with strict_pillow():
        return decode_file(path, feature)


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Silences Pillow's remarks on metadata; for the main thread alone, as filters are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def decode_file(path: str | Path, feature: Feature) -> np.ndarray:
    """``read_as`` for worker threads, to be called inside ``strict_pillow`` or on files already probed."""
    with open_image(path) as image:
        return convert_to(image, feature)


class Unreadable(UserError):
    """An image file that cannot be read."""

    def __init__(self, path: str | Path, sentence: str) -> None:
        super().__init__(sentence)
        self.path = Path(path)


class Header(NamedTuple):
    """What an image file says of itself."""

    size: Size
    """Once the EXIF orientation is applied."""
    color: bool
    dtype: str
    """What its values need: uint8, uint16 or float32."""
    orientation: int
    """EXIF's, from 1 to 8; 1 if it says nothing."""
    pages: int
    """Pages or frames; the first one is read."""
    transparent: bool


def probe_file(path: str | Path) -> Header:
    """What a file's header says, without decoding it; raises UserError like ``read_image``."""
    with open_image(path) as image:
        return Header(
            upright_size(image),
            has_color(image),
            pixel_dtype(image),
            stated_orientation(image),
            pages_of(image),
            image.has_transparency_data,
        )


def pages_of(image: "PIL.Image.Image") -> int:
    """How many pages or frames an opened image has."""
    # Cameras put a preview beside a photo, which nobody misses.
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def stated_orientation(image: "PIL.Image.Image") -> int:
    """``orientation`` of an opened image, as far as its header says it."""
    if image.format == "PNG" and "exif" not in image.info:  # asking further would decode the image
        return 1
    return orientation(image)


def upright_size(image: "PIL.Image.Image") -> Size:
    """Height and width once the EXIF orientation is applied."""
    width, height = image.size
    return (width, height) if stated_orientation(image) >= 5 else (height, width)


def is_one_color(path: str | Path) -> bool:
    """Whether all pixels of a file are alike once it is laid over white; raises UserError if it cannot be decoded."""
    with open_image(path) as image:
        bands = _plain(image, 3).split()
        return all(low == high for low, high in (band.getextrema() for band in bands))


def has_color(image: "PIL.Image.Image") -> bool:
    """False for grey modes and grey palettes, whatever the pixels of a color mode are."""
    if image.mode in ("P", "PA"):
        red, green, blue = image.convert("RGB").split()
        return not (red == green == blue)
    return image.mode not in ("1", "L", "LA", "La", "F") and not image.mode.startswith("I")


@cache
def heif_is_read() -> bool:
    """Whether pillow-heif is there; from now on Pillow knows it, too."""
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    register_heif_opener()
    return True


def formats() -> tuple[str, ...]:
    """``FORMATS``, and HEIC if it can be read here."""
    return (*FORMATS, "HEIF") if heif_is_read() else FORMATS


@contextmanager
def open_image(path: str | Path) -> "Iterator[PIL.Image.Image]":
    """An image file, not decoded yet; raises UserError if it cannot be read or, inside, decoded."""
    from PIL import Image, UnidentifiedImageError

    # Pillow warns from this number of pixels on, and raises from its double; by default from 89 million, which cameras
    # reach. A program that has switched the check off, or set it higher, keeps that.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, LARGEST)
    try:
        if Path(path).exists() and not Path(path).is_file():  # Reading a pipe would wait for ever.
            raise OSError(0, "not a file")
        with Image.open(path, formats=formats()) as image:
            if image.width * image.height > LARGEST:
                raise ValueError(f"it has {image.height}x{image.width} pixels, more than {LARGEST:,}")
            yield image
    except Exception as error:  # Pillow's decoders raise a dozen kinds on broken files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"its content is none of {', '.join(formats())}"
        sentence = f"{path} is not a readable image ({reason}); replace it or remove it"
        raise Unreadable(path, sentence) from error
