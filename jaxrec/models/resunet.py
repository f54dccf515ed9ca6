"""A residual U-Net that starts at half or a quarter of the image's size, for segmentation on few cores.

Residual blocks instead of pairs of convolutions (Zhang et al. 2018, https://arxiv.org/abs/1711.10684), a stem that
halves the image once or twice as in residual networks, the image's mean as context at the smallest scale (ParseNet, Liu
et al. 2015), a decoder that adds instead of concatenating (Lin et al. 2017, feature pyramids), and a second head at a
small scale for training (Zhao et al. 2017).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Conv, Dense, Maps
from .unet import he_normal, normalize, pad_to_multiple


class ResUNet(nn.Module):
    """``blocks`` residual blocks at each scale, the first of which is the stem's: 1/2 or 1/4 of the image (``stem``).

    ``width`` channels at that scale, and twice as many at each halving up to eight times. ``norm`` is ``group`` or
    ``batch``. ``dropout`` is the share of whole channels dropped before the head.
    """

    classes: int
    width: int = 32
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    stem: int = 2
    norm: str = "batch"
    dropout: float = 0.0
    auxiliary: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Any:
        """Standardized images [B,H,W,C] of any size to logits [B,H,W,classes], float32.

        If ``auxiliary`` and ``train``, a pair of such logits: the head's, and those of a head at the second smallest
        scale, for a loss that reaches the encoder on a short way.
        """
        height, width = x.shape[1:3]
        x = pad_to_multiple(x.astype(self.dtype), self.stem * 2 ** (len(self.blocks) - 1))
        x = self._stem(x, train)
        scales = []
        for stage, blocks in enumerate(self.blocks):
            for i in range(blocks):
                strides = 2 if stage > 0 and i == 0 else 1
                x = self._block(x, self._features(stage), strides, f"stage{stage}_block{i}", train)
            scales.append(x)
        x = Maps(name="maps")(self._context(x, train))
        for stage in reversed(range(len(scales) - 1)):
            x = self._join(x, scales[stage], stage, train)
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
        logits = self._head(x, "head", self.stem)[:, :height, :width]
        if not self.auxiliary:
            return logits
        small = len(self.blocks) - 2
        second = self._head(scales[small], "auxiliary", self.stem * 2**small)
        # Computed in evaluation too, though not used, because init(train=False) makes its parameters.
        return (logits, second[:, :height, :width]) if train else logits

    def _features(self, stage: int) -> int:
        return self.width * 2 ** min(stage, 3)

    def _conv(
        self, x: jax.Array, features: int, size: int, name: str, train: bool, strides: int = 1, **options: Any
    ) -> jax.Array:
        """A convolution and its normalization: [B,H,W,.] to [B,H/strides,W/strides,features]."""
        layer = Conv(
            features, size, strides, use_bias=False, kernel_init=he_normal, dtype=self.dtype, name=f"conv_{name}"
        )
        return normalize(self.norm, layer(x), train, self.axis_name, f"norm_{name}", **options)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        """[B,H,W,C] to [B,H/stem,W/stem,width], one halving after another."""
        sizes = [self.width // 2, self.width] if self.stem == 4 else [self.width]
        for i, features in enumerate(sizes):
            x = nn.relu(self._conv(x, features, 3, f"stem{i}", train, strides=2))
        return x

    def _block(self, x: jax.Array, features: int, strides: int, name: str, train: bool) -> jax.Array:
        """Two 3x3 convolutions around a shortcut: [B,H,W,.] to [B,H/strides,W/strides,features]."""
        y = nn.relu(self._conv(x, features, 3, f"{name}_1", train, strides))
        # The last scale starts at 0, so that a block starts as its shortcut (Goyal et al. 2017).
        y = self._conv(y, features, 3, f"{name}_2", train, scale_init=nn.initializers.zeros)
        if x.shape != y.shape:
            x = self._conv(x, features, 1, f"{name}_shortcut", train, strides)
        return nn.relu(x + y)

    def _context(self, x: jax.Array, train: bool) -> jax.Array:
        """x [B,H,W,C] plus what the whole image says about every place."""
        mean = x.astype(jnp.float32).mean((1, 2)).astype(self.dtype)
        whole = Dense(x.shape[-1], dtype=self.dtype, name="context")(nn.relu(mean))
        return nn.relu(x + whole[:, None, None, :])

    def _join(self, x: jax.Array, skip: jax.Array, stage: int, train: bool) -> jax.Array:
        """x [B,H,W,2C] brought to twice the size and added to a skip [B,2H,2W,C]; both to [B,2H,2W,C]."""
        x = self._conv(x, skip.shape[-1], 1, f"narrow{stage}", train)
        skip = self._conv(skip, skip.shape[-1], 1, f"skip{stage}", train)
        x = nn.relu(double(x) + skip)
        return nn.relu(self._conv(x, skip.shape[-1], 3, f"join{stage}", train))

    def _head(self, x: jax.Array, name: str, scale: int) -> jax.Array:
        """Features at 1/scale to logits at full size, float32, by doubling after doubling."""
        logits = Conv(self.classes, 1, dtype=self.dtype, name=name)(x).astype(jnp.float32)
        while scale > 1:
            logits, scale = double(logits), scale // 2
        return logits


def double(x: jax.Array) -> jax.Array:
    """x [B,H,W,C] at twice the size, [B,2H,2W,C], bilinearly."""
    for axis in (1, 2):
        last = x.shape[axis] - 1
        first_row, last_row = jax.lax.slice_in_dim(x, 0, 1, axis=axis), jax.lax.slice_in_dim(x, last, None, axis=axis)
        before = jnp.concatenate([first_row, jax.lax.slice_in_dim(x, 0, last, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, None, axis=axis), last_row], axis)
        # Each new pixel lies a quarter of the old distance from the nearest old one.
        pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x
