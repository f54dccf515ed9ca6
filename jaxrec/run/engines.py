"""Predictions of more images than one machine holds, by Ray or Spark: a folder or Parquet files in, Parquet files out.

An example is a row with ``path`` and ``content``, the bytes of an image file. An answer is a row with its ``path``,
``prediction``, ``answer``, what ``jaxrec predict`` tells of it, as JSON, and ``error``, why it could not be read.
"""

import functools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.videos import SUFFIXES as VIDEOS
from jaxrec.data.walk import walk
from jaxrec.errors import UserError
from jaxrec.run.store.folder import plain_value
from jaxrec.run.trained import Trained, load

COLUMNS = ("path", "prediction", "answer", "error")
AT_ONCE = 256
"""Images that a worker takes at once."""


PARTS = 8
"""Parts of the images for each worker of Spark: what a worker that dies has done is lost up to one part."""


class Job(NamedTuple):
    """What is predicted of what, by how many workers."""

    run: str
    """The run's folder, which every worker sees."""
    checkpoint: str | None
    source: str
    """A folder of images, or a Parquet file or folder of them."""
    out: str
    """The folder of the answers."""
    workers: int


@functools.cache
def loaded(run: str, checkpoint: str | None) -> Trained:
    """The run, once in each worker's process."""
    return load(run, checkpoint=checkpoint)


def answers(run: str, checkpoint: str | None, paths: list[str], contents: list[bytes]) -> dict[str, list[str]]:
    """The columns of the answers to some images; one that cannot be read has its ``error`` and no answer."""
    trained = loaded(run, checkpoint)
    found: dict[str, list[str]] = {name: [""] * len(paths) for name in COLUMNS}
    found["path"] = list(paths)
    with tempfile.TemporaryDirectory() as folder:
        images, files, places = [], [], []
        for place, content in enumerate(contents):
            file = Path(folder) / str(place)
            file.write_bytes(content)
            try:
                images.append(trained.read(file))
            except UserError as error:
                found["error"][place] = str(error).replace(str(file), paths[place])
                continue
            files.append(file)
            places.append(place)
        if images:
            for place, row in zip(places, _rows(trained, files, images), strict=True):
                found["prediction"][place] = str(row.get("prediction", ""))
                found["answer"][place] = json.dumps(row, default=plain_value)
    return found


def _rows(trained: Trained, files: list[Path], images: list[np.ndarray]) -> list[dict[str, Any]]:
    """What is told of each image that was read from a file."""
    shown = trained.together(images)
    return trained.rows(shown[0], trained.at_file_sizes(files, trained.predict(*shown)))


def image_files(source: str) -> list[str]:
    """The absolute paths of a folder's images; raises UserError if there are none."""
    found = [str(path.absolute()) for path in walk(Path(source), VIDEOS).images]
    if not found:
        raise UserError(f"folder '{source}' holds no images; expected image files, or Parquet files of their bytes")
    return found


def is_parquet(source: str) -> bool:
    """Whether a source is a Parquet file or a folder that holds some; raises UserError if there is no such source."""
    path = Path(source)
    if not path.exists():
        raise UserError(f"there is no folder or file '{source}'; check the path")
    return path.suffix == ".parquet" if path.is_file() else next(path.glob("*.parquet"), None) is not None


class _OfRay:
    """A worker of Ray, which opens the run when it begins."""

    def __init__(self, job: Job) -> None:
        self._job = job
        loaded(job.run, job.checkpoint)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        contents = batch["content"] if "content" in batch else batch["bytes"]
        found = answers(self._job.run, self._job.checkpoint, list(batch["path"]), list(contents))
        return {name: np.array(values, dtype=object) for name, values in found.items()}


def predict_by_ray(job: Job) -> None:
    """Writes the answers by Ray Data's ``map_batches``; the part of a worker that dies is done by another one."""
    import ray.data  # pyright: ignore[reportMissingImports]

    if is_parquet(job.source):
        examples = ray.data.read_parquet(job.source)
    else:
        examples = ray.data.read_binary_files(image_files(job.source), include_paths=True)
    # Half a core each: with all cores taken, nothing would read the images, and the workers would wait for ever.
    pool = ray.data.ActorPoolStrategy(size=job.workers)
    answered = examples.map_batches(_OfRay, fn_constructor_args=(job,), batch_size=AT_ONCE, compute=pool, num_cpus=0.5)
    answered.write_parquet(job.out)


def spark_session(workers: int) -> Any:
    """The session of ``spark-submit``, otherwise one of so many workers on this machine."""
    from pyspark.sql import SparkSession  # pyright: ignore[reportMissingImports]

    # A cluster's own settings, such as its master, come by spark-submit. On one machine a failed part is tried again.
    builder = SparkSession.builder.appName("jaxrec")
    if "SPARK_ENV_LOADED" not in os.environ:
        builder = builder.master(f"local[{workers}, 4]")
        # Spark would start the first python3 of the path, which may know nothing of jaxrec.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return builder.getOrCreate()


def predict_by_spark(job: Job) -> None:
    """Writes the answers by Spark's ``mapInPandas``; the part of a worker that dies is done by another one."""

    def of_part(frames: Iterator[Any]) -> Iterator[Any]:
        import pandas  # pyright: ignore[reportMissingImports]

        for frame in frames:
            for start in range(0, len(frame), AT_ONCE):
                some = frame.iloc[start : start + AT_ONCE]
                yield pandas.DataFrame(answers(job.run, job.checkpoint, list(some["path"]), list(some["content"])))

    session = spark_session(job.workers)
    if is_parquet(job.source):
        examples = session.read.parquet(job.source)
    else:
        image_files(job.source)
        reader = session.read.format("binaryFile").option("recursiveFileLookup", "true")
        examples = reader.load(job.source).select("path", "content")
    schema = ", ".join(f"{name} string" for name in COLUMNS)
    examples.repartition(PARTS * job.workers).mapInPandas(of_part, schema).write.parquet(job.out)


def counted_answers(out: str) -> tuple[int, list[tuple[str, str]]]:
    """How many images were answered, and path and reason of each that was not."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(out, columns=["path", "error"]).to_pydict()
    bad = [(path, error) for path, error in zip(table["path"], table["error"], strict=True) if error]
    return len(table["path"]) - len(bad), bad


ENGINES = {"ray": predict_by_ray, "spark": predict_by_spark}
PACKAGES = {"ray": ("ray", "pyarrow"), "spark": ("pyspark", "pandas", "pyarrow")}
