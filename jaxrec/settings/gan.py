"""Settings of the generative adversarial networks."""

from dataclasses import dataclass
from typing import Literal

import tyro

from jaxrec.settings.common import OPTIMIZER_HYPER, Optimizer, Task


@dataclass(frozen=True)
class GAN(Task):
    """Generative adversarial networks."""

    average: float = 0.995
    """Decay of the moving average of the parameters, used for evaluation; 0 keeps none."""
    optimizer: Optimizer = Optimizer(name="adam", lr=1e-3, momentum=0.0, beta2=0.99)
    model: Literal["gan"] = "gan"
    """The system to train."""
    architecture: Literal["dcgan", "residual"] = "dcgan"
    """Generator and discriminator."""
    width: int = 16
    """Channels of the widest-resolution layer; doubled at each halving."""
    latents: int = 64
    """Length of the latent vector."""
    conditional: bool = True
    """Tell both players the class."""
    loss: Literal["non-saturating", "least-squares", "hinge", "wasserstein", "relativistic"] = "relativistic"
    """The game."""
    discriminator_steps: int = 1
    """Discriminator updates per generator update, inside one step; each takes its share of the batch."""
    gradient_penalty: float | None = None
    """Weight of the Wasserstein gradient penalty; else 10 with wasserstein, 0 with the other games."""
    r1: float | None = None
    """Gamma of the penalty gamma / 2 x |gradient of D at real images|^2 (Mescheder et al. 2018); else 0 with
    wasserstein and under spectral normalisation, 1 otherwise."""
    r2: float | None = None
    """The same at generated images (Huang et al. 2024)."""
    spectral_norm: bool = False
    """Divide the discriminator's kernels by their largest singular value (Miyato et al. 2018)."""
    discriminator_lr: float = 1.0
    """The discriminator's learning rate as a multiple of the generator's."""
    diffaugment: tuple[Literal["colour", "translation", "cutout"], ...] = ()
    """Differentiable augmentation of what the discriminator sees (Zhao et al. 2020)."""
    classes: tyro.conf.Suppress[int] = 0
    """Number of classes; set from the data."""


Config = GAN
HYPER = (*OPTIMIZER_HYPER, "r1", "r2", "gradient-penalty", "discriminator-lr")
PRESETS = {"gan": GAN()}
