"""Convolutions of few channels as one matrix product: each row of the matrix is the patch of pixels under the kernel.

XLA's convolution copies its input in whole vectors of channels, which a few channels do not fill. The three functions
are the convolution, its gradient by the kernel, and its transpose; their operands are named as in
`jaxrec.models.cpu.convolutions`.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .products import sums

Pair = tuple[int, int]
Pads = tuple[Pair, ...]


def turned_pads(kernel: jax.Array, pads: Pads) -> Pads:
    """The padding of the convolution by a turned kernel that is the transpose of one without strides."""
    return tuple(
        (size - 1 - before, size - 1 - after) for size, (before, after) in zip(kernel.shape[:2], pads, strict=True)
    )


def convolved(image: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The convolution [B,H',W',D] of an image [B,H,W,C] by a kernel [K,K,C,D]."""
    output_width = image.shape[2] + sum(pads[1]) - kernel.shape[1] + 1
    shared = _outputs_of_a_patch(output_width, kernel.shape[1], strides[1])
    # The kernel for each of the neighboring outputs, placed where that output's pixels lie in the patch.
    shifted = [jnp.pad(kernel, ((0, 0), (i, shared - 1 - i), (0, 0), (0, 0))) for i in range(shared)]
    kernels = jnp.concatenate(shifted, 3)
    patches = _patches(image, kernels.shape[:2], (strides[0], shared * strides[1]), pads)
    output = sums("nk,kd->nd", patches.reshape(-1, patches.shape[3]), kernels.reshape(-1, kernels.shape[3]))
    return output.astype(image.dtype).reshape(*patches.shape[:2], -1, kernel.shape[3])


def kernel_gradient(image: jax.Array, output: jax.Array, size: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """The gradient by a kernel of ``size``, of a convolution whose output's gradient is ``output`` [B,H',W',D]."""
    features = output.shape[3]
    shared = _outputs_of_a_patch(output.shape[2], size[1], strides[1])
    width = size[1] + shared - 1
    patches = _patches(image, (size[0], width), (strides[0], shared * strides[1]), pads)
    gradient = sums("nk,nc->kc", patches.reshape(-1, patches.shape[3]), output.reshape(-1, shared * features))
    gradient = gradient.reshape(size[0], width, image.shape[3], shared, features)
    # Back from where each of the neighboring outputs' pixels lie in the patch.
    of_each = [gradient[:, i : i + size[1], :, i] for i in range(shared)]
    return jnp.stack(of_each).sum(0).astype(image.dtype)


def transposed(output: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The transpose of `convolved`, [B,H',W',D] to [B,H,W,C]: each pixel times the whole kernel, overlaps added up."""
    batch, height, width, features = output.shape
    (rows, columns), (high, wide, channels, _) = strides, kernel.shape
    tiles = sums("nc,kc->nk", output.reshape(-1, features), kernel.reshape(-1, features))
    tiles = tiles.reshape(batch, height, width, high, wide, channels)
    # A tile is cut into blocks as large as the strides. Blocks of one place in their tiles do not overlap, so that they
    # are added all at once.
    down, across = -(-high // rows), -(-wide // columns)
    total: Any = 0
    for i, j in itertools.product(range(down), range(across)):
        blocks = tiles[:, :, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        short = (0, rows - blocks.shape[3]), (0, columns - blocks.shape[4])
        total += jnp.pad(blocks, ((0, 0), (i, down - 1 - i), (j, across - 1 - j), *short, (0, 0)))
    full = (height + down - 1) * rows, (width + across - 1) * columns
    image = total.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *full, channels)
    # What lies in the padding is cut off; where the kernel does not reach the border, zeros are added.
    sides = (height - 1) * rows + high - sum(pads[0]), (width - 1) * columns + wide - sum(pads[1])
    cut = [(-before, side - have + before, 0) for (before, _), side, have in zip(pads, sides, full, strict=True)]
    return lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), *cut, (0, 0, 0)]).astype(output.dtype)


def _patches(image: jax.Array, size: Sequence[int], strides: Pair, pads: Pads) -> jax.Array:
    """The pixels under each place of a kernel: [B,H,W,C] to [B,H',W',size*size*C]."""
    for axis in (2, 1):  # Rows are cut last, because longer pieces are copied faster.
        before, after = pads[axis - 1]
        padding = [(0, 0, 0)] * 4
        padding[axis] = (before, after, 0)
        image = lax.pad(image, jnp.zeros((), image.dtype), padding)
        reach = image.shape[axis] - size[axis - 1] + 1
        shifts = [lax.slice_in_dim(image, i, i + reach, strides[axis - 1], axis) for i in range(size[axis - 1])]
        image = jnp.concatenate(shifts, -1)
    return image


def _outputs_of_a_patch(output_width: int, kernel_width: int, stride: int) -> int:
    """How many neighbors in a row of the output are made of one patch.

    Two without strides, because most of their patches is the same: less is copied, and the products are wider.
    """
    return 2 if kernel_width > 1 and stride == 1 and output_width % 2 == 0 else 1
