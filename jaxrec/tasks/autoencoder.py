"""Autoencoders: plain, denoising and variational (Kingma & Welling 2014); one player.

A batch is ``{"image": [B, H, W, C]}``, images as in ``jaxrec.tasks.inputs.scaled``. It may carry ``index`` (int32 [B]),
by which evaluation draws its noise so that results do not depend on the batch size, and ``real`` (bool [B], False for
padding).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses
from jaxrec.data.features import Features
from jaxrec.errors import UserError
from jaxrec.metrics import Average, Metric, Reconstruction, Worst
from jaxrec.metrics.meanings import Meaning
from jaxrec.models.autoencoder import Autoencoder, UNet
from jaxrec.parallel import stream
from jaxrec.settings.autoencoder import Autoencoder as Config
from jaxrec.tasks import connected
from jaxrec.tasks.inputs import (
    augmented,
    augmented_batch,
    example_keys,
    image_shape,
    pixels,
    places,
    scaled,
    sheet_size,
)
from jaxrec.tasks.learning import learn
from jaxrec.tasks.model import as_model, compute_dtype
from jaxrec.tasks.state import Batch, Metrics, Player, State, new_player, new_state
from jaxrec.tasks.system import Channels

READS = {"image": "image"}
HEADLINE = ("nll", "psnr", "mse", "loss")
EVOLVING = ("samples",)
seen = augmented_batch
MEANINGS = {
    "mse": Meaning("Mean squared error of a pixel, of values in [0, 1].", "less"),
    "psnr": Meaning("Peak signal to noise ratio, in decibels.", "more"),
    "ssim": Meaning("Structural similarity, at most 1.", "more"),
    "nll": Meaning("Upper bound on the negative log likelihood of an image, in nats.", "less"),
    "elbo": Meaning("Lower bound on the log likelihood of an image, in nats.", "more"),
    "kl": Meaning("Distance of the codes from the prior, in nats an image."),
    "reconstruction": Meaning("The loss without the distance of the codes from the prior.", "less"),
}
CAPTIONS = {
    "samples": "Generated from the same codes throughout the run, here at its end.",
    "real": "Real images, laid out in the same way.",
    "samples.gif": "Generated from the same codes throughout the run.",
    "reconstructions": "Images, above what the model makes of them; of a denoiser, between them what it saw.",
    "worst_reconstructions": "The same, side by side, of the images of highest loss in the whole split.",
    "interpolation": "From one image to another: what lies between their codes, row by row.",
}
VALIDATION_CODES = 10
"""Most codes drawn per validation image for a variational autoencoder's bound, which takes hours with hundreds."""
CODES_AT_ONCE = 4000
"""Most codes that are decoded at once in evaluation."""


def validation_config(config: Config) -> Config:
    """The settings for evaluations during training: fewer codes per image."""
    return replace(config, eval_samples=min(config.eval_samples, VALIDATION_CODES))


