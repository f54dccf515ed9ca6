"""Classification by a few looks at parts of an image, chosen by a policy that learns from rewards.

A batch is ``{"image": [B, H, W, C], "label": int32 [B]}``, images as in ``jaxrec.tasks.inputs.scaled``. It may carry
``index`` and ``epoch`` (int32 [B]) and, for evaluation, ``real`` (bool [B], False for padding).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses
from jaxrec.augment import standardize
from jaxrec.data.features import Features, class_names
from jaxrec.errors import UserError
from jaxrec.metrics import Average, Classification, Metric, Worst, classification
from jaxrec.metrics.classification import CONFUSION
from jaxrec.metrics.classification import summary_pictures as summary_pictures
from jaxrec.metrics.meanings import Meaning
from jaxrec.models.cnn import CNN, widest_within
from jaxrec.models.glimpse import GlimpseNetwork, Looks, operations
from jaxrec.models.layers import upsample
from jaxrec.parallel import stream
from jaxrec.settings.glimpse import Glimpse as Config
from jaxrec.tasks.answers import class_row, log_odds
from jaxrec.tasks.answers import targets as targets
from jaxrec.tasks.inputs import augmented, augmented_batch, example_keys, image_shape, pixels, places, rgb, scaled
from jaxrec.tasks.learning import learn
from jaxrec.tasks.model import as_model, compute_dtype
from jaxrec.tasks.state import Batch, Metrics, Player, State, new_player, new_state
from jaxrec.tasks.system import Facts, Score, refuse_unused

READS = {"image": "image", "label": "class"}
DATASET = "translated"
SCORE = Score("error")
HEADLINE = ("error", "accuracy", "loss")
seen = augmented_batch
MEANINGS = classification.MEANINGS | {
    "error": Meaning(
        "Share of the examples whose class is not predicted; each look goes where the policy aims.", "less"
    ),
    "random_error": Meaning("Share of errors if the same network looks at uniformly random places.", "less"),
    "center_error": Meaning("Share of errors if all its looks go to the center.", "less"),
    "cnn_error": Meaning("Share of errors of a CNN that sees whole images and needs as many operations.", "less"),
    "looks": Meaning("Looks at an image."),
    "reward": Meaning("Sum of the rewards of an image's looks, mean over images and ways of looking.", "more"),
    "value_loss": Meaning("Half the squared error of the value, the policy's baseline.", "less"),
    "entropy": Meaning("Entropy of the policy at each look, in nats."),
    "deviation": Meaning("Standard deviation of where looks go in training; 1 is half the image's side."),
    "cnn_loss": Meaning("The loss of the CNN to compare with.", "less"),
    "cnn_accuracy": Meaning("Share of the training examples whose class the CNN to compare with predicts.", "more"),
}
PATH = "The path of the looks, the first in yellow, the last in red; the squares are what is seen at the finest scale. "
CAPTIONS = {
    "confusion_matrix": CONFUSION,
    "worst_mistakes": f"The images of highest loss in the whole split, the highest first. {PATH}Mistakes in red, the "
    "true class below.",
    "predictions": f"The first images. {PATH}Mistakes in red, the true class below.",
}
SHOWN = 16
"""Images in a picture."""
DRAWN = 96
"""Pixels a side, about, at which paths are drawn at least."""
FIRST, LAST = (1.0, 0.9, 0.1), (1.0, 0.1, 0.1)
"""The colors of the first look and of the last."""


def complete(config: Config, facts: Facts) -> Config:
    """The settings with the number of classes, and mean and deviation of the training images."""
    if config.policy != "ppo":
        refuse_unused(config, f"with --policy {config.policy}", "updates", "clip_ratio")
    mean, std = facts.statistics("image")
    return replace(config, classes=len(class_names(facts.features)), mean=mean, std=std)


def validation_config(config: Config) -> Config:
    """Without the controls, which take as long again."""
    return replace(config, control=False)


def init(config: Config, key: jax.Array, batch: Batch, model: Any = None, *, optimizer: Any = None) -> State:
    """The state at step 0, with the player ``net`` and, to compare with, ``cnn``.

    Args:
        config: ``classes`` must be set (from the data).
        key: parameters are drawn from it.
        batch: a batch of the data; its shape is read.
        model: a Linen module, called as ``jaxrec.models.glimpse.GlimpseNetwork`` is, which gives ``Looks``. Default:
            the configured one.
        optimizer: an optax transformation in place of the configured optimizer, schedule, decay and clipping.

    Raises:
        UserError: there are fewer than two classes, or the settings do not fit each other.
    """
    if config.classes < 2:
        raise UserError(f"images are told apart by at least two classes; got {config.classes}: check the labels")
    if config.reward == "gain" and config.head != "every":
        raise UserError("--reward gain compares the answers after each look; give --head every")
    if config.entropy and not config.learned_deviation:
        raise UserError(
            f"--entropy {config.entropy} changes nothing, because the deviation is not learned; give "
            "--learned-deviation, or remove it"
        )
    if config.final_deviation > config.deviation:
        raise UserError(
            f"--final-deviation {config.final_deviation} is above --deviation {config.deviation}, from which the "
            "deviation falls; give a smaller one"
        )
    shape = image_shape(batch)
    network = build(config)
    chosen = network if model is None else as_model(model)
    params = partial(stream, key, step=jnp.int32(0))
    images, looks = jnp.zeros((1, *shape), jnp.float32), _still(config, 1)
    variables = chosen.init({"params": params("params")}, images, *looks, jnp.float32(0))
    players = {"net": new_player(config, chosen, variables, optimizer)}
    if config.cnn:
        cnn = comparable(config, shape)
        variables = cnn.init({"params": params("cnn")}, images)
        players["cnn"] = new_player(config, cnn, variables, optimizer)
    weights = {name: getattr(config, name) for name in ("policy_weight", "value_weight", "entropy")}
    return new_state(config, key, players, **weights)


def build(config: Config) -> GlimpseNetwork:
    """The configured network."""
    return GlimpseNetwork(
        classes=config.classes,
        looks=config.looks,
        patch=config.patch,
        scales=config.scales,
        core=config.core,
        units=config.units,
        width=config.width,
        context=config.start == "context",
        every=config.head == "every",
        learned=config.learned_deviation,
        dtype=compute_dtype(config),
    )


def comparable(config: Config, shape: tuple[int, int, int]) -> CNN:
    """The widest CNN that needs no more operations for an image of this shape than all looks together."""
    most = operations(build(config), shape[2])
    return widest_within(most, shape, partial(CNN, config.classes, dtype=compute_dtype(config)))


def _still(config: Config, count: int) -> tuple[jax.Array, jax.Array]:
    """First looks [N, 2] at the center, and no noise [T, N, 2]."""
    return jnp.zeros((count, 2), jnp.float32), jnp.zeros((config.looks, count, 2), jnp.float32)


def _deviation(config: Config, step: jax.Array) -> jax.Array:
    """The standard deviation at a step, a float32 scalar: it falls over the run, if its length is known."""
    steps = config.optimizer.steps
    share = jnp.minimum(step.astype(jnp.float32) / steps, 1.0) if steps else jnp.float32(0)
    return config.deviation + share * (config.final_deviation - config.deviation)


def _tried(config: Config, key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """For ``samples`` ways of looking at each of so many images: first looks [N, 2], and noise [T, N, 2]."""
    places, noise = jax.random.split(key)
    first, _ = _still(config, size * config.samples)
    if config.start == "random":
        first = jax.random.uniform(places, first.shape, jnp.float32, minval=-1.0, maxval=1.0)
    return first, jax.random.normal(noise, (config.looks, *first.shape), jnp.float32)


def rewards(config: Config, logits: jax.Array, label: jax.Array) -> jax.Array:
    """The reward of each look, float32 [T, N], from the logits after each look or after the last, and classes [N]."""
    after = jnp.zeros((config.looks, label.shape[0]), jnp.float32)
    if config.reward == "end":
        right = logits[-1].argmax(-1).astype(jnp.int32) == label
        return after.at[-1].set(right.astype(jnp.float32))
    known = jnp.take_along_axis(jax.nn.log_softmax(logits), label[None, :, None], axis=-1)[..., 0]
    # Before the first look all classes are as probable as another.
    before = jnp.concatenate([jnp.full_like(known[:1], -math.log(config.classes)), known[:-1]])
    return known - before


def estimates(config: Config, looks: Looks, label: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rewards, advantages and the targets of the value, float32 [T, N]; no gradient passes through them."""
    gained = jax.lax.stop_gradient(rewards(config, looks.logits, label))
    value = jax.lax.stop_gradient(looks.value)
    after = jnp.concatenate([value, jnp.zeros_like(value[:1])])
    factors = jnp.full_like(gained, config.discount)
    advantages = losses.generalized_advantages(gained, factors, after, config.decay)
    return gained, advantages, advantages + value


