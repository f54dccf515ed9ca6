"""Settings of semantic segmentation."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxrec.settings.common import OPTIMIZER_HYPER, ClassWeights, Optimizer, Task
from jaxrec.settings.options import OPTIMIZER
from jaxrec.settings.ranges import AT_LEAST_ONE, NOT_NEGATIVE, SHARE_BELOW_ONE


@dataclass(frozen=True)
class Segmenter(Task):
    """Semantic segmentation: a class for every pixel."""

    model: Literal["unet", "resunet"] = "unet"
    """The model to train."""
    average: Annotated[float, OPTIMIZER, SHARE_BELOW_ONE] = 0.99
    """Decay of the moving average of the parameters that is used for evaluation, such as 0.999. 0: no average."""
    optimizer: Annotated[Optimizer, OPTIMIZER] = Optimizer(name="adamw", lr=3e-3, schedule="one-cycle", warmup=0.2)
    width: Annotated[int, AT_LEAST_ONE] = 16
    """Channels at the largest scale; doubled at each halving."""
    depth: Annotated[int, AT_LEAST_ONE] = 3
    """How often the network halves the image (resunet: after its stem)."""
    norm: Literal["group", "batch"] = "batch"
    """Normalization. group: per group of channels, better for small batches. batch: over the batch."""
    dropout: Annotated[float, SHARE_BELOW_ONE] = 0.0
    """Share of whole channels dropped: at the smallest scale (unet) or before the head (resunet)."""
    stem: Literal[2, 4] = 2
    """Factor by which the first layers shrink the image (resunet)."""
    shrink: Annotated[int, AT_LEAST_ONE] = 1
    """Factor by which images are shrunk before the network, and its answer enlarged: faster, but less accurate at the
    borders of objects. --augment.window counts pixels of the shrunk image."""
    auxiliary: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the loss of a second head at a small scale, for training only (resunet)."""
    loss: str = "cross-entropy"
    """cross-entropy, dice, ohem or focal, or a sum of them such as cross-entropy+dice. ohem: only the hard pixels."""
    class_weights: ClassWeights = "none"
    """Weights of the classes in the loss, by how many pixels they have. inverse: 1 / share. sqrt: 1 / square root of
    the share. effective: 1 / effective number of pixels. median: median frequency balancing."""
    views: Literal["one", "mirror", "mirror-scale"] = "one"
    """Versions of an image whose predictions are averaged. mirror: the image and its mirror image. mirror-scale: also
    both at 3/4 and 5/4 of the size."""
    classes: tyro.conf.Suppress[int] = 0
    """Number of classes; set from the data."""
    void: tyro.conf.Suppress[int | None] = None
    """Value of pixels that do not count; set from the data."""
    weights: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Weight of each class in the loss; set from the data."""
    mean: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Mean of each channel of the training images in [0, 1]; set from the data."""
    std: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Standard deviation of each channel of the training images in [0, 1]; set from the data."""


Config = Segmenter
HYPER = OPTIMIZER_HYPER
PRESETS = {
    "unet": Segmenter(model="unet"),
    "resunet": Segmenter(model="resunet", width=32),
}
