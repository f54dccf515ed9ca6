"""How images were brought to a network when its weights were trained."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.errors import UserError


class Preprocessing(NamedTuple):
    """What is done to images before the network sees them."""

    mean: tuple[float, ...]
    """Of each channel, of pixels in [0, 1]; it is subtracted."""
    std: tuple[float, ...]
    """What is divided by."""
    size: tuple[int, int] | None = None
    """Height and width."""
    crop: float = 1.0
    """The middle of the image that is kept, as a share of its shorter side."""


IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (224, 224), 0.875)
HALF = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (224, 224), 0.9)
"""Of timm's vision transformers."""
LITE = Preprocessing((127 / 255,) * 3, (128 / 255,) * 3, (224, 224), 0.875)
"""Of EfficientNet-Lite."""


def beside(path: Path) -> Preprocessing | None:
    """What timm's ``config.json`` in the folder of a file of weights says; None if there is none.

    Raises UserError if it is damaged.
    """
    config = path.with_name("config.json")
    if not config.is_file():
        return None
    try:
        return _of_timm(json.loads(config.read_text("utf-8")))
    except Exception as error:  # What is missing in a damaged file shows as any kind of error.
        raise UserError(
            f"'{config}', which lies beside the weights, is damaged ({error}); download it again"
        ) from error


def _of_timm(config: Mapping[str, Any]) -> Preprocessing | None:
    given = config.get("pretrained_cfg")
    if given is None:
        return None
    _, height, width = (int(side) for side in given["input_size"])
    mean = tuple(float(value) for value in given["mean"])
    std = tuple(float(value) for value in given["std"])
    return Preprocessing(mean, std, (height, width), float(given.get("crop_pct", 1.0)))
