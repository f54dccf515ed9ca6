"""Optimizers and schedules by name, penalties, and settings per parameter; optax does the arithmetic."""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon, scale_by_muon

from jaxrec.errors import UserError, nearest
from jaxrec.settings import Optimizer, Rule

Flat = dict[str, jax.Array]
Given = optax.GradientTransformation | None


def flatten(params: Any) -> Flat:
    """The arrays of a tree of parameters as one dict named by path: ``{"conv1/kernel": ...}``."""
    leaves = jax.tree.leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(flat: Flat, like: Any) -> Any:
    """The inverse of ``flatten``: a tree with the structure of ``like``."""
    return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in flatten(like)])


def matches(pattern: str, name: str, option: str) -> bool:
    """Whether the regular expression is found in an array's path; raises UserError, which names the option, if it is
    none."""
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise UserError(f"{option} '{pattern}' is not a regular expression ({error}); correct it") from error


def _scales(config: Optimizer) -> list[tuple[str, float]]:
    """The patterns and factors of ``lr_scale``."""
    found = []
    for text in config.lr_scale:
        pattern, equals, factor = text.rpartition("=")
        try:
            number = float(factor)
        except ValueError:
            number = -1.0
        if not equals or not pattern or not 0 <= number < math.inf:
            raise UserError(
                f"--lr-scale '{text}' is not REGEX=FACTOR; expected a factor of at least 0, such as head=10"
            )
        found.append((pattern, number))
    return found


def _patterns(config: Optimizer) -> list[tuple[str, str]]:
    """Each pattern of the settings, and what an error calls it."""
    found = [("the rule's pattern", rule.pattern) for rule in config.rules]
    if config.freeze:
        found.append(("--freeze", config.freeze))
    return found + [("--lr-scale", pattern) for pattern, _ in _scales(config)]


def rule_for(config: Optimizer, name: str) -> Rule:
    """The settings of the parameter ``name``.

    They are those of the last rule whose pattern matches it. The factors of ``lr_scale`` that match multiply its
    learning rate, and ``freeze`` keeps it if it matches.
    """
    found = Rule(name)
    for rule in config.rules:
        if matches(rule.pattern, name, "the rule's pattern"):
            found = rule
    rate = found.lr
    for pattern, factor in _scales(config):
        if matches(pattern, name, "--lr-scale"):
            rate *= factor
    freeze = found.freeze or (config.freeze != "" and matches(config.freeze, name, "--freeze"))
    return replace(found, lr=rate, freeze=freeze)


def check_rules(config: Optimizer, params: list[Any]) -> None:
    """Raises UserError for a pattern that matches no parameter, and if no parameter is left to learn."""
    names: list[str] = []
    for each in params:
        names += flatten(each)
    for option, pattern in _patterns(config):
        if not any(matches(pattern, name, option) for name in names):
            raise UserError(
                f"{option} '{pattern}' matches no parameter; the parameters are "
                f"{', '.join(names[:3])}, ... (jaxrec inspect RUN --leaves lists those of a run)"
            )
    if config.freeze and all(rule_for(config, name).freeze for name in names):
        raise UserError(f"--freeze '{config.freeze}' leaves no parameter to learn; expected a pattern that spares some")


Layers = tuple[tuple[str, ...], ...]
"""A model's layers from the first to the last; each is the names of its parts, as ``part_of`` gives them."""


def part_of(name: str) -> str:
    """An array's path up to its first number, or else its module: ``stage1``, ``encoder/conv2``, ``head``."""
    numbered = re.match(r".*?\d+", name)
    if numbered:
        return numbered[0]
    return name.rpartition("/")[0] or name


def layers_of(config: Optimizer, params: Any) -> Layers:
    """The layers in the order in which the model made their parameters; empty if the settings treat all layers alike.

    What has only vectors, as normalization, belongs to the layer before it. ``params`` must be as ``model.init`` gave
    them: what has been through a function of jax is sorted by name.
    """
    if config.layer_decay == 1 and not config.unfreeze:
        return ()
    flat = flatten(params)
    parts: dict[str, bool] = {}
    for name in _made(params):
        part = part_of(name)
        parts[part] = parts.get(part, False) or flat[name].ndim > 1
    layers: list[list[str]] = []
    for part, has_kernels in parts.items():
        if has_kernels or not layers:
            layers.append([part])
        else:
            layers[-1].append(part)
    return tuple(map(tuple, layers))


def _made(params: Any, above: str = "") -> Iterator[str]:
    """The paths of the arrays in a tree, in the order of its dicts."""
    if isinstance(params, Mapping):
        for name, value in params.items():
            yield from _made(value, f"{above}{name}/")
    elif jax.tree_util.treedef_is_leaf(jax.tree.structure(params)):
        yield above.removesuffix("/")
    else:
        yield from (above + name for name in flatten(params))


