"""Convolution and its transpose, in the forms that are fastest on a CPU.

On GPUs and TPUs both are XLA's own operations; which platform it is, is settled when a function is traced. On CPUs

- images of few channels are convolved as one matrix product of their patches: XLA's convolution copies its input in
  whole vectors of channels, and a few channels do not fill one;
- 3x3 convolutions of many channels are made by Winograd's transform, which saves more than half of the multiplications;
- a transposed convolution, which is also the input gradient of a strided one, is as many small convolutions, one
  for each phase of the stride; XLA's is one convolution over an input filled up with zeros;
- the weight gradient of both is a convolution over a dilated kernel, which XLA has a fast path for, at any order of
  differentiation;
- numbers narrower than float32 are converted to it before XLA's convolutions, once, for it would convert them at each
  use; in products bfloat16 stays as it is.
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxrec.parallel import cut_axes

from .forms import matched, own_forms, widened
from .products import narrowed, sums

Pair = tuple[int, int]
Pads = tuple[Pair, ...]
NUMBERS = ("NHWC", "HWIO", "NHWC")
FEW = 4
"""Channels of an image up to which its patches are convolved by a matrix product."""
MANY = 64
"""Channels on both sides from which 3x3 convolutions are Winograd's."""
LARGE = 2**23
"""Multiplications in each of Winograd's products from which it is faster; the weight gradient's always are."""

LARGE_IMAGES = 2**21
"""Numbers in a batch from which it is transposed by a product for a weight gradient."""

# A convolution of y into x by the kernel w defines one sum over products of their three entries. Each of `_down`, `_up`
# and `_kernel` is its derivative by one of the three, so each one's gradients are the other two: no base-dilated weight
# gradient appears at any order. `pads` must fit exactly: side of y + pads = (side of x - 1) * stride + size of w.


def _convolved(x: jax.Array, w: jax.Array, strides: Pair, pads: Sequence[Pair], **options: Any) -> jax.Array:
    """XLA's convolution, in float32 at least; the result has x's dtype."""
    options = {"dimension_numbers": NUMBERS, **options}
    return lax.conv_general_dilated(widened(x), widened(w), strides, pads, **options).astype(x.dtype)


def _patches(y: jax.Array, size: Sequence[int], strides: Pair, pads: Pads) -> jax.Array:
    """The pixels [B,H,W,C] under each place of a kernel: [B,H',W',size*size*C]."""
    for axis in (2, 1):  # Rows are cut last, because longer pieces are copied faster.
        before, after = pads[axis - 1]
        y = lax.pad(y, jnp.zeros((), y.dtype), [(before, after, 0) if i == axis else (0, 0, 0) for i in range(4)])
        reach = y.shape[axis] - size[axis - 1] + 1
        shifts = [lax.slice_in_dim(y, i, i + reach, strides[axis - 1], axis) for i in range(size[axis - 1])]
        y = jnp.concatenate(shifts, -1)
    return y


def _shared(width: int, columns: int, stride: int) -> int:
    """How many neighbours in a row of a convolution's result, ``width`` pixels long, are made of one patch.

    Two without strides, as most of their patches is the same: less is copied, and the products are wider.
    """
    return 2 if columns > 1 and stride == 1 and width % 2 == 0 else 1


