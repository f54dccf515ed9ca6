"""The layers against flax's and XLA's plain ones: values, gradients, and gradients of gradients."""

import platform
from contextlib import nullcontext
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from conftest import close, equations
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from jaxrec import host
from jaxrec.models import layers, members
from jaxrec.models.cpu import convolutions, forms, onednn, winograd
from jaxrec.models.cpu.forms import plain_forms
from jaxrec.models.cpu.parts import in_parts
from jaxrec.models.vit import Projection

NUMBERS = ("NHWC", "HWIO", "NHWC")


def normal(seed, *shape):
    numbers = np.random.default_rng(seed).normal(size=shape)
    return numbers if jax.config.read("jax_enable_x64") else numbers.astype(np.float32)


def operands(jaxpr):
    """The inputs of every product and convolution in a jaxpr and those inside it, each with the operation's name."""
    for equation in equations(jaxpr):
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            yield from ((name, variable.aval) for variable in equation.invars)


def plain_down(x, kernel, strides):
    return lax.conv_general_dilated(x, kernel, (strides, strides), "SAME", dimension_numbers=NUMBERS)


def plain_up(x, kernel, strides, padding="SAME"):
    return lax.conv_transpose(x, kernel, (strides, strides), padding, dimension_numbers=NUMBERS)


PAIRS = {"up": (layers.conv_transpose, plain_up), "down": (layers.conv, plain_down)}
pairs = pytest.mark.parametrize("ours, plain", PAIRS.values(), ids=PAIRS)


def first_order(function):
    """Value and both gradients of a nonlinear sum."""
    return jax.value_and_grad(lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel))), (0, 1))


def second_order(function):
    """Both gradients of a penalty on both gradients: every derivative's derivatives."""
    first = first_order(function)
    return jax.grad(lambda x, kernel: sum(jnp.sum(g**2) for g in first(x, kernel)[1]), (0, 1))


def image_penalty(function):
    """Both gradients of a penalty on the images' gradient, as in a GAN."""
    first = first_order(function)
    return lambda x, kernel: (None, jax.grad(lambda x, kernel: jnp.sum(first(x, kernel)[1][0] ** 2), (0, 1))(x, kernel))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize("outputs", [2, 6])
def test_conv_transpose_equals_flax_in_value_and_gradient(outputs, size, strides, padding):
    x = normal(0, 2, 5, 4, 3)
    ours = layers.ConvTranspose(outputs, size, strides, padding)
    plain = nn.ConvTranspose(outputs, (size, size), (strides, strides), padding)
    params = {"params": {"kernel": normal(1, size, size, 3, outputs), "bias": normal(2, outputs)}}

    def run(params, x, module):
        function = jax.value_and_grad(lambda p, x: jnp.sum(jnp.sin(module.apply(p, x))), (0, 1))
        return module.apply(params, x), function(params, x)

    close(*jax.jit(lambda p, x: (run(p, x, ours), run(p, x, plain)))(params, x))
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(np.shape, params)


CHANNELS = {"one": (1, 2), "few": (3, 2), "some": (6, 5), "many": (64, 64)}
"""In and out: patches, XLA's own convolution or its phases, and Winograd's transform for 3x3 without strides."""


@pytest.fixture(autouse=True)
def winograd_for_small_images(monkeypatch):
    monkeypatch.setattr(winograd, "LARGE", 1)


channels = pytest.mark.parametrize("inputs, outputs", CHANNELS.values(), ids=CHANNELS)


@pytest.mark.parametrize("padding, batch", [("SAME", 1), ("VALID", 2), (((2, 1), (0, 3)), 33)], ids=str)
@pytest.mark.parametrize("size, strides", [(1, 1), (1, 2), (3, 1), (3, 2), (3, 3), (4, 1), (4, 2), (2, 3)])
@channels
def test_conv_equals_lax_in_value_and_gradient(inputs, outputs, size, strides, padding, batch):
    x, kernel = normal(0, batch, 7, 6, inputs), normal(1, size, size, inputs, outputs) / inputs**0.5

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=NUMBERS)

    def run(function):
        return function(x, kernel), first_order(function)(x, kernel)[1]

    close(*jax.jit(lambda: (run(lambda x, kernel: layers.conv(x, kernel, strides, padding)), run(plain)))())


