"""Convolutions in bfloat16 by oneDNN, the library that jaxlib carries, for CPUs with matrix units (AMX).

XLA's own convolutions on a CPU convert bfloat16 to float32. oneDNN multiplies it as it is and sums in float32;
benchmarks/forms.md tells how much faster that is. jaxlib's builds for Linux on x86 hold oneDNN, and XLA runs it if a
program asks for the operation ``__onednn$convolution``. No option makes XLA ask for it, so this file does. The
operation is not documented, and a wrong description of it ends the process, so it is used only with the versions of
jaxlib that it was tried with (`jaxrec.host.ONEDNN_IN`). jax cannot keep a program that holds it in its cache of
compiled programs.

oneDNN is asked for convolutions forward. Both gradients are written as such:

- by the image: with the kernel rotated by 180 degrees;
- by the kernel: with three axes. The images of a batch are the channels that are summed over, the output's gradient is
  the kernel, as large as the image, and the image's channels are a third side along which nothing is summed. With few
  images there is little to sum at a time, so this is for batches.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .patches import Pads, Pair, turned_pads

FEWEST_IMAGES = 8
"""Images in a batch from which the gradient by the kernel is made here."""

# As the switch of `jaxrec.models.cpu.forms`: jax looks at it before it takes a traced program again.
_at_hand = jax.make_user_context(False)


def use_onednn() -> None:
    """Says that this machine's jaxlib holds oneDNN and that its CPU has matrix units; `jaxrec.tune_cpu` finds out."""
    _at_hand.set_global(True)


def suits(x: jax.Array) -> bool:
    """Whether convolutions of x are made here.

    In a process of several devices they are not: the compiler cannot cut an operation that it does not know. Inside
    `jax.shard_map` they are not: the operation does not say over which axes its result varies.
    """
    alone = jax.device_count() == 1 and not jax.typeof(x).manual_axis_type.varying
    return _at_hand.value is True and x.dtype == jnp.bfloat16 and x.size > 0 and alone


def convolved(image: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The convolution of an image [B,H,W,C] by a kernel [K,K,C,D]."""
    sides = _sides(image.shape[1:3], kernel.shape[:2], strides, pads)
    shape = (image.shape[0], *sides, kernel.shape[3])
    return _convolution(image, kernel, shape, strides=strides, pads=pads)


def transposed(output: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """The transpose of `convolved` without strides, [B,H',W',D] to [B,H,W,C]."""
    around = turned_pads(kernel, pads)
    sides = _sides(output.shape[1:3], kernel.shape[:2], (1, 1), around)
    shape = (output.shape[0], *sides, kernel.shape[2])
    turned = kernel[::-1, ::-1]
    # oneDNN copies the kernel into an order of its own, so that a transpose there costs nothing.
    return _convolution(output, turned, shape, strides=(1, 1), pads=around, outputs_first=True)


def kernel_gradient(image: jax.Array, output: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The gradient by the kernel [K,K,C,D]; ``output`` [B,H',W',D] is the gradient by the convolution's output."""
    spread = [(n - 1) * stride + 1 for n, stride in zip(output.shape[1:3], strides, strict=True)]
    size = _sides(image.shape[1:3], spread, (1, 1), pads)
    # Barriers: XLA would transpose together with all that the arrays were made of, reading one number at a time.
    pixels = lax.optimization_barrier(lax.optimization_barrier(image).transpose(1, 2, 3, 0))
    weights = lax.optimization_barrier(lax.optimization_barrier(output).transpose(1, 2, 0, 3))
    shape = (1, *size, image.shape[3], output.shape[3])
    kernel = _convolution(
        pixels[None], weights[:, :, None], shape, strides=(1, 1, 1), pads=(*pads, (0, 0)), dilation=(*strides, 1)
    )
    return kernel[0]


def _sides(image: Sequence[int], kernel: Sequence[int], strides: Pair, pads: Sequence[Pair]) -> Pair:
    """Height and width of a convolution's output."""
    rows, columns = (
        (side + sum(pad) - size) // stride + 1
        for side, size, stride, pad in zip(image, kernel, strides, pads, strict=True)
    )
    return rows, columns


def _convolution(
    image: jax.Array,
    kernel: jax.Array,
    shape: tuple[int, ...],
    *,
    strides: Sequence[int],
    pads: Sequence[Pair],
    dilation: Sequence[int] | None = None,
    outputs_first: bool = False,
) -> jax.Array:
    """oneDNN's convolution of an image [B,...,C] by a kernel [...,C,D], or [...,D,C] if ``outputs_first``.

    Image and kernel have as many sides; the output has ``shape``.
    """
    count = len(strides)
    # Where the kernel does not reach the border, the image is cut off: oneDNN knows no negative padding.
    cut = [(0, 0, 0), *((min(before, 0), min(after, 0), 0) for before, after in pads), (0, 0, 0)]
    image = lax.pad(image, jnp.zeros((), image.dtype), cut)
    pads = [(max(before, 0), max(after, 0)) for before, after in pads]
    sides = list(range(count))
    last = count + 1
    images = {"dims": last + 1, "data": {"batch_dim": 0, "feature_dim": last, "spatial_dims": [1 + i for i in sides]}}
    inputs, outputs = (last, count) if outputs_first else (count, last)
    filters = {"input_feature_dim": inputs, "output_feature_dim": outputs, "spatial_dims": sides}
    described = {
        "dims": last + 1,
        "input": images,
        "kernel": {"dims": last + 1, "filter": filters},
        "output": images,
        "window": {
            "size": kernel.shape[:count],
            "pad_left": [before for before, _ in pads],
            "pad_right": [after for _, after in pads],
            "strides": list(strides),
            "window_dilations": list(dilation or [1] * count),
        },
        "feature_groups": 1,
    }
    text = json.dumps({"onednn_conv_config": described})

    @jax.custom_batching.custom_vmap
    def convolution(image: jax.Array, kernel: jax.Array) -> jax.Array:
        called: Any = jax.ffi.ffi_call(
            "__onednn$convolution",
            jax.ShapeDtypeStruct((image.shape[0], *shape[1:]), image.dtype),
            # An operation of XLA itself is described by text; the newer interface is for operations of others.
            custom_call_api_version=2,
            legacy_backend_config=text,
        )
        return called(image, kernel)

    @convolution.def_vmap
    def _mapped(size: int, is_mapped: Any, image: jax.Array, kernel: jax.Array) -> tuple[jax.Array, bool]:
        if not is_mapped[1]:
            # One kernel for all: they are more images.
            output = convolution(image.reshape(-1, *image.shape[2:]), kernel)
            return output.reshape(size, -1, *output.shape[1:]), True
        if is_mapped[0]:
            return lax.map(lambda both: convolution(*both), (image, kernel)), True
        return lax.map(lambda each: convolution(image, each), kernel), True

    return convolution(image, kernel)
