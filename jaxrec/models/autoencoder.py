"""Autoencoders: an encoder to a short code and a decoder back, convolutional or dense; and a denoising U-Net."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .couplings import Couplings
from .layers import Conv, ConvTranspose, Dense, flatten

BLOCKS = 2
"""Residual blocks at each scale."""


def sides(image_shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Height and width at each scale: the image's, then halved (rounded up) twice, or three times from 32 pixels on."""
    scales = [(image_shape[0], image_shape[1])]
    for _ in range(3 if min(scales[0]) >= 32 else 2):
        height, width = scales[-1]
        scales.append((-(-height // 2), -(-width // 2)))
    return scales


class Block(nn.Module):
    """Two convolutions around a shortcut; at the start it is the shortcut alone."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N,H,W,C] to [N,H,W,C]."""
        channels = x.shape[-1]
        y = Conv(channels, dtype=self.dtype, name="conv1")(nn.gelu(x))
        zeros = nn.initializers.zeros
        return x + Conv(channels, kernel_init=zeros, dtype=self.dtype, name="conv2")(nn.gelu(y))


def blocks(x: jax.Array, name: str, dtype: Any) -> jax.Array:
    """The residual blocks of one scale, within a compact module: [N,H,W,C] to [N,H,W,C]."""
    for number in range(1, BLOCKS + 1):
        x = Block(dtype, name=f"{name}_block{number}")(x)
    return nn.gelu(x)


class Encoder(nn.Module):
    """Images [N,H,W,C] to ``outputs`` numbers each."""

    architecture: str
    outputs: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N,H,W,C] to [N,outputs] float32."""
        scales = sides(x.shape[1:])
        x = x.astype(self.dtype)
        if self.architecture in ("conv", "residual"):
            for i in range(len(scales) - 1):
                x = Conv(self.width * 2**i, 4, 2, dtype=self.dtype, name=f"conv{i + 1}")(x)
                x = nn.gelu(x) if self.architecture == "conv" else blocks(x, f"scale{i + 1}", self.dtype)
        x = flatten(x)
        if self.architecture == "dense":
            for i in (1, 2):
                x = nn.gelu(Dense(16 * self.width, dtype=self.dtype, name=f"dense{i}")(x))
        return Dense(self.outputs, dtype=self.dtype, name="code")(x).astype(jnp.float32)


class Decoder(nn.Module):
    """Codes to images: the encoder mirrored."""

    image_shape: tuple[int, int, int]
    architecture: str
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """[N,D] to linear outputs [N,H,W,C] float32."""
        channels = self.image_shape[2]
        z = z.astype(self.dtype)
        if self.architecture == "dense":
            for i in (1, 2):
                z = nn.gelu(Dense(16 * self.width, dtype=self.dtype, name=f"dense{i}")(z))
            height, width = self.image_shape[:2]
            z = Dense(height * width * channels, dtype=self.dtype, name="image")(z)
            return z.reshape(-1, *self.image_shape).astype(jnp.float32)
        *larger, (height, width) = sides(self.image_shape)
        first = self.width * 2 ** (len(larger) - 1)
        x = Dense(height * width * first, dtype=self.dtype, name="dense")(z).reshape(-1, height, width, first)
        for i in reversed(range(len(larger))):
            x = nn.gelu(x) if self.architecture == "conv" else blocks(x, f"scale{i + 1}", self.dtype)
            height, width = larger[i]
            features = self.width * 2 ** (i - 1) if i else channels
            x = ConvTranspose(features, 4, 2, dtype=self.dtype, name=f"conv{i + 1}")(x)[:, :height, :width]
        return x.astype(jnp.float32)


class Autoencoder(nn.Module):
    """Encoder and decoder; if ``variational``, the encoder gives normal distributions (Kingma & Welling 2014).

    With ``couplings`` the prior of the codes is learned, otherwise it is standard normal.
    """

    image_shape: tuple[int, int, int]
    architecture: str = "conv"
    code: int = 32
    width: int = 32
    variational: bool = False
    couplings: int = 0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the two halves."""
        outputs = 2 * self.code if self.variational else self.code
        self.encoder = Encoder(self.architecture, outputs, self.width, self.dtype)
        self.decoder = Decoder(self.image_shape, self.architecture, self.width, self.dtype)
        if self.couplings:
            # In float32 at every precision: a density is no better than the numbers that it is made of.
            self.prior = Couplings(self.couplings, self.code, 8 * self.code)

    def encode(self, x: jax.Array) -> jax.Array | tuple[jax.Array, jax.Array]:
        """[N,H,W,C] to the code [N,code], or if variational to its mean and log-variance; float32."""
        outputs = self.encoder(x)
        return (outputs[:, : self.code], outputs[:, self.code :]) if self.variational else outputs

    def decode(self, z: jax.Array) -> jax.Array:
        """Codes [N,code] to linear outputs [N,H,W,C], float32: pixels, or their logits."""
        return self.decoder(z)

    def to_normal(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Codes [N,code] as they would be under a standard normal prior, and the logarithm of the volume's change [N].

        The prior's log density is that of the former under a standard normal distribution, plus the latter.
        """
        return self.prior(z) if self.couplings else (z, jnp.zeros_like(z[:, 0]))

    def from_normal(self, z: jax.Array) -> jax.Array:
        """Standard normal draws [N,code] as codes [N,code] drawn from the prior."""
        return self.prior.inverse(z) if self.couplings else z

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[N,H,W,C] to outputs [N,H,W,C] through the code, if variational through its mean; draws nothing."""
        code = self.encoder(x)[:, : self.code]
        if self.is_initializing():
            self.to_normal(code)  # Makes the prior's parameters.
        return self.decode(code)


class UNet(nn.Module):
    """Removes noise: adds to the image a correction found at three resolutions (Ronneberger et al. 2015)."""

    width: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Noisy images [N,H,W,C] to images [N,H,W,C], float32."""

        def conv(name: str, x: jax.Array, features: int, *size: int) -> jax.Array:
            return nn.gelu(Conv(features, *size, dtype=self.dtype, name=name)(x))

        def join(name: str, x: jax.Array, skip: jax.Array) -> jax.Array:
            height, width, features = skip.shape[1:]
            x = ConvTranspose(features, 4, 2, dtype=self.dtype, name=name)(x)[:, :height, :width]
            return jnp.concatenate([nn.gelu(x), skip], -1)

        narrow = max(1, self.width // 2)
        full = conv("full", x.astype(self.dtype), narrow)
        half = conv("half2", conv("half1", full, self.width, 4, 2), self.width)
        quarter = conv("quarter2", conv("quarter1", half, 2 * self.width, 4, 2), 2 * self.width)
        half = conv("half3", join("up1", quarter, half), self.width)
        correction = Conv(x.shape[-1], dtype=self.dtype, name="correction")(join("up2", half, full))
        return x.astype(jnp.float32) + correction.astype(jnp.float32)
