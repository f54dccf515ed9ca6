"""Autoencoders: plain, denoising and variational (Kingma & Welling 2014); one player.

A batch is ``{"image": uint8 [B, H, W, C]}`` and may carry ``index`` (int32 [B]), by which evaluation draws its noise so
that results do not depend on the batch size, and ``mask`` (bool [B]).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec import losses
from jaxrec.errors import UserError
from jaxrec.metrics import Average, Metric, Reconstruction
from jaxrec.models import build_autoencoder
from jaxrec.parallel import stream
from jaxrec.settings import Autoencoder as Config
from jaxrec.tasks.state import Batch, Metrics, State, augmented, image_shape, learn, new_player, new_state, pixels

__all__ = ["Config", "artifacts", "eval_step", "generate", "init", "predict", "train_step"]


def init(config: Config, key: jax.Array, batch: Batch, model: nn.Module | None = None) -> State:
    """The state at step 0; ``model`` may be a Linen module of your own with ``encode`` and ``decode`` methods."""
    shape = image_shape(batch)
    if config.architecture == "unet" and (config.model == "vae" or not config.noise):
        raise UserError(
            "architecture 'unet' passes its input around the code; it is for denoising alone: "
            "give a noise above 0 and model 'autoencoder', or choose conv or dense"
        )
    if config.model == "vae" and config.noise:
        raise UserError(f"a vae takes no noise; got {config.noise}: choose model 'autoencoder' for denoising")
    model = model or build_autoencoder(config, shape)
    images = jnp.zeros((1, *shape), jnp.float32)
    variables = model.init({"params": stream(key, "params", jnp.int32(0))}, images)
    return new_state(
        config, key, {"net": new_player(config, model, variables)}, noise=config.noise, kl_weight=config.kl_weight
    )


def _clean(config: Config, key: jax.Array, images: jax.Array) -> jax.Array:
    """The target: pixels in [0, 1], drawn as 0 or 1 where so configured."""
    return jax.random.bernoulli(key, images).astype(jnp.float32) if config.binarize else images


def _corrupt(state: State, key: jax.Array, images: jax.Array) -> jax.Array:
    """The input: the clean image plus Gaussian noise, clipped to [0, 1]."""
    if not state.config.noise:
        return images
    return jnp.clip(images + state.hyper["noise"] * jax.random.normal(key, images.shape, jnp.float32), 0, 1)


def _pixels(config: Config, outputs: jax.Array) -> jax.Array:
    """Images in [0, 1] from the decoder's outputs."""
    return jax.nn.sigmoid(outputs) if config.likelihood == "bernoulli" else jnp.clip(outputs, 0, 1)


def _log_weights(
    model: Any, variables: Any, images: jax.Array, noise: jax.Array, likelihood: Any, kl_weight: jax.Array | float
) -> jax.Array:
    """Log importance weights [K, B] of codes drawn with standard normal ``noise`` [K, B, code], in nats per image."""
    mean, log_variance = model.apply(variables, images, method="encode")
    samples, size, code = noise.shape
    codes = mean + jnp.exp(0.5 * log_variance) * noise
    outputs = model.apply(variables, codes.reshape(samples * size, code), method="decode")
    outputs = outputs.reshape(samples, *images.shape)
    log_p = jax.vmap(lambda output: losses.log_likelihood(output, images, likelihood))(outputs)
    # log p(z) - log q(z | x); the normalising constants cancel.
    log_ratio = 0.5 * jnp.sum(noise**2 + log_variance - codes**2, axis=-1)
    return log_p + kl_weight * log_ratio


def train_step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
    """One update; pure. Metrics: ``loss``; for a vae (nats per image) also ``reconstruction`` and ``kl``."""
    config, player = state.config, state.player
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    images = augmented(config, key("augment"), batch)
    target = _clean(config, key("binarize"), images)
    inputs = _corrupt(state, key("noise"), target)
    loss = _variational_loss(state) if config.model == "vae" else _reconstruction_loss(state)
    player, metrics = learn(player, state, loss, (inputs, target), key("model"), axis_name=axis_name)
    return state.replace(step=state.step + 1, players={"net": player}), metrics


