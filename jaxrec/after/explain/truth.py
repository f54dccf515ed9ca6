"""Whether an explanation is true: does it point at what counts, does the score follow it, does the network matter?

An explanation is float [...], a value of each place of an image [..., C]; what is above 0 speaks for the score.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.after.explain.variants import Baseline, Score, covered, each

STEPS = 50
"""Parts in which places are inserted or deleted."""


def pointing(explanation: jax.Array, region: jax.Array) -> jax.Array:
    """The pointing game (Zhang et al. 2016): 1 if the place of the highest value is in the region bool [...], else 0.

    Of several places with the highest value, as in a cell, the share that is in the region.
    """
    highest = explanation == explanation.max()
    return (highest & region).sum() / highest.sum()


def relevance_mass(explanation: jax.Array, region: jax.Array) -> jax.Array:
    """The share of what speaks for the score that is in the region bool [...] (Arras et al. 2022), in [0, 1].

    0 if nothing speaks for it.
    """
    speaking = jnp.maximum(explanation, 0)
    whole = speaking.sum()
    return jnp.where(region, speaking, 0).sum() / jnp.where(whole > 0, whole, 1)


def insertion(
    score: Score, image: jax.Array, explanation: jax.Array, baseline: Baseline = 0.0, steps: int = STEPS
) -> jax.Array:
    """The scores as places are shown, the highest values first (Petsiuk et al. 2018): float32 [steps + 1].

    The first is the score of the baseline, the last that of the image. The mean of the curve is high if the explanation
    finds first what the score needs.
    """
    return _along(score, image, _ranks(-explanation), baseline, steps)


def deletion(
    score: Score, image: jax.Array, explanation: jax.Array, baseline: Baseline = 0.0, steps: int = STEPS
) -> jax.Array:
    """The scores as places are covered, the highest values first: float32 [steps + 1].

    The first is the score of the image, the last that of the baseline. The mean of the curve is low if the explanation
    finds first what the score needs.
    """
    return _along(score, image, _ranks(explanation), baseline, steps)[::-1]


def _along(score: Score, image: jax.Array, ranks: jax.Array, baseline: Baseline, steps: int) -> jax.Array:
    """The scores of the image with more and more places shown, the lowest ranks first."""

    def scores(shares: jax.Array) -> jax.Array:
        counts = jnp.round(shares * ranks.size).reshape(-1, *[1] * ranks.ndim)
        return score(covered(image, baseline, (ranks < counts).astype(jnp.float32)))

    return each(scores, jnp.linspace(0, 1, steps + 1, dtype=jnp.float32), image)


def _ranks(values: jax.Array) -> jax.Array:
    """The place of each value in their order, from 0 for the lowest on; of equal ones the first comes first."""
    order = values.reshape(-1).argsort()
    return order.argsort().astype(jnp.float32).reshape(values.shape)


def rank_correlation(one: jax.Array, other: jax.Array) -> jax.Array:
    """Spearman's correlation of two explanations, in [-1, 1], 0 if all values of one are equal."""
    first, second = _mean_ranks(one), _mean_ranks(other)
    first, second = first - first.mean(), second - second.mean()
    scale = jnp.sqrt((first**2).sum() * (second**2).sum())
    return (first * second).sum() / jnp.where(scale > 0, scale, 1)


def _mean_ranks(values: jax.Array) -> jax.Array:
    flat = jnp.asarray(values).reshape(-1)
    ordered = jnp.sort(flat)
    below = jnp.searchsorted(ordered, flat, side="left")
    up_to = jnp.searchsorted(ordered, flat, side="right")
    return (below + up_to).astype(jnp.float32) / 2


def randomized(params: Mapping[str, Any], fresh: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Parameters whose last ``layers`` layers are those of ``fresh``, the others as they are (Adebayo et al. 2018).

    Layers are the entries of a flax module's parameters, in the order in which it made them. An explanation that does
    not change as the layers are replaced does not explain the network.
    """
    names = list(params)
    kept = {name: params[name] for name in names[: len(names) - layers]}
    return kept | {name: fresh[name] for name in names[len(names) - layers :]}


def with_shortcut(images: jax.Array, label: jax.Array, side: int = 2) -> jax.Array:
    """Images [N, H, W, C] in [0, 1] whose upper left corner tells the class.

    The pixels of a square of ``side`` are white and black as the binary digits of the class number int [N] plus one,
    the lowest digit first, so that each class has a white one. A network that learns from such images may look at
    nothing else, and a true explanation says so.
    """
    places = jnp.arange(side * side, dtype=jnp.int32)
    digits = (label.astype(jnp.int32)[:, None] + 1) >> places & 1
    square = digits.astype(images.dtype).reshape(-1, side, side, 1)
    return images.at[:, :side, :side].set(square)
