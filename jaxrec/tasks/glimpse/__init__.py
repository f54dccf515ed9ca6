"""Classification by a few looks at parts of an image, chosen by a policy that learns from rewards.

A batch is ``{"image": [B, H, W, C], "label": int32 [B]}``, images as in ``jaxrec.tasks.inputs.scaled``. It may carry
``index`` and ``epoch`` (int32 [B]) and, for evaluation, ``real`` (bool [B], False for padding).

Read ``training`` first, then ``policy_gradient``: how the policy learns from whether the class was found.
"""

from jaxrec.metrics.classification import summary_pictures
from jaxrec.settings.glimpse import Glimpse as Config
from jaxrec.tasks.answers import targets
from jaxrec.tasks.glimpse.drawing import FIRST, LAST, paths
from jaxrec.tasks.glimpse.evaluation import eval_step, explained, predict
from jaxrec.tasks.glimpse.facts import (
    CAPTIONS,
    DATASET,
    HEADLINE,
    MEANINGS,
    READS,
    SCORE,
    complete,
    validation_config,
)
from jaxrec.tasks.glimpse.pictures import artifacts, rows, sheet, worst
from jaxrec.tasks.glimpse.players import build, comparable, init
from jaxrec.tasks.glimpse.policy_gradient import estimates, log_probs, rewards
from jaxrec.tasks.glimpse.training import train_step
from jaxrec.tasks.inputs import augmented_batch as seen

__all__ = [
    "CAPTIONS",
    "DATASET",
    "FIRST",
    "HEADLINE",
    "LAST",
    "MEANINGS",
    "READS",
    "SCORE",
    "Config",
    "artifacts",
    "build",
    "comparable",
    "complete",
    "estimates",
    "eval_step",
    "explained",
    "init",
    "log_probs",
    "paths",
    "predict",
    "rewards",
    "rows",
    "seen",
    "sheet",
    "summary_pictures",
    "targets",
    "train_step",
    "validation_config",
    "worst",
]
