"""What the machine can do at most: ``product``, matrix products in jax, or ``copy``, its memory's bandwidth.

Run by scripts/benchmark.py as one more contestant: of ``copy`` the operations are the bytes read and written.
"""

from typing import Any

import contest
import jax
import jax.numpy as jnp
from jax import lax


def build(what: str, options: Any) -> contest.Contestant:
    """A step is one matrix product, or one pass over an array."""
    dtype = jnp.bfloat16 if options.bf16 else jnp.float32
    size = 8192 if options.gpu else 2048
    if what == "product":
        # The constant matrix of mean 1 / size keeps the result where it is.
        left, x = jnp.full((size, size), 1 / size, dtype), jnp.ones((size, size), dtype)
        work = 2.0 * size**3
        # Asked for a result in bfloat16, XLA would compute in float32 on a CPU.
        step = jax.jit(lambda x: lax.dot(left, x, preferred_element_type=jnp.float32).astype(dtype))
    else:
        x = jnp.ones((8 * size, size), jnp.float32)
        work, step = 2.0 * x.nbytes, jax.jit(lambda x: x + 1)

    def advance(steps: int) -> float:
        nonlocal x
        for _ in range(steps):
            x = step(x)
        return float(x[0, 0])

    return contest.Contestant(advance, 0, jax.devices()[0].device_kind, work)


if __name__ == "__main__":
    options = contest.parser().parse_args()
    contest.serve(build, options, options.workload)
