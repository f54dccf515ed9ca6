"""Recurrent networks over sequences of vectors or images.

Whatever needs no past is computed for all steps at once, time folded into the batch: the encoder of frames, and each
layer's product or convolution of its input. Only the recurrent product is left in the loop over time. No layer looks
ahead, so frames after the end of a sequence change nothing before it.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .cpu.forms import on_cpu
from .layers import Conv, Dense, conv, dense, each_example_alone, layer_norm, max_pool

SMALLEST = 8
"""Side of a frame's map, about, when it is pooled no more."""
RING = (0.5, 0.999)
"""Smallest and largest absolute eigenvalue of a linear recurrent unit at the start: memories of 1 to 1000 steps."""
EPSILON = 1e-6
WRITTEN_OUT = 64
"""Most steps of convolutions that are compiled one by one instead of as a loop."""
Step = Callable[[Any, jax.Array], tuple[Any, jax.Array]]
"""``(memory, inputs [B, ...]) -> (memory, outputs [B, ...])``."""


class SequenceClassifier(nn.Module):
    """Vectors or frames one after the other, to the logits of a class."""

    classes: int
    cell: str = "gru"
    layers: int = 1
    units: int = 128
    width: int = 16
    earlier: int = 0
    pool: str = "mean"
    layer_norm: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, length: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Sequences to logits [B, classes] and features [B, D], float32.

        Args:
            x: vectors [B, T, D] or standardized frames [B, T, H, W, C].
            length: how many of the T are there, from the first on, int [B]; what comes after does not matter.
            train: whether features are dropped.
        """
        x = x.astype(self.dtype)
        if x.ndim == 5:
            x = self.encoded(x)
        for number in range(self.layers):
            x = self.layer(f"recurrent{number}")(x)
        if x.ndim == 5:
            x = x.mean((2, 3))
        features = Pooling(self.pool, self.dtype)(x, length)
        dropped = nn.Dropout(self.dropout, deterministic=not train)(features)
        logits = Dense(self.classes, dtype=self.dtype, name="head")(dropped.astype(self.dtype))
        return logits.astype(jnp.float32), features.astype(jnp.float32)

    def encoded(self, frames: jax.Array) -> jax.Array:
        """Frames [B, T, H, W, C] to vectors [B, T, D], or to maps [B, T, h, w, D] if the cell takes these."""
        frames = with_changes(frames, self.earlier)
        batch, time = frames.shape[:2]
        folded = frames.reshape(batch * time, *frames.shape[2:])
        maps = FrameEncoder(self.width, self.dtype, name="encoder")(folded)
        if self.cell == "convlstm":
            return maps.reshape(batch, time, *maps.shape[1:])
        vectors = Dense(self.units, dtype=self.dtype, name="encoded")(maps.reshape(batch * time, -1))
        return nn.relu(layer_norm(vectors, "encoded_norm")).reshape(batch, time, self.units)

    def layer(self, name: str) -> nn.Module:
        """A recurrent layer of the configured kind."""
        if self.cell == "gru":
            return GRU(self.units, self.dtype, name=name)
        if self.cell == "lstm":
            return LSTM(self.units, self.layer_norm, self.dtype, name=name)
        if self.cell == "lru":
            return LRU(self.units, self.dtype, name=name)
        return ConvLSTM(2 * self.width, self.dtype, name=name)


class FrameEncoder(nn.Module):
    """Convolutions and poolings over each image by itself."""

    width: int
    dtype: Any = jnp.float32

    @each_example_alone
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [N, H, W, C] to maps [N, h, w, 2 * width], whose shorter side is 8 or less, or 4 of small images."""
        halvings = max(1, math.ceil(math.log2(min(x.shape[1:3]) / SMALLEST)))
        for number in range(halvings):
            channels = self.width if number == 0 and halvings > 1 else 2 * self.width
            x = nn.relu(Conv(channels, dtype=self.dtype, name=f"conv{number}")(x))
            if min(x.shape[1:3]) >= 2:
                x = max_pool(x, 2)
        return x

    def widest(self, image_shape: tuple[int, ...]) -> int:
        """Numbers in the widest activation of one image: that of the first convolution."""
        return 2 * self.width * math.prod(image_shape[:2])


