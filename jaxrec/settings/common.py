"""What the settings of every system share: optimizer, augmentation and precision."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxrec.settings.options import AUGMENTATION, DEVICES, OPTIMIZER
from jaxrec.settings.ranges import (
    AT_LEAST_ONE,
    FACTOR,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_BELOW_ONE,
    Range,
)

ClassWeights = Literal["none", "inverse", "sqrt", "effective", "median"]
"""How the weights of classes in a loss follow from their frequencies."""


@dataclass(frozen=True)
class Rule:
    """Overrides for every parameter whose path, such as ``conv1/kernel``, matches the pattern."""

    pattern: str
    """Regular expression that is searched for in the parameter's path. If several rules match, the last one applies."""
    lr: Annotated[float, NOT_NEGATIVE] = 1.0
    """Multiplies the learning rate."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 1.0
    """Multiplies the decoupled weight decay."""
    freeze: bool = False
    """Keep the initial values; the gradients are not computed."""


@dataclass(frozen=True)
class Optimizer:
    """The optimizer, its learning-rate schedule, and the three penalties on weights."""

    name: str = "adamw"
    """sgd, momentum, nesterov, adam, adamw, nadam, lion, adagrad, rmsprop, muon, muon-sgd, or any other optimizer of
    optax that needs only a learning rate, such as lamb. muon-sgd: Muon for convolutions, whose kernels keep their norm,
    and Nesterov's momentum for the rest (Jordan 2024); for networks that normalize after each convolution."""
    lr: Annotated[float, POSITIVE] = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine", "one-cycle"] = "cosine"
    """Shape of the learning rate after its peak."""
    warmup: Annotated[float, SHARE] = 0.05
    """Fraction of the run over which the learning rate rises to its peak: linearly, or with one-cycle along a cosine
    from 1/25 of the peak."""
    final: Annotated[float, NOT_NEGATIVE] = 0.0
    """Learning rate at the end of a linear or cosine schedule, as a fraction of the peak."""
    steps: Annotated[int, NOT_NEGATIVE, tyro.conf.Suppress] = 0
    """Length of the schedule in steps; training sets it to the length of the run. 0: keep the learning rate at its
    peak."""
    momentum: Annotated[float, SHARE_BELOW_ONE] = 0.9
    """Momentum, or the first beta of Adam and its relatives."""
    beta2: Annotated[float, SHARE_BELOW_ONE] = 0.999
    """Second beta of Adam and its relatives; lion always uses 0.99. With muon-sgd, the momentum of what is no
    convolution."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    """Decoupled weight decay (Loshchilov & Hutter 2019): each step shrinks kernels by lr x this."""
    l2: Annotated[float, NOT_NEGATIVE] = 0.0
    """L2 penalty: adds l2 / 2 x the sum of squared kernels to the loss."""
    l1: Annotated[float, NOT_NEGATIVE] = 0.0
    """L1 penalty: adds l1 x the sum of absolute kernels to the loss."""
    clip: Annotated[float, NOT_NEGATIVE] = 0.0
    """Clip the gradient to this global norm. 0: no clipping."""
    freeze: Annotated[str, tyro.conf.arg(metavar="REGEX", aliases=("--freeze",))] = ""
    """Keep the parameters whose path, such as stage1_block1/conv1/kernel, contains a match of this regular expression.
    Batch normalization that is kept uses its stored statistics, as in evaluation."""
    lr_scale: Annotated[tuple[str, ...], tyro.conf.arg(metavar="REGEX=FACTOR", aliases=("--lr-scale",))] = ()
    """Multiply the learning rate of the parameters whose path contains a match; head=10 is usual if the head alone is
    new."""
    layer_decay: Annotated[float, FACTOR, tyro.conf.arg(aliases=("--layer-decay",))] = 1.0
    """The learning rate of each layer as a fraction of the next layer's; the last one learns at the full rate. 0.75 is
    usual for pretrained networks."""
    unfreeze: Annotated[float, SHARE, tyro.conf.arg(aliases=("--unfreeze",))] = 0.0
    """Fraction of the run over which layers begin to learn one after the other, the last one first (Howard & Ruder
    2018). 0: all learn from the start."""
    rules: tuple[Rule, ...] = ()
    """Learning rate, weight decay and freezing by parameter path."""


@dataclass(frozen=True)
class Augment:
    """Random changes to training images, made inside the compiled step. 0 means off."""

    flip: Literal["none", "random", "alternating"] = "none"
    """Mirror images left to right. random: each image with probability 1/2 in each epoch. alternating: one half of the
    images in even epochs, the other half in odd ones."""
    flip_vertical: bool = False
    """Mirror images top to bottom, each with probability 1/2."""
    turns: bool = False
    """Turn each image by 0, 90, 180 or 270 degrees; square images or windows only."""
    crop: Annotated[int, NOT_NEGATIVE] = 0
    """Pad by this many reflected pixels and crop back at a random position."""
    resized_crop: Annotated[float, SHARE] = 0.0
    """Smallest fraction of the area kept by a random resized crop; 0.08 is usual."""
    translate: Annotated[float, NOT_NEGATIVE] = 0.0
    """Largest shift, as a fraction of the side."""
    rotate: Annotated[float, NOT_NEGATIVE] = 0.0
    """Largest rotation, in degrees."""
    scale: Annotated[float, SHARE_BELOW_ONE] = 0.0
    """Largest relative change of size; 0.1 draws factors from 0.9 to 1.1."""
    brightness: Annotated[float, NOT_NEGATIVE] = 0.0
    """Largest value added to the pixels, which range from 0 to 1."""
    contrast: Annotated[float, NOT_NEGATIVE] = 0.0
    """Largest relative change of contrast."""
    saturation: Annotated[float, NOT_NEGATIVE] = 0.0
    """Largest relative change of saturation; color images only."""
    cutout: Annotated[int, NOT_NEGATIVE] = 0
    """Side in pixels of a random square that is set to gray."""
    randaugment: Annotated[int, NOT_NEGATIVE] = 0
    """RandAugment operations per image (Cubuk et al. 2020)."""
    magnitude: Annotated[float, Range(0, 10)] = 9.0
    """Strength of RandAugment's operations, 0 to 10."""
    window: Annotated[tuple[int, int], NOT_NEGATIVE] = (0, 0)
    """Height and width of a random crop, which is what the model is trained on. 0 0: train on whole images."""
    jitter: Annotated[tuple[float, float], POSITIVE] = (1.0, 1.0)
    """Smallest and largest factor by which the image is scaled before the window is cut from it; 0.5 2 is usual."""
    mosaic: Annotated[float, SHARE] = 0.0
    """Share of the images that become mosaics of four images of the batch, until 85 % of the run; needs masks or boxes
    (Bochkovskiy et al. 2020)."""
    paste: Annotated[int, NOT_NEGATIVE] = 0
    """Objects that are copied into each image from another one of the batch, rare classes more often, until 85 % of the
    run; needs boxes (Dwibedi et al. 2017)."""
    reverse: bool = False
    """Play clips backwards, each with probability 1/2."""
    frames: Annotated[int, NOT_NEGATIVE] = 0
    """Frames of a random stretch of each clip, which is what the model is trained on. 0: train on whole clips."""


@dataclass(frozen=True)
class Task:
    """The settings that every system has."""

    model: str = ""
    """The model to train."""
    precision: Annotated[Literal["f32", "bf16"], DEVICES] = "f32"
    """Precision of the forward and backward pass; parameters stay float32."""
    accumulate: Annotated[int, DEVICES, AT_LEAST_ONE] = 1
    """Split each batch into this many parts, to save memory, and add up their gradients."""
    average: Annotated[float, OPTIMIZER, SHARE_BELOW_ONE] = 0.0
    """Decay of the moving average of the parameters that is used for evaluation; 0.999 is usual. 0: no average."""
    optimizer: Annotated[Optimizer, OPTIMIZER] = Optimizer()
    augment: Annotated[Augment, AUGMENTATION] = Augment()


OPTIMIZER_HYPER = ("optimizer.lr", "optimizer.weight-decay", "optimizer.l1", "optimizer.l2")
"""The optimizer's options that are leaves of the state's ``hyper``, so that a sweep can vary them."""
