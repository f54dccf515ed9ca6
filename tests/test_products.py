"""Products against `jnp.einsum`: values, gradients, gradients of gradients, and in bfloat16."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import close, equations
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from jaxrec.models import layers
from jaxrec.models.cpu import forms
from jaxrec.models.cpu.forms import plain_forms
from jaxrec.models.layers import product
from jaxrec.models.vit import Projection, ViT

SIZES = {"n": 33, "k": 3, "d": 5, "a": 2, "b": 4, "c": 6, "x": 7, "y": 3, "z": 2, "h": 2, "q": 5}
ORDERS = [
    *("nk,kd->nd", "nd,kd->nk", "nk,nd->kd", "nd,nk->dk"),  # a dense layer's three, and the third the other way round
    *("abk,kd->abd", "abc,cxyz->abxyz", "abcd,cdx->abx"),  # of more axes
    *("bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd"),  # attention's
]
orders = pytest.mark.parametrize("order", ORDERS)


def factors(order, seed=0, **sizes):
    random = np.random.default_rng(seed)
    return [random.normal(size=[{**SIZES, **sizes}[axis] for axis in axes]) for axes in order.split("->")[0].split(",")]


def first_order(function, order):
    return jax.value_and_grad(lambda a, b: jnp.sum(jnp.sin(function(order, a, b))), (0, 1))


def second_order(function, order):
    first = first_order(function, order)
    return jax.grad(lambda a, b: sum(jnp.sum(g**2) for g in first(a, b)[1]), (0, 1))


def dots(function, *arguments):
    """The products that a function makes: shapes and dtypes of the factors, which axes meet, the result's dtype."""

    made = []
    for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        if equation.primitive.name == "dot_general":
            inputs = [(each.aval.shape, each.aval.dtype) for each in equation.invars]
            made.append((inputs, equation.params["dimension_numbers"], equation.outvars[0].aval.dtype))
    return made


@orders
def test_products_are_einsums_in_every_derivative(order, in_float64):
    a, b = factors(order)
    for derivative in (first_order, second_order):
        close(*(jax.jit(derivative(function, order))(a, b) for function in (product, jnp.einsum)), 1e-12)


@orders
@pytest.mark.parametrize("sizes", [{}, dict.fromkeys("kqdx", 1), dict.fromkeys("nab", 1), {"n": 130, "k": 64, "d": 10}])
def test_bfloat16_is_multiplied_as_it_is_and_summed_in_float32(order, sizes):
    left, right, out = order.replace("->", ",").split(",")
    numbers = [*factors(order, **sizes), *factors(f"{out},{right}->{left}", seed=1, **sizes)[:1]]
    narrow = [jnp.asarray(each, jnp.bfloat16) for each in numbers]

    def run(function, a, b, c):
        value, gradients = jax.vjp(lambda a, b: function(order, a, b), a, b)
        return value, gradients(c)

    got = jax.jit(lambda *narrow: run(product, *narrow))(*narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
    made = dots(lambda *narrow: run(product, *narrow), *narrow)
    assert len(made) == 3
    for inputs, ((left, right), (batch, same)), result in made:
        assert {dtype for _, dtype in inputs} == {jnp.dtype(jnp.bfloat16)} and result == jnp.float32
        # Other orders XLA converts, or fails at.
        (a, _), (b, _) = inputs
        assert batch == same == tuple(range(len(batch)))
        assert left == tuple(range(len(a) - len(left), len(a)))
        assert right in (tuple(range(len(b) - len(left), len(b))), tuple(range(len(batch), len(batch) + len(left))))
    wide, got = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (narrow, got))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2**-8, atol=1e-4), got, run(jnp.einsum, *wide))


@pytest.mark.parametrize(
    "inputs, outputs, first", [(64, 8, 8), (8, 64, 8), (8, 8, 8), (512, 8, 512)], ids=["wide", "narrow", "same", "huge"]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_weight_gradient_transposes_what_is_smaller(inputs, outputs, first, dtype):
    # Not where the result, which is transposed in its stead, is as large.
    n = 32 if inputs < 512 else 6
    x, gradient = jnp.zeros((n, inputs), dtype), jnp.zeros((n, outputs), dtype)
    [((left, _), _), *_] = dots(lambda x, g: product("nk,nd->kd", x, g), x, gradient)[0]
    assert left == ((first, n) if dtype == jnp.bfloat16 else (n, first))


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float64, 1e-12), (jnp.bfloat16, 2**-6)], ids=["f64", "bf16"])
@pytest.mark.parametrize("sizes", [{"k": 3, "d": 5}, {"k": 64, "d": 2}], ids=str)
def test_products_under_transformations(sizes, dtype, tolerance, in_float64):
    order = "nk,kd->nd"
    x, kernel = (jnp.array(each / 4, dtype) for each in factors(order, n=64, **sizes))
    x = x.reshape(8, 8, -1)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = PartitionSpec("data"), PartitionSpec()

    def everywhere(function):
        first = first_order(function, order)

        def on_devices(x, kernel):
            # With checking on, a gradient by a replicated kernel is summed over the devices.
            return first(x[0], kernel)[1]

        return {
            "images": jax.vmap(first, (0, None))(x, kernel),
            "kernels": jax.vmap(first, (None, 0))(x[0], jnp.stack([kernel, -kernel])),
            "both": jax.vmap(first)(x[:2], jnp.stack([kernel, -kernel])),
            "scan": lax.scan(lambda carry, x: (carry, first(x, kernel)), 0, x)[1],
            "shard_map": jax.shard_map(on_devices, mesh=mesh, in_specs=specs, out_specs=specs)(x, kernel),
        }

    got, expected = (jax.jit(everywhere, static_argnums=0)(function) for function in (product, jnp.einsum))
    assert [leaf.dtype for leaf in jax.tree.leaves(got)] == [leaf.dtype for leaf in jax.tree.leaves(expected)]
    close(*(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), each) for each in (got, expected)), tolerance)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("inputs, outputs", [(64, 8), (8, 64)])
