"""Optimizers against optax, schedules against closed forms, penalties and rules against hand-written updates."""

import dataclasses
import inspect
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import optimizers
from jaxrec.errors import UserError
from jaxrec.settings import Optimizer, Rule

STEPS = 6
LR, DECAY = 0.1, 0.3
SHAPES = {"conv/kernel": (3, 3, 2, 4), "conv/bias": (4,), "dense/kernel": (5, 4), "scale": (), "positions": (1, 2, 3)}
KERNELS = {name: len(shape) > 1 for name, shape in SHAPES.items()}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


PARAMS = draw(0)
GRADS = [draw(step + 1) for step in range(STEPS)]


def train(config, params=PARAMS, steps=STEPS, **hyper):
    """Parameters after the fixed gradients, each step compiled as in a task."""
    numbers = {**optimizers.hyperparameters(config), **{name: jnp.float32(value) for name, value in hyper.items()}}
    opt_state = optimizers.transformation(config).init(params)
    step_of = jax.jit(lambda *arguments: optimizers.update(config, numbers, *arguments))
    # optax corrects Adam's bias with integers among its floats.
    with jax.numpy_dtype_promotion("standard"):
        for step in range(steps):
            grads = {name: GRADS[step][name] for name in params}
            params, opt_state, _ = step_of(jnp.int32(step), grads, opt_state, params)
    return params


def train_with_optax(transformation):
    params, opt_state = PARAMS, transformation.init(PARAMS)
    update = jax.jit(transformation.update)
    with jax.numpy_dtype_promotion("standard"):
        for grads in GRADS:
            updates, opt_state = update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
    return params


def assert_equal(got, want, tolerance=2e-6):
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=tolerance, atol=tolerance, err_msg=name)


def then_decay(transformation):
    """The decoupled decay of an optimizer that has none of its own in optax."""
    return optax.chain(transformation, optax.add_decayed_weights(-DECAY, mask=KERNELS), optax.scale_by_schedule(rate))


def rate(step):
    """Cosine from LR, written out."""
    return LR * 0.5 * (1 + jnp.cos(jnp.pi * step / STEPS))


MATRIX = optax.contrib.MuonDimensionNumbers((0,), 1)
CONVOLUTION = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
MUON_AXES = {**dict.fromkeys(SHAPES), "dense/kernel": MATRIX, "conv/kernel": CONVOLUTION}

