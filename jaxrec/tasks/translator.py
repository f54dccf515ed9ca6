"""Translation of images into images: of pairs (Isola et al. 2017), or unpaired (Zhu et al. 2017); two players.

A batch is ``{"image": [B, H, W, C], "target": [B, H, W, D]}``, images as in ``jaxrec.tasks.inputs.scaled``. If pairs
are made, ``image`` alone is read, and is the target; unpaired images that are not made are ``image`` and ``other``. A
batch may carry ``index`` and ``epoch`` (int32 [B]) and, for evaluation, ``real`` (bool [B], False for padding).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses
from jaxrec.augment import augment_examples
from jaxrec.augment.made_pairs import MADE
from jaxrec.data.features import Features, class_names
from jaxrec.errors import UserError
from jaxrec.metrics import Average, FeatureDistance, Metric, Translation, Worst
from jaxrec.metrics.meanings import Meaning
from jaxrec.metrics.translation import of_images
from jaxrec.models.random_features import random_features
from jaxrec.models.translator import Discriminator, Generator, with_channels
from jaxrec.parallel import mean_over_replicas, stream
from jaxrec.settings.translator import WEIGHTS
from jaxrec.settings.translator import Translator as Config
from jaxrec.tasks.inputs import places, rgb, scaled
from jaxrec.tasks.learning import Pass, learn, passed, recalled
from jaxrec.tasks.model import as_model, compute_dtype, for_replicas, of_two_players
from jaxrec.tasks.state import Batch, Metrics, Player, State, new_player, new_state
from jaxrec.tasks.system import LOSS, Facts, Score, refuse_unused

HEADLINE = ("psnr_pooled", "l1", "class_consistency", "loss")
EVOLVING = ("translations",)
MEASURES = ("judged_answers", "read_answers")
BY_READER = "by the reader, a segmenter of the real photos"
JUDGED = "by the judge, a classifier of the true images"
ON_FEATURES = "on the judge's features"
ADDED = ("grey", "inpaint", "superres", "blur")
"""Made pairs whose two images are alike but for what is to be found: the input is added to the generator's answer."""
SHOWN = 8
"""Examples in a picture."""
EMPTY = 1e-8
"""Keeps features that are all 0 from dividing by 0."""
L1 = "Absolute error of a pixel, of values in [0, 1]"
POOLED = "Peak signal to noise ratio in decibels, of the squared error of all pixels of the split"
ALONE = "Mean of the images' own peak signal to noise ratios, in decibels, each at most 100"
SSIM = "Structural similarity, at most 1"
OF_COPY, OF_MEAN = "of the input in place of the answer.", "of the mean of the training targets in place of the answer."
MEANINGS = {
    "loss": Meaning("In evaluation: the absolute error of a pixel or, unpaired, the generators' loss."),
    "l1": Meaning(f"{L1}; it rewards blur.", "less"),
    "psnr_pooled": Meaning(f"{POOLED}; it rewards blur.", "more"),
    "psnr_per_image": Meaning(f"{ALONE}; it rewards blur.", "more"),
    "ssim": Meaning(f"{SSIM}.", "more"),
    "copy_l1": Meaning(f"{L1}, {OF_COPY}", "less"),
    "copy_psnr_pooled": Meaning(f"{POOLED}, {OF_COPY}", "more"),
    "copy_psnr_per_image": Meaning(f"{ALONE}, {OF_COPY}", "more"),
    "copy_ssim": Meaning(f"{SSIM}, {OF_COPY}", "more"),
    "mean_l1": Meaning(f"{L1}, {OF_MEAN}", "less"),
    "mean_psnr_pooled": Meaning(f"{POOLED}, {OF_MEAN}", "more"),
    "mean_psnr_per_image": Meaning(f"{ALONE}, {OF_MEAN}", "more"),
    "mean_ssim": Meaning(f"{SSIM}, {OF_MEAN}", "more"),
    "pixel_error": Meaning(f"{L1}, in training.", "less"),
    "generator_loss": Meaning("The generator's adversarial loss."),
    "discriminator_loss": Meaning("The discriminator's loss, without penalties."),
    "real": Meaning("Mean logit of the discriminator at real images."),
    "fake": Meaning("Mean logit of the discriminator at translated images."),
    "penalty": Meaning("The discriminator's penalties."),
    "matching_error": Meaning("Absolute error of the discriminator's activations.", "less"),
    "perceptual_error": Meaning("Squared error of the judge's features, as a share of their squares.", "less"),
    "cycle_error": Meaning("Absolute error of images that were translated there and back.", "less"),
    "identity_error": Meaning("Absolute error of images that were of the target's kind already.", "less"),
    "class_consistency": Meaning(f"Share of the answers that are of their image's class, {JUDGED}.", "more"),
    "real_class_consistency": Meaning(f"The same of the true images, {JUDGED}.", "more"),
    "modes": Meaning(f"Classes among the answers, {JUDGED}.", "more"),
    "real_modes": Meaning(f"Classes among the true images, {JUDGED}.", "more"),
    "class_entropy": Meaning(f"Entropy in nats of the classes among the answers, {JUDGED}."),
    "real_class_entropy": Meaning(f"Entropy in nats of the classes among the true images, {JUDGED}."),
    "kl_to_uniform": Meaning("How far that of the answers is below that of equally frequent classes, in nats."),
    "real_kl_to_uniform": Meaning("The same of the true images."),
    "random_features_distance": Meaning(
        "Frechet distance of answers from true images, on features of a fixed network that has learned nothing.", "less"
    ),
    "frechet_distance": Meaning(f"Distance of answers from true training images, {ON_FEATURES}.", "less"),
    "copy_frechet_distance": Meaning("The same of the inputs.", "less"),
    "frechet_distance_train_test": Meaning("The same of true test images: what a perfect translation would have."),
    "kernel_distance": Meaning(f"Another distance {ON_FEATURES}; below 0 by chance.", "less"),
    "copy_kernel_distance": Meaning("The same of the inputs.", "less"),
    "kernel_distance_train_test": Meaning("The same of true test images: what a perfect translation would have."),
    "judge": Meaning("Name and checksum of the judge, whose features distances are taken on."),
    "judged": Meaning("Answers that were judged."),
    "reader": Meaning("Name and checksum of the reader of what was made of label maps."),
    "reader_miou": Meaning(
        f"Mean over the classes of hits over what is of a class or read as it, {BY_READER}.", "more"
    ),
    "reader_pixel_accuracy": Meaning(f"Share of pixels whose label is read back, {BY_READER}.", "more"),
    "real_reader_miou": Meaning("The same of the real photos."),
    "real_reader_pixel_accuracy": Meaning("The same of the real photos."),
    "mean_reader_miou": Meaning("The same of the mean of the training photos."),
    "mean_reader_pixel_accuracy": Meaning("The same of the mean of the training photos."),
}
CAPTIONS = {
    "translations": "Inputs, their true targets, and what they were translated into, row by row.",
    "translations.gif": "The same throughout the run.",
    "cycles": "Images, what they were translated into, and that translated back, row by row.",
    "worst_translations": "Input, true target and translation of the images of highest loss in the whole split.",
    "batch": "Inputs and targets of a training batch after augmentation, side by side.",
}


