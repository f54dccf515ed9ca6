"""The weights that a run starts from, in place of drawn ones: read, matched to the model's arrays, and put in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from jaxrec.tasks.system import System
from jaxrec.weights.files import read_file
from jaxrec.weights.places import located
from jaxrec.weights.preprocessing import beside
from jaxrec.weights.tables import is_own

NAMED = 6
"""Arrays that a sentence names."""
STATISTICS = "statistics of "
"""How the names of those facts begin that standardize images."""


@dataclass(frozen=True)
class Weights:
    """What ``--init-from`` names."""

    name: str
    arrays: dict[str, np.ndarray]
    """By path in a state's model, ``net/params/conv1/kernel``, or as a published file names them; of several processes
    only the first has them."""
    statistics: dict[str, Any] = field(default_factory=dict)
    """How images were standardized: mean and deviation of each channel, by the name of the fact."""
    size: tuple[int, int] | None = None
    """Height and width of the images; None if any will do."""
    resize: str | None = None
    """How images are brought to that size; None if the weights do not say."""


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


def started(
    state: State, config: Train, system: System, weights: Weights | None, *, members: bool = False
) -> tuple[State, list[str]]:
    """A state at step 0 with the weights that a run starts from, and what a user should know of it.

    Args:
        state: the state with drawn weights.
        config: the run's settings.
        system: the run's system.
        weights: what ``read_weights`` gave; None to keep the drawn ones.
        members: whether each array of the state holds those of several members; all start from the same weights.

    Raises:
        UserError: none of the weights fits the model.
    """
    if weights is None:
        return state, []
    places = leaves_by_path(model_of(state))
    shapes = {path: place.shape[1:] if members else place.shape for path, place in places.items()}
    # The first process says what is taken, and then gives the others the numbers.
    read: dict[str, np.ndarray] = {}

    def matched_by_first() -> dict[str, list[str]]:
        read.update(_by_path(weights, config, system, shapes))
        found = match(shapes, read, config.reinit)
        _check(found, config, shapes, read)
        return vars(found)

    found = Taken(**by_first(matched_by_first))
    arrays = {}
    for path in found.taken:
        arrays[path] = np.asarray(read.get(path, np.zeros(shapes[path])), places[path].dtype)
    return put(state, arrays_by_first(arrays)), [*found.said(weights.name), *_preprocessing(config, weights)]


def _by_path(
    weights: Weights, config: Train, system: System, shapes: Mapping[str, tuple[int, ...]]
) -> Mapping[str, np.ndarray]:
    """The weights by path in a state's model."""
    if is_own(weights.arrays):
        return weights.arrays
    if system.translated is None:
        raise UserError(
            f"--init-from '{weights.name}' has arrays such as '{next(iter(weights.arrays))}', and no published weights "
            f"are known for the {system.name}; give the folder of a run"
        )
    return system.translated(config.task, weights.arrays, shapes)


def _preprocessing(config: Train, weights: Weights) -> list[str]:
    """The line that says what is done to images because of the weights; none if nothing is."""
    said = []
    if weights.size is not None:
        said.append(f"brought to --image-size {config.image_size} by --resize {config.resize or 'crop'}")
    for mean, std in weights.statistics.values():
        center = " ".join(f"{value:.3g}" for value in mean)
        spread = " ".join(f"{value:.3g}" for value in std)
        said.append(f"standardized by mean {center} and deviation {spread}")
    return [f"as for the weights, images are {' and '.join(said)}"] if said else []


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
    if kind != "params":
        inner = inner[1:]
    return "/".join(inner)


def _is_average(path: str) -> bool:
    return path.split("/")[1] == "average"


def _parameters_of(path: str) -> str:
    """The path of the parameters that are averaged at this one."""
    return path.replace("/average/", "/params/", 1)


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
        source = _parameters_of(path) if _is_average(path) else path
        array = arrays.get(source)
        if array is None:
            changed.append(leaf)
            continue
        array = np.broadcast_to(array, leaf.shape).copy()
        changed.append(place(array, leaf))
    return join_state(state, jax.tree.unflatten(structure, changed))


def read_weights(config: Train, system: System) -> Weights | None:
    """The weights that ``--init-from`` names; None if it names none.

    Raises UserError if they cannot be read.
    """
    if config.init_from is None:
        if config.reinit:
            raise UserError("--reinit draws arrays anew that --init-from has; give --init-from, or remove --reinit")
        return None
    name, arrays = config.init_from, {}

    def told_by_first() -> dict[str, Any]:
        read = _of_run(Path(name)) if Path(name).is_dir() else _of_file(name, config, system)
        arrays.update(read.arrays)
        return {"statistics": read.statistics, "size": read.size, "resize": read.resize}

    told = by_first(told_by_first)
    size = None if told["size"] is None else tuple(told["size"])
    return Weights(name, arrays, told["statistics"], size, told["resize"])


def _of_file(name: str, config: Train, system: System) -> Weights:
    """The weights of a file. How images are brought to them, it says itself, or it is what is usual for the network."""
    path = located(name)
    arrays = read_file(path)
    if is_own(arrays):
        return Weights(name, arrays)
    seen = beside(path) or system.preprocessing(config.task)
    if seen is None:
        return Weights(name, arrays)
    resize = "crop" if seen.crop >= 1 else f"crop:{seen.crop:g}"
    return Weights(name, arrays, {f"{STATISTICS}image": [list(seen.mean), list(seen.std)]}, seen.size, resize)


def _of_run(path: Path) -> Weights:
    """The weights that a run predicts with, so averages stand for parameters."""
    run = folder.find(path)
    patience = folder.read_config(run).patience
    with Checkpoints(run, read_only=True) as checkpoints:
        best = checkpoints.best() if patience else None
        _, arrays = checkpoints.newest_whole(checkpoints.model_arrays, best)
    found = {name: array for name, array in arrays.items() if not _is_average(name)}
    for name, array in arrays.items():
        if _is_average(name):
            found[_parameters_of(name)] = array
    facts = read_dataset(run).get("facts", {})
    statistics = {name: fact for name, fact in facts.items() if name.startswith(STATISTICS)}
    return Weights(str(path), found, statistics)


def for_weights(config: Train, weights: Weights | None, dataset: Any = None) -> Train:
    """The settings with the size of images that the weights expect, unless the user gives another.

    Arrays in Python, and those of npz:FILE, keep their size.
    """
    named = config.dataset if dataset is None else dataset
    if weights is None or weights.size is None or not isinstance(named, str | None) or str(named).startswith("npz:"):
        return config
    height, width = weights.size
    size = config.image_size or (height if height == width else f"{height}x{width}")
    return replace(config, image_size=size, resize=config.resize or weights.resize)


def add_statistics(facts: dict[str, Any], weights: Weights | None, features: Features) -> None:
    """Adds to a run's facts how the weights' images were standardized, if they had as many channels as ``features``."""
    for key, value in ({} if weights is None else weights.statistics).items():
        feature = features.get(key.removeprefix(STATISTICS))
        if feature is not None and len(value[0]) == feature.shape[-1]:
            facts[key] = value
