"""What the own forms do to their operands first: to their dtypes, and to the mesh axes over which they vary."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def widened(x: jax.Array) -> jax.Array:
    """``x`` in float32 if its numbers are narrower, else as it is."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def narrowed(x: jax.Array, dtype: Any) -> jax.Array:
    """``x`` in ``dtype`` if that is bfloat16, the only narrow dtype that `products.sums` multiplies as it is."""
    return x.astype(dtype) if dtype == jnp.bfloat16 else x


def matched(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both arrays, marked as varying over the same mesh axes inside `jax.shard_map`.

    A plain product marks the kernel as varying with the images by itself, and so the kernel's gradient is summed over
    the devices. For a gradient of our own this has to be said.
    """
    varying_a, varying_b = (jax.typeof(x).manual_axis_type.varying for x in (a, b))
    a = lax.pcast(a, tuple(varying_b - varying_a), to="varying")
    b = lax.pcast(b, tuple(varying_a - varying_b), to="varying")
    return a, b
