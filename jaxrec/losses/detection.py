"""Losses of a detector that predicts a box and the scores of the classes at each of many places."""

from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxrec.boxes import ciou, giou, pairwise_iou
from jaxrec.losses.arguments import check_name
from jaxrec.models.detector import Places, decoded

BOX_LOSSES = {"ciou": ciou, "giou": giou}
ClassLoss = Literal["bce", "varifocal"]
ALPHA, BETA = 0.5, 6.0
"""Exponents of score and overlap in the alignment of a place with a true box."""
MOST = 10
"""Places that a true box may have."""
FOCUS, BACKGROUND = 2.0, 0.75
"""Exponent and weight of the background in the varifocal loss."""


class Assigned(NamedTuple):
    """The true box that each place is to predict."""

    boxes: jax.Array
    """float32 [B, A, 4]."""
    classes: jax.Array
    """int32 [B, A]; -1 for background."""
    quality: jax.Array
    """float32 [B, A] in [0, 1]: the score that the place should give to its class; 0 for background."""


class Parts(NamedTuple):
    """The parts of the loss of each image, float32 [B]."""

    classes: jax.Array
    box: jax.Array
    sides: jax.Array

    def total(self, classes: float, box: float, sides: float) -> jax.Array:
        """Their weighted sum."""
        return classes * self.classes + box * self.box + sides * self.sides


def assign(
    scores: jax.Array,
    boxes: jax.Array,
    where: Places,
    true_boxes: jax.Array,
    true_classes: jax.Array,
    *,
    alpha: float = ALPHA,
    beta: float = BETA,
    most: int = MOST,
) -> Assigned:
    """Gives each true box the places whose predictions suit it best (Feng et al. 2021, TOOD,
    https://arxiv.org/abs/2108.07755).

    The alignment of a place with a true box is score ** alpha * IoU ** beta. A box gets the ``most`` best aligned of
    the places that lie in it, or, if it is smaller than a cell, in a cell around its center. A place that several boxes
    claim is given to the one that it overlaps most. The quality is the alignment, scaled so that the best place of a
    box has the highest IoU of its places.

    Args:
        scores: probabilities [B, A, C].
        boxes: the boxes predicted, [B, A, 4].
        where: the A places.
        true_boxes: float32 [B, N, 4].
        true_classes: int [B, N]; -1 for no box.
        alpha: exponent of the score.
        beta: exponent of the IoU.
        most: places that a true box may have.
    """
    chex.assert_rank([scores, boxes, true_boxes, true_classes], [3, 3, 3, 2])
    there = true_classes >= 0
    classes = true_classes.astype(jnp.int32)
    overlap = pairwise_iou(true_boxes, boxes)
    # [B, C, A], of which each true box takes the row of its class.
    by_class = jnp.swapaxes(scores, 1, 2)
    score = jnp.take_along_axis(by_class, jnp.maximum(classes, 0)[:, :, None], axis=1)
    near = _lies_in(where, true_boxes) & there[..., None]
    alignment = jnp.where(near, score**alpha * overlap**beta, 0.0)
    least = _largest(alignment, min(most, alignment.shape[-1]))
    claimed = (alignment > 0) & (alignment >= least)
    claims = jnp.where(claimed, overlap, -1.0)
    owner = claims.argmax(1).astype(jnp.int32)
    owned = claimed & (owner[:, None] == jnp.arange(claims.shape[1], dtype=jnp.int32)[:, None])
    alignment = jnp.where(owned, alignment, 0.0)
    best = alignment.max(-1, keepdims=True)
    highest = jnp.where(owned, overlap, 0.0).max(-1, keepdims=True)
    quality = (alignment / jnp.where(best > 0, best, 1.0) * highest).max(1)
    given = jnp.take_along_axis(classes, owner, axis=1)
    return Assigned(
        jnp.take_along_axis(true_boxes, owner[..., None], axis=1),
        jnp.where(owned.any(1), given, -1),
        quality,
    )


def _largest(values: jax.Array, place: int) -> jax.Array:
    """The number at this place, 1 for the largest, among values [..., A] that are not negative: [..., 1].

    Equal ones have a place each, as in `jax.lax.top_k`, which sorts all of them on a CPU.
    """

    def next_one(_: int, least: jax.Array) -> jax.Array:
        enough = (values >= least).sum(-1, keepdims=True) >= place
        lower = jnp.where(values < least, values, -1.0).max(-1, keepdims=True)
        return jnp.where(enough, least, lower)

    return jax.lax.fori_loop(1, place, next_one, values.max(-1, keepdims=True))


