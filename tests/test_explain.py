"""Explanations against closed forms: linear scores, games whose Shapley values are known, networks of one layer."""

import itertools
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from jaxrec.after.explain import (
    METHODS,
    Settings,
    explain,
    grad_cam,
    gradient,
    grid,
    hires_cam,
    integrated_gradients,
    kernel_shap,
    lime,
    multi_scale,
    occlusion,
    rise,
    shapley,
    slic,
    smooth_gradient,
    spread,
)
from jaxrec.after.explain.cam import map_layer
from jaxrec.after.explain.shares import every_coalition, nearness
from jaxrec.after.explain.truth import (
    deletion,
    insertion,
    pointing,
    randomized,
    rank_correlation,
    relevance_mass,
    with_shortcut,
)
from jaxrec.errors import UserError
from jaxrec.models.layers import Maps

SHAPE = (6, 8, 2)
KEY = jax.random.key(0)
IMAGE = jax.random.uniform(jax.random.key(1), SHAPE)
BASELINE = jax.random.uniform(jax.random.key(2), SHAPE)
SLOPES = jax.random.normal(jax.random.key(3), SHAPE)
ADDED = SLOPES * (IMAGE - BASELINE)
"""What each number of the image adds to the linear score."""


def linear(images):
    return jnp.tensordot(images, SLOPES, 3) + 0.5


def curved(images):
    """A score in which places depend on each other."""
    hidden = jnp.tanh(jnp.tensordot(images, SLOPES.reshape(*SHAPE, 1) * jnp.array([1.0, -0.5, 0.2]), 3))
    return hidden[:, 0] * hidden[:, 1] + jnp.exp(hidden[:, 2]) + jnp.tanh(images[:, 2, 3, 0] * images[:, 4, 4, 1])


def compiled(method, score, *values, **options):
    """What a method finds, compiled as one program."""
    return jax.jit(lambda: method(score, *values, **options))()


def sums(values, segments, count):
    """The sum of a value of each place over each segment."""
    return np.array([values[np.asarray(segments) == number].sum() for number in range(count)])


def test_gradients_of_a_linear_score_are_its_slopes():
    np.testing.assert_allclose(compiled(gradient, linear, IMAGE), SLOPES, rtol=1e-5)
    np.testing.assert_allclose(compiled(smooth_gradient, linear, IMAGE, KEY, samples=5), SLOPES, rtol=1e-5)
    found = compiled(integrated_gradients, linear, IMAGE, BASELINE, steps=3)
    np.testing.assert_allclose(found, ADDED, rtol=1e-5, atol=1e-6)


def test_integrated_gradients_add_up_to_the_difference_of_scores():
    found = compiled(integrated_gradients, curved, IMAGE, BASELINE)
    whole = curved(jnp.stack([IMAGE, BASELINE]))
    assert abs(found.sum() - (whole[0] - whole[1])) <= 0.01 * abs(whole[0] - whole[1])


def test_windows_of_one_place_give_what_it_adds():
    found = compiled(occlusion, linear, IMAGE, BASELINE, window=(1, 1), stride=(1, 1))
    np.testing.assert_allclose(found, ADDED.sum(-1), rtol=1e-4, atol=1e-5)


def test_windows_that_overlap_are_averaged():
    found = compiled(occlusion, linear, IMAGE, BASELINE, window=(3, 2), stride=(2, 3))
    falls, counts = np.zeros(SHAPE[:2]), np.zeros(SHAPE[:2])
    for top, left in itertools.product((0, 2, 3), (0, 3, 6)):
        inside = slice(top, top + 3), slice(left, left + 2)
        falls[inside] += ADDED[inside].sum() / 6
        counts[inside] += 1
    np.testing.assert_allclose(found, falls / np.maximum(counts, 1), rtol=1e-4, atol=1e-5)


def test_scales_are_means_of_what_their_cells_add():
    found = compiled(multi_scale, linear, IMAGE, BASELINE, scales=(1, 2))
    added = np.asarray(ADDED.sum(-1))
    quarters = added.reshape(2, 3, 2, 4).mean((1, 3)).repeat(3, 0).repeat(4, 1)
    np.testing.assert_allclose(found, (added.mean() + quarters) / 2, rtol=1e-4, atol=1e-5)


