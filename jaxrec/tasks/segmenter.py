"""Semantic segmentation: one player that gives every pixel a class.

A batch is ``{"image": [B, H, W, C], "mask": int [B, H, W]}``, images as in ``jaxrec.tasks.inputs.scaled``. Pixels whose
value is no class, or is ``config.void``, count neither in the loss nor in the metrics. It may carry ``index`` and
``epoch`` (int32 [B]) and, for evaluation, ``real`` (bool [B], False for padding).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses
from jaxrec.augment import augment_examples, standardize
from jaxrec.data.features import Features, class_names
from jaxrec.data.masks import VOID
from jaxrec.errors import UserError
from jaxrec.metrics import Metric, Pixels, Worst, pixels_that_count
from jaxrec.metrics.meanings import Meaning
from jaxrec.models.layers import avg_pool
from jaxrec.models.resunet import ResUNet
from jaxrec.models.unet import UNet
from jaxrec.parallel import stream
from jaxrec.settings import Augment
from jaxrec.settings.segmenter import Segmenter as Config
from jaxrec.tasks.answers import log_odds
from jaxrec.tasks.inputs import composing, image_shape, pixels, places, rgb, scaled
from jaxrec.tasks.learning import learn
from jaxrec.tasks.model import as_model, compute_dtype, for_replicas
from jaxrec.tasks.palette import colors, errors, overlay
from jaxrec.tasks.state import Batch, Metrics, State, new_player, new_state
from jaxrec.tasks.system import Facts, Score

READS = {"image": "image", "mask": "mask"}
DATASET = "scenes"
SCORE = Score("miou", lower=False)
HEADLINE = ("miou", "pixel_accuracy", "loss")
MEANINGS = {
    "miou": Meaning("Mean over the classes of the intersection over the union of predicted and true pixels.", "more"),
    "pixel_accuracy": Meaning("Share of the pixels whose class is predicted.", "more"),
    "dice": Meaning("Mean over the classes of twice the right pixels over predicted plus true ones.", "more"),
    "frequency_weighted_iou": Meaning("Intersection over union, weighted by the share of each class.", "more"),
}
CAPTIONS = {
    "segmentation": "In each row an image, its true classes, the predicted classes, and the errors in red. Black "
    "pixels do not count.",
    "worst_segmentation": "The same of the images of highest loss in the whole split, the highest first.",
    "confusion_of_pixels": "Rows are the true classes, columns the predicted ones, in percent of the true pixels.",
}
SHOWN = 8
"""Images in the picture of a run."""
MOST_CLASSES_IN_CONFUSION = 40
"""With more classes the matrix would be a picture of dots."""
ANY_SIZE = True


def complete(config: Config, facts: Facts) -> Config:
    """The settings with classes, void value, and mean and deviation of the training images; class weights if asked."""
    mean, std = facts.statistics("image")
    weights: tuple[float, ...] = ()
    if config.class_weights != "none":
        weights = tuple(losses.class_weights(facts.class_counts("mask"), config.class_weights).tolist())
    classes, void = len(class_names(facts.features)), facts.features["mask"].void
    return replace(config, classes=classes, void=void, mean=mean, std=std, weights=weights)


def init(
    config: Config,
    key: jax.Array,
    batch: Batch,
    model: Any = None,
    *,
    optimizer: Any = None,
    loss: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> State:
    """The state at step 0.

    Args:
        config: ``classes`` must be set (from the data).
        key: parameters are drawn from it.
        batch: a batch of the data; its shape is read.
        model: a Linen module, called with ``(images)`` or ``(images, train=...)``, or a pair
            ``(init(key, images), apply(params, images))``; it gives logits [B, H, W, classes]. Default: the configured.
        optimizer: an optax transformation in place of the configured optimizer, schedule, decay and clipping.
        loss: ``loss(logits [B, H, W, classes], mask int [B, H, W]) -> [B]`` in place of the configured one.

    Raises:
        UserError: there are fewer than two classes.
    """
    if config.classes < 2:
        raise UserError(f"segmentation needs at least two classes; got {config.classes}: check the masks")
    model = build(config) if model is None else as_model(model)
    images = jnp.zeros((1, *image_shape(batch)), jnp.float32)
    variables = model.init({"params": stream(key, "params", jnp.int32(0))}, _shrunk(config.shrink, images), train=False)
    return new_state(config, key, {"net": new_player(config, model, variables, optimizer)}, loss)


def build(config: Config) -> UNet | ResUNet:
    """The configured network, from images [B, H, W, C] to logits [B, H, W, classes], float32."""
    common: dict[str, Any] = {
        "classes": config.classes,
        "width": config.width,
        "norm": config.norm,
        "dropout": config.dropout,
        "dtype": compute_dtype(config),
    }
    if config.model == "unet":
        return UNet(depth=config.depth, **common)
    blocks = (1, *[2] * config.depth)
    return ResUNet(blocks=blocks, stem=config.stem, auxiliary=config.auxiliary > 0, **common)


def _shrunk(factor: int, images: jax.Array) -> jax.Array:
    return images if factor == 1 else avg_pool(images, factor)


def _has_window(config: Config) -> bool:
    return min(config.augment.window) > 0


def _training_augment(config: Config) -> Augment:
    """The configured augmentation; a window shows the image at the scale that the network will see."""
    if config.shrink == 1 or not _has_window(config):
        return config.augment
    low, high = config.augment.jitter
    return replace(config.augment, jitter=(low / config.shrink, high / config.shrink))


def _enlarged(logits: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Logits brought to the size of the images."""
    if logits.shape[1:3] == size:
        return logits
    return jax.image.resize(logits, (logits.shape[0], *size, logits.shape[3]), "bilinear")


