"""Images a second that are predicted by one process, and by the workers of Ray and of Spark.

    python scripts/engines.py                                   100,000 images of 28x28 pixels
    python scripts/engines.py --write benchmarks/engines.md

The images are PNG files: in folders for the one process, in Parquet files for the engines. Each command is timed whole,
with its start, and counts what it answered. Engines that are not installed are left out.
"""

import argparse
import importlib.util
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
from benchmark import conditions, processor, table, write
from PIL import Image

import jaxrec

PARTS = 20
"""Folders or Parquet files that the images lie in."""
ENGINES = {"ray": "ray", "spark": "pyspark"}
"""The engines, and the packages that they are."""
ABOUT = """# Predicting by several workers

Whole commands on the same images, with their start: `jaxrec predict RUN FOLDER` reads image files, `--engine ray` and
`--engine spark` read Parquet files of the same bytes. On one machine the one process uses all cores, too.

```bash
python scripts/engines.py --write benchmarks/engines.md
```
"""


def make_images(folder: Path, count: int) -> None:
    """``count`` images of random pixels, as ``folder/files/PART/NUMBER.png`` and as ``folder/parquet/PART.parquet``."""
    rng = np.random.default_rng(0)
    (folder / "parquet").mkdir()
    for part, numbers in enumerate(np.array_split(np.arange(count), PARTS)):
        place = folder / "files" / f"{part:02d}"
        place.mkdir(parents=True)
        paths, contents = [], []
        for number in numbers:
            memory = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(memory, "PNG")
            path = place / f"{number:06d}.png"
            path.write_bytes(memory.getvalue())
            paths.append(str(path))
            contents.append(memory.getvalue())
        columns = pyarrow.table({"path": paths, "content": contents})
        pyarrow.parquet.write_table(columns, folder / "parquet" / f"{part:02d}.parquet")


def command(*arguments: object) -> float:
    """Seconds that a command of jaxrec takes; raises CalledProcessError if it fails."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "jaxrec", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def answered(answers: Path) -> int:
    """How many images the answers tell of: a folder of Parquet files, or a table whose first line names its columns."""
    if answers.is_dir():
        return pyarrow.parquet.read_table(answers, columns=["path"]).num_rows
    with answers.open() as lines:
        return sum(1 for _ in lines) - 1


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table on this page")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make_images(folder, options.images)
        command("train", "--model", "cnn", "--steps", 1, "--runs", folder, "--name", "run")
        run = folder / "run"
        out = folder / "alone"
        seconds = command("predict", run, folder / "files", "--out", out)
        rows.append(["one process", 1, answered(out / "predictions.csv"), seconds])
        for engine, package in ENGINES.items():
            if importlib.util.find_spec(package) is None:
                print(f"left out: {package} is not installed", file=sys.stderr)
                continue
            out = folder / engine
            by_workers = ["--engine", engine, "--workers", options.workers, "--out", out]
            seconds = command("predict", run, folder / "parquet", *by_workers)
            rows.append([engine, options.workers, answered(out), seconds])
    versions = f"jaxrec {jaxrec.__version__}", f"jax {jax.__version__}"
    head = ["", "workers", "images", "seconds", "images a second"]
    lines = [[*map(str, row[:3]), f"{row[3]:.0f}", f"{row[2] / row[3]:.0f}"] for row in rows]
    text = f"{conditions(versions, 1)}\n\n{table(head, lines)}"
    print(text)
    if options.write:
        write(options.write, {f"Images predicted, {processor()}": text}, ABOUT)


if __name__ == "__main__":
    main()
