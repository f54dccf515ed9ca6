"""An anchor-free detector: a small backbone, a pyramid of three scales, and a head with two branches.

Features go from small scales to large ones and back (Lin et al. 2017, https://arxiv.org/abs/1612.03144; Liu et al.
2018, https://arxiv.org/abs/1803.01534). At each place of the pyramid, one branch scores the classes and the other gives
the distances to the four sides of a box (Tian et al. 2019, https://arxiv.org/abs/1904.01355; Ge et al. 2021,
https://arxiv.org/abs/2107.08430), each as a distribution (Li et al. 2020, https://arxiv.org/abs/2006.04388). The
convolutions of the branches are shared by the scales and their normalizations are not.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .layers import Conv, Dense, Maps, upsample
from .unet import he_normal, normalize, pad_to_multiple

SCALES = 3
FINEST, COARSEST = 2, 8
"""Limits of the smallest stride."""
CELLS = 16
BINS = 8
"""Least number of cells that the smallest stride makes of the image's shorter side."""
PRIOR = 0.01
"""Probability that a place starts with for each class: nearly all places are background (Lin et al. 2017, focal)."""


class Places(NamedTuple):
    """Where boxes are predicted: the cells of all scales, the finest first, row by row."""

    centers: jax.Array
    """float32 [A, 2], y and x in pixels."""
    strides: jax.Array
    """float32 [A], the sides of the cells in pixels."""


def smallest_stride(height: int, width: int) -> int:
    """The smallest stride for images of a size: 8 for large ones, less if the shorter side has fewer than 16 cells.

    So it is 8 from 128 pixels on, 4 from 64 and 2 below.
    """
    stride = COARSEST
    while stride > FINEST and min(height, width) < CELLS * stride:
        stride //= 2
    return stride


def bins_needed(height: int, width: int, stride: int) -> int:
    """The distances that boxes of images of a size need: 8, or more if a box around the whole image needs more.

    ``stride`` is the smallest one. The cell nearest to the center of such a box may be half a cell away from it.
    """
    coarsest = stride * 2 ** (SCALES - 1)
    farthest = max(height, width) / 2 / coarsest + 0.5
    return max(BINS, math.ceil(farthest) + 1)


