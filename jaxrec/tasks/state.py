"""The state of a training run: everything that evolves, and only that."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxrec import optimizers
from jaxrec.settings import Task

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Player(struct.PyTreeNode):
    """A model that learns: a classifier or autoencoder is one player, a GAN is two."""

    params: Any
    stats: Any
    """The model's other collections: batch statistics, singular vectors, frozen constants."""
    average: Any
    """Moving average of ``params``, or None."""
    opt_state: Any
    model: Any = struct.field(pytree_node=False)
    optimizer: Any = struct.field(pytree_node=False, default=None, kw_only=True)
    """An optax transformation that makes the updates in place of the configured one, or None."""
    layers: optimizers.Layers = struct.field(pytree_node=False, default=(), kw_only=True)
    """The model's layers from the first to the last, if the settings treat them differently."""

    @property
    def best_params(self) -> Any:
        """The parameters to evaluate with: the moving average if one is kept."""
        return self.params if self.average is None else self.average

    def variables(self) -> dict[str, Any]:
        """What ``model.apply`` takes, for evaluation."""
        return {"params": self.best_params, **self.stats}


class State(struct.PyTreeNode):
    """Everything that evolves in a run; the configuration, the models and the loss are static."""

    step: jax.Array
    """Number of updates made, int32 scalar."""
    key: jax.Array
    """Root of all randomness; never replaced, see ``jaxrec.parallel.stream``."""
    hyper: dict[str, jax.Array]
    """Learning rate, weight decay and loss weights, float32 scalars."""
    players: dict[str, Player]
    extra: dict[str, Any] = struct.field(default_factory=dict, kw_only=True)
    """Whatever else evolves: pools of images, adaptive strengths, baselines, masks of pruned weights."""
    config: Any = struct.field(pytree_node=False)
    loss: Any = struct.field(pytree_node=False, default=None, kw_only=True)
    """The loss that ``init`` was given in place of the configured one, or None."""

    @property
    def player(self) -> Player:
        """The player of a system that has one.

        Raises ValueError if it has several: ask for ``players[name]``.
        """
        (player,) = self.players.values()
        return player


def new_player(config: Task, model: Any, variables: Any, optimizer: Any = None) -> Player:
    """A player at the start of its training, from the variables that ``model.init`` gave.

    ``optimizer``, an optax transformation, replaces the configured one with its schedule, decay and clipping.
    """
    stats = {name: value for name, value in variables.items() if name != "params"}
    params = variables["params"]
    trainable, _ = optimizers.split_frozen(config.optimizer, params)
    average = jax.tree.map(jnp.copy, params) if config.average else None
    moves = optimizers.transformation(config.optimizer, optimizer)
    return Player(
        params=params,
        stats=stats,
        average=average,
        opt_state=moves.init(trainable),
        model=model,
        optimizer=optimizer,
        layers=optimizers.layers_of(config.optimizer, params),
    )


def new_state(config: Task, key: jax.Array, players: dict[str, Player], loss: Any = None, **weights: float) -> State:
    """A state at step 0; ``weights`` are loss weights that become hyper-parameters beside the optimizer's."""
    optimizers.check_rules(config.optimizer, [player.params for player in players.values()])
    hyper = optimizers.hyperparameters(config.optimizer)
    hyper |= {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}
    return State(step=jnp.zeros((), jnp.int32), key=key, hyper=hyper, players=players, config=config, loss=loss)