def evaluation_size(config: Config, size: int) -> int:
    """Fewer images at once if each stands for many decoded codes."""
    if config.model != "vae":
        return size
    return max(1, min(size, CODES_AT_ONCE // config.eval_samples))


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
        batch: a batch of the data; its shape is read.
        model: a Linen module with ``encode`` and ``decode`` methods, and with couplings those of
            ``jaxrec.models.autoencoder.Autoencoder``; or, for a plain or denoising autoencoder, any
            module or pair ``(init(key, images), apply(params, images))`` from images to images.
        optimizer: an optax transformation in place of the configured optimizer, schedule, decay and clipping.
        loss: ``loss(outputs, images) -> [B]`` in place of the configured reconstruction loss; not for a vae.

    Raises:
        UserError: the settings contradict each other.
    """
    shape = image_shape(batch)
    if config.architecture == "unet" and (config.model == "vae" or not config.noise):
        raise UserError(
            "architecture 'unet' passes its input around the code; it is for denoising alone: "
            "give a noise above 0 and model 'autoencoder', or choose conv, residual or dense"
        )
    if config.model != "vae" and config.couplings:
        raise UserError(f"couplings {config.couplings} learn the prior of a vae's codes; choose model 'vae', or 0")
    if config.model == "vae" and config.noise:
        raise UserError(f"a vae takes no noise; got {config.noise}: choose model 'autoencoder' for denoising")
    if config.model == "vae" and loss is not None:
        raise UserError("a vae's loss is a bound on the likelihood and cannot be replaced; choose model 'autoencoder'")
    model = build(config, shape) if model is None else as_model(model)
    images = jnp.zeros((1, *shape), jnp.float32)
    variables = model.init({"params": stream(key, "params", jnp.int32(0))}, images)
    players = {"net": new_player(config, model, variables, optimizer)}
    return new_state(config, key, players, loss, noise=config.noise, kl_weight=config.kl_weight)


def build(config: Config, shape: tuple[int, int, int]) -> Autoencoder | UNet:
    """The configured network, from images ``[B, *shape]`` to outputs of that shape, float32.

    All but the U-Net have ``encode`` and ``decode``.
    """
    dtype = compute_dtype(config)
    if config.architecture == "unet":
        return UNet(config.width, dtype)
    variational = config.model == "vae"
    return Autoencoder(shape, config.architecture, config.code, config.width, variational, config.couplings, dtype)


def channels(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Channels, ...]:
    """The channels that are removed together; none of a U-Net, which puts them side by side."""
    if config.architecture == "unet":
        return ()
    scales = 0
    while f"net/params/encoder/conv{scales + 1}/kernel" in shapes:
        scales += 1
    return connected.autoencoder(config.architecture, scales)


def _clean(config: Config, key: jax.Array, images: jax.Array) -> jax.Array:
    """The target: pixels in [0, 1], drawn as 0 or 1 if so configured."""
    return jax.random.bernoulli(key, images).astype(jnp.float32) if config.binarize else images


def _corrupt(state: State, key: jax.Array, images: jax.Array) -> jax.Array:
    """The input: the clean image plus Gaussian noise, clipped to [0, 1]."""
    if not state.config.noise:
        # The switch is the setting, so that the noise of a run without it costs nothing.
        return images
    return jnp.clip(images + state.hyper["noise"] * jax.random.normal(key, images.shape, jnp.float32), 0, 1)


def _pixels(config: Config, outputs: jax.Array) -> jax.Array:
    """Images in [0, 1] from the decoder's outputs."""
    return jax.nn.sigmoid(outputs) if config.likelihood == "bernoulli" else jnp.clip(outputs, 0, 1)


def _log_densities(
    config: Config, model: Any, variables: Any, images: jax.Array, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of codes z drawn with standard normal ``noise`` [K, B, code]: log p(x | z), and log p(z) - log q(z | x).

    Both are float32 [K, B], in nats per image; their sum is the log importance weight.
    """
    mean, log_variance = model.apply(variables, images, method="encode")
    samples, size, code = noise.shape
    codes = (mean + jnp.exp(0.5 * log_variance) * noise).reshape(samples * size, code)
    outputs = model.apply(variables, codes, method="decode")
    outputs = outputs.reshape(samples, *images.shape)
    log_p = jax.vmap(lambda output: losses.log_likelihood(output, images, config.likelihood))(outputs)
    change = jnp.zeros((samples, size), jnp.float32)
    if config.couplings:
        codes, change = model.apply(variables, codes, method="to_normal")
    codes = codes.reshape(noise.shape)
    # The normalizing constants cancel.
    log_ratio = 0.5 * jnp.sum(noise**2 + log_variance - codes**2, axis=-1) + change.reshape(samples, size)
    return log_p, log_ratio


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update on a batch; pure.

    Args:
        state: the state; it is not changed.
        batch: ``image``; ``index`` and ``epoch`` if flips alternate.
        axis_name: the mapped axis if the step runs under ``pmap`` or ``shard_map``; gradients, metrics and batch
            statistics are then taken over all replicas.

    Returns:
        The next state, and ``loss``, float32; for a vae, in nats per image, also ``reconstruction`` and ``kl``.
    """
    config, player = state.config, state.player
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    images = augmented(config, key("augment"), batch)
    target = _clean(config, key("binarize"), images)
    inputs = _corrupt(state, key("noise"), target)
    loss = _variational_loss(state) if config.model == "vae" else _reconstruction_loss(state)
    examples = {"image": inputs, "target": target}
    player, metrics = learn(player, state, loss, examples, key("model"), axis_name=axis_name)
    return state.replace(step=state.step + 1, players={"net": player}), metrics


def _reconstruction(state: State, outputs: jax.Array, target: jax.Array) -> jax.Array:
    """The reconstruction loss of each example, float32 [B]."""
    if state.loss is not None:
        return state.loss(outputs, target)
    return losses.reconstruction(outputs, target, state.config.likelihood)


def _reconstruction_loss(state: State) -> Any:
    model = state.player.model

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        outputs = model.apply({"params": params, **stats}, examples["image"])
        value = _reconstruction(state, outputs, examples["target"]).mean()
        return value, ({"loss": value}, stats)

    return loss


def _variational_loss(state: State) -> Any:
    config, model = state.config, state.player.model
    warmup = config.kl_warmup * config.optimizer.steps
    rise = jnp.minimum(1.0, (state.step.astype(jnp.float32) + 1) / max(warmup, 1.0))
    weight = state.hyper["kl_weight"] * rise

    def loss(params: Any, stats: Any, examples: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        inputs, target = examples["image"], examples["target"]
        variables = {"params": params, **stats}
        noise = jax.random.normal(key, (config.train_samples, inputs.shape[0], config.code), jnp.float32)
        if config.train_samples > 1 or config.couplings:
            log_p, log_ratio = _log_densities(config, model, variables, target, noise)
            value = -losses.importance_bound(log_p + weight * log_ratio).mean()
            return value, ({"loss": value, "reconstruction": -log_p.mean(), "kl": -log_ratio.mean()}, stats)
        mean, log_variance = model.apply(variables, inputs, method="encode")
        outputs = model.apply(variables, mean + jnp.exp(0.5 * log_variance) * noise[0], method="decode")
        reconstruction = -losses.log_likelihood(outputs, target, config.likelihood).mean()
        # The closed form of the divergence has less variance than its one-sample estimate.
        kl = losses.kl_standard_normal(mean, log_variance).mean()
        value = reconstruction + weight * kl
        return value, ({"loss": value, "reconstruction": reconstruction, "kl": kl}, stats)

    return loss


def _evaluation_pair(state: State, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Inputs and clean targets with evaluation's fixed noise."""
    images = pixels(batch)
    target = jax.vmap(partial(_clean, state.config))(example_keys(batch, "binarize"), images)
    return jax.vmap(partial(_corrupt, state))(example_keys(batch, "noise"), target), target


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch; examples whose ``real`` is False do not count.

    Noise, binarisation and codes are drawn by the example's ``index`` from a fixed key. A vae adds, in nats per image,
    ``nll`` (the importance-weighted bound of Burda et al. 2016 with ``eval_samples`` codes), ``elbo`` and ``kl``.
    """
    config, player, real = state.config, state.player, batch.get("real")
    index, _ = places(batch)
    inputs, target = _evaluation_pair(state, batch)
    if config.model != "vae":
        outputs = player.model.apply(player.variables(), inputs)
        loss = _reconstruction(state, outputs, target)
        return {
            "reconstruction": Reconstruction.from_batch(_pixels(config, outputs), target, real),
            "loss": Average.from_batch({"loss": loss}, real),
            "worst": Worst.from_batch(loss, index, real),
        }
    shape = (config.eval_samples, config.code)
    noise = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32), out_axes=1)(example_keys(batch, "codes"))
    log_p, log_ratio = _log_densities(config, player.model, player.variables(), target, noise)
    log_weights = log_p + log_ratio
    mean, log_variance = player.model.apply(player.variables(), target, method="encode")
    outputs = player.model.apply(player.variables(), mean, method="decode")
    bounds = {
        "nll": -losses.importance_bound(log_weights),
        "elbo": log_weights.mean(0),
        # A learned prior's divergence has no closed form.
        "kl": -log_ratio.mean(0) if config.couplings else losses.kl_standard_normal(mean, log_variance),
        "loss": -log_weights.mean(0),
    }
    return {
        "bounds": Average.from_batch(bounds, real),
        "reconstruction": Reconstruction.from_batch(_pixels(config, outputs), target, real),
        "worst": Worst.from_batch(bounds["loss"], index, real),
    }


def predict(state: State, inputs: jax.Array) -> dict[str, jax.Array]:
    """For images [B, H, W, C], taken as they are (a denoiser adds no noise): ``reconstruction`` in [0, 1].

    Also ``code`` [B, code], the mean for a vae; a unet and a model without ``encode`` have none.
    """
    config, player = state.config, state.player
    images = scaled(inputs)
    if not _has_code(config, player):
        return {"reconstruction": _pixels(config, player.model.apply(player.variables(), images))}
    code = player.model.apply(player.variables(), images, method="encode")
    code = code[0] if config.model == "vae" else code
    return {"reconstruction": _decode(state, code), "code": code}


def _has_code(config: Config, player: Player) -> bool:
    return config.architecture != "unet" and hasattr(player.model, "encode")


def _decode(state: State, code: jax.Array) -> jax.Array:
    return _pixels(state.config, state.player.model.apply(state.player.variables(), code, method="decode"))


def generate(
    state: State, key: jax.Array, count: int, first: jax.typing.ArrayLike = 0, *, truncation: jax.typing.ArrayLike = 1.0
) -> dict[str, jax.Array]:
    """``image`` float32 [count, H, W, C] in [0, 1], decoded from codes drawn from the prior; a vae only.

    The normal draws that codes are made of are multiplied by ``truncation``: below 1, images are more alike and closer
    to the mean.
    """
    if state.config.model != "vae":
        raise UserError("only a vae or a gan generates images; this run is a plain autoencoder: use predict")
    code = jax.random.normal(key, (count, state.config.code), jnp.float32) * jnp.float32(truncation)
    if state.config.couplings:
        code = state.player.model.apply(state.player.variables(), code, method="from_normal")
    return {"image": _decode(state, code)}


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at, float32 [rows, columns, H, W, C] in [0, 1].

    ``reconstructions``: clean image, what the model saw (denoising), and its answer, row by row. A vae adds ``samples``
    from the prior, on latents fixed by the run's key, ``real`` images in the same layout, and ``interpolation`` between
    the codes of pairs of images.
    """
    config = state.config
    images = pixels(batch)
    batch = {name: values[:12] for name, values in batch.items()}
    pictures = {"reconstructions": {"images": jnp.stack(_compared(state, batch))}}
    if config.model == "vae":
        mean, shape = _mean_code(state, _evaluation_pair(state, batch)[0]), image_shape(batch)
        rows, columns = sheet_size(8, 12, shape)
        samples = generate(state, stream(state.key, "samples", jnp.int32(0)), rows * columns)["image"]
        pictures["samples"] = {"images": samples.reshape(rows, columns, *shape)}
        fits = min(columns, len(images))
        real = images[: min(rows, len(images) // fits) * fits]
        pictures["real"] = {"images": real.reshape(-1, fits, *shape)}
        half, columns = sheet_size(mean.shape[0] // 2, 12, shape)
        if half:
            start, end = mean[:half, None], mean[half : 2 * half, None]
            share = jnp.linspace(0, 1, columns)[None, :, None]
            line = _decode(state, (start + share * (end - start)).reshape(-1, config.code))
            pictures["interpolation"] = {"images": line.reshape(half, columns, *shape)}
    return pictures


def worst(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_reconstructions``: clean image, what the model saw (denoising), and its answer, [B, 2 or 3, H, W, C]."""
    return {"worst_reconstructions": {"images": jnp.stack(_compared(state, batch), axis=1)}}


def _compared(state: State, batch: Batch) -> list[jax.Array]:
    """Clean images, what the model saw (denoising) and its answer, each [B, H, W, C]."""
    config, player = state.config, state.player
    inputs, target = _evaluation_pair(state, batch)
    if config.model == "vae":
        answer = _decode(state, _mean_code(state, inputs))
    else:
        answer = _pixels(config, player.model.apply(player.variables(), inputs))
    return [target, inputs, answer] if config.noise else [target, answer]


def _mean_code(state: State, inputs: jax.Array) -> jax.Array:
    player = state.player
    return player.model.apply(player.variables(), inputs, method="encode")[0]


def generates(config: Config) -> bool:
    """Only a vae draws images."""
    return config.model == "vae"


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each image: the error of its reconstruction, and its code."""
    images = np.asarray(scaled(inputs))
    told = []
    for number, image in enumerate(images):
        row: dict[str, Any] = {"mse": float(np.mean((outputs["reconstruction"][number] - image) ** 2))}
        if "code" in outputs:
            row["code"] = outputs["code"][number].tolist()
        told.append(row)
    return told


def sheet(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> dict[str, Any]:
    """Images above their reconstructions."""
    pair = np.stack([np.asarray(scaled(inputs)), outputs["reconstruction"]])
    return {"reconstructions": {"images": pair}}
