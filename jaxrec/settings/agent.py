"""Settings of the agent that moves a box to an object."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxrec.settings.common import OPTIMIZER_HYPER, Optimizer, Task
from jaxrec.settings.options import OPTIMIZER
from jaxrec.settings.ranges import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, SHARE_BELOW_ONE, Range

FACTOR = Range(0, 1, open_start=True, open_end=True)


@dataclass(frozen=True)
class Agent(Task):
    """An agent that finds an object: it moves a box over the image, move by move."""

    model: Literal["agent"] = "agent"
    """The model to train."""
    average: Annotated[float, OPTIMIZER, SHARE_BELOW_ONE] = 0.99
    """Decay of the moving average of the parameters. It is the target network of Q-learning, and evaluation uses it.
    0: no average; the network is its own target."""
    optimizer: Annotated[Optimizer, OPTIMIZER] = Optimizer(name="adamw", lr=1e-3, clip=10.0)
    target: str = ""
    """Name of the class to find. Default: an object of any class."""
    learning: Literal["q", "actor-critic"] = "q"
    """How the agent learns. q: double deep Q-learning with a replay. actor-critic: the policy gradient of the episodes
    just played, with a learned value."""
    moves: Annotated[int, AT_LEAST_ONE] = 12
    """Moves of an episode, at most; stopping is one of them."""
    shift: Annotated[float, FACTOR] = 0.2
    """How far a move goes, as a fraction of the box's side."""
    zoom: Annotated[float, FACTOR] = 0.75
    """Factor of the box's sides when it gets smaller."""
    squeeze: Annotated[float, FACTOR] = 0.8
    """Factor of one of its sides when it gets flatter or narrower."""
    reward: Literal["sign", "change"] = "sign"
    """Reward of a move. sign: 1 if it raises the IoU with the object, otherwise -1. change: ten times the change of the
    IoU."""
    enough: Annotated[float, SHARE] = 0.6
    """IoU from which the end is rewarded with 3; below, it costs 3."""
    discount: Annotated[float, SHARE] = 0.9
    """What a reward is worth one move later."""
    copies: Annotated[int, AT_LEAST_ONE] = 2
    """Episodes that are played with each image of a batch."""
    guided: bool = True
    """Explore among the moves that are rewarded, if there are any, instead of among all (q)."""
    explore: Annotated[float, SHARE] = 0.5
    """Share of the run over which the share of exploring moves falls from 1 to that of --explore-last (q)."""
    explore_last: Annotated[float, SHARE] = 0.1
    """Share of exploring moves from then on (q)."""
    replay: Annotated[int, AT_LEAST_ONE] = 1024
    """Images whose episodes are kept to learn from, the latest ones (q)."""
    kept: Annotated[int, AT_LEAST_ONE] = 128
    """Images of a batch whose episodes go there, at most (q)."""
    samples: Annotated[int, AT_LEAST_ONE] = 256
    """Moves from the replay that a step learns from (q)."""
    priority: Annotated[float, NOT_NEGATIVE] = 0.0
    """Exponent by which moves are replayed more often the more there is to learn from them; 0.6 is usual. 0: all
    alike (q)."""
    entropy: Annotated[float, NOT_NEGATIVE] = 0.01
    """Weight of the policy's entropy, which keeps it from settling too soon (actor-critic)."""
    trace: Annotated[float, SHARE] = 0.9
    """Lambda of the generalized advantage estimation: 0 trusts the value, 1 the rewards (actor-critic)."""
    glance: Annotated[int, Range(4)] = 24
    """Side in pixels of what the network sees of the box's surroundings."""
    reaches: Annotated[tuple[float, ...], AT_LEAST_ONE] = (1.5, 4.0)
    """How far it sees, in sides of the box: one view for each number."""
    width: Annotated[int, AT_LEAST_ONE] = 32
    """Channels of the network's first layer."""
    cnn: bool = True
    """Also train, on the same batches, a CNN that sees whole images and needs as many operations, to compare with."""
    target_class: tyro.conf.Suppress[int] = -1
    """Number of the class to find, -1 for any; set from the data."""
    mean: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Mean of each channel of the training images in [0, 1]; set from the data."""
    std: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Standard deviation of each channel of the training images in [0, 1]; set from the data."""


Config = Agent
HYPER = OPTIMIZER_HYPER
PRESETS = {"agent": Agent()}