class GRU(nn.Module):
    """Gated recurrent units (Cho et al. 2014), the reset gate after the product as in cuDNN and PyTorch."""

    units: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Vectors [B, T, D] to the state after each step, [B, T, units]."""
        inputs = Dense(3 * self.units, dtype=self.dtype, name="input")(x)
        kernel = self.param("kernel", by_gate(nn.initializers.orthogonal(), 3), (self.units, 3 * self.units))
        bias = self.param("bias", nn.initializers.zeros, (self.units,))
        kernel = kernel.astype(self.dtype)

        def step(state: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            past = dense(state.astype(self.dtype), kernel).astype(jnp.float32)
            reset, update = jnp.split(nn.sigmoid((inputs + past)[:, : 2 * self.units]), 2, axis=-1)
            new = jnp.tanh(inputs[:, 2 * self.units :] + reset * (past[:, 2 * self.units :] + bias))
            state = new + update * (state - new)
            return state, state

        return over_time(step, zeros_beside(inputs, self.units), inputs).astype(self.dtype)


class LSTM(nn.Module):
    """Long short-term memory with a forget gate (Hochreiter & Schmidhuber 1997, Gers et al. 2000)."""

    units: int
    layer_norm: bool = False
    """Whether the two sums of the gates and the memory are normalized at each step (Ba et al. 2016)."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Vectors [B, T, D] to the output of each step, [B, T, units]."""
        sums = 4 * self.units
        inputs = Dense(sums, dtype=self.dtype, use_bias=False, name="input")(x).astype(jnp.float32)
        kernel = self.param("kernel", by_gate(nn.initializers.orthogonal(), 4), (self.units, sums)).astype(self.dtype)
        bias = self.param("bias", forget_one, (sums,))
        norm = self.normalization()
        inputs = norm("input", inputs) + bias

        def step(carried: tuple[jax.Array, jax.Array], inputs: jax.Array) -> tuple[Any, jax.Array]:
            memory, output = carried
            past = dense(output.astype(self.dtype), kernel).astype(jnp.float32)
            memory, output = gated(inputs + norm("recurrent", past), memory, lambda memory: norm("memory", memory))
            return (memory, output), output

        start = zeros_beside(inputs, self.units)
        return over_time(step, (start, start), inputs).astype(self.dtype)

    def normalization(self) -> Callable[[str, jax.Array], jax.Array]:
        """``normalized(name, x)``: x over its last axis with the gain called so, or x itself if that is off."""
        if not self.layer_norm:
            return lambda name, x: x
        sizes = {"input": 4 * self.units, "recurrent": 4 * self.units, "memory": self.units}
        gains = {name: self.param(f"{name}_gain", nn.initializers.ones, (size,)) for name, size in sizes.items()}

        def normalized(name: str, x: jax.Array) -> jax.Array:
            centered = x - x.mean(-1, keepdims=True)
            return gains[name] * centered * lax.rsqrt((centered**2).mean(-1, keepdims=True) + EPSILON)

        return normalized


class ConvLSTM(nn.Module):
    """Long short-term memory of maps, with 3x3 convolutions in place of products (Shi et al. 2015), no peepholes."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, h, w, D] to the output of each step, [B, T, h, w, channels]."""
        batch, time = x.shape[:2]
        sums = 4 * self.channels
        folded = x.reshape(batch * time, *x.shape[2:])
        inputs = Conv(sums, dtype=self.dtype, bias_init=forget_one, name="input")(folded).astype(jnp.float32)
        inputs = inputs.reshape(batch, time, *inputs.shape[1:])
        start_kernel = by_gate(nn.initializers.delta_orthogonal(), 4)
        kernel = self.param("kernel", start_kernel, (3, 3, self.channels, sums)).astype(self.dtype)

        def step(carried: tuple[jax.Array, jax.Array], inputs: jax.Array) -> tuple[Any, jax.Array]:
            memory, output = carried
            past = conv(output.astype(self.dtype), kernel).astype(jnp.float32)
            memory, output = gated(inputs + past, memory)
            return (memory, output), output

        start = zeros_beside(inputs, self.channels)
        return over_time(step, (start, start), inputs, written_out(time)).astype(self.dtype)