def test_a_weight_gradient_over_many_devices_gathers_no_images(inputs, outputs, dtype):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    cut, whole = jax.NamedSharding(mesh, PartitionSpec("data")), jax.NamedSharding(mesh, PartitionSpec())
    x = jax.device_put(jnp.zeros((64, inputs), dtype), cut)
    kernel = jax.device_put(jnp.zeros((inputs, outputs), dtype), whole)
    gradient = jax.jit(jax.grad(lambda k, x: jnp.sin(product("nk,kd->nd", x, k)).sum()), out_shardings=whole)
    with jax.set_mesh(mesh):
        program = gradient.lower(kernel, x).compile().as_text()
    assert "all-reduce" in program and "all-gather" not in program


def test_plain_forms_have_forward_mode(in_float64):
    order = "nk,kd->nd"
    a, b = factors(order)

    def hessian_vector(function):
        gradient = jax.grad(lambda a, b: jnp.sum(jnp.sin(function(order, a, b))), (0, 1))
        return jax.jvp(gradient, (a, b), tuple(factors(order, seed=1)))

    with plain_forms():
        got = hessian_vector(product)
    close(got, hessian_vector(jnp.einsum), 1e-12)
    with pytest.raises(TypeError, match="forward-mode"):
        hessian_vector(product)


def test_elsewhere_than_on_a_cpu_they_are_xlas(monkeypatch):
    x = jnp.zeros((2, 3), jnp.bfloat16)
    assert [result for *_, result in dots(lambda x: product("nk,dk->nd", x, x), x)] == [jnp.float32]
    monkeypatch.setattr(forms, "on_cpu", lambda: False)
    assert [result for *_, result in dots(lambda x: product("nk,dk->nd", x, x), x)] == [jnp.bfloat16]


@pytest.mark.parametrize("order", ["nk,kd->n", "nk,kd->nkx", "nk, kd -> nd", "nkk,kd->nd", "...k,kd->...d", "nk->nk"])
def test_orders_whose_gradients_are_no_products_are_refused(order):
    with pytest.raises(ValueError, match="expected one like 'nk,kd->nd'"):
        product(order, jnp.ones((2, 2)), jnp.ones((2, 2)))


@pytest.mark.parametrize(
    "layer",
    [
        layers.Dense(3, dtype=jnp.bfloat16),
        layers.SpectralDense(3, dtype=jnp.bfloat16),
        Projection((3,), 1, jnp.bfloat16),
    ],
    ids=["Dense", "SpectralDense", "Projection"],
)
def test_layers_multiply_bfloat16_as_it_is(layer):
    x = jnp.ones((2, 4, 2), jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    made = [inputs for inputs, *_, result in dots(layer.apply, variables, x) if result == jnp.float32]
    assert ((2, 4, 2), jnp.bfloat16) in [each for inputs in made for each in inputs]


def test_attention_multiplies_bfloat16_as_it_is():
    model = ViT(5, dim=8, depth=1, dtype=jnp.bfloat16)
    images = jnp.ones((2, 8, 8, 3))
    variables = model.init(jax.random.key(0), images)
    # Patches, queries with keys and values, the scores, the values mixed, the way out, a hidden layer, the head.
    made = dots(model.apply, variables, images)
    assert [[dtype for _, dtype in inputs] for inputs, *_ in made] == 8 * [[jnp.bfloat16, jnp.bfloat16]]
    assert [result for *_, result in made] == 8 * [jnp.float32]


def test_a_dense_layer_asked_for_a_precision_has_it():
    x = jnp.ones((2, 3))
    layer = layers.Dense(2, precision="highest")
    program = str(jax.make_jaxpr(layer.apply)(layer.init(jax.random.key(0), x), x))
    assert "Precision.HIGHEST" in program
