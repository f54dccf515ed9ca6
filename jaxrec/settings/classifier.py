"""Settings of the classifiers."""

from dataclasses import dataclass
from typing import Literal

import tyro

from jaxrec.settings.common import OPTIMIZER_HYPER, Task


@dataclass(frozen=True)
class Classifier(Task):
    """Image classification."""

    model: Literal["cnn", "cnn-deep", "resnet18", "resnet34", "resnet50", "vit", "speednet"] = "cnn"
    """The system to train."""
    width: float = 1.0
    """Multiplies the number of channels."""
    activation: Literal["relu", "sigmoid", "tanh", "gelu"] = "relu"
    """Nonlinearity between layers (cnn and resnets)."""
    dropout: float = 0.0
    """Share of activations dropped before the last layer."""
    stem: Literal["auto", "small", "large"] = "auto"
    """First layers of a resnet: a 3x3 convolution, or 7x7 and pooling; auto is small up to 64 pixels.
    large halves the image before speednet's first block, which is faster and a little less accurate."""
    patch: int = 4
    """Side of vit's patches, in pixels."""
    head: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: one class per image. sigmoid: one independent yes or no per class (binary, multi-label)."""
    loss: Literal["cross-entropy", "mse", "focal"] = "cross-entropy"
    """Loss on the head's outputs."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes."""
    mixup: float = 0.0
    """Alpha of mixup (Zhang et al. 2018)."""
    cutmix: float = 0.0
    """Alpha of cutmix (Yun et al. 2019)."""
    standardise: Literal["dataset", "unit"] = "dataset"
    """dataset: subtract the training mean and divide by the deviation. unit: x / 255."""
    views: Literal["one", "mirror", "mirror-shift"] = "one"
    """Test-time views whose logits are averaged: the image; and its mirror; and one-pixel shifts of both."""
    classes: tyro.conf.Suppress[int] = 0
    """Number of classes; set from the data."""
    mean: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Mean of each channel of the training images in [0, 1]; set from the data."""
    std: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Standard deviation of each channel of the training images in [0, 1]; set from the data."""


Config = Classifier
HYPER = OPTIMIZER_HYPER
PRESETS = {
    "cnn": Classifier(model="cnn"),
    "cnn-deep": Classifier(model="cnn-deep"),
    "resnet18": Classifier(model="resnet18"),
    "resnet34": Classifier(model="resnet34"),
    "resnet50": Classifier(model="resnet50"),
    "vit": Classifier(model="vit"),
    "speednet": Classifier(model="speednet", activation="gelu"),
}
