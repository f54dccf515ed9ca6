"""The switch between a CPU's own forms of its operations and XLA's plain ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

# jax looks at this value before it takes a traced or compiled program again, so that a function that was traced with
# the one kind of forms is traced anew for the other.
_switched_on = jax.make_user_context(False)


def use_own_forms() -> None:
    """Turns the own forms on in the whole process; `jaxrec.tune_cpu` does this and more."""
    _switched_on.set_global(True)


@contextmanager
def plain_forms() -> Iterator[None]:
    """What is traced inside is made of XLA's plain operations, whether or not `jaxrec.tune_cpu` was called.

    The own forms have gradients of any order but no forward mode, and they suit a CPU alone. So `jax.jvp`,
    `jax.hessian` and `jax.export` for other platforms need plain operations in a process that is tuned:

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
    known = all(isinstance(size, int) for size in x.shape)
    return _switched_on.value and on_cpu() and known


def on_cpu() -> bool:
    """Whether jax computes on a CPU unless it is told otherwise."""
    return jax.default_backend() == "cpu"
