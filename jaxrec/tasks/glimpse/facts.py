"""What the system says of itself: its data, how it is scored, and what its metrics and pictures mean."""

from dataclasses import replace

from jaxrec.data.features import class_names
from jaxrec.metrics import classification
from jaxrec.metrics.classification import CONFUSION
from jaxrec.metrics.meanings import Meaning
from jaxrec.settings.glimpse import Glimpse as Config
from jaxrec.tasks.system import Facts, Score, refuse_unused

READS = {"image": "image", "label": "class"}
DATASET = "translated"
SCORE = Score("error")
HEADLINE = ("error", "accuracy", "loss")
MEANINGS = classification.MEANINGS | {
    "error": Meaning(
        "Share of the examples whose class is not predicted; each look goes where the policy aims.", "less"
    ),
    "random_error": Meaning("Share of errors if the same network looks at uniformly random places.", "less"),
    "center_error": Meaning("Share of errors if all its looks go to the center.", "less"),
    "cnn_error": Meaning("Share of errors of a CNN that sees whole images and needs as many operations.", "less"),
    "looks": Meaning("Looks at an image."),
    "reward": Meaning("Sum of the rewards of an image's looks, mean over images and ways of looking.", "more"),
    "value_loss": Meaning("Half the squared error of the value, the policy's baseline.", "less"),
    "entropy": Meaning("Entropy of the policy at each look, in nats."),
    "deviation": Meaning("Standard deviation of where looks go in training; 1 is half the image's side."),
    "cnn_loss": Meaning("The loss of the CNN to compare with.", "less"),
    "cnn_accuracy": Meaning("Share of the training examples whose class the CNN to compare with predicts.", "more"),
}
PATH = "The path of the looks, the first in yellow, the last in red; the squares are what is seen at the finest scale. "
CAPTIONS = {
    "confusion_matrix": CONFUSION,
    "worst_mistakes": f"The images of highest loss in the whole split, the highest first. {PATH}Mistakes in red, the "
    "true class below.",
    "predictions": f"The first images. {PATH}Mistakes in red, the true class below.",
}


def complete(config: Config, facts: Facts) -> Config:
    """The settings with the number of classes, and mean and deviation of the training images.

    Raises UserError for settings of PPO with another policy.
    """
    if config.policy != "ppo":
        refuse_unused(config, f"with --policy {config.policy}", "updates", "clip_ratio")
    mean, std = facts.statistics("image")
    return replace(config, classes=len(class_names(facts.features)), mean=mean, std=std)


def validation_config(config: Config) -> Config:
    """Without the controls, which take as long again."""
    return replace(config, control=False)
