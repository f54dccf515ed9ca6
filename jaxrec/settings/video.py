"""Settings of the forecast of frames."""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxrec.settings.common import OPTIMIZER_HYPER, Optimizer, Task
from jaxrec.settings.options import OPTIMIZER
from jaxrec.settings.ranges import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, SHARE_BELOW_ONE


@dataclass(frozen=True)
class Forecaster(Task):
    """Forecast of a clip's next frames from its first ones."""

    model: Literal["video"] = "video"
    """The model to train."""
    average: Annotated[float, OPTIMIZER, SHARE_BELOW_ONE] = 0.99
    """Decay of the moving average of the parameters that is used for evaluation. 0: no average."""
    optimizer: Annotated[Optimizer, OPTIMIZER] = Optimizer(name="muon", lr=5e-3, momentum=0.95, clip=1.0)
    architecture: Literal["simvp", "convlstm"] = "simvp"
    """How frames become later frames. simvp: convolutions alone, all frames at once. convlstm: a recurrent network that
    is given its own forecasts, one frame after the other; slower, as its convolutions cannot be made for all frames at
    once."""
    given: Annotated[int, AT_LEAST_ONE] = 10
    """Frames at the beginning of a clip that the network sees."""
    forecast: Annotated[int, AT_LEAST_ONE] = 10
    """Frames after these that it forecasts."""
    width: Annotated[int, AT_LEAST_ONE] = 32
    """Channels of a frame by itself (simvp)."""
    hidden: Annotated[int, AT_LEAST_ONE] = 96
    """Channels of all frames together (simvp), or of a recurrent layer (convlstm)."""
    layers: Annotated[int, AT_LEAST_ONE] = 2
    """Residual blocks at each size (simvp), or recurrent layers (convlstm)."""
    depth: Annotated[int, NOT_NEGATIVE] = 1
    """Times that the maps of all frames together are halved, with a third more channels, and doubled again (simvp)."""
    patch: Annotated[int, AT_LEAST_ONE] = 4
    """Side of the squares of pixels that frames are cut into: each becomes one pixel of more channels."""
    loss: Literal["mse", "mse+mae", "cross-entropy"] = "mse"
    """What training minimizes. mse: the squared error. mse+mae: the sum of squared and absolute error. cross-entropy:
    the logistic loss, for frames that are nearly black and white."""
    sampling: Annotated[float, SHARE] = 0.5
    """Share of the run over which forecasts replace true frames as input, from none of them to all (convlstm; Bengio et
    al. 2015)."""


Config = Forecaster
HYPER = OPTIMIZER_HYPER
PRESETS = {"video": Forecaster()}