def _chosen(config: Config, values: jax.Array) -> jax.Array:
    """The steps [T', N] that the policy chose, of [T, N]: without a context network, all but the first."""
    return values if config.start == "context" else values[1:]


def log_probs(config: Config, looks: Looks) -> jax.Array:
    """The log density of where the policy looked, [T', N]; the first look counts if it is the policy's."""
    of_policy = [_chosen(config, each) for each in (looks.mean, looks.deviation, looks.action)]
    return losses.gaussian_log_prob(*of_policy)


def _by_look(values: jax.Array, size: int) -> jax.Array:
    """Values [T, N, ...] of several ways of looking at each of ``size`` images as [size, N / size, T, ...]."""
    return jnp.moveaxis(values.reshape(values.shape[0], size, -1, *values.shape[2:]), 0, 2)


def _by_step(values: jax.Array) -> jax.Array:
    """Values [B, M, T, ...] as [T, B * M, ...]."""
    return jnp.moveaxis(values, 2, 0).reshape(values.shape[2], -1, *values.shape[3:])


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update, or with ppo several, of the network, and one of the CNN to compare with; pure.

    Metrics: ``loss`` and ``accuracy`` of the class, ``reward``, ``value_loss``, ``deviation`` and, if it is learned,
    ``entropy``; means over the batch, the ways of looking and all replicas.
    """
    config, players = state.config, dict(state.players)
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    examples = {"image": augmented(config, key("augment"), batch), "label": batch["label"].astype(jnp.int32)}
    loss = partial(_loss, state)
    updates = 1
    if config.policy == "ppo":
        examples |= _experience(state, examples, key("looks"))
        updates = config.updates
    metrics: Metrics = {}
    for _ in range(updates):
        players["net"], metrics = learn(players["net"], state, loss, examples, key("looks"), axis_name=axis_name)
    if config.cnn:
        plain = {name: examples[name] for name in ("image", "label")}
        cnn, player = partial(_cnn_loss, state), players["cnn"]
        players["cnn"], beside = learn(player, state, cnn, plain, key("cnn"), axis_name=axis_name, name="cnn")
        metrics |= {name: beside[name] for name in ("cnn_loss", "cnn_accuracy")}
    return state.replace(step=state.step + 1, players=players), metrics


def _looked(state: State, params: Any, stats: Any, image: jax.Array, key: jax.Array, actions: Any = None) -> Looks:
    """Looks at images [B, H, W, C] in [0, 1] in ``samples`` ways each, or at given places [T, N, 2]."""
    config, model = state.config, state.players["net"].model
    images = standardize(image, config.mean, config.std)
    tried = _tried(config, key, image.shape[0])
    if config.policy == "random":
        actions = jax.random.uniform(key, tried[1].shape, jnp.float32, minval=-1.0, maxval=1.0)
    return model.apply({"params": params, **stats}, images, *tried, _deviation(config, state.step), actions)


def _experience(state: State, examples: Batch, key: jax.Array) -> Batch:
    """Where the policy looks at the images before the updates, and what came of it: arrays [B, M, T, ...]."""
    player, image = state.players["net"], examples["image"]
    looks = _looked(state, player.params, player.stats, image, key)
    _, advantages, targets = estimates(state.config, looks, _of_copies(state.config, examples["label"]))
    found = {"action": looks.action, "log_prob": log_probs(state.config, looks)}
    found |= {"advantage": advantages, "target": targets}
    return {name: _by_look(jax.lax.stop_gradient(values), image.shape[0]) for name, values in found.items()}


def _of_copies(config: Config, label: jax.Array) -> jax.Array:
    """The classes [B * M] of all ways of looking at images of classes [B]."""
    return jnp.repeat(label, config.samples, axis=0)


def _loss(
    state: State, params: Any, stats: Any, examples: Batch, key: jax.Array
) -> tuple[jax.Array, tuple[Metrics, Any]]:
    """The losses of class, policy and value, added; the metric ``loss`` is that of the class."""
    config = state.config
    actions = _by_step(examples["action"]) if "action" in examples else None
    looks = _looked(state, params, stats, examples["image"], key, actions)
    label = _of_copies(config, examples["label"])
    of_class = _class_loss(config, looks.logits, label, config.label_smoothing).mean()
    gained, advantages, targets = estimates(config, looks, label)
    density = log_probs(config, looks)
    if "action" in examples:
        advantages, targets = _by_step(examples["advantage"]), _by_step(examples["target"])
        old = _by_step(examples["log_prob"])
        steps = losses.clipped_policy_loss(density, old, _chosen(config, advantages), config.clip_ratio)
    else:
        steps = losses.policy_gradient_loss(density, _chosen(config, advantages))
    of_policy = steps.sum(0).mean()
    of_value = _chosen(config, losses.value_loss(looks.value, targets)).mean()
    total = of_class
    if config.policy != "random":
        total = total + state.hyper["policy_weight"] * of_policy + state.hyper["value_weight"] * of_value
    right = looks.logits[-1].argmax(-1).astype(jnp.int32) == label
    spread = _chosen(config, looks.deviation)
    metrics = {
        "loss": of_class,
        "accuracy": right.astype(jnp.float32).mean(),
        "reward": gained.sum(0).mean(),
        "value_loss": of_value,
        "deviation": spread.mean(),
    }
    if config.learned_deviation:
        entropy = losses.gaussian_entropy(spread)
        total = total - state.hyper["entropy"] * entropy.sum(0).mean()
        metrics["entropy"] = entropy.mean()
    return total, (metrics, stats)


def _class_loss(config: Config, logits: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """The loss of each way of looking, float32 [N], from logits [L, N, classes]: the mean over the answers."""
    targets = losses.smooth(jax.nn.one_hot(label, config.classes, dtype=jnp.float32), smoothing, head="softmax")
    each = [losses.classification(answer, targets, head="softmax", loss="cross-entropy") for answer in logits]
    return jnp.stack(each).mean(0)


def _cnn_loss(
    state: State, params: Any, stats: Any, examples: Batch, key: jax.Array
) -> tuple[jax.Array, tuple[Metrics, Any]]:
    """The loss of the CNN to compare with."""
    config = state.config
    images = standardize(examples["image"], config.mean, config.std)
    logits, _ = state.players["cnn"].model.apply({"params": params, **stats}, images)
    value = _class_loss(config, logits[None], examples["label"], config.label_smoothing).mean()
    right = logits.argmax(-1).astype(jnp.int32) == examples["label"]
    return value, ({"cnn_loss": value, "cnn_accuracy": right.astype(jnp.float32).mean()}, stats)


def _aimed(state: State, batch: Batch, actions: Any = None) -> Looks:
    """One way of looking at each image of the batch: at the policy's means, or at given places [T, B, 2]."""
    config, player = state.config, state.players["net"]
    images = standardize(pixels(batch), config.mean, config.std)
    first, noise = _still(config, images.shape[0])
    if config.policy == "random" and actions is None:
        actions = _anywhere(batch, "random looks", config.looks)
    if config.start == "random":
        first = _anywhere(batch, "first look", 1)[0]
    return player.model.apply(player.variables(), images, first, noise, jnp.float32(0), actions)


