"""What each metric says, in a line, and in which direction it is better."""

from typing import NamedTuple


class Meaning(NamedTuple):
    """What a reader of a report is told of a metric."""

    text: str
    better: str = ""
    """``more``, ``less``, or nothing if neither is better."""
    kind: str = "number"
    """``class`` if the value is the number of a class."""


EACH = "each class counts as much as another"
AVERAGE_PRECISION = "Mean over the classes of the area under the curve of precision over recall"
RANGE = "mean over IoUs from .5 to .95"
INTERVAL = "percentile over samples of the images"

MEANINGS = {
    "loss": Meaning("The quantity that training minimizes; mean over the examples.", "less"),
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
    "lr": Meaning("Learning rate."),
    "examples_per_second": Meaning("Training examples per second.", "more"),
    "gradient_norm": Meaning("Length of the gradient of all parameters."),
    "update_norm": Meaning("Length of the change of all parameters in a step."),
}
"""Of what every run logs; what a system's own metrics say is in its ``MEANINGS``."""
