"""Image classification: one player, softmax or sigmoid head.

    from jaxrec.tasks import classifier
    state = classifier.init(classifier.Config(classes=10), jax.random.key(0), batch)
    state, metrics = jax.jit(classifier.train_step)(state, batch)

A batch is ``{"image": [B, H, W, C], "label": int32 [B]}``, images as in ``jaxrec.tasks.inputs.scaled``; with
``head="sigmoid"`` labels may also be 0 or 1 for each class, int32 [B, classes]. It may carry ``index`` and ``epoch``
(int32 [B], for alternating flips) and, for evaluation, ``real`` (bool [B], False for padding).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses
from jaxrec.augment import cutmix, mixup, standardize
from jaxrec.data.features import Features, class_names
from jaxrec.errors import UserError
from jaxrec.metrics import Classification, Metric, MultiLabel, Worst
from jaxrec.metrics.classification import CONFUSION
from jaxrec.metrics.classification import MEANINGS as MEANINGS
from jaxrec.metrics.classification import summary_pictures as summary_pictures
from jaxrec.models.cnn import CNN
from jaxrec.models.efficientnet import EfficientNet
from jaxrec.models.layers import scaled
from jaxrec.models.resnet import LAYOUTS, ResNet
from jaxrec.models.speednet import SpeedNet
from jaxrec.models.vit import ViT, resized_positions
from jaxrec.parallel import stream
from jaxrec.settings.classifier import Classifier as Config
from jaxrec.tasks import connected
from jaxrec.tasks.answers import class_row, exactly, log_odds
from jaxrec.tasks.answers import targets as targets
from jaxrec.tasks.inputs import augmented, image_shape, pixels, places
from jaxrec.tasks.learning import learn
from jaxrec.tasks.model import as_model, compute_dtype, for_replicas
from jaxrec.tasks.state import Batch, Metrics, Player, State, new_player, new_state
from jaxrec.tasks.system import Channels, Facts
from jaxrec.weights import tables
from jaxrec.weights.preprocessing import HALF, IMAGENET, LITE, Preprocessing

Network = CNN | ResNet | SpeedNet | ViT | EfficientNet
READS = {"image": "image", "label": "class|classes"}
SOFT_LABELS = True
HEADLINE = ("accuracy", "f1_macro", "loss")
"""A sigmoid head has no accuracy: a model that finds nothing would have a high one if labels are rare."""
CAPTIONS = {
    "confusion_matrix": CONFUSION,
    "worst_mistakes": "The images of highest loss in the whole split, the highest first, with the prediction and its "
    "confidence; mistakes in red, the true class below.",
    "predictions": "The first images, with the prediction and its confidence; mistakes in red, the true class below.",
}
SMALL = 64
"""Pixels a side up to which a resnet has a small stem, unless told otherwise."""
FEATURES = {"vit": 128, "vit-s16": 384, "vit-b16": 768}
"""Features of each token of a vit at width 1."""
SPEEDNETS = {"speednet": (64, 256, 256), "speednet-deep": (128, 384, 512)}
"""Channels of the three blocks of a speednet at width 1."""
PUBLISHED = {
    "resnet18": (tables.resnet, IMAGENET),
    "resnet34": (tables.resnet, IMAGENET),
    "resnet50": (tables.resnet, IMAGENET),
    "efficientnet-lite0": (tables.efficientnet, LITE),
    "vit": (tables.vit, HALF),
    "vit-s16": (tables.vit, HALF),
    "vit-b16": (tables.vit, HALF),
}
"""The table of names for the published weights of a model, and how they expect images if a file does not say."""
SHOWN = 32
"""Images in the picture of predictions."""


def complete(config: Config, facts: Facts) -> Config:
    """The settings with the number of classes and, if they are used, mean and deviation of the training images."""
    config = replace(config, classes=len(class_names(facts.features)))
    if facts.features["label"].kind == "classes" and config.head != "sigmoid":
        raise UserError("the images have several labels each, and --head is softmax; give --head sigmoid")
    if config.class_weights != "none":
        config = replace(config, weights=_class_weights(config, facts))
    if config.standardize != "dataset":
        return config
    mean, std = facts.statistics("image")
    return replace(config, mean=mean, std=std)


def _class_weights(config: Config, facts: Facts) -> tuple[float, ...]:
    label = facts.features["label"]
    if label.kind != "class" or config.classes < 2:
        raise UserError(
            f"--class-weights {config.class_weights} weighs each image by its class, and the labels are of kind "
            f"{label.kind} with {config.classes} in all; expected one of at least two classes for each image: "
            "give --class-weights none"
        )
    return tuple(losses.class_weights(facts.class_counts("label"), config.class_weights).tolist())


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
        batch: a batch of the data. What a model takes from data at the start, such as speednet's whitening filters,
            comes from it.
        model: a Linen module, called with ``(images)`` or ``(images, train=...)``, or a pair
            ``(init(key, images), apply(params, images))``; it gives logits [B, classes], or a pair of logits and
            features [B, D]. Default: the configured one.
        optimizer: an optax transformation in place of the configured optimizer, schedule, decay and clipping.
        loss: ``loss(logits [B, classes], targets [B, classes]) -> [B]`` in place of the configured one.

    Raises:
        UserError: the number of classes does not fit the head.
    """
    if config.classes < 1:
        raise UserError(f"classes is {config.classes}; expected the number of classes in the data, at least 1")
    if config.head == "softmax" and config.classes < 2:
        raise UserError("a softmax head needs at least two classes; got one: use head='sigmoid' for a yes or no")
    model = build(config, image_shape(batch)) if model is None else as_model(model)
    inputs = _inputs(config, pixels(batch))
    variables = model.init({"params": stream(key, "params", jnp.int32(0))}, inputs, train=False)
    return new_state(config, key, {"net": new_player(config, model, variables, optimizer)}, loss)


