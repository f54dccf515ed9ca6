"""Optimizers and schedules by name, penalties, and settings per parameter name; optax does the arithmetic."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from optax.contrib import MuonDimensionNumbers, muon

from jaxrec.errors import UserError
from jaxrec.settings import Optimizer, Rule

Flat = dict[str, jax.Array]


def flatten(params: Any) -> Flat:
    """Nested parameters as one dict named by path: ``{"conv1/kernel": ...}``."""
    flat: Any = traverse_util.flatten_dict(params, sep="/")
    return flat


def unflatten(flat: Flat) -> Any:
    """The inverse of ``flatten``."""
    return traverse_util.unflatten_dict(flat, sep="/")


def _found(rule: Rule, name: str) -> bool:
    try:
        return re.search(rule.pattern, name) is not None
    except re.error as error:
        raise UserError(
            f"the rule's pattern '{rule.pattern}' is no regular expression ({error}); correct it"
        ) from error


def rule_for(config: Optimizer, name: str) -> Rule:
    """The settings of the parameter ``name``: those of the last rule whose pattern is found in it."""
    matching = [rule for rule in config.rules if _found(rule, name)]
    return matching[-1] if matching else Rule(name)


def check_rules(config: Optimizer, params: list[Any]) -> None:
    """Raises UserError for a rule whose pattern is found in no parameter's name."""
    names = [name for each in params for name in flatten(each)]
    for rule in config.rules:
        if not any(_found(rule, name) for name in names):
            raise UserError(
                f"the rule's pattern '{rule.pattern}' is found in no parameter's name; "
                f"the names are {', '.join(names[:3])}, ...: python -m jaxrec inspect RUN lists those of a run"
            )


def split_frozen(config: Optimizer, params: Any) -> tuple[Flat, Flat]:
    """Splits parameters into (trainable, frozen), both flat, by the rules."""
    flat = flatten(params)
    frozen = {name: value for name, value in flat.items() if rule_for(config, name).freeze}
    return {name: value for name, value in flat.items() if name not in frozen}, frozen


def hyperparameters(config: Optimizer) -> dict[str, jax.Array]:
    """The numbers that live in the state, so that changing them never recompiles and ``vmap`` over them is a search.

    lr and weight_decay always; l1 and l2 where the configuration turns them on.
    """
    penalties = {name: value for name in ("l1", "l2") if (value := getattr(config, name))}
    numbers = {"lr": config.lr, "weight_decay": config.weight_decay, **penalties}
    return {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()}


def schedule(config: Optimizer, step: jax.Array) -> jax.Array:
    """Share of the peak learning rate at ``step`` (int32), float32 in [0, 1]; 1 throughout where no length is set."""
    if not config.steps:
        return jnp.ones((), jnp.float32)
    # optax compares steps with floats, which strict promotion refuses for integers.
    step = step.astype(jnp.float32)
    steps, warmup = config.steps, min(round(config.warmup * config.steps), config.steps - 1)
    fall = {
        "constant": lambda: optax.constant_schedule(1.0),
        "linear": lambda: optax.linear_schedule(1.0, config.final, steps - warmup),
        "cosine": lambda: optax.cosine_decay_schedule(1.0, steps - warmup, alpha=config.final),
        "one-cycle": lambda: optax.cosine_decay_schedule(1.0, steps - warmup, alpha=4e-6),
    }[config.schedule]()
    if warmup == 0:
        return jnp.asarray(fall(step), jnp.float32)
    if config.schedule == "one-cycle":
        # A cosine that ends 25 times higher than it starts (Smith & Topin 2017).
        rise = optax.cosine_decay_schedule(1 / 25, warmup, alpha=25.0)
    else:
        rise = optax.linear_schedule(1 / warmup, 1.0, warmup - 1) if warmup > 1 else optax.constant_schedule(1.0)
    return jnp.asarray(optax.join_schedules([rise, fall], [warmup])(step), jnp.float32)


def _matrices(params: Any) -> Any:
    """Muon's view of each parameter: dense and convolution kernels as (inputs, outputs) matrices, the rest to Adam."""

    def view(value: jax.Array) -> MuonDimensionNumbers | None:
        return MuonDimensionNumbers(tuple(range(value.ndim - 1)), value.ndim - 1) if value.ndim in (2, 4) else None

    return jax.tree.map(view, params)


def transformation(config: Optimizer) -> Any:
    """The named optax optimizer at learning rate 1 and without weight decay, after gradient clipping."""
    momentum, beta2 = config.momentum, config.beta2
    optimizer = {
        "sgd": lambda: optax.sgd(1.0),
        "momentum": lambda: optax.sgd(1.0, momentum),
        "nesterov": lambda: optax.sgd(1.0, momentum, nesterov=True),
        "adam": lambda: optax.adam(1.0, momentum, beta2),
        "adamw": lambda: optax.adam(1.0, momentum, beta2),  # The decay is applied in `update`.
        "nadam": lambda: optax.nadam(1.0, momentum, beta2),
        "lion": lambda: optax.lion(1.0, momentum, weight_decay=0.0),
        "adagrad": lambda: optax.adagrad(1.0),
        "rmsprop": lambda: optax.rmsprop(1.0),
        # A consistent size of update lets kernels (Muon) and the rest (Adam) share one learning rate (Liu et al. 2025).
        "muon": lambda: muon(
            1.0, beta=momentum, adam_b2=beta2, muon_weight_dimension_numbers=_matrices, consistent_rms=0.2
        ),
    }[config.name]()
    return optax.chain(optax.clip_by_global_norm(config.clip), optimizer) if config.clip else optimizer


def penalty(config: Optimizer, hyper: dict[str, jax.Array], params: Flat) -> jax.Array | float:
    """The L1 and L2 penalties on kernels (arrays of two or more dimensions), to be added to the loss."""
    kernels = [value for value in params.values() if value.ndim > 1]
    total = 0.0
    if config.l1:
        total += hyper["l1"] * sum(jnp.sum(jnp.abs(kernel)) for kernel in kernels)
    if config.l2:
        total += 0.5 * hyper["l2"] * sum(jnp.sum(kernel**2) for kernel in kernels)
    return total


def update(
    config: Optimizer, hyper: dict[str, jax.Array], step: jax.Array, grads: Flat, opt_state: Any, params: Flat
) -> tuple[Flat, Any]:
    """One update of flat parameters; returns (params, opt_state).

    The learning rate is ``hyper["lr"]`` x schedule(step) x the rule's factor; the decoupled weight decay (Loshchilov &
    Hutter 2019) subtracts learning rate x ``hyper["weight_decay"]`` x the kernel.
    """
    directions, opt_state = transformation(config).update(grads, opt_state, params)
    rate = hyper["lr"] * schedule(config, step)

    def move(name: str, value: jax.Array) -> jax.Array:
        rule = rule_for(config, name)
        direction = directions[name]
        if value.ndim > 1:
            direction = direction - rule.weight_decay * hyper["weight_decay"] * value
        return value + (rule.lr * rate * direction).astype(value.dtype)

    return {name: move(name, value) for name, value in params.items()}, opt_state


def moving_average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Exponential moving average whose decay rises from .1 to ``decay``, so that early averages forget the start."""
    step = step.astype(jnp.float32)
    return optax.incremental_update(params, average, 1 - jnp.minimum(decay, (1 + step) / (10 + step)))
