"""The policies by which moves are chosen: ``choose(observation, inner state, keys) -> int32 [B, K]``.

``keys`` [B, K] are one for each episode, so that what an episode draws does not depend on the others.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.environments import ACTIONS, Choose, Search, greedy_action
from jaxrec.losses import q_learning
from jaxrec.models.agent import Judgment
from jaxrec.tasks.agent.episodes import AgentState, environment_of, rules
from jaxrec.tasks.agent.examples import Examples, read
from jaxrec.tasks.state import Player


def judged(state: AgentState, variables: Any, seen: Examples, observation: Any) -> Judgment:
    """What the network says of states [B, K] of examples [B] as it reads them."""
    return state.players["net"].model.apply(variables, seen, observation)


def action_values(judgment: Judgment) -> jax.Array:
    """Action values [..., A]."""
    return q_learning.dueling(judgment.value, judgment.advantage)


def newest(player: Player) -> dict[str, Any]:
    """The variables that learn; ``player.variables()`` are those of the moving average, if one is kept."""
    return {"params": player.params, **player.stats}


def exploring(state: AgentState, examples: Examples, share: jax.Array) -> Choose:
    """The policy of Q-learning in training: the best action, or with probability ``share`` one to explore."""
    config, given = state.config, state.environment
    variables, seen = newest(state.players["net"]), read(config, examples)

    def promising(example: Examples, inner: Any) -> jax.Array:
        """The actions to explore among, bool [A], in one episode; all, if none is known to be promising."""
        environment = environment_of(config, given, example)
        every = jnp.ones(environment.actions, bool)
        if environment.promising is None or not config.guided:
            return every
        good = environment.promising(inner)
        return jnp.where(good.any(), good, every)

    def choose(observation: Any, inner: Any, keys: jax.Array) -> jax.Array:
        best = action_values(judged(state, variables, seen, observation)).argmax(-1)
        among = jax.vmap(jax.vmap(promising, (None, 0)))(examples, inner)
        # The greatest of independent draws is any of the actions with the same probability.
        noise = _gumbel(keys, among.shape[-1])
        other = jnp.where(among, noise, -jnp.inf).argmax(-1)
        draws = _each(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (), jnp.float32), keys)
        return jnp.where(draws < share, other, best).astype(jnp.int32)

    return choose


def sampling(state: AgentState, seen: Examples) -> Choose:
    """The policy of the actor-critic in training: actions drawn by their probabilities; examples as they are ``read``.

    The greatest of logits plus Gumbel noise is a draw from their softmax.
    """
    variables = newest(state.players["net"])

    def choose(observation: Any, inner: Any, keys: jax.Array) -> jax.Array:
        logits = judged(state, variables, seen, observation).advantage
        noise = _gumbel(keys, logits.shape[-1])
        return (logits + noise).argmax(-1).astype(jnp.int32)

    return choose


def greedy(state: AgentState, examples: Examples) -> Choose:
    """The best action, by the parameters that are evaluated."""
    variables, seen = state.players["net"].variables(), read(state.config, examples)

    def choose(observation: Any, inner: Any, keys: jax.Array) -> jax.Array:
        # Of advantages and of a policy's logits alike, the greatest is the best action.
        return judged(state, variables, seen, observation).advantage.argmax(-1).astype(jnp.int32)

    return choose


def at_random(observation: Any, inner: Any, keys: jax.Array) -> jax.Array:
    """Any move of the box, all as likely."""
    return _each(lambda key: jax.random.randint(key, (), 0, len(ACTIONS), jnp.int32), keys)


def knowing(state: AgentState, examples: Examples) -> Choose:
    """The best next move of the box, by somebody who knows where the objects are; of one episode each, [B, 1]."""
    best = jax.vmap(partial(greedy_action, rules=rules(state.config)))

    def choose(observation: Any, inner: Search, keys: jax.Array) -> jax.Array:
        return best(inner.box[:, 0], examples["boxes"], examples["there"])[:, None]

    return choose


def _gumbel(keys: jax.Array, actions: int) -> jax.Array:
    """Gumbel noise, float32 [B, K, A], a draw for each action of each episode."""
    return _each(lambda key: jax.random.gumbel(key, (actions,), jnp.float32), keys)


def _each(draw: Callable[[jax.Array], jax.Array], keys: jax.Array) -> jax.Array:
    """``draw(key)`` for keys [B, K]."""
    return jax.vmap(jax.vmap(draw))(keys)
