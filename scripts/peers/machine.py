"""What the machine can do at most: ``product``, matrix products in jax, or ``copy``, its memory's bandwidth.

Run by scripts/benchmark.py as one more contestant: of ``copy`` the operations are the bytes read and written.
"""

from functools import partial
from typing import Any

import contest
import jax
import jax.numpy as jnp
from jax import lax


def build(what: str, options: Any) -> contest.Contestant:
    """A step is one matrix product, or one pass over an array.

    The numbers are random, for a card multiplies constant ones faster.
    """
    on_card = contest.on_card(options)
    dtype = jnp.bfloat16 if options.bf16 else jnp.float32
    size = 8192 if on_card else 2048
    left_key, right_key = jax.random.split(jax.random.key(0))
    if what == "product":
        left = jax.random.normal(left_key, (size, size), dtype)
        right = jax.random.normal(right_key, (size, size), dtype)
        work = 2.0 * size**3
        # Asked for a result in bfloat16, XLA would compute in float32 on a CPU.
        result = dtype if on_card else jnp.float32
        x = jnp.zeros((size, size), dtype)

        def product(x: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
            return lax.dot(left, right, preferred_element_type=result).astype(dtype)

        # Each product waits for the last one, whose memory it takes.
        compiled = jax.jit(product, donate_argnums=0, keep_unused=True)
        step = partial(compiled, left=left, right=right)
    else:
        x = jax.random.normal(left_key, (8 * size, size), jnp.float32)
        work, step = 2.0 * x.nbytes, jax.jit(lambda x: x + 1, donate_argnums=0)

    def advance(steps: int) -> float:
        nonlocal x
        for _ in range(steps):
            x = step(x)
        return float(x[0, 0])

    with contest.turn(options):
        first = advance(1)
    return contest.Contestant(advance, 0, jax.devices()[0].device_kind, work, first=first)


if __name__ == "__main__":
    options = contest.parser().parse_args()
    contest.serve(build, options, options.workload)