def test_large_images_in_the_forms_that_are_chosen_for_them(monkeypatch):
    monkeypatch.undo()
    x, kernel = normal(0, 1, 65, 64, 64), normal(1, 3, 3, 64, 128) / 24
    got, expected = (jax.jit(first_order(lambda x, k, f=f: f(x, k, 1)))(x, kernel) for f in (layers.conv, plain_down))
    close(got, expected)


@pytest.mark.parametrize("inputs, strides", [(6, 1), (6, 2), (3, 2)])
def test_a_large_batch_is_transposed_by_a_product_or_cut_into_patches(inputs, strides, monkeypatch):
    monkeypatch.setattr(convolutions, "LARGE_IMAGES", 1)
    x, kernel = normal(0, 3, 7, 6, inputs), normal(1, 3, 3, inputs, 5)
    for order in (first_order, second_order):
        functions = (lambda x, k, f=f: f(x, k, strides) for f in (layers.conv, plain_down))
        close(*(jax.jit(order(function))(x, kernel) for function in functions))
    narrow = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    slopes = jax.grad(lambda x, k: layers.conv(x, k, strides).astype(jnp.float32).sum(), (0, 1))(*narrow)
    assert [slope.dtype for slope in slopes] == [jnp.bfloat16, jnp.bfloat16]
    gradient = jax.make_jaxpr(jax.grad(lambda k: jnp.sum(layers.conv(x, k, strides))))(kernel)
    # Before a product of more axes XLA would transpose all the same.
    assert {each.ndim for name, each in operands(gradient.jaxpr) if name == "dot_general"} == {2}


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("batch, side", [(0, 6), (2, 2)])
def test_empty_results_are_those_of_lax(batch, side, strides):
    x, kernel = normal(0, batch, side, 6, 6), normal(1, 3, 3, 6, 5)

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (strides, strides), "VALID", dimension_numbers=NUMBERS)

    close(*(first_order(f)(x, kernel) for f in (lambda x, k: layers.conv(x, k, strides, "VALID"), plain)))
    if not batch:
        close(*(first_order(lambda x, k, f=f: f(x, k, strides))(x, kernel) for f in (layers.conv_transpose, plain_up)))


@pytest.mark.parametrize(
    "options",
    [{"feature_group_count": 6, "size": 1}, {"kernel_dilation": 2}, {"input_dilation": 2, "padding": 1}],
    ids=str,
)
def test_what_the_forms_have_not_is_flaxs(options):
    x, size = normal(0, 2, 8, 8, 6), options.pop("size", 3)
    ours, plain = layers.Conv(6, size, **options), nn.Conv(6, (size, size), **options)
    params = plain.init(jax.random.key(0), x)
    close(ours.apply(params, x), plain.apply(params, x))


@pairs
@pytest.mark.parametrize("side", [1, 4, 7])
def test_winograds_second_form_of_the_weight_gradient(ours, plain, side, in_float64):
    x, kernel = normal(0, 3, side, side + 1, 64), normal(1, 3, 3, 64, 96) / 8
    for order in (first_order, second_order):
        close(*(jax.jit(order(lambda x, k, f=f: f(x, k, 1)))(x, kernel) for f in (ours, plain)), 1e-10)


def test_forms_are_the_ones_meant(monkeypatch):
    def operations(inputs, outputs, size, strides):
        x, kernel = jnp.zeros((1, 8, 8, inputs)), jnp.zeros((size, size, inputs, outputs))
        gradient = jax.make_jaxpr(jax.grad(lambda x, k: layers.conv(x, k, strides).sum(), (0, 1)))(x, kernel)
        return str(gradient).count("dot_general["), str(gradient).count("conv_general_dilated[")

    assert operations(3, 64, 4, 2) == (2, 1)
    assert operations(1, 64, 4, 2) == operations(3, 64, 1, 1) == (3, 0)
    assert operations(6, 5, 4, 2) == (0, 6)  # Forwards one, the kernel's gradient one, the image's four phases.
    assert operations(64, 96, 3, 1) == (48, 0)
    assert operations(64, 64, 3, 1) == (52, 0)  # Four more transpose the images for the kernel's gradient.
    assert operations(47, 96, 3, 1) == operations(96, 47, 3, 1) == (0, 3)
    monkeypatch.setattr(convolutions, "LARGE_IMAGES", 1)
    assert operations(3, 64, 4, 2) == (3, 0)
    monkeypatch.undo()
    assert operations(64, 64, 3, 1) == (20, 2)  # Too small an image for any but the kernel's gradient.
    with plain_forms():
        assert operations(64, 64, 3, 1) == operations(3, 64, 4, 2) == (0, 3)
    monkeypatch.setattr(forms, "on_cpu", lambda: False)
    assert operations(64, 64, 3, 1) == operations(3, 64, 4, 2) == (0, 3)


