"""The switch between a CPU's own forms of its operations and XLA's plain ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

# jax looks at this value before it takes a traced or compiled program again, so that a function that was traced with
# the one kind of forms is traced anew for the other.
_switched_on = jax.make_user_context(None)
"""True once they are turned on, False inside `plain_forms`, None before."""


def use_own_forms() -> None:
    """Turns the own forms of a CPU on in the whole process; `jaxrec.tune_cpu` does this and more."""
    _switched_on.set_global(True)


@contextmanager
def plain_forms() -> Iterator[None]:
    """What is traced inside is made of XLA's plain operations, whether or not `jaxrec.tune_cpu` was called.

    The own forms have gradients of any order but no forward mode, and but for max pooling they suit a CPU alone; those
    in bfloat16 may be operations that jax does not export. So `jax.jvp`, `jax.hessian` and `jax.export` need plain
    operations in a process that is tuned:

        with jaxrec.plain_forms():
            exported = jax.export.export(predict, platforms=["tpu"])(images)
    """
    with _switched_on(False):
        yield


def own_forms(x: jax.Array) -> bool:
    """Whether an operation on ``x`` that is traced now takes its own form.

    It does not if a size of ``x`` is a symbol, as in a program exported for any batch size: the forms are chosen by
    numbers.
    """
    return _switched_on.value is True and on_cpu() and _sizes_known(x)


def pools_by_arithmetic(x: jax.Array) -> bool:
    """Whether max pooling of ``x`` that is traced now is arithmetic on whole arrays, as one of a CPU's own forms.

    It is on a GPU too, tuned or not: XLA scatters the gradient there, one window after another.
    """
    on_gpu = jax.default_backend() == "gpu" and _switched_on.value is not False
    return own_forms(x) or (on_gpu and _sizes_known(x))


def _sizes_known(x: jax.Array) -> bool:
    return all(isinstance(size, int) for size in x.shape)


def on_cpu() -> bool:
    """Whether jax computes on a CPU unless it is told otherwise."""
    return jax.default_backend() == "cpu"
