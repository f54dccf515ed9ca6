"""Forecasts of a clip's next frames: by convolutions alone, or by a recurrent network with scheduled sampling.

A batch is ``{"clip": [B, T, H, W, C], "length": int [B]}``, of which the first ``length`` frames of each clip count;
frames as in ``jaxrec.tasks.inputs.scaled``. It may carry ``index`` and ``epoch`` (int32 [B]) and, for evaluation,
``real`` (bool [B], False for padding).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.augment import augment_examples
from jaxrec.data.features import Features
from jaxrec.errors import UserError
from jaxrec.metrics import Average, Forecast, Metric, Worst
from jaxrec.metrics.forecast import of_frames
from jaxrec.metrics.meanings import Meaning
from jaxrec.models.video import ConvLSTM, SimVP
from jaxrec.parallel import stream
from jaxrec.settings.video import Forecaster as Config
from jaxrec.tasks.inputs import frames, lengths, places
from jaxrec.tasks.learning import learn
from jaxrec.tasks.model import as_model, compute_dtype
from jaxrec.tasks.state import Batch, Metrics, State, new_player, new_state
from jaxrec.tasks.system import Score

READS = {"clip": "clip", "length": "length"}
SCORE = Score("mse", lower=True)
HEADLINE = ("mse", "copy_mse", "ssim", "loss")
DATASET = "bouncing"
MEANINGS = {
    "mse": Meaning("Squared error of a forecast frame, summed over its pixels, of values in [0, 1].", "less"),
    "mae": Meaning("Absolute error of a forecast frame, summed over its pixels, of values in [0, 1].", "less"),
    "psnr": Meaning("Peak signal to noise ratio of a forecast frame, in decibels, at most 100.", "more"),
    "ssim": Meaning("Structural similarity of a forecast frame, at most 1.", "more"),
    "copy_mse": Meaning("The same of the last given frame in place of each forecast.", "less"),
    "copy_mae": Meaning("The same of the last given frame in place of each forecast.", "less"),
    "copy_psnr": Meaning("The same of the last given frame in place of each forecast.", "more"),
    "copy_ssim": Meaning("The same of the last given frame in place of each forecast.", "more"),
    "true_frames": Meaning("Share of true frames among those that the network reads in place of its own forecasts."),
}
CAPTIONS = {
    "forecast": "Given frames, then above what came, and below what was forecast.",
    "forecasts": "For each clip the given frames, the true frames that follow, and their forecast, row by row.",
    "worst_forecasts": "The clips of highest loss in the whole split, the highest first: the last given frame, some of "
    "the true frames that follow, and their forecast.",
    "batch": "Clips of a training batch after augmentation, some frames of each.",
}
SHOWN = 4
"""Clips in a picture."""
ANIMATED = 8
"""Clips in the animation."""
STILLS = 4
"""Frames of a clip that are shown side by side, at most."""


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
        config: the settings.
        key: parameters are drawn from it.
        batch: a batch of the data; its shapes are read.
        model: a Linen module, called with the given frames, or a pair ``(init(key, given), apply(params, given))``,
            from [B, given, H, W, C] to outputs [B, forecast, H, W, C]. With architecture convlstm it is called in
            training with ``(given, following, seen)`` as ``jaxrec.models.video.ConvLSTM`` is. Default: the configured
            one.
        optimizer: an optax transformation in place of the configured optimizer, schedule, decay and clipping.
        loss: ``loss(outputs [B, ...], frames [B, ...]) -> [B]`` of single frames in place of the configured one.

    Raises:
        UserError: the clips are shorter than given and forecast frames together.
    """
    most, *shape = batch["clip"].shape[1:]
    _check_length(config, most)
    model = build(config) if model is None else as_model(model)
    given = jnp.zeros((1, config.given, *shape), jnp.float32)
    variables = model.init({"params": stream(key, "params", jnp.int32(0))}, given)
    return new_state(config, key, {"net": new_player(config, model, variables, optimizer)}, loss)


def _check_length(config: Config, most: int) -> None:
    """Raises UserError if clips of ``most`` frames, or the stretches of them that are trained on, are too short."""
    needed = config.given + config.forecast
    stretch = config.augment.frames or needed
    if most < needed:
        raise UserError(
            f"--given {config.given} and --forecast {config.forecast} need clips of {needed} frames, and the longest "
            f"have {most}; give less of both"
        )
    if stretch < needed:
        raise UserError(
            f"--augment.frames {stretch} leaves fewer than the {needed} frames of --given {config.given} and "
            f"--forecast {config.forecast}; give at least {needed}"
        )


