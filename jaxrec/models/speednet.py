"""A network made to learn fast: a fixed whitening layer, then three blocks that start near the identity."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Conv, Dense, Maps, add_bias, batch_norm, dense, flatten, max_pool

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def dirac(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A 3x3 kernel [3,3,I,O] whose first I filters copy their own input; the rest are drawn uniformly."""
    copies = min(shape[2:])
    identity = jnp.zeros((*shape[:3], copies), dtype).at[1, 1].set(jnp.eye(shape[2], copies, dtype=dtype))
    return torch_uniform(key, shape, dtype).at[..., :copies].set(identity)


def patches(x: jax.Array) -> jax.Array:
    """Every 2x2 patch of [B,H,W,C]: [B,H-1,W-1,4C]."""
    return jnp.concatenate([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]], -1)


def whitening(x: jax.Array) -> jax.Array:
    """Filters [4C,4C] that turn the 2x2 patches of [B,H,W,C] into uncorrelated numbers of variance 1.

    Its columns are the eigenvectors of the patches' covariance over sqrt(eigenvalue + 5e-4), largest first.
    """
    flat = patches(x.astype(jnp.float32)).reshape(-1, 4 * x.shape[-1])
    centered = flat - flat.mean(0)
    values, vectors = jnp.linalg.eigh(centered.T @ centered / len(flat))
    return (vectors / jnp.sqrt(jnp.maximum(values, 0) + 5e-4))[:, ::-1]


class SpeedNet(nn.Module):
    """The network of airbench94 (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU"), or of airbench96.

    ``init`` takes the whitening from the images it is given, which should be a few thousand of the training set; it
    stays fixed in the collection "constants". Call ``init`` under jit, which then leaves the rest of the pass out.
    """

    classes: int
    widths: tuple[int, int, int] = (64, 256, 256)
    residual: bool = False
    """Give each block a third convolution, whose result is added to that of the first, as in airbench96."""
    pooled_stem: bool = False
    """Halve the image before the first block instead of in it: a quarter of that block's work, for slow machines."""
    divisor: float = 9.0
    """What the logits are divided by."""
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Standardized images [B,H,W,C] to logits [B,classes] and features [B,D], float32."""
        filters = self.variable("constants", "whitening", whitening, x).value.astype(self.dtype)
        # Each filter comes with its negative, so half of the products are enough.
        x = dense(patches(x.astype(self.dtype)), filters)
        x = jnp.concatenate([x, -x], -1)
        x = nn.gelu(add_bias(x, self.param("bias", nn.initializers.zeros, x.shape[-1:])))
        if self.pooled_stem:
            x = max_pool(x, 2)
        for i, features in enumerate(self.widths, 1):
            x = self.layer(x, features, f"{i}1", train, pool=not (i == 1 and self.pooled_stem))
            x = first = nn.gelu(x)
            x = nn.gelu(self.layer(x, features, f"{i}2", train))
            if self.residual:
                x = nn.gelu(first + self.layer(x, features, f"{i}3", train))
        x = Maps(name="maps")(x)
        x = max_pool(x, 3) if min(x.shape[1:3]) >= 3 else x.max((1, 2))
        x = flatten(x)
        head = Dense(
            self.classes, use_bias=False, kernel_init=nn.initializers.normal(1.0), dtype=self.dtype, name="head"
        )
        logits = head(nn.Dropout(self.dropout, deterministic=not train)(x)) / self.divisor
        return logits.astype(jnp.float32), x.astype(jnp.float32)

    def layer(self, x: jax.Array, features: int, number: str, train: bool, pool: bool = False) -> jax.Array:
        """A convolution, max pooling by 2 if ``pool`` and the maps are large enough, and batch normalization."""
        options = {"use_bias": False, "kernel_init": dirac, "dtype": self.dtype}
        x = Conv(features, name=f"conv{number}", **options)(x)
        if pool and min(x.shape[1:3]) >= 2:
            x = max_pool(x, 2)
        return batch_norm(x, train, self.axis_name, name=f"norm{number}", momentum=0.6, use_scale=False)
