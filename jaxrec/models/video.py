"""Forecasts of frames: SimVP (convolutions alone) and ConvLSTM (a recurrent network)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from .layers import Conv, add_bias, conv, dense
from .rnn import by_gate, forget_one, gated, written_out, zeros_beside
from .unet import normalize, pad_to_multiple


class SimVP(nn.Module):
    """An encoder of each frame, a translator of all frames together, and a decoder of each forecast.

    Gao et al. 2022, https://arxiv.org/abs/2206.05099. Encoder and decoder have frames for examples, so that no loop is
    over time. The translator has time folded into channels. Frames begin and end as squares of pixels, in place of the
    paper's convolutions with strides: on few cores, maps of the frames' own size would take most of the time.
    """

    forecast: int
    width: int = 32
    hidden: int = 96
    blocks: int = 2
    depth: int = 1
    patch: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, given: jax.Array) -> jax.Array:
        """Frames [B, T, H, W, C] in [0, 1] to the outputs of the next ones, float32 [B, forecast, H, W, C]."""
        batch, time, height, width, channels = given.shape
        frames = given.reshape(batch * time, height, width, channels).astype(self.dtype)
        frames = pad_to_multiple(frames, self.patch * 2**self.depth)
        first = nn.silu(self.conv(self.width, "encode0")(to_patches(frames, self.patch)))
        codes = nn.silu(self.conv(self.width, "encode1")(first))
        features = self.forecast * self.width
        translator = Translator(features, self.hidden, self.blocks, self.depth, self.dtype, name="translator")
        x = apart(translator(together(codes, batch)), self.forecast)
        # The last given frame is the nearest to every forecast.
        last = first.reshape(batch, time, *first.shape[1:])[:, -1]
        last = Conv(self.width, 1, dtype=self.dtype, name="skip")(last)[:, None]
        x = nn.silu((x.reshape(batch, self.forecast, *x.shape[1:]) + last).reshape(x.shape))
        x = nn.silu(self.conv(self.width, "decode1")(x))
        x = to_pixels(self.conv(channels * self.patch**2, "decode0")(x), self.patch)[:, :height, :width]
        return x.reshape(batch, self.forecast, height, width, channels).astype(jnp.float32)

    def conv(self, features: int, name: str) -> nn.Module:
        """A 3x3 convolution in the dtype of the computation."""
        return Conv(features, dtype=self.dtype, name=name)


class Translator(nn.Module):
    """From the maps of given frames to those of the forecast: a U-Net of residual blocks.

    It has ``hidden`` channels at the maps' own size, and a third more of them after each of ``depth`` halvings.
    """

    features: int
    hidden: int
    blocks: int
    depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, D] to [B, h, w, features]."""
        x = Conv(self.hidden, 1, dtype=self.dtype, name="read")(x)
        skips = []
        for scale in range(self.depth + 1):
            if scale:
                skips.append(x)
                x = Conv(self.channels(scale), 2, strides=2, dtype=self.dtype, name=f"halve{scale}")(x)
            for number in range(self.blocks):
                x = self.block(x, f"down{scale}_{number}")
        for scale in reversed(range(self.depth)):
            x = Conv(4 * self.channels(scale), 1, dtype=self.dtype, name=f"double{scale}")(x)
            x = skips.pop() + to_pixels(x, 2)
            for number in range(self.blocks):
                x = self.block(x, f"up{scale}_{number}")
        return Conv(self.features, 1, dtype=self.dtype, name="write")(x)

    def channels(self, scale: int) -> int:
        """Channels after this many halvings."""
        return self.hidden + scale * self.hidden // 3

    def block(self, x: jax.Array, name: str) -> jax.Array:
        """Two convolutions around a shortcut; at the start it is the shortcut alone."""
        channels = x.shape[-1]
        y = normalize("group", x, False, None, f"{name}_norm")
        y = nn.silu(Conv(channels, dtype=self.dtype, name=f"{name}_1")(y))
        return x + Conv(channels, dtype=self.dtype, kernel_init=nn.initializers.zeros, name=f"{name}_2")(y)


class Cell(NamedTuple):
    """The parameters of a layer of ConvLSTM: four gates side by side, as in ``jaxrec.models.rnn.gated``."""

    input_kernel: jax.Array
    """[3, 3, D, 4 * hidden]."""
    kernel: jax.Array
    """[3, 3, hidden, 4 * hidden]."""
    bias: jax.Array
    """[4 * hidden]."""


Carried = tuple[jax.Array, jax.Array]
"""Memory and output of a cell after a frame, float32 [B, h, w, hidden]."""


