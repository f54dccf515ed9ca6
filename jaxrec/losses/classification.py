"""Losses of a classifier's logits against targets, hard or soft."""

from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp
import optax

from jaxrec.losses.arguments import check_name, floats

Head = Literal["softmax", "sigmoid"]
ClassificationLoss = Literal["cross-entropy", "mse", "focal"]


def smooth(targets: jax.Array, amount: jax.typing.ArrayLike, *, head: Head) -> jax.Array:
    """Targets [B, C] with the share ``amount`` spread evenly over the classes (softmax), or drawn to 1/2 (sigmoid).

    Szegedy et al. 2016, https://arxiv.org/abs/1512.00567. Returns float32 [B, C]. Raises UserError for an unknown head.
    """
    check_name("head", head, get_args(Head))
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
    check_name("head", head, get_args(Head))
    check_name("loss", loss, get_args(ClassificationLoss))
    logits, targets = floats(logits, targets)
    chex.assert_rank(logits, 2)
    if head == "softmax":
        return _softmax_loss(logits, targets, loss)
    return _sigmoid_loss(logits, targets, loss).mean(axis=1)


def _softmax_loss(logits: jax.Array, targets: jax.Array, loss: ClassificationLoss) -> jax.Array:
    """Loss [B] of classes that exclude each other."""
    match loss:
        case "cross-entropy":
            return optax.losses.softmax_cross_entropy(logits, targets)
        case "mse":
            return optax.losses.squared_error(jax.nn.softmax(logits), targets).mean(axis=1)
        case "focal":
            log_p = jax.nn.log_softmax(logits)
            return -(targets * jnp.square(1 - jnp.exp(log_p)) * log_p).sum(axis=1)


def _sigmoid_loss(logits: jax.Array, targets: jax.Array, loss: ClassificationLoss) -> jax.Array:
    """Loss [B, C] of independent classes, one by one."""
    match loss:
        case "cross-entropy":
            return optax.losses.sigmoid_binary_cross_entropy(logits, targets)
        case "mse":
            return optax.losses.squared_error(jax.nn.sigmoid(logits), targets)
        case "focal":
            return optax.losses.sigmoid_focal_loss(logits, targets, gamma=2.0)
