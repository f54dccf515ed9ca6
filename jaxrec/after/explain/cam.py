"""Grad-CAM: which maps of a network's last layers speak for a score.

The layer is found while the score is traced: flax tells an interceptor of every module that is called. So the score
must call its modules itself, and not through ``jax.jit``, which remembers what it has traced before.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.after.explain.variants import Score
from jaxrec.errors import UserError
from jaxrec.models.layers import Maps


class Layer(NamedTuple):
    """A call of a module that gives maps."""

    number: int
    """Of the call, among all calls of modules."""
    name: str
    """Path of the module, such as ``stage4_block2``."""
    shape: tuple[int, ...]
    """Of what it gives."""
    size: tuple[int, int]
    """Height and width of the maps."""
    marked: bool = False
    """Whether the network marks them by ``jaxrec.models.layers.Maps``."""


def grad_cam(score: Score, image: jax.Array) -> jax.Array:
    """Grad-CAM (Selvaraju et al. 2017): maps weighted by their mean gradients, at the image's size, float32 [...].

    The maps are those of ``map_layer``. What speaks against the score counts as 0. If a score calls its network several
    times, for views of an image, the maps of the first view are taken.

    Raises UserError if the network has no maps.
    """
    slopes, maps = _slopes_and_maps(score, image)
    weights = slopes.mean((1, 2), keepdims=True)
    return _enlarged((weights * maps).sum(-1), image)


def hires_cam(score: Score, image: jax.Array) -> jax.Array:
    """HiResCAM (Draelos & Carin 2020): the same maps times their gradients, place by place, float32 [...].

    It suits scores of one place of an image, such as an object's, of which the mean gradient of a map says little. It
    is Grad-CAM for networks that take the mean of their maps. Raises UserError if the network has no maps.
    """
    slopes, maps = _slopes_and_maps(score, image)
    return _enlarged((slopes * maps).sum(-1), image)


def _enlarged(cam: jax.Array, image: jax.Array) -> jax.Array:
    """What speaks for the score in maps [M, h, w], at the image's size."""
    *frames, height, width, _ = image.shape
    return jax.image.resize(nn.relu(cam), (len(cam), height, width), "bilinear").reshape(*frames, height, width)


def _slopes_and_maps(score: Score, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients of the score by the maps of ``map_layer``, and the maps: float32 [M, h, w, C], M frames."""
    layer = map_layer(score, image)
    frames = image.shape[:-3]

    def scored(added: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The score if ``added`` is added to what the layer gives, and what the layer gives."""
        given = []

        def add(number: int, module: nn.Module, output: Any) -> Any:
            if number != layer.number:
                return output
            given.append(output)
            return output + added

        with _told(add):
            value = score(image[None])[0]
        return value, given[0]

    of_layer = jax.eval_shape(scored, jnp.zeros((), jnp.float32))[1]
    slopes, maps = jax.grad(scored, has_aux=True)(jnp.zeros(of_layer.shape, of_layer.dtype))
    # One image's maps, or those of each frame of one clip.
    shape = (math.prod(frames), *layer.size, layer.shape[-1])
    return slopes.reshape(shape).astype(jnp.float32), maps.reshape(shape).astype(jnp.float32)


def map_layer(score: Score, image: jax.Array) -> Layer:
    """The last layer that gives the smallest maps with more than one place, of those that the network marks if any.

    In a classifier it is the last one before the maps become one vector, and in a network whose maps shrink and grow
    again the one in the middle. A transformer's patches count as a map if there are no others. Networks of jaxrec mark
    maps by ``jaxrec.models.layers.Maps``.

    Raises UserError if no layer gives maps.
    """
    found = _layers(score, image)
    if not found:
        raise UserError(
            "grad-cam weighs the maps of a network's layers, and this network has none; choose another method"
        )
    if any(layer.marked for layer in found):
        found = [layer for layer in found if layer.marked]
    least = min(math.prod(layer.size) for layer in found)
    return [layer for layer in found if math.prod(layer.size) == least][-1]


def _layers(score: Score, image: jax.Array) -> list[Layer]:
    """Every layer of the score that gives maps, or without any, those that give a square's patches."""
    *frames, height, width, _ = image.shape
    count = math.prod(frames)
    of_maps, of_patches = [], []

    def note(number: int, module: nn.Module, output: Any) -> Any:
        shape, name = output.shape, "/".join(module.path)
        if len(shape) == 4 and shape[0] == count and shape[1] * shape[2] > 1:
            of_maps.append(Layer(number, name, shape, shape[1:3], isinstance(module, Maps)))
        if len(shape) == 3 and shape[0] == count:
            rows = round(math.sqrt(shape[1] * height / width))
            columns = shape[1] // max(rows, 1)
            if rows * columns == shape[1] > 1 and rows * width == columns * height:
                of_patches.append(Layer(number, name, shape, (rows, columns)))
        return output

    with _told(note):
        # A function of its own each time: jax traces one and the same only once.
        jax.eval_shape(lambda image: score(image[None]), image)
    return of_maps or of_patches


def _told(use: Callable[[int, nn.Module, Any], Any]) -> Any:
    """A context in which ``use(number, module, output)`` replaces the output of every call of a module, in order."""
    calls = 0

    def intercept(call: Callable[..., Any], args: Any, options: Any, context: Any) -> Any:
        nonlocal calls
        output = call(*args, **options)
        if context.method_name != "__call__" or not isinstance(output, jax.Array):
            return output
        calls += 1
        return use(calls, context.module, output)

    return nn.intercept_methods(intercept)