def _reconstruction_loss(state: State) -> Any:
    config, model = state.config, state.player.model

    def loss(params: Any, stats: Any, part: Any, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        inputs, target = part
        outputs = model.apply({"params": params, **stats}, inputs)
        value = losses.reconstruction(outputs, target, config.likelihood).mean()
        return value, ({"loss": value}, stats)

    return loss


def _variational_loss(state: State) -> Any:
    config, model = state.config, state.player.model
    warmup = config.kl_warmup * config.optimizer.steps
    rise = jnp.minimum(1.0, (state.step.astype(jnp.float32) + 1) / max(warmup, 1.0))
    weight = state.hyper["kl_weight"] * rise

    def loss(params: Any, stats: Any, part: Any, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        inputs, target = part
        variables = {"params": params, **stats}
        noise = jax.random.normal(key, (config.train_samples, inputs.shape[0], config.code), jnp.float32)
        if config.train_samples > 1:
            log_weights = _log_weights(model, variables, target, noise, config.likelihood, weight)
            value = -losses.importance_bound(log_weights).mean()
            return value, ({"loss": value}, stats)
        mean, log_variance = model.apply(variables, inputs, method="encode")
        outputs = model.apply(variables, mean + jnp.exp(0.5 * log_variance) * noise[0], method="decode")
        reconstruction = -losses.log_likelihood(outputs, target, config.likelihood).mean()
        # The closed form of the divergence has less variance than its one-sample estimate.
        kl = losses.kl_standard_normal(mean, log_variance).mean()
        value = reconstruction + weight * kl
        return value, ({"loss": value, "reconstruction": reconstruction, "kl": kl}, stats)

    return loss


def _keys(batch: Batch, name: str) -> jax.Array:
    """One key per example [B], the same in every run, so that test corruptions are the same for all models."""
    index = batch.get("index", jnp.arange(batch["image"].shape[0], dtype=jnp.int32))
    return jax.vmap(partial(stream, jax.random.key(0), name))(index)


def _evaluation_pair(state: State, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Inputs and clean targets with evaluation's fixed noise."""
    images = pixels(batch)
    target = jax.vmap(partial(_clean, state.config))(_keys(batch, "binarize"), images)
    return jax.vmap(partial(_corrupt, state))(_keys(batch, "noise"), target), target


def eval_step(state: State, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch; examples whose ``mask`` is False do not count.

    Noise, binarisation and codes are drawn by the example's ``index`` from a fixed key. A vae adds, in nats per image,
    ``nll`` (the importance-weighted bound of Burda et al. 2016 with ``eval_samples`` codes), ``elbo`` and ``kl``.
    """
    config, player, mask = state.config, state.player, batch.get("mask")
    inputs, target = _evaluation_pair(state, batch)
    if config.model != "vae":
        outputs = player.model.apply(player.variables(), inputs)
        loss = losses.reconstruction(outputs, target, config.likelihood)
        return {
            "reconstruction": Reconstruction.from_batch(_pixels(config, outputs), target, mask),
            "loss": Average.from_batch({"loss": loss}, mask),
        }
    shape = (config.eval_samples, config.code)
    noise = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32), out_axes=1)(_keys(batch, "codes"))
    log_weights = _log_weights(player.model, player.variables(), target, noise, config.likelihood, 1.0)
    mean, log_variance = player.model.apply(player.variables(), target, method="encode")
    outputs = player.model.apply(player.variables(), mean, method="decode")
    bounds = {
        "nll": -losses.importance_bound(log_weights),
        "elbo": log_weights.mean(0),
        "kl": losses.kl_standard_normal(mean, log_variance),
        "loss": -log_weights.mean(0),
    }
    return {
        "bounds": Average.from_batch(bounds, mask),
        "reconstruction": Reconstruction.from_batch(_pixels(config, outputs), target, mask),
    }


def predict(state: State, inputs: jax.Array) -> dict[str, jax.Array]:
    """For uint8 images [B, H, W, C], taken as they are (a denoiser adds no noise): ``reconstruction`` in [0, 1].

    Also ``code`` [B, code], the mean for a vae; a unet has none.
    """
    config, player = state.config, state.player
    images = pixels({"image": inputs})
    if config.architecture == "unet":
        return {"reconstruction": _pixels(config, player.model.apply(player.variables(), images))}
    code = player.model.apply(player.variables(), images, method="encode")
    code = code[0] if config.model == "vae" else code
    return {"reconstruction": _decode(state, code), "code": code}


def _decode(state: State, code: jax.Array) -> jax.Array:
    return _pixels(state.config, state.player.model.apply(state.player.variables(), code, method="decode"))


def generate(state: State, key: jax.Array, count: int) -> dict[str, jax.Array]:
    """``image`` float32 [count, H, W, C] in [0, 1], decoded from codes drawn from the prior; a vae only."""
    if state.config.model != "vae":
        raise UserError("only a vae or a gan generates images; this run is a plain autoencoder: use predict")
    return {"image": _decode(state, jax.random.normal(key, (count, state.config.code), jnp.float32))}


def artifacts(state: State, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at, float32 [rows, columns, H, W, C] in [0, 1].

    ``reconstructions``: clean image, what the model saw (denoising), and its answer, row by row. A vae adds ``samples``
    from the prior, on latents fixed by the run's key, and ``interpolation`` between the codes of pairs of images.
    """
    config, player = state.config, state.player
    batch = {name: values[:12] for name, values in batch.items()}
    inputs, target = _evaluation_pair(state, batch)
    if config.model == "vae":
        mean, _ = player.model.apply(player.variables(), inputs, method="encode")
        answer = _decode(state, mean)
    else:
        answer = _pixels(config, player.model.apply(player.variables(), inputs))
    rows = [target, inputs, answer] if config.noise else [target, answer]
    pictures = {"reconstructions": {"images": jnp.stack(rows)}}
    if config.model == "vae":
        samples = generate(state, stream(state.key, "samples", jnp.int32(0)), 96)["image"]
        pictures["samples"] = {"images": samples.reshape(8, 12, *samples.shape[1:])}
        half = mean.shape[0] // 2
        if half:
            start, end, share = mean[:half, None], mean[half : 2 * half, None], jnp.linspace(0, 1, 12)[None, :, None]
            line = _decode(state, (start + share * (end - start)).reshape(-1, config.code))
            pictures["interpolation"] = {"images": line.reshape(half, 12, *line.shape[1:])}
    return pictures
