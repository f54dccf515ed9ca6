"""Settings of the autoencoders."""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxrec.settings.common import OPTIMIZER_HYPER, Optimizer, Task
from jaxrec.settings.options import OPTIMIZER
from jaxrec.settings.ranges import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, SHARE_BELOW_ONE, Range


@dataclass(frozen=True)
class Autoencoder(Task):
    """Autoencoders: plain, denoising (noise > 0) and variational (model vae)."""

    average: Annotated[float, OPTIMIZER, SHARE_BELOW_ONE] = 0.99
    """Decay of the moving average of the parameters that is used for evaluation. 0: no average."""
    optimizer: Annotated[Optimizer, OPTIMIZER] = Optimizer(name="muon", lr=1e-2, momentum=0.95)
    model: Literal["autoencoder", "vae"] = "autoencoder"
    """The model to train."""
    architecture: Literal["conv", "dense", "residual", "unet"] = "conv"
    """Architecture of the encoder and the decoder. residual: conv with residual blocks at each scale. unet
    has skip connections, for denoising only."""
    width: Annotated[int, Range(1, 65536)] = 32
    """Channels of the first convolution. Dense layers have 16 times as many units."""
    code: Annotated[int, Range(1, 65536)] = 32
    """Length of the code."""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """gaussian: squared error. bernoulli: cross-entropy, with pixels as probabilities."""
    binarize: bool = False
    """Draw each pixel as 0 or 1, with its intensity as the probability, anew at each step (vae)."""
    noise: Annotated[float, NOT_NEGATIVE] = 0.0
    """Standard deviation of the noise added to the inputs; the target is the clean image (autoencoder)."""
    kl_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the KL divergence from the prior; 1 gives the evidence lower bound (vae)."""
    kl_warmup: Annotated[float, SHARE] = 0.1
    """Fraction of the run over which the weight of the KL divergence rises from 0 (vae)."""
    couplings: Annotated[int, NOT_NEGATIVE] = 0
    """Learn the prior of the codes, as a standard normal distribution behind this many affine couplings (Dinh et al.
    2017); 8 is usual. 0: the prior is standard normal (vae)."""
    train_samples: Annotated[int, AT_LEAST_ONE] = 1
    """Codes drawn per image in training. More than one trains the importance-weighted bound (vae)."""
    eval_samples: Annotated[int, AT_LEAST_ONE] = 100
    """Codes drawn per image for the importance-weighted bound on the test split; at most 10 are drawn at evaluations
    during training (vae)."""


Config = Autoencoder
HYPER = (*OPTIMIZER_HYPER, "noise", "kl-weight")
PRESETS = {
    "autoencoder": Autoencoder(),
    "vae": Autoencoder(model="vae", likelihood="bernoulli", binarize=True),
}
