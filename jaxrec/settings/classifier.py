"""Settings of the classifiers."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxrec.settings.common import OPTIMIZER_HYPER, ClassWeights, Task
from jaxrec.settings.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, SHARE, SHARE_BELOW_ONE, Range


@dataclass(frozen=True)
class Classifier(Task):
    """Image classification."""

    model: Literal[
        "cnn",
        "cnn-deep",
        "resnet18",
        "resnet34",
        "resnet50",
        "efficientnet-lite0",
        "vit",
        "vit-s16",
        "vit-b16",
        "speednet",
        "speednet-deep",
    ] = "cnn"
    """The model to train."""
    width: Annotated[float, Range(0, 65536, open_start=True)] = 1.0
    """Multiplies the number of channels."""
    activation: Literal["relu", "sigmoid", "tanh", "gelu"] = "relu"
    """Nonlinearity between layers (cnn, cnn-deep and resnets)."""
    dropout: Annotated[float, SHARE_BELOW_ONE] = 0.0
    """Dropout rate before the last layer."""
    stem: Literal["auto", "small", "large"] = "auto"
    """First layers of a resnet. small: a 3x3 convolution. large: a 7x7 convolution and pooling. auto: small up to 64
    pixels. With speednets, large halves the image first, which is faster and slightly less accurate."""
    logit_divisor: Annotated[float, POSITIVE] = 9.0
    """What the logits are divided by (speednets). A large one, such as the number of features, makes them small at the
    start."""
    patch: Annotated[int, AT_LEAST_ONE] = 4
    """Side of the patches in pixels (vits)."""
    depth: Annotated[int, AT_LEAST_ONE] = 4
    """Blocks (vits)."""
    heads: Annotated[int, AT_LEAST_ONE] = 4
    """Heads of attention in each block (vits)."""
    mlp_ratio: Annotated[float, POSITIVE] = 2.0
    """Width of the hidden layer of each block as a multiple of the features (vits)."""
    class_token: bool = False
    """Read the features from a token of their own; otherwise from the mean over the patches (vits)."""
    qkv_bias: bool = True
    """Add a bias to queries, keys and values (vits)."""
    head: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: one class per image. sigmoid: an independent probability for each class."""
    loss: Literal["cross-entropy", "mse", "focal"] = "cross-entropy"
    """Loss of the head's outputs."""
    label_smoothing: Annotated[float, SHARE] = 0.0
    """Fraction of the target that is spread evenly over the classes."""
    class_weights: ClassWeights = "none"
    """Weights of the classes in the loss of training, by how many training images they have. inverse: 1 / share. sqrt:
    1 / square root of the share. effective: 1 / effective number of images (Cui et al. 2019). median: 1 / share, scaled
    to 1 for the class of median share. The others are scaled to a mean of 1 over the images."""
    mixup: Annotated[float, NOT_NEGATIVE] = 0.0
    """Alpha of mixup (Zhang et al. 2018). 0: off."""
    cutmix: Annotated[float, NOT_NEGATIVE] = 0.0
    """Alpha of CutMix (Yun et al. 2019). 0: off."""
    standardize: Literal["dataset", "unit"] = "dataset"
    """How pixels are scaled. dataset: subtract the mean of the training images and divide by their standard deviation.
    unit: scale to [0, 1]."""
    views: Literal["one", "mirror", "mirror-shift"] = "one"
    """Test-time views whose logits are averaged. one: the image. mirror: also its mirror image. mirror-shift: also both
    shifted by one pixel."""
    classes: tyro.conf.Suppress[int] = 0
    """Number of classes, taken from the data."""
    weights: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Weight of each class in the loss of training, taken from the data; empty: all alike."""
    mean: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Mean of each channel of the training images in [0, 1], taken from the data."""
    std: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Standard deviation of each channel of the training images in [0, 1], taken from the data."""


Config = Classifier
HYPER = OPTIMIZER_HYPER
PRESETS = {
    "cnn": Classifier(model="cnn"),
    "cnn-deep": Classifier(model="cnn-deep"),
    "resnet18": Classifier(model="resnet18"),
    "resnet34": Classifier(model="resnet34"),
    "resnet50": Classifier(model="resnet50"),
    "efficientnet-lite0": Classifier(model="efficientnet-lite0"),
    "vit": Classifier(model="vit"),
    "vit-s16": Classifier(model="vit-s16", patch=16, depth=12, heads=6, mlp_ratio=4.0, class_token=True),
    "vit-b16": Classifier(model="vit-b16", patch=16, depth=12, heads=12, mlp_ratio=4.0, class_token=True),
    "speednet": Classifier(model="speednet", activation="gelu"),
    "speednet-deep": Classifier(model="speednet-deep", activation="gelu"),
}
