"""The models, built from their configurations.

``axis_name`` names the mapped axis (pmap, shard_map) over which batch statistics are taken together.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.settings import GAN, Autoencoder, Classifier, Task

from . import autoencoder, gan
from .cnn import CNN
from .layers import scaled
from .resnet import LAYOUTS, ResNet
from .speednet import SpeedNet
from .vit import ViT

Shape = tuple[int, int, int]


def _dtype(config: Task) -> jnp.dtype:
    return jnp.dtype({"f32": jnp.float32, "bf16": jnp.bfloat16}[config.precision])


def build_classifier(config: Classifier, image_shape: Shape, axis_name: str | None = None) -> nn.Module:
    """A module from standardised images [B,H,W,C] to logits [B,classes] and features [B,D], both float32."""
    name, width = config.model, config.width
    common = {"classes": config.classes, "dropout": config.dropout, "dtype": _dtype(config)}
    if name == "cnn":
        return CNN(activation=config.activation, width=width, **common)
    if name == "cnn-deep":
        return CNN(channels=(32, 64, 128, 128), dense=512, activation=config.activation, width=width, **common)
    if name == "vit":
        return ViT(patch=config.patch, dim=4 * scaled(32, width), **common)
    if name == "speednet":
        widths = scaled(64, width), scaled(256, width), scaled(256, width)
        return SpeedNet(widths=widths, pooled_stem=config.stem == "large", axis_name=axis_name, **common)
    stem = config.stem if config.stem != "auto" else "small" if max(image_shape[:2]) <= 64 else "large"
    blocks, bottleneck = LAYOUTS[name]
    options = {"stem": stem, "width": width, "activation": config.activation, "axis_name": axis_name}
    return ResNet(blocks=blocks, bottleneck=bottleneck, **options, **common)


def build_autoencoder(config: Autoencoder, image_shape: Shape) -> autoencoder.Autoencoder | autoencoder.UNet:
    """A module from images to outputs of the same shape, float32; all but the U-Net have encode and decode."""
    if config.architecture == "unet":
        return autoencoder.UNet(config.width, _dtype(config))
    variational = config.model == "vae"
    return autoencoder.Autoencoder(
        image_shape, config.architecture, config.code, config.width, variational, _dtype(config)
    )


def build_gan(config: GAN, image_shape: Shape, axis_name: str | None = None) -> tuple[gan.Generator, gan.Discriminator]:
    """The generator, from latents and labels to images in [-1, 1], and the discriminator, from both to logits."""
    common = {
        "architecture": config.architecture,
        "width": config.width,
        "classes": config.classes if config.conditional else 0,
        "dtype": _dtype(config),
    }
    generator = gan.Generator(image_shape, latents=config.latents, axis_name=axis_name, **common)
    return generator, gan.Discriminator(spectral=config.spectral_norm, **common)
