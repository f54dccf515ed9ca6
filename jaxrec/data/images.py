"""One image, of whatever format, as an array [H, W, C]."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxrec.errors import UserError

if TYPE_CHECKING:
    import PIL.Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
"""What an image's content may be, whatever its name; Pillow would also run PostScript as a program."""
ORIENTATION = 0x0112
"""EXIF tag; from 5 on, the image lies on its side."""


def convert_image(image: "PIL.Image.Image", shape: tuple[int, int, int], dtype: str = "uint8") -> np.ndarray:
    """A Pillow image as an array of the shape [H, W, C], C being 1 (grey) or 3 (RGB).

    The EXIF orientation is applied, transparency laid over white, and of an animation the first frame taken. An image
    of another size is resized (bilinear) until it covers H x W and cropped about its centre. 16-bit grey is scaled to 8
    bits or, with the dtype uint16 and one channel, kept.
    """
    from PIL import Image, ImageOps

    height, width, channels = shape
    image = upright(image)
    if dtype == "uint16":
        return _convert_deep(image, (height, width))
    if is_deep(image):
        image = Image.fromarray(np.rint(np.asarray(image).clip(0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.array(image).reshape(shape)


def _convert_deep(image: "PIL.Image.Image", size: tuple[int, int]) -> np.ndarray:
    """An upright image as uint16 [H, W, 1]; 8 bits are spread over the whole range."""
    from PIL import Image, ImageOps

    values = np.asarray(image).clip(0, 65535) if is_deep(image) else np.asarray(image.convert("L")) * np.uint16(257)
    if values.shape != size:
        # Pillow resizes 16-bit images by some filters only, but floats by all.
        resized = ImageOps.fit(
            Image.fromarray(values.astype(np.float32)), (size[1], size[0]), Image.Resampling.BILINEAR
        )
        values = np.rint(np.asarray(resized))
    return values.astype(np.uint16)[..., None]


def upright(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """The image decoded and turned as its EXIF orientation says."""
    from PIL import ImageOps

    image.load()  # some files tell their orientation after their pixels
    if image.getexif().get(ORIENTATION, 1) != 1:
        return ImageOps.exif_transpose(image)
    return image


def is_deep(image: "PIL.Image.Image") -> bool:
    """Whether an image is grey with more than 8 bits a pixel."""
    return image.mode.startswith("I")


def read_image(path: str | Path, shape: tuple[int, int, int], dtype: str = "uint8") -> np.ndarray:
    """The image in a file, through ``convert_image``; raises UserError naming a file that cannot be read."""
    with strict_pillow():
        return decode_file(path, shape, dtype)


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Makes decompression bombs errors and silences remarks on metadata; for the main thread alone, as filters are."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_file(path: str | Path, shape: tuple[int, int, int], dtype: str = "uint8") -> np.ndarray:
    """``read_image`` for worker threads, to be called inside ``strict_pillow`` or on files already probed."""
    with open_image(path) as image:
        return convert_image(image, shape, dtype)


class Header(NamedTuple):
    """What an image file says of itself."""

    size: tuple[int, int]
    """Height and width, once the EXIF orientation is applied."""
    colour: bool
    deep: bool
    """Grey with more than 8 bits a pixel."""


def probe_file(path: str | Path) -> Header:
    """What a file's header says, without decoding it; raises UserError like ``read_image``."""
    with open_image(path) as image:
        return Header(upright_size(image), has_colour(image), is_deep(image))


def upright_size(image: "PIL.Image.Image") -> tuple[int, int]:
    """(height, width) once the EXIF orientation is applied."""
    width, height = image.size
    if image.format == "PNG" and "exif" not in image.info:  # asking further would decode the image
        return (height, width)
    return (width, height) if image.getexif().get(ORIENTATION, 1) >= 5 else (height, width)


def has_colour(image: "PIL.Image.Image") -> bool:
    """False for grey modes and grey palettes, whatever the pixels of a colour mode are."""
    if image.mode in ("P", "PA"):
        red, green, blue = image.convert("RGB").split()
        return not (red == green == blue)
    return image.mode not in ("1", "L", "LA", "La", "F") and not image.mode.startswith("I")


@contextmanager
def open_image(path: str | Path) -> "Iterator[PIL.Image.Image]":
    """An image file, not decoded yet; raises UserError if it cannot be read or, inside, decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        if Path(path).exists() and not Path(path).is_file():  # Reading a pipe would wait for ever.
            raise OSError(0, "not a file")
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except Exception as error:  # Pillow's decoders raise a dozen kinds on broken files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"its content is none of {', '.join(FORMATS)}"
        raise UserError(f"{path} is not a readable image ({reason}); replace it or remove it") from error
