"""What each metric says, in a line, and in which direction it is better."""

from typing import NamedTuple


class Meaning(NamedTuple):
    """What a reader of a report is told of a metric."""

    text: str
    better: str = ""
    """``more``, ``less``, or nothing if neither is better."""
    kind: str = "number"
    """``class`` if the value is the number of a class."""


MEANINGS = {
    "loss": Meaning("The quantity that training minimizes; mean over the examples.", "less"),
    "lr": Meaning("Learning rate."),
    "examples_per_second": Meaning("Training examples per second.", "more"),
    "gradient_norm": Meaning("Length of the gradient of all parameters."),
    "update_norm": Meaning("Length of the change of all parameters in a step."),
}
"""Of what every run logs; what a system's own metrics say is in its ``MEANINGS``."""
