"""Generative adversarial networks: two players, one step counter.

A batch is ``{"image": [B, H, W, C], "label": int32 [B]}``, images as in ``jaxrec.tasks.inputs.scaled``; the label is
used by a class-conditional GAN alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses
from jaxrec.augment.diffaugment import KINDS, diffaugment
from jaxrec.data.features import class_names
from jaxrec.errors import UserError
from jaxrec.metrics import Average, FeatureDistance, Metric
from jaxrec.metrics.meanings import Meaning
from jaxrec.models.gan import Discriminator, Generator
from jaxrec.models.random_features import random_features
from jaxrec.parallel import stream
from jaxrec.settings.gan import GAN as Config
from jaxrec.tasks.inputs import augmented, augmented_batch, example_keys, image_shape, pixels, sheet_size
from jaxrec.tasks.learning import learn
from jaxrec.tasks.model import as_model, compute_dtype, for_replicas, of_two_players
from jaxrec.tasks.state import Batch, Metrics, State, new_player, new_state
from jaxrec.tasks.system import Facts, Score

SCORE = Score("random_features_distance")
"""Neither player's loss tells a better generator from a worse one."""
ADAPTED_OVER = 100_000
"""Real images that the discriminator has seen when the share of augmented ones has gone from none to all."""
HEADLINE = ("class_consistency", "frechet_distance", "loss")
EVOLVING = ("samples",)
seen = augmented_batch
MEASURES = ("judge",)
JUDGED = "by the judge, a classifier of the real images"
MEANINGS = {
    "loss": Meaning("The generator's loss; neither player's tells a better generator from a worse one."),
    "generator_loss": Meaning("The generator's loss, without penalties."),
    "discriminator_loss": Meaning("The discriminator's loss, without penalties."),
    "real": Meaning("Mean logit of the discriminator at real images."),
    "fake": Meaning("Mean logit of the discriminator at generated images."),
    "penalty": Meaning("The discriminator's penalties."),
    "sign": Meaning("Mean sign of the discriminator's logit at real images; near 1, it knows them by heart."),
    "augmented": Meaning("Share of the images that each augmentation changes before the discriminator sees them."),
    "random_features_distance": Meaning(
        "Frechet distance of generated from held-out images, on features of a fixed network that has learned nothing.",
        "less",
    ),
    "class_consistency": Meaning(f"Share of the images that are of the class they were made for, {JUDGED}.", "more"),
    "modes": Meaning(f"Classes among the generated images, {JUDGED}.", "more"),
    "class_entropy": Meaning(f"Entropy in nats of the classes among the generated images, {JUDGED}.", "more"),
    "kl_to_uniform": Meaning("How far that entropy is below that of equally frequent classes, in nats.", "less"),
    "frechet_distance": Meaning("Distance of generated from real images, on the judge's features.", "less"),
    "frechet_distance_train_test": Meaning("The same of real test images: what a perfect generator would have."),
    "kernel_distance": Meaning("Another distance on the judge's features; below 0 by chance.", "less"),
    "kernel_distance_train_test": Meaning("The same of real test images: what a perfect generator would have."),
    "precision": Meaning("Share of the generated images that are near real ones.", "more"),
    "recall": Meaning("Share of the real images that are near generated ones.", "more"),
    "density": Meaning("How many real images are near a generated one, compared with what is expected.", "more"),
    "coverage": Meaning("Share of the real images that have a generated one among their neighbors.", "more"),
    "judge": Meaning("Name and checksum of the judge."),
    "generated": Meaning("Generated images that were judged."),
}
CAPTIONS = {
    "samples": "Generated from the same latents throughout the run, here at its end.",
    "real": "Real images, laid out in the same way.",
    "samples.gif": "Generated from the same latents throughout the run.",
    "interpolation": "From one image to another: what lies between their latents, row by row.",
}


def READS(config: Config) -> Mapping[str, str]:
    """Labels are needed if the players are told them; otherwise they are read if there are any, for the judge."""
    return {"image": "image", "label": "class" if config.conditional else "class?"}


def complete(config: Config, facts: Facts) -> Config:
    """The settings with the number of classes."""
    return replace(config, classes=len(class_names(facts.features)))


