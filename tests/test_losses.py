"""Losses against closed forms, optax, scipy and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import expit, log_softmax, softmax

from jaxrec import losses
from jaxrec.errors import UserError

GAN_LOSSES = ("non-saturating", "least-squares", "hinge", "wasserstein", "relativistic")


def softplus(x):
    return np.logaddexp(0, x)


def bernoulli(logits, targets):
    return targets * softplus(-logits) + (1 - targets) * softplus(logits)


def focal_sigmoid(x, t):
    p = expit(x)
    return bernoulli(x, t) * (1 - (p * t + (1 - p) * (1 - t))) ** 2


CLASSIFICATION = {
    ("softmax", "cross-entropy"): lambda x, t: -(t * log_softmax(x, axis=1)).sum(axis=1),
    ("softmax", "mse"): lambda x, t: ((softmax(x, axis=1) - t) ** 2).mean(axis=1),
    ("softmax", "focal"): lambda x, t: -(t * (1 - softmax(x, axis=1)) ** 2 * log_softmax(x, axis=1)).sum(axis=1),
    ("sigmoid", "cross-entropy"): lambda x, t: bernoulli(x, t).mean(axis=1),
    ("sigmoid", "mse"): lambda x, t: ((expit(x) - t) ** 2).mean(axis=1),
    ("sigmoid", "focal"): lambda x, t: focal_sigmoid(x, t).mean(axis=1),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("head", "loss"), CLASSIFICATION)
@pytest.mark.parametrize("soft", [False, True])
def test_classification(head, loss, soft, dtype):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(6, 5)) * 3, dtype)
    targets = np.eye(5)[rng.integers(5, size=6)]
    if soft:
        targets = 0.7 * targets + 0.3 * targets[::-1]
    got = jax.jit(lambda x, t: losses.classification(x, t, head=head, loss=loss))(
        logits, jnp.asarray(targets, jnp.float32)
    )
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, CLASSIFICATION[head, loss](np.asarray(logits, np.float64), targets), rtol=2e-5)


@pytest.mark.parametrize(("head", "loss"), CLASSIFICATION)
def test_classification_stays_finite_at_extreme_logits(head, loss):
    logits = jnp.array([[200.0, -200.0], [-200.0, 200.0]])
    targets = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    value, gradient = jax.value_and_grad(lambda x: losses.classification(x, targets, head=head, loss=loss).sum())(
        logits
    )
    assert np.isfinite(value) and value > 0
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("head", "targets", "expected"),
    [
        ("softmax", [[1.0, 0, 0, 0]], [[0.85, 0.05, 0.05, 0.05]]),
        ("sigmoid", [[1.0, 0, 1, 0]], [[0.9, 0.1, 0.9, 0.1]]),
    ],
)
def test_smooth(head, targets, expected):
    got = jax.jit(lambda t, a: losses.smooth(t, a, head=head))(jnp.array(targets), 0.2)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_reconstruction_and_log_likelihood(likelihood, dtype):
    rng = np.random.default_rng(1)
    outputs = jnp.asarray(rng.normal(size=(3, 4, 4, 2)), dtype)
    target = rng.uniform(size=(3, 4, 4, 2)).astype(np.float32)
    x = np.asarray(outputs, np.float64)
    if likelihood == "gaussian":
        mean, total = (x - target) ** 2, scipy.stats.norm.logpdf(target, x, losses.GAUSSIAN_SIGMA)
    else:
        mean, total = bernoulli(x, target), -bernoulli(x, target)
    got = losses.reconstruction(outputs, jnp.asarray(target), likelihood)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, mean.mean(axis=(1, 2, 3)), rtol=2e-5)
    np.testing.assert_allclose(
        losses.log_likelihood(outputs, jnp.asarray(target), likelihood), total.sum(axis=(1, 2, 3)), rtol=2e-5
    )


def test_kl_standard_normal():
    mean, log_variance = jnp.array([[0.0, 0.0], [1.0, -2.0]]), jnp.array([[0.0, 0.0], [0.5, -1.0]])
    expected = [0.0, 0.5 * (1 + np.exp(0.5) - 1 - 0.5 + 4 + np.exp(-1) - 1 + 1)]
    np.testing.assert_allclose(losses.kl_standard_normal(mean, log_variance), expected, rtol=1e-6)


def test_importance_bound():
    log_weights = np.random.default_rng(2).normal(size=(50, 4)) * 3 - 900
    got = losses.importance_bound(jnp.asarray(log_weights, jnp.float32))
    shift = log_weights.max(axis=0)
    np.testing.assert_allclose(got, shift + np.log(np.exp(log_weights - shift).mean(axis=0)), rtol=1e-6)
    assert (got > log_weights.mean(axis=0)).all()
    np.testing.assert_allclose(losses.importance_bound(jnp.array([[1.5, -2.0]])), [1.5, -2.0])


def test_importance_bound_is_exact_for_a_linear_gaussian_model():
    """z ~ N(0, 1), x | z ~ N(z, 1): with the true posterior N(x / 2, 1 / 2) every weight is p(x) = N(0, 2)."""
    normal = scipy.stats.norm
    x = np.array([0.3, -1.7])
    z = x / 2 + np.sqrt(0.5) * np.random.default_rng(3).normal(size=(7, 2))
    log_weights = normal.logpdf(x, z, 1) + normal.logpdf(z) - normal.logpdf(z, x / 2, np.sqrt(0.5))
    got = losses.importance_bound(jnp.asarray(log_weights, jnp.float32))
    np.testing.assert_allclose(got, normal.logpdf(x, 0, np.sqrt(2)), rtol=1e-5)


REAL, FAKE = np.array([2.0, -0.5, 0.3]), np.array([-1.5, 0.4, 2.0])
GAN = {
    "non-saturating": (softplus(-REAL) + softplus(FAKE), softplus(-FAKE)),
    "least-squares": (((REAL - 1) ** 2 + FAKE**2) / 2, (FAKE - 1) ** 2 / 2),
    "hinge": (np.maximum(0, 1 - REAL) + np.maximum(0, 1 + FAKE), -FAKE),
    "wasserstein": (FAKE - REAL, -FAKE),
    "relativistic": (softplus(FAKE - REAL), softplus(REAL - FAKE)),
}


@pytest.mark.parametrize("loss", GAN_LOSSES)
def test_gan_losses(loss):
    real, fake = jnp.asarray(REAL, jnp.float32), jnp.asarray(FAKE, jnp.float32)
    for player, expected in zip((losses.discriminator_loss, losses.generator_loss), GAN[loss], strict=True):
        np.testing.assert_allclose(player(real, fake, loss), expected, rtol=1e-6)
        half = player(real.astype(jnp.bfloat16), fake.astype(jnp.bfloat16), loss)
        assert half.dtype == jnp.float32
        np.testing.assert_allclose(half, expected, rtol=2e-2)


@pytest.mark.parametrize("loss", GAN_LOSSES)
def test_gan_players_pull_apart(loss):
    """From logits 0 the discriminator raises real and lowers fake scores; the generator raises fake ones."""
    zero = jnp.zeros(2)
    real, fake = jax.grad(lambda r, f: losses.discriminator_loss(r, f, loss).sum(), (0, 1))(zero, zero)
    # Least squares aims at 0 for generated images, and is there already.
    assert (real < 0).all() and (fake > 0).all() != (loss == "least-squares")
    assert (jax.grad(lambda f: losses.generator_loss(zero, f, loss).sum())(zero) < 0).all()


def linear_score(weights):
    return lambda images: jnp.einsum("bhwc,hwc->b", images, weights)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradient_norm_squared_of_a_quadratic(dtype):
    images = jnp.asarray(np.random.default_rng(4).normal(size=(3, 4, 4, 1)), dtype)
    got = jax.jit(lambda x: losses.gradient_norm_squared(lambda y: jnp.square(y).sum(axis=(1, 2, 3)), x))(images)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, 4 * np.square(np.asarray(images, np.float64)).sum(axis=(1, 2, 3)), rtol=1e-5)


def test_gradient_penalty_of_a_linear_score():
    rng = np.random.default_rng(5)
    weights = jnp.asarray(rng.normal(size=(4, 4, 1)), jnp.float32)
    real, fake = (jnp.asarray(rng.normal(size=(3, 4, 4, 1)), jnp.float32) for _ in range(2))

    def penalty(w):
        return losses.gradient_penalty(linear_score(w), real, fake, jax.random.key(0)).sum()

    norm = np.linalg.norm(weights)
    value, gradient = jax.jit(jax.value_and_grad(penalty))(weights)
    np.testing.assert_allclose(value, 3 * (norm - 1) ** 2, rtol=1e-5)
    np.testing.assert_allclose(gradient, 3 * 2 * (norm - 1) / norm * np.asarray(weights), rtol=1e-5)
    flat_value, flat_gradient = jax.value_and_grad(penalty)(jnp.zeros_like(weights))
    assert flat_value == 3
    assert np.isfinite(flat_gradient).all()


def test_gradient_penalty_looks_between_the_images():
    """With score |x|^2 / 2 the gradient is the interpolate itself: its norm tells where it lies, image by image."""
    real, fake = jnp.full((64, 1, 1, 1), 2.0), jnp.full((64, 1, 1, 1), 6.0)
    got = losses.gradient_penalty(lambda x: jnp.square(x).sum(axis=(1, 2, 3)) / 2, real, fake, jax.random.key(1))
    norms = np.sqrt(got) + 1
    assert norms.min() >= 2 and norms.max() <= 6 and norms.std() > 0.5


ZEROS = jnp.zeros((2, 3))
WRONG_OPTIONS = {
    "'softmax'": lambda: losses.classification(ZEROS, ZEROS, head="softmux", loss="mse"),  # type: ignore[arg-type]
    "'focal'": lambda: losses.classification(ZEROS, ZEROS, head="softmax", loss="vocal"),  # type: ignore[arg-type]
    "'sigmoid'": lambda: losses.smooth(ZEROS, 0.1, head="sigmoids"),  # type: ignore[arg-type]
    "'gaussian'": lambda: losses.reconstruction(ZEROS, ZEROS, "gausian"),  # type: ignore[arg-type]
    "'bernoulli'": lambda: losses.log_likelihood(ZEROS, ZEROS, "bernouli"),  # type: ignore[arg-type]
    "'hinge'": lambda: losses.discriminator_loss(ZEROS[0], ZEROS[0], "hing"),  # type: ignore[arg-type]
    "'wasserstein'": lambda: losses.generator_loss(ZEROS[0], ZEROS[0], "waserstein"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("suggestion", WRONG_OPTIONS)
def test_unknown_options_are_named(suggestion):
    with pytest.raises(UserError, match=f"did you mean {suggestion}"):
        WRONG_OPTIONS[suggestion]()


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        losses.discriminator_loss(jnp.zeros((2, 1)), jnp.zeros(2), "hinge")
    with pytest.raises(AssertionError):
        losses.reconstruction(jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 1)), "gaussian")
