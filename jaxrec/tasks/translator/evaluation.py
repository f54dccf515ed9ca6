"""How well a translator translates, and what it makes of images."""

import jax
import jax.numpy as jnp

from jaxrec.augment.made_pairs import MADE
from jaxrec.metrics import Average, FeatureDistance, Metric, Translation, Worst
from jaxrec.models.random_features import random_features
from jaxrec.models.translator import with_channels
from jaxrec.tasks.inputs import places, scaled
from jaxrec.tasks.state import Batch, State
from jaxrec.tasks.translator.cycle import cycle_values
from jaxrec.tasks.translator.pairs import knows_targets, pair
from jaxrec.tasks.translator.passes import translate


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch; examples whose ``real`` is False do not count.

    Unpaired images that are not made have no targets to compare with: only the generators' loss is measured, and the
    distance of answers from images of the other kind on random features.
    """
    config, real = state.config, batch.get("real")
    inputs, targets = pair(config, batch)
    index, _ = places(batch)
    answers = translate(state, inputs)
    if config.unpaired:
        values = cycle_values(state, inputs, targets, answers)
    else:
        values = {"loss": jnp.abs(answers - targets).mean((1, 2, 3))}
    found: dict[str, Metric] = {
        "loss": Average.from_batch(values, real),
        "worst": Worst.from_batch(values["loss"], index, real),
    }
    if config.unpaired:
        true, made = random_features(targets), random_features(answers)
        found["images"] = FeatureDistance.from_batch(true, made, real, name="random_features_distance")
    if knows_targets(config, batch):
        # What anybody can answer, to compare with: the input itself, and the mean of the training targets.
        copies = with_channels(inputs, targets.shape[-1])
        mean = state.players["generator"].stats["targets"]["mean"]
        compared = {"": answers, "copy_": copies, "mean_": jnp.broadcast_to(mean, targets.shape)}
        found["translation"] = Translation.from_batch(compared, targets, real)
    return found


def predict(state: State, inputs: jax.Array) -> dict[str, jax.Array]:
    """What images [B, H, W, C] are translated into: ``image`` float32 [B, H, W, D] in [0, 1].

    If pairs are made, the images are the targets: ``input`` is what was made of them and translated.
    """
    pairs = state.config.pairs
    images = scaled(inputs)
    if pairs in MADE:
        made = MADE[pairs](images)
        return {"input": made, "image": translate(state, made)}
    return {"image": translate(state, images)}