def init(
    config: Config,
    key: jax.Array,
    batch: Batch,
    models: tuple[Any, Any] | None = None,
    *,
    optimizer: Any = None,
    loss: tuple[Callable, Callable] | None = None,
) -> State:
    """The state at step 0, with players ``generator`` and ``discriminator``.

    Args:
        config: ``classes`` must be set (from the data) if the gan is class-conditional.
        key: parameters are drawn from it.
        batch: a batch of the data; its shape is read.
        models: a generator, called with ``(latents, label, train=...)``, which gives images in [-1, 1], and a
            discriminator, called with ``(images, label, train=...)``, which gives logits [B]: Linen modules or pairs
            ``(init, apply)``. Default: the configured ones.
        optimizer: an optax transformation for both players, or a pair, the generator's first.
        loss: the generator's and the discriminator's, each ``loss(real logits, fake logits) -> [B]``.

    Raises:
        UserError: a class-conditional gan of fewer than two classes.
    """
    shape = image_shape(batch)
    if config.conditional and config.classes < 2:
        raise UserError(f"a class-conditional gan needs at least two classes; got {config.classes}: use no-conditional")
    generator, discriminator = build(config, shape) if models is None else map(as_model, models)
    pair = of_two_players(optimizer)
    latents, images = jnp.zeros((1, config.latents)), jnp.zeros((1, *shape))
    label = jnp.zeros((1,), jnp.int32) if config.conditional else None
    draw = partial(stream, key, step=jnp.int32(0))
    drawn = generator.init({"params": draw("generator")}, latents, label, train=False)
    seen = discriminator.init({"params": draw("discriminator")}, images, label, train=False)
    players = {
        "generator": new_player(config, generator, drawn, pair[0]),
        # Nobody looks at an average of the discriminator.
        "discriminator": new_player(config, discriminator, seen, pair[1]).replace(average=None),
    }
    weights = {"discriminator_lr": config.discriminator_lr, **_penalties(config)}
    state = new_state(config, key, players, loss, **weights)
    if config.adapt_to is None:
        return state
    return state.replace(extra={"augmented": jnp.float32(0)})


def build(config: Config, shape: tuple[int, int, int]) -> tuple[Generator, Discriminator]:
    """The configured generator and discriminator.

    They go from latents and labels to images in [-1, 1], and from images and labels to logits.
    """
    common: dict[str, Any] = {
        "architecture": config.architecture,
        "width": config.width,
        "classes": config.classes if config.conditional else 0,
        "dtype": compute_dtype(config),
    }
    generator = Generator(shape, latents=config.latents, **common)
    return generator, Discriminator(spectral=config.spectral_norm, **common)


def _generator_loss(state: State, real: jax.Array, fake: jax.Array) -> jax.Array:
    if state.loss is not None:
        return state.loss[0](real, fake)
    return losses.generator_loss(real, fake, state.config.loss)


def _discriminator_loss(state: State, real: jax.Array, fake: jax.Array) -> jax.Array:
    if state.loss is not None:
        return state.loss[1](real, fake)
    return losses.discriminator_loss(real, fake, state.config.loss)


