"""Downloads a TFDS set and prepares it in the form jaxrec reads (array_record); the one place that needs TensorFlow."""

import argparse
import importlib.util
import sys

from jaxrec.data.prepared import prepared_sets, tfds_dir
from jaxrec.errors import UserError, nearest


def prepare(name: str, data_dir: str | None) -> None:
    """Prepares the set ``name`` in ``data_dir``, else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
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
        raise UserError(f"TFDS has no dataset '{name}': expected a name from its catalogue{hint}") from error
    try:
        builder.download_and_prepare(file_format="array_record")
    except (OSError, AssertionError) as error:  # no network or disk, or files that have to be fetched by hand
        raise UserError(f"dataset '{name}' cannot be prepared in {folder}: {' '.join(str(error).split())}") from error
    print(f"{name} is prepared in {builder.data_dir}")


def main() -> int:
    """Reads the command line; returns the exit code, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="name in the TFDS catalogue, such as mnist or cifar10")
    parser.add_argument("--data-dir", help="where prepared sets lie; else TFDS_DATA_DIR, else ~/tensorflow_datasets")
    arguments = parser.parse_args()
    try:
        prepare(arguments.name, arguments.data_dir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