def build(config: Config, shape: tuple[int, int, int], axis_name: str | None = None) -> Network:
    """The configured network, from standardized images ``[B, *shape]`` to logits and features, both float32.

    Logits are [B, classes], features [B, D]. ``axis_name`` is the mapped axis over which batch statistics are taken.
    """
    name, width = config.model, config.width
    common: dict[str, Any] = {
        "classes": config.classes,
        "dropout": config.dropout,
        "dtype": compute_dtype(config),
    }
    if name == "cnn":
        return CNN(activation=config.activation, width=width, **common)
    if name == "cnn-deep":
        return CNN(channels=(32, 64, 128, 128), dense=512, activation=config.activation, width=width, **common)
    if name in FEATURES:
        return ViT(
            patch=config.patch,
            dim=config.heads * scaled(FEATURES[name] // config.heads, width),
            depth=config.depth,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            class_token=config.class_token,
            qkv_bias=config.qkv_bias,
            exact_gelu=name != "vit",
            **common,
        )
    if name == "efficientnet-lite0":
        return EfficientNet(width=width, axis_name=axis_name, **common)
    if name in SPEEDNETS:
        first, second, third = SPEEDNETS[name]
        return SpeedNet(
            widths=(scaled(first, width), scaled(second, width), scaled(third, width)),
            residual=name == "speednet-deep",
            pooled_stem=config.stem == "large",
            divisor=config.logit_divisor,
            axis_name=axis_name,
            **common,
        )
    stem = config.stem
    if stem == "auto":
        stem = "small" if max(shape[:2]) <= SMALL else "large"
    blocks, bottleneck = LAYOUTS[name]
    return ResNet(
        blocks=blocks,
        bottleneck=bottleneck,
        stem=stem,
        width=width,
        activation=config.activation,
        axis_name=axis_name,
        **common,
    )


def linear_head(config: Config) -> tuple[str, str]:
    """The paths of the last layer's kernel and bias; raises UserError if it has no bias."""
    if config.model in SPEEDNETS:
        raise UserError(
            f"--probe needs a last layer with a bias, and that of {config.model} has none; choose another --model"
        )
    return "net/params/head/kernel", "net/params/head/bias"


def channels(config: Config, _: Mapping[str, tuple[int, ...]]) -> tuple[Channels, ...]:
    """The channels that are removed together; none of a vit, whose heads share them."""
    if config.model in SPEEDNETS:
        return connected.speednet(residual=config.model == "speednet-deep")
    if config.model in LAYOUTS:
        return connected.resnet(config.model)
    if config.model == "efficientnet-lite0":
        return connected.efficientnet()
    if config.model in FEATURES:
        return ()
    names = ["conv1", "conv2"] if config.model == "cnn" else ["conv1", "conv2", "conv3", "conv4"]
    return connected.stack([*names, "dense", "head"])


def preprocessing(config: Config) -> Preprocessing | None:
    """How published weights of the configured network expect images; None if there are none."""
    return PUBLISHED[config.model][1] if config.model in PUBLISHED else None


def translated(
    config: Config, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Published weights by this library's paths; a vit's positions are interpolated for images of another size.

    Raises UserError if the configured network has no published weights.
    """
    if config.model not in PUBLISHED:
        raise UserError(
            f"published weights of {config.model} are not known; expected --model {', '.join(PUBLISHED)}, or a run of "
            f"{config.model} for --init-from"
        )
    found = PUBLISHED[config.model][0](arrays)
    place = "net/params/positions"
    if place in found and place in shapes and found[place].shape[1] != shapes[place][1]:
        positions = resized_positions(jnp.asarray(found[place]), shapes[place][1], config.class_token)
        found[place] = np.asarray(positions)
    return found


def _inputs(config: Config, images: jax.Array) -> jax.Array:
    """What the model sees: pixels in [0, 1], standardized by the data set's mean and deviation if so configured."""
    return standardize(images, config.mean, config.std) if config.standardize == "dataset" else images


def _targets(config: Config, label: jax.Array) -> jax.Array:
    """Targets float32 [B, classes] from class numbers [B] or, for a sigmoid head, 0/1 labels [B, classes]."""
    if label.ndim == 2:
        return label.astype(jnp.float32)
    if config.head == "sigmoid" and config.classes == 1:
        return label.astype(jnp.float32)[:, None]
    return jax.nn.one_hot(label, config.classes, dtype=jnp.float32)


def _outputs(answer: Any) -> tuple[jax.Array, jax.Array]:
    """Logits and features of what a model gives; a model that gives bare logits has them as its features."""
    if isinstance(answer, tuple):
        logits, features = answer
        return logits, features
    return answer, answer


def _loss(state: State, logits: jax.Array, targets: jax.Array, smoothing: float) -> jax.Array:
    """The loss of each example, float32 [B]."""
    config = state.config
    targets = losses.smooth(targets, smoothing, head=config.head)
    if state.loss is not None:
        return state.loss(logits, targets)
    return losses.classification(logits, targets, head=config.head, loss=config.loss)


def _weights(config: Config, targets: jax.Array) -> jax.Array:
    """The weight of each example [B], or 1 for all: that of its class, mixed as the targets [B, classes] are."""
    if not config.weights:
        return jnp.float32(1)
    return targets @ jnp.array(config.weights, jnp.float32)


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update on a batch; pure.

    Args:
        state: the state; it is not changed.
        batch: ``image`` and ``label``; ``index`` and ``epoch`` if flips alternate.
        axis_name: the mapped axis if the step runs under ``pmap`` or ``shard_map``; gradients, metrics and batch
            statistics are then taken over all replicas.

    Returns:
        The next state, and ``loss`` and ``accuracy`` of the batch, float32 scalars; with a sigmoid head
        ``label_accuracy``, over all labels.
    """
    config, player = state.config, state.player
    model = for_replicas(player.model, axis_name)
    key = stream(state.key, "model", state.step, axis_name)
    images, targets = _mixed(state, batch, axis_name)

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        inputs = _inputs(config, examples["image"])
        variables = {"params": params, **stats}
        answer, stats = model.apply(variables, inputs, train=True, mutable=list(stats), rngs={"dropout": key})
        logits, _ = _outputs(answer)
        each = _loss(state, logits, examples["target"], config.label_smoothing)
        value = (_weights(config, examples["target"]) * each).mean()
        return value, ({"loss": value, **_accuracy(config, logits, examples["target"])}, stats)

    examples = {"image": images, "target": targets}
    player, metrics = learn(player, state, loss, examples, key, axis_name=axis_name)
    return state.replace(step=state.step + 1, players={"net": player}), metrics


def seen(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``batch``: images as the training step mixes and augments them, [B, 1, H, W, C]."""
    images, _ = _mixed(state, batch, None)
    return {"batch": {"images": images[:, None]}}


def _mixed(state: State, batch: Batch, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Images in [0, 1] after augmentation, mixup and cutmix, and their targets [B, classes]."""
    config = state.config
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    images = augmented(config, key("augment"), batch)
    targets = _targets(config, batch["label"])
    if config.mixup:
        images, targets = mixup(key("mixup"), images, targets, config.mixup)
    if config.cutmix:
        images, targets = cutmix(key("cutmix"), images, targets, config.cutmix)
    return images, targets


def _accuracy(config: Config, logits: jax.Array, targets: jax.Array) -> Metrics:
    """The share of right answers in a batch, over examples or labels; named as in evaluation."""
    if config.head == "sigmoid":
        return {"label_accuracy": jnp.mean(((logits > 0) == (targets > 0.5)).astype(jnp.float32))}
    return {"accuracy": jnp.mean((logits.argmax(-1) == targets.argmax(-1)).astype(jnp.float32))}


def _logits(config: Config, player: Player, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits averaged over the configured test-time views of images, and the plain view's features."""
    inputs = _inputs(config, pixels({"image": images}))
    views = [inputs]
    if config.views == "mirror-shift":
        padded = jnp.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        height, width = inputs.shape[1:3]
        views += [padded[:, :height, :width], padded[:, 2 : 2 + height, 2 : 2 + width]]
    if config.views != "one":
        views += [view[:, :, ::-1] for view in views]
    outputs = [_outputs(player.model.apply(player.variables(), view, train=False)) for view in views]
    # The unshifted image and its mirror carry half the weight, the four shifted views the other half.
    weights = {1: [1.0], 2: [0.5, 0.5], 6: [0.25, 0.125, 0.125, 0.25, 0.125, 0.125]}[len(views)]
    logits: Any = sum(weight * logits for weight, (logits, _) in zip(weights, outputs, strict=True))
    return logits, outputs[0][1]


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch.

    Args:
        state: the state; the moving average is evaluated if one is kept.
        batch: ``image``, ``label`` and, if some examples are padding that does not count, ``real`` bool [B].

    Returns:
        ``Classification`` for a softmax head, ``MultiLabel`` for a sigmoid one; and the ``Worst`` examples.
    """
    config, real = state.config, batch.get("real")
    logits, _ = _logits(config, state.player, batch["image"])
    targets = _targets(config, batch["label"])
    loss = _loss(state, logits, targets, 0.0)
    worst = Worst.from_batch(loss, places(batch)[0], real)
    if config.head == "sigmoid":
        measured = MultiLabel.from_batch(logits, targets.astype(jnp.int32), real, loss)
        return {"classification": measured, "worst": worst}
    return {"classification": Classification.from_batch(logits, batch["label"], real, loss), "worst": worst}


def predict(state: State, inputs: jax.Array) -> dict[str, jax.Array]:
    """The classes of images.

    Args:
        state: the state; the moving average predicts if one is kept.
        inputs: images [B, H, W, C] of uint8, uint16 or floats in [0, 1].

    Returns:
        ``logits`` and ``probabilities`` [B, classes] and ``features`` [B, D], float32.
    """
    logits, features = _logits(state.config, state.player, inputs)
    probabilities = jax.nn.softmax(logits) if state.config.head == "softmax" else jax.nn.sigmoid(logits)
    return {"logits": logits, "probabilities": probabilities, "features": features}


def explained(state: State, inputs: jax.Array, target: Mapping[str, jax.Array]) -> jax.Array:
    """The log-odds float32 [B] of the target's class in images [B, H, W, C]."""
    logits, _ = _logits(state.config, state.player, inputs)
    number = target["class"]
    if state.config.head == "sigmoid":
        return jnp.take_along_axis(logits, number[:, None], axis=1)[:, 0]
    return log_odds(logits, number)


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at: ``predictions``, the first images with label and prediction.

    Images are float32 [rows, columns, H, W, C] in [0, 1]; empty for labels that are not single classes.
    """
    if state.config.head == "sigmoid":
        return {}
    columns = min(8, len(batch["image"]))
    rows = min(SHOWN, len(batch["image"])) // columns
    cells = _told(state, {name: values[: rows * columns] for name, values in batch.items()})
    return {"predictions": {name: values.reshape(rows, columns, *values.shape[1:]) for name, values in cells.items()}}


def worst(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_mistakes``: each image [B, 1, H, W, C], with label and prediction if labels are single classes."""
    if state.config.head == "sigmoid":
        return {"worst_mistakes": {"images": pixels(batch)[:, None]}}
    cells = _told(state, batch)
    return {"worst_mistakes": {**cells, "images": cells["images"][:, None]}}


def _told(state: State, batch: Batch) -> dict[str, jax.Array]:
    """Images with label, prediction and confidence [B]."""
    probabilities = predict(state, batch["image"])["probabilities"]
    return {
        "images": pixels(batch),
        "label": batch["label"],
        "prediction": probabilities.argmax(-1),
        "confidence": probabilities.max(-1),
    }


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each image: the class and its probability, then every class's probability."""
    names = class_names(features)
    return [_row(config, names, each) for each in outputs["probabilities"]]


def _row(config: Config, names: tuple[str, ...], probabilities: np.ndarray) -> dict[str, Any]:
    if config.head == "softmax":
        return class_row(names, probabilities)
    every = {name: exactly(value) for name, value in zip(names, probabilities, strict=True)}
    chosen = [name for name, value in every.items() if value > 0.5]
    return {"prediction": " ".join(chosen), "probabilities": every}
