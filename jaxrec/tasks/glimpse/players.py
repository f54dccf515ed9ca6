"""The network that looks, the CNN that it is compared with, and the state at the start of their training."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.errors import UserError
from jaxrec.models.cnn import CNN, widest_within
from jaxrec.models.glimpse import GlimpseNetwork, operations
from jaxrec.parallel import stream
from jaxrec.settings.glimpse import Glimpse as Config
from jaxrec.tasks.glimpse.looks import still
from jaxrec.tasks.inputs import image_shape
from jaxrec.tasks.model import as_model, compute_dtype
from jaxrec.tasks.state import Batch, State, new_player, new_state


def init(config: Config, key: jax.Array, batch: Batch, model: Any = None, *, optimizer: Any = None) -> State:
    """The state at step 0, with the player ``net`` and, to compare with, ``cnn``.

    Args:
        config: ``classes`` must be set (from the data).
        key: parameters are drawn from it.
        batch: a batch of the data; its shape is read.
        model: a Linen module, called as ``jaxrec.models.glimpse.GlimpseNetwork`` is, which gives ``Looks``. Default:
            the configured one.
        optimizer: an optax transformation in place of the configured optimizer, schedule, decay and clipping.

    Raises:
        UserError: there are fewer than two classes, or the settings do not fit each other.
    """
    _check(config)
    shape = image_shape(batch)
    network = build(config)
    chosen = network if model is None else as_model(model)
    params = partial(stream, key, step=jnp.int32(0))
    images = jnp.zeros((1, *shape), jnp.float32)
    first, noise = still(config, 1)
    variables = chosen.init({"params": params("params")}, images, first, noise, jnp.float32(0))
    players = {"net": new_player(config, chosen, variables, optimizer)}
    if config.cnn:
        cnn = comparable(config, shape)
        variables = cnn.init({"params": params("cnn")}, images)
        players["cnn"] = new_player(config, cnn, variables, optimizer)
    weights = {name: getattr(config, name) for name in ("policy_weight", "value_weight", "entropy")}
    return new_state(config, key, players, **weights)


def _check(config: Config) -> None:
    """Raises UserError if there are fewer than two classes, or the settings do not fit each other."""
    if config.classes < 2:
        raise UserError(f"images are told apart by at least two classes; got {config.classes}: check the labels")
    if config.reward == "gain" and config.head != "every":
        raise UserError("--reward gain compares the answers after each look; give --head every")
    if config.entropy and not config.learned_deviation:
        raise UserError(
            f"--entropy {config.entropy} changes nothing, because the deviation is not learned; give "
            "--learned-deviation, or remove it"
        )
    if config.final_deviation > config.deviation:
        raise UserError(
            f"--final-deviation {config.final_deviation} is above --deviation {config.deviation}, from which the "
            "deviation falls; give a smaller one"
        )


def build(config: Config) -> GlimpseNetwork:
    """The configured network."""
    return GlimpseNetwork(
        classes=config.classes,
        looks=config.looks,
        patch=config.patch,
        scales=config.scales,
        core=config.core,
        units=config.units,
        width=config.width,
        context=config.start == "context",
        every=config.head == "every",
        learned=config.learned_deviation,
        dtype=compute_dtype(config),
    )


def comparable(config: Config, shape: tuple[int, int, int]) -> CNN:
    """The widest CNN that needs no more operations for an image [H, W, C] of this shape than all looks together."""
    most = operations(build(config), shape[2])
    return widest_within(most, shape, partial(CNN, config.classes, dtype=compute_dtype(config)))
