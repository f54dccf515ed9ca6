"""Scikit-learn's handwritten digits as a TFDS set, prepared on first use without network or TensorFlow."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxrec.data.cache import cache_dir
from jaxrec.data.files import PLAIN, Options
from jaxrec.data.prepared import open_prepared, prepared_sets
from jaxrec.data.reads import Reads
from jaxrec.data.splits import Source
from jaxrec.errors import UserError

NAME = "jaxrec_digits"


class JaxrecDigits(tfds.core.GeneratorBasedBuilder):
    """1797 digits of 8x8 pixels (UCI test part; Alpaydin & Kaynak 1998), cut 80/20 with equal shares of each class."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits: Any = load_digits()
        pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
        rows = np.arange(len(pixels))
        cut: Any = train_test_split(rows, test_size=0.2, random_state=0, stratify=digits.target)
        return {
            "train": self._generate_examples(pixels, digits.target, cut[0]),
            "test": self._generate_examples(pixels, digits.target, cut[1]),
        }

    def _generate_examples(
        self, pixels: np.ndarray, target: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        from PIL import Image

        for row in rows.tolist():
            yield row, {"image": Image.fromarray(pixels[row]), "label": int(target[row])}


def open_digits(reads: Reads, options: Options = PLAIN) -> Source:
    """The digits, prepared first if they are not yet."""
    return open_prepared(NAME, prepare_digits(), reads, options, called="digits")


def prepare_digits() -> Path:
    """The folder in which the digits lie prepared; safe to call from several processes at once."""
    folder = cache_dir()
    if NAME in prepared_sets(folder):
        return folder
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            JaxrecDigits(data_dir=folder).download_and_prepare(file_format="array_record")
    except OSError as error:
        # TFDS renames its finished folder into place, which fails for all but the first of several processes.
        if NAME not in prepared_sets(folder):
            raise UserError(
                f"cannot write {folder} ({error.strerror or error}): set JAXREC_CACHE to a folder you can write to"
            ) from error
    return folder
