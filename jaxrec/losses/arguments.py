"""What every loss does with its arguments: names are checked, numbers become float32, shapes have to agree."""

import chex
import jax
import jax.numpy as jnp

from jaxrec.errors import UserError, nearest


def check_name(what: str, got: str, known: tuple[str, ...]) -> None:
    """Raises UserError unless ``got`` is one of ``known``; ``what`` says what the name is of."""
    if got not in known:
        raise UserError(f"unknown {what} '{got}'; expected one of {', '.join(known)}{nearest(got, known)}")


def floats(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays in float32; their shapes must agree, since broadcasting would hide a mistake."""
    chex.assert_equal_shape(arrays)
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def example_axes(x: jax.Array) -> tuple[int, ...]:
    """The axes of [B, ...] that lie within one example: all but the first."""
    return tuple(range(1, x.ndim))