def layer_rate(config: Optimizer, layers: Layers, name: str, step: jax.Array) -> jax.Array | float:
    """What the learning rate of the parameter ``name`` is multiplied by at ``step`` for the sake of its layer."""
    if not layers:
        return 1.0
    (place,) = [place for place, parts in enumerate(layers) if part_of(name) in parts]
    above = len(layers) - 1 - place
    rate = config.layer_decay**above
    begins = round(config.unfreeze * config.steps * above / len(layers))
    return jnp.where(step >= begins, jnp.float32(rate), 0.0) if begins else rate


def split_frozen(config: Optimizer, params: Any) -> tuple[Flat, Flat]:
    """Splits parameters into (trainable, frozen), both flat, by the rules."""
    flat = flatten(params)
    frozen = {name: value for name, value in flat.items() if rule_for(config, name).freeze}
    return {name: value for name, value in flat.items() if name not in frozen}, frozen


def hyperparameters(config: Optimizer) -> dict[str, jax.Array]:
    """The numbers that live in the state, so that changing them never recompiles and ``vmap`` over them is a search.

    They are lr and weight_decay, and l1 and l2 if the settings turn them on.
    """
    numbers = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.l1:
        numbers["l1"] = config.l1
    if config.l2:
        numbers["l2"] = config.l2
    return {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()}


def schedule(config: Optimizer, step: jax.Array) -> jax.Array:
    """Share of the peak learning rate at ``step`` (int32), float32 in [0, 1]; always 1 if no length is set."""
    if not config.steps:
        return jnp.ones((), jnp.float32)
    # optax compares steps with floats, which strict promotion forbids for integers.
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
    """Dense and convolution kernels as (inputs, outputs) matrices for Muon; None for the rest, which goes to Adam."""

    def view(value: jax.Array) -> MuonDimensionNumbers | None:
        return MuonDimensionNumbers(tuple(range(value.ndim - 1)), value.ndim - 1) if value.ndim in (2, 4) else None

    return jax.tree.map(view, params)


def transformation(config: Optimizer, optimizer: Given = None) -> Any:
    """The optax transformation whose updates ``update`` applies.

    Args:
      config: names an optimizer, which is made at learning rate 1 and without weight decay, behind gradient clipping.
      optimizer: a transformation of optax that replaces all of that.

    Raises:
      UserError: optax has no optimizer of that name, or it needs more than gradients and parameters.
    """
    if optimizer is not None:
        return optimizer
    make = _recipes(config).get(config.name, partial(_from_optax, config))
    return optax.chain(optax.clip_by_global_norm(config.clip), make()) if config.clip else make()


def _recipes(config: Optimizer) -> dict[str, Callable[[], optax.GradientTransformation]]:
    """The optimizers whose arguments all come from the settings."""
    momentum, beta2 = config.momentum, config.beta2
    return {
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
        "muon-sgd": lambda: _muon_sgd(momentum, beta2),
    }


def _muon_sgd(momentum: float, rest: float) -> optax.GradientTransformation:
    """Muon in three Newton-Schulz steps for convolutions, Nesterov's momentum ``rest`` for all other parameters.

    `update` then holds the convolutions' norms, see `_with_norms_held` (Jordan 2024, airbench94).
    """
    axes = MuonDimensionNumbers((1, 2, 3), 4)

    def axes_of(stacks: Any) -> Any:
        return jax.tree.map(lambda _: axes, stacks)

    def kinds(params: Any) -> Any:
        return jax.tree.map(lambda value: "muon" if value.ndim == 4 else "sgd", params)

    orthogonal = scale_by_muon(beta=momentum, ns_steps=3, weight_dimension_numbers=axes_of)
    convolutions = optax.chain(_stacked(orthogonal), optax.scale(-1.0))
    return optax.partition({"muon": convolutions, "sgd": optax.sgd(1.0, rest, nesterov=True)}, kinds)


