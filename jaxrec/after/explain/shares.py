"""Explanations that share a score among segments: exact Shapley values, KernelSHAP and LIME.

Segments are the players of a game. A coalition's value is the score of the image with all other segments covered.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.after.explain.variants import Baseline, Score, covered, each
from jaxrec.errors import UserError

MOST_PLAYERS = 14
"""Segments of which every coalition is scored, at most: 16384 coalitions."""


def game(score: Score, image: jax.Array, segments: jax.Array, baseline: Baseline) -> Callable[[jax.Array], jax.Array]:
    """``value(coalitions)``: float32 [N] of coalitions float32 [N, count], 1 for each segment that is shown."""

    def scores(coalitions: jax.Array) -> jax.Array:
        return score(covered(image, baseline, coalitions[:, segments]))

    return lambda coalitions: each(scores, coalitions, image)


def shapley(score: Score, image: jax.Array, segments: jax.Array, count: int, baseline: Baseline = 0.0) -> jax.Array:
    """Shapley values (Shapley 1953) of ``count`` segments int32 [...], exactly: float32 [count].

    A segment's value is what it adds to the score, mean over all orders in which the segments could be uncovered. The
    values add up to the score of the image less that of the baseline.

    Raises UserError if there are more than 14 segments.
    """
    if count > MOST_PLAYERS:
        raise UserError(
            f"exact Shapley values of {count} segments need the scores of 2**{count} images; expected at most "
            f"{MOST_PLAYERS} segments: take fewer, or KernelSHAP"
        )
    coalitions = every_coalition(count)
    sizes = coalitions.sum(1).astype(int)
    # Orders in which a member of a coalition comes last in it, and in which an outsider comes next.
    last = np.array([math.factorial(max(size - 1, 0)) * math.factorial(count - size) for size in sizes])
    next_one = np.array([math.factorial(size) * math.factorial(max(count - size - 1, 0)) for size in sizes])
    weights = np.where(coalitions == 1, last[:, None], -next_one[:, None]) / math.factorial(count)
    values = game(score, image, segments, baseline)(jnp.asarray(coalitions, jnp.float32))
    # Weights of members and outsiders cancel, so a constant may go first, with the digits that it would take.
    found = (values - values[0]) @ jnp.asarray(weights, jnp.float32)
    return _efficient(found, values[-1] - values[0])


def every_coalition(count: int) -> np.ndarray:
    """Every coalition of ``count`` players, the empty one first and that of all last: float64 [2**count, count]."""
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(float)


def kernel_shap(
    score: Score,
    image: jax.Array,
    segments: jax.Array,
    count: int,
    key: jax.Array,
    baseline: Baseline = 0.0,
    samples: int = 1000,
) -> jax.Array:
    """KernelSHAP (Lundberg & Lee 2017): an estimate of the Shapley values of ``count`` segments, float32 [count].

    The values are those of the linear game that is nearest to this one on the coalitions looked at, among those that
    share out exactly the score of the image less that of the baseline. Coalitions are drawn as often as they count in
    Shapley's sum, each with its complement, which halves the variance (Covert & Lee 2021). If there are no more than
    ``samples`` of them, all are looked at, and the values are exact.
    """
    value = game(score, image, segments, baseline)
    ends = value(jnp.stack([jnp.zeros(count, jnp.float32), jnp.ones(count, jnp.float32)]))
    whole = ends[1] - ends[0]
    if count == 1:
        return whole[None]
    if 2**count - 2 <= samples:
        coalitions = every_coalition(count)[1:-1]
        sizes = coalitions.sum(1).astype(int)
        counted = np.array([1 / (math.comb(count, size) * size * (count - size)) for size in sizes])
        coalitions, weights = jnp.asarray(coalitions, jnp.float32), jnp.asarray(counted, jnp.float32)
    else:
        coalitions = _drawn_coalitions(key, count, samples // 2)
        weights = jnp.ones(len(coalitions), jnp.float32)
    worth = value(coalitions) - ends[0]
    # The last player gets what the others leave, which takes one unknown out of the equations.
    last = coalitions[:, -1:]
    root = jnp.sqrt(weights)
    sides = root[:, None] * (coalitions[:, :-1] - last), root * (worth - last[:, 0] * whole)
    others = jnp.linalg.lstsq(*sides)[0]
    return _efficient(jnp.append(others, whole - others.sum()), whole)


def _drawn_coalitions(key: jax.Array, count: int, pairs: int) -> jax.Array:
    """Random coalitions by the Shapley kernel, then their complements: float32 [2 * pairs, count]."""
    by_size, by_order = jax.random.split(key)
    sizes = np.arange(1, count)
    likely = jnp.asarray(-np.log(sizes * (count - sizes)), jnp.float32)
    size = 1 + jax.random.categorical(by_size, likely, shape=(pairs, 1)).astype(jnp.int32)
    order = jax.random.uniform(by_order, (pairs, count)).argsort(axis=1).argsort(axis=1)
    chosen = (order.astype(jnp.int32) < size).astype(jnp.float32)
    return jnp.concatenate([chosen, 1 - chosen])


def _efficient(values: jax.Array, whole: jax.Array) -> jax.Array:
    """The values [count] with what rounding left over of ``whole`` shared equally."""
    return values + (whole - values.sum()) / len(values)


def lime(
    score: Score,
    image: jax.Array,
    segments: jax.Array,
    count: int,
    key: jax.Array,
    baseline: Baseline = 0.0,
    samples: int = 1000,
    width: float = 0.25,
    ridge: float = 1.0,
) -> jax.Array:
    """LIME (Ribeiro et al. 2016): the slopes of a linear model of the score around the image, float32 [count].

    The model is fitted to random coalitions, each segment shown with probability 1/2, and to the whole image. A
    coalition counts the more, the more of the image it shows.

    Args:
        score: see ``jaxrec.after.explain``.
        image: float32 [..., C].
        segments: int32 [...], the number of each place's segment.
        count: how many segments there are.
        key: coalitions are drawn from it.
        baseline: what covers.
        samples: how many coalitions.
        width: of the kernel of cosine distances.
        ridge: how much the squares of the slopes cost.
    """
    drawn = jax.random.bernoulli(key, 0.5, (samples, count)).astype(jnp.float32)
    coalitions = drawn.at[0].set(1)
    values = game(score, image, segments, baseline)(coalitions)
    weights = nearness(coalitions, width)
    weights /= weights.sum()
    inputs = coalitions - weights @ coalitions
    targets = values - weights @ values
    products = samples * (inputs.T * weights) @ inputs
    # Weights of sum ``samples``, as if each example counted once, so that the ridge does not depend on the kernel.
    return jnp.linalg.solve(
        products + ridge * jnp.eye(count, dtype=jnp.float32), samples * (inputs.T * weights) @ targets
    )


def nearness(coalitions: jax.Array, width: float) -> jax.Array:
    """LIME's weight of each coalition [N, count], by its cosine distance from that of all segments: float32 [N]."""
    distance = 1 - jnp.sqrt(coalitions.mean(1))
    return jnp.sqrt(jnp.exp(-(distance**2) / width**2))