REFERENCES = {
    "sgd": optax.chain(optax.add_decayed_weights(DECAY, mask=KERNELS), optax.sgd(rate)),
    "momentum": then_decay(optax.sgd(1.0, 0.8)),
    "nesterov": then_decay(optax.sgd(1.0, 0.8, nesterov=True)),
    "adam": optax.adamw(rate, 0.8, 0.95, weight_decay=DECAY, mask=KERNELS),
    "adamw": optax.adamw(rate, 0.8, 0.95, weight_decay=DECAY, mask=KERNELS),
    "nadam": optax.nadamw(rate, 0.8, 0.95, weight_decay=DECAY, mask=KERNELS),
    "lion": optax.lion(rate, 0.8, 0.99, weight_decay=DECAY, mask=KERNELS),
    "adagrad": then_decay(optax.adagrad(1.0)),
    "rmsprop": then_decay(optax.rmsprop(1.0)),
    "muon": then_decay(
        optax.contrib.muon(1.0, beta=0.8, adam_b2=0.95, muon_weight_dimension_numbers=MUON_AXES, consistent_rms=0.2)
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_optimizers_equal_optax(name):
    config = Optimizer(name, lr=LR, warmup=0.0, steps=STEPS, momentum=0.8, beta2=0.95, weight_decay=DECAY)
    assert_equal(train(config), train_with_optax(REFERENCES[name]), 1e-5)


OTHERS = sorted(set(optimizers.names()) - {*REFERENCES, "muon-sgd"})
WITHOUT_SCALARS = {name: value for name, value in PARAMS.items() if value.ndim}


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_optimizer_of_optax_takes_its_steps(name):
    """At a constant rate, to which every update has to be proportional: as optax's own at that rate."""
    config = Optimizer(name, lr=LR, schedule="constant", warmup=0.0)
    made = getattr(optax, name)
    decay = {"weight_decay": 0.0} if "weight_decay" in inspect.signature(made).parameters else {}
    reference = made(learning_rate=LR, **decay)
    params = WITHOUT_SCALARS  # optax's sm3 has no scalars.
    opt_state = reference.init(params)
    got = train(config, params, 3)
    with jax.numpy_dtype_promotion("standard"):
        for step in range(3):
            grads = {name: GRADS[step][name] for name in params}
            updates, opt_state = jax.jit(reference.update)(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
    assert_equal(got, params, 1e-5)
    for name, value in got.items():
        assert np.isfinite(value).all()
        assert not np.array_equal(value, PARAMS[name]), name


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("lamb", optax.lamb(LR, 0.8, 0.95)),
        ("amsgrad", optax.amsgrad(LR, 0.8, 0.95)),
        ("lars", optax.lars(LR, momentum=0.8)),
        ("adan", optax.adan(LR)),
    ],
)
def test_betas_reach_the_optimizers_that_have_the_usual_ones(name, reference):
    config = Optimizer(name, lr=LR, schedule="constant", warmup=0.0, momentum=0.8, beta2=0.95)
    assert_equal(train(config), train_with_optax(reference), 1e-5)


def three_newton_schulz_steps(kernel):
    """Of a kernel [K,K,I,O] as a matrix of inputs by outputs, as Jordan (2024) gives them."""
    matrix = np.float64(kernel).reshape(-1, kernel.shape[-1])
    matrix = matrix / np.linalg.norm(matrix)
    for _ in range(3):
        square = matrix.T @ matrix
        matrix = 3.4445 * matrix + matrix @ (-4.7750 * square + 2.0315 * square @ square)
    return matrix.reshape(kernel.shape)


def test_muon_sgd_holds_the_norms_of_convolutions_and_moves_the_rest_by_nesterovs_momentum():
    rng = np.random.default_rng(0)
    shapes = {
        "a/kernel": (3, 3, 2, 4),
        "b/kernel": (3, 3, 2, 4),
        "c/kernel": (3, 3, 4, 5),
        "bias": (4,),
        "head": (5, 3),
    }

    def drawn():
        return {name: np.float32(rng.normal(size=shape)) for name, shape in shapes.items()}

    params, grads = drawn(), [drawn(), drawn()]
    config = Optimizer("muon-sgd", lr=LR, schedule="constant", warmup=0.0, momentum=0.6, beta2=0.8)
    numbers, opt_state = optimizers.hyperparameters(config), optimizers.transformation(config).init(params)
    got, expected = params, dict(params)
    with jax.numpy_dtype_promotion("standard"):
        for step in range(2):
            before = got
            got, opt_state, changes = optimizers.update(config, numbers, jnp.int32(step), grads[step], opt_state, got)
            assert_equal(changes, jax.tree.map(jnp.subtract, got, before))
    for name in shapes:
        trace = 0.0
        mean = 0.0
        for step in range(2):
            gradient = np.float64(grads[step][name])
            if expected[name].ndim != 4:
                trace = gradient + 0.8 * trace
                expected[name] = expected[name] - LR * (gradient + 0.8 * trace)
                continue
            mean = 0.6 * mean + 0.4 * gradient
            # optax corrects the bias of the mean after the next step, and of the gradient as if it were a mean.
            ahead = 0.6 * mean / (1 - 0.6 ** (step + 2)) + 0.4 * gradient / (1 - 0.6 ** (step + 1))
            moved = expected[name] - LR * three_newton_schulz_steps(ahead)
            expected[name] = moved * np.sqrt(moved.shape[-1]) / np.linalg.norm(moved)
    assert_equal(got, expected, 1e-4)


def test_sign_sgd_moves_by_the_sign_and_adamax_by_the_largest_gradient():
    moved = train(Optimizer("sign_sgd", lr=LR, schedule="constant", warmup=0.0), steps=1)
    assert_equal(moved, {name: PARAMS[name] - LR * np.sign(GRADS[0][name]) for name in PARAMS})
    # After one step Adamax's mean and largest gradient are the gradient and its size (Kingma & Ba 2015).
    assert_equal(train(Optimizer("adamax", lr=LR, schedule="constant", warmup=0.0), steps=1), moved, 1e-5)


def test_other_optimizers_are_decayed_and_scheduled_as_the_known_ones():
    config = Optimizer("radam", lr=LR, warmup=0.0, steps=STEPS, weight_decay=DECAY)
    assert_equal(train(config), train_with_optax(then_decay(optax.radam(1.0))), 1e-5)


@pytest.mark.parametrize(
    ("name", "named"), [("lbfgs", "adamw"), ("polyak_sgd", "adamw"), ("adm", "'adam'"), ("scale_by_adam", "optax")]
)
def test_optimizers_that_cannot_be_used_are_named(name, named):
    with pytest.raises(UserError, match=f"--optimizer.name '{name}'.*{named}"):
        optimizers.transformation(Optimizer(name))


def test_a_given_transformation_replaces_the_named_one():
    given = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(LR, weight_decay=DECAY))
    config = Optimizer("sgd", lr=7.0, weight_decay=3.0, clip=1e-3, rules=(Rule("dense", lr=0.0),))
    opt_state = optimizers.transformation(config, given).init(PARAMS)
    numbers = optimizers.hyperparameters(config)
    with jax.numpy_dtype_promotion("standard"):
        got, _, _ = optimizers.update(config, numbers, jnp.int32(0), GRADS[0], opt_state, PARAMS, given)
        updates, _ = given.update(GRADS[0], given.init(PARAMS), PARAMS)
    assert_equal(got, {**optax.apply_updates(PARAMS, updates), "dense/kernel": PARAMS["dense/kernel"]})


