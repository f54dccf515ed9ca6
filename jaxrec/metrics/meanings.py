"""What each metric says, in a line, and in which direction it is better."""

from typing import NamedTuple


class Meaning(NamedTuple):
    """What a reader of a report is told of a metric."""

    text: str
    better: str = ""
    """``more``, ``less``, or nothing if neither is better."""
    kind: str = "number"
    """``class`` if the value is the number of a class."""


PRECISION = "Of the examples that are said to be of a class, the share that is"
RECALL = "Of the examples of a class, the share that is found"
F1 = "Harmonic mean of precision and recall"
EACH = "each class counts as much as another"
POOLED = "over all classes together"
BY_SIZE = "each class weighted by its number of examples"
AVERAGE_PRECISION = "Mean over the classes of the area under the curve of precision over recall"
RANGE = "mean over IoUs from .5 to .95"
INTERVAL = "percentile over samples of the images"

MEANINGS = {
    "loss": Meaning("What training makes small; mean over the examples.", "less"),
    "accuracy": Meaning("Share of the examples whose class is predicted.", "more"),
    "top5_accuracy": Meaning("Share of the examples whose class is among the five most probable ones.", "more"),
    "label_accuracy": Meaning("Share of right answers over all labels; high for a model that finds none.", "more"),
    "exact_match": Meaning("Share of the examples of which every label is right.", "more"),
    "precision_macro": Meaning(f"{PRECISION}; {EACH}.", "more"),
    "precision_micro": Meaning(f"{PRECISION}; {POOLED}.", "more"),
    "precision_weighted": Meaning(f"{PRECISION}; {BY_SIZE}.", "more"),
    "recall_macro": Meaning(f"{RECALL}; {EACH}.", "more"),
    "recall_micro": Meaning(f"{RECALL}; {POOLED}.", "more"),
    "recall_weighted": Meaning(f"{RECALL}; {BY_SIZE}.", "more"),
    "f1_macro": Meaning(f"{F1}; {EACH}.", "more"),
    "f1_micro": Meaning(f"{F1}; {POOLED}.", "more"),
    "f1_weighted": Meaning(f"{F1}; {BY_SIZE}.", "more"),
    "calibration_error": Meaning("How far the stated confidence is from the share that is right, on average.", "less"),
    "worst_class": Meaning("The class of which the smallest share is found.", "", "class"),
    "worst_class_accuracy": Meaning("Share of that class that is found.", "more"),
    "miou": Meaning("Mean over the classes of the intersection over the union of predicted and true pixels.", "more"),
    "pixel_accuracy": Meaning("Share of the pixels whose class is predicted.", "more"),
    "dice": Meaning("Mean over the classes of twice the right pixels over predicted plus true ones.", "more"),
    "frequency_weighted_iou": Meaning("Intersection over union, weighted by the share of each class.", "more"),
    "map": Meaning(f"{AVERAGE_PRECISION}; {RANGE}.", "more"),
    "map50": Meaning(f"{AVERAGE_PRECISION}; a box is found from an IoU of .5 on.", "more"),
    "map75": Meaning(f"{AVERAGE_PRECISION}; a box is found from an IoU of .75 on.", "more"),
    "map_small": Meaning("The same as map, of boxes of up to 32 x 32 pixels.", "more"),
    "map_medium": Meaning("The same as map, of boxes of 32 x 32 to 96 x 96 pixels.", "more"),
    "map_large": Meaning("The same as map, of boxes of 96 x 96 pixels and more.", "more"),
    "map_low": Meaning(f"2.5th {INTERVAL} of map."),
    "map_high": Meaning(f"97.5th {INTERVAL} of map."),
    "map50_low": Meaning(f"2.5th {INTERVAL} of map50."),
    "map50_high": Meaning(f"97.5th {INTERVAL} of map50."),
    "mar": Meaning(f"Share of the boxes that are found by 100 detections; {EACH}, {RANGE}.", "more"),
    "voc_map50": Meaning("Mean average precision at IoU .5 as Pascal VOC has computed it since 2010.", "more"),
    "count_error_mean": Meaning(
        "Difference between the numbers of boxes that are there and detected; mean over images and classes.", "less"
    ),
    "mse": Meaning("Mean squared error of a pixel, of values in [0, 1].", "less"),
    "mae": Meaning("Mean absolute error of a pixel, of values in [0, 1].", "less"),
    "psnr": Meaning("Peak signal to noise ratio, in decibels.", "more"),
    "ssim": Meaning("Structural similarity, at most 1.", "more"),
    "lr": Meaning("Learning rate."),
    "examples_per_second": Meaning("Training examples per second.", "more"),
    "gradient_norm": Meaning("Length of the gradient of all parameters."),
    "update_norm": Meaning("Length of the change of all parameters in a step."),
}
"""Of the library's metrics and of what every run logs; a system's own are in its ``MEANINGS``."""