class Ways(NamedTuple):
    """A model for the translation there and, unpaired, one for the way back."""

    there: Any
    back: Any = None


def _second(config: Config) -> str:
    """The name of the second image in a batch."""
    return "other" if config.unpaired else "target"


def READS(config: Config) -> Mapping[str, str]:
    """One image if pairs are made of it, otherwise two; classes if there are any, for the judge."""
    reads = {"image": "image"}
    if config.pairs not in MADE:
        reads[_second(config)] = "image?" if config.pairs is None else "image"
    return {**reads, "label": "class?"}


def SCORE(config: Config) -> Score:
    """The error of pixels; without targets, the distance from true images: the players' losses tell nothing."""
    return Score("random_features_distance") if config.unpaired else LOSS


def complete(config: Config, facts: Facts) -> Config:
    """The settings with what is translated, and the number of classes."""
    if config.unpaired:
        refuse_unused(config, "with --unpaired, because no target is known", "pixel")
    else:
        refuse_unused(config, "without --unpaired", "cycle", "identity", "pool")
    there = {name: feature.shape for name, feature in facts.features.items()}
    return replace(config, pairs=_pairs(config, there), classes=len(class_names(facts.features)))


def taught(config: Config) -> bool | str:
    """Perceptual errors are taken on the judge's features, or on those of a trained run."""
    return config.perceptual > 0 and (config.perceptual_run or True)


