"""Models of a class per pixel: shapes at any size, both normalizations, gradients, and what is special to each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.models.resunet import ResUNet, double
from jaxrec.models.unet import UNet

KEY = jax.random.key(0)
MODELS = {
    "unet": functools.partial(UNet, 5, width=4, depth=2),
    "resunet": functools.partial(ResUNet, 5, width=8, blocks=(1, 1, 1)),
    "resunet of a quarter": functools.partial(ResUNet, 5, width=8, blocks=(1, 2), stem=4),
    "resunet of two heads": functools.partial(ResUNet, 5, width=8, blocks=(1, 1, 1), auxiliary=True),
}
norms = pytest.mark.parametrize("norm", ["group", "batch"])
models = pytest.mark.parametrize("name", MODELS)


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def draw(model, x):
    """Variables of either sign of which none is 0, which would cut gradients."""
    random = np.random.default_rng(1)
    # A second head takes part in training alone.
    shapes = jax.eval_shape(functools.partial(model.init, train=True), KEY, x)

    def numbers(leaf):
        return (random.uniform(0.1, 0.5, leaf.shape) * random.choice([-1, 1], leaf.shape)).astype(np.float32)

    variables = jax.tree.map(numbers, shapes)
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    return variables


@norms
@models
@pytest.mark.parametrize("shape", [(2, 16, 24, 3), (1, 13, 17, 1), (1, 3, 2, 4)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_logits_have_the_images_size(name, norm, shape, dtype):
    model = MODELS[name](norm=norm, dtype=dtype, dropout=0.2)
    rngs = {"params": KEY, "dropout": KEY}
    for train in (True, False):
        result, variables = jax.eval_shape(functools.partial(model.init_with_output, train=train), rngs, images(*shape))
        leaves = jax.tree.leaves(result)
        assert len(leaves) == (2 if train and name == "resunet of two heads" else 1)
        for logits in leaves:
            assert (logits.shape, logits.dtype) == ((*shape[:3], 5), jnp.float32)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
        assert ("batch_stats" in variables) == (norm == "batch")


@norms
@models
def test_the_gradient_reaches_every_parameter(name, norm):
    model, x = MODELS[name](norm=norm), images(3, 18, 15, 3)
    variables = draw(model, x)
    params = variables.pop("params")

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params):
        result, updates = model.apply({"params": params, **variables}, x, train=True, mutable=["batch_stats"])
        # Sines weigh every number differently: the sum of a normalized output is a constant.
        value = sum(jnp.vdot(jnp.sin(jnp.arange(out.size, dtype=jnp.float32)), out) for out in jax.tree.leaves(result))
        return value, updates

    gradients, updates = gradient(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all() and np.any(leaf != 0), jax.tree_util.keystr(path)
    for old, new in zip(jax.tree.leaves(variables), jax.tree.leaves(updates), strict=True):
        assert np.any(old != new) and np.isfinite(new).all()


@models
def test_examples_do_not_touch_each_other_in_evaluation_or_under_group_norm(name):
    model, x = MODELS[name](norm="group"), images(3, 12, 16, 3)
    apply = jax.jit(functools.partial(model.apply, draw(model, x)))
    together = np.asarray(apply(x))
    np.testing.assert_allclose(together[1:2], apply(x[1:2]), rtol=1e-4, atol=1e-4 * np.abs(together).max())


def test_padding_does_not_reach_far():
    """An image with one column less, which is padded again, gets the same logits at its other side."""
    model, x = UNet(5, width=4, depth=2, norm="batch"), images(1, 64, 64, 3)
    variables = draw(model, x)
    whole, cut = (np.asarray(model.apply(variables, part)) for part in (x, x[:, :, :63]))
    np.testing.assert_allclose(cut[:, :, :16], whole[:, :, :16], rtol=1e-4)
    assert not np.allclose(cut[:, :, -2:], whole[:, :, 61:63], rtol=1e-4)


def test_the_widths_of_a_unet_double_on_the_way_down():
    shapes = jax.eval_shape(UNet(2, width=3, depth=3, norm="batch").init, KEY, images(1, 16, 16, 1))["params"]
    assert [shapes[f"conv_down{level}_2"]["kernel"].shape[-1] for level in range(4)] == [3, 6, 12, 24]
    # The paper's: the skip and what comes from below, side by side.
    assert shapes["conv_up1_1"]["kernel"].shape == (3, 3, 12, 6)


def test_doubling_is_jaxs_bilinear_resize():
    x = jnp.asarray(images(2, 5, 4, 3))
    np.testing.assert_allclose(double(x), jax.image.resize(x, (2, 10, 8, 3), "bilinear"), atol=1e-6)


def test_residual_blocks_start_as_their_shortcuts():
    """So that of the blocks at one scale only the first matters at first."""
    x = images(2, 16, 16, 3)
    one, three = ResUNet(4, width=8, blocks=(1, 1)), ResUNet(4, width=8, blocks=(3, 1))
    few, many = (jax.jit(functools.partial(model.init, train=False))(KEY, x) for model in (one, three))
    shared = {name: few["params"].get(name, value) for name, value in many["params"].items()}
    got = three.apply({**many, "params": shared}, x)
    np.testing.assert_allclose(got, one.apply(few, x), atol=1e-5)