def _loss(state: State, logits: jax.Array, mask: jax.Array) -> jax.Array:
    """The loss of each image, float32 [B]."""
    config = state.config
    if state.loss is not None:
        return state.loss(logits, mask)
    weights = jnp.array(config.weights, jnp.float32) if config.weights else None
    return losses.segmentation(logits, mask, loss=config.loss, weights=weights, void=config.void)


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update; pure. Metrics: ``loss`` and ``pixel_accuracy`` of the batch, means over all replicas."""
    config, player = state.config, state.player
    model = for_replicas(player.model, axis_name)
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    examples = _augmented(state, key("augment"), batch)
    # A window is cut from the shrunk image, in the one resampling that scales it.
    shrink = 1 if _has_window(config) else config.shrink

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        image, mask = examples["image"], examples["mask"]
        inputs = _shrunk(shrink, standardize(image, config.mean, config.std))
        variables = {"params": params, **stats}
        answer, stats = model.apply(variables, inputs, train=True, mutable=list(stats), rngs={"dropout": key})
        heads = answer if isinstance(answer, tuple) else (answer,)
        logits = [_enlarged(head, mask.shape[1:]) for head in heads]
        value = _loss(state, logits[0], mask).mean()
        for second in logits[1:]:
            value += config.auxiliary * _loss(state, second, mask).mean()
        return value, ({"loss": value, "pixel_accuracy": _accuracy(config, logits[0], mask)}, stats)

    player, metrics = learn(player, state, loss, examples, key("model"), axis_name=axis_name)
    return state.replace(step=state.step + 1, players={"net": player}), metrics


def _augmented(state: State, key: jax.Array, batch: Batch) -> Batch:
    """Images in [0, 1] and masks after augmentation."""
    config, on = state.config, composing(state)
    examples = {"image": pixels(batch), "mask": batch["mask"]}
    kinds = {"image": "image", "mask": "mask"}
    changes = _training_augment(config)
    return augment_examples(changes, key, examples, kinds, *places(batch), void=config.void, composing=on)


def seen(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``batch``: images and their classes as the training step augments them, [B, 2, H, W, 3]."""
    config = state.config
    examples = _augmented(state, stream(state.key, "augment", state.step), batch)
    mask = examples["mask"].astype(jnp.int32)
    shown = [rgb(examples["image"]), colors(mask, pixels_that_count(mask, config.classes, config.void))]
    return {"batch": {"images": jnp.stack(shown, 1)}}


def _accuracy(config: Config, logits: jax.Array, mask: jax.Array) -> jax.Array:
    """The share of the pixels that count whose class is predicted, mean over the images.

    Not over all pixels: replicas whose images have different numbers of them would not agree with one device.
    """
    mask = mask.astype(jnp.int32)
    counted = pixels_that_count(mask, config.classes, config.void)
    hits = counted & (logits.argmax(-1).astype(jnp.int32) == mask)
    right, all_of_them = hits.sum((1, 2), dtype=jnp.int32), counted.sum((1, 2), dtype=jnp.int32)
    return jnp.mean(right.astype(jnp.float32) / all_of_them.clip(1).astype(jnp.float32))


def _log_probabilities(state: State, images: jax.Array) -> jax.Array:
    """Log probabilities [B, H, W, classes] at the images' own size, from the mean over the configured views."""
    config, size = state.config, images.shape[1:3]
    found = []
    for scale in (1.0, 0.75, 1.25) if config.views == "mirror-scale" else (1.0,):
        view = _resized(images, scale)
        found.append(_view(state, view, size))
        if config.views != "one":
            found.append(_view(state, view[:, :, ::-1], size)[:, :, ::-1])
    if len(found) == 1:
        return jax.nn.log_softmax(found[0])
    every = jnp.stack([jax.nn.log_softmax(logits) for logits in found])
    return jax.nn.logsumexp(every, 0) - np.log(len(found), dtype=np.float32)


def _resized(images: jax.Array, scale: float) -> jax.Array:
    if scale == 1:
        return images
    height, width = (round(scale * side) for side in images.shape[1:3])
    return jax.image.resize(images, (images.shape[0], height, width, images.shape[3]), "bilinear")


