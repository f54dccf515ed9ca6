"""Which forms of its operations a model is traced in: a CPU's own, or XLA's plain ones as on GPUs and TPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jax import lax

_plain = ContextVar("_plain", default=False)


@contextmanager
def forward_mode() -> Iterator[None]:
    """What is traced inside are XLA's plain operations, which `jax.jvp` can differentiate.

    On a CPU jaxrec's convolutions, dense layers and attention have gradients of their own, and with them no forward
    mode: it is needed for `jax.jvp`, `jax.jacfwd` and Hessian-vector products. What was traced before, for `jax.jit` or
    as the body of a `lax.scan`, stays as it is.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def on_cpu() -> bool:
    """Whether what is traced now will run on a CPU."""
    return jax.default_backend() == "cpu"


def own_forms() -> bool:
    """Whether what is traced now takes the forms of its own that a CPU has."""
    return on_cpu() and not _plain.get()


def widened(x: jax.Array) -> jax.Array:
    """x in float32, if its numbers are narrower."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def matched(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both arrays, varying over the same axes inside shard_map.

    A plain product marks the kernel as varying with the images by itself, and its gradient is then summed over devices;
    a gradient of one's own must be told.
    """
    varying = [jax.typeof(x).manual_axis_type.varying for x in (a, b)]
    a = lax.pcast(a, tuple(varying[1] - varying[0]), to="varying")
    b = lax.pcast(b, tuple(varying[0] - varying[1]), to="varying")
    return a, b
