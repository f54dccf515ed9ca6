"""Networks of agents: a state's value and its actions' advantages, from views around a box or from plain numbers."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.models.layers import Dense


class Judgment(NamedTuple):
    """What a network says of states of the leading shape [...]."""

    value: jax.Array
    """float32 [...]: what the state is worth."""
    advantage: jax.Array
    """float32 [..., A]: what each action is worth beside the others; a policy's logits."""


class BoxNetwork(nn.Module):
    """Convolutions over views around the box, then dense layers over these, the box and the history.

    All views are of one size in pixels; that of the greatest reach shows where to go, that of the least how the box
    fits.
    """

    actions: int
    width: int = 32
    glance: int = 24
    reaches: tuple[float, ...] = (1.5, 4.0)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, example: dict[str, jax.Array], observation: dict[str, jax.Array]) -> Judgment:
        """From standardized images [B, H, W, C], boxes [B, K, 4] and histories int32 [B, K, T], of K states each."""
        box, history = observation["box"], observation["history"]
        batch, count = box.shape[:2]
        views = [crops(example["image"], reaching(box, reach), self.glance) for reach in self.reaches]
        x = jnp.concatenate(views, axis=-1)
        x = x.reshape(batch * count, *x.shape[2:]).astype(self.dtype)
        x = nn.silu(Dense(2 * self.width, dtype=self.dtype, name="conv0")(patches(x, 4, 4)))
        x = nn.silu(Dense(2 * self.width, dtype=self.dtype, name="conv1")(patches(x, 3)))
        x = nn.silu(Dense(4 * self.width, dtype=self.dtype, name="conv2")(patches(x, 3, 2)))
        done = jax.nn.one_hot(history, self.actions, dtype=jnp.float32)
        known = [values.reshape(batch * count, -1).astype(self.dtype) for values in (box, done)]
        x = jnp.concatenate([x.reshape(batch * count, -1), *known], axis=-1)
        judged = _heads(self, x, 4 * self.width)
        return jax.tree.map(lambda values: values.reshape(batch, count, *values.shape[1:]), judged)


class DenseNetwork(nn.Module):
    """Dense layers over everything that is observed, for environments without images."""

    actions: int
    width: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, example: dict[str, jax.Array], observation: Any) -> Judgment:
        """From observations of any form, arrays [B, K, ...]."""
        leaves = jax.tree.leaves(observation)
        batch, count = leaves[0].shape[:2]
        x = jnp.concatenate([leaf.reshape(batch, count, -1).astype(self.dtype) for leaf in leaves], axis=-1)
        x = nn.silu(Dense(2 * self.width, dtype=self.dtype, name="dense0")(x))
        return _heads(self, x, 2 * self.width)


def _heads(module: Any, x: jax.Array, features: int) -> Judgment:
    """A dense layer over x [..., F], then value and advantages."""
    x = nn.silu(Dense(features, dtype=module.dtype, name="dense")(x))
    value = Dense(1, dtype=module.dtype, name="value")(x)
    advantage = Dense(module.actions, dtype=module.dtype, name="advantage")(x)
    return Judgment(value[..., 0].astype(jnp.float32), advantage.astype(jnp.float32))


def operations(network: BoxNetwork, shape: tuple[int, ...], moves: int) -> int:
    """Products of two numbers that the network makes in so many moves over an image [H, W, C], crops included."""
    height, width, channels = shape
    glance, features = network.glance, 2 * network.width
    views = len(network.reaches) * channels
    crop = glance * (height + glance) * width * views
    side = -(-glance // 4)
    half = -(-side // 2)
    layers = side**2 * (16 * views + 9 * features) * features + half**2 * 9 * features * 2 * features
    known = half**2 * 2 * features + 4 + moves * network.actions
    heads = 2 * features * (known + 1 + network.actions)
    return moves * (crop + layers + heads)


def reaching(box: jax.Array, reach: float) -> jax.Array:
    """Boxes [..., 4] with sides of ``reach`` times the length, about the same centers."""
    center, sides = (box[..., :2] + box[..., 2:]) / 2, box[..., 2:] - box[..., :2]
    return jnp.concatenate([center - reach / 2 * sides, center + reach / 2 * sides], axis=-1)


def crops(image: jax.Array, box: jax.Array, size: int) -> jax.Array:
    """What images [B, H, W, C] show in boxes [B, K, 4], each resized: [B, K, size, size, C].

    A resized crop is the image between two small matrices, which is fast on any device. Pixels are averaged if there
    are more of them than ``size``, otherwise interpolated; outside the image there is 0. Boxes are y0, x0, y1, x1 as
    shares of the image's sides.
    """
    height, width = image.shape[1:3]
    rows = _weights(box[..., 0], box[..., 2], height, size)
    columns = _weights(box[..., 1], box[..., 3], width, size)
    image = image.astype(jnp.float32)
    lines = jnp.einsum("bkih,bhwc->bkiwc", rows, image)
    return jnp.einsum("bkiwc,bkjw->bkijc", lines, columns)


def patches(x: jax.Array, size: int, stride: int = 1) -> jax.Array:
    """What a convolution looks at, [N, h, w, size * size * C], in images [N, H, W, C], filled up to h = H / stride.

    A dense layer over it is the convolution, written without one: on a CPU, a convolution inside a loop, such as that
    over the moves of an episode, is 20 times slower than outside.
    """
    (low, high), (left, right) = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    x = jnp.pad(x, ((0, 0), (low, high), (left, right), (0, 0)))
    parts = []
    for row in range(size):
        for column in range(size):
            rows = slice(row, row + (height - 1) * stride + 1, stride)
            columns = slice(column, column + (width - 1) * stride + 1, stride)
            parts.append(x[:, rows, columns])
    return jnp.concatenate(parts, axis=-1)


def _weights(start: jax.Array, end: jax.Array, side: int, size: int) -> jax.Array:
    """Matrices [..., size, side] that resize a line of ``side`` pixels from share ``start`` to ``end`` [...] of it."""
    # Pixels of the image per pixel of the crop.
    ratio = (end - start) * (side / size)
    inside = start[..., None] * side + ratio[..., None] * (jnp.arange(size, dtype=jnp.float32) + 0.5) - 0.5
    spread = jnp.maximum(ratio, 1.0)[..., None, None]
    distance = jnp.abs(inside[..., None] - jnp.arange(side, dtype=jnp.float32))
    return jnp.maximum(1 - distance / spread, 0.0) / spread