@pairs
@pytest.mark.parametrize("side, size, strides", [(6, 4, 2), (5, 3, 2), (4, 2, 3), (5, 3, 1)])
@channels
def test_gradients_of_gradients(ours, plain, inputs, outputs, side, size, strides, in_float64):
    x, kernel = normal(0, 2, side, side, inputs), normal(1, size, size, inputs, outputs) / inputs**0.5
    got, expected = (jax.jit(second_order(lambda x, k, f=f: f(x, k, strides)))(x, kernel) for f in (ours, plain))
    close(got, expected, 1e-10)


# Of a 4x4 kernel with strides 2, and of a 3x3 kernel without.
shapes = pytest.mark.parametrize("size, strides", [(4, 2), (3, 1)])


@pairs
@channels
@shapes
def test_vmap_over_images_and_kernels(ours, plain, inputs, outputs, size, strides):
    x, kernel = normal(0, 3, 2, 6, 6, inputs), normal(1, 3, size, size, inputs, outputs) / inputs**0.5
    runs = (jax.jit(jax.vmap(first_order(lambda x, k, f=f: f(x, k, strides)))) for f in (ours, plain))
    got, expected = (run(x, kernel) for run in runs)
    close(got, expected)


@pairs
def test_plain_forms_have_forward_mode(ours, plain, in_float64):
    x, kernel = normal(0, 2, 6, 6, 3), normal(1, 4, 4, 3, 2)
    directions = normal(2, *x.shape), normal(3, *kernel.shape)

    def hessian_vector(function):
        gradient = jax.grad(lambda x, k: jnp.sum(jnp.sin(function(x, k, 2))), (0, 1))
        return jax.jvp(gradient, (x, kernel), directions)

    with plain_forms():
        got = hessian_vector(ours)
    close(got, hessian_vector(plain), 1e-10)
    with pytest.raises(TypeError, match="forward-mode"):
        hessian_vector(ours)


@pairs
@channels
@shapes
@pytest.mark.parametrize("dtype, tolerance", [(jnp.bfloat16, 8e-3), (jnp.float16, 1e-3)])
def test_forms_keep_the_dtype(ours, plain, dtype, tolerance, inputs, outputs, size, strides):
    x = jnp.asarray(normal(0, 2, 6, 6, inputs), dtype)
    kernel = jnp.asarray(normal(1, size, size, inputs, outputs) / inputs**0.5, dtype)

    def run(function):
        value, back = jax.vjp(lambda x, k: function(x, k, strides), x, kernel)
        return value, back(jnp.ones_like(value))

    got, expected = jax.jit(lambda: (run(ours), run(plain)))()
    assert got[0].dtype == dtype
    wide = (jax.tree.map(lambda a: a.astype(jnp.float32), each) for each in (got, expected))
    close(*wide, tolerance)


@pairs
@channels
@shapes
def test_scan_of_gradient_steps(ours, plain, inputs, outputs, size, strides, in_float64):
    kernel = normal(1, size, size, inputs, outputs) / inputs**0.5

    def run(function):
        def step(kernel, x):
            value, (_, gradient) = first_order(lambda x, k: function(x, k, strides))(x, kernel)
            return kernel - 0.01 * gradient, value

        return jax.jit(lambda: lax.scan(step, jnp.array(kernel), normal(0, 3, 2, 6, 6, inputs)))()

    close(run(ours), run(plain), 1e-10)


@pairs
@channels
@shapes
@pytest.mark.parametrize("order", [first_order, image_penalty])
def test_shard_map_sums_the_kernel_gradient_over_devices(
    ours, plain, order, inputs, outputs, size, strides, in_float64
):
    x, kernel = normal(0, 8, 6, 6, inputs), normal(1, size, size, inputs, outputs) / inputs**0.5
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    specs = {"mesh": mesh, "in_specs": (PartitionSpec("data"), PartitionSpec()), "out_specs": PartitionSpec()}

    def gradient(function, x, kernel):
        return order(lambda x, k: function(x, k, strides))(x, kernel)[1][1]

    # With checking on, a gradient by a replicated kernel is already summed.
    checked = jax.shard_map(partial(gradient, ours), check_vma=True, **specs)
    unchecked = jax.shard_map(lambda x, k: lax.psum(gradient(ours, x, k), "data"), check_vma=False, **specs)
    ways = (checked, unchecked, partial(gradient, plain))
    one, other, expected = jax.jit(lambda x, kernel: [way(x, kernel) for way in ways])(x, kernel)
    close(one, expected, 1e-10)
    close(other, expected, 1e-10)


