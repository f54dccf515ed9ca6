"""Metrics against scikit-learn, scipy, closed forms and brute force; batches of any size give the same figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import sklearn.metrics
from scipy.special import softmax

from jaxrec import metrics

SPLITS = ((40,), (17, 23), (1, 8, 31))


def pad(x, size, filler):
    """x lengthened to ``size`` rows with what must not matter: nan, or the integer ``filler``."""
    filler = np.nan if np.issubdtype(x.dtype, np.floating) else filler
    return np.concatenate([x, np.full((size - len(x), *x.shape[1:]), filler, x.dtype)])


def in_batches(from_batch, arrays, split, *, host):
    """The merged metric of batches of the given sizes, all padded to 44 rows; on the device or on the host."""
    step = jax.jit(from_batch)
    merged, start = None, 0
    for size, filler in zip(split, (0, -1, 0), strict=False):
        part = [jnp.asarray(pad(x[start : start + size], 44, filler)) for x in arrays]
        metric = step(*part, real=jnp.arange(44) < size)
        metric = jax.device_get(metric) if host else metric
        merged = metric if merged is None else merged.merge(metric)
        start += size
    return merged.compute()


def assert_same(got, expected, rtol=1e-6):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=rtol, err_msg=name)


def scores(true, predicted, labels=None):
    """scikit-learn's precision, recall and F1, averaged as it does by default, and per class, by our names."""
    find, names = sklearn.metrics.precision_recall_fscore_support, ("precision", "recall", "f1")
    result = {}
    for average in ("macro", "micro", "weighted"):
        positive = labels if labels == [1] else None
        values = find(true, predicted, labels=positive, average=average, zero_division=0)
        result |= {f"{name}_{average}": value for name, value in zip(names, values, strict=False)}
    values = find(true, predicted, labels=labels, average=None, zero_division=np.nan)
    return result | dict(zip((*names, "support"), values, strict=True))


def classification_data(classes, skip=None):
    rng = np.random.default_rng(classes)
    label = rng.integers(classes, size=40).astype(np.int32)
    if skip is not None:
        label[label == skip] = 0
    logits = (rng.normal(size=(40, classes)) * 2).astype(np.float32)
    logits[np.arange(40), label] += 1
    return logits, label, rng.uniform(size=40).astype(np.float32)


def from_labelled(metric):
    return lambda logits, label, loss, real=None: metric.from_batch(logits, label, real, loss)


@pytest.mark.parametrize(("classes", "absent"), [(2, None), (3, 1), (7, None), (12, 4)])
def test_classification_matches_scikit_learn(classes, absent):
    logits, label, loss = classification_data(classes, absent)
    got = from_labelled(metrics.Classification)(*map(jnp.asarray, (logits, label, loss))).compute()
    predicted, labels = logits.argmax(axis=1), np.arange(classes)
    confusion = sklearn.metrics.confusion_matrix(label, predicted, labels=labels)
    with np.errstate(invalid="ignore"):
        per_class = confusion.diagonal() / confusion.sum(axis=1)
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        error += abs((predicted == label)[inside].sum() - confidence[inside].sum()) / 40
    expected = {
        "loss": loss.astype(np.float64).mean(),
        "accuracy": sklearn.metrics.accuracy_score(label, predicted),
        "calibration_error": error,
        "worst_class_accuracy": np.nanmin(per_class),
        "worst_class": np.nanargmin(per_class),
        "confusion": confusion,
        **scores(label, predicted, labels.tolist()),
    }
    assert expected["f1_micro"] == pytest.approx(expected["accuracy"])
    if classes > 5:
        expected["top5_accuracy"] = sklearn.metrics.top_k_accuracy_score(label, logits, k=5, labels=labels)
    assert_same(got, expected)


def test_a_class_absent_from_the_split_spoils_no_macro_average():
    """Nine examples of three of four classes, all right; then one of them is taken for the absent class."""
    label = np.repeat([0, 1, 3], 3)
    for predicted in (label, np.where(np.arange(9) == 0, 2, label)):
        logits = jnp.asarray(np.eye(4)[predicted], jnp.float32)
        got = metrics.Classification.from_batch(logits, jnp.asarray(label, jnp.int32), None, jnp.zeros(9)).compute()
        for name, value in scores(label, predicted, [0, 1, 2, 3]).items():
            np.testing.assert_allclose(got[name], value, err_msg=name)
        assert np.isnan(got["recall"][2]) and got["support"][2] == 0
        assert (got["f1_macro"] == 1) == (predicted is label)


