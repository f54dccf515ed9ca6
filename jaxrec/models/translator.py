"""The two players of a translation of images: a U-Net, and a discriminator of patches (Isola et al. 2017)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import SpectralConv, leaky_relu
from .unet import UNet, pad_to_multiple
from .video import to_patches, to_pixels


class Generator(nn.Module):
    """Images in [0, 1] to images of ``channels`` channels and the same size.

    ``add``: the U-Net's answer is added to the input, and the sum may leave [0, 1]. Otherwise it ends in a sigmoid.
    ``patch``: squares of so many pixels a side are one pixel of the U-Net.
    """

    channels: int
    width: int = 32
    depth: int = 3
    patch: int = 1
    norm: str = "batch"
    dropout: float = 0.0
    add: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """[B,H,W,.] in [0, 1] to [B,H,W,channels], float32."""
        height, width = images.shape[1:3]
        x = to_patches(pad_to_multiple(images * 2 - 1, self.patch), self.patch)
        net = UNet(
            classes=self.channels * self.patch**2,
            width=self.width,
            depth=self.depth,
            norm=self.norm,
            dropout=self.dropout,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name="unet",
        )
        answer = to_pixels(net(x, train=train), self.patch)[:, :height, :width]
        if self.add:
            return with_channels(images, self.channels) + answer / 2
        return nn.sigmoid(answer)


def with_channels(images: jax.Array, channels: int) -> jax.Array:
    """Images [..., C] with another number of channels: each is the mean of the given ones, unless they are as many."""
    if images.shape[-1] == channels:
        return images
    mean = images.mean(-1, keepdims=True)
    return jnp.broadcast_to(mean, (*images.shape[:-1], channels))


class Discriminator(nn.Module):
    """Images to a number for each of their patches, larger for real ones; perhaps beside the image they were made from.

    ``halvings`` convolutions of stride 2, then two more. No normalization but the kernels' own, if ``spectral``.
    """

    width: int = 32
    halvings: int = 2
    spectral: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, given: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Images [B,H,W,C] in [0, 1] to logits [B,h,w], float32, and the activations before them, [B,.,.,.] each."""
        options = {"size": 4, "spectral": self.spectral, "dtype": self.dtype}
        x = images if given is None else jnp.concatenate([images, given], -1)
        x = (x * 2 - 1).astype(self.dtype)
        layers = []
        for number in range(self.halvings):
            features = self.width * 2**number
            x = leaky_relu(SpectralConv(features, strides=2, name=f"conv{number + 1}", **options)(x, train))
            layers.append(x)
        features = self.width * 2**self.halvings
        x = leaky_relu(SpectralConv(features, name="conv", **options)(x, train))
        layers.append(x)
        logits = SpectralConv(1, name="head", **options)(x, train)
        return logits[..., 0].astype(jnp.float32), layers