def test_random_masks_find_the_part_that_counts():
    def one_corner(images):
        return images[:, :3, 4:, 0].mean((1, 2))

    found = compiled(rise, one_corner, jnp.ones(SHAPE), KEY, samples=600, cells=2)
    inside, outside = found[1, 6], found[4, 1]
    assert inside > 0.1 and abs(outside) < 0.3 * inside
    constant = compiled(rise, lambda images: jnp.full(len(images), 2.0), IMAGE, KEY, samples=50)
    np.testing.assert_allclose(constant, 0, atol=1e-5)


def test_segments_of_a_grid():
    segments, count = grid((4, 6), 3)
    assert count == 9
    expected = np.arange(9).reshape(3, 3)[np.array([0, 0, 1, 2])][:, np.array([0, 0, 1, 1, 2, 2])]
    np.testing.assert_array_equal(segments, expected)
    assert grid((2, 5, 1), 3)[1] == 2 * 3 * 1
    np.testing.assert_allclose(
        sums(np.asarray(spread(jnp.arange(9.0), segments)), segments, 9), np.arange(9), rtol=1e-6
    )


def test_superpixels_follow_edges():
    image = jnp.zeros((16, 16, 3)).at[:, :5].set(1.0)
    segments, count = slic(image, 4)
    assert count == 16
    light, dark = set(np.unique(segments[:, :5])), set(np.unique(segments[:, 5:]))
    assert not light & dark and len(light) > 1


@pytest.mark.parametrize("score", [linear, curved])
def test_shapley_values_are_means_over_all_orders(score):
    segments, count = grid(SHAPE[:2], 2)
    found = compiled(shapley, score, IMAGE, segments, count, BASELINE)

    def value(members):
        shown = np.isin(np.asarray(segments), list(members))[..., None]
        return float(score(jnp.where(shown, IMAGE, BASELINE)[None])[0])

    expected = np.zeros(count)
    orders = list(itertools.permutations(range(count)))
    for order in orders:
        for place, player in enumerate(order):
            expected[player] += (value(order[: place + 1]) - value(order[:place])) / len(orders)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="14"):
        compiled(shapley, score, IMAGE, *grid(SHAPE[:2], 4))


def test_kernel_shap_is_exact_for_linear_scores_and_near_for_others():
    cells = jnp.arange(12, dtype=jnp.int32).reshape(3, 4).repeat(2, 0).repeat(2, 1)
    options = {"image": IMAGE, "segments": cells, "count": 12, "key": KEY, "baseline": BASELINE}
    found = compiled(kernel_shap, linear, **options, samples=60)
    np.testing.assert_allclose(found, sums(np.asarray(ADDED.sum(-1)), cells, 12), rtol=1e-3, atol=1e-4)
    exact = compiled(shapley, curved, IMAGE, cells, 12, BASELINE)
    found = compiled(kernel_shap, curved, **options, samples=1024)
    assert 1 - ((found - exact) ** 2).sum() / ((exact - exact.mean()) ** 2).sum() >= 0.99
    whole = curved(jnp.stack([IMAGE, BASELINE]))
    assert abs(found.sum() - (whole[0] - whole[1])) <= 1e-6
    # With every coalition nothing is left to chance.
    np.testing.assert_allclose(compiled(kernel_shap, curved, **options, samples=2**12), exact, rtol=1e-3, atol=1e-4)


def test_lime_is_a_weighted_ridge_regression():
    segments, count = grid(SHAPE[:2], 3)
    found = compiled(lime, curved, IMAGE, segments, count, KEY, BASELINE, samples=200)
    coalitions = np.array(jax.random.bernoulli(KEY, 0.5, (200, count)), float)
    coalitions[0] = 1
    shown = coalitions[:, np.asarray(segments)][..., None]
    values = curved(jnp.asarray(shown * np.asarray(IMAGE) + (1 - shown) * np.asarray(BASELINE), jnp.float32))
    weights = np.asarray(nearness(jnp.asarray(coalitions, jnp.float32), 0.25), float)
    model = Ridge(alpha=1.0).fit(coalitions, np.asarray(values, float), sample_weight=weights * 200 / weights.sum())
    np.testing.assert_allclose(found, model.coef_, rtol=1e-3, atol=1e-4)
    exact = compiled(lime, linear, IMAGE, segments, count, KEY, BASELINE, samples=200, ridge=0.0)
    np.testing.assert_allclose(exact, sums(np.asarray(ADDED.sum(-1)), segments, count), rtol=1e-3, atol=1e-4)


