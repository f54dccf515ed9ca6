"""The detector's assignment, losses, places and boxes, against plain loops and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.errors import UserError
from jaxrec.losses.detection import assign, detection, distribution_focal
from jaxrec.models.detector import Detector, bins_needed, decoded, places, smallest_stride

SIZE, STRIDES, CLASSES, BINS = (32, 48), (4, 8, 16), 3, 8
WHERE = places(SIZE, STRIDES)
COUNT = len(WHERE.strides)
TRUE_BOXES = np.array(
    [
        [[2, 3, 20, 25], [5, 10, 22, 30], [9, 41, 11, 43], [0, 0, 0, 0]],
        [[0, 0, 32, 48], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0]] * 4,
    ],
    np.float32,
)
TRUE_CLASSES = np.array([[0, 2, 1, -1], [1, -1, -1, -1], [-1] * 4], np.int32)


def predictions(seed=0):
    keys = jax.random.split(jax.random.key(seed))
    shape = (len(TRUE_BOXES), COUNT)
    logits = jax.random.normal(keys[0], (*shape, CLASSES)) - 2
    return logits, jax.random.normal(keys[1], (*shape, 4, BINS))


def overlap(a, b):
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return sides.prod() / (sum(areas) - sides.prod())


def assigned_by_loops(scores, boxes, true_boxes, true_classes, alpha, beta, most):
    """Task alignment as the paper tells it, of one image: class and quality of each place, and its true box."""
    centers, classes = np.asarray(WHERE.centers), np.full(COUNT, -1)
    quality, given, best_claim = np.zeros(COUNT), np.zeros((COUNT, 4)), np.full(COUNT, -1.0)
    owner = np.full(COUNT, -1)
    alignments = {}
    for n, (true, label) in enumerate(zip(true_boxes, true_classes, strict=True)):
        if label < 0:
            continue
        half = np.maximum((true[2:] - true[:2]) / 2, STRIDES[0] / 2)
        near = [a for a in range(COUNT) if (np.abs(centers[a] - (true[:2] + true[2:]) / 2) < half).all()]
        aligned = {a: scores[a, label] ** alpha * overlap(boxes[a], true) ** beta for a in near}
        chosen = sorted((a for a in near if aligned[a] > 0), key=lambda a: -aligned[a])[:most]
        alignments[n] = aligned
        for a in chosen:
            claim = overlap(boxes[a], true)
            if claim > best_claim[a]:
                best_claim[a], owner[a] = claim, n
    for n in alignments:
        ours = np.flatnonzero(owner == n)
        if not len(ours):
            continue
        largest = max(alignments[n][a] for a in ours)
        highest = max(overlap(boxes[a], true_boxes[n]) for a in ours)
        for a in ours:
            classes[a], given[a] = true_classes[n], true_boxes[n]
            quality[a] = alignments[n][a] / largest * highest
    return classes, quality, given


def plain_box_loss(found, true, name):
    """1 - GIoU (Rezatofighi et al. 2019) or 1 - CIoU (Zheng et al. 2020) of two boxes."""
    shared = overlap(found, true)
    outer = np.concatenate([np.minimum(found[:2], true[:2]), np.maximum(found[2:], true[2:])])
    sides, true_sides, outer_sides = found[2:] - found[:2], true[2:] - true[:2], outer[2:] - outer[:2]
    if name == "giou":
        union = (sides.prod() + true_sides.prod()) / (1 + shared)
        return 1 - shared + (outer_sides.prod() - union) / outer_sides.prod()
    away = (((found[:2] + found[2:] - true[:2] - true[2:]) / 2) ** 2).sum() / (outer_sides**2).sum()
    shape = 4 / np.pi**2 * (np.arctan2(true_sides[1], true_sides[0]) - np.arctan2(sides[1], sides[0])) ** 2
    return 1 - shared + away + shape**2 / (1 - shared + shape)


@pytest.mark.parametrize(("classes", "box"), [("bce", "ciou"), ("varifocal", "giou")])
def test_the_loss_equals_plain_loops(classes, box):
    logits, distances = predictions(3)
    # Distances near the first bins, so that boxes overlap the true ones neither fully nor not at all.
    distances = distances - 0.5 * jnp.arange(float(BINS))
    got = detection(logits, distances, WHERE, TRUE_BOXES, TRUE_CLASSES, classes=classes, box=box)
    p = np.asarray(jax.nn.sigmoid(logits), np.float64)
    boxes = np.asarray(decoded(distances, WHERE), np.float64)
    log_p_bins = np.asarray(jax.nn.log_softmax(distances), np.float64)
    centers, strides = np.asarray(WHERE.centers, np.float64), np.asarray(WHERE.strides, np.float64)
    for b in range(2):
        label, quality, given = assigned_by_loops(p[b], boxes[b], TRUE_BOXES[b], TRUE_CLASSES[b], 0.5, 6.0, 10)
        of_classes = of_boxes = of_sides = 0.0
        for a in range(COUNT):
            for k in range(CLASSES):
                ours = label[a] == k
                q = quality[a] if ours else 0.0
                entropy = -q * np.log(p[b, a, k]) - (1 - q) * np.log(1 - p[b, a, k])
                weight = 1.0 if classes == "bce" else (q if ours else 0.75 * p[b, a, k] ** 2)
                of_classes += weight * entropy
            if label[a] < 0:
                continue
            of_boxes += quality[a] * plain_box_loss(boxes[b, a], given[a], box)
            away = np.concatenate([centers[a] - given[a, :2], given[a, 2:] - centers[a]]) / strides[a]
            for side, distance in enumerate(away.clip(0, BINS - 1)):
                low = min(int(distance), BINS - 2)
                share = distance - low
                entropy = -(1 - share) * log_p_bins[b, a, side, low] - share * log_p_bins[b, a, side, low + 1]
                of_sides += quality[a] * entropy / 4
        norm = max(quality.sum(), 1.0)
        np.testing.assert_allclose(got.classes[b], of_classes / norm, rtol=1e-4)
        np.testing.assert_allclose(got.box[b], of_boxes / norm, rtol=1e-4)
        np.testing.assert_allclose(got.sides[b], of_sides / norm, rtol=1e-4)
        assert quality.sum() > 1 or b == 1


def test_what_a_place_is_to_predict_is_a_constant_to_the_gradient():
    """The gradient of the loss of the classes is that of cross-entropy with the assigned qualities held."""
    logits, distances = predictions(3)
    boxes = decoded(distances, WHERE)
    held = assign(jax.nn.sigmoid(logits), boxes, WHERE, TRUE_BOXES, TRUE_CLASSES)
    norm = np.maximum(np.asarray(held.quality).sum(-1), 1.0)[:, None, None]
    target = np.asarray(held.quality)[..., None] * (np.asarray(held.classes)[..., None] == np.arange(CLASSES))
    slope = jax.grad(lambda z: detection(z, distances, WHERE, TRUE_BOXES, TRUE_CLASSES).classes.sum())(logits)
    np.testing.assert_allclose(slope, (jax.nn.sigmoid(logits) - target) / norm, atol=1e-6)


@pytest.mark.parametrize(("size", "bins"), [((240, 320), 8), ((416, 416), 8), ((640, 640), 12), ((64, 2048), 34)])
def test_a_box_around_the_whole_image_can_be_told(size, bins):
    """From a cell half a cell off the center, each side is within reach of the coarsest cells."""
    assert bins_needed(*size, stride=8) == bins
    assert (bins - 1) * 32 >= max(size) / 2 + 16


@pytest.mark.parametrize(("alpha", "beta", "most"), [(0.5, 6.0, 10), (1.0, 2.0, 3)])
def test_assignment_equals_plain_loops(alpha, beta, most):
    logits, distances = predictions()
    scores, boxes = jax.nn.sigmoid(logits), decoded(distances, WHERE)
    found = jax.jit(assign, static_argnames=("alpha", "beta", "most"))(
        scores, boxes, WHERE, TRUE_BOXES, TRUE_CLASSES, alpha=alpha, beta=beta, most=most
    )
    assert (found.classes[0] >= 0).sum() > most and set(np.unique(found.classes[0])) == {-1, 0, 1, 2}
    assert (found.classes[2] == -1).all() and not found.quality[2].any()
    for i in range(len(TRUE_BOXES)):
        classes, quality, given = assigned_by_loops(
            np.asarray(scores[i], np.float64), np.asarray(boxes[i]), TRUE_BOXES[i], TRUE_CLASSES[i], alpha, beta, most
        )
        np.testing.assert_array_equal(found.classes[i], classes)
        np.testing.assert_allclose(found.quality[i], quality, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(np.asarray(found.boxes[i])[classes >= 0], given[classes >= 0])


@pytest.mark.parametrize("classes", ["bce", "varifocal"])
def test_padding_has_no_influence_and_images_without_boxes_have_a_finite_gradient(classes):
    @jax.jit
    def value_and_slope(predicted, true_boxes, true_classes):
        def total(predicted):
            parts = detection(*predicted, WHERE, true_boxes, true_classes, classes=classes, box="giou")
            return parts.total(0.5, 7.5, 1.5).sum(), parts

        return jax.grad(total, has_aux=True)(predicted)

    slope, parts = value_and_slope(predictions(), TRUE_BOXES, TRUE_CLASSES)
    rubbish = np.random.default_rng(0).uniform(0, 40, (3, 5, 4)).astype(np.float32)
    padded = np.concatenate([rubbish, TRUE_BOXES], 1), np.concatenate([np.full((3, 5), -1), TRUE_CLASSES], 1)
    again, parts_again = value_and_slope(predictions(), *padded)
    for a, b in zip(jax.tree.leaves((slope, parts)), jax.tree.leaves((again, parts_again)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    assert parts.box[2] == parts.sides[2] == 0 and parts.classes[2] > 0
    # Nobody asks anything of the boxes of an image that has none.
    assert not slope[1][2].any() and slope[1][0].any()


def test_without_boxes_the_loss_is_that_of_background():
    logits, distances = predictions()
    empty = detection(logits, distances, WHERE, TRUE_BOXES, np.full_like(TRUE_CLASSES, -1))
    np.testing.assert_allclose(empty.classes, jnp.log1p(jnp.exp(logits)).sum((1, 2)), rtol=1e-5)
    varied = detection(logits, distances, WHERE, TRUE_BOXES, np.full_like(TRUE_CLASSES, -1), classes="varifocal")
    expected = (0.75 * jax.nn.sigmoid(logits) ** 2 * jnp.log1p(jnp.exp(logits))).sum((1, 2))
    np.testing.assert_allclose(varied.classes, expected, rtol=1e-5)


def test_a_distribution_at_the_true_distances_has_no_more_loss_than_its_entropy():
    """Each side's distance lies between two bins: probability by nearness decodes to it, and is the best there is."""
    boxes = jnp.stack([WHERE.centers - 2.25 * 4, WHERE.centers + 1.5 * 4], 1).reshape(1, COUNT, 4)[:, :20]
    where = jax.tree.map(lambda x: x[:20], WHERE)
    exact = jnp.array([2.25, 2.25, 1.5, 1.5])
    near = jnp.maximum(1 - jnp.abs(exact[:, None] - jnp.arange(float(BINS))), 0)
    logits = jnp.broadcast_to(jnp.log(near + 1e-12), (1, 20, 4, BINS))
    np.testing.assert_allclose(decoded(logits, where), boxes, atol=1e-3)
    entropy = -(near * jnp.log(near + 1e-12)).sum(-1).mean()
    np.testing.assert_allclose(distribution_focal(logits, where, boxes), jnp.full((1, 20), entropy), rtol=1e-5)
    assert (distribution_focal(logits + jnp.linspace(0, 1, BINS), where, boxes) > entropy).all()