def _anywhere(batch: Batch, name: str, looks: int) -> jax.Array:
    """Uniformly random places [T, B, 2], which depend on the examples alone."""
    draw = partial(jax.random.uniform, shape=(looks, 2), dtype=jnp.float32, minval=-1.0, maxval=1.0)
    return jax.vmap(draw, out_axes=1)(example_keys(batch, name))


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch; examples whose ``real`` is False do not count.

    At the end of a run also those of controls: the same network looking at random or at the center, and the CNN.
    """
    config, real = state.config, batch.get("real")
    label = batch["label"].astype(jnp.int32)
    looks = _aimed(state, batch)
    logits = looks.logits[-1]
    loss = _class_loss(config, logits[None], label, 0.0)
    errors = {"error": _wrong(logits, label)}
    if config.control:
        random = _anywhere(batch, "random looks", config.looks)
        errors["random_error"] = _wrong(_aimed(state, batch, random).logits[-1], label)
        errors["center_error"] = _wrong(_aimed(state, batch, jnp.zeros_like(random)).logits[-1], label)
        if config.cnn:
            errors["cnn_error"] = _wrong(_cnn_logits(state.players["cnn"], config, batch), label)
        errors["looks"] = jnp.full(label.shape, config.looks, jnp.float32)
    return {
        "classification": Classification.from_batch(logits, batch["label"], real, loss),
        "errors": Average.from_batch(errors, real),
        "worst": Worst.from_batch(loss, places(batch)[0], real),
    }


def _wrong(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Whether the most probable class is another one, float32 [B]."""
    return (logits.argmax(-1).astype(jnp.int32) != label).astype(jnp.float32)