def _pairs(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """What is translated, if examples have features of these shapes."""
    if config.pairs is not None:
        return config.pairs
    if _second(config) in shapes:
        return "own"
    return "grey" if shapes["image"][-1] > 1 else "inpaint"


def _pair(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The inputs [B, H, W, C] and targets [B, H, W, D] of a batch, float32 in [0, 1]."""
    pairs = _pairs(config, {name: values.shape for name, values in batch.items()})
    images = scaled(batch["image"])
    if pairs == "own":
        return images, scaled(batch[_second(config)])
    return MADE[pairs](images), images


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
    inputs, targets = jax.eval_shape(partial(_pair, config), batch)
    _check(config, inputs.shape, targets.shape)
    generators, discriminators = _build(config, batch, inputs.shape[-1], targets.shape[-1], models)
    optimizers = of_two_players(optimizer)
    draw = partial(stream, key, step=jnp.int32(0))
    shapes = {"there": (1, *inputs.shape[1:]), "back": (1, *targets.shape[1:])}
    ways = _ways(config)
    drawn = {}
    for way in ways:
        drawn[way] = getattr(generators, way).init({"params": draw(f"generator {way}")}, jnp.zeros(shapes[way]))
    variables = _by_collection(drawn)
    # Beside the model's own collections, because inference needs it: metrics stand beside those of the mean target.
    variables["targets"] = {"mean": jnp.zeros(targets.shape[1:], jnp.float32)}
    players = {"generator": new_player(config, generators, variables, optimizers[0])}
    if config.game != "none":
        seen = {}
        for way in ways:
            real = shapes["back"] if way == "there" else shapes["there"]
            given = None if config.unpaired else jnp.zeros(shapes["there"])
            name = f"discriminator {way}"
            seen[way] = getattr(discriminators, way).init({"params": draw(name)}, jnp.zeros(real), given)
        player = new_player(config, discriminators, _by_collection(seen), optimizers[1])
        # Nobody looks at an average of the discriminator.
        players["discriminator"] = player.replace(average=None)
    weights = {name: getattr(config, name) for name in WEIGHTS}
    weights |= {"discriminator_lr": config.discriminator_lr, **_penalties(config)}
    state = new_state(config, key, players, **weights)
    return state.replace(extra=_extra(config, shapes, judge))


def _check(config: Config, inputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
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
        one, other = map(as_model, models)
        return Ways(one, one), Ways(other, other)
    pairs = _pairs(config, {name: values.shape for name, values in batch.items()})
    make = partial(
        Generator,
        width=config.width,
        depth=config.depth,
        patch=config.patch,
        norm=config.norm or ("group" if config.unpaired else "batch"),
        dropout=config.dropout,
        add=pairs in ADDED if config.add is None else config.add,
        dtype=compute_dtype(config),
    )
    judging = Discriminator(
        config.discriminator_width, config.halvings, config.spectral_norm, dtype=compute_dtype(config)
    )
    return Ways(make(targets), make(inputs)), Ways(judging, judging)


def _ways(config: Config) -> tuple[str, ...]:
    return ("there", "back") if config.unpaired else ("there",)


def _by_collection(variables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Variables by collection and way from variables by way and collection."""
    found: dict[str, Any] = {}
    for way, collections in variables.items():
        for name, values in collections.items():
            found.setdefault(name, {})[way] = values
    return found


def _penalties(config: Config) -> dict[str, float]:
    """The weights of the penalties that are on."""
    usual = 10.0 if config.game == "wasserstein" else 0.0
    weights = {
        "r1": config.r1,
        "gradient_penalty": usual if config.gradient_penalty is None else config.gradient_penalty,
    }
    return {name: weight for name, weight in weights.items() if weight}


def _extra(config: Config, shapes: Mapping[str, tuple[int, ...]], judge: Any) -> dict[str, Any]:
    """What evolves beside the players: the pools of translated images; and the judge's parameters, which stay."""
    extra: dict[str, Any] = {}
    if config.unpaired and config.pool:
        extra["there"] = jnp.zeros((config.pool, *shapes["back"][1:]), jnp.float32)
        extra["back"] = jnp.zeros((config.pool, *shapes["there"][1:]), jnp.float32)
        extra["filled"] = jnp.zeros((), jnp.int32)
    if config.perceptual and judge is not None:
        model, variables = judge
        stats = {name: values for name, values in variables.items() if name != "params"}
        extra["judge"] = Player(variables["params"], stats, average=None, opt_state=(), model=as_model(model))
    return extra


def _run(
    model: Any, way: str, params: Any, stats: Any, *inputs: Any, train: bool = True, key: jax.Array | None = None
) -> tuple[Any, Any]:
    """The outputs of one way's model, and the statistics of all after them."""
    own = {name: values[way] for name, values in stats.items() if way in values}
    rngs = None if key is None else {"dropout": key}
    outputs, changed = model.apply({"params": params[way], **own}, *inputs, train=train, mutable=list(own), rngs=rngs)
    return outputs, {**stats, **{name: {**stats[name], way: values} for name, values in changed.items()}}


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
    inputs, targets = _augmented(config, key("augment"), batch)
    if config.unpaired:
        # So that not even the order of a batch tells what belongs together.
        inputs = jnp.roll(inputs, 1, axis=0)
    examples = {"input": inputs, "target": targets}
    metrics: Metrics = {}
    made = None
    if config.game != "none":
        made = _answered(state, examples, key("generator"), axis_name)
        shown, extra = _shown(state, examples, made.outputs, axis_name)
        state, metrics = _discriminator_turn(state.replace(extra=extra), shown, key("discriminator"), axis_name)
    state, learned = _generator_turn(state, examples, made, key("generator"), axis_name)
    state = _with_mean(state, mean_over_replicas(_pair(config, batch)[1].mean(0), axis_name))
    return state.replace(step=state.step + 1), {**metrics, **learned}


def _augmented(config: Config, key: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The inputs and targets of a batch after augmentation, which moves the two of an example alike."""
    images = {"image": scaled(batch["image"])}
    if _second(config) in batch and config.pairs not in MADE:
        images[_second(config)] = scaled(batch[_second(config)])
    moved = augment_examples(config.augment, key, images, dict.fromkeys(images, "image"), *places(batch))
    return _pair(config, moved)


def _with_mean(state: State, mean: jax.Array) -> State:
    """The state with another batch's mean in the mean of all targets so far."""
    player = state.players["generator"]
    before = player.stats["targets"]["mean"]
    after = before + (mean - before) / (state.step + 1).astype(jnp.float32)
    player = player.replace(stats={**player.stats, "targets": {"mean": after}})
    return state.replace(players={**state.players, "generator": player})


Translating = Callable[[str, Any, jax.Array], tuple[jax.Array, Any]]
"""``(way, stats, images) -> (answers, statistics after them)``."""


def _translating(state: State, params: Any, key: jax.Array, axis_name: str | None) -> Translating:
    """The passes of the generators in training, with these parameters."""

    def run(way: str, stats: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        model = for_replicas(getattr(state.players["generator"].model, way), axis_name)
        return _run(model, way, params, stats, images, key=key)

    return run


def _answered(state: State, examples: Batch, key: jax.Array, axis_name: str | None) -> Pass:
    """What the generators make of the examples, by way; both players learn from it."""
    player = state.players["generator"]

    def run(params: Any) -> tuple[Batch, Any]:
        return _answers(state.config, _translating(state, params, key, axis_name), player.stats, examples)

    return passed(player, state, run, axis_name)


def _answers(config: Config, run: Translating, stats: Any, examples: Batch) -> tuple[Batch, Any]:
    """The generators' answers by way, and the statistics after them."""
    answers = {}
    for way in _ways(config):
        answers[way], stats = run(way, stats, examples["input" if way == "there" else "target"])
    return answers, stats


# The discriminator's turn


def _shown(state: State, examples: Batch, answers: Batch, axis_name: str | None) -> tuple[Batch, dict[str, Any]]:
    """What the discriminator is shown: real and translated images of each way; and the pools after that."""
    config, extra = state.config, dict(state.extra)
    shown = {}
    for way in _ways(config):
        real = "target" if way == "there" else "input"
        fake = answers[way]
        if way in extra:
            # The same numbers on every replica, so that the pools stay alike.
            chance = stream(state.key, f"pool {way}", state.step)
            fake, extra[way] = exchanged(chance, extra[way], state.extra["filled"], fake, axis_name)
        shown |= {f"real {way}": examples[real], f"fake {way}": fake}
        if not config.unpaired:
            shown["given"] = examples["input"]
    if "filled" in extra:
        size = examples["input"].shape[0]
        extra["filled"] = jnp.minimum(state.extra["filled"] + min(size, config.pool), config.pool)
    return shown, extra


def exchanged(
    key: jax.Array, pool: jax.Array, filled: jax.Array, images: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Images of which about half were taken from a pool, and the pool that got these in their place.

    As long as the pool is not full, images are put into it and none is taken (Shrivastava et al. 2017).

    Args:
        key: of the draws.
        pool: [P, H, W, C].
        filled: how many of them are there, int32.
        images: [B, H, W, C]; of more than P, the first P take part.
        axis_name: the pool gets the images of the first replica.
    """
    size = min(len(images), len(pool))
    place_key, coin_key = jax.random.split(key)
    drawn = jax.random.permutation(place_key, len(pool))[:size].astype(jnp.int32)
    following = (filled + jnp.arange(size, dtype=jnp.int32)) % len(pool)
    full = filled >= len(pool)
    places = jnp.where(full, drawn, following)
    taken = jax.random.bernoulli(coin_key, jnp.float32(0.5), (size,)) & full
    stored = taken | ~full
    there = pool[places]
    chosen = jnp.where(taken[:, None, None, None], there, images[:size])
    news = _of_first_replica(images[:size], axis_name)
    pool = pool.at[places].set(jnp.where(stored[:, None, None, None], news, there))
    return jnp.concatenate([chosen, images[size:]]), pool


def _of_first_replica(values: jax.Array, axis_name: str | None) -> jax.Array:
    """The values that the first replica has, on every replica."""
    if axis_name is None:
        return values
    own = jnp.where(jax.lax.axis_index(axis_name) == 0, values, 0.0)
    return jax.lax.psum(own, axis_name)


def _discriminator_turn(
    state: State, examples: Batch, key: jax.Array, axis_name: str | None
) -> tuple[State, dict[str, jax.Array]]:
    config, hyper, player = state.config, state.hyper, state.players["discriminator"]

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        found = []
        given = examples.get("given")
        for way in _ways(config):
            real, fake = examples[f"real {way}"], examples[f"fake {way}"]
            model = getattr(player.model, way)
            (real_logits, _), stats = _run(model, way, params, stats, real, given)
            (fake_logits, _), stats = _run(model, way, params, stats, fake, given)
            game = losses.discriminator_loss(real_logits.reshape(-1), fake_logits.reshape(-1), config.game).mean()
            run = partial(_run, model, way, params, stats, train=False)
            penalty = _penalty(hyper, run, real, fake, given, key)
            terms = {"discriminator_loss": game, "penalty": penalty}
            found.append({**terms, "real": real_logits.mean(), "fake": fake_logits.mean()})
        metrics = jax.tree.map(lambda *values: sum(values) / len(values), *found)
        return metrics["discriminator_loss"] + metrics["penalty"], (metrics, stats)

    rates = {**hyper, "lr": hyper["lr"] * hyper["discriminator_lr"]}
    player, metrics = learn(player, state, loss, examples, key, axis_name=axis_name, hyper=rates, name="discriminator")
    return state.replace(players={**state.players, "discriminator": player}), metrics


def _penalty(
    hyper: Mapping[str, jax.Array], run: Any, real: jax.Array, fake: jax.Array, given: Any, key: jax.Array
) -> jax.Array:
    """The penalties that are on, on the gradient of the mean of an image's patches."""

    def score(images: jax.Array) -> jax.Array:
        (logits, _), _ = run(images, given)
        return logits.mean((1, 2))

    penalty = jnp.float32(0)
    if "r1" in hyper:
        penalty += hyper["r1"] / 2 * losses.gradient_norm_squared(score, real).mean()
    if "gradient_penalty" in hyper:
        penalty += hyper["gradient_penalty"] * losses.gradient_penalty(score, real, fake, key).mean()
    return penalty


# The generator's turn


def _generator_turn(
    state: State, examples: Batch, made: Pass | None, key: jax.Array, axis_name: str | None
) -> tuple[State, dict[str, jax.Array]]:
    config, player = state.config, state.players["generator"]

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        run = _translating(state, params, key, axis_name)
        if made is None or config.accumulate > 1:  # Each part of a batch is a pass of its own.
            answers, stats = _answers(config, run, stats, examples)
        else:
            answers, stats = recalled(made, params, axis_name), made.after
        if config.unpaired:
            weighted, stats = _cycle_terms(state, run, stats, examples, answers)
        else:
            weighted = _pair_terms(state, examples, answers["there"])
        value = jnp.float32(0)
        metrics = {}
        for weight, (name, term) in weighted.items():
            value += state.hyper[weight] * term
            metrics[name] = term
        return value, ({**metrics, "loss": value}, stats)

    player, metrics = learn(player, state, loss, examples, key, axis_name=axis_name, name="generator")
    return state.replace(players={**state.players, "generator": player}), metrics


Terms = dict[str, tuple[str, jax.Array]]
"""The terms of the generator's loss: the weight of each, its name among the metrics, and its value."""


def _pair_terms(state: State, examples: Batch, made: jax.Array) -> Terms:
    """The terms of the translations that were ``made``, whose targets are known."""
    config, inputs, targets = state.config, examples["input"], examples["target"]
    terms: Terms = {"pixel": ("pixel_error", jnp.abs(made - targets).mean())}
    if config.game != "none":
        fake_logits, fake_layers = _judged(state, "there", made, inputs)
        # Only the relativistic game and matching look at the real images here; otherwise XLA drops this pass.
        real_logits, real_layers = _judged(state, "there", targets, inputs)
        game = losses.generator_loss(real_logits, fake_logits, config.game).mean()
        terms["adversarial"] = ("generator_loss", game)
        if config.matching:
            errors = [jnp.abs(one - other).mean() for one, other in zip(fake_layers, real_layers, strict=True)]
            terms["matching"] = ("matching_error", jnp.stack(errors).astype(jnp.float32).mean())
    if config.perceptual:
        if "judge" not in state.extra:
            raise UserError("--perceptual compares features of a judge, and init was given none: give it judge=")
        error = perceptual_error(state.extra["judge"], made, targets)
        terms["perceptual"] = ("perceptual_error", error)
    return terms


def perceptual_error(judge: Player, images: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean squared error of a judge's features of images [B, H, W, C] in [0, 1], over the targets' mean square."""

    def features(values: jax.Array) -> jax.Array:
        found = judge.model.apply({"params": judge.params, **judge.stats}, values)
        return found[-1] if isinstance(found, tuple) else found

    wanted = features(targets)
    return jnp.square(features(images) - wanted).mean() / (jnp.square(wanted).mean() + EMPTY)


def _cycle_terms(state: State, run: Translating, stats: Any, examples: Batch, answers: Batch) -> tuple[Terms, Any]:
    """The terms of a translation whose targets are not known."""
    config, inputs, targets = state.config, examples["input"], examples["target"]
    there, back = answers["there"], answers["back"]
    there_and_back, stats = run("back", stats, there)
    back_and_there, stats = run("there", stats, back)
    games = []
    for way, real, fake in (("there", targets, there), ("back", inputs, back)):
        real_logits, _ = _judged(state, way, real, None)
        fake_logits, _ = _judged(state, way, fake, None)
        games.append(losses.generator_loss(real_logits, fake_logits, config.game).mean())
    cycle = jnp.abs(there_and_back - inputs).mean() + jnp.abs(back_and_there - targets).mean()
    terms: Terms = {"adversarial": ("generator_loss", games[0] + games[1]), "cycle": ("cycle_error", cycle)}
    if config.identity and inputs.shape[-1] == targets.shape[-1]:
        same_targets, stats = run("there", stats, targets)
        same_inputs, stats = run("back", stats, inputs)
        identity = jnp.abs(same_targets - targets).mean() + jnp.abs(same_inputs - inputs).mean()
        terms["identity"] = ("identity_error", identity)
    return terms, stats


def _judged(state: State, way: str, images: jax.Array, given: jax.Array | None) -> tuple[jax.Array, list[jax.Array]]:
    """The discriminator's logits [N] of all patches, and its activations; it does not change."""
    player = state.players["discriminator"]
    model = getattr(player.model, way)
    (logits, layers), _ = _run(model, way, player.params, player.stats, images, given, train=False)
    return logits.reshape(-1), layers


# Evaluation


def translate(state: State, images: jax.Array, way: str = "there") -> jax.Array:
    """What images [B, H, W, C] in [0, 1] are translated into, float32 [B, H, W, D] in [0, 1]; or the way ``back``."""
    player = state.players["generator"]
    stats = {name: values for name, values in player.stats.items() if way in values}
    answers, _ = _run(getattr(player.model, way), way, player.best_params, stats, images, train=False)
    return jnp.clip(answers, 0, 1)


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch; examples whose ``real`` is False do not count.

    Unpaired images that are not made have no targets to compare with: only the generators' loss is measured, and the
    distance of answers from images of the other kind on random features.
    """
    config, real = state.config, batch.get("real")
    inputs, targets = _pair(config, batch)
    index, _ = places(batch)
    answers = translate(state, inputs)
    known = _knows_targets(config, batch)
    values = _cycle_values(state, inputs, targets, answers) if config.unpaired else {}
    if not config.unpaired:
        values["loss"] = jnp.abs(answers - targets).mean((1, 2, 3))
    found: dict[str, Metric] = {
        "loss": Average.from_batch(values, real),
        "worst": Worst.from_batch(values["loss"], index, real),
    }
    if config.unpaired:
        features = random_features(targets), random_features(answers)
        found["images"] = FeatureDistance.from_batch(*features, real, name="random_features_distance")
    if known:
        mean = state.players["generator"].stats["targets"]["mean"]
        copies = with_channels(inputs, targets.shape[-1])
        made = {"": answers, "copy_": copies, "mean_": jnp.broadcast_to(mean, targets.shape)}
        found["translation"] = Translation.from_batch(made, targets, real)
    return found


def _knows_targets(config: Config, batch: Batch) -> bool:
    """Whether the second image of an example is what its first is to become."""
    shapes = {name: values.shape for name, values in batch.items()}
    return not config.unpaired or _pairs(config, shapes) != "own"


def _cycle_values(state: State, inputs: jax.Array, targets: jax.Array, there: jax.Array) -> dict[str, jax.Array]:
    """``cycle_error`` and the generators' ``loss`` of each example, float32 [B]."""
    back = translate(state, targets, "back")
    errors = [
        jnp.abs(translate(state, there, "back") - inputs),
        jnp.abs(translate(state, back, "there") - targets),
    ]
    cycle = errors[0].mean((1, 2, 3)) + errors[1].mean((1, 2, 3))
    loss = state.config.cycle * cycle
    for way, real, fake in (("there", targets, there), ("back", inputs, back)):
        real_logits, _ = _judged(state, way, real, None)
        fake_logits, _ = _judged(state, way, fake, None)
        game = losses.generator_loss(real_logits, fake_logits, state.config.game)
        loss += state.config.adversarial * game.reshape(len(inputs), -1).mean(1)
    return {"cycle_error": cycle, "loss": loss}


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


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``translations``: inputs, targets and answers, row by row; unpaired also ``cycles``, there and back."""
    config = state.config
    inputs, targets = _pair(config, {name: values[:SHOWN] for name, values in batch.items()})
    answers = translate(state, inputs)
    rows = [inputs, targets, answers] if _knows_targets(config, batch) else [inputs, answers]
    pictures = {"translations": {"images": _alike(rows)}}
    if config.unpaired:
        back = translate(state, targets, "back")
        first = [inputs, answers, translate(state, answers, "back")]
        pictures["cycles"] = {"images": _alike([*first, targets, back, translate(state, back)])}
    return pictures


def _alike(rows: list[jax.Array], axis: int = 0) -> jax.Array:
    """Images of one number of channels in one array, stacked along ``axis``."""
    if len({images.shape[-1] for images in rows}) > 1:
        rows = [rgb(images) for images in rows]
    return jnp.stack(rows, axis)


def worst(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_translations``: input, target, if it is known, and answer, [B, 2 or 3, H, W, C]."""
    inputs, targets = _pair(state.config, batch)
    answers = translate(state, inputs)
    shown = [inputs, targets, answers] if _knows_targets(state.config, batch) else [inputs, answers]
    return {"worst_translations": {"images": _alike(shown, axis=1)}}


def seen(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``batch``: inputs and targets as the training step augments them."""
    pair = _augmented(state.config, stream(state.key, "augment", state.step), batch)
    return {"batch": {"images": _alike(list(pair), axis=1)}}


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each image: the errors of the answer, if its pair is made; otherwise nothing is known of it."""
    if "input" not in outputs:
        return [{} for _ in inputs]
    errors = of_images(jnp.asarray(outputs["image"]), scaled(inputs))
    return [{name: float(values[number]) for name, values in errors.items()} for number in range(len(inputs))]


def sheet(
    config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features
) -> dict[str, dict[str, Any]]:
    """``translations``: inputs, targets, if they are known, and answers, row by row."""
    return {"translations": {"images": _told(inputs, outputs)}}


def drawings(
    config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features
) -> list[dict[str, Any]]:
    """``translation`` of each image: the answer alone."""
    return [{"translation": {"picture": np.asarray(rgb(jnp.asarray(answer)))}} for answer in outputs["image"]]


def _told(inputs: np.ndarray, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rows of inputs, targets, if they are known, and answers."""
    given = scaled(inputs)
    if "input" in outputs:
        return np.asarray(_alike([jnp.asarray(outputs["input"]), given, jnp.asarray(outputs["image"])]))
    return np.asarray(_alike([given, jnp.asarray(outputs["image"])]))
