"""The weights that a run starts from, in place of drawn ones: read, matched to the model's arrays, and put in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec.data.features import Features
from jaxrec.errors import UserError
from jaxrec.optimizers import matches
from jaxrec.run.store import folder
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.store.leaves import leaves_by_path
from jaxrec.run.store.manifest import read_dataset
from jaxrec.run.store.state import join_state, model_of
from jaxrec.run.world.devices import place
from jaxrec.run.world.processes import arrays_by_first, by_first
from jaxrec.settings import Train
from jaxrec.tasks.state import State

NAMED = 6
"""Arrays that a sentence names."""
STATISTICS = "statistics of "
"""How the names of those facts begin that standardize images."""


@dataclass(frozen=True)
class Weights:
    """What ``--init-from`` names."""

    name: str
    arrays: dict[str, np.ndarray]
    """By path in a state's model: ``net/params/conv1/kernel``."""


@dataclass
class Taken:
    """What became of the arrays that a run starts from, each by its path."""

    taken: list[str] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)
    """Arrays of the model that were drawn, each with the reason."""
    left: list[str] = field(default_factory=list)
    """Arrays of the weights that the model has no place for."""

    def said(self, name: str) -> list[str]:
        """The lines that say so."""
        lines = [f"weights from {name}: {len(self.taken)} arrays are taken"]
        if self.anew:
            lines.append(f"drawn anew: {_named(self.anew)}")
        if self.left:
            lines.append(f"left over: {_named(self.left)}")
        return lines


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def started(state: State, config: Train, *, members: bool = False) -> tuple[State, list[str]]:
    """A state at step 0 with the weights that ``--init-from`` names, and what a user should know of it.

    Args:
        state: the state with drawn weights.
        config: the run's settings.
        members: whether each array of the state holds those of several members; all start from the same weights.

    Raises:
        UserError: the weights cannot be read, or none of them fits the model.
    """
    if config.init_from is None:
        if config.reinit:
            raise UserError("--reinit draws arrays anew that --init-from has; give --init-from, or remove --reinit")
        return state, []
    places = leaves_by_path(model_of(state))
    shapes = {path: place.shape[1:] if members else place.shape for path, place in places.items()}
    # Only the first process reads the file; the others learn from it what is taken, and then the numbers.
    read: dict[str, np.ndarray] = {}

    def matched_by_first() -> dict[str, list[str]]:
        weights = read_weights(str(config.init_from))
        read.update(weights.arrays)
        found = match(shapes, weights.arrays, config.reinit)
        _check(found, config, shapes, weights.arrays)
        return vars(found)

    found = Taken(**by_first(matched_by_first))
    arrays = {}
    for path in found.taken:
        arrays[path] = np.asarray(read.get(path, np.zeros(shapes[path])), places[path].dtype)
    return put(state, arrays_by_first(arrays)), found.said(str(config.init_from))


def match(shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, np.ndarray], reinit: str = "") -> Taken:
    """Which of the arrays take the places of a model's, whose shapes are given by path.

    Those are taken that have the path and the shape of one of the model's, and not ``reinit`` in their path.
    """
    found = Taken()
    for path, shape in shapes.items():
        if _is_average(path):
            continue  # It starts as a copy of the parameters.
        array = arrays.get(path)
        if array is None:
            found.anew.append(f"{path} (not among them)")
        elif array.shape != shape:
            found.anew.append(f"{path} ({list(shape)}, they have {list(array.shape)})")
        elif reinit and matches(reinit, within(path), "--reinit"):
            found.anew.append(f"{path} (--reinit)")
        else:
            found.taken.append(path)
    found.left = [path for path in arrays if path not in shapes]
    return found


def within(path: str) -> str:
    """An array's path inside its model: ``conv1/kernel`` of ``net/params/conv1/kernel``; of statistics, likewise."""
    _, kind, *inner = path.split("/")
    return "/".join(inner if kind == "params" else inner[1:])


def _is_average(path: str) -> bool:
    return path.split("/")[1] == "average"


def _check(found: Taken, config: Train, shapes: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Raises UserError if no kernel is taken, or ``reinit`` names nothing. Vectors fit where nothing else does."""
    if config.reinit and not any(matches(config.reinit, within(path), "--reinit") for path in shapes):
        raise UserError(
            f"--reinit '{config.reinit}' matches no array; the model's are {_named([within(path) for path in shapes])}"
        )
    if not any(len(shapes[path]) > 1 for path in found.taken):
        raise UserError(
            f"--init-from '{config.init_from}' has no kernel that fits {config.task.model}: it has "
            f"{_named(list(arrays))}, and the model {_named(list(shapes))}; choose weights of this model, or its "
            "--model and options"
        )


def put(state: State, arrays: Mapping[str, np.ndarray]) -> State:
    """The state with some of its model's arrays, by path, replaced; moving averages follow their parameters.

    Of a stack of states, all members get the same.
    """
    model = model_of(state)
    leaves, structure = jax.tree.flatten(model)
    changed = []
    for path, leaf in zip(leaves_by_path(model), leaves, strict=True):
        array = arrays.get(path.replace("/average/", "/params/", 1) if _is_average(path) else path)
        changed.append(leaf if array is None else place(np.broadcast_to(array, leaf.shape).copy(), leaf))
    return join_state(state, jax.tree.unflatten(structure, changed))


def read_weights(name: str) -> Weights:
    """The weights that ``--init-from`` names; raises UserError if they cannot be read."""
    return Weights(name, _of_run(Path(name)))


def _of_run(path: Path) -> dict[str, np.ndarray]:
    """The model's arrays of a run, by path: those that it predicts with, so averages stand for parameters."""
    run = folder.find(path)
    patience = folder.read_config(run).patience
    with Checkpoints(run, read_only=True) as checkpoints:
        _, arrays = checkpoints.newest_whole(checkpoints.model_arrays, checkpoints.best() if patience else None)
    found = {name: array for name, array in arrays.items() if not _is_average(name)}
    for name, array in arrays.items():
        if _is_average(name):
            found[name.replace("/average/", "/params/", 1)] = array
    return found


def statistics_of(name: str, features: Features) -> dict[str, Any]:
    """What comes with the weights and completes the settings: how their images were standardized, by name.

    Statistics of images with other channels than ``features`` have are left out.
    """
    known = by_first(lambda: read_dataset(folder.find(name)).get("facts", {}))
    found = {}
    for key, value in known.items():
        feature = features.get(key.removeprefix(STATISTICS))
        if key.startswith(STATISTICS) and feature is not None and len(value[0]) == feature.shape[-1]:
            found[key] = value
    return found