@pytest.mark.parametrize("large", [1, 10**9], ids=["large", "small"])
@pytest.mark.parametrize(
    "strides, size, inputs",
    [(1, 1, 32), (1, 5, 32), (1, 3, 48), (1, 3, 64), (1, 3, 3), (1, 3, 1), (2, 3, 32), (2, 3, 3)],
)
def test_the_kernel_gradient_of_images_on_many_devices_gathers_none(monkeypatch, large, strides, size, inputs):
    monkeypatch.setattr(convolutions, "LARGE_IMAGES", large)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    cut, whole = jax.NamedSharding(mesh, PartitionSpec("data")), jax.NamedSharding(mesh, PartitionSpec())
    x = jax.device_put(normal(0, 16, 16, 16, inputs), cut)
    kernel = jax.device_put(normal(1, size, size, inputs, 64), whole)
    gradient = jax.jit(jax.grad(lambda k, x: jnp.sin(layers.conv(x, k, strides)).sum()), out_shardings=whole)
    with jax.set_mesh(mesh):
        program = gradient.lower(kernel, x).compile().as_text()
    assert "all-reduce" in program and "all-gather" not in program


@pytest.mark.parametrize(
    "side, window, strides, padding",
    [(8, 2, None, 0), (9, 3, 3, 0), (7, 2, 2, 0), (8, 3, 2, 1), (7, 3, 1, 0), (3, 3, None, 0)],
)
def test_max_pool_equals_flax(side, window, strides, padding):
    x, step = normal(0, 2, side, side, 3), strides or window

    def ours(x):
        return layers.max_pool(x, window, strides, padding)

    def plain(x):
        return nn.max_pool(x, (window, window), (step, step), [(padding, padding)] * 2)

    def run(function, x):
        return function(x), jax.grad(lambda x: jnp.sum(function(x) ** 2))(x)

    close(*jax.jit(lambda x: (run(ours, x), run(plain, x)))(x))


def test_of_equal_maxima_the_first_takes_the_gradient():
    x = jnp.array(np.random.default_rng(0).integers(0, 2, (2, 8, 6, 3)), jnp.float32)
    ours, plain = (jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (lambda x: layers.max_pool(x, 2), plain_pool))
    np.testing.assert_array_equal(ours, plain)


def test_max_pool_is_xlas_on_a_tpu_and_among_plain_forms(monkeypatch):
    def is_xlas():
        gradient = jax.grad(lambda x: layers.max_pool(x, 2).sum())
        return "reduce_window" in str(jax.make_jaxpr(lambda x: gradient(x))(jnp.zeros((1, 2, 2, 1))))

    assert not is_xlas()
    for backend, plain in {"tpu": True, "gpu": False}.items():
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert is_xlas() == plain
        with plain_forms():
            assert is_xlas()


def test_max_pool_under_transformations():
    x = normal(0, 8, 6, 6, 3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def penalty(pool):
        return lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x) ** 2)

    def everywhere(pool):
        second = jax.grad(penalty(pool))
        spec = PartitionSpec("data")
        return {
            "second": second(x),
            "vmap": jax.vmap(second)(x[:, None]),
            "scan": lax.scan(lambda carry, x: (carry, second(x)), 0, x[:, None])[1],
            "shard_map": jax.shard_map(second, mesh=mesh, in_specs=spec, out_specs=spec)(x),
        }

    close(*(jax.jit(everywhere, static_argnums=0)(f) for f in (lambda x: layers.max_pool(x, 2), plain_pool)))


def plain_pool(x):
    return nn.max_pool(x, (2, 2), (2, 2))


