"""The examples: named sets and arrays, read by features, and batches as a function of (seed, step)."""

from jaxrec.data.batches import Balanced, Order, batch_indices, eval_batches, shuffled, streamed
from jaxrec.data.cache import cache_dir
from jaxrec.data.datasets import Dataset, open_dataset
from jaxrec.data.features import Feature, Features, at_once, blank, class_names, image_shape, nbytes, pictured
from jaxrec.data.images import convert_image, read_image
from jaxrec.data.splits import Split, cut_validation
from jaxrec.data.statistics import STATISTICS_SAMPLE, class_counts, class_numbers, statistics

__all__ = [
    "STATISTICS_SAMPLE",
    "Balanced",
    "Dataset",
    "Feature",
    "Features",
    "Order",
    "Split",
    "at_once",
    "batch_indices",
    "blank",
    "cache_dir",
    "class_counts",
    "class_names",
    "class_numbers",
    "convert_image",
    "cut_validation",
    "eval_batches",
    "image_shape",
    "nbytes",
    "open_dataset",
    "pictured",
    "read_image",
    "shuffled",
    "statistics",
    "streamed",
]
