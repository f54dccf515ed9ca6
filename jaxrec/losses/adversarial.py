"""Losses of the game between a generator and a discriminator, and penalties on the discriminator's gradient."""

from collections.abc import Callable
from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp
import optax

from jaxrec.losses.arguments import check_name, example_axes, floats

GANLoss = Literal["non-saturating", "least-squares", "hinge", "wasserstein", "relativistic"]


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array, loss: GANLoss) -> jax.Array:
    """What the discriminator minimizes, float32 [B], from its logits [B] on real and on generated images.

    non-saturating: Goodfellow et al. 2014. least-squares: Mao et al. 2017, targets 1 and 0. hinge: Lim & Ye 2017.
    wasserstein: Arjovsky et al. 2017. relativistic: the i-th real paired with the i-th generated image, Huang et al.
    2024 (R3GAN). Raises UserError for an unknown loss.
    """
    check_name("loss", loss, get_args(GANLoss))
    real, fake = floats(real_logits, fake_logits)
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
    """What the generator minimizes, float32 [B], in the game of ``discriminator_loss``.

    Only relativistic looks at the logits of the real images. Raises UserError for an unknown loss.
    """
    check_name("loss", loss, get_args(GANLoss))
    real, fake = floats(real_logits, fake_logits)
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
    return jnp.square(jnp.asarray(gradient, jnp.float32)).sum(axis=example_axes(gradient))


def gradient_penalty(
    score_fn: Callable[[jax.Array], jax.Array], real: jax.Array, fake: jax.Array, key: jax.Array
) -> jax.Array:
    """(norm of the score's gradient - 1)^2, float32 [B], at random points between real and fake images [B, ...].

    Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028; times 10 there. The gradient at norm 0 is finite.
    """
    chex.assert_equal_shape([real, fake])
    share = jax.random.uniform(key, (real.shape[0],) + (1,) * (real.ndim - 1), real.dtype)
    squared = gradient_norm_squared(score_fn, real + share * (fake - real))
    # The inner where keeps the square root's infinite slope at 0 out of the gradient.
    positive = squared > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
    return jnp.square(norm - 1)
