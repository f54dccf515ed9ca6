"""Translation of images into images: of pairs (Isola et al. 2017), or unpaired (Zhu et al. 2017); two players.

A batch is ``{"image": [B, H, W, C], "target": [B, H, W, D]}``, images as in ``jaxrec.tasks.inputs.scaled``. If pairs
are made, ``image`` alone is read, and is the target; unpaired images that are not made are ``image`` and ``other``. A
batch may carry ``index`` and ``epoch`` (int32 [B]) and, for evaluation, ``real`` (bool [B], False for padding).

Read ``training`` first: ``train_step`` says who learns when, and from what. See https://arxiv.org/abs/1611.07004 and
https://arxiv.org/abs/1703.10593.
"""

from jaxrec.settings.translator import Translator as Config
from jaxrec.tasks.translator.evaluation import eval_step, predict
from jaxrec.tasks.translator.facts import (
    CAPTIONS,
    EVOLVING,
    HEADLINE,
    MEANINGS,
    MEASURES,
    READS,
    SCORE,
    complete,
    taught,
)
from jaxrec.tasks.translator.generator import perceptual_error
from jaxrec.tasks.translator.image_pool import exchanged
from jaxrec.tasks.translator.passes import translate
from jaxrec.tasks.translator.pictures import artifacts, drawings, rows, seen, sheet, worst
from jaxrec.tasks.translator.players import Ways, init
from jaxrec.tasks.translator.training import train_step

__all__ = [
    "CAPTIONS",
    "EVOLVING",
    "HEADLINE",
    "MEANINGS",
    "MEASURES",
    "READS",
    "SCORE",
    "Config",
    "Ways",
    "artifacts",
    "complete",
    "drawings",
    "eval_step",
    "exchanged",
    "init",
    "perceptual_error",
    "predict",
    "rows",
    "seen",
    "sheet",
    "taught",
    "train_step",
    "translate",
    "worst",
]
