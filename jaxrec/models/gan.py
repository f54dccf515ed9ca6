"""The two players of a generative adversarial network, with or without classes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import (
    Conv,
    ConvTranspose,
    Dense,
    SpectralConv,
    SpectralDense,
    avg_pool,
    batch_norm,
    flatten,
    leaky_relu,
    upsample,
)


class Generator(nn.Module):
    """Latent vectors to images, from a quarter of their side up; the class enters beside the latents.

    ``dcgan``: transposed convolutions and batch normalization (Radford et al. 2016). ``residual``: residual blocks
    without normalization whose last convolution starts at 0 (Zhang et al. 2019, Huang et al. 2024).
    """

    image_shape: tuple[int, int, int]
    architecture: str = "dcgan"
    width: int = 32
    classes: int = 0
    latents: int = 64
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Latents [B,latents] and labels [B] (None if classes is 0) to images [B,H,W,C] in [-1, 1], float32."""
        height, width, channels = self.image_shape
        z = z.astype(self.dtype)
        if self.classes:
            z = jnp.concatenate([z, nn.Embed(self.classes, self.latents, dtype=self.dtype, name="class")(label)], -1)
        residual = self.architecture == "residual"
        shape = -(-height // 4), -(-width // 4), 4 * self.width
        x = Dense(shape[0] * shape[1] * shape[2], use_bias=residual, dtype=self.dtype, name="dense")(z)
        x = x.reshape(-1, *shape)
        if residual:
            x = UpBlock(2 * self.width, self.dtype, name="block1")(x)
            x = UpBlock(self.width, self.dtype, name="block2")(x)
            x = Conv(channels, dtype=self.dtype, name="image")(leaky_relu(x))
        else:
            x = nn.relu(batch_norm(x, train, self.axis_name, name="norm1"))
            x = ConvTranspose(2 * self.width, 4, 2, use_bias=False, dtype=self.dtype, name="conv1")(x)
            x = nn.relu(batch_norm(x, train, self.axis_name, name="norm2"))
            x = ConvTranspose(channels, 4, 2, dtype=self.dtype, name="image")(x)
        return jnp.tanh(x[:, :height, :width].astype(jnp.float32))


class UpBlock(nn.Module):
    """Residual block that doubles both sides."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,H,W,C] to [B,2H,2W,features]."""
        y = leaky_relu(ConvTranspose(self.features, 4, 2, dtype=self.dtype, name="conv1")(leaky_relu(x)))
        y = Conv(self.features, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="conv2")(y)
        return y + upsample(Conv(self.features, 1, use_bias=False, dtype=self.dtype, name="shortcut")(x), 2)


class Discriminator(nn.Module):
    """Images to one number each, larger for real; the class enters by projection (Miyato & Koyama 2018).

    Two halvings, then linear in all that is left, so that a class may look at places. No normalization but the
    kernels' own, if ``spectral``.
    """

    architecture: str = "dcgan"
    width: int = 32
    classes: int = 0
    spectral: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, label: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Images [B,H,W,C] in [-1, 1] and labels [B] (None if classes is 0) to logits [B], float32."""
        options = {"spectral": self.spectral, "dtype": self.dtype}
        x = images.astype(self.dtype)
        if self.architecture == "residual":
            x = SpectralConv(self.width, name="stem", **options)(x, train)
            x = DownBlock(2 * self.width, name="block1", **options)(x, train)
            x = leaky_relu(DownBlock(4 * self.width, name="block2", **options)(x, train))
        else:
            x = leaky_relu(SpectralConv(2 * self.width, size=4, strides=2, name="conv1", **options)(x, train))
            x = leaky_relu(SpectralConv(4 * self.width, size=4, strides=2, name="conv2", **options)(x, train))
        x = flatten(x)
        logits = SpectralDense(1, name="head", **options)(x, train)[:, 0].astype(jnp.float32)
        if self.classes:
            small = nn.initializers.normal(x.shape[1] ** -0.5)
            project = SpectralDense(x.shape[1], use_bias=False, kernel_init=small, name="class", **options)
            direction = project(jax.nn.one_hot(label, self.classes, dtype=self.dtype), train)
            logits += jnp.sum(direction.astype(jnp.float32) * x.astype(jnp.float32), -1)
        return logits


class DownBlock(nn.Module):
    """Residual block that halves both sides."""

    features: int
    spectral: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B,H,W,C] to [B,ceil(H/2),ceil(W/2),features]."""
        options = {"spectral": self.spectral, "dtype": self.dtype}
        last = nn.initializers.lecun_normal() if self.spectral else nn.initializers.zeros
        y = SpectralConv(self.features, size=4, strides=2, name="conv1", **options)(leaky_relu(x), train)
        y = SpectralConv(self.features, kernel_init=last, name="conv2", **options)(leaky_relu(y), train)
        short = SpectralConv(self.features, size=1, use_bias=False, name="shortcut", **options)
        return y + short(avg_pool(x, 2), train)
