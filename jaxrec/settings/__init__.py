"""Every setting, as plain frozen data; importable without jax, so that ``--help`` answers at once."""

from jaxrec.settings.agent import Agent
from jaxrec.settings.autoencoder import Autoencoder
from jaxrec.settings.classifier import Classifier
from jaxrec.settings.common import Augment, Optimizer, Rule, Task
from jaxrec.settings.detector import Detector
from jaxrec.settings.gan import GAN
from jaxrec.settings.glimpse import Glimpse
from jaxrec.settings.registry import models, preset
from jaxrec.settings.rnn import RNN
from jaxrec.settings.run import Sweep, Train
from jaxrec.settings.segmenter import Segmenter
from jaxrec.settings.serialize import from_dict, to_dict, with_values
from jaxrec.settings.translator import Translator
from jaxrec.settings.video import Forecaster

__all__ = [
    "GAN",
    "RNN",
    "Agent",
    "Augment",
    "Autoencoder",
    "Classifier",
    "Detector",
    "Forecaster",
    "Glimpse",
    "Optimizer",
    "Rule",
    "Segmenter",
    "Sweep",
    "Task",
    "Train",
    "Translator",
    "from_dict",
    "models",
    "preset",
    "to_dict",
    "with_values",
]
