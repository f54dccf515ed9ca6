"""Settings of the translation of images into images."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxrec.settings.common import OPTIMIZER_HYPER, Optimizer, Task
from jaxrec.settings.options import OPTIMIZER
from jaxrec.settings.ranges import AT_LEAST_ONE, NOT_NEGATIVE, SHARE_BELOW_ONE


@dataclass(frozen=True)
class Translator(Task):
    """Translation of images into other images: colors, photos of drawings, details, what is hidden."""

    model: Literal["translator"] = "translator"
    """The model to train."""
    average: Annotated[float, OPTIMIZER, SHARE_BELOW_ONE] = 0.99
    """Decay of the moving average of the parameters that is used for evaluation. 0: no average."""
    optimizer: Annotated[Optimizer, OPTIMIZER] = Optimizer(name="adam", lr=1e-3, momentum=0.5)
    pairs: Literal["own", "grey", "edges", "inpaint", "superres", "blur", "negative"] | None = None
    """What is translated. own: the first image of an example into its second. In all others the image is the target,
    and the input is made of it. grey: its shades of grey. edges: its edges. inpaint: the image with its middle hidden.
    superres: a quarter of the pixels along each side. blur: the image, blurred. negative: light for dark. Default: own
    if the set has two images; otherwise grey for color images, and inpaint for grey ones."""
    unpaired: bool = False
    """Learn from images that do not belong together: a second generator translates back, and both ways in a row have to
    end at the beginning (Zhu et al. 2017)."""
    game: Literal["none", "non-saturating", "least-squares", "hinge", "wasserstein", "relativistic"] = "least-squares"
    """Adversarial loss. none: no discriminator; the translation then learns from the errors of pixels and features."""
    width: Annotated[int, AT_LEAST_ONE] = 32
    """Channels of the generator at the largest scale; doubled at each halving."""
    depth: Annotated[int, AT_LEAST_ONE] = 3
    """How often the generator halves the image."""
    patch: Annotated[int, AT_LEAST_ONE] = 1
    """Side of the squares of pixels that the generator reads and writes as one pixel of more channels: faster, but with
    less detail."""
    norm: Literal["group", "batch"] | None = None
    """Normalization in the generator. group: per group of channels. batch: over the batch. Default: batch, but unpaired
    group, as a generator is then shown images of both kinds, and statistics of both fit neither."""
    dropout: Annotated[float, SHARE_BELOW_ONE] = 0.0
    """Share of whole channels dropped at the generator's smallest scale."""
    add: bool | None = None
    """Add the input to the generator's output, so that the generator learns the difference. Default: on for grey,
    inpaint, superres and blur."""
    discriminator_width: Annotated[int, AT_LEAST_ONE] = 32
    """Channels of the discriminator's first layer; doubled at each halving."""
    halvings: Annotated[int, AT_LEAST_ONE] = 2
    """How often the discriminator halves the image. It judges each pixel that is left: with 1, 2 and 3 halvings, by
    16x16, 34x34 and 70x70 pixels of the image (Isola et al. 2017)."""
    spectral_norm: bool = False
    """Divide the discriminator's kernels by their largest singular value (Miyato et al. 2018)."""
    r1: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight gamma of the R1 penalty gamma / 2 x |gradient of D at real images|^2 (Mescheder et al. 2018)."""
    gradient_penalty: Annotated[float | None, NOT_NEGATIVE] = None
    """Weight of the gradient penalty. Default: 10 with wasserstein, 0 otherwise."""
    discriminator_lr: Annotated[float, NOT_NEGATIVE] = 1.0
    """Learning rate of the discriminator, as a multiple of the generator's."""
    adversarial: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the adversarial loss in the generator's."""
    pixel: Annotated[float, NOT_NEGATIVE] = 100.0
    """Weight of the absolute error of pixels (not unpaired)."""
    matching: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of feature matching: the absolute error of the discriminator's activations (not unpaired; Wang et al.
    2018)."""
    perceptual: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the error of a judge's features, a classifier of the target images that is trained ahead (not unpaired;
    Johnson et al. 2016)."""
    perceptual_run: str = ""
    """Folder of a run of a classifier whose features --perceptual compares, in place of the judge's."""
    cycle: Annotated[float, NOT_NEGATIVE] = 10.0
    """Weight of the absolute error of images that were translated there and back (unpaired)."""
    identity: Annotated[float, NOT_NEGATIVE] = 5.0
    """Weight of the absolute error of images that are of the target's kind already, and are to stay (unpaired)."""
    pool: Annotated[int, NOT_NEGATIVE] = 50
    """Translated images of earlier steps that the discriminators see again (unpaired). 0: none."""
    judge_steps: Annotated[int | None, AT_LEAST_ONE] = None
    """Steps for which the judge of translated images is trained. Default: three passes over the data, 400 to 1500."""
    classes: tyro.conf.Suppress[int] = 0
    """Number of classes, taken from the data; 0 without."""


Config = Translator
WEIGHTS = ("adversarial", "pixel", "matching", "perceptual", "cycle", "identity")
"""The options that are weights of the terms of the generator's loss."""
HYPER = (*OPTIMIZER_HYPER, *WEIGHTS, "r1", "gradient-penalty", "discriminator-lr")
PRESETS = {"translator": Translator()}
