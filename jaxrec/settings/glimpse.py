"""Settings of the recurrent attention model."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxrec.settings.common import OPTIMIZER_HYPER, Optimizer, Task
from jaxrec.settings.options import OPTIMIZER
from jaxrec.settings.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, SHARE, Range


@dataclass(frozen=True)
class Glimpse(Task):
    """Classification of images by a few looks at small parts of them (Mnih et al. 2014)."""

    model: Literal["glimpse"] = "glimpse"
    """The model to train."""
    optimizer: Annotated[Optimizer, OPTIMIZER] = Optimizer(name="adamw", lr=1e-3, weight_decay=0.01, clip=5.0)
    looks: Annotated[int, Range(2, 64)] = 6
    """Looks at each image."""
    patch: Annotated[int, AT_LEAST_ONE] = 8
    """Pixels a side of what is seen at each scale of a look."""
    scales: Annotated[int, Range(1, 8)] = 2
    """Scales of a look. The first sees single pixels; each further one sees twice as far, at half the resolution."""
    core: Literal["gru", "lstm"] = "gru"
    """What carries on what was seen. gru: gated recurrent units. lstm: long short-term memory."""
    units: Annotated[int, AT_LEAST_ONE] = 128
    """Numbers that it carries along."""
    width: Annotated[int, AT_LEAST_ONE] = 128
    """Units of each other layer."""
    start: Literal["center", "random", "context"] = "center"
    """Where the first look goes. center: to the center. random: anywhere. context: where a network says that sees a
    thumbnail of the whole image; it advises on the later looks, too, and is not asked about the class."""
    head: Literal["last", "every"] = "last"
    """The looks after which the class is asked for. last: after the last one. every: after each one."""
    samples: Annotated[int, AT_LEAST_ONE] = 4
    """Ways of looking at each image that are tried in a step (Monte-Carlo copies)."""
    reward: Literal["end", "gain"] = "end"
    """What the policy is rewarded for. end: 1 after the last look if the class is right. gain: after each look, the
    growth of the log probability of the class; needs --head every."""
    policy: Literal["reinforce", "ppo", "random"] = "reinforce"
    """How the policy learns. reinforce: by the policy gradient. ppo: by the clipped objective, in several updates.
    random: not at all; looks go anywhere, in training and evaluation, to find out what choosing them is worth."""
    updates: Annotated[int, AT_LEAST_ONE] = 2
    """Updates on each batch of looks (ppo)."""
    clip_ratio: Annotated[float, POSITIVE] = 0.2
    """Relative change of a probability from which an update gains nothing (ppo)."""
    discount: Annotated[float, SHARE] = 1.0
    """Factor of the rewards of each later look."""
    decay: Annotated[float, SHARE] = 1.0
    """Lambda of the generalized advantage estimates. 1: the whole return, less the value."""
    policy_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the policy's loss beside that of the class."""
    value_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the loss of the value, which is the baseline of the policy."""
    deviation: Annotated[float, POSITIVE] = 0.2
    """Standard deviation of where looks go in training; 1 is half the image's side."""
    final_deviation: Annotated[float, POSITIVE] = 0.05
    """What it falls to over the run, linearly."""
    learned_deviation: bool = False
    """Let the policy multiply it by a factor that it learns for each look."""
    entropy: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the policy's entropy as a bonus; needs --learned-deviation."""
    cnn: bool = True
    """Also train, on the same batches, a CNN that sees whole images and needs as many operations, to compare with."""
    label_smoothing: Annotated[float, SHARE] = 0.0
    """Fraction of the target that is spread evenly over the classes."""
    classes: tyro.conf.Suppress[int] = 0
    """Number of classes; set from the data."""
    control: tyro.conf.Suppress[bool] = True
    """Whether evaluation also looks at random and at the center, which it leaves out during training."""
    mean: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Mean of each channel of the training images in [0, 1]; set from the data."""
    std: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Standard deviation of each channel of the training images in [0, 1]; set from the data."""


Config = Glimpse
HYPER = (*OPTIMIZER_HYPER, "policy-weight", "value-weight", "entropy")
PRESETS = {"glimpse": Glimpse()}
