"""Boxes: areas, overlaps of pairs, and the choice among boxes that overlap.

A box is y0, x0, y1, x1 in pixels, as ``jaxrec.data.features`` says. Every function takes floats of any leading shape,
computes in float32, and is pure.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

TINY = 1e-9
"""Square pixels below which an area is divided by as if it were this: it keeps the overlaps of empty boxes finite."""
SHORTEST = 1e-6
"""Pixels of the shortest side that has a shape: the angle of a box without extent has no derivative."""


def area(boxes: jax.Array) -> jax.Array:
    """Areas in square pixels, float32 [...], of boxes [..., 4]; 0 if a side is not positive."""
    height, width = _sides(jnp.asarray(boxes, jnp.float32))
    return height * width


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union, float32 in [0, 1], of paired boxes [..., 4], whose leading shapes broadcast.

    0 for two boxes without area, and the gradient is finite.
    """
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    inside, union = _overlap(a, b)
    return inside / union


def pairwise_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of every box of a [..., N, 4] and every box of b [..., M, 4], float32 [..., N, M].

    The other overlaps of all pairs are had in the same way: ``giou(a[..., :, None, :], b[..., None, :, :])``.
    """
    return iou(a[..., :, None, :], b[..., None, :, :])


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalized IoU, float32 in [-1, 1], of paired boxes [..., 4] (Rezatofighi et al. 2019).

    The IoU less the share of the smallest box around both that neither covers, so that boxes apart have a gradient.
    """
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    inside, union = _overlap(a, b)
    height, width = _around(a, b)
    around = jnp.maximum(height * width, TINY)
    return inside / union - (around - union) / around


def ciou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Complete IoU, float32 in about [-1.5, 1], of paired boxes [..., 4] (Zheng et al. 2020).

    The IoU, less the squared distance of the centers over the squared diagonal of the box around both, less a term for
    differing shapes: v * v / (1 - IoU + v), where v is the squared difference of the angles of the diagonals, scaled to
    [0, 1]. As in the paper, the weight of v, v / (1 - IoU + v), is a constant to the gradient.
    """
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    inside, union = _overlap(a, b)
    overlap = inside / union
    height, width = _around(a, b)
    diagonal = jnp.maximum(height**2 + width**2, TINY)
    centers = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    shape = 4 / jnp.pi**2 * (_angle(a) - _angle(b)) ** 2
    weight = jax.lax.stop_gradient(shape / jnp.maximum(1 - overlap + shape, TINY))
    return overlap - (centers**2).sum(-1) / diagonal - weight * shape


def _sides(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Height and width, at least 0."""
    return jnp.maximum(boxes[..., 2] - boxes[..., 0], 0.0), jnp.maximum(boxes[..., 3] - boxes[..., 1], 0.0)


