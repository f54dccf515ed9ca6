"""What the system says of itself: its data, how it is scored, and what its metrics and pictures mean."""

from dataclasses import replace

from jaxrec.data.features import class_names
from jaxrec.errors import UserError, nearest
from jaxrec.metrics.meanings import Meaning
from jaxrec.settings.agent import Agent as Config
from jaxrec.tasks.system import Facts, Score, refuse_unused

DATASET = "scenes"
SCORE = Score("mean_iou", lower=False)
HEADLINE = ("success", "mean_iou", "return", "moves", "loss")
BOXED = ("boxes", "path")
OF_Q = ("guided", "explore", "explore_last", "replay", "kept", "samples", "priority")
OF_ACTOR_CRITIC = ("entropy", "trace")
"""Settings that only one way of learning reads."""
HALF = "Share of the images in which the box ends with an IoU of at least .5 with an object"
MEAN = "Mean IoU of the last box with the object that it overlaps most"
WHOLE = "a CNN that sees whole images and needs as many operations"
RANDOM, CENTER, ORACLE = "moves drawn at random", "a box of the mean size in the middle", "always the best next move"
MEANINGS = {
    "success": Meaning(f"{HALF}.", "more"),
    "success_70": Meaning("The same from an IoU of .7 on.", "more"),
    "mean_iou": Meaning(f"{MEAN}.", "more"),
    "moves": Meaning("Moves of an episode, the stop among them.", "less"),
    "stopped": Meaning("Share of the episodes that the agent ended itself."),
    "return": Meaning("Sum of the rewards of an episode; in training, with exploring moves.", "more"),
    "random_success": Meaning(f"{HALF}; {RANDOM}."),
    "random_mean_iou": Meaning(f"{MEAN}; {RANDOM}."),
    "center_success": Meaning(f"{HALF}; {CENTER}."),
    "center_mean_iou": Meaning(f"{MEAN}; {CENTER}."),
    "oracle_success": Meaning(f"{HALF}; {ORACLE}."),
    "oracle_mean_iou": Meaning(f"{MEAN}; {ORACLE}."),
    "oracle_moves": Meaning(f"Moves of an episode; {ORACLE}."),
    "cnn_success": Meaning(f"{HALF}; {WHOLE}."),
    "cnn_mean_iou": Meaning(f"{MEAN}; {WHOLE}."),
    "cnn_loss": Meaning("The loss of that CNN: 1 minus the generalized IoU.", "less"),
    "explored": Meaning("Share of the moves that are made to explore."),
    "value": Meaning("Mean of what the network takes states to be worth."),
    "entropy": Meaning("Mean entropy of the policy, in nats."),
}
CAPTIONS = {
    "paths": "Images with their objects, then the box on its way from the whole image to its end, and its IoU with the "
    "object that it overlaps most; red is below .5.",
    "worst_paths": "The same of the images of least IoU in the whole split, the least first.",
    "batch": "Images of a training batch after augmentation, and the objects to be found.",
}


def complete(config: Config, facts: Facts) -> Config:
    """The settings with the class to find, and mean and deviation of the training images.

    Raises UserError if the data has no such class, or for settings of the other way of learning.
    """
    of_other = OF_Q if config.learning == "actor-critic" else OF_ACTOR_CRITIC
    refuse_unused(config, f"with --learning {config.learning}", *of_other)
    mean, std = facts.statistics("image")
    names = class_names(facts.features)
    if config.target and config.target not in names:
        known = nearest(config.target, names) or f"; expected one of {', '.join(names)}"
        raise UserError(f"--target {config.target} is no class of the data{known}")
    number = names.index(config.target) if config.target else -1
    return replace(config, target_class=number, mean=mean, std=std)