def _stacked(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """``transformation`` of arrays of equal shape stacked along a new first axis: few large products, not many small.

    It is told no parameters.
    """

    def stacks(tree: Any) -> Flat:
        alike: dict[str, list[jax.Array]] = {}
        for value in jax.tree.leaves(tree):
            alike.setdefault(_sides(value), []).append(value)
        return {sides: jnp.stack(values) for sides, values in alike.items()}

    def init(params: Any) -> Any:
        return transformation.init(stacks(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        given = stacks(updates)
        moved: Any
        moved, state = transformation.update(given, state)
        rows = {sides: iter(moved[sides]) for sides in given}
        leaves, structure = jax.tree.flatten(updates)
        return jax.tree.unflatten(structure, [next(rows[_sides(leaf)]) for leaf in leaves]), state

    return optax.GradientTransformation(init, update)


def _sides(value: jax.Array) -> str:
    """The shape as a name: 3x3x64x256."""
    return "x".join(map(str, value.shape))


def _with_norms_held(params: Flat) -> Flat:
    """The parameters, each convolution's kernel [K,K,I,O] scaled to norm sqrt(O).

    Behind batch normalization that changes no output; it keeps the steps of Muon, all of one size, as large beside the
    kernel at the end of a run as at its start.
    """
    held = dict(params)
    for name, value in params.items():
        if value.ndim == 4:
            norm = jnp.maximum(jnp.linalg.norm(value), 1e-12)
            held[name] = value * (math.sqrt(value.shape[-1]) / norm)
    return held


REFUSED = {
    "fromage": "its updates are not proportional to the learning rate",
    "lbfgs": "its line search evaluates the loss",
    "noisy_sgd": "it needs a random key",
    "optimistic_adam": "optax has replaced it by optimistic_adam_v2",
    "polyak_sgd": "it needs the value of the loss",
}
"""Optimizers of optax that a step with only gradients and parameters cannot use, and why."""


def names() -> list[str]:
    """Every ``Optimizer.name``: those with recipes, and all others of optax that need only a learning rate."""
    others = [name for name in dir(optax) if name not in REFUSED and _arguments(name)]
    return sorted({*_recipes(Optimizer()), *others})


def _arguments(name: str) -> dict[str, inspect.Parameter]:
    """The parameters of an optimizer of optax by name; empty if optax has no such optimizer."""
    made = getattr(optax, name, None)
    # optax also exports types, and parts of optimizers whose names begin with scale_by.
    if name.startswith(("_", "scale_by_")) or not isinstance(made, FunctionType | partial):
        return {}
    parameters = dict(inspect.signature(made).parameters)
    return parameters if next(iter(parameters), "") == "learning_rate" else {}


def _from_optax(config: Optimizer) -> optax.GradientTransformation:
    """An optimizer of optax without a recipe here, at learning rate 1 and without weight decay.

    It takes momentum and betas from the settings if its own defaults are the same as theirs, as those of Adam's
    relatives are; all other arguments keep optax's defaults.
    """
    name = config.name
    if name in REFUSED:
        raise UserError(f"--optimizer.name '{name}' cannot be used: {REFUSED[name]}; choose another, such as adamw")
    parameters = _arguments(name)
    if not parameters:
        hint = nearest(name, names()) or "; the manual of optax lists its optimizers"
        raise UserError(f"--optimizer.name '{name}' is not an optimizer of optax{hint}")
    usual = Optimizer()
    common = (
        ("b1", usual.momentum, config.momentum),
        ("momentum", usual.momentum, config.momentum),
        ("b2", usual.beta2, config.beta2),
    )
    given: dict[str, Any] = {}
    for argument, default, value in common:
        if argument in parameters and parameters[argument].default == default:
            given[argument] = value
    if "weight_decay" in parameters:
        given["weight_decay"] = 0.0  # The decay is applied in `update`.
    return getattr(optax, name)(learning_rate=1.0, **given)


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
    config: Optimizer,
    hyper: dict[str, jax.Array],
    step: jax.Array,
    grads: Flat,
    opt_state: Any,
    params: Flat,
    optimizer: Given = None,
    layers: Layers = (),
) -> tuple[Flat, Any, Flat]:
    """One update of flat parameters; returns (params, opt_state, changes of the parameters).

    The learning rate is ``hyper["lr"]`` x schedule(step) x the rule's factor x that of its layer among ``layers``; the
    decoupled weight decay (Loshchilov & Hutter 2019) subtracts learning rate x ``hyper["weight_decay"]`` x the kernel.
    A given ``optimizer`` has a learning rate, a schedule, a decay and clipping of its own: its updates are multiplied
    by the factors of rule and layer and nothing else.
    """
    directions, opt_state = transformation(config, optimizer).update(grads, opt_state, params)
    rate = 1.0 if optimizer is not None else hyper["lr"] * schedule(config, step)
    changes = {}
    for name, value in params.items():
        rule, direction = rule_for(config, name), directions[name]
        if optimizer is None and value.ndim > 1:
            direction = direction - rule.weight_decay * hyper["weight_decay"] * value
        factor = rule.lr * layer_rate(config, layers, name, step)
        changes[name] = (factor * rate * direction).astype(value.dtype)
    moved = {name: value + changes[name] for name, value in params.items()}
    if optimizer is None and config.name == "muon-sgd":
        moved = _with_norms_held(moved)
        changes = {name: moved[name] - value for name, value in params.items()}
    return moved, opt_state, changes


def moving_average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Exponential moving average whose decay rises from 0.1 to ``decay``, so that it forgets the initial values."""
    step = step.astype(jnp.float32)
    return optax.incremental_update(params, average, 1 - jnp.minimum(decay, (1 + step) / (10 + step)))
