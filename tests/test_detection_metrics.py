"""Metrics of boxes against pycocotools, closed forms and a plain loop; batches of any size give the same figures."""

import contextlib
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxrec import metrics
from jaxrec.metrics import detection
from jaxrec.run.evaluation import plain

CLASSES = 3
AREAS = ("map_small", "map_medium", "map_large")


def images(seed, count=4, found=10, there=6):
    """Boxes on whole pixels, so that IoUs lie on the thresholds; scores with ties; many boxes nearly found."""
    rng = np.random.default_rng(seed)
    scale = rng.choice([10, 40, 150])
    low = rng.integers(0, scale, (count, there, 2))
    true_boxes = np.concatenate([low, low + rng.integers(1, scale, (count, there, 2))], -1).astype(np.float32)
    true_classes = rng.integers(-1, CLASSES, (count, there)).astype(np.int32)
    source = rng.integers(there, size=(count, found))
    boxes = np.take_along_axis(true_boxes, source[..., None], 1)
    boxes = boxes + rng.integers(-scale // 10, scale // 10 + 1, boxes.shape)
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 1)
    classes = np.take_along_axis(true_classes, source, 1)
    classes = np.where(rng.random(classes.shape) < 0.3, rng.integers(-1, CLASSES, classes.shape), classes)
    scores = np.round(rng.random((count, found)), 1).astype(np.float32)
    return boxes.astype(np.float32), scores, classes.astype(np.int32), true_boxes, true_classes


def of(arrays, real=None, **settings):
    settings = {"class_count": CLASSES, "interval": False, **settings}
    return metrics.Detections.from_batch(*map(jnp.asarray, arrays), real, **settings)


def as_rows(boxes, classes, **others):
    """What pycocotools reads: one row a box, with x, y, width and height."""
    rows = []
    for image, slot in np.argwhere(classes >= 0).tolist():
        y0, x0, y1, x1 = boxes[image, slot].tolist()
        row = {"image_id": image, "category_id": int(classes[image, slot]), "bbox": [x0, y0, x1 - x0, y1 - y0]}
        row |= {"id": len(rows) + 1, "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
        rows.append(row | {name: float(values[image, slot]) for name, values in others.items()})
    return rows


def by_pycocotools(boxes, scores, classes, true_boxes, true_classes):
    """Its figures by our names, nan where it says -1; and its precisions [T, R, K, A, M] and recalls [T, K, A, M]."""
    true = COCO()
    true.dataset = {
        "images": [{"id": number} for number in range(len(boxes))],
        "categories": [{"id": number} for number in range(CLASSES)],
        "annotations": as_rows(true_boxes, true_classes),
    }
    rows = as_rows(boxes, classes, score=scores)
    with contextlib.redirect_stdout(io.StringIO()):
        true.createIndex()
        evaluation = COCOeval(true, true.loadRes(rows) if rows else COCO(), "bbox")
        evaluation.params.imgIds, evaluation.params.catIds = list(range(len(boxes))), list(range(CLASSES))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("map", "map50", "map75", *AREAS, None, None, "mar")
    figures = dict(zip(names, evaluation.stats.tolist(), strict=False))
    figures.pop(None)
    precision, recall = evaluation.eval["precision"][..., -1], evaluation.eval["recall"][..., -1]
    figures["precision_at_recalls"] = precision[0, :, :, 0].T
    figures["ap50"] = precision[0, :, :, 0].mean(0)
    figures["ap"] = precision[:, :, :, 0].mean((0, 1))
    figures["recall"] = recall[0, :, 0]
    return {name: np.where(np.asarray(value) < 0, np.nan, value) for name, value in figures.items()}


def test_figures_are_those_of_pycocotools():
    """200 random sets of images, among them such of small, medium and large boxes, and classes without any."""
    undefined = 0
    for seed in range(200):
        arrays = images(seed)
        got = of(arrays).compute()
        for name, expected in by_pycocotools(*arrays).items():
            np.testing.assert_allclose(got[name], expected, rtol=0, atol=1e-6, err_msg=f"{name}, {seed}")
            undefined += np.isnan(expected).sum()
    assert undefined > 20


def test_only_the_first_hundred_of_a_class_in_an_image_count():
    boxes, scores, classes, true_boxes, true_classes = images(0, count=2, found=400)
    arrays = boxes, scores, np.where(classes < 0, 0, classes), true_boxes, true_classes
    assert (arrays[2] == 0).sum(1).max() > 100
    got, expected = of(arrays).compute(), by_pycocotools(*arrays)
    assert got["map"] == pytest.approx(expected["map"], abs=1e-6)
    assert got["mar"] == pytest.approx(expected["mar"], abs=1e-6)


def test_cutting_into_batches_changes_nothing():
    """Batches of 1, 3 and 6 images, each filled up with an image that must not count."""
    arrays, merged, start = images(3, count=10), None, 0
    make = jax.jit(lambda *parts: of(parts[:-1], parts[-1]))
    for size in (1, 3, 6):
        index = np.minimum(np.arange(start, start + 7), start + size - 1)
        real = np.arange(7) < size
        part = jax.device_get(make(*(values[index] for values in arrays), real))
        merged = part if merged is None else merged.merge(part)
        start += size
    whole = of(arrays).compute()
    got = merged.compute()
    assert got.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_perfect_none_and_only_false_ones():
    *_, true_boxes, true_classes = images(1)
    true_classes = np.where(true_classes == 2, 1, true_classes)  # a class that is never there
    scores = np.linspace(0.9, 0.6, true_classes.size, dtype=np.float32).reshape(true_classes.shape)
    perfect = of((true_boxes, scores, true_classes, true_boxes, true_classes), interval=True, voc=True).compute()
    for name in ("map", "map50", "map75", "mar", "map_low", "map50_high", "voc_map50"):
        assert perfect[name] == 1
    assert perfect["count_error_mean"] == 0
    assert (perfect["ap50"][:2] == 1).all() and np.isnan(perfect["ap50"][2])
    none = of((true_boxes, scores, np.full_like(true_classes, -1), true_boxes, true_classes), voc=True).compute()
    assert none["map"] == none["mar"] == none["voc_map50"] == 0
    np.testing.assert_allclose(
        none["count_error"][:2], [(true_classes == kind).sum(1).mean() for kind in (0, 1)], rtol=1e-12
    )
    for far in (1000, np.inf, np.nan):
        false = of((true_boxes + np.float32(far), scores, true_classes, true_boxes, true_classes), voc=True).compute()
        assert false["map50"] == false["mar"] == false["voc_map50"] == 0
        assert false["count_error_mean"] == 0


def test_without_true_boxes_precision_is_undefined_and_false_ones_are_counted():
    boxes, scores, classes, true_boxes, true_classes = images(2)
    got = of((boxes, scores, classes, true_boxes, np.full_like(true_classes, -1)), interval=True).compute()
    assert np.isnan(got["map"]) and np.isnan(got["map_low"]) and np.isnan(got["recall"]).all()
    found = got["counts"][got["counts"][:, 2] > 0]
    assert (found[:, 2] * found[:, 3]).sum() == ((classes >= 0) & (scores >= 0.5)).sum()


def test_counts_are_of_detections_from_a_score_on():
    """Two images of one class: 2 and 0 true boxes, 1 and 1 detections of at least .3; a difference of 1 each."""
    box = np.tile(np.array([0, 0, 4, 4], np.float32), (2, 2, 1))
    scores = np.array([[0.3, 0.2], [0.9, 0.1]], np.float32)
    true_classes = np.array([[0, 0], [-1, -1]], np.int32)
    arrays = box, scores, np.zeros((2, 2), np.int32), box, true_classes
    got = of(arrays, class_count=1, counted_from=0.3).compute()
    assert got["count_error"].tolist() == [1.0]
    assert got["counts"].tolist() == [[0, 0, 1, 1], [0, 2, 1, 1]]


def without_ties(arrays):
    """The same with scores of which no two are equal: the order of equal ones is a matter of the sorting routine."""
    scores = np.random.default_rng(0).permutation(arrays[1].size).reshape(arrays[1].shape) / arrays[1].size
    return arrays[0], scores.astype(np.float32), *arrays[2:]


def voc(boxes, scores, classes, true_boxes, true_classes, kind):
    """Pascal VOC's average precision, one detection after the other, with all points of the curve."""
    order = sorted(np.argwhere(classes == kind).tolist(), key=lambda place: -scores[tuple(place)])
    taken, hits = set(), []
    for image, slot in order:
        best, chosen = 0.0, None
        for other in np.flatnonzero(true_classes[image] == kind):
            a, b = boxes[image, slot], true_boxes[image, other]
            inside = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
            overlap = inside / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inside)
            if overlap > best:
                best, chosen = overlap, (image, other)
        hits.append(best >= 0.5 and chosen not in taken)
        if best >= 0.5:
            taken.add(chosen)
    hits = np.array(hits)
    recall = np.cumsum(hits) / (true_classes == kind).sum()
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    area = 0.0
    for place in range(len(hits)):
        area += (recall[place] - (recall[place - 1] if place else 0.0)) * precision[place:].max()
    return area