@pytest.mark.parametrize(
    "examples, widest, parts",
    [(32, 2**15, 2), (128, 2**15, 8), (8, 2**8, 1), (30, 2**15, 2), (7, 2**18, 7), (127, 2**18, 1), (1024, 2**15, 16)],
)
def test_parts_are_the_fewest_that_fit_the_cache_and_divide_the_batch(examples, widest, parts, one_device):
    seen = []
    in_parts(lambda x: seen.append(x.shape) or x, jnp.zeros((examples, 2)), widest)
    assert seen == parts * [(examples // parts, 2)]


def elsewhere(monkeypatch):
    monkeypatch.setattr(forms, "on_cpu", lambda: False)


def in_plain_forms(_):
    return plain_forms()


def on_devices(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)


def on_a_mesh(_, devices=8):
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=(AxisType.Auto,))
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def test_of_a_mesh_the_number_of_devices_in_use_counts():
    seen = []
    with on_a_mesh(None, devices=1):
        in_parts(lambda x: seen.append(x.shape) or x, jnp.zeros((2, 2)), 2**20)
    assert seen == [(1, 2), (1, 2)] and jax.device_count() == 8


class Doubled(nn.Module):
    note: Any

    def setup(self):
        self.head = layers.Dense(2)

    def __call__(self, x):
        return self.head(self.doubled(x))

    @layers.each_example_alone
    @nn.compact
    def doubled(self, x):
        self.note(x.shape)
        return layers.Dense(2, name="double")(x)

    def widest(self, image_shape):
        assert image_shape == (2,)
        return 2**20


def shapes_seen(x):
    seen = []
    jax.eval_shape(lambda: Doubled(seen.append).init_with_output(jax.random.key(0), x))
    return seen


@pytest.mark.parametrize("where", [elsewhere, in_plain_forms, on_devices, on_a_mesh])
def test_the_batch_stays_whole(where, one_device, monkeypatch):
    x = jnp.zeros((32, 2))
    assert shapes_seen(x) == 16 * [(2, 2)]
    with where(monkeypatch) or nullcontext():
        assert shapes_seen(x) == [(32, 2)]


def test_a_method_that_treats_each_example_alone_has_one_set_of_parameters(one_device):
    x, model = normal(0, 8, 2), Doubled(lambda shape: None)
    variables = model.init(jax.random.key(0), x)
    assert set(variables["params"]) == {"double", "head"}
    close(model.apply(variables, x), nn.Sequential([nn.Dense(2), nn.Dense(2)]).apply(renamed(variables), x))


def renamed(variables):
    params = variables["params"]
    return {"params": {"layers_0": params["double"], "layers_1": params["head"]}}


def test_in_parts_equals_the_whole_in_every_derivative(one_device, in_float64):
    x, kernel = jnp.array(normal(0, 8, 6, 6, 3)), jnp.array(normal(1, 3, 3, 3, 4))
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1], axis_types=(AxisType.Auto,))
    seen = []

    def parts(x, kernel):
        return in_parts(partial(whole, kernel=kernel), x, 2**20)

    def whole(x, kernel):
        seen.append(len(x))
        return layers.max_pool(jnp.sin(layers.conv(x, kernel)), 2)

    def everywhere(function):
        first, second = first_order(function), second_order(function)
        batch, same = PartitionSpec("data"), PartitionSpec()
        return {
            "first": first(x, kernel),
            "second": second(x, kernel),
            "vmap": jax.vmap(first)(x[None], kernel[None]),
            "scan": lax.scan(lambda carry, x: (carry, first(x, kernel)), 0, x[None])[1],
            "shard_map": jax.shard_map(
                lambda x, k: first(x, k)[1], mesh=mesh, in_specs=(batch, same), out_specs=(batch, same)
            )(x, kernel),
        }

    got = jax.jit(everywhere, static_argnums=0)(parts)
    assert set(seen) == {1}
    close(got, jax.jit(everywhere, static_argnums=0)(whole), 1e-10)


def test_max_pool_has_forward_mode():
    x, direction = normal(0, 1, 4, 4, 1), normal(1, 1, 4, 4, 1)
    _, tangent = jax.jvp(lambda x: layers.max_pool(x, 2), (x,), (direction,))
    gradient = jax.grad(lambda x: layers.max_pool(x, 2).sum())(x)
    np.testing.assert_allclose(tangent.sum(), jnp.sum(gradient * direction), rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Dense(3, dtype=jnp.bfloat16),
        layers.Conv(3, 1, dtype=jnp.bfloat16),
        layers.ConvTranspose(3, 1, 1, dtype=jnp.bfloat16),
        layers.SpectralConv(3, size=1, dtype=jnp.bfloat16),
        layers.SpectralDense(3, dtype=jnp.bfloat16),
        Projection((3,), dtype=jnp.bfloat16),
    ],
    ids=lambda layer: type(getattr(layer, "layer", layer)).__name__,
)
def test_the_gradient_of_a_bias_is_summed_in_float32(layer):
    x = jnp.ones((1, 7, 43, 2), jnp.bfloat16)
    parameters = layer.init(jax.random.key(0), x)["params"]
    gradient = jax.grad(lambda p: layer.apply({"params": p}, x, mutable=["batch_stats"])[0].astype(jnp.float32).sum())
    # bfloat16 knows 300 and 302, but not 301.
    np.testing.assert_array_equal(gradient(parameters)["bias"], np.full(3, 301, np.float32))


