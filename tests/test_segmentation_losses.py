"""Losses of a class per pixel against optax, scikit-learn and direct computations in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, softmax
from sklearn.utils.class_weight import compute_class_weight

from jaxrec import losses
from jaxrec.errors import UserError
from jaxrec.losses.segmentation import OHEM_SHARE, OHEM_THRESHOLD

CLASSES, VOID = 4, 4
WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0], np.float32)
ALL = (*losses.SEGMENTATION_LOSSES, "cross-entropy+dice", "ohem+dice")


def example(seed=0, batch=3, size=(9, 7), void=VOID, spread=2.0):
    rng = np.random.default_rng(seed)
    logits = (spread * rng.normal(size=(batch, *size, CLASSES))).astype(np.float32)
    mask = rng.integers(0, CLASSES, (batch, *size)).astype(np.uint8)
    mask[rng.uniform(size=mask.shape) < 0.2] = void
    return logits, mask


def segmentation(logits, mask, **options):
    return jax.jit(functools.partial(losses.segmentation, **options))(jnp.asarray(logits), jnp.asarray(mask))


def pixelwise(logits, mask, of_pixel):
    """The mean over each image's pixels that are not void of ``of_pixel(log p of the true class, class)``."""
    log_p = log_softmax(logits.astype(np.float64), -1)
    means = []
    for log_p_image, mask_image in zip(log_p, mask, strict=True):
        real = mask_image != VOID
        true = mask_image[real]
        means.append(of_pixel(log_p_image[real][np.arange(len(true)), true], true).mean())
    return np.array(means)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_optaxs_over_the_pixels_that_are_not_void(weighted, dtype):
    logits, mask = example()
    logits = np.asarray(jnp.asarray(logits, dtype), np.float32)
    true = mask.clip(0, CLASSES - 1).astype(np.int32)
    per_pixel = np.asarray(optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), true))
    weight = np.append(WEIGHTS if weighted else np.ones(CLASSES), 0)[mask]
    expected = (per_pixel * weight).sum((1, 2)) / (mask != VOID).sum((1, 2))
    weights = jnp.asarray(WEIGHTS) if weighted else None
    got = segmentation(jnp.asarray(logits, dtype), mask, loss="cross-entropy", weights=weights, void=VOID)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_focal_weighs_pixels_down_that_are_right():
    logits, mask = example()
    expected = pixelwise(logits, mask, lambda log_p, true: -WEIGHTS[true] * (1 - np.exp(log_p)) ** 2 * log_p)
    got = segmentation(logits, mask, loss="focal", weights=jnp.asarray(WEIGHTS), void=VOID)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.5, 8.0])
def test_ohem_keeps_hard_pixels_and_at_least_its_share(spread):
    logits, mask = example(size=(19, 23), spread=spread)
    if spread > 1:  # nearly all pixels easy, so that the share decides
        logits += 30 * (mask[..., None] == np.arange(CLASSES))

    def kept(log_p, true):
        value = -log_p
        least = int(np.ceil(OHEM_SHARE * len(value)))
        hard = np.exp(log_p) <= OHEM_THRESHOLD
        if hard.sum() < least:
            return np.sort(value)[-least:]
        return value[hard]

    got = segmentation(logits, mask, loss="ohem", void=VOID)
    np.testing.assert_allclose(got, pixelwise(logits, mask, kept), rtol=1e-4, atol=1e-9)


def test_dice_is_the_mean_over_the_classes_shown():
    logits, mask = example()
    mask[0][mask[0] == 2] = 1
    p = softmax(logits.astype(np.float64), -1)
    expected = []
    for p_image, mask_image in zip(p, mask, strict=True):
        real = mask_image != VOID
        shown = np.unique(mask_image[real])
        dice = [
            2 * p_image[mask_image == c, c].sum() / (p_image[real][:, c].sum() + (mask_image == c).sum()) for c in shown
        ]
        expected.append(1 - np.mean(dice))
    np.testing.assert_allclose(segmentation(logits, mask, loss="dice", void=VOID), expected, rtol=1e-5)


def test_dice_of_certain_predictions_is_that_of_sets():
    _, mask = example()
    predicted = np.roll(mask, 1, 2).clip(0, CLASSES - 1)
    logits = np.where(predicted[..., None] == np.arange(CLASSES), 60.0, 0.0).astype(np.float32)
    real = mask != VOID
    scores = []
    for i in range(len(mask)):
        hits = [((predicted == c) & (mask == c))[i].sum() for c in range(CLASSES)]
        sizes = [((predicted == c) & real)[i].sum() + (mask == c)[i].sum() for c in range(CLASSES)]
        scores.append(1 - np.mean(2 * np.array(hits) / np.array(sizes)))
    np.testing.assert_allclose(segmentation(logits, mask, loss="dice", void=VOID), scores, rtol=1e-5)


@pytest.mark.parametrize("loss", ["cross-entropy+dice", "ohem+dice", "dice+focal+cross-entropy"])
def test_combinations_are_sums(loss):
    logits, mask = example()
    parts = [segmentation(logits, mask, loss=part, void=VOID) for part in loss.split("+")]
    np.testing.assert_allclose(segmentation(logits, mask, loss=loss, void=VOID), np.sum(parts, 0), rtol=1e-6)