def test_voc_is_its_plain_loop():
    for seed in range(20):
        arrays = without_ties(images(seed))
        got = of(arrays, voc=True).compute()["voc_ap50"]
        for kind in range(CLASSES):
            if (arrays[4] == kind).any() and (arrays[2] == kind).any():
                assert got[kind] == pytest.approx(voc(*arrays, kind))


def test_the_interval_is_that_of_samples_evaluated_from_the_start():
    arrays = without_ties(images(8, count=12))
    got = of(arrays, interval=True).compute()
    means = []
    for draw in np.random.default_rng(0).integers(12, size=(200, 12)):
        sample = of([values[np.sort(draw)] for values in arrays]).compute()
        means.append((sample["map"], sample["map50"]))
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    np.testing.assert_allclose([got["map_low"], got["map50_low"]], low, atol=1e-12)
    np.testing.assert_allclose([got["map_high"], got["map50_high"]], high, atol=1e-12)
    assert low[0] < got["map"] < high[0]


def test_what_is_drawn_of_results_that_went_through_json():
    *others, true_classes = images(0)
    arrays = *others, np.where(true_classes == 1, -1, true_classes)
    results = of(arrays).compute()
    read = json.loads(json.dumps(plain(results)))
    pictures = detection.summary_pictures(read)
    curves = pictures["precision_recall"]["curves"]
    np.testing.assert_array_equal(curves, results["precision_at_recalls"])
    assert np.isnan(curves[1]).all() and np.isfinite(curves[0]).all()
    np.testing.assert_array_equal(pictures["counts"]["counts"], results["counts"])


def test_no_image_and_a_class_too_large_are_refused():
    arrays = images(0)
    with pytest.raises(ValueError, match="no examples"):
        of(arrays, np.zeros(5, bool)).compute()
    with pytest.raises(ValueError, match="class_count"):
        of(arrays, class_count=2).compute()
