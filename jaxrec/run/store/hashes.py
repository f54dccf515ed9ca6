"""A hash of every array of a state, computed where the arrays lie: the same for the same bits on any devices."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from jaxrec.run.store.leaves import leaves_by_path


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


def hashes_of(model: Any, train: Any = None) -> Hashes:
    """The hashes of a state's two parts (`split_state`), by paths that begin with ``model`` and ``train``."""
    return hash_leaves({"model": model} if train is None else {"model": model, "train": train})


def hash_leaves(tree: Any) -> Hashes:
    """The hash of each leaf of a tree, by its path: of arrays, random keys and Python numbers."""
    return fingerprints({path: _in_words(leaf) for path, leaf in leaves_by_path(tree).items()})


def _in_words(leaf: Any) -> Any:
    """A numpy array of 64 bits a number in pieces of 32: jax would drop one half of each number."""
    if isinstance(leaf, np.ndarray) and leaf.dtype.itemsize > 4:
        return np.atleast_1d(np.ascontiguousarray(leaf)).view(np.uint32)
    return leaf


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
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], -1)
    # Numbers of 64 bits become two of 32.
    width = min(x.dtype.itemsize, 4)
    return lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * width}")).astype(jnp.uint32)