def _penalties(config: Config) -> dict[str, float]:
    """The weights of the penalties that are on: what was asked for; by default, what keeps this loss smooth."""
    wasserstein = config.loss == "wasserstein"
    centered = 0.0 if wasserstein or config.spectral_norm else 1.0
    usual = {"r1": centered, "r2": centered, "gradient_penalty": 10.0 if wasserstein else 0.0}
    weights = {}
    for name, weight in usual.items():
        asked = getattr(config, name)
        weights[name] = weight if asked is None else asked
    return {name: weight for name, weight in weights.items() if weight}


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """``discriminator_steps`` updates of the discriminator, each on its share of the batch, then one of the generator.

    Args:
        state: the state; it is not changed.
        batch: ``image``; ``label`` if the players are told the classes.
        axis_name: the mapped axis if the step runs under ``pmap`` or ``shard_map``; gradients, metrics and batch
            statistics are then taken over all replicas.

    Returns:
        The next state, and ``discriminator_loss`` and ``generator_loss`` (without penalties), ``real`` and ``fake``
        (mean logits), and ``penalty``; ``loss`` is the generator's again, because every system has one. With
        ``adapt_to`` also ``sign`` and ``augmented``, see ``adapted_share``.

    Raises:
        UserError: the batch cannot be divided into ``discriminator_steps`` equal shares.
    """
    config = state.config
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    images = augmented(config, key("augment"), batch)
    rounds, size = config.discriminator_steps, images.shape[0]
    if size % rounds:
        raise UserError(f"a batch of {size} cannot be shared by {rounds} discriminator steps; choose a multiple")
    share = size // rounds
    latents = jax.random.normal(key("latents"), (rounds + 1, share, config.latents), jnp.float32)
    label = batch["label"] if config.conditional else None
    metrics: Metrics = {}
    for turn in range(rounds):
        part = slice(turn * share, (turn + 1) * share)
        examples = {"image": images[part], "latents": latents[turn]}
        if label is not None:
            examples["label"] = label[part]
        state, metrics = _discriminator_turn(state, examples, key(f"discriminator-{turn}"), axis_name)
        if config.adapt_to is not None:
            replicas = 1 if axis_name is None else jax.lax.axis_size(axis_name)
            changed = adapted_share(state.extra["augmented"], metrics["sign"], config.adapt_to, share * replicas)
            state = state.replace(extra={**state.extra, "augmented": changed})
            metrics["augmented"] = changed
    examples["latents"] = latents[-1]
    state, generator_metrics = _generator_turn(state, examples, key("generator"), axis_name)
    return state.replace(step=state.step + 1), {**metrics, **generator_metrics}


def adapted_share(share: jax.Array, sign: jax.Array, target: float, images: int) -> jax.Array:
    """The share of images to augment from now on, in [0, 1] (Karras et al. 2020, https://arxiv.org/abs/2006.06676).

    Args:
        share: float32 scalar, the share until now.
        sign: float32 scalar in [-1, 1], the mean sign of the discriminator's logits at real images.
        target: what ``sign`` is to be: above, the share rises, and below, it falls.
        images: real images that the discriminator has seen since the share changed last; ``ADAPTED_OVER`` of them
            change it by 1.
    """
    change = jnp.sign(sign - target) * (images / ADAPTED_OVER)
    return jnp.clip(share + change, 0.0, 1.0)


def _sign(config: Config, real: jax.Array, fake: jax.Array) -> jax.Array:
    """The mean sign of the logits [B] at real images, from where the discriminator would not know.

    Games of differences have no such place; it is then the mean logit of the generated images.
    """
    undecided: jax.Array | float = 0.0
    if config.loss == "least-squares":
        undecided = 0.5
    elif config.loss in ("relativistic", "wasserstein"):
        undecided = fake.mean()
    return jnp.sign(real - undecided).mean()


def _score(state: State, params: Any, stats: Any, images: jax.Array, label: Any, key: jax.Array, train: bool) -> Any:
    """The discriminator's logits [B] for images in [-1, 1], after differentiable augmentation, and its new stats."""
    model = state.players["discriminator"].model
    kinds, share = state.config.diffaugment, state.extra.get("augmented")
    if share is not None and not kinds:
        kinds = KINDS
    images = diffaugment(key, images, kinds, share)
    return model.apply({"params": params, **stats}, images, label, train=train, mutable=list(stats))


