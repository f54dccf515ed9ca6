"""Classification of sequences by a recurrent network: clips, or images read row by row or pixel by pixel.

A batch is ``{"clip": [B, T, H, W, C], "length": int [B], "label": int [B]}``, of which the first ``length`` frames of
each clip count, or, with ``sequence="rows"`` or ``"pixels"``, ``{"image": [B, H, W, C], "label": int [B]}``; images and
frames as in ``jaxrec.tasks.inputs.scaled``. It may carry ``index`` and ``epoch`` (int32 [B]) and, for evaluation,
``real`` (bool [B], False for padding).
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
from jaxrec.errors import UserError
from jaxrec.metrics import Average, Classification, Metric, Worst, classification
from jaxrec.metrics.classification import CONFUSION
from jaxrec.metrics.classification import summary_pictures as summary_pictures
from jaxrec.metrics.meanings import Meaning
from jaxrec.models.rnn import SequenceClassifier
from jaxrec.parallel import stream
from jaxrec.settings.rnn import RNN as Config
from jaxrec.tasks.answers import class_row, log_odds
from jaxrec.tasks.answers import targets as targets
from jaxrec.tasks.inputs import frames, lengths, places
from jaxrec.tasks.learning import learn
from jaxrec.tasks.model import as_model, compute_dtype, for_replicas
from jaxrec.tasks.state import Batch, Metrics, State, new_player, new_state
from jaxrec.tasks.system import Facts, Score

SCORE = Score("accuracy", lower=False)
HEADLINE = ("accuracy", "f1_macro", "loss")
DATASET = "moving"
MEANINGS = classification.MEANINGS | {
    "frame_only_accuracy": Meaning("Accuracy of the same network if each clip stands still at its middle frame."),
}
CAPTIONS = {
    "confusion_matrix": CONFUSION,
    "worst_mistakes": "The clips or images of highest loss in the whole split, the highest first, with the prediction "
    "and its confidence; mistakes in red, the true class below.",
    "predictions": "The first clips or images, with the prediction and its confidence; mistakes in red, the true class "
    "below.",
}
FROM_CLIPS = ("clip", "frame")
"""What is read of clips; the rest is read of images."""
SHOWN = 8
"""Clips or images in a picture."""
STILLS = 8
"""Frames of a clip that are shown side by side, at most."""


def _reads(config: Config) -> dict[str, str]:
    """Clips with their lengths, or images."""
    if config.sequence in FROM_CLIPS:
        return {"clip": "clip", "length": "length", "label": "class"}
    return {"image": "image", "label": "class"}


READS = _reads


def complete(config: Config, facts: Facts) -> Config:
    """The settings with the number of classes, and mean and deviation of the training images or frames."""
    mean, std = facts.statistics(_pictured(config))
    return replace(config, classes=len(class_names(facts.features)), mean=mean, std=std)


def validation_config(config: Config) -> Config:
    """Without the control, which takes as long as the rest of an evaluation."""
    return replace(config, control=False)


def _pictured(config: Config) -> str:
    """The name of the clips or images in a batch."""
    return "clip" if config.sequence in FROM_CLIPS else "image"


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
        batch: a batch of the data; its shapes are read.
        model: a Linen module, called with ``(sequences, length)`` or ``(sequences, length, train=...)``, or a pair
            ``(init(key, sequences, length), apply(params, sequences, length))``; sequences are frames [B, T, H, W, C]
            or vectors [B, T, D], and it gives logits [B, classes] and features [B, D]. Default: the configured one.
        optimizer: an optax transformation in place of the configured optimizer, schedule, decay and clipping.
        loss: ``loss(logits [B, classes], targets [B, classes]) -> [B]`` in place of the configured one.

    Raises:
        UserError: there are fewer than two classes, or the settings do not fit each other.
    """
    if config.classes < 2:
        raise UserError(f"sequences are told apart by at least two classes; got {config.classes}: check the labels")
    if config.cell == "convlstm" and config.sequence not in FROM_CLIPS:
        raise UserError(
            f"--cell convlstm reads frames, and --sequence {config.sequence} gives rows of numbers; give --sequence "
            "clip or another --cell"
        )
    if config.layer_norm and config.cell != "lstm":
        raise UserError(f"--layer-norm is for --cell lstm, and the cell is {config.cell}; remove one of the two")
    name = _pictured(config)
    few = {name: jnp.zeros((1, *batch[name].shape[1:]), jnp.float32)}
    sequences, length = _sequences(config, few)
    if config.layer_norm and sequences.ndim == 3 and sequences.shape[-1] == 1:
        # A kernel times one number, normalized, is the normalized kernel or its opposite.
        raise UserError(
            "--layer-norm leaves nothing but the sign of a single number, and the pixels have one channel; remove it"
        )
    model = build(config) if model is None else as_model(model)
    variables = model.init({"params": stream(key, "params", jnp.int32(0))}, sequences, length, train=False)
    return new_state(config, key, {"net": new_player(config, model, variables, optimizer)}, loss)


