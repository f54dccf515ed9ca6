"""Settings of the autoencoders."""

from dataclasses import dataclass
from typing import Literal

from jaxrec.settings.common import OPTIMIZER_HYPER, Optimizer, Task


@dataclass(frozen=True)
class Autoencoder(Task):
    """Autoencoders: plain, denoising (noise > 0) and variational (model vae)."""

    average: float = 0.99
    """Decay of the moving average of the parameters, used for evaluation; 0 keeps none."""
    optimizer: Optimizer = Optimizer(name="muon", lr=1e-2, momentum=0.95)
    model: Literal["autoencoder", "vae"] = "autoencoder"
    """The system to train."""
    architecture: Literal["conv", "dense", "unet"] = "conv"
    """Encoder and decoder; unet has skip connections (denoising only)."""
    width: int = 32
    """Channels of the first convolution; the dense layers have 16 times as many units."""
    code: int = 32
    """Length of the code."""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """gaussian: squared error. bernoulli: cross-entropy, pixels read as probabilities."""
    binarize: bool = False
    """Draw each pixel as 0 or 1 with its intensity as the probability, anew each step (vae)."""
    noise: float = 0.0
    """Standard deviation of the noise added to the inputs, then clipped to [0, 1]; the target is the clean image
    (autoencoder)."""
    kl_weight: float = 1.0
    """Weight of the divergence from the prior (vae); 1 is the evidence bound."""
    kl_warmup: float = 0.1
    """Share of the run over which the divergence's weight rises from 0 (vae)."""
    train_samples: int = 1
    """Codes drawn per image in training; more than one trains the importance-weighted bound (vae)."""
    eval_samples: int = 100
    """Codes drawn per image for the importance-weighted bound on the test split (vae); in training, at most 10."""


Config = Autoencoder
HYPER = (*OPTIMIZER_HYPER, "noise", "kl-weight")
PRESETS = {
    "autoencoder": Autoencoder(),
    "vae": Autoencoder(model="vae", likelihood="bernoulli", binarize=True),
}
