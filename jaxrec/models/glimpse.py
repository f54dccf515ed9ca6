"""A network that sees small parts of an image one after the other, and says where to look next."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .layers import Dense, flatten
from .rnn import by_gate, gated

THUMBNAIL = 12
"""Pixels a side of what the context network sees."""
WIDEST = 2.0
"""The logarithm of the largest factor, and of the smallest, that a policy multiplies its deviation by."""
AIM = (0.01, "fan_in", "truncated_normal")
"""Kernels of what the policy says are small at the start, so that looks begin near the center."""


class Looks(NamedTuple):
    """What became of T looks at each of N images; float32."""

    action: jax.Array
    """Where the policy looked, [T, N, 2]: down and to the right from the center, 1 is half the image's side. What lies
    beyond the border is taken for the border."""
    mean: jax.Array
    """Mean of the normal distribution from which the action was drawn, [T, N, 2]."""
    deviation: jax.Array
    """Its standard deviation, [T, N, 2]."""
    value: jax.Array
    """The return that is expected before each look, [T, N]."""
    logits: jax.Array
    """Of the class, after each look [T, N, classes], or [1, N, classes] after the last."""
    features: jax.Array
    """What is remembered after the last look, [N, units]."""


class GlimpseNetwork(nn.Module):
    """Glimpse sensor, networks of what and where, recurrent core, policy, value and head (Mnih et al. 2014).

    https://arxiv.org/abs/1406.6247. The context network is that of Ba et al. 2015, https://arxiv.org/abs/1412.7755.
    """

    classes: int
    looks: int = 6
    patch: int = 8
    scales: int = 2
    core: str = "gru"
    units: int = 128
    width: int = 128
    context: bool = False
    every: bool = False
    """Whether the head answers after each look."""
    learned: bool = False
    """Whether the policy changes its deviation."""
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the layers, which all looks share."""
        width, dtype = self.width, self.dtype
        small = nn.initializers.variance_scaling(*AIM)
        self.seen = Dense(width, dtype=dtype)
        self.placed = Dense(width, dtype=dtype)
        self.what = Dense(width, dtype=dtype)
        self.where = Dense(width, dtype=dtype)
        self.recurrent = Core(self.core, self.units, dtype)
        self.considered = Dense(width, dtype=dtype)
        self.aim = Dense(4 if self.learned else 2, dtype=dtype, kernel_init=small)
        self.expected = Dense(1, dtype=dtype, kernel_init=small)
        self.head = Dense(self.classes, dtype=dtype)
        if self.context:
            self.glanced = Dense(width, dtype=dtype)

    def __call__(
        self,
        images: jax.Array,
        first: jax.Array,
        noise: jax.Array,
        deviation: jax.Array,
        actions: jax.Array | None = None,
    ) -> Looks:
        """Looks at standardized images [B, H, W, C]; N is a multiple of B, for several ways of looking at each image.

        The policy and the value learn from what the core remembers, and do not change it.

        Args:
            images: standardized.
            first: where the first look goes, [N, 2]; nothing is read of it if there is a context network.
            noise: standard normal numbers, [T, N, 2]; 0 looks at the mean.
            deviation: the standard deviation, a scalar.
            actions: where to look, [T, N, 2], in place of what the policy says.
        """
        copies = first.shape[0] // images.shape[0]
        sensor = Sensor(images.astype(self.dtype), self.patch, self.scales)
        context = jnp.repeat(self.glance(images), copies, axis=0) if self.context else None
        carried, memory, steps = None, jnp.zeros((first.shape[0], self.units), self.dtype), []
        for look in range(self.looks):
            mean, spread, value = self.plan(memory, context, deviation)
            if look == 0 and not self.context:
                mean, spread = first, jnp.zeros_like(first)
            action = lax.stop_gradient(mean + spread * noise[look]) if actions is None else actions[look]
            place = jnp.clip(action, -1, 1)
            seen = nn.relu(self.seen(sensor(place)))
            placed = nn.relu(self.placed(place.astype(self.dtype)))
            carried, memory = self.recurrent(carried, nn.relu(self.what(seen) + self.where(placed)))
            logits = self.head(memory).astype(jnp.float32) if self.every or look == self.looks - 1 else None
            steps.append((action, mean, spread, value, logits))
        action, mean, spread, value, logits = zip(*steps, strict=True)
        return Looks(
            action=jnp.stack(action),
            mean=jnp.stack(mean),
            deviation=jnp.stack(spread),
            value=jnp.stack(value),
            logits=jnp.stack([each for each in logits if each is not None]),
            features=memory.astype(jnp.float32),
        )

    def glance(self, images: jax.Array) -> jax.Array:
        """What a thumbnail of each image [B, H, W, C] tells, [B, width]."""
        down, across = (jnp.array(averaging(side), jnp.float32) for side in images.shape[1:3])
        small = jnp.einsum("ih,jw,bhwc->bijc", down, across, images)
        return nn.relu(self.glanced(flatten(small).astype(self.dtype)))

    def plan(
        self, memory: jax.Array, context: jax.Array | None, deviation: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Mean and deviation of the next look [N, 2], and the value [N]; float32."""
        known = lax.stop_gradient(memory)
        if context is not None:
            known = jnp.concatenate([known, context], axis=-1)
        aim = self.aim(nn.relu(self.considered(known))).astype(jnp.float32)
        mean = jnp.tanh(aim[:, :2])
        spread = jnp.broadcast_to(deviation, mean.shape)
        if self.learned:
            spread = spread * jnp.exp(WIDEST * jnp.tanh(aim[:, 2:] / WIDEST))
        return mean, spread, self.expected(known).astype(jnp.float32)[:, 0]


def averaging(side: int) -> np.ndarray:
    """The share of each pixel of a side in each of the thumbnail's, [THUMBNAIL, side]."""
    edges = np.linspace(0, side, THUMBNAIL + 1)[:, None]
    pixels = np.arange(side)
    overlap = np.minimum(pixels + 1, edges[1:]) - np.maximum(pixels, edges[:-1])
    return np.maximum(overlap, 0) * THUMBNAIL / side


class Core(nn.Module):
    """One step of gated recurrent units or of a long short-term memory, as in ``jaxrec.models.rnn``."""

    kind: str
    units: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carried: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """What is carried on, and the output [N, units], from what was carried so far (None: nothing) and x [N, D]."""
        sums = (3 if self.kind == "gru" else 4) * self.units
        inputs = Dense(sums, dtype=self.dtype, name="input")(x).astype(jnp.float32)
        zeros = jnp.zeros_like(inputs[:, : self.units])
        output, memory = (zeros, zeros) if carried is None else carried
        start = by_gate(nn.initializers.orthogonal(), sums // self.units)
        recurrent = Dense(sums, dtype=self.dtype, kernel_init=start, name="recurrent")
        past = recurrent(output.astype(self.dtype)).astype(jnp.float32)
        if self.kind == "lstm":
            # A bias of 1 for the forget gate, so that memories last at the start.
            inputs = inputs.at[:, self.units : 2 * self.units].add(1.0)
            memory, output = gated(inputs + past, memory)
            return (output, memory), output.astype(self.dtype)
        reset, update = jnp.split(nn.sigmoid((inputs + past)[:, : 2 * self.units]), 2, axis=-1)
        new = jnp.tanh(inputs[:, 2 * self.units :] + reset * past[:, 2 * self.units :])
        output = new + update * (output - new)
        return (output, memory), output.astype(self.dtype)


class Sensor:
    """What is seen of images [B, H, W, C] around a place: a square of few pixels at each of several scales."""

    def __init__(self, images: jax.Array, patch: int, scales: int) -> None:
        """Blurs the images once, so that each look only picks pixels."""
        self.patch, self.side = patch, images.shape[1:3]
        # Black around the image, as far as the largest square sees from the border.
        self.border = patch * 2 ** (scales - 1) // 2 + 1
        around = (self.border, self.border)
        blurred = jnp.pad(images, ((0, 0), around, around, (0, 0)))
        self.levels = [blurred]
        for scale in range(1, scales):
            half = 2 ** (scale - 1)
            down, across = blurred[:, :-half], blurred[:, half:]
            blurred = (down[:, :, :-half] + down[:, :, half:] + across[:, :, :-half] + across[:, :, half:]) / 4
            self.levels.append(blurred)

    def __call__(self, place: jax.Array) -> jax.Array:
        """What is seen at places [N, 2] in [-1, 1], N a multiple of B: [N, scales * patch * patch * C]."""
        size = self.levels[0].shape[0]
        center = (place.reshape(size, -1, 2) + 1) / 2 * jnp.array(self.side, jnp.float32)
        seen = []
        for scale, level in enumerate(self.levels):
            step = 2**scale
            corner = jnp.round(center - step * self.patch / 2).astype(jnp.int32) + self.border
            offsets = step * jnp.arange(self.patch, dtype=jnp.int32)
            rows = corner[..., 0, None] + offsets
            columns = corner[..., 1, None] + offsets
            picked = jax.vmap(lambda image, y, x: image[y[..., :, None], x[..., None, :]])(level, rows, columns)
            seen.append(picked.reshape(place.shape[0], -1))
        return jnp.concatenate(seen, axis=-1)


def operations(network: GlimpseNetwork, channels: int) -> int:
    """Products of two numbers that the network makes for an image of so many channels, all looks together."""
    width, units = network.width, network.units
    pixels = network.scales * network.patch**2 * channels
    known = units + width * network.context
    gates = 3 if network.core == "gru" else 4
    glimpse = pixels * width + 2 * width + 2 * width * width
    core = gates * units * (width + units)
    policy = known * width + width * (4 if network.learned else 2) + known
    answers = network.looks if network.every else 1
    glance = THUMBNAIL**2 * channels * width * network.context
    return network.looks * (glimpse + core + policy) + answers * units * network.classes + glance