def _from_patches(y: jax.Array, w: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """A convolution as a product of patches."""
    shared = _shared(y.shape[2] + sum(pads[1]) - w.shape[1] + 1, w.shape[1], strides[1])
    shifts = [jnp.pad(w, ((0, 0), (i, shared - 1 - i), (0, 0), (0, 0))) for i in range(shared)]
    kernels = jnp.concatenate(shifts, 3)
    patches = _patches(y, kernels.shape[:2], (strides[0], shared * strides[1]), pads)
    x = sums("nk,kd->nd", patches.reshape(-1, patches.shape[3]), kernels.reshape(-1, kernels.shape[3]))
    return x.astype(y.dtype).reshape(*patches.shape[:2], -1, w.shape[3])


def _from_patches_kernel(y: jax.Array, x: jax.Array, size: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """The weight gradient of `_from_patches`."""
    shared, features = _shared(x.shape[2], size[1], strides[1]), x.shape[3]
    wide = size[1] + shared - 1
    patches = _patches(y, (size[0], wide), (strides[0], shared * strides[1]), pads)
    products = sums("nk,nc->kc", patches.reshape(-1, patches.shape[3]), x.reshape(-1, shared * features))
    products = products.reshape(size[0], wide, y.shape[3], shared, features)
    return jnp.stack([products[:, i : i + size[1], :, i] for i in range(shared)]).sum(0).astype(y.dtype)


def _overlapping(x: jax.Array, w: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The transpose of `_patches` as a product: each pixel of x times the whole kernel, whose overlaps are added up."""
    batch, height, width, channels = x.shape
    (rows, columns), (high, wide, features, _) = strides, w.shape
    tiles = sums("nc,kc->nk", x.reshape(-1, channels), w.reshape(-1, channels))
    tiles = tiles.reshape(batch, height, width, high, wide, features)
    # A kernel covers this many strides along both sides.
    down, across = -(-high // rows), -(-wide // columns)
    total: Any = 0
    for i, j in itertools.product(range(down), range(across)):
        part = tiles[:, :, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        short = (0, rows - part.shape[3]), (0, columns - part.shape[4])
        total += jnp.pad(part, ((0, 0), (i, down - 1 - i), (j, across - 1 - j), *short, (0, 0)))
    full = (height + down - 1) * rows, (width + across - 1) * columns
    y = total.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *full, features)
    sides = (height - 1) * rows + high - sum(pads[0]), (width - 1) * columns + wide - sum(pads[1])
    cut = [(-before, side - have + before, 0) for (before, _), side, have in zip(pads, sides, full, strict=True)]
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *cut, (0, 0, 0)]).astype(x.dtype)


def _phases(x: jax.Array, w: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """A convolution for every phase of the stride, of the entries of the kernel that meet x there."""
    w = w.swapaxes(2, 3)
    sides = [(n - 1) * s + k - sum(p) for n, s, k, p in zip(x.shape[1:3], strides, w.shape[:2], pads, strict=True)]
    cells = [-(-side // s) for side, s in zip(sides, strides, strict=True)]
    rows = []
    for phases in itertools.product(*map(range, strides)):
        first, around = [], []
        for axis, phase in enumerate(phases):
            step, size = strides[axis], w.shape[axis]
            start, offset = divmod(phase + pads[axis][0], step)
            taps = len(range(offset, size, step))
            before = taps - 1 - start
            around.append((before, cells[axis] + taps - 1 - before - x.shape[1 + axis]))
            first.append(offset)
        part = w[first[0] :: strides[0], first[1] :: strides[1]][::-1, ::-1]
        rows.append(_convolved(x, part, (1, 1), around))
    y = jnp.stack(rows, 3).reshape(x.shape[0], *cells, *strides, -1).swapaxes(2, 3)
    y = y.reshape(x.shape[0], cells[0] * strides[0], cells[1] * strides[1], -1)
    return y[:, : sides[0], : sides[1]]


def _suits_winograd(size: Sequence[int], channels: Sequence[int], strides: Pair) -> bool:
    return tuple(size) == (3, 3) and strides == (1, 1) and min(channels) >= MANY


def _cells(y: jax.Array, pads: Pads) -> tuple[int, int]:
    """Rows and columns of the tiles that cover a 3x3 convolution's result, two pixels by two each."""
    rows, columns = (-(-(side + sum(pad) - 2) // 2) for side, pad in zip(y.shape[1:3], pads, strict=True))
    return rows, columns


def _filled(y: jax.Array, pads: Pads) -> jax.Array:
    """Images padded up to the end of their last tiles: [B,2*rows+2,2*columns+2,C]."""
    sides = zip(y.shape[1:3], pads, _cells(y, pads), strict=True)
    fill = [(before, 2 * n + 2 - side - before, 0) for side, (before, _), n in sides]
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *fill, (0, 0, 0)])


def _is_large(y: jax.Array, w: jax.Array, pads: Pads) -> bool:
    return y.shape[0] * math.prod(_cells(y, pads)) * w.shape[2] * w.shape[3] >= LARGE


def _transformed(pieces: list[jax.Array]) -> list[jax.Array]:
    a, b, c, d = pieces
    return [a - c, b + c, c - b, b - d]


def _tiles(y: jax.Array, pads: Pads) -> list[jax.Array]:
    """The 4x4 tiles, two pixels apart, under 3x3 convolutions of [B,H,W,C], transformed: 16 times [B*H/2*W/2,C]."""
    cells, y = _cells(y, pads), lax.optimization_barrier(_filled(widened(y), pads))
    rows = _transformed([y[:, i : i + 2 * cells[0] - 1 : 2] for i in range(4)])
    tiles = [t for row in rows for t in _transformed([row[:, :, j : j + 2 * cells[1] - 1 : 2] for j in range(4)])]
    return list(lax.optimization_barrier(tuple(t.reshape(-1, y.shape[3]) for t in tiles)))


def _winograd(y: jax.Array, w: jax.Array, pads: Pads, order: str = "nc,cd->nd") -> jax.Array:
    """A 3x3 convolution as 16 products (Lavin & Gray 2016), 2.25 times fewer multiplications.

    The 16 stay arrays of their own, because XLA writes a stack of them by one thread.
    """
    sides = [side + sum(pad) - 2 for side, pad in zip(y.shape[1:3], pads, strict=True)]
    tiles = [narrowed(tile, y.dtype) for tile in _tiles(y, pads)]

    def transformed(pieces: Sequence[jax.Array]) -> list[jax.Array]:
        a, b, c = pieces
        return [a, (a + b + c) / 2, (a - b + c) / 2, c]

    filters = [f for row in transformed(list(widened(w))) for f in transformed(list(row))]
    filters = lax.optimization_barrier(tuple(narrowed(f, y.dtype) for f in filters))
    products = [sums(order, tile, f) for tile, f in zip(tiles, filters, strict=True)]
    products = lax.optimization_barrier(tuple(products))
    cells = _cells(y, pads)
    products = [product.reshape(y.shape[0], *cells, -1) for product in products]

    def inverse(pieces: list[jax.Array]) -> list[jax.Array]:
        a, b, c, d = pieces
        return [a + b + c, b - c - d]

    columns = [inverse(products[j::4]) for j in range(4)]
    rows = [jnp.stack(inverse([column[i] for column in columns]), 3) for i in range(2)]
    x = jnp.stack(rows, 2).reshape(y.shape[0], 2 * cells[0], 2 * cells[1], -1)
    return x[:, : sides[0], : sides[1]].astype(y.dtype)


def _transposed(y: jax.Array) -> jax.Array:
    """A matrix transposed by a product with the identity: exact for finite numbers, and faster than by XLA.

    Not for rows over the images of several devices, which would have to come together.
    """
    return sums("kc,nc->kn", jnp.eye(y.shape[1], dtype=y.dtype), y).astype(y.dtype)


def _columns(y: jax.Array, pads: Pads) -> tuple[jax.Array, ...]:
    """The tiles of `_tiles` transposed, 16 times [C,N], N over rows, columns and images, with a column too many."""
    batch, _, _, channels = y.shape
    (high, wide), y = _cells(y, pads), _filled(y, pads)
    y = y.reshape(batch, high + 1, 2, wide + 1, 2, channels).transpose(2, 4, 1, 3, 0, 5).reshape(4, -1, channels)
    phases = [widened(_transposed(phase)) for phase in lax.optimization_barrier(y)]
    phases = lax.optimization_barrier(tuple(phases))
    length = (high * (wide + 1) - 1) * batch

    def pixels(i: int, j: int) -> jax.Array:
        start = (i // 2 * (wide + 1) + j // 2) * batch
        return phases[2 * (i % 2) + j % 2][:, start : start + length]

    columns = [_transformed([pixels(i, j) for i in range(4)]) for j in range(4)]
    return lax.optimization_barrier(tuple(t for row in zip(*columns, strict=True) for t in _transformed(list(row))))


def _winograd_kernel(y: jax.Array, x: jax.Array, pads: Pads) -> jax.Array:
    """The weight gradient of `_winograd`, by its own 16 products."""
    channels, features = y.shape[3], x.shape[3]
    # A product whose left side has to be transposed first is slow with so few channels.
    transpose = channels == features == MANY and not cut_axes()
    tiles = _columns(y, pads) if transpose else _tiles(y, pads)
    x = jnp.pad(widened(x), ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))

    def transformed(pieces: list[jax.Array]) -> list[jax.Array]:
        a, b = pieces
        return [a, a + b, a - b, -b]

    rows = transformed([x[:, 0::2], x[:, 1::2]])
    outputs = [t for row in rows for t in transformed([row[:, :, 0::2], row[:, :, 1::2]])]
    if transpose:
        # In the order of `_columns`, zero where its column too many is.
        outputs = [jnp.pad(t.transpose(1, 2, 0, 3), ((0, 0), (0, 1), (0, 0), (0, 0))) for t in outputs]
        outputs = [t.reshape(-1, features)[: -x.shape[0]] for t in outputs]
    outputs = lax.optimization_barrier(tuple(narrowed(t.reshape(-1, features), y.dtype) for t in outputs))
    order = "cn,nd->cd" if transpose else "nc,nd->cd"
    products = [sums(order, narrowed(tile, y.dtype), out) for tile, out in zip(tiles, outputs, strict=True)]
    products = lax.optimization_barrier(tuple(products))

    def inverse(pieces: list[jax.Array]) -> list[jax.Array]:
        a, b, c, d = pieces
        return [a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d]

    columns = [inverse(list(products[j::4])) for j in range(4)]
    return jnp.stack([jnp.stack(inverse([column[i] for column in columns])) for i in range(3)]).astype(y.dtype)


def _dilated(x: jax.Array, w: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    around = [(k - 1 - before, k - 1 - after) for k, (before, after) in zip(w.shape, pads, strict=False)]
    w = w[::-1, ::-1].swapaxes(2, 3)
    return _convolved(x, w, (1, 1), around, lhs_dilation=strides)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _down(y: jax.Array, w: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    if w.shape[2] <= FEW:
        return _from_patches(y, w, strides, pads)
    if _suits_winograd(w.shape[:2], w.shape[2:], strides) and _is_large(y, w, pads):
        return _winograd(y, w, pads)
    return _convolved(y, w, strides, pads)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _up(x: jax.Array, w: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    if w.shape[2] <= FEW:
        return _overlapping(x, w, strides, pads)
    around = tuple((2 - before, 2 - after) for before, after in pads)
    if _suits_winograd(w.shape[:2], w.shape[2:], strides) and _is_large(x, w, around):
        # The kernel is transposed in the products: before them, that would take longer than they do.
        return _winograd(x, w[::-1, ::-1], around, "nd,cd->nc")
    # A kernel smaller than the stride leaves phases without an entry.
    if all(1 < stride <= size for stride, size in zip(strides, w.shape, strict=False)):
        return _phases(x, w, strides, pads)
    return _dilated(x, w, strides, pads)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _kernel(y: jax.Array, x: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    rows, columns = (
        side + sum(pad) - (n - 1) * stride
        for side, pad, n, stride in zip(y.shape[1:3], pads, x.shape[1:3], strides, strict=True)
    )
    if y.shape[3] == 1 or rows == columns == 1:  # Of more channels XLA's is as fast.
        return _from_patches_kernel(y, x, (rows, columns), strides, pads)
    if _suits_winograd((rows, columns), (y.shape[3], x.shape[3]), strides):
        return _winograd_kernel(y, x, pads)
    batch, high, wide, channels = y.shape
    if y.size >= LARGE_IMAGES and not cut_axes():
        # XLA would transpose together with all that y was made of, reading a number here and a number there.
        y = _transposed(y.transpose(1, 2, 0, 3).reshape(-1, channels)).reshape(channels, high, wide, batch)
    else:
        y = y.transpose(3, 1, 2, 0)
    return _convolved(y, x, (1, 1), pads, rhs_dilation=strides, dimension_numbers=("NHWC", "IHWO", "HWNC"))


_down.defvjp(
    lambda y, w, strides, pads: (_down(y, w, strides, pads), (y, w)),
    lambda strides, pads, saved, x: (_up(x, saved[1], strides, pads), _kernel(saved[0], x, strides, pads)),
)
_up.defvjp(
    lambda x, w, strides, pads: (_up(x, w, strides, pads), (x, w)),
    lambda strides, pads, saved, y: (_down(y, saved[1], strides, pads), _kernel(y, saved[0], strides, pads)),
)
_kernel.defvjp(
    lambda y, x, strides, pads: (_kernel(y, x, strides, pads), (y, x)),
    lambda strides, pads, saved, w: (_up(saved[1], w, strides, pads), _down(saved[0], w, strides, pads)),
)


def conv(x: jax.Array, kernel: jax.Array, strides: int = 1, padding: str | Sequence[Pair] = "SAME") -> jax.Array:
    """`lax.conv_general_dilated`, on a CPU in a faster form; for forward mode see `forward_mode`.

    x [B,H,W,C], kernel [K,K,C,D], of one floating dtype; with padding SAME gives [B,ceil(H/strides),ceil(W/strides),D].
    """
    size = kernel.shape[:2]
    if not own_forms():
        return lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=NUMBERS)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], size, (strides, strides), padding)
    reach = [side + sum(pad) - k for side, k, pad in zip(x.shape[1:3], size, padding, strict=True)]
    if x.shape[0] == 0 or min(reach) < 0:  # The result is empty.
        return lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=NUMBERS)
    # Behind the image, as much as the kernels reach and no more.
    pads = tuple((before, after - more % strides) for (before, after), more in zip(padding, reach, strict=True))
    y: Any = _down(*matched(x, kernel), (strides, strides), pads)
    return y


def conv_transpose(x: jax.Array, kernel: jax.Array, strides: int, padding: str = "SAME") -> jax.Array:
    """`lax.conv_transpose`, fast to differentiate once and twice; for forward mode see `forward_mode`.

    x [B,H,W,C], kernel [K,K,C,D], of one floating dtype; with padding SAME gives [B,H*strides,W*strides,D].
    """
    if not own_forms() or x.shape[0] == 0:
        return lax.conv_transpose(x, kernel, (strides, strides), padding, dimension_numbers=NUMBERS)
    pads = []
    for k in kernel.shape[:2]:
        total = k + strides - 2 + (max(k - strides, 0) if padding == "VALID" else 0)
        before = k - 1 if padding == "VALID" or strides > k - 1 else -(-total // 2)
        pads.append((k - 1 - before, k - 1 - total + before))
    x, kernel = matched(x, kernel)
    y: Any = _up(x, kernel[::-1, ::-1].swapaxes(2, 3), (strides, strides), tuple(pads))
    return y