def places(size: tuple[int, int], strides: tuple[int, ...]) -> Places:
    """The places of an image of ``size`` height and width, as many as the network has outputs for."""
    centers, sides = [], []
    for stride in strides:
        # The network repeats the last row and column up to a multiple of the largest stride.
        rows, columns = (math.ceil(side / strides[-1]) * strides[-1] // stride for side in size)
        cells = np.indices((rows, columns)).reshape(2, -1).T
        centers.append((cells + 0.5) * stride)
        sides.append(np.full(len(cells), stride))
    return Places(jnp.array(np.concatenate(centers), jnp.float32), jnp.array(np.concatenate(sides), jnp.float32))


def decoded(distances: jax.Array, where: Places) -> jax.Array:
    """Boxes float32 [B, A, 4], y0, x0, y1, x1, from logits [B, A, 4, bins] of the distances to their sides.

    Bin k stands for a distance of k strides from the place's center; the distance is the mean of the distribution (Li
    et al. 2020, https://arxiv.org/abs/2006.04388, equation 5).
    """
    bins = jnp.arange(distances.shape[-1], dtype=jnp.float32)
    mean = (jax.nn.softmax(distances.astype(jnp.float32)) * bins).sum(-1)
    pixels = mean * where.strides[:, None]
    return jnp.concatenate([where.centers - pixels[..., :2], where.centers + pixels[..., 2:]], -1)


class Detector(nn.Module):
    """Scores and distances at three scales of ``stride``, twice and four times as much.

    The backbone has 2, 3 and 4 times ``width`` channels at these scales, and pyramid and head 3/2 times as many at all.
    """

    classes: int
    width: int = 32
    stride: int = 8
    bins: int = BINS
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of the scales, the smallest first."""
        return tuple(self.stride * 2**scale for scale in range(SCALES))

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Standardized images [B, H, W, C] of any size to what is at each of their ``places``, float32.

        Logits of the classes [B, A, classes], and logits [B, A, 4, bins] of the distances to the top, left, bottom and
        right side in strides.
        """
        x = pad_to_multiple(x.astype(self.dtype), self.strides[-1])
        scales = self._pyramid(self._backbone(x, train), train)
        prior = nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR))
        small = nn.initializers.normal(0.01)
        options: dict[str, Any] = {"kernel_init": small, "dtype": self.dtype}
        scores = Dense(self.classes, bias_init=prior, name="scores", **options)(self._branch(scales, "score", train))
        sides = Dense(4 * self.bins, name="distances", **options)(self._branch(scales, "box", train))
        return scores.astype(jnp.float32), sides.astype(jnp.float32).reshape(*sides.shape[:2], 4, self.bins)

    def _conv(self, x: jax.Array, features: int, size: int, name: str, train: bool, strides: int = 1) -> jax.Array:
        """A convolution, its normalization and the nonlinearity: [B,H,W,.] to [B,H/strides,W/strides,features]."""
        layer = Conv(
            features, size, strides, use_bias=False, kernel_init=he_normal, dtype=self.dtype, name=f"conv_{name}"
        )
        return nn.relu(normalize(self.norm, layer(x), train, self.axis_name, f"norm_{name}"))

    def _backbone(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """The features at the three scales, the finest first."""
        scales = []
        for level in range(1, round(math.log2(self.strides[-1])) + 1):
            stride = 2**level
            coarse = stride >= self.stride
            features = self._features(stride)
            x = self._conv(x, features, 3, f"down{level}", train, strides=2)
            if coarse:
                x = x + self._residual(x, f"block{level}", train)
                scales.append(x)
        return scales

    def _features(self, stride: int) -> int:
        """Channels of the backbone at a stride: few where there are many places."""
        ratio = {1: 2.0, 2: 3.0, 4: 4.0}.get(stride // self.stride, 2 * stride / self.stride)
        return max(1, round(self.width * ratio))

    def _residual(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """What a block adds to x [B,H,W,C], through half as many channels."""
        y = self._conv(x, max(1, x.shape[-1] // 2), 1, f"{name}_1", train)
        return self._conv(y, x.shape[-1], 3, f"{name}_2", train)

    def _pyramid(self, scales: list[jax.Array], train: bool) -> list[jax.Array]:
        """The three scales with one number of channels, after what they see has gone to fine scales and back."""
        features = max(1, 3 * self.width // 2)
        x = self._conv(scales[-1], features, 1, "side2", train)
        fine = [x]
        for scale in reversed(range(SCALES - 1)):
            side = self._conv(scales[scale], features, 1, f"side{scale}", train)
            x = self._conv(upsample(x, 2) + side, features, 3, f"finer{scale}", train)
            fine.append(x)
        fine.reverse()
        # All scales of the head follow from these.
        x = Maps(name="maps")(x)
        found = [x]
        for scale in range(1, SCALES):
            x = self._conv(x, features, 3, f"coarser{scale}", train, strides=2) + fine[scale]
            found.append(x)
        return found

    def _branch(self, scales: list[jax.Array], name: str, train: bool) -> jax.Array:
        """A branch of the head up to its last layer: all places in one axis, [B, A, channels]."""
        features = scales[0].shape[-1]
        layer = Conv(features, 3, use_bias=False, kernel_init=he_normal, dtype=self.dtype, name=f"conv_{name}")
        flat = []
        for scale, x in enumerate(scales):
            y = nn.relu(normalize(self.norm, layer(x), train, self.axis_name, f"norm_{name}{scale}"))
            flat.append(y.reshape(y.shape[0], -1, features))
        return jnp.concatenate(flat, 1)