@pytest.mark.parametrize(
    "options", [{}, {"use_bias": False}, {"bias_init": nn.initializers.ones}], ids=["bias", "none", "ones"]
)
@pytest.mark.parametrize(
    "ours, plain",
    [(layers.Dense, nn.Dense), (layers.Conv, partial(nn.Conv, kernel_size=(3, 3)))],
    ids=["Dense", "Conv"],
)
def test_parameters_and_results_are_flaxs(ours, plain, options):
    x = normal(0, 1, 4, 4, 2)
    got, expected = (layer(6, **options).init_with_output(jax.random.key(0), x) for layer in (ours, plain))
    jax.tree.map(np.testing.assert_array_equal, got[1], expected[1])
    close(got[0], expected[0])


@pytest.mark.parametrize("size, inputs, outputs", [(3, 3, 8), (3, 64, 64), (5, 8, 8)])
@pytest.mark.parametrize("function", [layers.conv, layers.conv_transpose])
def test_on_a_cpu_bfloat16_is_multiplied_as_it_is_and_convolved_in_float32(
    function, size, inputs, outputs, monkeypatch
):
    monkeypatch.setattr(winograd, "LARGE", 1)
    x, kernel = jnp.ones((1, 8, 8, inputs), jnp.bfloat16), jnp.ones((size, size, inputs, outputs), jnp.bfloat16)
    gradients = jax.grad(lambda x, k: function(x, k, 1).astype(jnp.float32).sum(), (0, 1))
    program = jax.make_jaxpr(gradients)(x, kernel)
    dtypes = {"dot_general": jnp.bfloat16, "conv_general_dilated": jnp.float32}
    made = {(name, each.dtype) for name, each in operands(program.jaxpr)}
    assert made and made <= {(name, jnp.dtype(dtype)) for name, dtype in dtypes.items()}
    assert {each.dtype for each in program.out_avals} == {jnp.dtype("bfloat16")}


@pytest.fixture
def by_onednn(monkeypatch):
    """Every convolution by oneDNN, in float32 too, so that numbers can be compared closely."""
    if not host.carries_onednn():
        pytest.skip(f"jaxlib {jaxlib.__version__} on {platform.machine()} is not known to hold oneDNN")
    monkeypatch.setattr(onednn, "suits", lambda x: x.size > 0)
    monkeypatch.setattr(onednn, "FEWEST_IMAGES", 1)


@pytest.mark.usefixtures("by_onednn")
@pytest.mark.parametrize("padding, batch", [("SAME", 1), ("VALID", 2), (((2, 1), (0, 3)), 33)], ids=str)
@pytest.mark.parametrize("size, strides", [(1, 1), (1, 2), (3, 1), (3, 2), (3, 3), (4, 2), (2, 3)])
@channels
def test_onednns_convolution_is_laxs_in_value_and_gradients(inputs, outputs, size, strides, padding, batch):
    x, kernel = normal(0, batch, 7, 6, inputs), normal(1, size, size, inputs, outputs) / (size * inputs**0.5)

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=NUMBERS)

    def ours(x, kernel):
        return layers.conv(x, kernel, strides, padding)

    for order in (first_order, image_penalty):
        got, expected = (jax.jit(order(function))(x, kernel)[1] for function in (ours, plain))
        for each, wanted in zip(got, expected, strict=True):
            assert np.linalg.norm(each - wanted) <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.usefixtures("by_onednn")
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)], ids=str)
def test_onednns_convolution_under_vmap_and_transposed(axes):
    x, kernel = (
        normal(seed, *[3] * (axis is not None), *shape)
        for seed, axis, shape in zip((0, 1), axes, ((2, 8, 8, 5), (4, 4, 5, 6)), strict=True)
    )
    for pair in PAIRS.values():
        got, expected = (jax.jit(jax.vmap(lambda x, k, f=f: f(x, k, 2), axes))(x, kernel) for f in pair)
        assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)
        mapped = (jax.vmap(first_order(lambda x, k, f=f: f(x, k / 9, 2)), axes) for f in pair)
        for got, expected in zip(*(jax.jit(function)(x, kernel)[1] for function in mapped), strict=True):
            assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.usefixtures("by_onednn")