def _view(state: State, images: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Logits of one view of the images, at ``size``."""
    config, player = state.config, state.player
    inputs = _shrunk(config.shrink, standardize(images, config.mean, config.std))
    return _enlarged(player.model.apply(player.variables(), inputs, train=False), size)


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch; examples whose ``real`` is False do not count."""
    logits, real = _log_probabilities(state, pixels(batch)), batch.get("real")
    loss = _loss(state, logits, batch["mask"])
    return {
        "pixels": Pixels.from_batch(logits, batch["mask"], real, loss, void=state.config.void),
        "worst": Worst.from_batch(loss, places(batch)[0], real),
    }


def evaluation_size(config: Config, size: int) -> int:
    """Fewer images at once if there are many classes or views."""
    views = {"one": 1, "mirror": 2, "mirror-scale": 6}[config.views]
    return max(1, min(size, 4 * size // (config.classes * views)))


def predict(state: State, inputs: jax.Array) -> dict[str, jax.Array]:
    """``classes`` int32 [B, H, W] and ``probabilities`` float32 [B, H, W, classes] of images [B, H, W, C].

    Images are of uint8, uint16 or floats in [0, 1], and of any size.
    """
    log_probabilities = _log_probabilities(state, scaled(inputs))
    classes = log_probabilities.argmax(-1).astype(jnp.int32)
    return {"classes": classes, "probabilities": jnp.exp(log_probabilities)}


def targets(config: Config, outputs: Mapping[str, np.ndarray], wanted: int | None = None) -> dict[str, np.ndarray]:
    """What is explained of each image: all pixels of one class.

    ``class`` int32 [N] is the wanted class or, of those after the first one, which often is the background, the class
    of the most pixels; -1 if no pixel has it. ``where`` bool [N, H, W] are its pixels.
    """
    numbers = []
    for classes in outputs["classes"]:
        counts = np.bincount(classes.ravel(), minlength=config.classes)
        number = 1 + int(counts[1:].argmax()) if wanted is None else wanted
        numbers.append(number if counts[number] else -1)
    chosen = np.array(numbers, np.int32)
    return {"class": chosen, "where": outputs["classes"] == chosen[:, None, None]}


def explained(state: State, inputs: jax.Array, target: Mapping[str, jax.Array]) -> jax.Array:
    """The log-odds float32 [B] of the target's class, mean over its pixels, in images [B, H, W, C]."""
    log_probabilities = _log_probabilities(state, scaled(inputs))
    where = target["where"].astype(jnp.float32)
    number = jnp.broadcast_to(target["class"][:, None, None], where.shape)
    return (where * log_odds(log_probabilities, number)).sum((1, 2)) / where.sum((1, 2)).clip(1)


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at: ``segmentation``, float32 [rows, 4, H, W, 3] in [0, 1].

    In each row an image, its true classes, the predicted classes, and the errors.
    """
    return {"segmentation": _compared(state, {name: values[:SHOWN] for name, values in batch.items()})}


def worst(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_segmentation``: the same, float32 [B, 4, H, W, 3]."""
    return {"worst_segmentation": _compared(state, batch)}


def _compared(state: State, batch: Batch) -> dict[str, jax.Array]:
    config = state.config
    images, truth = pixels(batch), batch["mask"].astype(jnp.int32)
    predicted = predict(state, images)["classes"]
    counts = pixels_that_count(truth, config.classes, config.void)
    columns = [rgb(images), colors(truth, counts), colors(predicted), errors(images, predicted == truth, counts)]
    return {"images": jnp.stack(columns, 1)}


def summary_pictures(results: Mapping[str, Any]) -> dict[str, Any]:
    """The confusion of pixels, in percent of each true class, unless the classes are too many to see."""
    matrix = np.asarray(results.get("confusion", []))
    if not 0 < len(matrix) <= MOST_CLASSES_IN_CONFUSION:
        return {}
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return {"confusion_of_pixels": {"matrix": np.rint(100 * share).astype(np.int64)}}


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each image: the share of its pixels that each class takes."""
    names = class_names(features)
    told = []
    for classes in outputs["classes"]:
        counts = np.bincount(classes.ravel(), minlength=len(names))
        told.append(dict(zip(names, (counts / classes.size).tolist(), strict=True)))
    return told


def unseen(config: Config) -> dict[str, Any]:
    """What cropping cut off is void in the mask: the set's void value, or 255 or the number after the last class."""
    void = config.void
    if void is None:
        void = max(VOID, config.classes)
    return {"classes": void}


def drawings(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """The mask of each image, as a palette picture of class numbers, and the image with its classes laid over it."""
    images = np.asarray(rgb(scaled(inputs)))
    drawn = []
    for image, classes in zip(images, outputs["classes"], strict=True):
        seen = classes != unseen(config)["classes"]
        picture = np.where(seen[..., None], overlay(jnp.asarray(image), jnp.asarray(classes)), image)
        drawn.append({"mask": {"indices": classes}, "overlay": {"picture": picture}})
    return drawn
