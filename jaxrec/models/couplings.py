"""A distribution of codes that is learned: a standard normal one behind affine couplings."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .layers import Dense


class Couplings(nn.Module):
    """An invertible map from codes to codes that have a standard normal distribution, if it has learned to.

    Dinh et al. 2017, https://arxiv.org/abs/1605.08803. Each of ``count`` couplings leaves one half of the numbers as
    they are, and scales and shifts the other half by what a small network makes of the first. At the start nothing is
    changed.
    """

    count: int
    code: int
    units: int

    def setup(self) -> None:
        """Makes the couplings, which take turns with four ways to cut a code in half."""
        place = np.arange(self.code)
        halves = [place % 2 == 0, place % 2 == 1, place < self.code // 2, place >= self.code // 2]
        self.couplings = [Coupling(tuple(halves[number % 4].tolist()), self.units) for number in range(self.count)]

    def __call__(self, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Codes [N, code] to normal ones [N, code], and the logarithm of the volume's change [N]; float32."""
        change = jnp.zeros_like(codes[:, 0])
        for coupling in self.couplings:
            log_scale, shift = coupling(codes)
            codes = codes * jnp.exp(log_scale) + shift
            change += log_scale.sum(-1)
        return codes, change

    def inverse(self, normal: jax.Array) -> jax.Array:
        """The codes [N, code] that the normal ones [N, code] come from."""
        for coupling in reversed(self.couplings):
            log_scale, shift = coupling(normal)
            normal = (normal - shift) * jnp.exp(-log_scale)
        return normal


class Coupling(nn.Module):
    """What the numbers that are kept make of the others."""

    kept: tuple[bool, ...]
    units: int

    @nn.compact
    def __call__(self, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Codes [N, code] to logarithms of scales, between -1 and 1, and to shifts [N, code]; 0 for what is kept."""
        kept = jnp.array(self.kept, jnp.float32)
        x = codes * kept
        for number in (1, 2):
            x = nn.gelu(Dense(self.units, name=f"dense{number}")(x))
        x = Dense(2 * len(self.kept), kernel_init=nn.initializers.zeros, name="change")(x)
        log_scale, shift = jnp.split(x, 2, axis=-1)
        return nn.tanh(log_scale) * (1 - kept), shift * (1 - kept)
