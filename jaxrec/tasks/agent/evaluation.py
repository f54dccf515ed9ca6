"""How well an agent finds objects, and where its box ends in images."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.environments import STOP
from jaxrec.errors import UserError
from jaxrec.metrics import Average, Metric, Worst
from jaxrec.metrics.sums import Results
from jaxrec.tasks.agent.baselines import baseline_scores
from jaxrec.tasks.agent.episodes import AgentState, ends, played, scores, sums
from jaxrec.tasks.agent.examples import blank, examples_of
from jaxrec.tasks.agent.policies import greedy
from jaxrec.tasks.inputs import example_keys, places
from jaxrec.tasks.state import Batch


class Searched(Average):
    """Means over the images with something to find."""

    def compute(self) -> Results:
        """The mean of each value; raises UserError if nothing was to be found in any image."""
        if int(np.asarray(self.count)) == 0:
            raise UserError("no image of the split has an object to find; choose another --target or another split")
        return super().compute()


def eval_step(state: AgentState, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch, of the best moves; examples with nothing to find do not count."""
    index, _ = places(batch)
    real = batch.get("real", jnp.ones(index.shape, bool))
    keys = example_keys(batch, "random")[:, None]
    if state.environment is not None:
        episode = played(state, {}, greedy(state, {}), keys)
        return {"episodes": Average.from_batch(sums(episode), real)}
    examples = examples_of(state.config, batch)
    real = real & examples["there"].any(-1)
    episode = played(state, examples, greedy(state, examples), keys)
    found = ends(episode, examples)
    actions = episode.state.history[:, 0]
    values = {
        **scores(found, ""),
        **sums(episode),
        "success_70": (found >= 0.7).astype(jnp.float32),
        "stopped": (actions == STOP).any(-1).astype(jnp.float32),
        **baseline_scores(state, examples, keys),
    }
    return {"box": Searched.from_batch(values, real), "worst": Worst.from_batch(1 - found, index, real)}


def predict(state: AgentState, inputs: jax.Array) -> dict[str, jax.Array]:
    """Where the agent's box ends in images [B, H, W, C] of uint8, uint16 or floats in [0, 1].

    ``boxes`` float32 [B, 1, 4], y0, x0, y1, x1 in pixels; ``path`` float32 [B, T + 1, 4], the boxes on the way, the
    last one repeated; ``moves`` int32 [B]; ``stopped`` bool [B]: the agent ended the episode itself.
    """
    height, width = inputs.shape[1:3]
    examples = blank(state.config, inputs)
    # The best moves draw nothing, though every policy is given keys.
    keys = example_keys({"image": inputs}, "path")[:, None]
    episode = played(state, examples, greedy(state, examples), keys)
    sides = jnp.array([height, width, height, width], jnp.float32)
    path = episode.observation["box"][:, 0] * sides
    return {
        "boxes": path[:, -1:],
        "path": path,
        "moves": episode.there[:, 0].sum(-1, dtype=jnp.int32),
        "stopped": (episode.state.history[:, 0] == STOP).any(-1),
    }
