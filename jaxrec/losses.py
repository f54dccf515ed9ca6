"""Losses as pure functions: one float32 number per example, whatever the dtype of the logits."""

from collections.abc import Callable
from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp
import optax

from jaxrec.errors import UserError, nearest

Head = Literal["softmax", "sigmoid"]
ClassificationLoss = Literal["cross-entropy", "mse", "focal"]
Likelihood = Literal["gaussian", "bernoulli"]
GANLoss = Literal["non-saturating", "least-squares", "hinge", "wasserstein", "relativistic"]

GAUSSIAN_SIGMA = 0.1
"""Standard deviation of a pixel in [0, 1] around the decoder's output, in the Gaussian likelihood."""


def _check(what: str, got: str, choices: object) -> None:
    known = get_args(choices)
    if got not in known:
        raise UserError(f"unknown {what} '{got}'; expected one of {', '.join(known)}{nearest(got, known)}")


def _floats(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays in float32; their shapes must agree, since broadcasting would hide a mistake."""
    chex.assert_equal_shape(arrays)
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def _per_example(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def smooth(targets: jax.Array, amount: jax.typing.ArrayLike, *, head: Head) -> jax.Array:
    """Targets [B, C] with the share ``amount`` spread evenly over the classes (softmax), or drawn to 1/2 (sigmoid).

    Szegedy et al. 2016, https://arxiv.org/abs/1512.00567. Returns float32 [B, C].
    """
    _check("head", head, Head)
    targets = jnp.asarray(targets, jnp.float32)
    amount = jnp.asarray(amount, jnp.float32)
    if head == "softmax":
        return optax.losses.smooth_labels(targets, amount)  # pyright: ignore[reportArgumentType]
    return (1 - amount) * targets + amount * 0.5


def classification(logits: jax.Array, targets: jax.Array, *, head: Head, loss: ClassificationLoss) -> jax.Array:
    """Loss float32 [B] of logits [B, C] against targets [B, C] in [0, 1], hard or soft.

    cross-entropy: softmax, or sigmoid averaged over the classes. mse: squared error of the head's probabilities,
    averaged over the classes. focal: Lin et al. 2017 (https://arxiv.org/abs/1708.02002) with gamma 2 and no alpha;
    under softmax the sum over classes of target x (1 - p)^2 x -log p, under sigmoid averaged over the classes.
    Raises UserError for an unknown head or loss.
    """
    _check("head", head, Head)
    _check("loss", loss, ClassificationLoss)
    logits, targets = _floats(logits, targets)
    chex.assert_rank(logits, 2)
    softmax = head == "softmax"
    if loss == "mse":
        probabilities = jax.nn.softmax(logits) if softmax else jax.nn.sigmoid(logits)
        return optax.losses.squared_error(probabilities, targets).mean(axis=1)
    if loss == "cross-entropy":
        if softmax:
            return optax.losses.softmax_cross_entropy(logits, targets)
        return optax.losses.sigmoid_binary_cross_entropy(logits, targets).mean(axis=1)
    if softmax:
        log_p = jax.nn.log_softmax(logits)
        return -(targets * jnp.square(1 - jnp.exp(log_p)) * log_p).sum(axis=1)
    return optax.losses.sigmoid_focal_loss(logits, targets, gamma=2.0).mean(axis=1)


def reconstruction(outputs: jax.Array, target: jax.Array, likelihood: Likelihood) -> jax.Array:
    """Mean over the pixels, float32 [B], of the loss of outputs [B, ...] against target [B, ...] in [0, 1].

    gaussian: squared error of outputs that are images. bernoulli: cross-entropy, in nats, of outputs that are logits.
    Raises UserError for an unknown likelihood.
    """
    _check("likelihood", likelihood, Likelihood)
    outputs, target = _floats(outputs, target)
    pixel_loss = optax.losses.squared_error if likelihood == "gaussian" else optax.losses.sigmoid_binary_cross_entropy
    return pixel_loss(outputs, target).mean(axis=_per_example(outputs))


def log_likelihood(outputs: jax.Array, target: jax.Array, likelihood: Likelihood) -> jax.Array:
    """Log p(target | outputs) in nats, float32 [B], summed over the pixels of [B, ...].

    bernoulli: outputs are logits. gaussian: outputs are means, of standard deviation ``GAUSSIAN_SIGMA``; a density.
    Raises UserError for an unknown likelihood.
    """
    _check("likelihood", likelihood, Likelihood)
    outputs, target = _floats(outputs, target)
    if likelihood == "gaussian":
        pixels = jax.scipy.stats.norm.logpdf(target, outputs, GAUSSIAN_SIGMA)
    else:
        pixels = -optax.losses.sigmoid_binary_cross_entropy(outputs, target)
    return pixels.sum(axis=_per_example(outputs))


def kl_standard_normal(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, float32 [B], summed over the latents of [B, ...].

    Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, appendix B.
    """
    mean, log_variance = _floats(mean, log_variance)
    # expm1 keeps the digits that exp(v) - 1 loses where the posterior is nearly the prior.
    divergence = 0.5 * (jnp.square(mean) + jnp.expm1(log_variance) - log_variance)
    return divergence.sum(axis=_per_example(mean))


def importance_bound(log_weights: jax.Array) -> jax.Array:
    """Lower bound on log p(x), float32 [B], from log weights log p(x, z) - log q(z | x) [K, B] of K codes per image.

    Burda et al. 2016, https://arxiv.org/abs/1509.00519. With K = 1 it is the evidence bound.
    """
    log_weights = jnp.asarray(log_weights, jnp.float32)
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(float(log_weights.shape[0]))


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array, loss: GANLoss) -> jax.Array:
    """What the discriminator minimises, float32 [B], from its logits [B] on real and on generated images.

    non-saturating: Goodfellow et al. 2014. least-squares: Mao et al. 2017, targets 1 and 0. hinge: Lim & Ye 2017.
    wasserstein: Arjovsky et al. 2017. relativistic: the i-th real paired with the i-th generated image, Huang et al.
    2024 (R3GAN). Raises UserError for an unknown loss.
    """
    _check("loss", loss, GANLoss)
    real, fake = _floats(real_logits, fake_logits)
    chex.assert_rank(real, 1)
    match loss:
        case "non-saturating":
            return jax.nn.softplus(-real) + jax.nn.softplus(fake)
        case "least-squares":
            return optax.losses.l2_loss(real - 1) + optax.losses.l2_loss(fake)
        case "hinge":
            return jax.nn.relu(1 - real) + jax.nn.relu(1 + fake)
        case "wasserstein":
            return fake - real
        case "relativistic":
            return jax.nn.softplus(fake - real)


def generator_loss(real_logits: jax.Array, fake_logits: jax.Array, loss: GANLoss) -> jax.Array:
    """What the generator minimises, float32 [B], in the game of ``discriminator_loss``.

    Only relativistic looks at the logits of the real images. Raises UserError for an unknown loss.
    """
    _check("loss", loss, GANLoss)
    real, fake = _floats(real_logits, fake_logits)
    chex.assert_rank(real, 1)
    match loss:
        case "non-saturating":
            return jax.nn.softplus(-fake)
        case "least-squares":
            return optax.losses.l2_loss(fake - 1)
        case "hinge" | "wasserstein":
            return -fake
        case "relativistic":
            return jax.nn.softplus(real - fake)


def gradient_norm_squared(score_fn: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """Squared norm, float32 [B], of the gradient of each image's score with respect to that image [B, ...].

    ``score_fn`` maps images to scores [B] and treats them independently (no batch statistics). Times gamma / 2 this is
    R1 at real images and R2 at generated ones (Mescheder et al. 2018, https://arxiv.org/abs/1801.04406).
    """
    gradient = jax.grad(lambda x: jnp.asarray(score_fn(x), jnp.float32).sum())(images)
    return jnp.square(jnp.asarray(gradient, jnp.float32)).sum(axis=_per_example(gradient))


def gradient_penalty(
    score_fn: Callable[[jax.Array], jax.Array], real: jax.Array, fake: jax.Array, key: jax.Array
) -> jax.Array:
    """(norm of the score's gradient - 1)^2, float32 [B], at random points between real and fake images [B, ...].

    Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028; times 10 there. Finite gradients where the norm is 0.
    """
    chex.assert_equal_shape([real, fake])
    share = jax.random.uniform(key, (real.shape[0],) + (1,) * (real.ndim - 1), real.dtype)
    squared = gradient_norm_squared(score_fn, real + share * (fake - real))
    # The inner where keeps the square root's infinite slope at 0 out of the gradient.
    positive = squared > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
    return jnp.square(norm - 1)
