"""What the settings of every system share: optimizer, augmentation and precision."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rule:
    """Settings for the parameters whose name, such as ``conv1/kernel``, the pattern matches anywhere."""

    pattern: str
    """Regular expression searched in the parameter's name; where several rules match, the last one holds."""
    lr: float = 1.0
    """Multiplies the learning rate."""
    weight_decay: float = 1.0
    """Multiplies the decoupled weight decay."""
    freeze: bool = False
    """Leaves the parameters as they were initialised; their gradients are not computed."""


@dataclass(frozen=True)
class Optimizer:
    """How parameters move: the optimizer, its schedule, and the three different penalties on weights."""

    name: Literal["sgd", "momentum", "nesterov", "adam", "adamw", "nadam", "lion", "adagrad", "rmsprop", "muon"] = (
        "adamw"
    )
    """The update rule, from optax."""
    lr: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine", "one-cycle"] = "cosine"
    """How the learning rate falls from its peak over the run."""
    warmup: float = 0.05
    """Share of the run over which the learning rate rises to its peak: linearly (one-cycle: by a cosine from 1/25)."""
    final: float = 0.0
    """Learning rate at the end of a linear or cosine schedule, as a share of the peak."""
    steps: int = 0
    """Length of the schedule in steps; the training command sets it to the length of the run. 0: the learning rate
    stays at its peak."""
    momentum: float = 0.9
    """Momentum of sgd's relatives and of muon; the first beta of adam's relatives and of lion."""
    beta2: float = 0.999
    """Second beta of adam's relatives (lion keeps its own .99)."""
    weight_decay: float = 0.0
    """Decoupled weight decay (Loshchilov & Hutter 2019): each step shrinks kernels by lr x this."""
    l2: float = 0.0
    """L2 penalty: adds l2 / 2 x the sum of squared kernels to the loss, so it passes through the optimizer."""
    l1: float = 0.0
    """L1 penalty: adds l1 x the sum of absolute kernels to the loss."""
    clip: float = 0.0
    """Largest global norm of the gradient; 0 leaves it alone."""
    rules: tuple[Rule, ...] = ()
    """Learning rate, decay and freezing by parameter name."""


@dataclass(frozen=True)
class Augment:
    """Random changes to training images, made inside the compiled step. Zero and False mean off."""

    flip: Literal["none", "random", "alternating"] = "none"
    """Mirror left-right: a coin per image and epoch, or half the images, then the other half, by turns."""
    crop: int = 0
    """Pad by this many pixels (reflected) and crop back at a random place."""
    resized_crop: float = 0.0
    """Smallest share of the area kept by a random resized crop (.08 is usual)."""
    translate: float = 0.0
    """Largest shift, as a share of the side."""
    rotate: float = 0.0
    """Largest rotation, in degrees."""
    scale: float = 0.0
    """Largest relative change of size: .1 draws factors from .9 to 1.1."""
    brightness: float = 0.0
    """Largest change added to the pixels, which run from 0 to 1."""
    contrast: float = 0.0
    """Largest relative change of contrast."""
    saturation: float = 0.0
    """Largest relative change of saturation; colour images only."""
    cutout: int = 0
    """Side in pixels of a square set to grey."""
    randaugment: int = 0
    """Number of RandAugment operations per image (Cubuk et al. 2020)."""
    magnitude: float = 9.0
    """Strength of RandAugment's operations, 0 to 10."""


@dataclass(frozen=True)
class Task:
    """What every system's configuration has."""

    model: str = ""
    """The model to train."""
    precision: Literal["f32", "bf16"] = "f32"
    """Arithmetic of the forward and backward pass; parameters stay float32."""
    accumulate: int = 1
    """Split each batch into this many parts and add up their gradients before the update."""
    average: float = 0.0
    """Decay of the moving average of the parameters (.999, say), used for evaluation; 0 keeps none."""
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()


OPTIMIZER_HYPER = ("optimizer.lr", "optimizer.weight-decay", "optimizer.l1", "optimizer.l2")
"""The optimizer's options that are numbers in the state's ``hyper``."""
