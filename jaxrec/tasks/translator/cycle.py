"""Translation without pairs: there and back, images have to end where they began (Zhu et al. 2017).

Of images of two kinds, nothing says what one is to become. Each kind has a generator into the other, and a
discriminator that tells whether answers look like it. That alone would allow any answer of the right kind; the cycle
binds the answer to its image. See https://arxiv.org/abs/1703.10593.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.tasks.state import Batch, State
from jaxrec.tasks.translator.passes import OneWay, judged, translate


def cycle_terms(
    state: State, one_way: OneWay, stats: Any, examples: Batch, answers: Batch
) -> tuple[dict[str, jax.Array], Any]:
    """The terms of the generators' loss, float32 scalars by the names of their weights; and the statistics after them.

    Args:
        state: its discriminators judge the answers.
        one_way: a pass of one of the generators.
        stats: the generators' statistics after the answers.
        examples: ``input`` and ``target``, images [B, H, W, .] that do not belong together.
        answers: what the generators made of them, by way.
    """
    config, inputs, targets = state.config, examples["input"], examples["target"]
    there, back = answers["there"], answers["back"]
    there_and_back, stats = one_way("back", stats, there)
    back_and_there, stats = one_way("there", stats, back)
    games = []
    for way, real, fake in (("there", targets, there), ("back", inputs, back)):
        games.append(_game(state, way, real, fake).mean())
    terms = {
        "adversarial": games[0] + games[1],
        "cycle": jnp.abs(there_and_back - inputs).mean() + jnp.abs(back_and_there - targets).mean(),
    }
    # An image of the target's kind can only stay as it is if both kinds have the same channels.
    if config.identity and inputs.shape[-1] == targets.shape[-1]:
        same_targets, stats = one_way("there", stats, targets)
        same_inputs, stats = one_way("back", stats, inputs)
        terms["identity"] = jnp.abs(same_targets - targets).mean() + jnp.abs(same_inputs - inputs).mean()
    return terms, stats


def cycle_values(state: State, inputs: jax.Array, targets: jax.Array, there: jax.Array) -> dict[str, jax.Array]:
    """``cycle_error`` and the generators' ``loss`` of each example in evaluation, float32 [B].

    ``there`` is what the inputs are translated into; identity is not part of the loss.
    """
    back = translate(state, targets, "back")
    of_inputs = jnp.abs(translate(state, there, "back") - inputs)
    of_targets = jnp.abs(translate(state, back, "there") - targets)
    cycle = of_inputs.mean((1, 2, 3)) + of_targets.mean((1, 2, 3))
    loss = state.config.cycle * cycle
    for way, real, fake in (("there", targets, there), ("back", inputs, back)):
        game = _game(state, way, real, fake)
        loss += state.config.adversarial * game.reshape(len(inputs), -1).mean(1)
    return {"cycle_error": cycle, "loss": loss}


def _game(state: State, way: str, real: jax.Array, fake: jax.Array) -> jax.Array:
    """The generator's adversarial loss of each patch of all images, float32 [N]."""
    # Only the relativistic game looks at the real images here; otherwise XLA drops this pass.
    real_logits, _ = judged(state, way, real, None)
    fake_logits, _ = judged(state, way, fake, None)
    return losses.generator_loss(real_logits, fake_logits, state.config.game)
