"""How a player learns from a loss, and the kinds of gradient that it may follow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxrec import optimizers
from jaxrec.errors import UserError
from jaxrec.models.layers import refuse_single_values, stored_statistics
from jaxrec.parallel import mean_over_replicas, per_replica, whole
from jaxrec.tasks.state import Batch, Metrics, Player, State

Loss = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, tuple[Metrics, Any]]]
"""``(params, stats, examples, key) -> (scalar, (metrics, new stats))``; the scalar is a mean over the examples."""
Gradient = Callable[[Loss, Any, Any, Batch, jax.Array], tuple[Any, Metrics, Any]]
"""``(loss, params, stats, examples, key) -> (gradient, metrics, new stats)``."""


def learn(
    player: Player,
    state: State,
    loss: Loss,
    examples: Batch,
    key: jax.Array,
    *,
    axis_name: str | None = None,
    hyper: dict[str, jax.Array] | None = None,
    optimizer: Any = None,
    gradient: Gradient | None = None,
    name: str = "",
) -> tuple[Player, Metrics]:
    """One update of ``player`` on a loss.

    The loss is differentiated with respect to the trainable parameters alone; gradients, metrics and statistics are
    averaged over the replicas.

    Args:
        player: the player to update.
        state: its step, hyper-parameters and configuration are read.
        loss: ``loss(params, stats, examples, key) -> (scalar, (metrics, new stats))``.
        examples: arrays [B, ...] by name, split along B where the gradient takes parts of a batch. Images in [0, 1] are
            called ``image``, so that a gradient may change them: standardize them inside the loss.
        key: for what the loss draws.
        axis_name: the mapped axis of ``pmap`` or ``shard_map``.
        hyper: learning rate, weight decay and penalties; default: the state's.
        optimizer: an optax transformation in place of the player's.
        gradient: default: the mean over the batch, taken in ``config.accumulate`` parts.
        name: the player's, put before the names of the update's numbers if a system has several: ``generator_lr``.

    Returns:
        The player after the update, and the loss's metrics with the numbers of the update: ``lr``, the learning rate of
        this step, unless an optax transformation keeps its own; ``gradient_norm``, before clipping; ``update_norm``, of
        the change of the trainable parameters.

    Raises:
        UserError: the model would normalize single values.
    """
    config = state.config
    hyper = hyper or state.hyper
    optimizer = optimizer or player.optimizer
    gradient = gradient or accumulated(config.accumulate)
    trainable, frozen = optimizers.split_frozen(config.optimizer, player.params)

    def total(trainable: Any, stats: Any, part: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        params = optimizers.unflatten({**trainable, **frozen}, player.params)
        with as_in_training(config.optimizer):
            value, aux = loss(params, stats, part, key)
        return value + optimizers.penalty(config.optimizer, hyper, trainable), aux

    found = gradient(total, per_replica(trainable, axis_name), player.stats, examples, key)
    grads, metrics, stats = found
    grads, metrics, stats = mean_over_replicas((whole(grads), metrics, stats), axis_name)
    trainable, opt_state, changes = optimizers.update(
        config.optimizer, hyper, state.step, grads, player.opt_state, trainable, optimizer, player.layers
    )
    numbers = {"gradient_norm": _norm(grads), "update_norm": _norm(changes)}
    if optimizer is None:
        numbers["lr"] = hyper["lr"] * optimizers.schedule(config.optimizer, state.step)
    prefix = f"{name}_" if name else ""
    metrics = {**metrics, **{prefix + each: value for each, value in numbers.items()}}
    params = optimizers.unflatten({**trainable, **frozen}, player.params)
    average = player.average
    if average is not None:
        average = optimizers.moving_average(average, params, config.average, state.step)
    return player.replace(params=params, stats=stats, average=average, opt_state=opt_state), metrics


@contextmanager
def as_in_training(config: optimizers.Optimizer) -> Iterator[None]:
    """Frozen batch normalization uses its stored statistics, and single values are not normalized."""

    def is_frozen(name: str) -> bool:
        return optimizers.rule_for(config, name).freeze

    with nn.intercept_methods(stored_statistics(is_frozen)), nn.intercept_methods(refuse_single_values):
        yield


class Pass(NamedTuple):
    """A pass of a player's model whose outputs another player is shown before the first learns from them."""

    outputs: Any
    after: Any
    """What the pass gave beside its outputs, such as statistics; no gradient is taken of it."""
    pullback: Any
    """From the gradient of a loss by the outputs to that by the parameters."""


def passed(player: Player, state: State, run: Callable[[Any], tuple[Any, Any]], axis_name: str | None) -> Pass:
    """The pass ``run``, of parameters to outputs and what comes beside them, as the player's loss would make it."""
    with as_in_training(state.config.optimizer):
        outputs, pullback, after = jax.vjp(run, per_replica(player.params, axis_name), has_aux=True)
    return Pass(outputs, after, pullback)


def recalled(made: Pass, params: Any, axis_name: str | None) -> Any:
    """The outputs of a pass that was made already, inside a loss of ``params``, which must be those of the pass.

    The loss's gradient goes through them as if the pass were made there. Made twice, a pass costs twice: compilers do
    not find that both are the same.
    """
    # Frozen parameters have not been marked as each replica's own, and the pass was of such ones.
    return _recall(per_replica(params, axis_name), made.outputs, made.pullback)


@jax.custom_vjp
def _recall(params: Any, outputs: Any, pullback: Any) -> Any:
    return outputs


