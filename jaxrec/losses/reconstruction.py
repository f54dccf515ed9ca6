"""Losses of images given back: likelihoods of pixels, divergence of codes from the prior, bounds on log p(x)."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

from jaxrec.losses.arguments import check_name, example_axes, floats

Likelihood = Literal["gaussian", "bernoulli"]

GAUSSIAN_SIGMA = 0.1
"""Standard deviation of a pixel in [0, 1] around the decoder's output, in the Gaussian likelihood."""


def reconstruction(outputs: jax.Array, target: jax.Array, likelihood: Likelihood) -> jax.Array:
    """Mean over the pixels, float32 [B], of the loss of outputs [B, ...] against target [B, ...] in [0, 1].

    gaussian: squared error of outputs that are images. bernoulli: cross-entropy, in nats, of outputs that are logits.
    Raises UserError for an unknown likelihood.
    """
    check_name("likelihood", likelihood, get_args(Likelihood))
    outputs, target = floats(outputs, target)
    if likelihood == "gaussian":
        pixels = optax.losses.squared_error(outputs, target)
    else:
        pixels = optax.losses.sigmoid_binary_cross_entropy(outputs, target)
    return pixels.mean(axis=example_axes(outputs))


def log_likelihood(outputs: jax.Array, target: jax.Array, likelihood: Likelihood) -> jax.Array:
    """Log p(target | outputs) in nats, float32 [B], summed over the pixels of [B, ...].

    bernoulli: outputs are logits. gaussian: outputs are means, of standard deviation ``GAUSSIAN_SIGMA``; a density.
    Raises UserError for an unknown likelihood.
    """
    check_name("likelihood", likelihood, get_args(Likelihood))
    outputs, target = floats(outputs, target)
    if likelihood == "gaussian":
        pixels = jax.scipy.stats.norm.logpdf(target, outputs, GAUSSIAN_SIGMA)
    else:
        pixels = -optax.losses.sigmoid_binary_cross_entropy(outputs, target)
    return pixels.sum(axis=example_axes(outputs))


def kl_standard_normal(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, float32 [B], summed over the latents of [B, ...].

    Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, appendix B.
    """
    mean, log_variance = floats(mean, log_variance)
    # expm1 keeps the digits that exp(v) - 1 loses when the posterior is nearly the prior.
    divergence = 0.5 * (jnp.square(mean) + jnp.expm1(log_variance) - log_variance)
    return divergence.sum(axis=example_axes(mean))


def importance_bound(log_weights: jax.Array) -> jax.Array:
    """Lower bound on log p(x), float32 [B], from log weights log p(x, z) - log q(z | x) [K, B] of K codes per image.

    Burda et al. 2016, https://arxiv.org/abs/1509.00519. With K = 1 it is the evidence bound.
    """
    log_weights = jnp.asarray(log_weights, jnp.float32)
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(float(log_weights.shape[0]))