class ConvLSTM(nn.Module):
    """Recurrent layers that read the given frames and then, one after the other, their own forecasts.

    Shi et al. 2015, https://arxiv.org/abs/1506.04214, on squares of pixels as in PredRNN (Wang et al. 2017). In
    training, true frames may take the place of forecasts (scheduled sampling, Bengio et al. 2015,
    https://arxiv.org/abs/1506.03099).
    """

    forecast: int
    hidden: int = 64
    layers: int = 2
    patch: int = 4
    logits: bool = False
    """Whether outputs are logits, whose logistic function is the next input; otherwise they are frames."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, given: jax.Array, following: jax.Array | None = None, seen: jax.Array | None = None
    ) -> jax.Array:
        """Frames [B, T, H, W, C] in [0, 1] to the outputs of the next ones, float32 [B, forecast, H, W, C].

        Args:
            given: the frames to begin with.
            following: the true frames after these, [B, forecast, H, W, C].
            seen: which of them the network reads in place of its forecast, bool [B, forecast]; of the last one it makes
                nothing. Default: none.
        """
        _, _, height, width, channels = given.shape
        x = frames_to_patches(given, self.patch)
        numbers = x.shape[-1]
        cells = [self.cell(f"layer{number}", self.hidden if number else numbers) for number in range(self.layers)]
        write = self.param("write_kernel", nn.initializers.lecun_normal(), (self.hidden, numbers))
        write_bias = self.param("write_bias", nn.initializers.zeros, (numbers,))

        def written(output: jax.Array) -> jax.Array:
            return add_bias(dense(output.astype(self.dtype), write.astype(self.dtype)), write_bias).astype(jnp.float32)

        def step(carry: tuple[list[Carried], jax.Array], true: tuple[jax.Array, jax.Array]) -> Any:
            states, output = carry
            frame, use = true
            x = jnp.where(use[:, None, None, None], frame, nn.sigmoid(output) if self.logits else output)
            after = []
            for cell, state in zip(cells, states, strict=True):
                state = self.next(cell, state, self.read(cell, x))
                x = state[1]
                after.append(state)
            return (after, written(x)), output

        states = []
        for cell in cells:
            state, x = self.over_given(cell, x)
            states.append(state)
        if following is None or seen is None:
            following = jnp.zeros_like(given[:, :1], shape=(given.shape[0], self.forecast, height, width, channels))
            seen = jnp.zeros_like(following[..., 0, 0, 0], bool)
        true = (frames_to_patches(following, self.patch).swapaxes(0, 1), seen.swapaxes(0, 1))
        _, outputs = lax.scan(step, (states, written(x[:, -1])), true, unroll=written_out(self.forecast))
        return patches_to_frames(outputs.swapaxes(0, 1), self.patch)[:, :, :height, :width]

    def cell(self, name: str, inputs: int) -> Cell:
        """The parameters of a layer that reads maps of this many channels."""
        sums = 4 * self.hidden
        orthogonal = by_gate(nn.initializers.delta_orthogonal(), 4)
        return Cell(
            self.param(f"{name}_input_kernel", nn.initializers.lecun_normal(), (3, 3, inputs, sums)),
            self.param(f"{name}_kernel", orthogonal, (3, 3, self.hidden, sums)),
            self.param(f"{name}_bias", forget_one, (sums,)),
        )

    def read(self, cell: Cell, x: jax.Array) -> jax.Array:
        """What maps [N, h, w, D] add to the sums of a cell's gates: float32 [N, h, w, 4 * hidden]."""
        kernel = cell.input_kernel.astype(self.dtype)
        return add_bias(conv(x.astype(self.dtype), kernel), cell.bias).astype(jnp.float32)

    def next(self, cell: Cell, state: Carried, inputs: jax.Array) -> Carried:
        """Memory and output after a frame, of which ``read`` made the inputs."""
        memory, output = state
        past = conv(output.astype(self.dtype), cell.kernel.astype(self.dtype)).astype(jnp.float32)
        return gated(inputs + past, memory)

    def over_given(self, cell: Cell, x: jax.Array) -> tuple[Carried, jax.Array]:
        """Memory and output after the last of the maps [B, T, h, w, D], and all outputs [B, T, h, w, hidden]."""
        batch, time = x.shape[:2]
        # The half of the convolutions that waits for nothing is made for all frames at once.
        inputs = self.read(cell, x.reshape(batch * time, *x.shape[2:]))
        inputs = inputs.reshape(batch, time, *inputs.shape[1:])
        start = zeros_beside(inputs, self.hidden)

        def step(state: Carried, inputs: jax.Array) -> tuple[Carried, jax.Array]:
            state = self.next(cell, state, inputs)
            return state, state[1]

        state, outputs = lax.scan(step, (start, start), inputs.swapaxes(0, 1), unroll=written_out(time))
        return state, outputs.swapaxes(0, 1)


def frames_to_patches(frames: jax.Array, side: int) -> jax.Array:
    """Frames [B, T, H, W, C] as float32 [B, T, h, w, side * side * C], borders repeated until squares fill them."""
    batch, time = frames.shape[:2]
    x = frames.reshape(batch * time, *frames.shape[2:]).astype(jnp.float32)
    x = to_patches(pad_to_multiple(x, side), side)
    return x.reshape(batch, time, *x.shape[1:])


def patches_to_frames(x: jax.Array, side: int) -> jax.Array:
    """[B, T, h, w, side * side * C] as frames [B, T, h * side, w * side, C]."""
    batch, time = x.shape[:2]
    frames = to_pixels(x.reshape(batch * time, *x.shape[2:]), side)
    return frames.reshape(batch, time, *frames.shape[1:])


def to_patches(x: jax.Array, side: int) -> jax.Array:
    """Squares of pixels as pixels: [N, H, W, C] to [N, H / side, W / side, side * side * C]."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(count, height // side, width // side, -1)


def to_pixels(x: jax.Array, side: int) -> jax.Array:
    """What ``to_patches`` undoes: [N, h, w, side * side * C] to [N, h * side, w * side, C]."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height, width, side, side, channels // side**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(count, height * side, width * side, -1)


def together(x: jax.Array, batch: int) -> jax.Array:
    """Maps of frames [B * T, h, w, D] as those of clips, [B, h, w, T * D]."""
    count, height, width, channels = x.shape
    time = count // batch
    x = x.reshape(batch, time, height, width, channels).transpose(0, 2, 3, 1, 4)
    return x.reshape(batch, height, width, time * channels)


def apart(x: jax.Array, time: int) -> jax.Array:
    """What ``together`` undoes: [B, h, w, T * D] to [B * T, h, w, D]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, time, channels // time).transpose(0, 3, 1, 2, 4)
    return x.reshape(batch * time, height, width, channels // time)