def test_hyperparameters_of_the_state_hold_not_those_of_the_configuration():
    given = Optimizer("sgd", lr=0.7, weight_decay=0.2, schedule="constant", warmup=0.0)
    other = dataclasses.replace(given, lr=0.1, weight_decay=0.0)
    assert_equal(train(other, lr=0.7, weight_decay=0.2), train(given))


# Schedules


def one_cycle(step, steps, warmup):
    if step < warmup:
        return 1 - 0.96 * (1 + np.cos(np.pi * step / warmup)) / 2
    return 4e-6 + (1 - 4e-6) * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup))) / 2


SCHEDULES = {
    "constant": lambda fall, final: 1.0,
    "linear": lambda fall, final: 1 + (final - 1) * fall,
    "cosine": lambda fall, final: final + (1 - final) * (1 + np.cos(np.pi * fall)) / 2,
}


@pytest.mark.parametrize("name", get_args(get_type_hints(Optimizer)["schedule"]))
@pytest.mark.parametrize(
    ("warmup", "final", "steps"), [(0.0, 0.0, 7), (0.3, 0.1, 20), (0.05, 0.0, 20), (1.0, 0.0, 9), (0.5, 0.5, 1)]
)
def test_schedules_follow_their_formulas(name, warmup, final, steps):
    rising = min(round(warmup * steps), steps - 1)

    def formula(step):
        step = min(step, steps)
        if name == "one-cycle":
            return one_cycle(step, steps, rising)
        if step < rising:
            return (step + 1) / rising
        return SCHEDULES[name]((step - rising) / (steps - rising), final)

    config = Optimizer(schedule=name, warmup=warmup, final=final, steps=steps)
    values = jax.jit(jax.vmap(lambda step: optimizers.schedule(config, step)))(jnp.arange(steps + 3))
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, [formula(step) for step in range(steps + 3)], atol=1e-6)
    assert values.max() <= 1 and values.min() > -1e-7
    assert values[rising] == 1
    if name in ("linear", "cosine"):
        np.testing.assert_allclose(values[steps:], final, atol=1e-7)


def test_without_a_length_the_rate_stays_at_its_peak():
    for name in get_args(get_type_hints(Optimizer)["schedule"]):
        assert {float(optimizers.schedule(Optimizer(schedule=name), jnp.int32(step))) for step in (0, 9, 10**6)} == {
            1.0
        }


def test_one_cycle_equals_optax():
    config = Optimizer(schedule="one-cycle", warmup=0.3, steps=20)
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.vmap(optax.cosine_onecycle_schedule(20, 1.0, 0.3))(jnp.arange(25))
    np.testing.assert_allclose(
        jax.vmap(lambda step: optimizers.schedule(config, step))(jnp.arange(25)), expected, atol=1e-6
    )