def _recall_forward(params: Any, outputs: Any, pullback: Any) -> tuple[Any, Any]:
    return outputs, pullback


def _recall_backward(pullback: Any, gradient: Any) -> tuple[Any, None, None]:
    (by_params,) = pullback(gradient)
    return by_params, None, None


_recall.defvjp(_recall_forward, _recall_backward)


def _norm(tree: Any) -> jax.Array:
    """The root of the sum of all squares, float32."""
    return optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.float32), tree))


def mean_gradient(loss: Loss, params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[Any, Metrics, Any]:
    """The gradient of the mean loss over the batch."""
    grads, (metrics, stats) = jax.grad(loss, has_aux=True)(params, stats, examples, key)
    return grads, metrics, stats


def accumulated(parts: int, gradient: Gradient = mean_gradient) -> Gradient:
    """The mean of ``gradient`` over ``parts`` equal parts of the batch, one after the other, to save memory.

    Metrics are means over the parts, statistics those after the last. The gradient raises UserError if the batch cannot
    be cut into equal parts.
    """
    if parts == 1:
        return gradient

    def over_parts(loss: Loss, params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[Any, Metrics, Any]:
        size = _size(examples)
        if size % parts:
            raise UserError(
                f"a batch of {size} cannot be accumulated in {parts} equal parts; choose a multiple of {parts}"
            )

        # Each part takes every parts-th example, so that on a mesh each device keeps its own.
        def cut(x: jax.Array) -> jax.Array:
            return x.reshape(size // parts, parts, *x.shape[1:]).swapaxes(0, 1)

        split = jax.tree.map(cut, examples)
        keys = jax.random.split(key, parts)
        grads, metrics, stats = gradient(loss, params, stats, jax.tree.map(lambda x: x[0], split), keys[0])

        def add(carry: Any, part: Any) -> tuple[Any, None]:
            sums, stats = carry
            grads, metrics, stats = gradient(loss, params, stats, *part)
            return (jax.tree.map(jnp.add, sums, (grads, metrics)), stats), None

        # A convolution inside a loop is 20 times slower on a CPU, where XLA has no library call for it: unroll there.
        unroll = parts if jax.default_backend() == "cpu" else 1
        rest = (jax.tree.map(lambda x: x[1:], split), keys[1:])
        (sums, stats), _ = jax.lax.scan(add, ((grads, metrics), stats), rest, unroll=unroll)
        grads, metrics = jax.tree.map(lambda x: x / parts, sums)
        return grads, metrics, stats

    return over_parts


def per_example(clip: float, noise: float = 0.0) -> Gradient:
    """The mean of the examples' own gradients, each scaled down to a global norm of at most ``clip``, plus noise.

    With Gaussian noise of standard deviation ``noise * clip`` on the sum this is the gradient of differentially private
    training (Abadi et al. 2016, https://arxiv.org/abs/1607.00133). The gradient raises UserError for a model with batch
    statistics, in which examples are not separate.
    """

    def clipped(loss: Loss, params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[Any, Metrics, Any]:
        if "batch_stats" in stats:
            raise UserError("gradients per example need a model without batch statistics; choose one without BatchNorm")
        size = _size(examples)
        loss_key, noise_key = jax.random.split(key)

        def one(example: Batch, key: jax.Array) -> tuple[Any, Metrics]:
            alone = jax.tree.map(lambda x: x[None], example)
            grads, (metrics, _) = jax.grad(loss, has_aux=True)(params, stats, alone, key)
            scale = jnp.minimum(1.0, clip / jnp.maximum(optax.tree.norm(grads), 1e-12))
            return jax.tree.map(lambda x: x * scale.astype(x.dtype), grads), metrics

        grads, metrics = jax.vmap(one)(examples, jax.random.split(loss_key, size))
        grads, metrics = jax.tree.map(lambda x: x.mean(0), (grads, metrics))
        if noise:
            deviation = noise * clip / size
            grads = jax.tree.map(jnp.add, grads, optax.tree.random_like(noise_key, grads, _normal(deviation)))
        return grads, metrics, stats

    return clipped


def _normal(deviation: float) -> Callable:
    def draw(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return deviation * jax.random.normal(key, shape, dtype)

    return draw


def adversarial(radius: float, steps: int = 1, gradient: Gradient = mean_gradient) -> Gradient:
    """``gradient`` at the images, within ``radius`` of each pixel, on which the loss is worst.

    They are looked for by ``steps`` steps of projected gradient ascent from a random start (Madry et al. 2018,
    https://arxiv.org/abs/1706.06083). The examples' ``image`` is float in [0, 1], and stays in it.
    """

    def at_worst(loss: Loss, params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[Any, Metrics, Any]:
        start_key, loss_key = jax.random.split(key)
        image = examples["image"]
        low, high = jnp.clip(image - radius, 0, 1), jnp.clip(image + radius, 0, 1)
        size = 2 * radius / max(steps, 1)

        def value(changed: jax.Array) -> jax.Array:
            return loss(params, stats, {**examples, "image": changed}, loss_key)[0]

        changed = jax.random.uniform(start_key, image.shape, image.dtype, low, high)
        for _ in range(steps):
            changed = jnp.clip(changed + size * jnp.sign(jax.grad(value)(changed)), low, high)
        changed = jax.lax.stop_gradient(changed)
        return gradient(loss, params, stats, {**examples, "image": changed}, loss_key)

    return at_worst


def _size(examples: Batch) -> int:
    return jax.tree.leaves(examples)[0].shape[0]