def test_calibration_error_of_known_bins():
    """Ten examples at confidence .8, of which six are right, and ten at .6, all right: (|6 - 8| + |10 - 6|) / 20."""
    sure, unsure = np.log([0.8, 0.2]), np.log([0.6, 0.4])
    logits = jnp.asarray(np.concatenate([np.tile(sure, (10, 1)), np.tile(unsure, (10, 1))]), jnp.float32)
    label = jnp.array([0] * 6 + [1] * 4 + [0] * 10)
    got = metrics.Classification.from_batch(logits, label, None, jnp.zeros(20)).compute()
    assert got["calibration_error"] == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("classes", [1, 4])
def test_multi_label_matches_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(40, classes)).astype(np.float32)
    label = rng.integers(2, size=(40, classes)).astype(np.int32)
    label[:, classes // 2 + 1 :] = 0
    loss = rng.uniform(size=40).astype(np.float32)
    got = from_labelled(metrics.MultiLabel)(*map(jnp.asarray, (logits, label, loss))).compute()
    predicted = (logits > 0).astype(np.int32)
    expected = {
        "loss": loss.astype(np.float64).mean(),
        "label_accuracy": (predicted == label).mean(),
        "exact_match": sklearn.metrics.accuracy_score(label, predicted),
        **(scores(label, predicted) if classes > 1 else scores(label[:, 0], predicted[:, 0], [1])),
    }
    assert_same(got, expected)


def image_pair(shape=(40, 13, 15, 3)):
    rng = np.random.default_rng(7)
    target = rng.uniform(size=shape).astype(np.float32)
    strength = rng.uniform(0.05, 0.4, size=(len(target), 1, 1, 1))
    return np.clip(target + strength * rng.normal(size=shape), 0, 1).astype(np.float32), target


def multi_label_data():
    logits, _, loss = classification_data(4)
    return logits, (np.random.default_rng(8).uniform(size=logits.shape) < 0.4).astype(np.int32), loss


def pixel_data(absent=None, void=5, classes=5):
    """Logits, masks and losses of 40 images, a fifth of their pixels void; ``absent`` is in no mask."""
    rng = np.random.default_rng(9)
    mask = rng.integers(classes, size=(40, 6, 7)).astype(np.int32)
    if absent is not None:
        mask[mask == absent] = 0
    mask[rng.uniform(size=mask.shape) < 0.2] = void
    logits = rng.normal(size=(40, 6, 7, classes)).astype(np.float32)
    logits += 1.5 * (mask[..., None] == np.arange(classes))
    return logits, mask, rng.uniform(size=40).astype(np.float32)


def of_pixels(logits, mask, loss, real=None):
    return metrics.Pixels.from_batch(logits, mask, real, loss, void=5)


@pytest.mark.parametrize("absent", [None, 2])
def test_pixels_match_scikit_learn_and_a_direct_computation(absent):
    logits, mask, loss = pixel_data(absent)
    got = of_pixels(jnp.asarray(logits), jnp.asarray(mask, jnp.uint8), jnp.asarray(loss)).compute()
    counted = mask != 5
    true, predicted = mask[counted], logits.argmax(-1)[counted]
    labels = np.arange(5)
    iou = sklearn.metrics.jaccard_score(true, predicted, average=None, labels=labels)
    direct = [((true == c) & (predicted == c)).sum() / ((true == c) | (predicted == c)).sum() for c in labels]
    np.testing.assert_allclose(got["iou"], direct, rtol=1e-6)
    expected = {
        "loss": loss.astype(np.float64).mean(),
        "miou": sklearn.metrics.jaccard_score(true, predicted, average="macro", labels=labels),
        "pixel_accuracy": sklearn.metrics.accuracy_score(true, predicted),
        "dice": sklearn.metrics.f1_score(true, predicted, average="macro", labels=labels),
        "frequency_weighted_iou": sklearn.metrics.jaccard_score(true, predicted, average="weighted", labels=labels),
        "iou": iou,
        "confusion": sklearn.metrics.confusion_matrix(true, predicted, labels=labels),
    }
    assert_same(got, expected)
    assert got["confusion"].dtype == np.int64


def test_a_class_neither_true_nor_predicted_has_no_iou():
    """Of four pixels of class 0, three are found and one is taken for class 1; class 2 does not occur."""
    logits = np.eye(3, dtype=np.float32)[np.array([[[0, 0], [0, 1]]])]
    got = metrics.Pixels.from_batch(jnp.asarray(logits), jnp.zeros((1, 2, 2), jnp.int32), None, jnp.ones(1)).compute()
    np.testing.assert_array_equal(got["iou"], [0.75, 0, np.nan])
    assert got["miou"] == 0.375 and got["frequency_weighted_iou"] == 0.75
    assert got["dice"] == pytest.approx(6 / 7 / 2)


def test_void_may_be_one_of_the_classes():
    logits, mask, loss = map(jnp.asarray, pixel_data(void=0))
    got = metrics.Pixels.from_batch(logits, mask, None, loss, void=0).compute()
    assert (got["confusion"][0] == 0).all() and got["confusion"].sum() == (mask != 0).sum()


def test_pixels_of_a_split_pass_what_int32_holds():
    full = metrics.Pixels(confusion=np.full((2, 2), 2**30, np.int32), loss=np.float32(1), count=np.int32(1))
    merged = full.merge(full).merge(full).compute()
    assert merged["confusion"].sum() == 12 * 2**30 and merged["pixel_accuracy"] == 0.5


def test_a_batch_of_more_pixels_than_int32_counts_is_refused():
    shapes = [
        jax.ShapeDtypeStruct((2**13, 2**9, 2**9, *last), kind) for last, kind in (((2,), "float32"), ((), "uint8"))
    ]
    with pytest.raises(ValueError, match="pixels"):
        jax.eval_shape(lambda x, m: metrics.Pixels.from_batch(x, m, None, jnp.zeros(2**13)), *shapes)


METRICS = {
    "pixels": (of_pixels, pixel_data),
    "classification": (from_labelled(metrics.Classification), lambda: classification_data(7)),
    "multi-label": (from_labelled(metrics.MultiLabel), multi_label_data),
    "reconstruction": (metrics.Reconstruction.from_batch, image_pair),
    "average": (
        lambda a, b, real=None: metrics.Average.from_batch({"a": a, "b": b}, real),
        lambda: (np.arange(40, dtype=np.float32), np.linspace(-1, 2, 40, dtype=np.float32)),
    ),
}


@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize("name", METRICS)
def test_figures_do_not_depend_on_batches_or_padding(name, host):
    from_batch, data = METRICS[name]
    arrays = data()
    expected = from_batch(*map(jnp.asarray, arrays)).compute()
    for split in SPLITS:
        assert_same(in_batches(from_batch, arrays, split, host=host), expected, rtol=2e-6)


@pytest.mark.parametrize("name", METRICS)
def test_psum_merges_over_devices(name):
    from_batch, data = METRICS[name]
    arrays = [jnp.asarray(x) for x in data()]
    parts = [x.reshape(8, 5, *x.shape[1:]) for x in arrays]
    merged = jax.shard_map(
        lambda *part: jax.lax.psum(from_batch(*(x[0] for x in part)), "data"),
        mesh=jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=jax.sharding.PartitionSpec("data"),
        out_specs=jax.sharding.PartitionSpec(),
    )(*parts)
    assert_same(merged.compute(), from_batch(*arrays).compute(), rtol=2e-6)


def test_host_merge_is_wide():
    """Counts pass 2^31 and sums keep what float32 would drop."""
    metric = metrics.Average(totals={"a": np.float32(2**24)}, count=np.int32(2**31 - 1))
    one = metrics.Average(totals={"a": np.float32(1)}, count=np.int32(1))
    merged = metric.merge(one)
    assert merged.count == 2**31
    assert merged.totals["a"] == 2**24 + 1


@pytest.mark.parametrize("name", METRICS)
def test_no_examples_is_an_error(name):
    from_batch, data = METRICS[name]
    metric = from_batch(*map(jnp.asarray, data()), real=jnp.zeros(40, bool))
    with pytest.raises(ValueError, match="no examples"):
        metric.compute()


def test_the_worst_are_those_of_all_batches():
    loss = np.random.default_rng(0).integers(0, 40, 200).astype(np.float32)
    loss[[7, 150]] = np.nan, np.inf
    order = np.lexsort((np.arange(200), -np.nan_to_num(loss, nan=np.inf)))[:32]
    total = None
    for start in range(0, 210, 30):
        index = np.arange(start, start + 30)
        part = metrics.Worst.from_batch(jnp.asarray(loss[index % 200]), jnp.asarray(index % 200), index < 200)
        total = part if total is None else total.merge(jax.device_get(part))
    worst = total.compute()["worst"]
    np.testing.assert_array_equal(worst[:, 0], order)
    np.testing.assert_array_equal(worst[2:, 1], loss[order[2:]])
    few = metrics.Worst.from_batch(jnp.ones(4), jnp.arange(4), jnp.array([True, False, True, False]))
    np.testing.assert_array_equal(few.compute()["worst"], [[0, 1], [2, 1]])


def test_average():
    got = metrics.Average.from_batch(
        {"loss": jnp.array([1.0, 2.0, jnp.nan], jnp.bfloat16), "kl": jnp.array([3.0, 5.0, 7.0])},
        jnp.array([True, True, False]),
    )
    assert got.compute() == {"loss": 1.5, "kl": 4.0}


def reference_ssim(x, y, window):
    """Wang et al. 2004 of one channel in float64, by scipy."""
    taps = np.exp(-0.5 * ((np.arange(window) - window // 2) / 1.5) ** 2)
    kernel, edge = np.outer(taps, taps) / taps.sum() ** 2, window // 2

    def blur(z):
        full = scipy.ndimage.correlate(z, kernel, mode="constant")
        return full[edge : len(full) - edge, edge : full.shape[1] - edge]

    c1, c2 = 0.01**2, 0.03**2
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    return ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()


@pytest.mark.parametrize(
    ("shape", "window"), [((3, 13, 17, 3), 11), ((3, 11, 11, 1), 11), ((3, 8, 9, 1), 7), ((2, 1, 4, 1), 1)]
)
def test_ssim_matches_reference(shape, window):
    prediction, target = image_pair(shape)
    expected = [
        np.mean([reference_ssim(x[..., c], y[..., c], window) for c in range(shape[-1])])
        for x, y in zip(prediction.astype(np.float64), target.astype(np.float64), strict=True)
    ]
    got = jax.jit(metrics.ssim)(jnp.asarray(prediction), jnp.asarray(target))
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    np.testing.assert_allclose(metrics.ssim(jnp.asarray(target), jnp.asarray(target)), 1, rtol=1e-5)


def test_reconstruction():
    prediction, target = image_pair()
    got = metrics.Reconstruction.from_batch(jnp.asarray(prediction), jnp.asarray(target)).compute()
    errors = ((prediction.astype(np.float64) - target) ** 2).mean(axis=(1, 2, 3))
    expected = {
        "mse": errors.mean(),
        "psnr": -10 * np.log10(errors.mean()),
        "psnr_mean": (-10 * np.log10(errors)).mean(),
        "ssim": np.mean(metrics.ssim(jnp.asarray(prediction), jnp.asarray(target))),
    }
    assert_same(got, expected, rtol=1e-5)
    assert got["psnr_mean"] - got["psnr"] > 1
    same = metrics.Reconstruction.from_batch(jnp.asarray(target), jnp.asarray(target)).compute()
    assert_same(same, {"mse": 0, "psnr": 100, "psnr_mean": 100, "ssim": 1}, rtol=1e-5)


def features(size, dimension=6, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, dimension)) @ rng.normal(size=(dimension, dimension)) + shift


def test_frechet_distance_matches_sqrtm():
    a, b = features(60), features(50, shift=1.0, seed=1)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(
        cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real
    )
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert metrics.frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_diagonal_gaussians():
    """For diagonal covariances it is |m_a - m_b|^2 + |s_a - s_b|^2."""
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
    unit = corners / corners.std(axis=0, ddof=1)
    scale_a, scale_b, shift = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.5, 1.5]), np.array([0.1, -2.0, 1.0])
    got = metrics.frechet_distance(unit * scale_a, unit * scale_b + shift)
    assert got == pytest.approx((shift**2).sum() + ((scale_a - scale_b) ** 2).sum(), rel=1e-7)


@pytest.mark.parametrize(("size", "dimension"), [(50, 4), (5, 20), (10, 1)])
def test_frechet_distance_to_itself_is_zero(size, dimension):
    """Also where there are fewer samples than dimensions, so that the covariance is singular."""
    a = features(size, dimension)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_feature_distance_is_that_of_all_examples_however_they_are_cut():
    a, b = features(60, seed=1).astype(np.float32), features(60, shift=1.0, seed=2).astype(np.float32)
    a[50:] = np.nan
    real = np.arange(60) < 50
    parts = [
        metrics.FeatureDistance.from_batch(a[part], b[part], real[part], name="far")
        for part in (slice(0, 20), slice(20, 60))
    ]
    found = parts[0].merge(parts[1]).compute()
    assert found == {"far": pytest.approx(metrics.frechet_distance(a[:50], b[:50]), rel=1e-6)}
    one = metrics.FeatureDistance.from_batch(a[:1], b[:1], name="far").compute()
    assert one == {"far": pytest.approx(float(((a[0] - b[0]) ** 2).sum()), rel=1e-5)}
    with pytest.raises(ValueError, match="no examples"):
        metrics.FeatureDistance.from_batch(a[:3], b[:3], np.zeros(3, bool), name="far").compute()


def test_kernel_distance_matches_brute_force():
    a, b = features(9), features(7, shift=0.5, seed=1)

    def kernel(x, y):
        return (x @ y / len(x) + 1) ** 3

    def within(x):
        return np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])

    expected = within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert metrics.kernel_distance(a, b, block=4) == pytest.approx(expected, rel=1e-10)


