"""Sets prepared by TensorFlow Datasets, read as array_record without TensorFlow and without the network."""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.images import FORMATS, convert_image, has_colour, upright_size
from jaxrec.data.splits import Shape, Source
from jaxrec.errors import UserError, nearest


def cache_dir() -> Path:
    """Where jaxrec keeps what it makes itself: JAXREC_CACHE, else the user's cache folder."""
    if given := os.environ.get("JAXREC_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxrec"


def tfds_dir(data_dir: str | None) -> Path:
    """Where prepared sets lie: the given folder, else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared_sets(folder: Path) -> dict[str, Path]:
    """The folder of each prepared set: ``name`` or ``name/config`` for its newest version, ``name:version`` for any."""
    infos = [*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json")]
    versions = [info.parent for info in infos if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)]
    found = {}
    for version in sorted(versions, key=lambda path: tuple(map(int, path.name.split(".")))):
        name = version.parent.relative_to(folder).as_posix()
        found |= {name: version, f"{name}:{version.name}": version}
    return found


def open_prepared(name: str, folder: Path, image_size: int | None) -> Source:
    """The set ``name`` among the prepared sets in ``folder``; its images may vary in size.

    Raises UserError if it is not there, is not in array_record form or has no image and class features.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    sets = prepared_sets(folder)
    if name not in sets:
        hint = nearest(name, ["digits", "synthetic", *(known for known in sets if ":" not in known)])
        raise UserError(
            f"dataset '{name}' is not prepared in {folder}: expected digits, synthetic, folder:PATH or a set that "
            f"`python scripts/prepare_dataset.py {name} --data-dir {folder}` prepares after "
            f"`pip install 'jaxrec[prepare]'`{hint}"
        )
    whole = partial(_whole, name, sets[name])
    with whole():
        _refuse_code(sets[name])
        # Not tfds.builder: official classes may import TensorFlow, reach for the network and hide the features.
        builder: Any = tfds.builder_from_directory(sets[name])
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"dataset '{name}' in {folder} is stored as {builder.info.file_format.value}, expected array_record: "
            f"remove {sets[name]} and prepare it again with `python scripts/prepare_dataset.py {name}`"
        )
    image_key, label_key = _features(name, builder.info.features)
    with whole():
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        records = builder.as_data_source("+".join(builder.info.splits), deserialize_method=raw)
    parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]

    def parts(rows: list[int]) -> list[tuple[bytes, int]]:
        # tfds's own parsing takes as long as decoding a small image. Decoded here by Pillow, so that pixels do not
        # depend on whether OpenCV is installed.
        examples = (parse(record).features.feature for record in records.__getitems__(rows))
        pairs = [(each[image_key].bytes_list.value, each[label_key].int64_list.value) for each in examples]
        return [(image, label) for (image,), (label,) in pairs]

    with whole():
        first = [image for image, _ in parts(list(range(min(100, len(records)))))]
        shape = _image_shape(builder.info.features[image_key].shape, first, image_size)
        identity = _identity(builder, first)

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        with whole():
            examples = parts(rows.tolist())
            images = [convert_image(_image(image), shape) for image, _ in examples]
            labels = np.array([label for _, label in examples], np.int32)
        if (labels < 0).any():
            raise UserError(f"dataset '{name}' has examples without a label in this split: choose another split")
        return {"image": np.stack(images), "label": labels}

    return Source(
        read=read,
        sizes={split: info.num_examples for split, info in builder.info.splits.items()},
        image_shape=shape,
        class_names=tuple(builder.info.features[label_key].names),
        identity=identity,
        version=_version(sets[name]),
    )


@contextmanager
def _whole(name: str, folder: Path) -> Iterator[None]:
    """Raises UserError where the set's files are not what was prepared."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # array_record, protobuf and Pillow raise a dozen kinds on broken files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"dataset '{name}' in {folder} is damaged ({reason}); prepare it again") from error


def _refuse_code(folder: Path) -> None:
    """Raises UserError where a set's features are classes of another package's, which tfds would import."""
    path = folder / "features.json"

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, value in pairs:
            named = key in ("pythonClassName", "type") and "." in str(value)
            if named and not str(value).startswith("tensorflow_datasets."):
                raise UserError(f"{path} asks for the code '{value}'; expected features of tensorflow_datasets alone")
        return dict(pairs)

    json.loads(path.read_text("utf-8"), object_pairs_hook=check)


def _image(encoded: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(encoded), formats=FORMATS)


def _features(name: str, features) -> tuple[str, str]:
    """The keys of the image and of its class."""
    import tensorflow_datasets as tfds

    found = []
    for usual, kind in (("image", tfds.features.Image), ("label", tfds.features.ClassLabel)):
        keys = sorted(key for key, feature in features.items() if isinstance(feature, kind))
        if not keys:
            raise UserError(
                f"dataset '{name}' has no {usual} feature, only {', '.join(sorted(features))}: "
                "expected a set of images with one class each; choose another set"
            )
        found.append(usual if usual in keys else keys[0])
    return found[0], found[1]


def _image_shape(stated: tuple, encoded: list[bytes], image_size: int | None) -> Shape:
    """The stated shape, what it leaves open taken from the first images; image_size overrules the size."""
    height, width, channels = stated
    if None in stated:
        first = [_image(each) for each in encoded]
        if None in (height, width):
            height, width = upright_size(first[0])
        channels = channels or (3 if any(map(has_colour, first)) else 1)
    return (image_size or height, image_size or width, 1 if channels == 1 else 3)


def _identity(builder, encoded: list[bytes]) -> str:
    """Name, version, sizes and the first encoded images."""
    shards = [(name, info.shard_lengths, info.num_bytes) for name, info in builder.info.splits.items()]
    digest = hashlib.sha256(repr((builder.info.full_name, shards)).encode())
    for image in encoded:
        digest.update(image)
    return digest.hexdigest()


def _version(folder: Path) -> str:
    """Sizes and times of the set's files, and Pillow's version."""
    from PIL import __version__

    files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
    return repr((__version__, files))
