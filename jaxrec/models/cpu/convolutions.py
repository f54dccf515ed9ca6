"""Convolution and its transpose on a CPU, in the form that is fastest for their sizes, with gradients of any order.

- In bfloat16 on a CPU with matrix units it is oneDNN's (`jaxrec.models.cpu.onednn`). Otherwise:
- A convolution of few channels is one matrix product of patches (`jaxrec.models.cpu.patches`).
- A 3x3 convolution of many channels is Winograd's (`jaxrec.models.cpu.winograd`), with less than half of the
  multiplications.
- A transposed convolution, which is also the image's gradient of a strided one, is several small convolutions, one for
  each phase of the stride. XLA's is one convolution over an image that is filled up with zeros.
- A gradient by the kernel is a convolution over a dilated kernel, for which XLA has a fast path, at any order of
  differentiation.
- Numbers narrower than float32 are converted once before XLA's convolutions, which would convert them at each use. In
  products bfloat16 stays as it is.

A convolution has three operands: the image [B,H,W,C], the kernel [K,K,C,D] and the output [B,H',W',D]. One sum over
products of their entries defines it, and the three functions with gradients below are its derivatives by each of the
three. So the gradients of each are the other two, to any order, and no gradient by a kernel ever dilates the image,
which is slow in XLA. Padding has to fit exactly:

    side of the image + pads = (side of the output - 1) * stride + size of the kernel
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxrec.parallel import cut_axes

from . import onednn, patches, products, winograd
from .operands import matched, widened
from .patches import Pads, Pair, turned_pads

NUMBERS = ("NHWC", "HWIO", "NHWC")
FEW = 4
"""Channels of an image up to which it is convolved by patches."""
LARGE_IMAGES = 2**21
"""Numbers in a batch of images from which, for the kernel's gradient, it is cut into patches if it has few channels and
transposed by a product if it has many."""


def conv(x: jax.Array, kernel: jax.Array, strides: int, padding: str | Sequence[Pair]) -> jax.Array:
    """`lax.conv_general_dilated` of x [B,H,W,C] by a kernel [K,K,C,D], both of one floating dtype."""
    size = kernel.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], size, (strides, strides), padding)
    reach = [side + sum(pad) - k for side, k, pad in zip(x.shape[1:3], size, padding, strict=True)]
    empty = x.shape[0] == 0 or min(reach) < 0
    if empty:
        return lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=NUMBERS)
    # After the image, only as much padding as the kernel reaches.
    pads = tuple((before, after - more % strides) for (before, after), more in zip(padding, reach, strict=True))
    output: Any = _convolved(*matched(x, kernel), (strides, strides), pads)
    return output


def conv_transpose(x: jax.Array, kernel: jax.Array, strides: int, padding: str) -> jax.Array:
    """`lax.conv_transpose` of x [B,H,W,C] by a kernel [K,K,C,D], both of one floating dtype."""
    if x.shape[0] == 0:
        return lax.conv_transpose(x, kernel, (strides, strides), padding, dimension_numbers=NUMBERS)
    pads = tuple(_transposed_pads(size, strides, padding) for size in kernel.shape[:2])
    x, kernel = matched(x, kernel)
    # lax's kernel is that of a convolution over x filled up with zeros: turned, with its channels exchanged.
    image: Any = _transposed(x, kernel[::-1, ::-1].swapaxes(2, 3), (strides, strides), pads)
    return image


def _transposed_pads(size: int, stride: int, padding: str) -> Pair:
    """The padding of the convolution whose transpose is `lax.conv_transpose`, along one side."""
    total = size + stride - 2
    if padding == "VALID":
        total += max(size - stride, 0)
    before = -(-total // 2)
    if padding == "VALID" or stride > size - 1:
        before = size - 1
    return size - 1 - before, size - 1 - total + before


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolved(image: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The output [B,H',W',D] of image and kernel."""
    if onednn.suits(image):
        return onednn.convolved(image, kernel, strides, pads)
    if kernel.shape[2] <= FEW:
        return patches.convolved(image, kernel, strides, pads)
    suits = winograd.suits(kernel.shape[:2], kernel.shape[2:], strides)
    if suits and winograd.is_large(image, kernel, pads):
        return winograd.convolved(image, kernel, pads)
    return _by_xla(image, kernel, strides, pads)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _transposed(output: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The image [B,H,W,C] of output and kernel."""
    if onednn.suits(output) and strides == (1, 1):
        return onednn.transposed(output, kernel, pads)
    if kernel.shape[2] <= FEW:
        return patches.transposed(output, kernel, strides, pads)
    around = turned_pads(kernel, pads)
    suits = winograd.suits(kernel.shape[:2], kernel.shape[2:], strides)
    if suits and winograd.is_large(output, kernel, around):
        # The kernel is transposed in the products: before them, that would take longer than they do.
        return winograd.convolved(output, kernel[::-1, ::-1], around, "nd,cd->nc")
    # A kernel smaller than the stride would leave phases without an entry.
    if all(1 < stride <= size for stride, size in zip(strides, kernel.shape[:2], strict=True)):
        return _by_phases(output, kernel, strides, pads)
    return _by_dilation(output, kernel, strides, pads)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _kernel_gradient(image: jax.Array, output: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The kernel [K,K,C,D] of image and output."""
    # Of few channels, patches take less time without strides.
    if onednn.suits(image) and image.shape[0] >= onednn.FEWEST_IMAGES and image.shape[3] > FEW:
        return onednn.kernel_gradient(image, output, strides, pads)
    rows, columns = (
        side + sum(pad) - (n - 1) * stride
        for side, pad, n, stride in zip(image.shape[1:3], pads, output.shape[1:3], strides, strict=True)
    )
    # With more than one channel XLA's is as fast as patches are, but for large images, whose patches are at hand from
    # the convolution itself.
    by_patches = image.shape[3] == 1 or (image.shape[3] <= FEW and image.size >= LARGE_IMAGES)
    if by_patches or rows == columns == 1:
        return patches.kernel_gradient(image, output, (rows, columns), strides, pads)
    if winograd.suits((rows, columns), (image.shape[3], output.shape[3]), strides):
        return winograd.kernel_gradient(image, output, pads)
    numbers = ("NHWC", "IHWO", "HWNC")
    by_channel = _with_channels_first(image)
    return _by_xla(by_channel, output, (1, 1), pads, rhs_dilation=strides, dimension_numbers=numbers)


def _with_channels_first(image: jax.Array) -> jax.Array:
    """[B,H,W,C] to [C,H,W,B]."""
    batch, height, width, channels = image.shape
    if image.size < LARGE_IMAGES or cut_axes():
        return image.transpose(3, 1, 2, 0)
    # XLA would transpose together with all that the image was made of, reading a number here and a number there.
    rows = products.transposed(image.transpose(1, 2, 0, 3).reshape(-1, channels))
    return rows.reshape(channels, height, width, batch)


def _convolved_forward(image: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> Any:
    return _convolved(image, kernel, strides, pads), (image, kernel)


def _convolved_backward(strides: Pair, pads: Pads, saved: Any, output: jax.Array) -> Any:
    image, kernel = saved
    return _transposed(output, kernel, strides, pads), _kernel_gradient(image, output, strides, pads)


def _transposed_forward(output: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> Any:
    return _transposed(output, kernel, strides, pads), (output, kernel)


def _transposed_backward(strides: Pair, pads: Pads, saved: Any, image: jax.Array) -> Any:
    output, kernel = saved
    return _convolved(image, kernel, strides, pads), _kernel_gradient(image, output, strides, pads)


def _kernel_gradient_forward(image: jax.Array, output: jax.Array, strides: Pair, pads: Pads) -> Any:
    return _kernel_gradient(image, output, strides, pads), (image, output)


def _kernel_gradient_backward(strides: Pair, pads: Pads, saved: Any, kernel: jax.Array) -> Any:
    image, output = saved
    return _transposed(output, kernel, strides, pads), _convolved(image, kernel, strides, pads)


_convolved.defvjp(_convolved_forward, _convolved_backward)
_transposed.defvjp(_transposed_forward, _transposed_backward)
_kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)


def _by_xla(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Sequence[Pair], **options: Any) -> jax.Array:
    """XLA's convolution, in float32 at least; the result has x's dtype."""
    options = {"dimension_numbers": NUMBERS, **options}
    return lax.conv_general_dilated(widened(x), widened(kernel), strides, pads, **options).astype(x.dtype)


def _by_phases(output: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """A transposed convolution as one convolution for each phase of the stride.

    Pixels of the image whose rows and columns leave the same remainders when divided by the stride meet the same
    entries of the kernel. These entries are a small kernel that makes those pixels out of the output, so nothing is
    multiplied by zero.
    """
    kernel = kernel.swapaxes(2, 3)
    sides = [
        (n - 1) * stride + size - sum(pad)
        for n, stride, size, pad in zip(output.shape[1:3], strides, kernel.shape[:2], pads, strict=True)
    ]
    cells = [-(-side // stride) for side, stride in zip(sides, strides, strict=True)]
    convolution = onednn.convolved if onednn.suits(output) else _by_xla
    made = []
    for phases in itertools.product(*map(range, strides)):
        first, around = [], []
        for axis, phase in enumerate(phases):
            step, size = strides[axis], kernel.shape[axis]
            start, offset = divmod(phase + pads[axis][0], step)
            taps = len(range(offset, size, step))
            before = taps - 1 - start
            after = cells[axis] + taps - 1 - before - output.shape[1 + axis]
            around.append((before, after))
            first.append(offset)
        entries = kernel[first[0] :: strides[0], first[1] :: strides[1]][::-1, ::-1]
        made.append(convolution(output, entries, (1, 1), tuple(around)))
    image = jnp.stack(made, 3).reshape(output.shape[0], *cells, *strides, -1).swapaxes(2, 3)
    image = image.reshape(output.shape[0], cells[0] * strides[0], cells[1] * strides[1], -1)
    return image[:, : sides[0], : sides[1]]


def _by_dilation(output: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """A transposed convolution as XLA makes it: the output filled up with zeros, convolved by the turned kernel."""
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return _by_xla(output, turned, (1, 1), turned_pads(kernel, pads), lhs_dilation=strides)