@pytest.mark.skipif(not host.has_matrix_units(), reason="this CPU has no matrix units for bfloat16")
@pytest.mark.parametrize("size, strides", [(1, 1), (3, 1), (4, 2)])
@channels
def test_onednns_convolution_in_bfloat16_is_that_in_float32_but_for_rounding(inputs, outputs, size, strides):
    wide = normal(0, 16, 7, 6, inputs), normal(1, size, size, inputs, outputs) / (size * inputs**0.5)
    narrow = [jnp.asarray(x, jnp.bfloat16) for x in wide]
    expected = jax.jit(first_order(lambda x, k: plain_down(x, k, strides)))(*(x.astype(jnp.float32) for x in narrow))
    ours = first_order(lambda x, k: layers.conv(x, k, strides).astype(jnp.float32))
    for got, wanted in zip(jax.jit(ours)(*narrow)[1], expected[1], strict=True):
        assert np.linalg.norm(got.astype(jnp.float32) - wanted) <= 2e-2 * np.linalg.norm(wanted)


@pytest.fixture
def one_device_with_onednn(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    with onednn._at_hand(True):
        yield


@pytest.mark.usefixtures("one_device_with_onednn")
def test_onednn_is_for_bfloat16_on_one_device(monkeypatch):
    narrow = jnp.ones(1, jnp.bfloat16)
    assert onednn.suits(narrow)
    assert not onednn.suits(narrow.astype(jnp.float32)) and not onednn.suits(narrow[:0])
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert not onednn.suits(narrow)


@pytest.mark.usefixtures("one_device_with_onednn")
def test_inside_shard_map_convolutions_are_not_onednns():
    """Its operation does not say over which axes of a mesh it varies, as gradients have to."""
    asked = []

    def ask(x):
        asked.append(onednn.suits(x))
        return x

    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    cut = jax.shard_map(ask, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
    jax.eval_shape(cut, jnp.ones(1, jnp.bfloat16))
    assert asked == [False]


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [(host.jaxlib, "__version__", "0.9.1"), (host.platform, "machine", lambda: "aarch64")],
    ids=["version", "machine"],
)
def test_onednn_is_known_in_some_builds_of_jaxlib(where, name, value, monkeypatch):
    monkeypatch.setattr(host.jaxlib, "__version__", host.ONEDNN_IN[0])
    monkeypatch.setattr(host.platform, "system", lambda: "Linux")
    monkeypatch.setattr(host.platform, "machine", lambda: "x86_64")
    assert host.carries_onednn()
    monkeypatch.setattr(where, name, value)
    assert not host.carries_onednn()


def test_avg_pool_repeats_the_border_and_upsample_undoes_it():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    np.testing.assert_allclose(layers.avg_pool(x, 2)[0, ..., 0], [[2, 3.5], [6.5, 8]])
    np.testing.assert_array_equal(layers.upsample(x, 2)[0, :, :, 0], np.kron(x[0, ..., 0], np.ones((2, 2))))
    np.testing.assert_array_equal(layers.avg_pool(layers.upsample(x, 2), 2), x)


@pytest.mark.parametrize("name, expected", [("relu", 0.0), ("sigmoid", 0.26894), ("tanh", -0.76159), ("gelu", -0.1588)])
def test_activation(name, expected):
    np.testing.assert_allclose(layers.activation(name)(jnp.float32(-1)), expected, atol=1e-4)


class Norm(nn.Module):
    axis_name: str | None = None
    train: bool = True

    @nn.compact
    def __call__(self, x):
        return layers.batch_norm(x, self.train, self.axis_name)


def test_batch_norm_over_a_mapped_axis_is_batch_norm_of_the_whole():
    x = 3 + 2 * normal(0, 8, 4, 4, 3)
    variables = Norm().init(jax.random.key(0), x)
    whole, state = Norm().apply(variables, x, mutable=["batch_stats"])
    parts = x.reshape(4, 2, *x.shape[1:])
    mapped = jax.vmap(lambda x: Norm("data").apply(variables, x, mutable=["batch_stats"]), axis_name="data")
    halves, states = mapped(parts)
    close(halves.reshape(whole.shape), whole, 1e-4)
    close(jax.tree.map(lambda a: a[0], states), state, 1e-4)
    np.testing.assert_allclose(whole.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(whole.std((0, 1, 2)), 1, atol=1e-3)
    stored = jax.tree.leaves(state["batch_stats"])[0]
    np.testing.assert_allclose(stored, 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    assert Norm().apply(variables, x.astype(jnp.bfloat16), mutable=["batch_stats"])[0].dtype == jnp.bfloat16


def test_spectral_layers_without_normalization_are_the_plain_ones():
    x = normal(0, 2, 6, 5, 3)
    conv = layers.SpectralConv(4, size=4, strides=2)
    variables = conv.init(jax.random.key(0), x)
    assert set(variables) == {"params"}
    close(conv.apply(variables, x), layers.Conv(4, 4, 2).apply(variables, x))
    dense = layers.SpectralDense(4)
    variables = dense.init(jax.random.key(0), x[:, 0, 0])
    close(dense.apply(variables, x[:, 0, 0]), nn.Dense(4).apply(variables, x[:, 0, 0]))


@pytest.mark.parametrize(
    "layer, x",
    [
        (layers.SpectralConv(5, spectral=True, use_bias=False, size=3), np.ones((1, 4, 4, 2), np.float32)),
        (layers.SpectralDense(6, spectral=True, use_bias=False), np.ones((1, 9), np.float32)),
    ],
    ids=["conv", "dense"],
)
def test_spectral_norm_becomes_one(layer, x):
    variables = layer.init(jax.random.key(0), x)
    params = jax.tree.map(lambda w: 7 * w, variables["params"])

    def step(stats, _):
        _, updates = layer.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
        return updates["batch_stats"], None

    stats, _ = jax.jit(lambda s: lax.scan(step, s, None, 100))(variables["batch_stats"])
    factor = layer.apply({"params": params, "batch_stats": stats}, x) / layer.clone(spectral=False).apply(
        {"params": params}, x
    )
    matrix = np.asarray(params["kernel"]).reshape(-1, layer.features)
    np.testing.assert_allclose(factor * np.linalg.norm(matrix, 2), 1, atol=1e-2)


def test_spectral_norm_moves_its_vector_in_training_only():
    layer, x = layers.SpectralDense(6, spectral=True), normal(0, 2, 9)
    variables = layer.init(jax.random.key(0), x)
    outputs, trained = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    _, evaluated = layer.apply(variables, x, train=False, mutable=["batch_stats"])
    assert not np.allclose(trained["batch_stats"]["u"], variables["batch_stats"]["u"])
    close(evaluated["batch_stats"], variables["batch_stats"])
    close(layer.apply(variables, x, train=True), outputs)


def test_spectral_norm_is_blind_to_the_kernels_scale_and_so_is_its_gradient():
    layer, x = layers.SpectralDense(6, spectral=True, use_bias=False), normal(0, 2, 9)
    variables = layer.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]

    def outputs(factor):
        return layer.apply({**variables, "params": {"kernel": factor * kernel}}, x)

    close(outputs(5.0), outputs(1.0))
    slope = jax.grad(lambda factor: jnp.sum(outputs(factor) ** 2))(1.0)
    np.testing.assert_allclose(slope, 0, atol=1e-4)


@pytest.mark.parametrize(
    "strides, size, padding", [(1, 3, "SAME"), (2, 3, "SAME"), (2, 4, "VALID"), (1, 1, ((1, 0), (0, 2)))]
)
def test_a_convolution_as_a_product_is_the_convolution_for_each_member(strides, size, padding, in_float64):
    x, kernels = normal(0, 2, 9, 8, 3), normal(1, 4, size, size, 3, 5)

    def plain(x, kernel):
        pairs = padding if isinstance(padding, str) else list(padding)
        return lax.conv_general_dilated(x, kernel, (strides, strides), pairs, dimension_numbers=layers.NUMBERS)

    def value_and_gradients(conv):
        def value(x, kernel):
            return jnp.sin(conv(x, kernel)).sum()

        return jax.jit(jax.vmap(jax.value_and_grad(value, (0, 1)), (None, 0)))(x, kernels)

    found = value_and_gradients(partial(members.conv, strides=strides, padding=padding))
    close(found, value_and_gradients(plain), 1e-10)


def test_convolutions_are_products_where_they_are_asked_for():
    x, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    conv = jax.jit(layers.conv)

    def convolutions():
        return conv.lower(x, kernel).as_text().count("stablehlo.convolution")

    with plain_forms():
        assert convolutions() == 1
        with members.convolutions_as_products():
            assert convolutions() == 0
        assert convolutions() == 1
