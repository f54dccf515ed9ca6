"""Settings of object detection."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxrec.settings.common import OPTIMIZER_HYPER, Augment, Optimizer, Task
from jaxrec.settings.options import AUGMENTATION, OPTIMIZER
from jaxrec.settings.ranges import AT_LEAST_ONE, SHARE, SHARE_BELOW_ONE, Range

CHANGES = Augment(translate=0.1, scale=0.2)
"""What leaves a thing what it is, whatever it is: a digit turned is another one."""


@dataclass(frozen=True)
class Detector(Task):
    """Object detection: a box, a class and a score for each object."""

    model: Literal["detector"] = "detector"
    """The model to train."""
    average: Annotated[float, OPTIMIZER, SHARE_BELOW_ONE] = 0.99
    """Decay of the moving average of the parameters that is used for evaluation, such as 0.999. 0: no average."""
    optimizer: Annotated[Optimizer, OPTIMIZER] = Optimizer(
        name="muon", lr=1e-2, momentum=0.95, weight_decay=0.05, schedule="one-cycle", warmup=0.15
    )
    augment: Annotated[Augment, AUGMENTATION] = CHANGES
    width: Annotated[int, AT_LEAST_ONE] = 32
    """Half of the backbone's channels at the finest scale of the head; there are more at coarser scales."""
    stride: Literal[0, 2, 4, 8, 16] = 0
    """Side in pixels of the smallest cells that boxes are predicted at; there are cells of two and four times the side,
    too. 0: 8, or less if the shorter side of the image has fewer than 16 of them."""
    bins: Annotated[int | None, Range(2)] = None
    """Distances that the sides of a box may have from the center of a cell, in cells, from 0 on. Default: 8, or as many
    as a box around the whole image needs."""
    norm: Literal["group", "batch"] = "batch"
    """Normalization. group: per group of channels, better for small batches. batch: over the batch."""
    class_loss: Literal["bce", "varifocal"] = "bce"
    """Loss of the scores. bce: cross-entropy with how well a box fits. varifocal: the same with less weight on easy
    background."""
    box_loss: Literal["ciou", "giou"] = "ciou"
    """Loss of the boxes: 1 minus the complete or the generalized IoU."""
    suppress: Literal["nms", "soft"] = "nms"
    """What happens to boxes of a class that overlap a better one. nms: they are dropped. soft: their scores sink."""
    overlap: Annotated[float, SHARE] = 0.6
    """IoU above which the box of lower score is dropped (nms)."""
    score: Annotated[float, SHARE] = 0.4
    """Boxes that score at least this are counted, and listed and drawn by predict. Average precision uses all boxes."""
    voc: bool = False
    """Also compute the average precision of Pascal VOC at an IoU of .5."""
    classes: tyro.conf.Suppress[int] = 0
    """Number of classes; set from the data."""
    interval: tyro.conf.Suppress[bool] = True
    """Whether evaluation computes intervals, which it leaves out during training."""
    mean: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Mean of each channel of the training images in [0, 1]; set from the data."""
    std: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Standard deviation of each channel of the training images in [0, 1]; set from the data."""


Config = Detector
HYPER = OPTIMIZER_HYPER
PRESETS = {"detector": Detector()}
