"""The examples of highest loss in a whole split."""

from typing import Self

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.metrics.sums import Metric, Results, real_examples

MOST = 32
"""Examples that are kept."""


class Worst(Metric):
    """The 32 examples of highest loss and their losses.

    It takes no more memory for a large split than for a small one. It merges on the host alone, not by ``psum``.
    """

    loss: jax.Array
    """float32 [K], the highest first; minus infinity is no example."""
    index: jax.Array
    """int32 [K]."""

    @classmethod
    def from_batch(cls, loss: jax.Array, index: jax.Array, real: jax.Array | None = None) -> Self:
        """From loss [B], the examples' numbers int32 [B] and real bool [B], False for padding (None: all real); pure.

        A loss that is not a number counts as infinite.
        """
        chex.assert_equal_shape([loss, index])
        loss = jnp.asarray(loss, jnp.float32)
        loss = jnp.where(jnp.isnan(loss), jnp.inf, loss)
        loss = jnp.where(real_examples(real, len(loss)), loss, -jnp.inf)
        highest, place = jax.lax.top_k(loss, min(MOST, len(loss)))
        return cls(loss=highest, index=index[place])

    def merge(self, other: Self) -> Self:
        """The worst of both; of equal losses, the example of lower number comes first."""
        loss = np.concatenate([np.asarray(self.loss), np.asarray(other.loss)])
        index = np.concatenate([np.asarray(self.index), np.asarray(other.index)])
        order = np.lexsort((index, -loss))[:MOST]
        return self.replace(loss=loss[order], index=index[order])

    def compute(self) -> Results:
        """``worst``, float64 [at most 32, 2]: number and loss of each example, the highest loss first."""
        loss, index = np.asarray(self.loss, np.float64), np.asarray(self.index, np.float64)
        there = loss > -np.inf
        return {"worst": np.stack([index[there], loss[there]], axis=1)}
