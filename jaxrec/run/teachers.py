"""The judge that a system learns from: one that is trained ahead of the run, or a run that was trained before."""

from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxrec.data import blank, image_shape
from jaxrec.errors import UserError
from jaxrec.run.answers import true_images, with_classes
from jaxrec.run.data import Data
from jaxrec.run.initial import Judge
from jaxrec.run.judge import budget, trained_judge
from jaxrec.run.trained import load
from jaxrec.settings import Task
from jaxrec.tasks.system import System, named_system


@dataclass(frozen=True)
class OfRun:
    """The features of a system's predictions as a model; its parameters are the system's state."""

    system: str

    def init(self, *inputs: Any) -> Any:
        """There is nothing to begin with."""
        raise NotImplementedError("the parameters are those of a trained run")

    def apply(self, variables: Any, images: jax.Array) -> jax.Array:
        """Features [B, ...] of images [B, H, W, C] in [0, 1]."""
        return named_system(self.system).predict(variables["params"], images)["features"]


def teacher(config: Task, system: System, data: Data) -> Judge | None:
    """The judge that the system learns from, if it asks for one: its model and variables.

    Raises UserError if it asks for a run that is not there, or whose features are not those of images such as these.
    """
    taught = system.taught(config)
    if not taught:
        return None
    true = true_images(data)
    if isinstance(taught, str):
        return _of_run(taught, image_shape(true.dataset.features))
    true = with_classes(true)
    state, _ = trained_judge(true.dataset, true.train, budget(config, true.train))
    return state.player.model, jax.device_get(state.player.variables())


def _of_run(run: str, shape: tuple[int, int, int]) -> Judge:
    """A trained run as a judge of images of this shape."""
    trained = load(run)
    own = image_shape(trained.features)
    if own != shape and not (trained.system.any_size and own[2] == shape[2]):
        raise UserError(
            f"run '{run}' was trained on images {_written(own)}, and those to compare are {_written(shape)}; "
            "give a run of such images"
        )
    images = blank(trained.features, 1)["image"]
    if trained.reads_clips or "features" not in jax.eval_shape(trained.system.predict, trained.state, images):
        raise UserError(f"run '{run}' is a {trained.system.name}, which tells no features; give a run of a classifier")
    players = {name: replace(player, opt_state=()) for name, player in trained.state.players.items()}
    state = replace(trained.state, players=players)
    return OfRun(trained.system.name), {"params": jax.device_get(state)}


def _written(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
