"""A hash of every array of a state, computed where the arrays lie: the same for the same bits on any devices."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax


@struct.dataclass
class Hashes:
    """The hashes of a tree's arrays: one array, which is fetched sooner than many numbers."""

    values: jax.Array
    """uint32 [N]"""
    paths: tuple[str, ...] = struct.field(pytree_node=False)
    """Of each array, such as ``model/net/params/conv1/kernel``."""

    def by_path(self) -> dict[str, int]:
        """The hash of each array."""
        return dict(zip(self.paths, np.asarray(jax.block_until_ready(self.values)).tolist(), strict=True))

    def digest(self) -> str:
        """All hashes in one, eight hexadecimal digits."""
        return f"{zlib.crc32(repr(sorted(self.by_path().items())).encode()):08x}"


@jax.jit
def fingerprints(tree: Any) -> Hashes:
    """The hash of each array of ``tree``.

    Numbers are hashed by their bits together with their place and added up modulo 2**32, an addition that gives the
    same sum in any order; one changed bit always changes it.
    """
    paths, leaves = zip(*jax.tree.leaves_with_path(tree), strict=True)
    names = tuple(jax.tree_util.keystr(path, simple=True, separator="/") for path in paths)
    return Hashes(jnp.stack([_hash(leaf) for leaf in leaves]), names)


@jax.jit  # Traced once for all arrays of one shape, such as a kernel and its moments.
def _hash(x: jax.Array) -> jax.Array:
    bits = _bits(x).reshape(-1)
    # The last step of Murmur3 (Appleby 2011), which maps no two numbers to one.
    x = bits + lax.iota(jnp.uint32, bits.size) * jnp.uint32(0x9E3779B9)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(x ^ (x >> 16), dtype=jnp.uint32)


def _bits(x: jax.Array) -> jax.Array:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    return lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
