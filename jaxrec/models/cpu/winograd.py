"""Winograd's 3x3 convolution (Lavin & Gray 2016): fewer multiplications, for many channels.

Along one side, two pixels of the output are made of four pixels d of the image and three entries g of the kernel. Four
products, instead of six, are enough: those of

    (d0 - d2, d1 + d2, d2 - d1, d1 - d3)   and   (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2),

from whose m the pixels are (m0 + m1 + m2, m1 - m2 - m3). Along both sides these are 16 products instead of 36, 2.25
times fewer, for each tile of 2x2 pixels. Each of the 16 is one matrix product over all tiles, of channels by features.

The 16 stay arrays of their own, because XLA writes a stack of them by one thread. The barriers keep XLA from computing
what one of them holds anew inside each of its uses.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxrec.parallel import cut_axes

from . import products
from .operands import narrowed, widened
from .patches import Pads, Pair
from .products import sums

MANY = 48
"""Channels on both sides from which 3x3 convolutions are made here."""
TRANSPOSED = 64
"""Channels on both sides at which the gradient by the kernel is faster in float32 if the image is transposed first."""
LARGE = 2**23
"""Multiplications in each of the 16 products from which this is faster; the gradient by the kernel always is."""

Arrays = list[jax.Array]


def suits(size: Sequence[int], channels: Sequence[int], strides: Pair) -> bool:
    """Whether a convolution is of the kind that is made here."""
    return tuple(size) == (3, 3) and strides == (1, 1) and min(channels) >= MANY


def is_large(image: jax.Array, kernel: jax.Array, pads: Pads) -> bool:
    """Whether the products are large enough to be worth the transforms around them."""
    tiles = image.shape[0] * math.prod(_cells(image, pads))
    return tiles * kernel.shape[2] * kernel.shape[3] >= LARGE


def convolved(image: jax.Array, kernel: jax.Array, pads: Pads, order: str = "nc,cd->nd") -> jax.Array:
    """The convolution of an image [B,H,W,C] by a kernel [3,3,C,D], or [3,3,D,C] with the ``order`` "nd,cd->nc"."""
    height, width = _output_size(image, pads)
    rows, columns = _cells(image, pads)
    tiles = [narrowed(tile, image.dtype) for tile in _tiles(image, pads)]
    filters = _filters(kernel, image)
    made = [sums(order, tile, factor) for tile, factor in zip(tiles, filters, strict=True)]
    made = lax.optimization_barrier(tuple(made))
    made = [product.reshape(image.shape[0], rows, columns, -1) for product in made]
    # The products lie in 4 rows of 4, one after the other.
    across = [_output_pixels(made[j::4]) for j in range(4)]
    lines = []
    for line in zip(*across, strict=True):
        lines.append(jnp.stack(_output_pixels(list(line)), 3))
    output = jnp.stack(lines, 2).reshape(image.shape[0], 2 * rows, 2 * columns, -1)
    return output[:, :height, :width].astype(image.dtype)


def kernel_gradient(image: jax.Array, output: jax.Array, pads: Pads) -> jax.Array:
    """The gradient by the kernel [3,3,C,D], where ``output`` [B,H',W',D] is the gradient by the convolution's output.

    The transposes of the transforms that `convolved` makes, around 16 products of their own.
    """
    # A product whose first factor has to be transposed is slow with so few channels, and in bfloat16 with any number.
    few = image.shape[3] == output.shape[3] == TRANSPOSED
    narrow = image.dtype == jnp.bfloat16
    if (few or narrow) and not cut_axes():
        tiles, gradients = _transposed_tiles(image, pads), _transposed_gradients(output)
        order = "cn,nd->cd"
    else:
        tiles, gradients = _tiles(image, pads), _gradients(output)
        order = "nc,nd->cd"
    features = output.shape[3]
    flat = [narrowed(gradient.reshape(-1, features), image.dtype) for gradient in gradients]
    flat = lax.optimization_barrier(tuple(flat))
    made = []
    for tile, gradient in zip(tiles, flat, strict=True):
        made.append(sums(order, narrowed(tile, image.dtype), gradient))
    made = lax.optimization_barrier(tuple(made))
    across = [_kernel_entries(list(made[j::4])) for j in range(4)]
    lines = []
    for line in zip(*across, strict=True):
        lines.append(jnp.stack(_kernel_entries(list(line))))
    return jnp.stack(lines).astype(image.dtype)


def _image_transform(pixels: Arrays) -> Arrays:
    """Four neighboring pixels of the image as the first factors of the products."""
    a, b, c, d = pixels
    return [a - c, b + c, c - b, b - d]


def _kernel_transform(entries: Arrays) -> Arrays:
    """Three entries of the kernel as the second factors."""
    a, b, c = entries
    return [a, (a + b + c) / 2, (a - b + c) / 2, c]


def _output_pixels(products: Arrays) -> Arrays:
    """Two pixels of the output from four products."""
    a, b, c, d = products
    return [a + b + c, b - c - d]


def _gradient_transform(pixels: Arrays) -> Arrays:
    """The transpose of `_output_pixels`: two pixels of the output's gradient as four factors."""
    a, b = pixels
    return [a, a + b, a - b, -b]