def _overlap(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The areas of the intersection and of the union; the union is at least ``TINY``."""
    height, width = _sides(jnp.concatenate([jnp.maximum(a, b)[..., :2], jnp.minimum(a, b)[..., 2:]], -1))
    inside = height * width
    return inside, jnp.maximum(area(a) + area(b) - inside, TINY)


def _around(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Height and width of the smallest box around both."""
    return _sides(jnp.concatenate([jnp.minimum(a, b)[..., :2], jnp.maximum(a, b)[..., 2:]], -1))


def _angle(boxes: jax.Array) -> jax.Array:
    """The angle of the diagonal from the upright, in [0, pi / 2]."""
    height, width = _sides(boxes)
    return jnp.arctan2(jnp.maximum(width, SHORTEST), jnp.maximum(height, SHORTEST))


class Found(NamedTuple):
    """Boxes that were chosen, the highest score first, filled up with class -1."""

    boxes: jax.Array
    """float32 [..., most, 4]; zeros if there is no box."""
    scores: jax.Array
    """float32 [..., most]; 0 if there is no box."""
    classes: jax.Array
    """int32 [..., most]; -1 if there is no box."""


def nms(
    boxes: jax.Array,
    scores: jax.Array,
    *,
    overlap: float = 0.6,
    score: float = 0.001,
    most: int = 100,
    candidates: int = 400,
) -> Found:
    """Greedy non-maximum suppression within each class, batched and of static sizes.

    The highest score is taken, boxes of its class that overlap it too much are dropped, and so on. A box is a candidate
    for every class in which its score is high enough.

    It is computed in the matrix form: a candidate stays if no staying candidate of higher score overlaps it. Begun with
    all candidates staying, the rule is applied until nothing changes, which takes as many rounds as the longest chain
    of suppressions, and then the result is that of the greedy loop.

    Args:
        boxes: floats [..., N, 4].
        scores: floats [..., N, C] of each box in each class; of equal ones, that of the first box and class goes first.
        overlap: the IoU above which the box of lower score is dropped.
        score: the score that a candidate exceeds.
        most: how many boxes are given back.
        candidates: how many pairs of box and class of highest score are looked at; the others are left out.

    Returns:
        What stays, the highest score first.
    """

    def chosen(boxes: jax.Array, scores: jax.Array) -> Found:
        found = _candidates(boxes, scores, score, candidates)
        order = jnp.arange(len(found.scores))
        above = (_rivals(found) > overlap) & (order[:, None] < order[None, :])
        there = found.classes >= 0

        def rule(stays: jax.Array) -> jax.Array:
            return there & ~(above & stays[:, None]).any(0)

        def changed(state: tuple[jax.Array, jax.Array]) -> jax.Array:
            return (state[0] != state[1]).any()

        def again(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return state[1], rule(state[1])

        stays, _ = jax.lax.while_loop(changed, again, (there, rule(there)))
        return _best(found, jnp.where(stays, found.scores, 0.0), most)

    return _each(chosen, boxes, scores)


def soft_nms(
    boxes: jax.Array,
    scores: jax.Array,
    *,
    sigma: float = 0.5,
    score: float = 0.001,
    most: int = 100,
    candidates: int = 400,
) -> Found:
    """Soft suppression within each class with Gaussian decay (Bodla et al. 2017), batched and of static sizes.

    The highest score is taken, and the scores of the others of its class are multiplied by exp(-IoU^2 / ``sigma``),
    ``most`` times. The other arguments and what is returned are as for :func:`nms`; scores are the decayed ones, and
    boxes whose score has sunk to ``score`` are dropped.
    """

    def chosen(boxes: jax.Array, scores: jax.Array) -> Found:
        found = _candidates(boxes, scores, score, candidates)
        decay = jnp.exp(-(_rivals(found) ** 2) / sigma)

        def take(left: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            best = left.argmax()
            # What was taken cannot be taken again: no score is below 0.
            return (left * decay[best]).at[best].set(-1.0), (best, left[best])

        _, (order, left) = jax.lax.scan(take, found.scores, None, length=min(most, len(found.scores)))
        taken = Found(found.boxes[order], left, found.classes[order])
        return _best(taken, jnp.where(left > score, left, 0.0), most)

    return _each(chosen, boxes, scores)


def matches(
    found: Found, true_boxes: jax.Array, true_classes: jax.Array, *, overlap: float = 0.5
) -> tuple[jax.Array, jax.Array]:
    """Which of the found boxes are right, bool [..., K], and which true ones are found, bool [..., N].

    In the order of ``found``, each box takes the true box of its class that it overlaps most, among those that are free
    and whose IoU is at least ``overlap``. True boxes are floats [..., N, 4], their classes int32 [..., N], -1 for none.
    The boxes that are neither right nor found are the mistakes of an image.
    """

    def matched(found: Found, true_boxes: jax.Array, true_classes: jax.Array) -> tuple[jax.Array, jax.Array]:
        overlaps = pairwise_iou(found.boxes, jnp.asarray(true_boxes, jnp.float32))
        overlaps = jnp.where(found.classes[:, None] == true_classes, overlaps, -1.0)
        there = true_classes >= 0

        def take(free: jax.Array, overlaps: jax.Array) -> tuple[jax.Array, jax.Array]:
            best = jnp.where(free, overlaps, -1.0).argmax()
            right = free[best] & (overlaps[best] >= overlap)
            return free.at[best].set(free[best] & ~right), right

        free, right = jax.lax.scan(take, there, overlaps)
        return right, there & ~free

    for _ in range(found.classes.ndim - 1):
        matched = jax.vmap(matched)
    return matched(found, true_boxes, true_classes)


def _each(chosen: Callable[[jax.Array, jax.Array], Found], boxes: jax.Array, scores: jax.Array) -> Found:
    """``chosen(boxes [N, 4], scores [N, C])`` for each example of a batch of any leading shape."""
    boxes, scores = jnp.asarray(boxes, jnp.float32), jnp.asarray(scores, jnp.float32)
    chex.assert_equal_shape_prefix([boxes, scores], boxes.ndim - 1)
    chex.assert_equal_rank([boxes, scores])
    for _ in range(boxes.ndim - 2):
        chosen = jax.vmap(chosen)
    return chosen(boxes, scores)


def _candidates(boxes: jax.Array, scores: jax.Array, least: float, count: int) -> Found:
    """The ``count`` pairs of box and class of highest score; those of at most ``least`` are no boxes."""
    classes = scores.shape[1]
    values, place = jax.lax.top_k(scores.reshape(-1), min(count, scores.size))
    there = values > least
    return _blanked(Found(boxes[place // classes], values, (place % classes).astype(jnp.int32)), there)


def _rivals(found: Found) -> jax.Array:
    """The IoU of all pairs of one class [K, K]; 0 for pairs of different classes."""
    same = found.classes[:, None] == found.classes[None, :]
    return jnp.where(same, pairwise_iou(found.boxes, found.boxes), 0.0)


def _best(found: Found, scores: jax.Array, most: int) -> Found:
    """The ``most`` boxes of highest ``scores`` [K], none of score 0, filled up if K is less."""
    lacking = max(most - len(scores), 0)
    values, place = jax.lax.top_k(scores, min(most, len(scores)))
    best = _blanked(Found(found.boxes[place], values, found.classes[place]), values > 0)
    return Found(
        jnp.pad(best.boxes, ((0, lacking), (0, 0))),
        jnp.pad(best.scores, (0, lacking)),
        jnp.pad(best.classes, (0, lacking), constant_values=-1),
    )


def _blanked(found: Found, there: jax.Array) -> Found:
    """The boxes that are there; zeros and class -1 in place of the others."""
    return Found(
        jnp.where(there[:, None], found.boxes, 0.0),
        jnp.where(there, found.scores, 0.0),
        jnp.where(there, found.classes, -1),
    )
