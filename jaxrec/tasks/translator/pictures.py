"""What is shown and told of a translator: pictures of a run, and of the images that ``predict`` is given."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.features import Features
from jaxrec.metrics.translation import of_images
from jaxrec.parallel import stream
from jaxrec.settings.translator import Translator as Config
from jaxrec.tasks.inputs import rgb, scaled
from jaxrec.tasks.state import Batch, State
from jaxrec.tasks.translator.pairs import augmented, knows_targets, pair
from jaxrec.tasks.translator.passes import translate

SHOWN = 8
"""Examples in a picture."""


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``translations``: inputs, targets and answers, row by row; unpaired also ``cycles``, there and back."""
    first = {name: values[:SHOWN] for name, values in batch.items()}
    inputs, targets = pair(state.config, first)
    answers = translate(state, inputs)
    shown = _known(state.config, batch, inputs, targets, answers)
    pictures = {"translations": {"images": _stacked(shown)}}
    if state.config.unpaired:
        there_and_back = translate(state, answers, "back")
        back = translate(state, targets, "back")
        back_and_there = translate(state, back)
        shown = [inputs, answers, there_and_back, targets, back, back_and_there]
        pictures["cycles"] = {"images": _stacked(shown)}
    return pictures


def worst(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_translations``: input, target, if it is known, and answer, [B, 2 or 3, H, W, C]."""
    inputs, targets = pair(state.config, batch)
    columns = _known(state.config, batch, inputs, targets, translate(state, inputs))
    return {"worst_translations": {"images": _stacked(columns, axis=1)}}


def _known(config: Config, batch: Batch, inputs: jax.Array, targets: jax.Array, answers: jax.Array) -> list[jax.Array]:
    """Inputs, targets, if they are what the inputs are to become, and answers."""
    return [inputs, targets, answers] if knows_targets(config, batch) else [inputs, answers]


def seen(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``batch``: inputs and targets as the training step augments them."""
    images = augmented(state.config, stream(state.key, "augment", state.step), batch)
    return {"batch": {"images": _stacked(images, axis=1)}}


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each image: the errors of the answer, if its pair is made; otherwise nothing is known of it."""
    if "input" not in outputs:
        return [{} for _ in inputs]
    errors = of_images(jnp.asarray(outputs["image"]), scaled(inputs))
    told = []
    for place in range(len(inputs)):
        told.append({name: float(values[place]) for name, values in errors.items()})
    return told


def sheet(
    config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features
) -> dict[str, dict[str, Any]]:
    """``translations``: inputs, targets, if they are known, and answers, row by row."""
    shown = [scaled(inputs), jnp.asarray(outputs["image"])]
    if "input" in outputs:
        # The images are the targets then, and what was translated is made of them.
        shown = [jnp.asarray(outputs["input"]), *shown]
    return {"translations": {"images": np.asarray(_stacked(shown))}}


def drawings(
    config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features
) -> list[dict[str, Any]]:
    """``translation`` of each image: the answer alone."""
    drawn = []
    for answer in outputs["image"]:
        picture = np.asarray(rgb(jnp.asarray(answer)))
        drawn.append({"translation": {"picture": picture}})
    return drawn


def _stacked(images: Sequence[jax.Array], axis: int = 0) -> jax.Array:
    """Images [B, H, W, .] of the same pixels in one array along a new ``axis``; of different channels, all as three."""
    channels = {each.shape[-1] for each in images}
    if len(channels) > 1:
        images = [rgb(each) for each in images]
    return jnp.stack(images, axis)
