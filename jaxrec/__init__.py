"""jaxrec: image-recognition systems trained as pure functions in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrec.data import open_dataset as open_dataset
    from jaxrec.host import tune_cpu as tune_cpu
    from jaxrec.models.cpu.forms import plain_forms as plain_forms
    from jaxrec.run.fit import Run as Run
    from jaxrec.run.fit import fit as fit
    from jaxrec.run.store.state import load_state as load_state
    from jaxrec.run.store.state import save_state as save_state
    from jaxrec.run.trained import Trained as Trained
    from jaxrec.run.trained import load as load

__version__ = "0.2.0"

_LATER = {
    "Run": "jaxrec.run.fit",
    "Trained": "jaxrec.run.trained",
    "fit": "jaxrec.run.fit",
    "load": "jaxrec.run.trained",
    "load_state": "jaxrec.run.store.state",
    "open_dataset": "jaxrec.data",
    "plain_forms": "jaxrec.models.cpu.forms",
    "save_state": "jaxrec.run.store.state",
    "tune_cpu": "jaxrec.host",
}
"""Names of this package and the modules they come from. They are imported at first use, because that imports jax, and a
command has to say first which devices jax may see."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'jaxrec' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *_LATER]
