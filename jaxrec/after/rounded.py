"""Training for 8 bits: kernels and activations are rounded in the loss, and the weights learn to bear it.

    from jaxrec.after.rounded import rounded
    step = jax.jit(rounded(classifier.train_step))
    state, metrics = step(state, batch)

The state keeps its weights in full, and evaluation works with these; ``jaxrec export --int8`` rounds them for good.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxrec.models.rounding import in_8_bits
from jaxrec.tasks.state import Batch, Metrics, State
from jaxrec.tasks.system import System


def rounded(train_step: Callable[..., tuple[State, Metrics]]) -> Callable[..., tuple[State, Metrics]]:
    """A training step whose convolutions and dense layers, those of ``jaxrec.models.layers``, compute in 8 bits.

    Any system's step will do; it is pure like the step that it is made of.
    """

    def step(state: State, batch: Batch, **options: Any) -> tuple[State, Metrics]:
        with in_8_bits():
            return train_step(state, batch, **options)

    return step


def rounding(system: System) -> System:
    """The system, trained by ``rounded``."""
    return replace(system, train_step=rounded(system.train_step))
