"""One image, whatever its kind, as uint8 [H, W, C]."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxrec.errors import UserError

if TYPE_CHECKING:
    import PIL.Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
"""What an image's content may be, whatever its name: of all that Pillow knows, PostScript would be run as a program."""
ORIENTATION = 0x0112
"""EXIF tag; from 5 on, the image lies on its side."""


def convert_image(image: "PIL.Image.Image", shape: tuple[int, int, int]) -> np.ndarray:
    """A Pillow image as uint8 of the shape [H, W, C], C being 1 (grey) or 3 (RGB).

    The EXIF orientation is applied, transparency laid over white, 16-bit grey scaled to 8 bits, and of an animation
    the first frame taken. An image of another size is resized (bilinear) until it covers H x W and cropped about its
    centre.
    """
    from PIL import Image, ImageOps

    height, width, channels = shape
    image.load()  # some files tell their orientation after their pixels
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray(np.rint(np.asarray(image).clip(0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.array(image).reshape(shape)


def read_image(path: str | Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The image in a file, through ``convert_image``; raises UserError naming a file that cannot be read."""
    with strict_pillow():
        return decode_file(path, shape)


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Makes decompression bombs errors and silences remarks on metadata; for the main thread alone, as filters are."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_file(path: str | Path, shape: tuple[int, int, int]) -> np.ndarray:
    """``read_image`` for worker threads, to be called inside ``strict_pillow`` or on files already probed."""
    with open_image(path) as image:
        return convert_image(image, shape)


def probe_file(path: str | Path) -> tuple[tuple[int, int], bool]:
    """(height, width) and whether there is colour, from a file's header; raises UserError like ``read_image``."""
    with open_image(path) as image:
        return upright_size(image), has_colour(image)


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
    """An image file, not decoded yet; raises UserError where it cannot be read or, inside, decoded."""
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
