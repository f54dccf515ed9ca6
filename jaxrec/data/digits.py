"""Scikit-learn's handwritten digits."""

from functools import cache
from typing import Any

import numpy as np

from jaxrec.data.features import Feature
from jaxrec.data.files import PLAIN, Options
from jaxrec.data.reads import Reads, chosen_features
from jaxrec.data.resized import resized
from jaxrec.data.splits import Source, from_arrays

FEATURES = {
    "image": Feature("image", (8, 8, 1), "uint8"),
    "label": Feature("class", (), "int32", tuple("0123456789")),
}


def open_digits(reads: Reads, options: Options = PLAIN) -> Source:
    """1797 digits of 8x8 pixels (UCI test part; Alpaydin & Kaynak 1998), cut 80/20 with equal shares of each class."""
    arrays, sizes = _digits()
    chosen, features = chosen_features("digits", reads, FEATURES)
    read = from_arrays({name: arrays[key] for name, key in chosen.items()})
    return resized(Source(read, sizes, features, identity="digits 2"), options)


@cache
def _digits() -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The digits in the order of their splits, and the size of each split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits: Any = load_digits()
    cut: Any = train_test_split(np.arange(len(digits.target)), test_size=0.2, random_state=0, stratify=digits.target)
    order = np.concatenate(cut)
    image = np.rint(digits.images[order] * 255 / 16).astype(np.uint8)[..., None]
    sizes = {"train": len(cut[0]), "test": len(cut[1])}
    return {"image": image, "label": digits.target[order].astype(np.int32)}, sizes
