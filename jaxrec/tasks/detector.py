"""Object detection: one player that finds the objects of an image, each with a box, a class and a score.

A batch is ``{"image": [B, H, W, C], "boxes": float32 [B, N, 4], "label": int [B, N]}``, images as in
``jaxrec.tasks.inputs.scaled``, boxes and classes as ``jaxrec.data.features`` says; a class of -1 is no box. It may
carry ``index`` and ``epoch`` (int32 [B]) and, for evaluation, ``real`` (bool [B], False for padding).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses
from jaxrec.augment import augment_examples, standardize
from jaxrec.boxes import Found, iou, matches, nms, soft_nms
from jaxrec.data.features import Features, class_names, image_shape
from jaxrec.errors import UserError
from jaxrec.losses.detection import Parts
from jaxrec.metrics import Average, Metric, Worst
from jaxrec.metrics.detection import Detections
from jaxrec.metrics.detection import summary_pictures as summary_pictures
from jaxrec.metrics.meanings import Meaning
from jaxrec.models.detector import BINS, SCALES, Detector, Places, bins_needed, decoded, smallest_stride
from jaxrec.models.detector import places as cells
from jaxrec.parallel import stream
from jaxrec.settings.detector import Detector as Config
from jaxrec.tasks.inputs import composing, pixels, places, rgb, scaled
from jaxrec.tasks.inputs import image_shape as batch_shape
from jaxrec.tasks.learning import learn
from jaxrec.tasks.model import as_model, compute_dtype, for_replicas
from jaxrec.tasks.state import Batch, Metrics, State, new_player, new_state
from jaxrec.tasks.system import Facts, Score

READS = {"image": "image", "boxes": "boxes", "label": "box_classes"}
DATASET = "scenes"
SCORE = Score("map50", lower=False)
HEADLINE = ("map50", "map", "count_error_mean", "loss")
BOXED = ("boxes",)
EACH = "each class counts as much as another"
AVERAGE_PRECISION = "Mean over the classes of the area under the curve of precision over recall"
RANGE = "mean over IoUs from .5 to .95"
INTERVAL = "percentile over samples of the images"
MEANINGS = {
    "map": Meaning(f"{AVERAGE_PRECISION}; {RANGE}.", "more"),
    "map50": Meaning(f"{AVERAGE_PRECISION}; a box is found from an IoU of .5 on.", "more"),
    "map75": Meaning(f"{AVERAGE_PRECISION}; a box is found from an IoU of .75 on.", "more"),
    "map_small": Meaning("The same as map, of boxes of up to 32 x 32 pixels.", "more"),
    "map_medium": Meaning("The same as map, of boxes of 32 x 32 to 96 x 96 pixels.", "more"),
    "map_large": Meaning("The same as map, of boxes of 96 x 96 pixels and more.", "more"),
    "map_low": Meaning(f"2.5th {INTERVAL} of map."),
    "map_high": Meaning(f"97.5th {INTERVAL} of map."),
    "map50_low": Meaning(f"2.5th {INTERVAL} of map50."),
    "map50_high": Meaning(f"97.5th {INTERVAL} of map50."),
    "mar": Meaning(f"Share of the boxes that are found by 100 detections; {EACH}, {RANGE}.", "more"),
    "voc_map50": Meaning("Mean average precision at IoU .5 as Pascal VOC has computed it since 2010.", "more"),
    "count_error_mean": Meaning(
        "Difference between the numbers of boxes that are there and detected; mean over images and classes.", "less"
    ),
}
CAPTIONS = {
    "detections": "In each pair an image with its true boxes, and the same image with the boxes found and their "
    "scores. Red boxes were not found, or are not there.",
    "worst_detections": "The same of the images of highest loss in the whole split, the highest first.",
    "precision_recall": "Precision and recall of each class as the lowest accepted score varies, at an IoU of 0.5.",
    "counts": "How many objects of each class an image has, across, and how many are found, up.",
}
SHOWN = 8
"""Images in the picture of a run."""
MOST = 100
"""Boxes that are found in an image, at most."""
CLASSES, BOX, SIDES = 1.0, 7.5, 1.5
"""Weights of the parts of the loss: those of YOLOv8 (Jocher et al. 2023, https://github.com/ultralytics/ultralytics)
with twice as much for the classes, which are what a small set takes longest to learn."""
ANY_SIZE = True


def complete(config: Config, facts: Facts) -> Config:
    """The settings with classes, stride, and mean and deviation of the training images."""
    mean, std = facts.statistics("image")
    height, width, _ = image_shape(facts.features)
    classes = len(class_names(facts.features))
    return replace(_sized(config, height, width), classes=classes, mean=mean, std=std)


def _sized(config: Config, height: int, width: int) -> Config:
    """The settings with the stride and the bins that suit images of a size, if none are chosen."""
    stride = config.stride or smallest_stride(height, width)
    return replace(config, stride=stride, bins=config.bins or bins_needed(height, width, stride))


def validation_config(config: Config) -> Config:
    """Without intervals, which take longer than the rest of the metrics."""
    return replace(config, interval=False)


def init(
    config: Config,
    key: jax.Array,
    batch: Batch,
    model: Any = None,
    *,
    optimizer: Any = None,
    loss: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array] | None = None,
) -> State:
    """The state at step 0.

    Args:
        config: ``classes`` must be set (from the data). Stride and bins that are not chosen suit the batch's images.
        key: parameters are drawn from it.
        batch: a batch of the data; its shape is read.
        model: a Linen module, called with ``(images)`` or ``(images, train=...)``, or a pair
            ``(init(key, images), apply(params, images))``; it gives logits [B, A, classes] and logits
            [B, A, 4, bins] of distances at the places of ``jaxrec.models.detector``. Default: the configured.
        optimizer: an optax transformation in place of the configured optimizer, schedule, decay and clipping.
        loss: ``loss(logits, distances, boxes [B, N, 4], label [B, N]) -> [B]`` in place of the configured one.

    Raises:
        UserError: there is no class.
    """
    if config.classes < 1:
        raise UserError(f"detection needs at least one class; got {config.classes}: check the boxes")
    shape = batch_shape(batch)
    config = _sized(config, *shape[:2])
    model = build(config) if model is None else as_model(model)
    images = jnp.zeros((1, *shape), jnp.float32)
    variables = model.init({"params": stream(key, "params", jnp.int32(0))}, images, train=False)
    return new_state(config, key, {"net": new_player(config, model, variables, optimizer)}, loss)


def build(config: Config) -> Detector:
    """The configured network, from images [B, H, W, C] to scores and distances at all places."""
    return Detector(
        classes=config.classes,
        width=config.width,
        stride=config.stride,
        bins=config.bins or BINS,
        norm=config.norm,
        dtype=compute_dtype(config),
    )


def _cells(config: Config, images: jax.Array) -> Places:
    """The places of images [B, H, W, C]."""
    _, height, width, _ = images.shape
    return cells((height, width), tuple(config.stride * 2**scale for scale in range(SCALES)))


def _parts(state: State, answer: tuple[jax.Array, jax.Array], where: Places, batch: Batch) -> Parts:
    """The parts of the loss of each image."""
    config = state.config
    logits, distances = answer
    options = {"classes": config.class_loss, "box": config.box_loss}
    return losses.detection(logits, distances, where, batch["boxes"], batch["label"], **options)


def _loss(state: State, answer: tuple[jax.Array, jax.Array], where: Places, batch: Batch) -> tuple[jax.Array, Metrics]:
    """The loss of each image, float32 [B], and the means of its parts."""
    if state.loss is not None:
        return state.loss(*answer, batch["boxes"], batch["label"]), {}
    parts = _parts(state, answer, where, batch)
    means = {f"{name}_loss": values.mean() for name, values in parts._asdict().items()}
    return parts.total(CLASSES, BOX, SIDES), means


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update; pure. Metrics: ``loss`` and its parts, means over the batch and all replicas."""
    config, player = state.config, state.player
    model = for_replicas(player.model, axis_name)
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    examples = _augmented(state, key("augment"), batch)
    where = _cells(config, examples["image"])

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        inputs = standardize(examples["image"], config.mean, config.std)
        answer, stats = model.apply(
            {"params": params, **stats}, inputs, train=True, mutable=list(stats), rngs={"dropout": key}
        )
        each, means = _loss(state, answer, where, examples)
        return each.mean(), ({"loss": each.mean(), **means}, stats)

    player, metrics = learn(player, state, loss, examples, key("model"), axis_name=axis_name)
    return state.replace(step=state.step + 1, players={"net": player}), metrics


def _augmented(state: State, key: jax.Array, batch: Batch) -> Batch:
    """Images in [0, 1], boxes and classes after augmentation."""
    examples = {"image": pixels(batch), "boxes": batch["boxes"], "label": batch["label"]}
    config = state.config
    return augment_examples(config.augment, key, examples, READS, *places(batch), composing=composing(state))


def seen(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``batch``: images and their boxes as the training step augments them, [B, 1, H, W, 3]."""
    examples = _augmented(state, stream(state.key, "augment", state.step), batch)
    shown = {"images": rgb(examples["image"]), "boxes": examples["boxes"], "box_classes": examples["label"]}
    return {"batch": {name: values[:, None] for name, values in shown.items()}}


def _answer(state: State, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the network gives for images [B, H, W, C] in [0, 1]."""
    config, player = state.config, state.player
    return player.model.apply(player.variables(), standardize(images, config.mean, config.std), train=False)


def _boxes(config: Config, distances: jax.Array, images: jax.Array) -> jax.Array:
    """The boxes [B, A, 4] at all places, as far as they lie inside the images."""
    _, height, width, _ = images.shape
    boxes = decoded(distances, _cells(config, images))
    return jnp.clip(boxes, 0.0, jnp.array([height, width, height, width], jnp.float32))


def _found(config: Config, answer: tuple[jax.Array, jax.Array], images: jax.Array) -> Found:
    """The boxes in images of which none suppresses another."""
    logits, distances = answer
    boxes = _boxes(config, distances, images)
    scores = jax.nn.sigmoid(logits)
    if config.suppress == "soft":
        return soft_nms(boxes, scores, most=MOST)
    return nms(boxes, scores, overlap=config.overlap, most=MOST)


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch; examples whose ``real`` is False do not count."""
    config, images, real = state.config, pixels(batch), batch.get("real")
    answer = _answer(state, images)
    loss, _ = _loss(state, answer, _cells(config, images), batch)
    options = {
        "class_count": config.classes,
        "counted_from": config.score,
        "interval": config.interval,
        "voc": config.voc,
    }
    return {
        "loss": Average.from_batch({"loss": loss}, real),
        "detections": Detections.from_batch(
            *_found(config, answer, images), batch["boxes"], batch["label"], real, **options
        ),
        "worst": Worst.from_batch(loss, places(batch)[0], real),
    }


def predict(state: State, inputs: jax.Array) -> dict[str, jax.Array]:
    """The objects in images [B, H, W, C], the highest score first, at most 100.

    ``boxes`` float32 [B, 100, 4], y0, x0, y1, x1 in pixels; ``scores`` float32 [B, 100]; ``classes`` int32 [B, 100], -1
    for no object. Images are of uint8, uint16 or floats in [0, 1], and of any size.
    """
    images = scaled(inputs)
    return _found(state.config, _answer(state, images), images)._asdict()


def targets(config: Config, outputs: Mapping[str, np.ndarray], wanted: int | None = None) -> dict[str, np.ndarray]:
    """What is explained of each image: the best box of at least the configured score, of the wanted class if any.

    ``class`` int32 [N], -1 if there is no such box, and ``box`` float32 [N, 4].
    """
    there = (outputs["classes"] >= 0) & (outputs["scores"] >= config.score)
    if wanted is not None:
        there &= outputs["classes"] == wanted
    # Boxes come in the order of their scores.
    first = there.argmax(1)
    row = np.arange(len(first))
    number = np.where(there.any(1), outputs["classes"][row, first], -1)
    return {"class": number.astype(np.int32), "box": outputs["boxes"][row, first]}


def explained(state: State, inputs: jax.Array, target: Mapping[str, jax.Array]) -> jax.Array:
    """How well the target is found again in images [B, H, W, C] (after D-RISE, Petsiuk et al. 2021), float32 [B].

    The highest product, over all places, of the score of the target's class and the overlap with its box.
    """
    images = scaled(inputs)
    logits, distances = _answer(state, images)
    overlaps = iou(_boxes(state.config, distances, images), target["box"][:, None])
    scores = jnp.take_along_axis(jax.nn.sigmoid(logits), target["class"][:, None, None], axis=2)[..., 0]
    return (scores * overlaps).max(1)


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at: ``detections``, images [rows, 2, H, W, 3] with true boxes and with those found."""
    return {"detections": _compared(state, {name: values[:SHOWN] for name, values in batch.items()})}


def worst(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_detections``: the same, [B, 2, H, W, 3]."""
    return {"worst_detections": _compared(state, batch)}


def _compared(state: State, batch: Batch) -> dict[str, jax.Array]:
    """Each image twice: with its true boxes, and with those found."""
    config, images = state.config, pixels(batch)
    found = _counted(config, _found(config, _answer(state, images), images))
    boxes, label = batch["boxes"], batch["label"].astype(jnp.int32)
    right, known = matches(found, boxes, label)
    most = max(MOST, label.shape[1])
    true = {"boxes": boxes, "box_classes": label, "box_scores": jnp.full_like(boxes[..., 0], jnp.nan)}
    true["box_wrong"] = (label >= 0) & ~known
    ours = {"boxes": found.boxes, "box_classes": found.classes, "box_scores": found.scores}
    ours["box_wrong"] = (found.classes >= 0) & ~right
    drawn = {"images": jnp.stack([rgb(images)] * 2, 1)}
    for name in true:
        pair = [_filled(values[name], most, -1 if name == "box_classes" else 0) for values in (true, ours)]
        drawn[name] = jnp.stack(pair, 1)
    return drawn


def _counted(config: Config, found: Found) -> Found:
    """The boxes of at least the configured score."""
    return found._replace(classes=jnp.where(found.scores >= config.score, found.classes, -1))


def _filled(values: jax.Array, most: int, fill: int) -> jax.Array:
    """[B, K, ...] filled up to [B, most, ...]."""
    after = [(0, 0)] * (values.ndim - 2)
    return jnp.pad(values, ((0, 0), (0, most - values.shape[1]), *after), constant_values=fill)


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each image: how many objects were found, the best score, and by class; every box in JSON."""
    names = class_names(features)
    told = []
    for boxes, scores, classes in zip(outputs["boxes"], outputs["scores"], outputs["classes"], strict=True):
        there = (classes >= 0) & (scores >= config.score)
        counts = np.bincount(classes[there], minlength=len(names))
        found = []
        for box, score, number in zip(boxes[there], scores[there], classes[there], strict=True):
            y0, x0, y1, x1 = (round(float(each), 2) for each in box)
            where = {"y0": y0, "x0": x0, "y1": y1, "x1": x1}
            found.append({"class": names[number], "score": round(float(score), 6), **where})
        told.append(
            {
                "objects": int(there.sum()),
                "best_score": float(scores[there].max(initial=0.0)),
                "counts": dict(zip(names, counts.tolist(), strict=True)),
                "boxes": found,
            }
        )
    return told


def listed(config: Config, rows: Sequence[Mapping[str, Any]], features: Features) -> dict[str, list[dict]]:
    """``coco``: the boxes of told images as results in the format of COCO, x, y, width and height.

    ``image_id`` is the name of the file without its ending, as a number if it is one; of files of one name, the path.
    ``category_id`` is the number of the class from 1 on, and its name stands beside it.
    """
    names = class_names(features)
    stems = [row["path"].replace("\\", "/").rpartition("/")[2].rpartition(".")[0] for row in rows]
    results = []
    for row, stem in zip(rows, stems, strict=True):
        image = int(stem) if stem.isascii() and stem.isdigit() else stem
        if stems.count(stem) > 1:
            image = row["path"]
        for box in row["boxes"]:
            sides = [box["x0"], box["y0"], round(box["x1"] - box["x0"], 2), round(box["y1"] - box["y0"], 2)]
            category = {"category_id": 1 + names.index(box["class"]), "category_name": box["class"]}
            results.append({"image_id": image, **category, "bbox": sides, "score": box["score"]})
    return {"coco": results}


def drawings(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """The image with its boxes, the names of their classes and their scores."""
    images = np.asarray(rgb(scaled(inputs)))
    drawn = []
    for place, image in enumerate(images):
        there = outputs["scores"][place] >= config.score
        drawn.append(
            {
                "boxes": {
                    "picture": image,
                    "boxes": outputs["boxes"][place][there],
                    "box_classes": outputs["classes"][place][there],
                    "box_scores": outputs["scores"][place][there],
                }
            }
        )
    return drawn