def _cnn_logits(player: Player, config: Config, batch: Batch) -> jax.Array:
    """The answers of the CNN to compare with."""
    logits, _ = player.model.apply(player.variables(), standardize(pixels(batch), config.mean, config.std))
    return logits


def predict(state: State, inputs: jax.Array) -> dict[str, jax.Array]:
    """The classes of images, and where the network looked.

    Args:
        state: the state; the moving average predicts if one is kept.
        inputs: images [B, H, W, C] of uint8, uint16 or floats in [0, 1].

    Returns:
        ``logits`` and ``probabilities`` [B, classes], ``features`` [B, D] and ``looks`` [B, T, 2], in [-1, 1]: down and
        to the right from the center, 1 is half the image's side. All are float32.
    """
    looks = _aimed(state, {"image": inputs})
    logits = looks.logits[-1]
    where = jnp.clip(looks.action, -1, 1).swapaxes(0, 1)
    return {"logits": logits, "probabilities": jax.nn.softmax(logits), "features": looks.features, "looks": where}


def explained(state: State, inputs: jax.Array, target: Mapping[str, jax.Array]) -> jax.Array:
    """The log-odds float32 [B] of the target's class in images [B, H, W, C], after all looks."""
    return log_odds(predict(state, inputs)["logits"], target["class"])


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at: ``predictions``, the paths on images [R, C, H, W, 3], with label and prediction."""
    columns = min(8, len(batch["image"]))
    rows = min(SHOWN, len(batch["image"])) // columns
    cells = _told(state, {name: values[: rows * columns] for name, values in batch.items()})
    return {"predictions": {name: values.reshape(rows, columns, *values.shape[1:]) for name, values in cells.items()}}


def worst(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_mistakes``: the path on each image [B, 1, H, W, 3], with label and prediction."""
    cells = _told(state, batch)
    return {"worst_mistakes": {**cells, "images": cells["images"][:, None]}}