def brute_coverage(real, fake, k):
    def radius(points, i):
        return sorted(np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i)[k - 1]

    n, m = len(real), len(fake)
    distance = [[np.linalg.norm(r - f) for f in fake] for r in real]
    in_real = [[distance[i][j] <= radius(real, i) for j in range(m)] for i in range(n)]
    in_fake = [[distance[i][j] <= radius(fake, j) for j in range(m)] for i in range(n)]
    return {
        "precision": sum(any(in_real[i][j] for i in range(n)) for j in range(m)) / m,
        "recall": sum(any(row) for row in in_fake) / n,
        "density": sum(map(sum, in_real)) / (k * m),
        "coverage": sum(any(row) for row in in_real) / n,
    }


@pytest.mark.parametrize(("k", "shift"), [(1, 0.5), (3, 1.0), (5, 100.0)])
def test_coverage_statistics_match_brute_force(k, shift):
    rng = np.random.default_rng(11)
    real, fake = rng.normal(size=(14, 2)) + 3, rng.normal(size=(11, 2)) * 0.7 + 3 + shift
    got = metrics.coverage_statistics(real, fake, k, block=5)
    assert got == pytest.approx(brute_coverage(real, fake, k))
    assert (max(got.values()) == 0) == (shift == 100)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.frechet_distance(np.zeros((4, 3)), np.zeros((4, 2))), "shapes"),
        (lambda: metrics.frechet_distance(np.zeros((1, 3)), np.zeros((4, 3))), "at least 2"),
        (lambda: metrics.kernel_distance(np.full((4, 3), np.nan), np.zeros((4, 3))), "nan"),
        (lambda: metrics.coverage_statistics(np.zeros((9, 3)), np.zeros((5, 3))), "more points than k"),
        (lambda: metrics.class_statistics(np.zeros((0, 3))), "N at least 1"),
    ],
)
def test_wrong_features_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_class_statistics():
    """200 samples of 4 classes: 100, 96 and 4 are predicted; a mode needs 200 / 40 = 5."""
    predicted = np.repeat([0, 1, 2], [100, 96, 4])
    probabilities = np.full((200, 4), 0.1)
    probabilities[np.arange(200), predicted] = 0.7
    got = metrics.class_statistics(probabilities, np.repeat([0, 1], [150, 50]))
    shares = np.array([0.5, 0.48, 0.02])
    assert got == pytest.approx(
        {
            "modes": 2,
            "class_entropy": -(shares * np.log(shares)).sum(),
            "kl_to_uniform": (shares * np.log(shares / 0.25)).sum(),
            "class_consistency": 0.75 - 0.02,
        }
    )
    few = metrics.class_statistics(np.eye(10)[[3, 3, 7]])
    entropy = np.log(3) - 2 / 3 * np.log(2)
    assert few == pytest.approx({"modes": 2, "class_entropy": entropy, "kl_to_uniform": np.log(10) - entropy})
