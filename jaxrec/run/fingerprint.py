"""A hash of every array of a state, computed where the arrays lie: the same for the same bits on any devices."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@jax.jit
def fingerprints(tree: Any) -> dict[str, jax.Array]:
    """A uint32 scalar for each array of ``tree``, by its path, such as ``model/net/params/conv1/kernel``.

    Numbers are hashed by their bits together with their place and added up modulo 2**32, an addition that gives the
    same sum in any order; one changed bit always changes it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): _hash(leaf) for path, leaf in leaves}


def digest(hashes: Mapping[str, Any]) -> str:
    """All hashes in one, eight hexadecimal digits."""
    return f"{zlib.crc32(repr(sorted((name, int(value)) for name, value in hashes.items())).encode()):08x}"


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
