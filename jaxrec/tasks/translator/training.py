"""The training step of a translator: who is shown what, and who learns when."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxrec.parallel import mean_over_replicas, stream
from jaxrec.tasks.state import Batch, Metrics, State
from jaxrec.tasks.translator.discriminator import discriminator_turn, shown
from jaxrec.tasks.translator.generator import generator_turn
from jaxrec.tasks.translator.pairs import augmented, pair
from jaxrec.tasks.translator.passes import answered


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update of the discriminator, if there is one, then one of the generator; pure.

    Args:
        state: the state; it is not changed.
        batch: ``image`` and, unless pairs are made of it, ``target`` or ``other``.
        axis_name: the mapped axis if the step runs under ``pmap`` or ``shard_map``; gradients, metrics and batch
            statistics are then taken over all replicas, and a pool holds images of the first one.

    Returns:
        The next state, and the terms of both players' losses; ``loss`` is the generator's whole loss.
    """
    config = state.config
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    inputs, targets = augmented(config, key("augment"), batch)
    if config.unpaired:
        # So that not even the order of a batch tells what belongs together.
        inputs = jnp.roll(inputs, 1, axis=0)
    examples = {"input": inputs, "target": targets}
    metrics: Metrics = {}
    made = None
    if config.game != "none":
        # The discriminator is first, so that the generator learns from one that knows its present answers. One pass
        # of the generator serves both: compilers do not find that two are the same.
        made = answered(state, examples, key("generator"), axis_name)
        seen, extra = shown(state, examples, made.outputs, axis_name)
        state, metrics = discriminator_turn(state.replace(extra=extra), seen, key("discriminator"), axis_name)
    state, learned = generator_turn(state, examples, made, key("generator"), axis_name)
    # Of the targets as they are in the data: metrics are of images that are not augmented.
    _, plain = pair(config, batch)
    state = _with_mean(state, mean_over_replicas(plain.mean(0), axis_name))
    return state.replace(step=state.step + 1), {**metrics, **learned}


def _with_mean(state: State, mean: jax.Array) -> State:
    """The state with another batch's mean [H, W, D] in the mean of all targets so far."""
    player = state.players["generator"]
    before = player.stats["targets"]["mean"]
    after = before + (mean - before) / (state.step + 1).astype(jnp.float32)
    player = player.replace(stats={**player.stats, "targets": {"mean": after}})
    return state.replace(players={**state.players, "generator": player})
