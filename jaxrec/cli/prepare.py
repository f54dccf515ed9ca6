"""jaxrec prepare NAME: downloads a TFDS set and prepares it; the one command that needs TensorFlow."""

import importlib.util
from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxrec.cli.arguments import parse
from jaxrec.data.prepared import prepared_sets, tfds_dir
from jaxrec.errors import UserError, nearest

EXAMPLES = ("jaxrec prepare mnist", "jaxrec prepare cifar10 --data-dir /data/tfds")


@dataclass(frozen=True)
class Prepare:
    """Download a data set of TensorFlow Datasets and prepare it in the form that jaxrec reads (array_record).

    Needs pip install 'jaxrec[prepare]'."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Name in the TFDS catalog, such as mnist or cifar10."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the prepared sets. Default: $TFDS_DATA_DIR, then ~/tensorflow_datasets."""


def main(argv: list[str]) -> None:
    """Prepares the set and says where it is."""
    options = parse(Prepare, argv, "jaxrec prepare", examples=EXAMPLES)
    prepare(options.dataset, options.data_dir)


def prepare(name: str, data_dir: str | None) -> None:
    """Prepares the set ``name`` in ``data_dir``; default: TFDS_DATA_DIR, then ~/tensorflow_datasets.

    Raises UserError if TensorFlow is not installed, there is no such set, or it cannot be fetched.
    """
    folder = tfds_dir(data_dir)
    if name in prepared_sets(folder):
        print(f"{name} is prepared already in {prepared_sets(folder)[name]}")
        return
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"TensorFlow is missing, with which TFDS prepares '{name}': run `pip install 'jaxrec[prepare]'`"
        )
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
