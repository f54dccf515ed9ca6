"""The examples: named sets and arrays, read by features, and batches as a function of (seed, step)."""

from jaxrec.data.batches import batch_indices, eval_batches, streamed
from jaxrec.data.cache import cache_dir
from jaxrec.data.datasets import Dataset, open_dataset
from jaxrec.data.features import Feature, Features, at_once, blank, class_names, image_shape, nbytes
from jaxrec.data.images import convert_image, read_image
from jaxrec.data.splits import Split, cut_validation
from jaxrec.data.statistics import STATISTICS_SAMPLE, class_counts, statistics

__all__ = [
    "STATISTICS_SAMPLE",
    "Dataset",
    "Feature",
    "Features",
    "Split",
    "at_once",
    "batch_indices",
    "blank",
    "cache_dir",
    "class_counts",
    "class_names",
    "convert_image",
    "cut_validation",
    "eval_batches",
    "image_shape",
    "nbytes",
    "open_dataset",
    "read_image",
    "statistics",
    "streamed",
]
