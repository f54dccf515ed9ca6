"""jaxrec prepare NAME: downloads a TFDS set and prepares it, which needs TensorFlow; or prepares a folder of photos."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxrec.cli.arguments import parse
from jaxrec.data.prepared import prepared_sets, tfds_dir
from jaxrec.errors import UserError, check_installed, nearest
from jaxrec.settings.ranges import AT_LEAST_ONE

PACKAGES = {"ray": ("ray",), "spark": ("pyspark",)}
"""What each engine needs."""
EXAMPLES = (
    "jaxrec prepare mnist",
    "jaxrec prepare cifar10 --data-dir /data/tfds",
    "jaxrec prepare birds --source photos --image-size 224 --engine ray --workers 8",
)


@dataclass(frozen=True)
class Prepare:
    """Download a data set of TensorFlow Datasets and prepare it in the form that jaxrec reads (array_record).

    Needs pip install 'jaxrec[prepare]'. With --source, prepare a folder of photos instead, by Ray or Spark."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Name in the TFDS catalog, such as mnist or cifar10."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the prepared sets. Default: $TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    source: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of photos, a folder for each class, that becomes the set NAME. The photos are decoded and resized once."""
    image_size: Annotated[int | str | None, AT_LEAST_ONE, tyro.conf.arg(metavar="SIZE")] = None
    """Size to which the photos of --source are brought: 224, or height x width. Default: that of the first one."""
    engine: Literal["ray", "spark"] = "ray"
    """What distributes the work of --source."""
    workers: Annotated[int, AT_LEAST_ONE] = 2
    """Workers of --engine, if it is not told by a cluster."""


def main(argv: list[str]) -> None:
    """Prepares the set and says where it is."""
    options = parse(Prepare, argv, "jaxrec prepare", examples=EXAMPLES)
    if options.source is None:
        prepare(options.dataset, options.data_dir)
    else:
        _prepare_folder(options, options.source)


def _prepare_folder(options: Prepare, source: str) -> None:
    """Prepares a folder of photos, and says what became of it."""
    folder = tfds_dir(options.data_dir) / options.dataset / "1.0.0"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", options.dataset):
        raise UserError(
            f"'{options.dataset}' is not a name of a set; expected a small letter, then small letters, digits and _"
        )
    if folder.exists():
        raise UserError(f"'{folder}' is there already; remove it, or choose another name")
    check_installed(f"--engine {options.engine}", PACKAGES[options.engine], options.engine)
    from jaxrec.data import open_dataset
    from jaxrec.run.preparing import ENGINES, prepare_folder

    dataset = open_dataset(f"folder:{source}", image_size=options.image_size, skip_bad=True)
    distribute = ENGINES[options.engine]
    count, bad = prepare_folder(dataset, Path(source), folder, distribute, options.workers)
    print(f"{count} images are prepared in {folder}; train on them with --dataset {options.dataset}")
    for path, reason in [*((str(each.path), each.reason) for each in dataset.left_out), *bad]:
        print(f"left out: {path} ({reason})")


def prepare(name: str, data_dir: str | None) -> None:
    """Prepares the set ``name`` in ``data_dir``; default: TFDS_DATA_DIR, then ~/tensorflow_datasets.

    Raises UserError if TensorFlow is not installed, there is no such set, or it cannot be fetched.
    """
    folder = tfds_dir(data_dir)
    if name in prepared_sets(folder):
        print(f"{name} is prepared already in {prepared_sets(folder)[name]}")
        return
    check_installed(f"preparing '{name}' by TFDS", ("tensorflow",), "prepare")
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=folder)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        hint = nearest(name, tfds.list_builders(with_community_datasets=False))
        raise UserError(f"TFDS has no dataset '{name}': expected a name from its catalog{hint}") from error
    try:
        builder.download_and_prepare(file_format="array_record")
    except (OSError, AssertionError) as error:  # no network or disk, or files that have to be fetched by hand
        raise UserError(f"dataset '{name}' cannot be prepared in {folder}: {' '.join(str(error).split())}") from error
    print(f"{name} is prepared in {builder.data_dir}")
