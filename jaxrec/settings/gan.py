"""Settings of the generative adversarial networks."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxrec.settings.common import OPTIMIZER_HYPER, Optimizer, Task
from jaxrec.settings.options import OPTIMIZER
from jaxrec.settings.ranges import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, SHARE_BELOW_ONE, Range


@dataclass(frozen=True)
class GAN(Task):
    """Generative adversarial networks."""

    average: Annotated[float, OPTIMIZER, SHARE_BELOW_ONE] = 0.995
    """Decay of the moving average of the parameters that is used for evaluation. 0: no average."""
    optimizer: Annotated[Optimizer, OPTIMIZER] = Optimizer(name="adam", lr=1e-3, momentum=0.0, beta2=0.99)
    model: Literal["gan"] = "gan"
    """The model to train."""
    architecture: Literal["dcgan", "residual"] = "dcgan"
    """Architecture of the generator and the discriminator."""
    width: Annotated[int, Range(1, 65536)] = 16
    """Channels of the layer with the highest resolution; each halving of the resolution doubles them."""
    latents: Annotated[int, Range(1, 65536)] = 64
    """Length of the latent vector."""
    conditional: bool = True
    """Give the class to the generator and the discriminator."""
    loss: Literal["non-saturating", "least-squares", "hinge", "wasserstein", "relativistic"] = "relativistic"
    """Adversarial loss."""
    discriminator_steps: Annotated[int, AT_LEAST_ONE] = 1
    """Discriminator updates per generator update. Each takes an equal part of the batch."""
    gradient_penalty: Annotated[float | None, NOT_NEGATIVE] = None
    """Weight of the gradient penalty. Default: 10 with wasserstein, 0 otherwise."""
    r1: Annotated[float | None, NOT_NEGATIVE] = None
    """Weight gamma of the R1 penalty gamma / 2 x |gradient of D at real images|^2 (Mescheder et al. 2018). Default: 0
    with wasserstein or --spectral-norm, 1 otherwise."""
    r2: Annotated[float | None, NOT_NEGATIVE] = None
    """Weight of the same penalty at generated images (Huang et al. 2024), with the same default."""
    spectral_norm: bool = False
    """Divide the discriminator's kernels by their largest singular value (Miyato et al. 2018)."""
    discriminator_lr: Annotated[float, NOT_NEGATIVE] = 1.0
    """Learning rate of the discriminator, as a multiple of the generator's."""
    diffaugment: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """Differentiable augmentations of the images that the discriminator sees (Zhao et al. 2020). Default: all with
    --adapt-to, none otherwise."""
    adapt_to: Annotated[float | None, SHARE] = None
    """Adapt the share of images that each of these augmentations changes (Karras et al. 2020). It rises while the mean
    sign of the discriminator's logits at real images is above this number, such as 0.6, and falls below it. Default:
    every image is changed."""
    judge_steps: Annotated[int | None, AT_LEAST_ONE] = None
    """Steps for which the judge of generated images is trained. Default: three passes over the data, 400 to 1500."""
    classes: tyro.conf.Suppress[int] = 0
    """Number of classes, taken from the data."""


Config = GAN
HYPER = (*OPTIMIZER_HYPER, "r1", "r2", "gradient-penalty", "discriminator-lr")
PRESETS = {"gan": GAN()}
