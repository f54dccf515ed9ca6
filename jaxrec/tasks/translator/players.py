"""The two players, generator and discriminator, at the start of their training.

Unpaired, each has two models of one kind: for the way ``there``, and for the way ``back``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.errors import UserError
from jaxrec.models.translator import Discriminator, Generator
from jaxrec.parallel import stream
from jaxrec.settings.translator import WEIGHTS
from jaxrec.settings.translator import Translator as Config
from jaxrec.tasks.model import as_model, compute_dtype, of_two_players
from jaxrec.tasks.state import Batch, Player, State, new_player, new_state
from jaxrec.tasks.translator import image_pool
from jaxrec.tasks.translator.pairs import pair, translated_in

ADDED = ("grey", "inpaint", "superres", "blur")
"""Made pairs whose two images are alike but for what is to be found: the input is added to the generator's answer."""

Shape = tuple[int, ...]
Draw = Callable[[str], jax.Array]
"""From the name of a stream to a key of it."""


class Ways(NamedTuple):
    """A model for the translation there and, unpaired, one for the way back."""

    there: Any
    back: Any = None


def ways(config: Config) -> tuple[str, ...]:
    """The names of the ways that are learned."""
    return ("there", "back") if config.unpaired else ("there",)


def init(
    config: Config,
    key: jax.Array,
    batch: Batch,
    models: tuple[Any, Any] | None = None,
    *,
    optimizer: Any = None,
    judge: tuple[Any, Any] | None = None,
) -> State:
    """The state at step 0, with the player ``generator`` and, unless there is no game, ``discriminator``.

    Unpaired, each player has two models of one kind: parameters ``there`` and ``back``.

    Args:
        config: the settings.
        key: parameters are drawn from it.
        batch: a batch of the data; its shapes are read.
        models: a generator, called with ``(images, train=...)``, and a discriminator, called with ``(images, given
            images or None, train=...)``, which gives logits [B, h, w] and a list of activations: Linen modules or pairs
            ``(init, apply)``. All images are in [0, 1]. Unpaired, both images need the same channels then. Default: the
            configured ones.
        optimizer: an optax transformation for both players, or a pair, the generator's first.
        judge: with ``perceptual``, a model from images in [0, 1] to features, or to a tuple that ends in them, and its
            variables ``{"params": ...}``; only training needs it.

    Raises:
        UserError: the settings contradict each other, or the images of a pair differ in size.
    """
    inputs, targets = jax.eval_shape(partial(pair, config), batch)
    _check(config, inputs.shape, targets.shape)
    generators, discriminators = _build(config, batch, inputs.shape[-1], targets.shape[-1], models)
    of_generator, of_discriminator = of_two_players(optimizer)
    draw = partial(stream, key, step=jnp.int32(0))
    one_input, one_target = (1, *inputs.shape[1:]), (1, *targets.shape[1:])

    variables = _drawn_generators(config, generators, draw, {"there": one_input, "back": one_target})
    # Beside the model's own collections, because inference needs it: metrics stand beside those of the mean target.
    variables["targets"] = {"mean": jnp.zeros(targets.shape[1:], jnp.float32)}
    players = {"generator": new_player(config, generators, variables, of_generator)}
    if config.game != "none":
        variables = _drawn_discriminators(config, discriminators, draw, one_input, one_target)
        player = new_player(config, discriminators, variables, of_discriminator)
        # Nobody looks at an average of the discriminator.
        players["discriminator"] = player.replace(average=None)

    weights = {name: getattr(config, name) for name in WEIGHTS}
    weights |= {"discriminator_lr": config.discriminator_lr, **_penalties(config)}
    state = new_state(config, key, players, **weights)
    extra: dict[str, Any] = {}
    if config.unpaired and config.pool:
        extra |= image_pool.empty(config.pool, there=one_target[1:], back=one_input[1:])
    if config.perceptual and judge is not None:
        extra["judge"] = _as_player(*judge)
    return state.replace(extra=extra)