def build(config: Config) -> SequenceClassifier:
    """The configured network, from sequences and their lengths to logits and features."""
    return SequenceClassifier(
        classes=config.classes,
        cell=config.cell,
        layers=config.layers,
        units=config.units,
        width=config.width,
        earlier=config.earlier,
        pool=config.pool,
        layer_norm=config.layer_norm,
        dropout=config.dropout,
        dtype=compute_dtype(config),
    )


def _sequences(config: Config, examples: Batch) -> tuple[jax.Array, jax.Array]:
    """What the network reads of clips or images in [0, 1]: frames [B, T, H, W, C] or vectors [B, T, D], and lengths."""
    values = standardize(examples[_pictured(config)], config.mean, config.std)
    size = values.shape[0]
    if config.sequence in FROM_CLIPS:
        length = lengths(examples)
        if config.sequence == "clip":
            return values, length
        return _middle(values, length)[:, None], jnp.ones_like(length)
    _, height, width, channels = values.shape
    steps = height if config.sequence == "rows" else height * width
    return values.reshape(size, steps, height * width * channels // steps), jnp.full(size, steps, jnp.int32)


def _middle(clips: jax.Array, length: jax.Array) -> jax.Array:
    """The middle one of the frames [B, T, ...] that are there: [B, ...]."""
    return clips[jnp.arange(clips.shape[0], dtype=jnp.int32), (length - 1) // 2]


def _loss(state: State, logits: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """The loss of each example, float32 [B]."""
    targets = jax.nn.one_hot(label, state.config.classes, dtype=jnp.float32)
    targets = losses.smooth(targets, smoothing, head="softmax")
    if state.loss is not None:
        return state.loss(logits, targets)
    return losses.classification(logits, targets, head="softmax", loss="cross-entropy")


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update; pure. Metrics: ``loss`` and ``accuracy``, means over the batch and all replicas."""
    config, player = state.config, state.player
    model = for_replicas(player.model, axis_name)
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        (logits, _), stats = model.apply(
            {"params": params, **stats},
            *_sequences(config, examples),
            train=True,
            mutable=list(stats),
            rngs={"dropout": key},
        )
        value = _loss(state, logits, examples["label"], config.label_smoothing).mean()
        right = logits.argmax(-1).astype(jnp.int32) == examples["label"].astype(jnp.int32)
        return value, ({"loss": value, "accuracy": right.astype(jnp.float32).mean()}, stats)

    examples = _augmented(config, key("augment"), batch)
    player, metrics = learn(player, state, loss, examples, key("model"), axis_name=axis_name)
    return state.replace(step=state.step + 1, players={"net": player}), metrics


def _augmented(config: Config, key: jax.Array, batch: Batch) -> Batch:
    """The examples, their clips or images in [0, 1] after augmentation."""
    kinds = _reads(config)
    examples = _scaled(config, {name: batch[name] for name in kinds})
    return augment_examples(config.augment, key, examples, kinds, *places(batch))


def _answer(state: State, examples: Batch) -> tuple[jax.Array, jax.Array]:
    """Logits and features of clips or images in [0, 1]."""
    player = state.player
    return player.model.apply(player.variables(), *_sequences(state.config, examples), train=False)


def _scaled(config: Config, batch: Batch) -> Batch:
    """The batch with its clips or images as float32 in [0, 1]."""
    name = _pictured(config)
    return {**batch, name: frames(batch[name])}


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch; examples whose ``real`` is False do not count.

    A network that reads clips is also asked about clips that stand still.
    """
    label, real = batch["label"], batch.get("real")
    examples = _scaled(state.config, batch)
    logits, _ = _answer(state, examples)
    loss = _loss(state, logits, label, 0.0)
    metrics: dict[str, Metric] = {
        "classification": Classification.from_batch(logits, label, real, loss),
        "worst": Worst.from_batch(loss, places(batch)[0], real),
    }
    if state.config.sequence == "clip" and state.config.control:
        logits, _ = _answer(state, _standing(examples))
        right = logits.argmax(-1).astype(jnp.int32) == label.astype(jnp.int32)
        metrics["standing"] = Average.from_batch({"frame_only_accuracy": right}, real)
    return metrics


def _standing(examples: Batch) -> Batch:
    """The examples, each frame of a clip being its middle one."""
    clips = examples["clip"]
    still = _middle(clips, lengths(examples))
    return {**examples, "clip": jnp.broadcast_to(still[:, None], clips.shape)}


def predict(state: State, inputs: jax.Array, length: jax.Array | None = None) -> dict[str, jax.Array]:
    """The classes of clips [B, T, H, W, C] or images [B, H, W, C], whichever the network reads.

    Args:
        state: the state; the moving average predicts if one is kept.
        inputs: uint8, uint16 or floats in [0, 1].
        length: of the clips, how many frames are there, int [B]. Default: all.

    Returns:
        ``logits`` and ``probabilities`` [B, classes] and ``features`` [B, D], float32; of clips also ``length``, int32.
    """
    config = state.config
    batch = {_pictured(config): inputs}
    if length is not None:
        batch["length"] = length
    logits, features = _answer(state, _scaled(config, batch))
    outputs = {"logits": logits, "probabilities": jax.nn.softmax(logits), "features": features}
    if config.sequence in FROM_CLIPS:
        outputs["length"] = lengths(batch)
    return outputs


def explained(
    state: State, inputs: jax.Array, target: Mapping[str, jax.Array], length: jax.Array | None = None
) -> jax.Array:
    """The log-odds float32 [B] of the target's class in what ``predict`` takes."""
    return log_odds(predict(state, inputs, length)["logits"], target["class"])


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at: ``predictions``, images [rows, columns, H, W, C] with label and prediction.

    Of a clip the image holds some of its frames side by side.
    """
    cells = _told(state, {name: values[:SHOWN] for name, values in batch.items()})
    columns = 1 if state.config.sequence in FROM_CLIPS else len(batch["label"][:SHOWN])
    cells["images"] = _joined(cells["images"])
    return {"predictions": {name: values.reshape(-1, columns, *values.shape[1:]) for name, values in cells.items()}}


def worst(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_mistakes``: images [B, n, H, W, C], n frames of a clip, with label and prediction [B]."""
    return {"worst_mistakes": _told(state, batch)}


def seen(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``batch``: clips or images as the training step augments them, [B, n, H, W, C], n frames of a clip."""
    examples = _augmented(state.config, stream(state.key, "augment", state.step), batch)
    return {"batch": {"images": _stills(state.config, examples)}}


def _told(state: State, batch: Batch) -> dict[str, jax.Array]:
    """Images [B, n, H, W, C] with label, prediction and confidence [B]."""
    examples = _scaled(state.config, batch)
    probabilities = jax.nn.softmax(_answer(state, examples)[0])
    return {
        "images": _stills(state.config, examples),
        "label": batch["label"],
        "prediction": probabilities.argmax(-1),
        "confidence": probabilities.max(-1),
    }


def _stills(config: Config, examples: Batch) -> jax.Array:
    """Each image [B, 1, H, W, C], or some frames [B, n, H, W, C] of each clip that are there, from first to last."""
    if config.sequence not in FROM_CLIPS:
        return examples["image"][:, None]
    clips = examples["clip"]
    size, time = clips.shape[:2]
    last = lengths(examples)[:, None] - 1
    count = min(STILLS, time)
    chosen = jnp.arange(count, dtype=jnp.int32) * last // max(count - 1, 1)
    if config.sequence == "frame":
        chosen = last // 2
    return clips[jnp.arange(size, dtype=jnp.int32)[:, None], chosen]


def _joined(stills: jax.Array) -> jax.Array:
    """Images [B, n, H, W, C] side by side, white lines between them: [B, H, n * (W + 1) - 1, C]."""
    size, _, height, _, channels = stills.shape
    stills = jnp.pad(stills, [(0, 0), (0, 0), (0, 0), (0, 1), (0, 0)], constant_values=1.0)
    return stills.transpose(0, 2, 1, 3, 4).reshape(size, height, -1, channels)[:, :, :-1]


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each clip or image: the class and its probability, then every class's probability."""
    names = class_names(features)
    return [class_row(names, each) for each in outputs["probabilities"]]


def sheet(
    config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features
) -> dict[str, dict[str, Any]]:
    """``predictions``: the clips or images, each with its class and confidence."""
    examples = _scaled(config, {_pictured(config): jnp.asarray(inputs)})
    if "length" in outputs:
        examples["length"] = jnp.asarray(outputs["length"])
    images = np.asarray(_joined(_stills(config, examples)))
    probabilities = outputs["probabilities"]
    cells = {"images": images, "prediction": probabilities.argmax(-1), "confidence": probabilities.max(-1)}
    return {"predictions": {name: values[:, None] for name, values in cells.items()}}
