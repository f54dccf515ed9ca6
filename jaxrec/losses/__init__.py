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
from jaxrec.losses.policy import (
    categorical_entropy,
    categorical_log_prob,
    clipped_policy_loss,
    discounted_returns,
    gaussian_entropy,
    gaussian_log_prob,
    generalized_advantages,
    policy_gradient_loss,
    value_loss,
)
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
    "categorical_entropy",
    "categorical_log_prob",
    "class_weights",
    "classification",
    "clipped_policy_loss",
    "detection",
    "discounted_returns",
    "discriminator_loss",
    "gaussian_entropy",
    "gaussian_log_prob",
    "generalized_advantages",
    "generator_loss",
    "gradient_norm_squared",
    "gradient_penalty",
    "importance_bound",
    "kl_standard_normal",
    "log_likelihood",
    "policy_gradient_loss",
    "reconstruction",
    "segmentation",
    "smooth",
    "value_loss",
]