def test_a_loss_of_another_name_is_named():
    for option in ({"classes": "hinge"}, {"box": "hinge"}):
        with pytest.raises(UserError, match="hinge"):
            detection(*predictions(), WHERE, TRUE_BOXES, TRUE_CLASSES, **option)


@pytest.mark.parametrize(
    ("size", "stride"), [((8, 8), 2), ((63, 200), 2), ((64, 64), 4), ((120, 160), 4), ((128, 128), 8)]
)
def test_the_stride_follows_from_the_size(size, stride):
    assert smallest_stride(*size) == stride


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_the_network_gives_as_many_outputs_as_there_are_places_of_any_size(size):
    network = Detector(classes=CLASSES, width=4, stride=4)
    images = jnp.zeros((1, *size, 1))
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    logits, distances = jax.eval_shape(network.apply, variables, images)
    where = places(size, network.strides)
    assert logits.shape == (1, len(where.strides), CLASSES) and distances.shape == (1, len(where.strides), 4, 8)
    rows = -(-size[0] // 16) * 4
    np.testing.assert_array_equal(where.centers[:2], [[2, 2], [2, 6]])
    assert np.asarray(where.centers)[where.strides == 4, 0].max() == 4 * rows - 2


def test_the_default_network_is_small():
    for stride in (4, 8):
        network = Detector(classes=10, stride=stride)
        variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        assert 300_000 < sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) < 500_000


def test_places_that_are_as_good_as_the_last_are_claimed_too():
    where = places((32, 32), (4, 8, 16))
    true_boxes, true_classes = jnp.array([[[0.0, 0.0, 32.0, 32.0]]]), jnp.zeros((1, 1), jnp.int32)
    count = len(where.strides)
    scores = jnp.full((1, count, 1), 0.1).at[0, :9].set(0.5).at[0, 0].set(0.9)
    boxes = jnp.broadcast_to(true_boxes, (1, count, 4))
    claimed = {}
    for most in (1, 2, 5, 9, 10):
        found = assign(scores, boxes, where, true_boxes, true_classes, most=most)
        claimed[most] = int((found.classes >= 0).sum())
    assert claimed == {1: 1, 2: 9, 5: 9, 9: 9, 10: count}