class LRU(nn.Module):
    """Linear recurrent units in a residual block (Orvieto et al. 2023): a diagonal recurrence of complex numbers."""

    units: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Vectors [B, T, D] to vectors [B, T, units]."""
        if x.shape[-1] != self.units:
            x = Dense(self.units, dtype=self.dtype, name="project")(x)
        y = layer_norm(x, "norm")
        decay = jnp.exp(-jnp.exp(self.param("log_rate", _log_rates, (self.units,))))
        angle = jnp.exp(self.param("log_angle", _log_angles, (self.units,)))
        # Long memories add up more, so their inputs are smaller; at the start all states have the same variance.
        gain = jnp.exp(self.param("log_gain", lambda *_: 0.5 * jnp.log(1 - decay**2)))
        halved = nn.initializers.variance_scaling(0.5, "fan_in", "normal")
        pairs = Dense(2 * self.units, dtype=self.dtype, use_bias=False, kernel_init=halved, name="input")(y)
        real, imaginary = jnp.split(pairs.astype(jnp.float32), 2, axis=-1)
        states = diagonal(decay * jnp.cos(angle), decay * jnp.sin(angle), gain * real, gain * imaginary)
        # The real part of a complex product is a real product of both parts.
        both = jnp.concatenate(states, axis=-1).astype(self.dtype)
        skipped = self.param("skip", nn.initializers.normal(1.0), (self.units,)).astype(self.dtype) * y
        y = nn.gelu(Dense(self.units, dtype=self.dtype, use_bias=False, name="output")(both) + skipped)
        gate = nn.sigmoid(Dense(self.units, dtype=self.dtype, name="gate")(y))
        return x + gate * Dense(self.units, dtype=self.dtype, name="mix")(y)


class Pooling(nn.Module):
    """The outputs of all steps that are there, as one vector."""

    kind: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, length: jax.Array) -> jax.Array:
        """Vectors [B, T, D] and int [B] to float32 [B, D]."""
        length = jnp.clip(length.astype(jnp.int32), 1, x.shape[1])
        there = (jnp.arange(x.shape[1], dtype=jnp.int32) < length[:, None])[..., None]
        # Zeros and not the products with zeros: whatever comes after the end may be infinite.
        values = jnp.where(there, x.astype(jnp.float32), 0.0)
        if self.kind == "mean":
            return values.sum(1) / length[:, None].astype(jnp.float32)
        if self.kind == "last":
            return jnp.take_along_axis(values, length[:, None, None] - 1, axis=1)[:, 0]
        seen = jnp.tanh(Dense(x.shape[-1], dtype=self.dtype, name="seen")(values.astype(self.dtype)))
        scores = Dense(1, dtype=self.dtype, use_bias=False, name="score")(seen).astype(jnp.float32)
        weights = nn.softmax(jnp.where(there, scores, -jnp.inf), axis=1)
        return (weights * values).sum(1)


def with_changes(frames: jax.Array, earlier: int) -> jax.Array:
    """Frames [B, T, H, W, C] and how each differs from the ``earlier`` frames before it.

    The result is [B, T, H, W, C * (1 + earlier)]. Before the first frame nothing changes.
    """
    parts = [frames]
    for back in range(1, earlier + 1):
        before = np.maximum(np.arange(frames.shape[1]) - back, 0)
        parts.append(frames - frames[:, before])
    return jnp.concatenate(parts, axis=-1)


def written_out(steps: int) -> int:
    """How many of the steps of a recurrence of convolutions are compiled one by one instead of as a loop."""
    # XLA has no fast path for a convolution inside a loop on a CPU; compiling takes longer this way.
    return steps if on_cpu() and steps <= WRITTEN_OUT else 1


def over_time(step: Step, start: Any, inputs: jax.Array, unroll: int = 1) -> jax.Array:
    """The outputs [B, T, ...] of a step that is made for one of the inputs [B, T, ...] after the other.

    ``unroll`` steps at a time are written out one after the other, without a loop.
    """
    _, outputs = lax.scan(step, start, inputs.astype(jnp.float32).swapaxes(0, 1), unroll=unroll)
    return outputs.swapaxes(0, 1)


def zeros_beside(inputs: jax.Array, units: int) -> jax.Array:
    """Zeros [B, ..., units], float32, cut over devices as the inputs [B, T, ..., D] are."""
    return jnp.zeros_like(inputs[:, 0, ..., :units], jnp.float32)


def gated(
    sums: jax.Array, memory: jax.Array, shown: Callable[[jax.Array], jax.Array] = lambda memory: memory
) -> tuple[jax.Array, jax.Array]:
    """Memory and output of an LSTM after a step.

    Args:
        sums: of inputs and past, [..., 4 * D]: for the input gate, the forget gate, the new values, the output gate.
        memory: before the step, [..., D].
        shown: what the output makes of the memory before its tanh.
    """
    let_in, keep, new, let_out = jnp.split(sums, 4, axis=-1)
    memory = nn.sigmoid(keep) * memory + nn.sigmoid(let_in) * jnp.tanh(new)
    return memory, nn.sigmoid(let_out) * jnp.tanh(shown(memory))


def diagonal(
    decay_real: jax.Array, decay_imaginary: jax.Array, real: jax.Array, imaginary: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The states s of s[t] = decay * s[t - 1] + input[t], complex numbers in two parts, by an associative scan.

    The decay is [D], the inputs and states are [B, T, D]. Two steps in a row are a step again, so all are made in about
    log2(T) rounds.
    """
    steps = (1, real.shape[1], real.shape[2])
    first = jnp.broadcast_to(decay_real, steps), jnp.broadcast_to(decay_imaginary, steps)

    def both(one: Any, next_one: Any) -> Any:
        a_real, a_imaginary, x_real, x_imaginary = one
        b_real, b_imaginary, y_real, y_imaginary = next_one
        return (
            a_real * b_real - a_imaginary * b_imaginary,
            a_real * b_imaginary + a_imaginary * b_real,
            b_real * x_real - b_imaginary * x_imaginary + y_real,
            b_real * x_imaginary + b_imaginary * x_real + y_imaginary,
        )

    _, _, *states = lax.associative_scan(both, (*first, real, imaginary), axis=1)
    return states[0], states[1]


def by_gate(initializer: Callable[..., jax.Array], gates: int) -> Callable[..., jax.Array]:
    """An initializer of the kernels of several gates side by side, each drawn by itself."""

    def drawn(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        one = (*shape[:-1], shape[-1] // gates)
        return jnp.concatenate([initializer(each, one, dtype) for each in jax.random.split(key, gates)], axis=-1)

    return drawn


def forget_one(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Biases of an LSTM's sums: 1 for the forget gate, so that memories last at the start (Jozefowicz et al. 2015)."""
    units = shape[0] // 4
    return jnp.zeros(shape, dtype).at[units : 2 * units].set(1)


def _log_rates(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The logarithms of -log |eigenvalue|, eigenvalues uniform on the ring."""
    small, large = RING
    squared = jax.random.uniform(key, shape, jnp.float32, small**2, large**2)
    return jnp.log(-0.5 * jnp.log(squared))


def _log_angles(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The logarithms of angles uniform over the circle."""
    # Above 0, whose logarithm is infinite.
    return jnp.log(jax.random.uniform(key, shape, jnp.float32, 1e-4, 2 * math.pi))