def test_every_coalition_counts_from_none_to_all():
    coalitions = every_coalition(3)
    assert coalitions.shape == (8, 3) and coalitions[0].sum() == 0 and coalitions[-1].sum() == 3
    assert len({tuple(each) for each in coalitions}) == 8


class Pooled(nn.Module):
    """One convolution, a rectifier, the mean over places and a dense layer: its Grad-CAM is known."""

    marked: bool

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (3, 3), name="conv")(x))
        if self.marked:
            x = Maps(name="maps")(x)
        return nn.Dense(3, name="head")(x.mean((1, 2)))


def test_grad_cam_weighs_maps_by_the_last_layers_slopes():
    network = Pooled(marked=True)
    variables = network.init(KEY, IMAGE[None])

    def score(images):
        return network.apply(variables, images)[:, 1]

    maps = nn.relu(nn.Conv(5, (3, 3)).apply({"params": variables["params"]["conv"]}, IMAGE[None]))[0]
    expected = nn.relu(maps @ variables["params"]["head"]["kernel"][:, 1]) / math.prod(SHAPE[:2])
    np.testing.assert_allclose(compiled(grad_cam, score, IMAGE), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(compiled(hires_cam, score, IMAGE), expected, rtol=1e-4, atol=1e-6)
    assert map_layer(score, IMAGE).name == "maps"
    # A network that marks nothing is asked for its last layer of maps.
    assert map_layer(lambda images: Pooled(marked=False).apply(variables, images)[:, 1], IMAGE).name == "conv"
    with pytest.raises(UserError, match="grad-cam"):
        grad_cam(linear, IMAGE)


class Patches(nn.Module):
    """Vectors of 2x2 patches."""

    @nn.compact
    def __call__(self, x):
        n, height, width, channels = x.shape
        x = (
            x.reshape(n, height // 2, 2, width // 2, 2, channels)
            .transpose(0, 1, 3, 2, 4, 5)
            .reshape(n, -1, 4 * channels)
        )
        return nn.Dense(1)(nn.relu(nn.Dense(6, name="patches")(x))).mean((1, 2))


def test_patches_of_a_transformer_are_maps():
    network = Patches()
    variables = network.init(KEY, IMAGE[None])

    def score(images):
        return network.apply(variables, images)

    layer = map_layer(score, IMAGE)
    assert layer.size == (3, 4)
    assert grad_cam(score, IMAGE).shape == SHAPE[:2]


CLIP = jnp.stack([IMAGE, BASELINE, IMAGE])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_stacks_of_images_and_clips(method):
    few = Settings(samples=40, cells=2, baseline="mean")

    def score(image):
        """Of images or clips; each image of a stack is explained by a score of its own."""
        network = Pooled(marked=True)
        variables = network.init(KEY, IMAGE[None])

        def of_variants(variants):
            frames = variants.reshape(-1, *SHAPE)
            scores = network.apply(variables, frames)[:, 1].reshape(len(variants), -1).mean(1)
            return scores * image.sum()

        return of_variants

    def explained(image):
        return explain(method, score(image), image, KEY, few)

    batched = jax.jit(jax.vmap(explained))
    both = batched(jnp.stack([IMAGE, BASELINE]))
    assert both.shape == (2, *SHAPE[:2]) and both.dtype == jnp.float32
    # Each image is explained by itself.
    np.testing.assert_allclose(both[::-1], batched(jnp.stack([BASELINE, IMAGE])), rtol=1e-3, atol=1e-4)
    assert jax.eval_shape(explained, CLIP).shape == CLIP.shape[:-1]
    assert np.isfinite(both).all() and np.ptp(both[0]) > 0


def test_pointing_and_mass_look_at_the_region():
    region = jnp.zeros((4, 5), bool).at[1:3, 1:3].set(True)
    values = jnp.zeros((4, 5)).at[2, 2].set(3.0).at[0, 4].set(1.0).at[3, 0].set(-9.0)
    assert pointing(values, region) == 1 and pointing(-values, region) == 0
    assert pointing(jnp.ones((4, 5)), region) == 4 / 20
    assert relevance_mass(values, region) == 0.75
    assert relevance_mass(-jnp.ones((4, 5)), region) == 0


def test_insertion_shows_and_deletion_covers_the_highest_first():
    added = jnp.abs(ADDED.sum(-1))
    score = partial(jnp.tensordot, b=jnp.ones(SHAPE) / SHAPE[-1], axes=3)
    image = jnp.broadcast_to(added[..., None], SHAPE)
    ordered = np.sort(np.asarray(added).ravel())
    shown = np.append(0, ordered[::-1].cumsum())
    np.testing.assert_allclose(compiled(insertion, score, image, added, steps=added.size), shown, rtol=1e-4, atol=1e-4)
    covered = ordered.sum() - shown
    np.testing.assert_allclose(compiled(deletion, score, image, added, steps=added.size), covered, atol=1e-3)


def test_rank_correlation_is_spearmans():
    random = np.random.default_rng(0)
    one, other = random.integers(0, 5, (2, 6, 7)).astype(np.float32)
    np.testing.assert_allclose(rank_correlation(one, other), spearmanr(one.ravel(), other.ravel())[0], rtol=1e-4)
    assert rank_correlation(one, jnp.ones((6, 7))) == 0


def test_the_last_layers_are_replaced_first():
    params, fresh = ({name: value for name in ("conv", "dense", "head")} for value in (0, 1))
    assert randomized(params, fresh, 2) == {"conv": 0, "dense": 1, "head": 1}
    assert randomized(params, fresh, 0) == params and randomized(params, fresh, 3) == fresh


def test_a_shortcut_tells_the_class_and_leaves_the_rest():
    images = jnp.full((3, 6, 6, 1), 0.3)
    found = with_shortcut(images, jnp.arange(3))
    np.testing.assert_array_equal(found[:, :2, :2, 0].reshape(3, 4), [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]])
    assert (found[:, 2:] == images[:, 2:]).all() and (found[:, :, 2:] == images[:, :, 2:]).all()


def coalition_scores(segments):
    """``curved`` of coalitions [N, count] in NumPy, as packages for tables take it."""

    def values(coalitions):
        shown = jnp.asarray(np.asarray(coalitions)[:, np.asarray(segments)], jnp.float32)[..., None]
        return np.asarray(curved(shown * IMAGE + (1 - shown) * BASELINE))

    return values


@pytest.mark.filterwarnings("ignore")
def test_shapley_values_are_those_of_shap():
    shap = pytest.importorskip("shap")
    segments, count = grid(SHAPE[:2], 3)
    explainer = shap.KernelExplainer(coalition_scores(segments), np.zeros((1, count)))
    expected = explainer.shap_values(np.ones((1, count)), nsamples=2**count, silent=True)[0]
    np.testing.assert_allclose(compiled(shapley, curved, IMAGE, segments, count, BASELINE), expected, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_lime_agrees_with_its_authors_package():
    lime_image = pytest.importorskip("lime.lime_image")
    segments, count = grid(SHAPE[:2], 3)
    image = np.asarray(IMAGE[..., :1].repeat(3, -1), float)

    def score(images):
        return curved(jnp.asarray(images, jnp.float32)[..., :2])

    def both_classes(images):
        values = np.asarray(score(np.array(images)))
        return np.stack([values, -values], 1)

    found = lime_image.LimeImageExplainer(random_state=0).explain_instance(
        image,
        both_classes,
        top_labels=2,
        hide_color=0,
        num_samples=4000,
        segmentation_fn=lambda _: np.asarray(segments),
    )
    expected = dict(found.local_exp[0])
    ours = compiled(lime, score, jnp.asarray(image, jnp.float32), segments, count, KEY, samples=4000)
    np.testing.assert_allclose(ours, [expected[number] for number in range(count)], atol=0.05)