def _discriminator_turn(
    state: State, examples: Any, key: jax.Array, axis_name: str | None
) -> tuple[State, dict[str, jax.Array]]:
    hyper = state.hyper
    generator = state.players["generator"]
    model = for_replicas(generator.model, axis_name)

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        real, label, latents = examples["image"] * 2 - 1, examples.get("label"), examples["latents"]
        variables = {"params": generator.params, **generator.stats}
        fake, _ = model.apply(variables, latents, label, train=True, mutable=list(generator.stats))
        real_key, fake_key, line_key = jax.random.split(key, 3)
        real_logits, stats = _score(state, params, stats, real, label, real_key, train=True)
        fake_logits, stats = _score(state, params, stats, fake, label, fake_key, train=True)
        game = _discriminator_loss(state, real_logits, fake_logits).mean()

        def score(key: jax.Array) -> Any:
            return lambda images: _score(state, params, stats, images, label, key, train=False)[0]

        penalty = jnp.float32(0)
        if "r1" in hyper:
            penalty += hyper["r1"] / 2 * losses.gradient_norm_squared(score(real_key), real).mean()
        if "r2" in hyper:
            penalty += hyper["r2"] / 2 * losses.gradient_norm_squared(score(fake_key), fake).mean()
        if "gradient_penalty" in hyper:
            distance = losses.gradient_penalty(score(real_key), real, fake, line_key).mean()
            penalty += hyper["gradient_penalty"] * distance
        metrics = {"discriminator_loss": game, "penalty": penalty}
        metrics |= {"real": real_logits.mean(), "fake": fake_logits.mean()}
        if state.config.adapt_to is not None:
            metrics["sign"] = _sign(state.config, real_logits, fake_logits)
        return game + penalty, (metrics, stats)

    rates = {**hyper, "lr": hyper["lr"] * hyper["discriminator_lr"]}
    player, metrics = learn(
        state.players["discriminator"],
        state,
        loss,
        examples,
        key,
        axis_name=axis_name,
        hyper=rates,
        name="discriminator",
    )
    return state.replace(players={**state.players, "discriminator": player}), metrics


