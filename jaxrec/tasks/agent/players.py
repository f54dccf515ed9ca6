"""The agent's network, the CNN that it is compared with, and the state at the start of their training."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.environments import ACTIONS, Environment
from jaxrec.errors import UserError
from jaxrec.models.agent import BoxNetwork, DenseNetwork, operations
from jaxrec.models.cnn import CNN, widest_within
from jaxrec.parallel import stream
from jaxrec.settings.agent import Agent as Config
from jaxrec.tasks import replay
from jaxrec.tasks.agent.episodes import AgentState, reset
from jaxrec.tasks.agent.examples import Examples, blank, kept, read
from jaxrec.tasks.model import as_model, compute_dtype
from jaxrec.tasks.state import Batch, Player, new_player, new_state


def init(
    config: Config,
    key: jax.Array,
    batch: Batch,
    model: Any = None,
    *,
    optimizer: Any = None,
    environment: Environment | None = None,
) -> AgentState:
    """The state at step 0, with the player ``net`` and, to compare with, ``cnn``.

    Args:
        config: the settings.
        key: parameters are drawn from it.
        batch: a batch of the data; its shapes are read.
        model: a Linen module, or a pair ``(init, apply)``, called with ``(example, observation)``: arrays [B, ...] by
            name, ``image`` among them, and what is observed in K states of each, [B, K, ...]; it gives a
            ``jaxrec.models.agent.Judgment`` of [B, K]. Default: the configured.
        optimizer: an optax transformation for both players in place of the configured optimizer, schedule, decay and
            clipping.
        environment: what to act in, in place of the box; no feature of the data is read then.

    Raises:
        UserError: the network has no view.
    """
    if not config.reaches:
        raise UserError("--reaches is empty, and the agent would see nothing; give a number for each view, such as 1.5")
    examples = {} if environment else blank(config, batch["image"][:1])
    observation = _first_observation(config, environment, examples, key)
    model = _network(config, environment) if model is None else as_model(model)
    params_key = stream(key, "params", jnp.int32(0))
    variables = model.init({"params": params_key}, read(config, examples), observation)
    players = {"net": new_player(config, model, variables, optimizer)}
    if config.cnn and environment is None:
        players["cnn"] = _new_cnn(config, key, examples, optimizer)
    state = new_state(config, key, players)
    extra: dict[str, Any] = {}
    if config.learning == "q":
        extra["replay"] = replay.empty(config.replay, (config.copies, config.moves), kept(examples), observation)
    if environment is None:
        # Running mean of the objects' sides, for the box in the middle that the agent is compared with.
        extra["sides"] = jnp.zeros(2, jnp.float32)
    return AgentState(
        step=state.step,
        key=state.key,
        hyper=state.hyper,
        players=state.players,
        config=config,
        extra=extra,
        environment=environment,
    )


def _first_observation(config: Config, environment: Environment | None, examples: Examples, key: jax.Array) -> Any:
    """Zeros of the form of what is seen at the start, arrays [1, 1, ...] of one example and one episode."""

    def first(key: jax.Array) -> Any:
        observation, _ = reset(config, environment, examples)(key[None, None])
        return observation

    shapes = jax.eval_shape(first, key)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _new_cnn(config: Config, key: jax.Array, examples: Examples, optimizer: Any) -> Player:
    """The widest CNN that needs no more operations for an image than an episode of the most moves.

    Its four outputs are the center and the sides of a box.
    """
    shape = examples["image"].shape[1:]
    most = operations(build(config), shape, config.moves)
    cnn = widest_within(most, shape, partial(CNN, 4, dtype=compute_dtype(config)))
    cnn_key = stream(key, "cnn", jnp.int32(0))
    variables = cnn.init({"params": cnn_key}, read(config, examples)["image"])
    return new_player(config, cnn, variables, optimizer)


def build(config: Config) -> BoxNetwork:
    """The configured network, of views around the box."""
    return BoxNetwork(len(ACTIONS), config.width, config.glance, config.reaches, compute_dtype(config))


def _network(config: Config, environment: Environment | None) -> BoxNetwork | DenseNetwork:
    """The configured network, or one dense over what another environment shows."""
    if environment is None:
        return build(config)
    return DenseNetwork(environment.actions, config.width, compute_dtype(config))
