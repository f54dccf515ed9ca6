"""Losses as pure functions: one float32 number per example, whatever the dtype of the logits."""

from jaxrec.losses.adversarial import (
    GANLoss,
    discriminator_loss,
    generator_loss,
    gradient_norm_squared,
    gradient_penalty,
)
from jaxrec.losses.classification import ClassificationLoss, Head, classification, smooth
from jaxrec.losses.detection import assign, detection
from jaxrec.losses.reconstruction import (
    GAUSSIAN_SIGMA,
    Likelihood,
    importance_bound,
    kl_standard_normal,
    log_likelihood,
    reconstruction,
)
from jaxrec.losses.segmentation import SEGMENTATION_LOSSES, segmentation
from jaxrec.losses.weights import class_weights

__all__ = [
    "GAUSSIAN_SIGMA",
    "SEGMENTATION_LOSSES",
    "ClassificationLoss",
    "GANLoss",
    "Head",
    "Likelihood",
    "assign",
    "class_weights",
    "classification",
    "detection",
    "discriminator_loss",
    "generator_loss",
    "gradient_norm_squared",
    "gradient_penalty",
    "importance_bound",
    "kl_standard_normal",
    "log_likelihood",
    "reconstruction",
    "segmentation",
    "smooth",
]
