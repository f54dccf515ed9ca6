"""The training step of an agent: it plays episodes with the examples of a batch, and learns from moves."""

from functools import partial

import jax

from jaxrec.parallel import stream
from jaxrec.tasks.agent.actor_critic import actor_critic_step
from jaxrec.tasks.agent.baselines import cnn_step, object_sides
from jaxrec.tasks.agent.episodes import AgentState
from jaxrec.tasks.agent.examples import Examples, augmented, examples_of
from jaxrec.tasks.agent.q_learning import q_step
from jaxrec.tasks.state import Batch, Metrics


def train_step(state: AgentState, batch: Batch, *, axis_name: str | None = None) -> tuple[AgentState, Metrics]:
    """Plays an episode or more with each example, and makes one update; pure.

    Metrics: ``loss``, ``return``, ``moves``, ``value``, and ``explored`` (q) or ``entropy`` (actor-critic): means over
    the batch and all replicas.
    """
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    examples, size = _played_with(state, key("augment"), batch)
    keys = jax.random.split(key("play"), (size, state.config.copies))
    learned = q_step if state.config.learning == "q" else actor_critic_step
    after, metrics = learned(state, examples, keys, key, axis_name)
    if state.environment is None:
        sides = object_sides(state, examples, axis_name)
        after = after.replace(extra={**after.extra, "sides": sides})
    if "cnn" in state.players:
        after, beside = cnn_step(after, examples, key("cnn"), axis_name)
        metrics |= beside
    return after.replace(step=state.step + 1), metrics


def _played_with(state: AgentState, key: jax.Array, batch: Batch) -> tuple[Examples, int]:
    """The examples after augmentation, and how many; an environment of one's own needs none."""
    size = next(iter(batch.values())).shape[0]
    if state.environment is not None:
        return {}, size
    return examples_of(state.config, augmented(state, key, batch)), size
