"""Convolutions of many models trained as one program: products, of which `jax.vmap` makes one batched product.

With a kernel for each member, `jax.vmap` makes of a convolution one in as many groups, which is slow on GPUs and CPUs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jax import lax

_switched_on = jax.make_user_context(False)


@contextmanager
def convolutions_as_products() -> Iterator[None]:
    """What is traced inside takes its convolutions as products; on a CPU, own forms go first."""
    with _switched_on(True):
        yield


def as_products() -> bool:
    """Whether a convolution that is traced now is to be a product."""
    return _switched_on.value


def conv(x: jax.Array, kernel: jax.Array, strides: int, padding: str | Sequence[tuple[int, int]]) -> jax.Array:
    """`jaxrec.models.layers.conv` as the product of all patches of pixels under the kernel and the kernel."""
    size = kernel.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], size, (strides, strides), padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = (side - reach + 1 for side, reach in zip(x.shape[1:3], size, strict=True))
    shifted = []
    for row in range(size[0]):
        for column in range(size[1]):
            shifted.append(x[:, row : row + height : strides, column : column + width : strides])
    patches = jnp.concatenate(shifted, -1)
    product = jnp.einsum("bhwk,kd->bhwd", patches, kernel.reshape(-1, kernel.shape[3]))
    return product.astype(x.dtype)