def _lies_in(where: Places, boxes: jax.Array) -> jax.Array:
    """Which places lie in each box [B, N, 4], or in the cell around the center of a smaller one: bool [B, N, A]."""
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = jnp.maximum((boxes[..., 2:] - boxes[..., :2]) / 2, where.strides.min() / 2)
    away = jnp.abs(where.centers - center[..., None, :])
    return (away < half[..., None, :]).all(-1)


def detection(
    logits: jax.Array,
    distances: jax.Array,
    where: Places,
    true_boxes: jax.Array,
    true_classes: jax.Array,
    *,
    classes: str = "bce",
    box: str = "ciou",
) -> Parts:
    """The loss of each image from what a detector gives at its places, and the true boxes.

    The parts, all sums over the places of an image, divided by the sum of the qualities that are assigned to them (see
    :func:`assign`), or by 1 if it is less:

    - classes: cross-entropy of each class with the quality as its target at the places of the class and 0 elsewhere
      (``bce``); or the same with weights, at the places of the class the quality, elsewhere 3/4 times the squared
      probability (``varifocal``, Zhang et al. 2021, https://arxiv.org/abs/2008.13367).
    - box: 1 - CIoU (``ciou``, Zheng et al. 2020) or 1 - GIoU (``giou``, Rezatofighi et al. 2019), times the quality.
    - sides: the distribution focal loss, mean over the four sides, times the quality.

    Args:
        logits: [B, A, C].
        distances: logits [B, A, 4, bins] of the distances to the sides.
        where: the A places.
        true_boxes: float32 [B, N, 4].
        true_classes: int [B, N]; rows with -1 have no influence, whatever their box.
        classes: ``bce`` or ``varifocal``.
        box: ``ciou`` or ``giou``.

    Raises:
        UserError: there is no loss of that name.
    """
    check_name("class loss", classes, ("bce", "varifocal"))
    check_name("box loss", box, tuple(BOX_LOSSES))
    logits, true_boxes = logits.astype(jnp.float32), true_boxes.astype(jnp.float32)
    boxes = decoded(distances, where)
    scores = jax.nn.sigmoid(logits)
    fixed = jax.lax.stop_gradient((scores, boxes))
    assigned = assign(*fixed, where, true_boxes, true_classes)
    norm = jnp.maximum(assigned.quality.sum(-1), 1.0)
    ours = assigned.classes[..., None] == jnp.arange(logits.shape[-1], dtype=jnp.int32)
    target = jnp.where(ours, assigned.quality[..., None], 0.0)
    of_classes = optax.sigmoid_binary_cross_entropy(logits, target)
    if classes == "varifocal":
        of_classes *= jnp.where(ours, target, BACKGROUND * scores**FOCUS)
    of_boxes = assigned.quality * (1 - BOX_LOSSES[box](boxes, assigned.boxes))
    of_sides = assigned.quality * distribution_focal(distances, where, assigned.boxes)
    return Parts(of_classes.sum((1, 2)) / norm, of_boxes.sum(1) / norm, of_sides.sum(1) / norm)


def distribution_focal(distances: jax.Array, where: Places, boxes: jax.Array) -> jax.Array:
    """The distribution focal loss float32 [B, A], mean over the four sides (Li et al. 2020,
    https://arxiv.org/abs/2006.04388, equation 6).

    It is the cross-entropy of the distribution of a distance, logits [B, A, 4, bins], with the two bins next to the
    distance of the side of the box [B, A, 4], each by how near it is. A distance beyond the last bin counts as
    the last.
    """
    away = jnp.concatenate([where.centers - boxes[..., :2], boxes[..., 2:] - where.centers], -1)
    bins = distances.shape[-1]
    exact = jnp.clip(away / where.strides[:, None], 0.0, bins - 1)
    near = jnp.maximum(1 - jnp.abs(exact[..., None] - jnp.arange(bins, dtype=jnp.float32)), 0.0)
    return -(near * jax.nn.log_softmax(distances.astype(jnp.float32))).sum(-1).mean(-1)
