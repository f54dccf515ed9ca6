"""What stands around a system's own functions in a run, such as pruning; the run's folder keeps it for later."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from jaxrec.after.distil import distilling
from jaxrec.after.prune import Gradual, pruning
from jaxrec.after.rounded import rounding
from jaxrec.run.store.folder import read_json
from jaxrec.tasks.system import System

FILE = "around.json"
"""Its file in a run's folder; a run that is trained as its system says has none."""


@dataclass(frozen=True)
class Around:
    """How a run differs from what its system and its settings say."""

    prune: float | None = None
    """Share of the weights that become zero; None: none."""
    scope: Literal["global", "layer"] = "global"
    end: int = 1
    """The step after which the masks stay as they are."""
    every: int = 1
    """Steps between two changes of the masks."""
    teacher: str | None = None
    """The folder of a run whose answers are learned from."""
    int8: bool = False
    """Whether training rounds kernels and activations to 8 bits."""
    narrower: bool = False
    """Whether channels of the weights that the run started from were removed."""

    def __call__(self, system: System) -> System:
        """The system as the run trains it; raises UserError if the teacher's folder cannot be read."""
        # First, because the teacher is not to be rounded.
        if self.int8:
            system = rounding(system)
        if self.teacher is not None:
            system = distilling(system, _logits_of(self.teacher))
        if self.prune is not None:
            system = pruning(system, Gradual(self.prune, end=self.end, every=self.every, scope=self.scope))
        return system


def read_around(run: Path) -> Around | None:
    """What the run's folder says; None if nothing. Raises UserError if it is damaged."""
    if not (run / FILE).exists():
        return None
    return read_json(run / FILE, lambda values: Around(**values))


def _logits_of(folder: str) -> Callable[[jax.Array], jax.Array]:
    # A session asks for this module, and what opens a run asks for sessions.
    from jaxrec.run.trained import load

    teacher = load(folder)
    players = {name: player.replace(opt_state=()) for name, player in teacher.state.players.items()}
    state: Any = jax.device_get(teacher.state.replace(players=players))

    def logits(images: jax.Array) -> jax.Array:
        return teacher.system.predict(state, images)["logits"]

    return logits