def _kernel_entries(products: Arrays) -> Arrays:
    """The transpose of `_kernel_transform`: three entries of the kernel's gradient from four products."""
    a, b, c, d = products
    return [a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d]


def _output_size(image: jax.Array, pads: Pads) -> Pair:
    """Height and width of the output of a 3x3 convolution."""
    vertical, horizontal = pads
    return image.shape[1] + sum(vertical) - 2, image.shape[2] + sum(horizontal) - 2


def _cells(image: jax.Array, pads: Pads) -> Pair:
    """Rows and columns of the tiles of 2x2 pixels that cover the output."""
    height, width = _output_size(image, pads)
    return (height + 1) // 2, (width + 1) // 2


def _filled(image: jax.Array, pads: Pads) -> jax.Array:
    """The image padded up to the end of its last tiles: [B,2*rows+2,2*columns+2,C]."""
    fill = []
    for side, (before, _), tiles in zip(image.shape[1:3], pads, _cells(image, pads), strict=True):
        after = 2 * tiles + 2 - side - before
        fill.append((before, after, 0))
    return lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), *fill, (0, 0, 0)])


def _tiles(image: jax.Array, pads: Pads) -> Arrays:
    """The transformed 4x4 tiles of the image, which lie two pixels apart: 16 times [B*rows*columns,C]."""
    rows, columns = _cells(image, pads)
    filled = lax.optimization_barrier(_filled(widened(image), pads))
    tiles = []
    lines = [filled[:, i : i + 2 * rows - 1 : 2] for i in range(4)]
    for line in _image_transform(lines):
        pixels = [line[:, :, j : j + 2 * columns - 1 : 2] for j in range(4)]
        tiles += _image_transform(pixels)
    flat = tuple(tile.reshape(-1, image.shape[3]) for tile in tiles)
    return list(lax.optimization_barrier(flat))


def _filters(kernel: jax.Array, image: jax.Array) -> Sequence[jax.Array]:
    """The transformed kernel, 16 times [C,D], for products with the tiles of the image."""
    filters = []
    for line in _kernel_transform(list(widened(kernel))):
        filters += _kernel_transform(list(line))
    return lax.optimization_barrier(tuple(narrowed(each, image.dtype) for each in filters))


def _gradients(output: jax.Array) -> Arrays:
    """The transformed 2x2 tiles of the output's gradient: 16 times [B,rows,columns,D]."""
    even = ((0, 0), (0, output.shape[1] % 2), (0, output.shape[2] % 2), (0, 0))
    filled = jnp.pad(widened(output), even)
    gradients = []
    for line in _gradient_transform([filled[:, 0::2], filled[:, 1::2]]):
        gradients += _gradient_transform([line[:, :, 0::2], line[:, :, 1::2]])
    return gradients


def _transposed_tiles(image: jax.Array, pads: Pads) -> Sequence[jax.Array]:
    """The tiles of `_tiles` as 16 times [C,N], where N runs over rows, columns and images.

    The image is transposed before its tiles are cut, as four parts: pixels of even and odd rows and columns. Then each
    tile's pixels are a slice of these, and so there is a column of tiles too many, across the end of each row.
    """
    batch, _, _, channels = image.shape
    rows, columns = _cells(image, pads)
    filled = _filled(image, pads).reshape(batch, rows + 1, 2, columns + 1, 2, channels)
    parts = filled.transpose(2, 4, 1, 3, 0, 5).reshape(4, -1, channels)
    parts = [widened(products.transposed(part)) for part in lax.optimization_barrier(parts)]
    parts = lax.optimization_barrier(tuple(parts))
    length = (rows * (columns + 1) - 1) * batch

    def pixels(i: int, j: int) -> jax.Array:
        """Of each tile the pixel in row i and column j."""
        start = (i // 2 * (columns + 1) + j // 2) * batch
        return parts[2 * (i % 2) + j % 2][:, start : start + length]

    across = []
    for j in range(4):
        column = [pixels(i, j) for i in range(4)]
        across.append(_image_transform(column))
    tiles = []
    for line in zip(*across, strict=True):
        tiles += _image_transform(list(line))
    return lax.optimization_barrier(tuple(tiles))


def _transposed_gradients(output: jax.Array) -> Arrays:
    """The gradients of `_gradients` in the order of `_transposed_tiles`, zero for its column too many."""
    batch, features = output.shape[0], output.shape[3]
    gradients = []
    for gradient in _gradients(output):
        padded = jnp.pad(gradient.transpose(1, 2, 0, 3), ((0, 0), (0, 1), (0, 0), (0, 0)))
        gradients.append(padded.reshape(-1, features)[:-batch])
    return gradients
