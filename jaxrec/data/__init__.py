"""The images: named sets, read as uint8 arrays, and batches as a function of (seed, step)."""

from jaxrec.data.batches import batch_indices, eval_batches, streamed
from jaxrec.data.datasets import Dataset, open_dataset
from jaxrec.data.images import convert_image, read_image
from jaxrec.data.prepared import cache_dir
from jaxrec.data.splits import STATISTICS_SAMPLE, Split, cut_validation, statistics

__all__ = [
    "STATISTICS_SAMPLE",
    "Dataset",
    "Split",
    "batch_indices",
    "cache_dir",
    "convert_image",
    "cut_validation",
    "eval_batches",
    "open_dataset",
    "read_image",
    "statistics",
    "streamed",
]
