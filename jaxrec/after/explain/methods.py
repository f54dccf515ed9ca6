"""The methods by name, each with settings that suit most images: what the command and comparisons of methods use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxrec.after.explain.cam import grad_cam, hires_cam
from jaxrec.after.explain.covering import multi_scale, occlusion, rise
from jaxrec.after.explain.gradients import gradient, integrated_gradients, smooth_gradient
from jaxrec.after.explain.segments import grid, slic, spread
from jaxrec.after.explain.shares import kernel_shap, lime, shapley
from jaxrec.after.explain.variants import Score

FEW_CELLS = {1: 14, 2: 3, 3: 2}
"""Cells along each axis, by the number of axes, of which every coalition can be scored."""


@dataclass(frozen=True)
class Settings:
    """What methods have in common."""

    baseline: Literal["black", "mean", "blur"] = "black"
    """What is seen of what is covered: black, the image's mean color, or the blurred image."""
    samples: int = 1000
    """Random masks of RISE, and coalitions of LIME and KernelSHAP."""
    segments: Literal["grid", "slic"] = "grid"
    """What LIME and KernelSHAP cover: cells of a grid, or superpixels along the image's edges."""
    cells: int = 8
    """Cells along each side of the grid, of which superpixels start."""


def explain(method: str, score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    """The explanation of an image [..., C] by one of ``METHODS``, float32 [...]; what is random is drawn from the key.

    ``gradient`` and ``smoothgrad`` tell how strongly a place acts, whatever the sign. Of the others what is above 0
    speaks for the score and what is below against it.
    """
    return METHODS[method](score, image, key, settings)


def hidden(image: jax.Array, kind: str) -> jax.Array:
    """The baseline of an image float32 [..., C] that ``kind`` names: float32 [..., C]."""
    if kind == "black":
        return jnp.zeros_like(image)
    axes = tuple(range(image.ndim - 1))
    if kind == "mean":
        return jnp.broadcast_to(image.mean(axes, keepdims=True), image.shape)
    height, width = image.shape[-3:-1]
    few = (*image.shape[:-3], max(1, height // 8), max(1, width // 8), image.shape[-1])
    return jax.image.resize(jax.image.resize(image, few, "linear"), image.shape, "linear")


def _strength(values: jax.Array) -> jax.Array:
    """How strongly each place acts, whatever the sign: the sum over channels."""
    return jnp.abs(values).sum(-1)


def _gradient(score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    return _strength(gradient(score, image))


def _smooth_gradient(score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    return _strength(smooth_gradient(score, image, key))


def _integrated_gradients(score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    return integrated_gradients(score, image, hidden(image, settings.baseline)).sum(-1)


def _grad_cam(score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    return grad_cam(score, image)


def _hires_cam(score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    return hires_cam(score, image)


def _occlusion(score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    return occlusion(score, image, hidden(image, settings.baseline))


def _multi_scale(score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    return multi_scale(score, image, hidden(image, settings.baseline))


def _rise(score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    return rise(score, image, key, hidden(image, settings.baseline), settings.samples)


def _segments(image: jax.Array, settings: Settings) -> tuple[jax.Array, int]:
    if settings.segments == "slic":
        return slic(image, settings.cells)
    return grid(image.shape[:-1], settings.cells)


def _lime(score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    segments, count = _segments(image, settings)
    baseline = hidden(image, settings.baseline)
    return spread(lime(score, image, segments, count, key, baseline, settings.samples), segments)


def _kernel_shap(score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    segments, count = _segments(image, settings)
    baseline = hidden(image, settings.baseline)
    return spread(kernel_shap(score, image, segments, count, key, baseline, settings.samples), segments)


def _shapley(score: Score, image: jax.Array, key: jax.Array, settings: Settings) -> jax.Array:
    few = FEW_CELLS[image.ndim - 1]
    segments, count = grid(image.shape[:-1], min(few, settings.cells))
    return spread(shapley(score, image, segments, count, hidden(image, settings.baseline)), segments)


METHODS: dict[str, Callable[[Score, jax.Array, jax.Array, Settings], jax.Array]] = {
    "gradient": _gradient,
    "smoothgrad": _smooth_gradient,
    "integrated-gradients": _integrated_gradients,
    "grad-cam": _grad_cam,
    "hires-cam": _hires_cam,
    "occlusion": _occlusion,
    "multi-scale": _multi_scale,
    "rise": _rise,
    "lime": _lime,
    "kernel-shap": _kernel_shap,
    "shapley": _shapley,
}
"""``method(score, image [..., C], key, settings) -> float32 [...]`` by name."""
