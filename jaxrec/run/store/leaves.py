"""The leaves of a tree by their paths: as arrays on the host, and back where they came from."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.run.world.devices import fetch, place
from jaxrec.run.world.processes import several

T = TypeVar("T")


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, such as ``net/params/conv1/kernel``.

    A random key is given as its data, uint32, and a Python number as a numpy array.
    """
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): _plain(leaf) for path, leaf in leaves}


def _plain(leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_host(tree: Any) -> dict[str, np.ndarray]:
    """As `leaves_by_path`, but with all arrays copied to the host.

    If several processes train together, all of them have to call this.
    """
    leaves = leaves_by_path(tree)
    # jax.device_get cannot read arrays that lie on the devices of other processes.
    arrays = fetch(leaves) if several() else jax.device_get(leaves)
    return {path: np.asarray(array) for path, array in arrays.items()}


def from_host(like: T, arrays: Mapping[str, np.ndarray]) -> T:
    """The inverse of `to_host`: ``arrays`` in the structure of ``like``, as its kinds of leaves and on its devices."""
    paths = leaves_by_path(like)
    leaves, structure = jax.tree.flatten(like)
    found = [_placed(arrays[path], leaf) for path, leaf in zip(paths, leaves, strict=True)]
    return jax.tree.unflatten(structure, found)


def _placed(array: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        data = place(array, jax.random.key_data(like))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(like))
    if isinstance(like, jax.Array):
        return place(array, like)
    return array if isinstance(like, np.ndarray) else type(like)(array)


def misfit(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """A clause that names the first array whose shape or dtype in ``found`` is not the expected one; else None."""
    for path in sorted(found.keys() | expected.keys()):
        got, wanted = _described(found.get(path)), _described(expected.get(path))
        if got != wanted:
            return f"its {path} is {got}, expected {wanted}"
    return None


def _described(leaf: Any) -> str:
    return "missing" if leaf is None else f"{jnp.dtype(leaf.dtype).name} {tuple(leaf.shape)}"
