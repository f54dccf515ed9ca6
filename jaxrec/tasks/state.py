"""The state of a training run, and the one way a player learns from a loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxrec import optimizers
from jaxrec.augment import augment
from jaxrec.errors import UserError
from jaxrec.parallel import mean_over_replicas, per_replica, whole
from jaxrec.settings import Task

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, tuple[Metrics, Any]]]


class Player(struct.PyTreeNode):
    """A model that learns: a classifier or autoencoder is one player, a GAN is two."""

    params: Any
    stats: Any
    """The model's other collections: batch statistics, singular vectors, frozen constants."""
    average: Any
    """Moving average of ``params``, or None."""
    opt_state: Any
    model: Any = struct.field(pytree_node=False)

    @property
    def best_params(self) -> Any:
        """The parameters to evaluate with: the moving average where one is kept."""
        return self.params if self.average is None else self.average

    def variables(self) -> dict[str, Any]:
        """What ``model.apply`` takes, for evaluation."""
        return {"params": self.best_params, **self.stats}


class State(struct.PyTreeNode):
    """Everything that evolves in a run, and only that; the configuration and models are static."""

    step: jax.Array
    """Number of updates made, int32 scalar."""
    key: jax.Array
    """Root of all randomness; never replaced, see ``jaxrec.parallel.stream``."""
    hyper: dict[str, jax.Array]
    """Learning rate, weight decay and loss weights, float32 scalars."""
    players: dict[str, Player]
    config: Any = struct.field(pytree_node=False)

    @property
    def player(self) -> Player:
        """The only player of a classifier or an autoencoder."""
        (player,) = self.players.values()
        return player


def new_player(config: Task, model: nn.Module, variables: Any) -> Player:
    """A player at the start of its training, from the variables that ``model.init`` gave."""
    stats = {name: value for name, value in variables.items() if name != "params"}
    params = variables["params"]
    trainable, _ = optimizers.split_frozen(config.optimizer, params)
    average = jax.tree.map(jnp.copy, params) if config.average else None
    opt_state = optimizers.transformation(config.optimizer).init(trainable)
    return Player(params=params, stats=stats, average=average, opt_state=opt_state, model=model)


def new_state(config: Task, key: jax.Array, players: dict[str, Player], **weights: float) -> State:
    """A state at step 0; ``weights`` are loss weights that become hyper-parameters beside the optimizer's."""
    optimizers.check_rules(config.optimizer, [player.params for player in players.values()])
    hyper = optimizers.hyperparameters(config.optimizer)
    hyper |= {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}
    return State(step=jnp.zeros((), jnp.int32), key=key, hyper=hyper, players=players, config=config)


def for_replicas(model: nn.Module, axis_name: str | None) -> nn.Module:
    """The model with batch statistics taken over all replicas of ``axis_name``, where it has such statistics."""
    return model.clone(axis_name=axis_name) if axis_name and hasattr(model, "axis_name") else model


def learn(
    player: Player,
    state: State,
    loss: Loss,
    examples: Any,
    key: jax.Array,
    *,
    axis_name: str | None = None,
    hyper: dict[str, jax.Array] | None = None,
) -> tuple[Player, Metrics]:
    """One update of ``player`` on ``loss(params, stats, examples, key) -> (scalar, (metrics, new stats))``.

    Splits ``examples`` into ``config.accumulate`` parts whose gradients are averaged before the update, differentiates
    with respect to the trainable parameters alone, and averages gradients, metrics and statistics over the replicas.
    ``hyper`` defaults to that of the state.
    """
    config = state.config
    optimizer, hyper = config.optimizer, hyper or state.hyper
    trainable, frozen = optimizers.split_frozen(optimizer, player.params)

    def total(trainable: Any, stats: Any, part: Any, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        value, aux = loss(optimizers.unflatten({**trainable, **frozen}), stats, part, key)
        return value + optimizers.penalty(optimizer, hyper, trainable), aux

    gradient = jax.grad(total, has_aux=True)
    grads, metrics, stats = _accumulate(
        gradient, per_replica(trainable, axis_name), player.stats, examples, key, config.accumulate
    )
    grads, metrics, stats = mean_over_replicas((whole(grads), metrics, stats), axis_name)
    trainable, opt_state = optimizers.update(optimizer, hyper, state.step, grads, player.opt_state, trainable)
    params = optimizers.unflatten({**trainable, **frozen})
    average = player.average
    if average is not None:
        average = optimizers.moving_average(average, params, config.average, state.step)
    return player.replace(params=params, stats=stats, average=average, opt_state=opt_state), metrics


def _accumulate(
    gradient: Callable, params: Any, stats: Any, examples: Any, key: jax.Array, parts: int
) -> tuple[Any, Metrics, Any]:
    """Mean gradient and metrics over ``parts`` equal parts of the batch, and the statistics after the last part."""
    if parts == 1:
        grads, (metrics, stats) = gradient(params, stats, examples, key)
        return grads, metrics, stats
    size = jax.tree.leaves(examples)[0].shape[0]
    if size % parts:
        raise UserError(f"a batch of {size} cannot be accumulated in {parts} equal parts; choose a multiple of {parts}")
    # Each part takes every parts-th example, so that on a mesh each device keeps its own.
    split = jax.tree.map(lambda x: x.reshape(size // parts, parts, *x.shape[1:]).swapaxes(0, 1), examples)
    keys = jax.random.split(key, parts)
    grads, (metrics, stats) = gradient(params, stats, jax.tree.map(lambda x: x[0], split), keys[0])

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        sums, stats = carry
        grads, (metrics, stats) = gradient(params, stats, *part)
        return (jax.tree.map(jnp.add, sums, (grads, metrics)), stats), None

    # A convolution inside a loop is 20 times slower on a CPU (XLA has no library path for it there), so unroll there.
    unroll = parts if jax.default_backend() == "cpu" else 1
    rest = (jax.tree.map(lambda x: x[1:], split), keys[1:])
    (sums, stats), _ = jax.lax.scan(add, ((grads, metrics), stats), rest, unroll=unroll)
    grads, metrics = jax.tree.map(lambda x: x / parts, sums)
    return grads, metrics, stats


def pixels(batch: Batch) -> jax.Array:
    """The batch's images as float32 in [0, 1]; raises where they are not uint8 [B, H, W, C]."""
    image_shape(batch)
    return batch["image"].astype(jnp.float32) / 255


def augmented(config: Task, key: jax.Array, batch: Batch) -> jax.Array:
    """The batch's images as float32 in [0, 1] after the configured augmentation.

    A batch without ``index`` and ``epoch`` counts as the first examples in the first epoch.
    """
    images = pixels(batch)
    size = images.shape[0]
    index = batch.get("index", jnp.arange(size, dtype=jnp.int32))
    epoch = batch.get("epoch", jnp.zeros((size,), jnp.int32))
    return augment(config.augment, key, images, index, epoch)


def image_shape(batch: Batch) -> tuple[int, int, int]:
    """Height, width and channels of the batch's images; raises where they are not uint8 [B, H, W, C]."""
    image = batch["image"]
    if image.ndim != 4 or image.dtype != jnp.uint8:
        raise UserError(
            f"batch['image'] is {image.dtype} {image.shape}; expected uint8 [batch, height, width, channels]"
        )
    height, width, channels = image.shape[1:]
    return height, width, channels
