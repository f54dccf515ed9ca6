"""An agent that finds an object by moves of a box, and learns from rewards.

A batch is ``{"image": [B, H, W, C], "boxes": float32 [B, N, 4], "label": int [B, N]}``, as for detection. It may carry
``index`` and ``epoch`` (int32 [B]) and, for evaluation, ``real`` (bool [B], False for padding). A batch of another
environment holds ``index`` alone: one episode, or several, for each of its numbers.

In a step, every episode is played to its end, by the policy as it is. Q-learning keeps episodes in
``state.extra["replay"]`` and learns from moves drawn from there; the actor-critic learns from the episodes just played.

Read ``training`` first, then ``q_learning`` or ``actor_critic``.
"""

from jaxrec.settings.agent import Agent as Config
from jaxrec.tasks.agent.episodes import AgentState
from jaxrec.tasks.agent.evaluation import Searched, eval_step, predict
from jaxrec.tasks.agent.examples import READS
from jaxrec.tasks.agent.facts import BOXED, CAPTIONS, DATASET, HEADLINE, MEANINGS, SCORE, complete
from jaxrec.tasks.agent.pictures import artifacts, drawings, rows, seen, worst
from jaxrec.tasks.agent.players import build, init
from jaxrec.tasks.agent.training import train_step

__all__ = [
    "BOXED",
    "CAPTIONS",
    "DATASET",
    "HEADLINE",
    "MEANINGS",
    "READS",
    "SCORE",
    "AgentState",
    "Config",
    "Searched",
    "artifacts",
    "build",
    "complete",
    "drawings",
    "eval_step",
    "init",
    "predict",
    "rows",
    "seen",
    "train_step",
    "worst",
]
