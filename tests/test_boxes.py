"""Overlaps of boxes against closed forms, and the choice among boxes against a plain greedy loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from jaxrec import boxes

SQUARE = np.array([0, 0, 2, 2], np.float32)
POINT, LINE = (3, 3, 3, 3), (1, 1, 1, 5)


def random_boxes(rng, count):
    """Boxes that crowd: most overlap others."""
    low = rng.uniform(0, 8, (count, 2))
    return np.concatenate([low, low + rng.uniform(3, 9, (count, 2))], 1).astype(np.float32)


def plain_iou(a, b):
    inside = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


@pytest.mark.parametrize(
    ("other", "iou", "giou", "ciou"),
    [
        ([0, 0, 2, 2], 1, 1, 1),
        # A quarter of each is shared: 1 of 7; both lie in 3 x 3; centers 2 of 18 apart.
        ([1, 1, 3, 3], 1 / 7, 1 / 7 - 2 / 9, 1 / 7 - 2 / 18),
        # Apart, in a box of 2 x 6.
        ([0, 4, 2, 6], 0, -4 / 12, -16 / 40),
    ],
)
def test_overlaps_of_known_boxes(other, iou, giou, ciou):
    other = jnp.array(other, jnp.float32)
    assert float(boxes.iou(SQUARE, other)) == pytest.approx(iou)
    assert float(boxes.giou(SQUARE, other)) == pytest.approx(giou)
    assert float(boxes.ciou(SQUARE, other)) == pytest.approx(ciou)


def test_ciou_counts_a_differing_shape():
    """Boxes of 2 x 2 and 2 x 4 about one center: v is (45 - 63.43 degrees) squared, scaled."""
    shape = 4 / np.pi**2 * (np.arctan(1) - np.arctan(2)) ** 2
    expected = 0.5 - shape**2 / (0.5 + shape)
    assert float(boxes.ciou(SQUARE, np.array([0, -1, 2, 3], np.float32))) == pytest.approx(expected)


def test_pairs_of_all_boxes_are_the_paired_ones():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 5), random_boxes(rng, 7)
    got = jax.jit(boxes.pairwise_iou)(np.stack([a, a]), np.stack([b, b]))
    assert got.shape == (2, 5, 7) and got.dtype == jnp.float32
    np.testing.assert_allclose(got[1], [[plain_iou(one, two) for two in b] for one in a], rtol=1e-5)
    np.testing.assert_allclose(boxes.area(b), (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]), rtol=1e-5)


@pytest.mark.parametrize("measure", [boxes.iou, boxes.giou, boxes.ciou])
def test_empty_boxes_have_finite_overlaps_and_gradients(measure):
    """Points, lines and boxes turned inside out, also with themselves; identical boxes."""
    odd = np.array([POINT, LINE, [0, 0, 0, 0], [4, 4, 1, 1], SQUARE], np.float32)

    @jax.jit
    def value_and_gradients(one, other):
        value, pull = jax.vjp(measure, one, other)
        return value, pull(jnp.ones_like(value))

    value, gradients = value_and_gradients(*np.broadcast_arrays(odd[:, None], odd[None, :]))
    assert np.isfinite(value).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_boxes_apart_move_together():
    """A step along the gradient of GIoU and CIoU, where that of IoU is 0."""
    far = np.array([10, 10, 12, 12], np.float32)

    @jax.jit
    def before_and_after(far):
        measures = (boxes.iou, boxes.giou, boxes.ciou)
        return jnp.array([[each(far, SQUARE), each(far + jax.grad(each)(far, SQUARE), SQUARE)] for each in measures])

    (before, after), *others = before_and_after(far)
    assert before == after == 0
    assert all(after > before for before, after in others)


def greedy(candidates, scores, overlap, least, most):
    """Rows (score, class, box) that plain non-maximum suppression keeps, one class after the other."""
    kept, candidates = [], candidates.tolist()
    for kind in range(scores.shape[1]):
        chosen = []
        for place in np.argsort(-scores[:, kind], kind="stable"):
            apart = all(plain_iou(candidates[place], candidates[other]) <= overlap for other in chosen)
            if scores[place, kind] > least and apart:
                chosen.append(place)
        kept += [(scores[place, kind], kind, candidates[place]) for place in chosen]
    return sorted(kept, key=lambda row: -row[0])[:most]


def gradual(candidates, scores, sigma, least, most):
    """The same of soft suppression."""
    kept, candidates = [], candidates.tolist()
    for kind in range(scores.shape[1]):
        left = {place: float(scores[place, kind]) for place in range(len(scores))}
        while left:
            best = max(left, key=lambda place: left[place])
            score = left.pop(best)
            if score > least:
                kept.append((score, kind, candidates[best]))
            for place in left:
                left[place] *= np.exp(-(plain_iou(candidates[best], candidates[place]) ** 2) / sigma)
    return sorted(kept, key=lambda row: -row[0])[:most]


def crowds(cases, count, classes):
    rng = np.random.default_rng(1)
    found = np.stack([random_boxes(rng, count) for _ in range(cases)])
    return found, rng.random((cases, count, classes)).astype(np.float32)


@pytest.mark.parametrize(
    ("choose", "reference", "setting"),
    [(boxes.nms, greedy, {"overlap": 0.3}), (boxes.soft_nms, gradual, {"sigma": 0.5})],
)
def test_suppression_is_the_plain_loop(choose, reference, setting):
    """Batched and compiled, on 20 crowds; of each, some boxes lie below the least score."""
    candidates, scores = crowds(20, 30, 3)
    got = jax.device_get(jax.jit(partial(choose, score=0.6, most=25, **setting))(candidates, scores))
    assert [values.dtype for values in got] == [jnp.float32, jnp.float32, jnp.int32]
    dropped = 0
    for case in range(len(candidates)):
        expected = reference(candidates[case], scores[case], *setting.values(), 0.6, 25)
        count = len(expected)
        dropped += count < 25
        np.testing.assert_allclose(got.scores[case, :count], [row[0] for row in expected], rtol=1e-5)
        np.testing.assert_array_equal(got.classes[case, :count], [row[1] for row in expected])
        np.testing.assert_array_equal(got.boxes[case, :count], [row[2] for row in expected])
        assert (got.classes[case, count:] == -1).all() and (got.scores[case, count:] == 0).all()
        assert (got.boxes[case, count:] == 0).all()
    assert dropped > 0


def test_a_chain_of_boxes_is_suppressed_as_the_loop_does():
    """Each of 12 boxes overlaps its neighbors alone: every second one stays, which takes as many rounds."""
    place = np.arange(12)[:, None]
    chain = np.concatenate([0 * place, place, 0 * place + 1, place + 1.9], 1)
    scores = np.linspace(0.9, 0.1, 12)[:, None]
    found = jax.jit(partial(boxes.nms, overlap=0.2, most=20))(chain, scores)
    np.testing.assert_array_equal(found.boxes[:6, 1], np.arange(0, 12, 2))
    assert found.classes.tolist() == [0] * 6 + [-1] * 14


def test_only_so_many_candidates_are_looked_at():
    candidates, scores = crowds(1, 30, 2)
    few = jax.jit(partial(boxes.nms, overlap=1.0, candidates=7, most=10))(candidates[0], scores[0])
    best = np.sort(scores[0].ravel())[::-1][:7]
    np.testing.assert_array_equal(few.scores, np.append(best, [0, 0, 0]))


@pytest.mark.parametrize("choose", [boxes.nms, boxes.soft_nms])
def test_no_box_at_all(choose):
    found = jax.jit(partial(choose, most=4))(jnp.zeros((2, 5, 4)), jnp.zeros((2, 5, 3)))
    assert (found.classes == -1).all() and found.boxes.shape == (2, 4, 4)


def test_right_boxes_and_found_ones():
    """The first detection takes the better of two; the second finds its own taken; the third is of another class."""
    true_boxes = np.array([[0, 0, 10, 10], [0, 4, 10, 14], [50, 50, 60, 60], [0, 0, 10, 10]], np.float32)
    true_classes = np.array([0, 0, 1, -1], np.int32)
    boxes_found = np.array([[0, 1, 10, 11], [0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 0, 0]], np.float32)
    found = boxes.Found(boxes_found, np.linspace(0.9, 0, 4), np.array([0, 0, 0, -1], np.int32))
    both = jax.tree.map(lambda a: np.stack([a, a]), (found, true_boxes, true_classes))
    right, met = jax.jit(partial(boxes.matches, overlap=0.3))(*both)
    assert right.tolist() == [[True, True, False, False]] * 2
    assert met.tolist() == [[True, True, False, False]] * 2
    right, met = boxes.matches(found, true_boxes, true_classes, overlap=0.7)
    assert right.tolist() == [True, False, False, False]
    assert met.tolist() == [True, False, False, False]


@pytest.mark.parametrize("choose", [boxes.nms, boxes.soft_nms])
def test_choosing_divides_over_devices(choose):
    """Under ``shard_map``, with its check of what differs between devices, and matched to true boxes as well."""
    candidates, scores = crowds(8, 12, 2)
    true_boxes, true_classes = candidates[:, :3], np.array([[0, 1, -1]] * 8, np.int32)

    def chosen(candidates, scores, true_boxes, true_classes):
        found = choose(candidates, scores, score=0.5, most=6)
        return found, boxes.matches(found, true_boxes, true_classes)

    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    divided = jax.shard_map(chosen, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
    arrays = candidates, scores, true_boxes, true_classes
    jax.tree.map(np.testing.assert_array_equal, jax.jit(divided)(*arrays), jax.jit(chosen)(*arrays))
