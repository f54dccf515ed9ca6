"""The recurrent attention model: what a look sees, what is rewarded, what learns from what, where it looks."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal
from systems import SGD

from jaxrec.errors import UserError
from jaxrec.models.cnn import CNN
from jaxrec.models.cnn import operations as cnn_operations
from jaxrec.models.glimpse import GlimpseNetwork, Looks, Sensor, averaging, operations
from jaxrec.settings import Optimizer
from jaxrec.settings.glimpse import Glimpse
from jaxrec.tasks import glimpse

RNG = np.random.default_rng(0)
TINY = Glimpse(
    classes=3, mean=(0.0,), std=(1.0,), looks=3, patch=4, units=8, width=8, samples=2, cnn=False, optimizer=SGD
)
BATCH = {
    "image": RNG.integers(0, 256, (4, 12, 12, 1), np.uint8),
    "label": np.array([0, 1, 2, 1], np.int32),
}


def seen(image, corner, patch, step):
    """A square of means of ``step`` x ``step`` pixels of an image [H, W], 0 beyond it: by loops."""
    height, width = image.shape
    found = np.zeros((patch, patch))
    for i, j in np.ndindex(patch, patch):
        for y, x in np.ndindex(step, step):
            row, column = corner[0] + step * i + y, corner[1] + step * j + x
            if 0 <= row < height and 0 <= column < width:
                found[i, j] += image[row, column] / step**2
    return found


def test_a_look_sees_squares_of_growing_size():
    images = RNG.normal(size=(2, 10, 14, 1)).astype(np.float32)
    # Two looks at each image: their centers in pixels, of which some squares reach beyond the border.
    centers = np.array([[[5, 7], [0, 0]], [[10, 3], [4, 14]]])
    place = jnp.asarray(centers / np.array([5, 7]) - 1, jnp.float32).reshape(4, 2)
    found = Sensor(jnp.asarray(images), 4, 3)(place).reshape(2, 2, 3, 4, 4)
    for image, look, scale in np.ndindex(2, 2, 3):
        corner = centers[image, look] - 2 * 2**scale
        expected = seen(images[image, ..., 0], corner, 4, 2**scale)
        assert_allclose(found[image, look, scale], expected, atol=1e-6)


def test_the_context_network_tells_where_the_first_look_goes_and_nothing_of_the_class():
    """Two images differ in a corner that no look sees."""
    images = np.zeros((2, 24, 24, 1), np.float32)
    images[1, 18:, 18:] = 1
    model = glimpse.build(replace(TINY, start="context", scales=1))
    still = jnp.zeros((2, 2)), jnp.zeros((3, 2, 2)), jnp.float32(0)
    variables = jax.jit(model.init)({"params": jax.random.key(0)}, images, *still)
    looks = jax.jit(model.apply)(variables, images, *still, jnp.full((3, 2, 2), -0.5))
    assert abs(looks.mean[0, 0] - looks.mean[0, 1]).max() > 1e-6
    assert_array_equal(looks.logits[:, 0], looks.logits[:, 1])


@pytest.mark.parametrize("side", [5, 12, 60])
def test_a_thumbnail_keeps_the_mean(side):
    shares = averaging(side)
    assert_allclose(shares.sum(1), 1)
    assert_allclose(shares.sum(0), 12 / side)


def test_operations_are_those_that_are_made():
    """XLA counts a product and a sum as two, and what else there is."""
    network = GlimpseNetwork(10, 4, 8, 2, units=64, width=96, context=True, every=True, learned=True)
    images, first, noise = jnp.zeros((16, 28, 28, 1)), jnp.zeros((16, 2)), jnp.zeros((4, 16, 2))
    for model, inputs in ((network, (images, first, noise, jnp.float32(0))), (CNN(10, width=0.3), (images,))):
        variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
        cost = jax.jit(model.apply).lower(variables, *inputs).cost_analysis()
        counted = operations(model, 1) if model is network else cnn_operations(model, (28, 28, 1))
        assert_allclose(2 * 16 * counted, cost["flops"], rtol=0.1)


@pytest.mark.parametrize("looks", [4, 8])
def test_the_cnn_to_compare_with_needs_as_many(looks):
    config = Glimpse(classes=10, looks=looks)
    most = operations(glimpse.build(config), 1)
    cnn = glimpse.comparable(config, (28, 28, 1))
    assert cnn_operations(cnn, (28, 28, 1)) <= most
    assert cnn_operations(cnn.clone(width=cnn.width + 1 / 32), (28, 28, 1)) > most


def test_rewards():
    logits, label = jnp.asarray(RNG.normal(size=(3, 5, 4)), jnp.float32), jnp.array([0, 1, 2, 3, 0])
    config = replace(TINY, classes=4)
    ends = glimpse.rewards(config, logits, label)
    right = np.asarray(logits[-1].argmax(-1) == label, np.float32)
    assert_array_equal(ends, np.stack([0 * right, 0 * right, right]))
    gains = glimpse.rewards(replace(config, reward="gain", head="every"), logits, label)
    known = jax.nn.log_softmax(logits)[:, jnp.arange(5), label]
    assert_allclose(np.cumsum(gains, 0), known + np.log(4), rtol=1e-5, atol=1e-6)


def looks_of(steps, count, **given):
    """Looks with random numbers in every field."""
    shapes = {"action": (steps, count, 2), "value": (steps, count), "logits": (steps, count, 4), "features": (count, 3)}
    shapes |= {"mean": shapes["action"], "deviation": shapes["action"]}
    numbers = {name: jnp.asarray(RNG.uniform(0.1, 1, shape), jnp.float32) for name, shape in shapes.items()}
    return Looks(**{**numbers, **given})


def test_advantages_are_discounted_and_the_values_targets_follow_from_them():
    config = replace(TINY, classes=4, reward="gain", head="every", discount=0.6, decay=0.5)
    looks, label = looks_of(3, 5), jnp.array([0, 1, 2, 3, 0])
    rewards, values = np.asarray(glimpse.rewards(config, looks.logits, label)), np.asarray(looks.value)
    expected, after = np.zeros((3, 5)), np.zeros(5)
    for step in (2, 1, 0):
        following = values[step + 1] if step < 2 else 0
        after = rewards[step] + 0.6 * following - values[step] + 0.6 * 0.5 * after
        expected[step] = after
    gained, advantages, targets = glimpse.estimates(config, looks, label)
    assert_array_equal(gained, rewards)
    assert_allclose(advantages, expected, rtol=1e-5, atol=1e-6)
    assert_allclose(targets, expected + values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("start", "first"), [("center", 1), ("random", 1), ("context", 0)])
def test_looks_count_that_the_policy_chose(start, first):
    looks = looks_of(3, 2)
    normal = scipy.stats.norm(np.asarray(looks.mean), np.asarray(looks.deviation))
    expected = normal.logpdf(np.asarray(looks.action)).sum(-1)[first:]
    assert_allclose(glimpse.log_probs(replace(TINY, start=start), looks), expected, rtol=1e-4, atol=1e-5)


def test_a_bonus_for_entropy_makes_the_deviation_larger():
    config = replace(TINY, learned_deviation=True, entropy=1.0)
    state = jax.jit(partial(glimpse.init, config))(jax.random.key(0), BATCH)
    step = jax.jit(glimpse.train_step)
    # The last two outputs are the logarithms of the factors of the deviation.
    found = []
    for weight in (1, 0):
        after, _ = step(state.replace(hyper={**state.hyper, "entropy": jnp.float32(weight)}), BATCH)
        found.append(after.player.params["aim"]["bias"][2:])
    assert (found[0] > found[1]).all()


def update(config, **changes):
    """The parameters of the network after one step, by path, less those before it."""
    config = replace(config, **changes)
    state = jax.jit(partial(glimpse.init, config))(jax.random.key(0), BATCH)
    after, metrics = jax.jit(glimpse.train_step)(state, BATCH)
    change = jax.tree.map(lambda new, old: new - old, after.players["net"].params, state.players["net"].params)
    return {jax.tree_util.keystr(path): value for path, value in jax.tree.leaves_with_path(change)}, metrics


def test_one_update_by_ppo_is_one_by_the_policy_gradient():
    """The ratio of probabilities is 1, and so is its derivative by the log probability."""
    one, _ = update(TINY)
    other, _ = update(TINY, policy="ppo", updates=1)
    for name, change in one.items():
        assert_allclose(other[name], change, atol=1e-6, err_msg=name)
    assert abs(one["['aim']['kernel']"]).max() > 0
    # The second of two goes on, and gains nothing from what has moved further than the clip.
    clipped, _ = update(TINY, policy="ppo", updates=2, clip_ratio=1e-6)
    free, _ = update(TINY, policy="ppo", updates=2, clip_ratio=100.0)
    assert abs(free["['head']['bias']"] - one["['head']['bias']"]).max() > 1e-4
    assert abs(free["['aim']['kernel']"] - clipped["['aim']['kernel']"]).max() > 1e-5


def test_the_policy_learns_from_rewards_and_the_core_from_the_class():
    plain, _ = update(TINY)
    heavy, _ = update(TINY, policy_weight=3.0, value_weight=2.0)
    none, _ = update(TINY, policy="random")
    for name, change in plain.items():
        if name.startswith(("['aim']", "['considered']")):
            assert_allclose(heavy[name], 3 * change, atol=1e-6, err_msg=name)
            assert_array_equal(none[name], 0 * change, err_msg=name)
        elif name.startswith("['expected']"):
            assert_allclose(heavy[name], 2 * change, atol=1e-6, err_msg=name)
        else:
            assert_allclose(heavy[name], change, atol=1e-6, err_msg=name)


def test_the_deviation_falls_over_the_run():
    config = replace(TINY, deviation=0.4, final_deviation=0.1, optimizer=replace(SGD, steps=10))
    state = jax.jit(partial(glimpse.init, config))(jax.random.key(0), BATCH)
    step = jax.jit(glimpse.train_step)
    for at, expected in ((0, 0.4), (5, 0.25), (10, 0.1), (20, 0.1)):
        _, metrics = step(state.replace(step=jnp.int32(at)), BATCH)
        assert_allclose(metrics["deviation"], expected, rtol=1e-5)


def test_settings_that_do_not_fit_each_other():
    for changes, name in (
        ({"reward": "gain"}, "--head"),
        ({"entropy": 0.1}, "--learned-deviation"),
        ({"classes": 1}, "classes"),
        ({"deviation": 0.01}, "--final-deviation"),
    ):
        with pytest.raises(UserError, match=name):
            glimpse.init(replace(TINY, **changes), jax.random.key(0), BATCH)


def hinted(key, count):
    """Images 24x24 whose class is a pattern in one quarter; a square in the middle, on its side, tells which."""
    corner, label = jax.random.randint(key, (2, count), 0, jnp.array([[4], [2]]))
    down, across = (corner // 2 == 1)[:, None, None], (corner % 2 == 1)[:, None, None]
    y, x = np.arange(24)[:, None], np.arange(24)
    hint = (abs(y - 11.5) < 2) & (abs(x - 11.5) < 2)
    hint &= ((y > 11.5) == down) & ((x > 11.5) == across)
    there = ((y > 11.5) == down) & ((x > 11.5) == across)
    there &= (abs(y - 11.5) > 4) | (abs(x - 11.5) > 4)
    stripes = jnp.where(label[:, None, None] == 1, y % 2 == 0, x % 2 == 0)
    image = jnp.where(hint | (there & stripes), 255, 0).astype(jnp.uint8)
    return {"image": image[..., None], "label": label.astype(jnp.int32)}


@pytest.mark.usefixtures("as_users_run_it")
def test_it_learns_to_look_where_the_class_is_seen():
    """The first look shows where the class is to be seen, and nothing of the class."""
    config = replace(TINY, classes=2, looks=2, patch=6, scales=1, units=24, width=24, samples=4, deviation=0.4)
    config = replace(config, final_deviation=0.1, optimizer=Optimizer(name="adam", lr=1e-2, steps=200))
    state = jax.jit(partial(glimpse.init, config))(jax.random.key(0), hinted(jax.random.key(1), 2))

    @jax.jit
    def train(state):
        def step(state, number):
            batch = hinted(jax.random.fold_in(jax.random.key(2), number), 64)
            return glimpse.train_step(state, batch)

        return jax.lax.scan(step, state, jnp.arange(200))

    state, metrics = train(state)
    found = jax.jit(glimpse.eval_step)(state, hinted(jax.random.key(3), 256))["errors"].compute()
    assert metrics["reward"][-20:].mean() > 0.9
    assert found["error"] < 0.05
    assert found["random_error"] > 0.25 and found["center_error"] > 0.25


def test_a_path_is_drawn():
    image = jnp.zeros((1, 96, 96, 1))
    looks = jnp.array([[[-0.5, -0.5], [0.5, 0.5]]])
    drawn = np.asarray(glimpse.paths(image, looks, 8)[0])
    assert drawn.shape == (96, 96, 3)
    first, last = np.array(glimpse.FIRST, np.float32), np.array(glimpse.LAST, np.float32)
    # The upper side of the first square, and the middle of the line that leads to the last.
    assert_allclose(drawn[20, 24], first, rtol=1e-5)
    assert_allclose(drawn[48, 48], last, rtol=1e-5)
    assert (drawn[10, 80] == 0).all()
    assert glimpse.paths(jnp.zeros((2, 12, 12, 3)), looks.repeat(2, 0), 4).shape == (2, 96, 96, 3)