def build(config: Config) -> SimVP | ConvLSTM:
    """The configured network, from given frames to outputs, float32; see ``_frames``."""
    dtype = compute_dtype(config)
    if config.architecture == "convlstm":
        logits = config.loss == "cross-entropy"
        return ConvLSTM(config.forecast, config.hidden, config.layers, config.patch, logits, dtype)
    return SimVP(config.forecast, config.width, config.hidden, config.layers, config.depth, config.patch, dtype)


def _frames(config: Config, outputs: jax.Array) -> jax.Array:
    """Frames in [0, 1] from the network's outputs."""
    return jax.nn.sigmoid(outputs) if config.loss == "cross-entropy" else jnp.clip(outputs, 0, 1)


def _parts(config: Config, examples: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of clips in [0, 1]: the given frames, the true frames that follow, and which of these are there, bool [B, F]."""
    clips = examples["clip"]
    end = config.given + config.forecast
    number = jnp.arange(config.given, end, dtype=jnp.int32)
    there = number < lengths(examples)[:, None]
    return clips[:, : config.given], clips[:, config.given : end], there


def _loss(state: State, outputs: jax.Array, true: jax.Array, there: jax.Array) -> jax.Array:
    """The loss of each clip, float32 [B]: the sum over its frames that are there, divided by ``config.forecast``."""
    batch, count = true.shape[:2]
    if state.loss is not None:
        folded = [values.reshape(batch * count, *values.shape[2:]) for values in (outputs, true)]
        each = state.loss(*folded).reshape(batch, count)
    else:
        each = _pixel_losses(state.config, outputs, true).mean((2, 3, 4))
    # Chosen and not multiplied: a product would keep what is not finite.
    return jnp.where(there, each, 0.0).sum(1) / state.config.forecast


def _pixel_losses(config: Config, outputs: jax.Array, true: jax.Array) -> jax.Array:
    """The loss of each pixel, of the outputs' shape."""
    if config.loss == "cross-entropy":
        return optax.losses.sigmoid_binary_cross_entropy(outputs, true)
    squares = jnp.square(outputs - true)
    return squares + jnp.abs(outputs - true) if config.loss == "mse+mae" else squares


def true_share(config: Config, step: jax.Array) -> jax.Array:
    """Share of true frames among those that the recurrent network reads after the given ones, float32 scalar.

    It falls linearly from 1 to 0 over the first ``config.sampling`` of the run.
    """
    falls = max(config.sampling * config.optimizer.steps, 1.0)
    return jnp.maximum(0.0, 1 - step.astype(jnp.float32) / falls)


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update; pure. Metrics: ``loss``, a mean over the batch and all replicas; of convlstm also ``true_frames``."""
    config, player = state.config, state.player
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    recurrent = config.architecture == "convlstm"
    told = {"true_frames": true_share(config, state.step)} if recurrent else {}

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        given, true, there = _parts(config, examples)
        inputs = (given, true, examples["seen"]) if recurrent else (given,)
        outputs = player.model.apply({"params": params, **stats}, *inputs)
        value = _loss(state, outputs, true, there).mean()
        return value, ({"loss": value, **told}, stats)

    examples = _augmented(config, key("augment"), batch)
    if recurrent:
        shape = (examples["clip"].shape[0], config.forecast)
        examples["seen"] = jax.random.bernoulli(key("sampling"), told["true_frames"], shape)
    player, metrics = learn(player, state, loss, examples, key("model"), axis_name=axis_name)
    return state.replace(step=state.step + 1, players={"net": player}), metrics


def _augmented(config: Config, key: jax.Array, batch: Batch) -> Batch:
    """The clips in [0, 1] after augmentation, and their lengths."""
    examples = {"clip": frames(batch["clip"]), "length": lengths(batch)}
    return augment_examples(config.augment, key, examples, READS, *places(batch))


def _outputs(state: State, given: jax.Array) -> jax.Array:
    """The network's outputs for given frames in [0, 1]."""
    player = state.player
    return player.model.apply(player.variables(), given)


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch; examples whose ``real`` is False, and frames that are not there, do not count."""
    given, true, there = _parts(state.config, {**batch, "clip": frames(batch["clip"])})
    real = batch.get("real", jnp.ones(given.shape[0], bool))
    outputs = _outputs(state, given)
    loss = _loss(state, outputs, true, there)
    forecast = _frames(state.config, outputs)
    return {
        "forecast": Forecast.from_batch(forecast, given[:, -1], true, there & real[:, None]),
        "loss": Average.from_batch({"loss": loss}, real),
        "worst": Worst.from_batch(loss, places(batch)[0], real),
    }


def predict(state: State, inputs: jax.Array, length: jax.Array | None = None) -> dict[str, jax.Array]:
    """The frames that follow the first ``config.given`` of clips [B, T, H, W, C].

    Args:
        state: the state; the moving average predicts if one is kept.
        inputs: uint8, uint16 or floats in [0, 1]. Of clips with fewer frames than are given, the missing ones are
            black.
        length: how many frames of each clip are there, int [B]. Default: all.

    Returns:
        ``forecast`` float32 [B, forecast, H, W, C] in [0, 1], and ``length`` int32 [B].
    """
    config = state.config
    clips = {"clip": inputs} if length is None else {"clip": inputs, "length": length}
    missing = max(0, config.given - inputs.shape[1])
    given = jnp.pad(frames(inputs)[:, : config.given], [(0, 0), (0, missing), (0, 0), (0, 0), (0, 0)])
    return {"forecast": _frames(config, _outputs(state, given)), "length": lengths(clips)}


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at: ``forecasts``, a sheet of frames, and ``forecast``, the same as an animation."""
    config = state.config
    given, true, forecast = _compared(state, {name: values[:ANIMATED] for name, values in batch.items()})
    rows = jnp.stack([_filled(each[:SHOWN], config) for each in (given, true, forecast)], axis=1)
    before = jnp.stack([given, given], axis=0)
    after = jnp.stack([true, forecast], axis=0)
    return {
        "forecast": {"frames": jnp.concatenate([before, after], axis=2).transpose(2, 0, 1, 3, 4, 5)},
        "forecasts": {"images": rows.reshape(-1, *rows.shape[2:])},
    }


def _compared(state: State, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Given frames, the true frames that follow and their forecast, each [B, T, H, W, C] in [0, 1].

    True frames that are not there are white.
    """
    given, true, there = _parts(state.config, {**batch, "clip": frames(batch["clip"])})
    shown = jnp.where(there[..., None, None, None], true, 1.0)
    return given, shown, _frames(state.config, _outputs(state, given))


def _filled(clips: jax.Array, config: Config) -> jax.Array:
    """Clips [B, T, ...] with white frames at their ends, so that given frames and forecast have one number."""
    missing = max(config.given, config.forecast) - clips.shape[1]
    return jnp.pad(clips, [(0, 0), (0, missing), (0, 0), (0, 0), (0, 0)], constant_values=1.0)


def worst(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_forecasts``: the last given frame, some true ones that follow, and their forecast, [B, n, H, W, C]."""
    given, true, forecast = _compared(state, batch)
    return {"worst_forecasts": {"images": jnp.concatenate([given[:, -1:], _stills(true), _stills(forecast)], axis=1)}}


def _stills(clips: jax.Array) -> jax.Array:
    """Some frames of clips [B, T, H, W, C], the last among them, evenly spaced."""
    time = clips.shape[1]
    count = min(STILLS, time)
    return clips[:, [(place + 1) * time // count - 1 for place in range(count)]]


def seen(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``batch``: clips as the training step augments them, some frames of each."""
    clips = _augmented(state.config, stream(state.key, "augment", state.step), batch)["clip"]
    return {"batch": {"images": _stills(clips[:, : state.config.given + state.config.forecast])}}


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each clip: its frames, how many of the given ones are missing, and so black, how many there are
    to compare the forecast with, and the mean errors.
    """
    true = np.asarray(frames(inputs))[:, config.given : config.given + config.forecast]
    told = []
    for number, length in enumerate(outputs["length"].tolist()):
        count = max(0, min(true.shape[1], length - config.given))
        row = {"frames": length, "missing": max(0, config.given - length), "compared": count}
        if count:
            pair = (outputs["forecast"][number, :count], true[number, :count])
            for name, values in of_frames(*(jnp.asarray(each)[None] for each in pair)).items():
                row[name] = float(values.mean())
        else:
            row |= dict.fromkeys(("mse", "mae", "psnr", "ssim"), "")
        told.append(row)
    return told


def sheet(
    config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features
) -> dict[str, dict[str, Any]]:
    """``forecasts``: for each clip the last given frames, and below them the forecast."""
    given, forecast = _given(config, inputs), outputs["forecast"]
    count = min(config.given, config.forecast)
    pairs = np.stack([given[:, -count:], forecast[:, :count]], axis=1)
    return {"forecasts": {"images": pairs.reshape(-1, *pairs.shape[2:])}}


def drawings(
    config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features
) -> list[dict[str, Any]]:
    """``forecast`` of each clip: an animation of the given frames and their forecast."""
    whole = np.concatenate([_given(config, inputs), outputs["forecast"]], axis=1)
    return [{"forecast": {"frames": clip[:, None, None]}} for clip in whole]


def _given(config: Config, inputs: np.ndarray) -> np.ndarray:
    """The given frames of clips, float32 in [0, 1], as many as there are."""
    return np.asarray(frames(inputs))[:, : config.given]
