"""Where the network looks, in training and in evaluation.

In training, each of B images is looked at in ``samples`` ways, M, which draw their own looks. Arrays are [T, N]: T
looks in each of N = B * M ways, those of one image side by side.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.augment import standardize
from jaxrec.models.glimpse import Looks
from jaxrec.settings.glimpse import Glimpse as Config
from jaxrec.tasks.inputs import example_keys, pixels
from jaxrec.tasks.state import Batch, State


def still(config: Config, count: int) -> tuple[jax.Array, jax.Array]:
    """First looks [N, 2] at the center, and no noise [T, N, 2]."""
    return jnp.zeros((count, 2), jnp.float32), jnp.zeros((config.looks, count, 2), jnp.float32)


def looked(
    state: State, params: Any, stats: Any, image: jax.Array, key: jax.Array, actions: jax.Array | None = None
) -> Looks:
    """Looks at images [B, H, W, C] in [0, 1] in ``samples`` ways each, or at given places [T, N, 2]."""
    config, model = state.config, state.players["net"].model
    images = standardize(image, config.mean, config.std)
    first, noise = _tried(config, key, image.shape[0])
    if config.policy == "random":
        actions = jax.random.uniform(key, noise.shape, jnp.float32, minval=-1.0, maxval=1.0)
    deviation = _deviation(config, state.step)
    return model.apply({"params": params, **stats}, images, first, noise, deviation, actions)


def _tried(config: Config, key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """For ``samples`` ways of looking at each of so many images: first looks [N, 2], and noise [T, N, 2]."""
    places, noise = jax.random.split(key)
    first, _ = still(config, size * config.samples)
    if config.start == "random":
        first = jax.random.uniform(places, first.shape, jnp.float32, minval=-1.0, maxval=1.0)
    return first, jax.random.normal(noise, (config.looks, *first.shape), jnp.float32)


def _deviation(config: Config, step: jax.Array) -> jax.Array:
    """The standard deviation at a step, a float32 scalar: it falls over the run, if its length is known."""
    steps = config.optimizer.steps
    share = jnp.minimum(step.astype(jnp.float32) / steps, 1.0) if steps else jnp.float32(0)
    return config.deviation + share * (config.final_deviation - config.deviation)


def aimed(state: State, batch: Batch, actions: jax.Array | None = None) -> Looks:
    """One way of looking at each image of the batch: at the policy's means, or at given places [T, B, 2]."""
    config, player = state.config, state.players["net"]
    images = standardize(pixels(batch), config.mean, config.std)
    first, noise = still(config, images.shape[0])
    if config.policy == "random" and actions is None:
        actions = anywhere(batch, "random looks", config.looks)
    if config.start == "random":
        first = anywhere(batch, "first look", 1)[0]
    return player.model.apply(player.variables(), images, first, noise, jnp.float32(0), actions)


def anywhere(batch: Batch, name: str, looks: int) -> jax.Array:
    """Uniformly random places [T, B, 2], which depend on the examples alone."""
    draw = partial(jax.random.uniform, shape=(looks, 2), dtype=jnp.float32, minval=-1.0, maxval=1.0)
    return jax.vmap(draw, out_axes=1)(example_keys(batch, name))


def of_ways(config: Config, label: jax.Array) -> jax.Array:
    """The classes [N] of all ways of looking at images of classes [B]."""
    return jnp.repeat(label, config.samples, axis=0)


def by_image(values: jax.Array, size: int) -> jax.Array:
    """Values [T, N, ...] of the ways of looking at ``size`` images as [B, M, T, ...], to be split with the batch."""
    by_way = values.reshape(values.shape[0], size, -1, *values.shape[2:])
    return jnp.moveaxis(by_way, 0, 2)


def by_step(values: jax.Array) -> jax.Array:
    """Values [B, M, T, ...] as [T, N, ...]."""
    time_first = jnp.moveaxis(values, 2, 0)
    return time_first.reshape(values.shape[2], -1, *values.shape[3:])
