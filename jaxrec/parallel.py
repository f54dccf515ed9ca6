"""Named random streams, replicas and meshes: what lets one step run under jit, vmap, scan, pmap and shard_map."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec


def stream(key: jax.Array, name: str, step: jax.Array, axis_name: str | None = None) -> jax.Array:
    """The random key of one named stream at one step.

    Keys are a function of (key, name, step), so nothing random is carried from step to step and a new stream leaves
    the others as they were. Under ``axis_name`` each replica draws its own.
    """
    key = jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))


def per_replica(tree: Any, axis_name: str | None) -> Any:
    """The same arrays, marked as each replica's own, so that a gradient with respect to them is the replica's own.

    Under ``shard_map`` with ``check_vma=True`` a gradient with respect to replicated arrays is already summed over the
    replicas, and a later ``pmean`` would leave it N times too large. Elsewhere this changes nothing.
    """
    if axis_name is None or not _is_own(jax.lax.axis_index(axis_name), axis_name):
        return tree

    def marked(x: jax.Array) -> jax.Array:
        return x if _is_own(x, axis_name) else jax.lax.pcast(x, axis_name, to="varying")

    return jax.tree.map(marked, tree)


def _is_own(x: jax.Array, axis_name: str) -> bool:
    """Whether an array is known to be each replica's own; only ``shard_map`` with ``check_vma=True`` keeps account."""
    kind = jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)
    return axis_name in (manual.varying if manual is not None else getattr(kind, "vma", frozenset()))


def mean_over_replicas(tree: Any, axis_name: str | None) -> Any:
    """The mean over the replicas of every array in ``tree``; ``tree`` itself without ``axis_name``."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def greatest_over_replicas(tree: Any, axis_name: str | None) -> Any:
    """The maximum over the replicas of every array in ``tree``; ``tree`` itself without ``axis_name``."""
    return tree if axis_name is None else jax.lax.pmax(tree, axis_name)


def from_all_replicas(tree: Any, most: int, axis_name: str | None) -> Any:
    """Up to ``most`` examples of the batch, of every array [B, ...] in ``tree``: the same ones on every replica.

    Each replica contributes as many: what is kept in the state must not differ between replicas. If each replica holds
    enough of them for all, they are taken from different places, so that replicas with one and the same batch put
    together the beginning of it.
    """
    size = jax.tree.leaves(tree)[0].shape[0]
    if axis_name is None:
        return jax.tree.map(lambda x: x[:most], tree)
    replicas = jax.lax.axis_size(axis_name)
    number = jax.lax.axis_index(axis_name)
    share = max(1, min(most, size * replicas) // replicas)
    start = jnp.where((number + 1) * share <= size, number * share, 0)

    def joined(x: jax.Array) -> jax.Array:
        part = jax.lax.dynamic_slice_in_dim(x, start, share)
        # A sum over all replicas, of which only one holds anything in a place, is known to be the same on all of them.
        wide = part.astype(jnp.int32) if x.dtype in (jnp.bool_, jnp.uint8) else part
        placed = jnp.zeros((replicas * share, *x.shape[1:]), wide.dtype)
        placed = jax.lax.dynamic_update_slice_in_dim(placed, wide, number * share, 0)
        return jax.lax.psum(placed, axis_name).astype(x.dtype)

    return jax.tree.map(joined, tree)


def cut_axes() -> dict[str, int]:
    """The axes, longer than 1, over which the compiler itself may cut arrays: those of the mesh of the context.

    The training command sets that mesh; others do by ``jax.set_mesh``.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in kinds if kind == AxisType.Auto and mesh.shape[name] > 1}


def whole(tree: Any) -> Any:
    """The arrays, kept whole on every device where the mesh of the context has an axis ``model``.

    The training command cuts large parameters over that axis. Left to itself, the compiler carries the cut from the
    update back into the gradients, and moves activations to where the parts of the parameters are.
    """
    if "model" not in cut_axes():
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec()), tree)
