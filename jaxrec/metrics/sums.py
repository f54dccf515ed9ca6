"""Sums over examples, taken on the device batch by batch, that merge by addition.

A metric does not depend on how the examples were cut into batches: padding is left out, counts are integers, and sums
of merged batches are float64 on the host. Inside a step, ``jax.lax.psum`` of a metric merges over devices.
"""

from collections.abc import Mapping
from typing import Self

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Results = dict[str, float | np.ndarray]


class Metric(flax.struct.PyTreeNode):
    """A pytree of sums over examples."""

    def merge(self, other: Self) -> Self:
        """The sums over both; in int64 and float64 unless both sides are jax arrays."""
        return jax.tree.map(_add, self, other)

    def compute(self) -> Results:
        """The metric's values by name, computed on the host in float64. Raises ValueError if no example was counted."""
        raise NotImplementedError


def _add(a: jax.typing.ArrayLike, b: jax.typing.ArrayLike) -> jax.Array | np.ndarray:
    if isinstance(a, jax.Array) and isinstance(b, jax.Array):
        return a + b
    whole = np.issubdtype(np.asarray(a).dtype, np.integer)
    return np.add(a, b, dtype=np.int64 if whole else np.float64)


class Average(Metric):
    """Means of named per-example values."""

    totals: dict[str, jax.Array]
    count: jax.Array

    @classmethod
    def from_batch(cls, values: Mapping[str, jax.Array], real: jax.Array | None = None) -> Self:
        """From at least one named array of values [B] and real bool [B], False for padding (None: all real); pure."""
        size = len(next(iter(values.values())))
        real = real_examples(real, size)
        totals = {name: total(value, real) for name, value in values.items()}
        return cls(totals=totals, count=count(real))

    def compute(self) -> Results:
        """The mean of each value over the real examples."""
        examples = at_least_one(self.count)
        return {name: float(total) / examples for name, total in self.totals.items()}


def real_examples(real: jax.Array | None, size: int) -> jax.Array:
    """Which of ``size`` examples count, bool [B]: all of them if ``real`` is None."""
    if real is None:
        return jnp.ones(size, bool)
    return jnp.asarray(real, bool)


def total(values: jax.Array, real: jax.Array) -> jax.Array:
    """Sum, float32, of values [B] over the real examples, bool [B]; padding may hold anything, nan included."""
    chex.assert_equal_shape([values, real])
    # A product would keep the padding's nan.
    return jnp.where(real, jnp.asarray(values, jnp.float32), 0.0).sum()


def count(hits: jax.Array, axis: int | None = None) -> jax.Array:
    """How many of ``hits`` are True, int32."""
    return hits.sum(axis=axis, dtype=jnp.int32)


def at_least_one(count: jax.typing.ArrayLike) -> int:
    """``count``, a number of examples or pixels, on the host. Raises ValueError if it is 0."""
    number = int(np.asarray(count))
    if number == 0:
        raise ValueError("a metric over no examples: got only padding or void, expected at least one real example")
    return number


def ratio(a: np.ndarray, b: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """a / b in float64, and ``empty`` where b is 0."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.divide(a, b, out=np.full(b.shape, empty), where=b != 0)