@pytest.mark.parametrize("loss", ALL)
def test_void_has_no_gradient_and_the_rest_the_numerical_one(loss):
    logits, mask = example(batch=2)

    @jax.jit
    @jax.grad
    def gradient(x):
        return losses.segmentation(x, jnp.asarray(mask), loss=loss, void=VOID).sum()

    got = np.asarray(gradient(jnp.asarray(logits)))
    assert (got[mask == VOID] == 0).all() and (np.abs(got[mask != VOID]).max() > 0)
    direction = np.random.default_rng(1).normal(size=logits.shape)
    step = 1e-2
    ends = [segmentation(logits + s * step * direction, mask, loss=loss, void=VOID).sum() for s in (1, -1)]
    if "ohem" not in loss:  # which pixels are hard changes along the way
        np.testing.assert_allclose((got * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("loss", ALL)
def test_what_void_pixels_hold_does_not_matter(loss):
    logits, mask = example()
    other = np.where(mask[..., None] == VOID, -logits + 5, logits)
    got = [segmentation(x, mask, loss=loss, void=VOID) for x in (logits, other)]
    np.testing.assert_array_equal(*got)


@pytest.mark.parametrize("loss", ALL)
def test_images_of_nothing_but_void_have_loss_and_gradient_zero(loss):
    logits, mask = example()
    mask[1] = VOID
    value, gradient = jax.value_and_grad(
        lambda x: losses.segmentation(x, jnp.asarray(mask), loss=loss, void=VOID).sum()
    )(jnp.asarray(logits))
    assert segmentation(logits, mask, loss=loss, void=VOID)[1] == 0
    assert np.isfinite(value) and (np.asarray(gradient)[1] == 0).all()


def test_void_may_be_one_of_the_classes_or_any_number_that_is_none():
    logits, mask = example(void=0)
    zero = segmentation(logits, mask, loss="cross-entropy", void=0)
    outside = np.where(mask == 0, 255, mask).astype(np.uint8)
    np.testing.assert_array_equal(segmentation(logits, outside, loss="cross-entropy"), zero)
    assert not np.allclose(segmentation(logits, mask, loss="cross-entropy"), zero)


@pytest.mark.parametrize("loss", ALL)
def test_extreme_logits_stay_finite(loss):
    mask = np.array([[[0, 1]]], np.uint8)
    logits = jnp.asarray([[[[300.0, -300.0], [300.0, -300.0]]]])
    value, gradient = jax.value_and_grad(lambda x: losses.segmentation(x, jnp.asarray(mask), loss=loss).sum())(logits)
    assert np.isfinite(value) and value > 0.4 and np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", ["dise", "cross-entropy+", "dice+dice"])
def test_unknown_losses_are_refused(loss):
    with pytest.raises(UserError, match="dice"):
        losses.segmentation(jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2), jnp.int32), loss=loss)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        losses.segmentation(jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 1), jnp.int32), loss="dice")


COUNTS = np.array([700, 50, 200, 50], np.int64)


def test_class_weights_in_closed_form():
    share = COUNTS / COUNTS.sum()
    np.testing.assert_array_equal(losses.class_weights(COUNTS, "none"), 1)
    truth = np.repeat(np.arange(4), COUNTS)
    balanced = compute_class_weight("balanced", classes=np.arange(4), y=truth)
    np.testing.assert_allclose(losses.class_weights(COUNTS, "inverse"), balanced, rtol=1e-6)
    np.testing.assert_allclose(losses.class_weights(COUNTS, "median"), 0.125 / share, rtol=1e-6)
    root = losses.class_weights(COUNTS, "sqrt")
    np.testing.assert_allclose(root**2 / root[0] ** 2, share[0] / share, rtol=1e-6)
    effective = losses.class_weights(COUNTS, "effective")
    numbers = [sum(0.999**i for i in range(count)) for count in COUNTS]  # 1 + beta + ... + beta^(n - 1)
    np.testing.assert_allclose(effective / effective[0], numbers[0] / np.array(numbers), rtol=1e-6)
    for weights in (root, effective):
        assert (weights * share).sum() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("kind", ["inverse", "sqrt", "effective", "median"])
def test_classes_without_pixels_weigh_nothing_and_change_nothing_of_medians(kind):
    weights = losses.class_weights(np.array([700, 0, 50, 200, 50]), kind)
    assert weights.dtype == np.float32 and weights[1] == 0
    others = losses.class_weights(COUNTS, kind)
    np.testing.assert_allclose(np.delete(weights, 1) / weights[0], others / others[0], rtol=1e-6)


def test_class_weights_are_refused_without_pixels_or_of_an_unknown_kind():
    with pytest.raises(UserError, match="pixel"):
        losses.class_weights(np.zeros(3, np.int64), "inverse")
    with pytest.raises(UserError, match="median"):
        losses.class_weights(COUNTS, "medain")
