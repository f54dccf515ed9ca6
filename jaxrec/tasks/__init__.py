"""The systems, each a module of pure functions: Config, init, train_step, eval_step, predict, artifacts."""

import importlib
from types import ModuleType

from jaxrec.settings import Task

TASKS = {"classifier": "Classifier", "autoencoder": "Autoencoder", "gan": "GAN"}
"""Each system's module in this package and the name of its configuration; the conformance tests run over this table."""


def task_of(config: Task) -> ModuleType:
    """The module of the system that ``config`` configures."""
    (name,) = (name for name, kind in TASKS.items() if kind == type(config).__name__)
    return importlib.import_module(f"jaxrec.tasks.{name}")