# Penalties, clipping, rules

SGD = Optimizer("sgd", lr=LR, schedule="constant", warmup=0.0)


def penalty_gradient(config, params=PARAMS):
    return jax.grad(lambda params: optimizers.penalty(config, optimizers.hyperparameters(config), params))(params)


def test_penalties_have_their_gradients_on_kernels_alone():
    gradient = penalty_gradient(Optimizer(l1=0.3, l2=0.2))
    for name, value in PARAMS.items():
        expected = 0.3 * np.sign(value) + 0.2 * value if KERNELS[name] else np.zeros_like(value)
        np.testing.assert_allclose(gradient[name], expected, atol=1e-6, err_msg=name)
    assert optimizers.penalty(Optimizer(), {}, PARAMS) == 0
    only_biases = {"bias": jnp.ones(3)}
    assert optimizers.penalty(Optimizer(l1=1.0, l2=1.0), {"l1": jnp.float32(1), "l2": jnp.float32(1)}, only_biases) == 0


@pytest.mark.parametrize(("name", "same"), [("sgd", True), ("adamw", False)])
def test_l2_is_decoupled_decay_under_sgd_and_not_under_adam(name, same):
    config = dataclasses.replace(SGD, name=name, weight_decay=DECAY)
    decayed = train(config, steps=1)
    opt_state = optimizers.transformation(config).init(PARAMS)
    gradient = jax.tree.map(jnp.add, GRADS[0], penalty_gradient(Optimizer(l2=DECAY)))
    numbers = {"lr": jnp.float32(LR), "weight_decay": jnp.float32(0)}
    with jax.numpy_dtype_promotion("standard"):
        penalised, _, _ = optimizers.update(config, numbers, jnp.int32(0), gradient, opt_state, PARAMS)
    for kernel in (name for name, is_kernel in KERNELS.items() if is_kernel):
        assert np.allclose(decayed[kernel], penalised[kernel], atol=1e-6) == same


@pytest.mark.parametrize("limit", [0.5, 1e3])
def test_clipping_bounds_the_global_norm(limit):
    norm = np.sqrt(sum(np.sum(np.square(gradient)) for gradient in GRADS[0].values()))
    clipped = train(dataclasses.replace(SGD, clip=limit), steps=1)
    factor = LR * min(1, limit / norm)
    assert_equal(clipped, {name: PARAMS[name] - factor * GRADS[0][name] for name in PARAMS})


def test_rules_scale_rate_and_decay_and_the_last_one_holds():
    rules = (Rule("kernel", lr=3.0), Rule("^dense", lr=0.5, weight_decay=2.0), Rule("positions", weight_decay=0.0))
    config = dataclasses.replace(SGD, weight_decay=DECAY, rules=rules)
    factors = {
        "conv/kernel": (3, 1),
        "conv/bias": (1, 0),
        "dense/kernel": (0.5, 2),
        "scale": (1, 0),
        "positions": (1, 0),
    }
    expected = {
        name: PARAMS[name] - LR * rate * (GRADS[0][name] + decay * DECAY * PARAMS[name])
        for name, (rate, decay) in factors.items()
    }
    assert_equal(train(config, steps=1), expected)


def test_frozen_parameters_are_split_off():
    config = Optimizer(rules=(Rule("^conv", freeze=True), Rule("bias", lr=2.0)))
    nested = {"conv": {"kernel": 1, "bias": 2}, "dense": {"kernel": 3}}
    trainable, frozen = optimizers.split_frozen(config, nested)
    assert (trainable, frozen) == ({"conv/bias": 2, "dense/kernel": 3}, {"conv/kernel": 1})
    assert optimizers.unflatten({**trainable, **frozen}, nested) == nested


def test_moving_average_starts_quickly_and_then_holds_its_decay():
    average = expected = np.zeros(3, np.float32)
    for step in range(40):
        value = np.float32(step) + np.arange(3, dtype=np.float32)
        average = optimizers.moving_average(average, value, 0.7, jnp.int32(step))
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        np.testing.assert_allclose(average, expected, rtol=1e-5)
