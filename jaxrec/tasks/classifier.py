"""Image classification: one player, softmax or sigmoid head.

    from jaxrec.tasks import classifier
    state = classifier.init(classifier.Config(classes=10), jax.random.key(0), batch)
    state, metrics = jax.jit(classifier.train_step)(state, batch)

A batch is ``{"image": uint8 [B, H, W, C], "label": int32 [B]}`` (with ``head="sigmoid"`` also 0/1 labels [B, classes]),
and may carry ``index`` and ``epoch`` (int32 [B], for alternating flips) and ``mask`` (bool [B], for evaluation).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec import losses
from jaxrec.augment import cutmix, mixup, standardise
from jaxrec.errors import UserError
from jaxrec.metrics import Classification, MultiLabel
from jaxrec.models import build_classifier
from jaxrec.parallel import stream
from jaxrec.settings import Classifier as Config
from jaxrec.tasks.state import (
    Batch,
    Metrics,
    Player,
    State,
    augmented,
    for_replicas,
    image_shape,
    learn,
    new_player,
    new_state,
    pixels,
)

__all__ = ["Config", "artifacts", "eval_step", "init", "predict", "train_step"]


def init(config: Config, key: jax.Array, batch: Batch, model: nn.Module | None = None) -> State:
    """The state at step 0.

    ``config.classes`` must be set (from the data). Parameters are drawn from ``key``; what a model takes from data at
    the start, such as speednet's whitening filters, comes from ``batch``. ``model`` is any Linen module of your own
    with ``model(images, train=...) -> (logits [B, classes], features [B, D])``.
    """
    if config.classes < 1:
        raise UserError(f"classes is {config.classes}; expected the number of classes in the data, at least 1")
    if config.head == "softmax" and config.classes < 2:
        raise UserError("a softmax head needs at least two classes; got one: use head='sigmoid' for a yes or no")
    model = model or build_classifier(config, image_shape(batch))
    inputs = _inputs(config, pixels(batch))
    variables = model.init({"params": stream(key, "params", jnp.int32(0))}, inputs, train=False)
    return new_state(config, key, {"net": new_player(config, model, variables)})


def _inputs(config: Config, images: jax.Array) -> jax.Array:
    """What the model sees: pixels in [0, 1], standardised by the data set's mean and deviation where so configured."""
    return standardise(images, config.mean, config.std) if config.standardise == "dataset" else images


def _targets(config: Config, label: jax.Array) -> jax.Array:
    """Targets float32 [B, classes] from class numbers [B] or, for a sigmoid head, 0/1 labels [B, classes]."""
    if label.ndim == 2:
        return label.astype(jnp.float32)
    if config.head == "sigmoid" and config.classes == 1:
        return label.astype(jnp.float32)[:, None]
    return jax.nn.one_hot(label, config.classes, dtype=jnp.float32)


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update; pure. Metrics: ``loss`` and ``accuracy`` of the batch, float32 scalars, means over all replicas."""
    config, player = state.config, state.player
    model = for_replicas(player.model, axis_name)
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    images = augmented(config, key("augment"), batch)
    targets = _targets(config, batch["label"])
    if config.mixup:
        images, targets = mixup(key("mixup"), images, targets, config.mixup)
    if config.cutmix:
        images, targets = cutmix(key("cutmix"), images, targets, config.cutmix)

    def loss(params: Any, stats: Any, part: Any, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        images, targets = part
        (logits, _), stats = model.apply(
            {"params": params, **stats}, images, train=True, mutable=list(stats), rngs={"dropout": key}
        )
        smoothed = losses.smooth(targets, config.label_smoothing, head=config.head)
        value = losses.classification(logits, smoothed, head=config.head, loss=config.loss).mean()
        return value, ({"loss": value, "accuracy": _accuracy(config, logits, targets)}, stats)

    player, metrics = learn(player, state, loss, (_inputs(config, images), targets), key("model"), axis_name=axis_name)
    return state.replace(step=state.step + 1, players={"net": player}), metrics


def _accuracy(config: Config, logits: jax.Array, targets: jax.Array) -> jax.Array:
    if config.head == "sigmoid":
        return jnp.mean(((logits > 0) == (targets > 0.5)).astype(jnp.float32))
    return jnp.mean((logits.argmax(-1) == targets.argmax(-1)).astype(jnp.float32))


def _logits(config: Config, player: Player, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits averaged over the configured test-time views of uint8 images, and the plain view's features."""
    inputs = _inputs(config, pixels({"image": images}))
    views = [inputs]
    if config.views == "mirror-shift":
        padded = jnp.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        height, width = inputs.shape[1:3]
        views += [padded[:, :height, :width], padded[:, 2 : 2 + height, 2 : 2 + width]]
    if config.views != "one":
        views += [view[:, :, ::-1] for view in views]
    outputs = [player.model.apply(player.variables(), view, train=False) for view in views]
    # The unshifted image and its mirror carry half the weight, the four shifted views the other half.
    weights = {1: [1.0], 2: [0.5, 0.5], 6: [0.25, 0.125, 0.125, 0.25, 0.125, 0.125]}[len(views)]
    logits: Any = sum(weight * logits for weight, (logits, _) in zip(weights, outputs, strict=True))
    return logits, outputs[0][1]


def eval_step(state: State, batch: Batch) -> dict[str, Classification | MultiLabel]:
    """Mergeable metrics of one batch; examples whose ``mask`` is False do not count."""
    config, mask = state.config, batch.get("mask")
    logits, _ = _logits(config, state.player, batch["image"])
    targets = _targets(config, batch["label"])
    loss = losses.classification(logits, targets, head=config.head, loss=config.loss)
    if config.head == "sigmoid":
        return {"classification": MultiLabel.from_batch(logits, targets.astype(jnp.int32), mask, loss)}
    return {"classification": Classification.from_batch(logits, batch["label"], mask, loss)}


def predict(state: State, inputs: jax.Array) -> dict[str, jax.Array]:
    """For uint8 images [B, H, W, C]: ``logits`` and ``probabilities`` [B, classes], ``features`` [B, D]; float32."""
    logits, features = _logits(state.config, state.player, inputs)
    probabilities = jax.nn.softmax(logits) if state.config.head == "softmax" else jax.nn.sigmoid(logits)
    return {"logits": logits, "probabilities": probabilities, "features": features}


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at: ``worst_mistakes``, the images of highest loss, with label and prediction.

    Images are float32 [rows, columns, H, W, C] in [0, 1]; empty for labels that are not single classes.
    """
    config = state.config
    if config.head == "sigmoid":
        return {}
    outputs = predict(state, batch["image"])
    loss = losses.classification(
        outputs["logits"], _targets(config, batch["label"]), head=config.head, loss="cross-entropy"
    )
    columns = min(8, loss.shape[0])
    rows = min(4, loss.shape[0] // columns)
    worst = jnp.argsort(-jnp.where(batch.get("mask", True), loss, -jnp.inf))[: rows * columns]

    def table(values: jax.Array) -> jax.Array:
        return values[worst].reshape(rows, columns, *values.shape[1:])

    return {
        "worst_mistakes": {
            "images": table(pixels(batch)),
            "label": table(batch["label"]),
            "prediction": table(outputs["probabilities"].argmax(-1)),
            "confidence": table(outputs["probabilities"].max(-1)),
        }
    }
