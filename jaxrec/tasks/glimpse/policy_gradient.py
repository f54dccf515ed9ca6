"""How the policy learns where to look: rewards, advantages, and the losses of policy and value.

The policy gradient of Williams (1992) with a learned value as its baseline, or PPO (Schulman et al. 2017,
https://arxiv.org/abs/1707.06347). Arrays are [T, N], as in ``jaxrec.tasks.glimpse.looks``.
"""

import math

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.models.glimpse import Looks
from jaxrec.settings.glimpse import Glimpse as Config
from jaxrec.tasks.glimpse.classes import right
from jaxrec.tasks.glimpse.looks import by_image, by_step, looked, of_ways
from jaxrec.tasks.state import Batch, State


def rewards(config: Config, logits: jax.Array, label: jax.Array) -> jax.Array:
    """The reward of each look, float32 [T, N], from the logits after each look or after the last, and classes [N]."""
    after = jnp.zeros((config.looks, label.shape[0]), jnp.float32)
    if config.reward == "end":
        return after.at[-1].set(right(logits[-1], label))
    known = jnp.take_along_axis(jax.nn.log_softmax(logits), label[None, :, None], axis=-1)[..., 0]
    # Before the first look all classes are as probable as another.
    nothing = jnp.full_like(known[:1], -math.log(config.classes))
    before = jnp.concatenate([nothing, known[:-1]])
    return known - before


def estimates(config: Config, looks: Looks, label: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rewards, advantages and the targets of the value, float32 [T, N]; no gradient passes through them."""
    # They are made of the head's answers and of the value itself. A gradient through them would move the goal: the head
    # would learn from the policy's loss, and the value from its own target.
    gained = jax.lax.stop_gradient(rewards(config, looks.logits, label))
    value = jax.lax.stop_gradient(looks.value)
    # Nothing follows the last look.
    after = jnp.concatenate([value, jnp.zeros_like(value[:1])])
    factors = jnp.full_like(gained, config.discount)
    advantages = losses.generalized_advantages(gained, factors, after, config.decay)
    return gained, advantages, advantages + value


def of_policy(config: Config, values: jax.Array) -> jax.Array:
    """The steps [T', N] that the policy chose, of [T, N]: without a context network, all but the first."""
    return values if config.start == "context" else values[1:]


def log_probs(config: Config, looks: Looks) -> jax.Array:
    """The log density of where the policy looked, [T', N]; the first look counts if it is the policy's."""
    mean, deviation, action = (of_policy(config, each) for each in (looks.mean, looks.deviation, looks.action))
    return losses.gaussian_log_prob(mean, deviation, action)


def experience(state: State, examples: Batch, key: jax.Array) -> Batch:
    """Where the policy looks at the images before PPO's updates, and what came of it: arrays [B, M, T, ...]."""
    config, player, image = state.config, state.players["net"], examples["image"]
    looks = looked(state, player.params, player.stats, image, key)
    _, advantages, targets = estimates(config, looks, of_ways(config, examples["label"]))
    found = {
        "action": looks.action,
        "log_prob": log_probs(config, looks),
        "advantage": advantages,
        "target": targets,
    }
    return {name: by_image(jax.lax.stop_gradient(values), image.shape[0]) for name, values in found.items()}


def policy_and_value(
    config: Config, looks: Looks, examples: Batch, advantages: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The losses of the policy and of its value, float32 scalars.

    Args:
        config: the settings.
        looks: of the parameters that learn.
        examples: with the ``experience``, if the policy learns by PPO; it takes the place of what follows.
        advantages: of these looks.
        targets: of the value at these looks.
    """
    density = log_probs(config, looks)
    if "action" in examples:
        advantages, targets = by_step(examples["advantage"]), by_step(examples["target"])
        old = by_step(examples["log_prob"])
        steps = losses.clipped_policy_loss(density, old, of_policy(config, advantages), config.clip_ratio)
    else:
        steps = losses.policy_gradient_loss(density, of_policy(config, advantages))
    value = of_policy(config, losses.value_loss(looks.value, targets))
    # The log density of a way of looking is the sum over its looks.
    return steps.sum(0).mean(), value.mean()