def _check(config: Config, inputs: Shape, targets: Shape) -> None:
    """Raises UserError if the settings contradict each other, or the images of a pair differ in size."""
    if inputs[:3] != targets[:3]:
        raise UserError(
            f"the images of a pair are {inputs[1]}x{inputs[2]} and {targets[1]}x{targets[2]} pixels; expected one size"
        )
    if config.game == "none" and (config.unpaired or config.matching):
        option = "--unpaired" if config.unpaired else "--matching"
        raise UserError(f"{option} needs a discriminator, and --game none has none; choose another game")
    if config.perceptual_run and not config.perceptual:
        raise UserError(
            f"--perceptual-run {config.perceptual_run} changes nothing with --perceptual 0; give a weight, or remove it"
        )
    if config.unpaired and (config.matching or config.perceptual):
        option = "--matching" if config.matching else "--perceptual"
        raise UserError(f"{option} compares an answer with its target, and --unpaired has none; set it to 0")


def _build(config: Config, batch: Batch, inputs: int, targets: int, models: Any) -> tuple[Ways, Ways]:
    """The generators and the discriminators; ``inputs`` and ``targets`` are numbers of channels."""
    if models is not None:
        generator, discriminator = map(as_model, models)
        return Ways(generator, generator), Ways(discriminator, discriminator)
    usual_norm = "group" if config.unpaired else "batch"
    usual_add = translated_in(config, batch) in ADDED
    generator = partial(
        Generator,
        width=config.width,
        depth=config.depth,
        patch=config.patch,
        norm=config.norm or usual_norm,
        dropout=config.dropout,
        add=usual_add if config.add is None else config.add,
        dtype=compute_dtype(config),
    )
    discriminator = Discriminator(
        config.discriminator_width, config.halvings, config.spectral_norm, dtype=compute_dtype(config)
    )
    # The way there ends in images like the targets, and the way back in images like the inputs.
    return Ways(generator(targets), generator(inputs)), Ways(discriminator, discriminator)


def _drawn_generators(config: Config, models: Ways, draw: Draw, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The generators' variables, by collection and way, for one image of the shape that each way begins with."""
    drawn = {}
    for way in ways(config):
        rngs = {"params": draw(f"generator {way}")}
        drawn[way] = getattr(models, way).init(rngs, jnp.zeros(shapes[way]))
    return _by_collection(drawn)


def _drawn_discriminators(config: Config, models: Ways, draw: Draw, inputs: Shape, targets: Shape) -> dict[str, Any]:
    """The discriminators' variables, by collection and way, for one input and one target of these shapes."""
    drawn = {}
    for way in ways(config):
        judged = jnp.zeros(targets if way == "there" else inputs)
        # Only of pairs is it known which input an image should have been made from.
        given = None if config.unpaired else jnp.zeros(inputs)
        rngs = {"params": draw(f"discriminator {way}")}
        drawn[way] = getattr(models, way).init(rngs, judged, given)
    return _by_collection(drawn)


def _by_collection(variables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Variables by collection and way from variables by way and collection."""
    found: dict[str, Any] = {}
    for way, collections in variables.items():
        for name, values in collections.items():
            found.setdefault(name, {})[way] = values
    return found


def _penalties(config: Config) -> dict[str, float]:
    """The weights of the penalties that are on.

    Those that are off are left out, so that no time is spent on a gradient that is multiplied by 0.
    """
    gradient_penalty = config.gradient_penalty
    if gradient_penalty is None:
        gradient_penalty = 10.0 if config.game == "wasserstein" else 0.0
    weights = {"r1": config.r1, "gradient_penalty": gradient_penalty}
    return {name: weight for name, weight in weights.items() if weight}


def _as_player(model: Any, variables: Mapping[str, Any]) -> Player:
    """A judge as a player that never learns, so that its arrays are part of the state."""
    stats = {name: values for name, values in variables.items() if name != "params"}
    return Player(variables["params"], stats, average=None, opt_state=(), model=as_model(model))
