"""Settings of recurrent networks over sequences of images."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxrec.settings.common import OPTIMIZER_HYPER, Optimizer, Task
from jaxrec.settings.options import OPTIMIZER
from jaxrec.settings.ranges import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, SHARE_BELOW_ONE


@dataclass(frozen=True)
class RNN(Task):
    """Classification of clips, or of images read as sequences, by a recurrent network."""

    model: Literal["rnn"] = "rnn"
    """The model to train."""
    optimizer: Annotated[Optimizer, OPTIMIZER] = Optimizer(name="adamw", lr=2e-3, weight_decay=0.01, clip=1.0)
    sequence: Literal["clip", "frame", "rows", "pixels"] = "clip"
    """What the network reads one after the other. clip: the frames of a clip. frame: the middle frame of a clip alone,
    to find out what a single one tells. rows: the rows of an image. pixels: the pixels of an image, row by row."""
    cell: Literal["gru", "lstm", "convlstm", "lru"] = "gru"
    """What carries the past along. gru: gated recurrent units. lstm: long short-term memory. convlstm: the same with
    convolutions, for frames; slow on a CPU. lru: linear recurrent units, all steps at once, for long sequences."""
    layers: Annotated[int, AT_LEAST_ONE] = 1
    """Recurrent layers, one on top of the other."""
    units: Annotated[int, AT_LEAST_ONE] = 128
    """Numbers that a layer carries along (gru, lstm, lru)."""
    width: Annotated[int, AT_LEAST_ONE] = 16
    """Channels of the first convolution over a frame; later ones, and convlstm, have twice as many."""
    earlier: Annotated[int, NOT_NEGATIVE] = 3
    """Frames before each one that its encoder sees with it, so that the first convolution sees motion (clip)."""
    pool: Literal["mean", "last", "attention"] = "mean"
    """How the answers at all steps become one. mean: their mean. last: that of the last step. attention: a mean with
    weights that are learned."""
    layer_norm: bool = False
    """Normalize the gates and the memory at each step (lstm)."""
    dropout: Annotated[float, SHARE_BELOW_ONE] = 0.0
    """Dropout rate before the last layer."""
    label_smoothing: Annotated[float, SHARE] = 0.0
    """Fraction of the target that is spread evenly over the classes."""
    classes: tyro.conf.Suppress[int] = 0
    """Number of classes; set from the data."""
    control: tyro.conf.Suppress[bool] = True
    """Whether evaluation also asks about clips that stand still, which it leaves out during training."""
    mean: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Mean of each channel of the training images in [0, 1]; set from the data."""
    std: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Standard deviation of each channel of the training images in [0, 1]; set from the data."""


Config = RNN
HYPER = OPTIMIZER_HYPER
PRESETS = {"rnn": RNN()}