def _generator_turn(
    state: State, examples: Any, key: jax.Array, axis_name: str | None
) -> tuple[State, dict[str, jax.Array]]:
    discriminator = state.players["discriminator"]
    model = for_replicas(state.players["generator"].model, axis_name)

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        real, label, latents = examples["image"] * 2 - 1, examples.get("label"), examples["latents"]
        fake, stats = model.apply({"params": params, **stats}, latents, label, train=True, mutable=list(stats))
        real_key, fake_key = jax.random.split(key)
        fixed = (state, discriminator.params, discriminator.stats)
        fake_logits, _ = _score(*fixed, fake, label, fake_key, train=False)
        # Only the relativistic game looks at the real images here; otherwise XLA drops this pass.
        real_logits, _ = _score(*fixed, real, label, real_key, train=False)
        value = _generator_loss(state, real_logits, fake_logits).mean()
        return value, ({"generator_loss": value, "loss": value}, stats)

    player, metrics = learn(
        state.players["generator"], state, loss, examples, key, axis_name=axis_name, name="generator"
    )
    return state.replace(players={**state.players, "generator": player}), metrics


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch.

    Means of the discriminator's logits at held-out and generated images, and of both losses; and the distance of
    generated from held-out images on random features, by which a run chooses its best checkpoint. Measures on the
    features of a trained classifier take long, so they are taken at the end of a run.

    Latents are drawn by the example's ``index`` from a fixed key.
    """
    config, discriminator = state.config, state.players["discriminator"]
    keys = example_keys(batch, "latents")
    latents = jax.vmap(lambda key: jax.random.normal(key, (config.latents,), jnp.float32))(keys)
    label = batch["label"] if config.conditional else None

    def score(images: jax.Array) -> jax.Array:
        return discriminator.model.apply(discriminator.variables(), images * 2 - 1, label, train=False)

    real_images = pixels(batch)
    fake_images = predict(state, {"latents": latents, "label": label})["image"]
    real, fake = score(real_images), score(fake_images)
    values = {
        "real": real,
        "fake": fake,
        "loss": _generator_loss(state, real, fake),
        "discriminator_loss": _discriminator_loss(state, real, fake),
    }
    features, fake_features = random_features(real_images), random_features(fake_images)
    return {
        "players": Average.from_batch(values, batch.get("real")),
        "images": FeatureDistance.from_batch(
            features, fake_features, batch.get("real"), name="random_features_distance"
        ),
    }


def predict(state: State, inputs: dict[str, jax.Array | None]) -> dict[str, jax.Array]:
    """``image`` float32 [B, H, W, C] in [0, 1] for ``latents`` [B, latents] and, if conditional, ``label`` [B]."""
    generator = state.players["generator"]
    label = inputs["label"] if state.config.conditional else None
    images = generator.model.apply(generator.variables(), inputs["latents"], label, train=False)
    return {"image": (images + 1) / 2}


def drawn_from(config: Config) -> dict[str, tuple[tuple[int, ...], Any]]:
    """What ``predict`` is given: of each image its latents and, if conditional, its class."""
    found: dict[str, tuple[tuple[int, ...], Any]] = {"latents": ((config.latents,), np.dtype(np.float32))}
    if config.conditional:
        found["label"] = (), np.dtype(np.int32)
    return found


def generate(
    state: State,
    key: jax.Array,
    count: int,
    first: jax.typing.ArrayLike = 0,
    *,
    label: jax.typing.ArrayLike | None = None,
    truncation: jax.typing.ArrayLike = 1.0,
) -> dict[str, jax.Array]:
    """``image`` float32 [count, H, W, C] in [0, 1] from fresh latents.

    If conditional, also ``label`` int32 [count]: the class ``label``, by default the classes in turn, from the
    one of image number ``first`` on. Latents are multiplied by ``truncation``: below 1, images are more
    alike and closer to the mean.

    Raises:
        UserError: a label is given to a gan that is not conditional.
    """
    if label is not None and not state.config.conditional:
        raise UserError("--class needs a gan that was trained with --conditional; this one knows no classes")
    latents = jax.random.normal(key, (count, state.config.latents), jnp.float32) * jnp.float32(truncation)
    if label is None:
        number = (jnp.arange(count, dtype=jnp.int32) + jnp.asarray(first, jnp.int32)) % max(state.config.classes, 1)
    else:
        number = jnp.full(count, label, jnp.int32)
    image = predict(state, {"latents": latents, "label": number})["image"]
    return {"image": image, "label": number} if state.config.conditional else {"image": image}


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at, float32 [rows, columns, H, W, C] in [0, 1].

    ``samples`` on latents fixed by the run's key, a column per class if conditional, ``real`` images laid out in the
    same way, and ``interpolation`` between pairs of latents.
    """
    config, shape = state.config, image_shape(batch)
    draw = partial(stream, state.key, step=jnp.int32(0))
    rows, columns = sheet_size(8, min(config.classes, 16) if config.conditional else 10, shape)
    latents = jax.random.normal(draw("samples"), (rows * columns, config.latents), jnp.float32)
    label = jnp.arange(rows * columns, dtype=jnp.int32) % columns
    samples = predict(state, {"latents": latents, "label": label})["image"]
    pictures = {"samples": {"images": samples.reshape(rows, columns, *shape)}}
    pictures["real"] = {"images": _real(config, batch, rows, columns)}
    rows, columns = sheet_size(6, 10, shape)
    start, end = jax.random.normal(draw("interpolation"), (2, rows, 1, config.latents))
    angle = jnp.linspace(0, jnp.pi / 2, columns)[None, :, None]
    # Along a quarter circle the latents keep the length of a normal draw; on the straight line they would not.
    latents = (jnp.cos(angle) * start + jnp.sin(angle) * end).reshape(rows * columns, config.latents)
    label = jnp.repeat(jnp.arange(rows, dtype=jnp.int32) % max(config.classes, 1), columns)
    line = predict(state, {"latents": latents, "label": label})["image"]
    pictures["interpolation"] = {"images": line.reshape(rows, columns, *shape)}
    return pictures


def _real(config: Config, batch: Batch, rows: int, columns: int) -> jax.Array:
    """Real images laid out as the generated ones; white where a class has too few."""
    images = pixels(batch)
    if not config.conditional:
        columns = min(columns, len(images))
        rows = min(rows, len(images) // columns)
        return images[: rows * columns].reshape(rows, columns, *images.shape[1:])
    classes = jnp.arange(columns, dtype=jnp.int32)[:, None]
    others = batch["label"][None] != classes
    chosen = jnp.argsort(others, axis=1, stable=True)[:, :rows]
    fits = batch["label"][chosen] == classes
    return jnp.where(fits[..., None, None, None], images[chosen], 1.0).swapaxes(0, 1)
