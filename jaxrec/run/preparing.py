"""A folder of photos as a prepared set, decoded and brought to one size once, its shards written by Ray or Spark.

The set is in the form of TensorFlow Datasets (array_record), so that jaxrec and whatever reads TFDS can open it.
"""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data import class_names
from jaxrec.data.datasets import Dataset
from jaxrec.data.features import Feature, image_feature
from jaxrec.data.images import decode_file, strict_pillow
from jaxrec.errors import UserError

VERSION = "1.0.0"
PER_SHARD = 1000
"""Images in a shard: what a worker that dies has to do again."""
QUALITY = 95
"""Of the JPEG files that photos in color become; grey ones become PNG files, which lose nothing."""


Distribute = Callable[[Callable[["Shard"], "Written"], Sequence["Shard"], int], list["Written"]]


class Shard(NamedTuple):
    """Some photos of a split, and the file that they become."""

    path: str
    split: str
    files: tuple[str, ...]
    labels: tuple[int, ...]


class Written(NamedTuple):
    """What came of a shard."""

    split: str
    examples: int
    size: int
    """Bytes."""
    bad: tuple[tuple[str, str], ...]
    """Path and reason of each photo that cannot be read."""


def shards_of(dataset: Dataset, source: Path, folder: Path) -> list[Shard]:
    """The shards of a folder of photos, in the order of their files.

    Args:
        dataset: the folder, opened.
        source: the folder.
        folder: where the set is written, ``NAME/VERSION``.
    """
    classes = dataset.splits["test"].classes
    if classes is None:
        raise UserError(f"'{source}' has no class folders, and a set of photos needs them; sort the photos by class")
    files = [str(source / file) for file in dataset.files]
    found, first = [], 0
    for split, size in dataset.sizes.items():
        count = -(-size // PER_SHARD)
        for number, places in enumerate(np.array_split(np.arange(first, first + size), count)):
            name = f"{folder.parent.name}-{split}.array_record-{number:05d}-of-{count:05d}"
            chosen = places.tolist()
            labels = tuple(int(classes[place]) for place in chosen)
            found.append(Shard(str(folder / name), split, tuple(files[place] for place in chosen), labels))
        first += size
    return found


def tfds_features(feature: Feature, names: Sequence[str]) -> Any:
    """What an example is made of, in the words of TFDS."""
    import tensorflow_datasets as tfds

    kind = "jpeg" if feature.shape[-1] == 3 else "png"
    image = tfds.features.Image(shape=feature.shape, encoding_format=kind)
    return tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(names=list(names))})


def write_shard(shard: Shard, feature: Feature, names: Sequence[str]) -> Written:
    """Writes one shard, whole or not at all; photos that cannot be read are left out of it."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = tfds_features(feature, names)
    serializer = ExampleSerializer(features.get_serialized_info())
    bad, size, examples = [], 0, 0
    part = f"{shard.path}.{os.getpid()}.part"
    writer = ArrayRecordWriter(part, "group_size:1")
    with strict_pillow():
        for file, label in zip(shard.files, shard.labels, strict=True):
            try:
                image = decode_file(file, feature)
            except UserError as error:
                bad.append((file, str(error)))
                continue
            example = features.encode_example({"image": encoded(image), "label": label})
            record = serializer.serialize_example(example)
            writer.write(record)
            size += len(record)
            examples += 1
    writer.close()
    os.replace(part, shard.path)
    return Written(shard.split, examples, size, tuple(bad))


def encoded(image: np.ndarray) -> io.BytesIO:
    """An image uint8 [H, W, C] as a file."""
    from PIL import Image

    content = io.BytesIO()
    if image.shape[-1] == 3:
        Image.fromarray(image).save(content, "JPEG", quality=QUALITY)
    else:
        Image.fromarray(image[..., 0]).save(content, "PNG")
    content.seek(0)
    return content


def by_ray(work: Callable[[Shard], Written], shards: Sequence[Shard], workers: int) -> list[Written]:
    """Does the work by tasks of Ray; what a worker that dies was at is done by another one."""
    import ray  # pyright: ignore[reportMissingImports]

    task = ray.remote(num_cpus=1, max_retries=5)(work)
    return ray.get([task.remote(shard) for shard in shards])


def by_spark(work: Callable[[Shard], Written], shards: Sequence[Shard], workers: int) -> list[Written]:
    """Does the work by tasks of Spark; what a worker that dies was at is done by another one."""
    from jaxrec.run.engines import spark_session

    return spark_session(workers).sparkContext.parallelize(list(shards), len(shards)).map(work).collect()


ENGINES = {"ray": by_ray, "spark": by_spark}


def prepare_folder(
    dataset: Dataset, source: Path, folder: Path, distribute: Distribute, workers: int
) -> tuple[int, list[tuple[str, str]]]:
    """Writes a prepared set of a folder of photos.

    Args:
        dataset: the folder, opened at the size that the images are to have.
        source: the folder.
        folder: of the set, ``NAME/VERSION``, which appears when all is written.
        distribute: one of ``ENGINES``, which has the work done by ``workers``.
        workers: how many.

    Returns:
        How many images were written, and path and reason of each that cannot be read.

    Raises:
        UserError: the photos have no classes, or are not images of 8 bits with 1 or 3 channels.
    """
    import tensorflow_datasets as tfds
    from etils import epath

    feature, names = image_feature(dataset.features), class_names(dataset.features)
    if feature.dtype != "uint8" or feature.shape[-1] not in (1, 3):
        raise UserError(
            f"the images are {feature.dtype} with {feature.shape[-1]} channels; expected photos of 8 bits, with 1 or 3"
        )
    making = folder.with_name(f".{folder.name}.part")
    making.mkdir(parents=True, exist_ok=True)
    shards = shards_of(dataset, source.absolute(), folder)
    placed = [shard._replace(path=str(making.absolute() / Path(shard.path).name)) for shard in shards]

    def work(shard: Shard) -> Written:
        return write_shard(shard, feature, names)

    written = distribute(work, placed, workers)
    splits = []
    for split in dataset.sizes:
        parts = [each for each in written if each.split == split]
        template = tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(making), dataset_name=folder.parent.name, split=split, filetype_suffix="array_record"
        )
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[each.examples for each in parts],
                num_bytes=sum(each.size for each in parts),
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=making, features=tfds_features(feature, names), split_infos=splits, version=VERSION, check_data=False
    )
    for left in making.glob("*.part"):  # By workers that died.
        left.unlink()
    making.rename(folder)
    unreadable = []
    for each in written:
        unreadable += each.bad
    return sum(each.examples for each in written), unreadable