def _told(state: State, batch: Batch) -> dict[str, jax.Array]:
    """Paths on images, with label, prediction and confidence [B]."""
    outputs = predict(state, batch["image"])
    return {
        "images": paths(pixels(batch), outputs["looks"], state.config.patch),
        "label": batch["label"],
        "prediction": outputs["probabilities"].argmax(-1),
        "confidence": outputs["probabilities"].max(-1),
    }


def paths(images: jax.Array, looks: jax.Array, patch: int) -> jax.Array:
    """Images in [0, 1] with the squares that were seen at the finest scale, and lines from each to the next.

    Args:
        images: [B, H, W, C].
        looks: where the squares are, [B, T, 2] in [-1, 1].
        patch: pixels a side of a square.

    Returns:
        float32 [B, H * n, W * n, 3]; small images are enlarged.
    """
    factor = max(1, DRAWN // min(images.shape[1:3]))
    drawn = upsample(rgb(images), factor)
    height, width = drawn.shape[1:3]
    sides = jnp.array([height, width], jnp.float32)
    centers = (looks + 1) / 2 * sides
    down = jnp.arange(height, dtype=jnp.float32)[:, None, None] + 0.5
    across = jnp.arange(width, dtype=jnp.float32)[None, :, None] + 0.5
    count = looks.shape[1]
    first, last = jnp.array(FIRST, jnp.float32), jnp.array(LAST, jnp.float32)
    for look in range(count):
        color = first + (last - first) * look / max(count - 1, 1)
        here = centers[:, look, None, None, None, :]
        away = jnp.maximum(abs(down - here[..., 0]), abs(across - here[..., 1]))[..., 0]
        half = factor * patch / 2
        marked = (away <= half) & (away > half - 1.5)
        if look:
            marked |= _near(down[..., 0], across[..., 0], centers[:, look - 1], centers[:, look])
        drawn = jnp.where(marked[..., None], color, drawn)
    return drawn


def _near(down: jax.Array, across: jax.Array, start: jax.Array, end: jax.Array) -> jax.Array:
    """Which pixels, of centers [H, 1] and [1, W], lie on the lines between points [B, 2]: bool [B, H, W]."""
    way = (end - start)[:, None, None, :]
    from_start = jnp.stack(jnp.broadcast_arrays(down, across), axis=-1) - start[:, None, None, :]
    share = (from_start * way).sum(-1) / jnp.maximum((way * way).sum(-1), 1e-6)
    beside = from_start - jnp.clip(share, 0, 1)[..., None] * way
    return jnp.square(beside).sum(-1) < 0.75**2


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each image: the class and its probability, every class's, and the places of the looks."""
    names = class_names(features)
    told = []
    for probabilities, looks in zip(outputs["probabilities"], outputs["looks"], strict=True):
        told.append({**class_row(names, probabilities), "looks": looks.tolist()})
    return told


def sheet(
    config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features
) -> dict[str, dict[str, Any]]:
    """``predictions``: the paths on the images, each with its class and confidence."""
    images = np.asarray(paths(scaled(inputs), jnp.asarray(outputs["looks"]), config.patch))
    probabilities = outputs["probabilities"]
    cells = {"images": images, "prediction": probabilities.argmax(-1), "confidence": probabilities.max(-1)}
    return {"predictions": {name: values[:, None] for name, values in cells.items()}}
