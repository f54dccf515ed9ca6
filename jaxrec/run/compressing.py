"""A trained run made smaller: trained on from its weights into a new run, and both measured."""

import tempfile
import zlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import jax
import numpy as np

from jaxrec.after.channels import narrowed
from jaxrec.data import blank, class_names, image_shape
from jaxrec.errors import UserError
from jaxrec.models.cpu.forms import plain_forms
from jaxrec.run.around import Around
from jaxrec.run.export.exporting import examples_for, function_of, inputs_of, timed, write
from jaxrec.run.fit import Run, fit
from jaxrec.run.start import read_weights
from jaxrec.run.store.leaves import leaves_by_path
from jaxrec.run.store.state import model_of
from jaxrec.run.trained import Trained
from jaxrec.settings import Train

LAST = 0.6
"""The share of the run after which the masks stay as they are: the weights that are left go on learning."""
CHANGES = 100
"""Changes of the masks, at most."""


@dataclass(frozen=True)
class Wanted:
    """How a run is to be made smaller."""

    prune: float | None = None
    """Share of the weights, or of the channels, that is removed."""
    scope: Literal["global", "layer"] = "global"
    structured: bool = False
    """Remove channels, not weights."""
    teacher: Trained | None = None
    """A run to learn from."""
    int8: bool = False
    """Round kernels and activations in training."""
    steps: int | None = None
    """Default: as many as the run has made."""
    lr: float | None = None
    """Peak learning rate; default: the run's own."""
    name: str | None = None
    """Default: that of the run and ``-pruned``, ``-distilled`` or ``-int8``."""

    @property
    def kind(self) -> str:
        """What is done, in a word for the run's name."""
        if self.prune is not None:
            return "pruned"
        return "int8" if self.teacher is None else "distilled"


def compress(trained: Trained, wanted: Wanted, dataset: Any = None) -> Run:
    """Trains the run on, into a new run folder beside it that opens like any other.

    Raises UserError if the run cannot be made smaller in this way.
    """
    config = _settings(trained, wanted, dataset)
    if (trained.folder.parent / str(config.name)).exists():
        raise UserError(f"run '{config.name}' is there already; choose another --name for the smaller one")
    weights = read_weights(config, trained.system)
    assert weights is not None
    if wanted.structured:
        config, arrays = narrower(trained, config, weights.arrays, wanted.prune)
        weights = replace(weights, arrays=arrays)
    if wanted.teacher is not None:
        _check_teacher(trained, wanted.teacher)
    return fit(config, dataset, around=_around(wanted, config), weights=weights)


def _settings(trained: Trained, wanted: Wanted, dataset: Any) -> Train:
    """The run's own settings, for one run that starts from it."""
    own = trained.config
    known = {field.name: getattr(own, field.name) for field in fields(Train)}
    optimizer = own.task.optimizer
    if wanted.lr is not None:
        optimizer = replace(optimizer, lr=wanted.lr)
    known |= {
        "task": replace(own.task, optimizer=optimizer),
        "init_from": str(trained.folder),
        "reinit": "",
        "steps": wanted.steps or own.steps,
        "epochs": None,
        "eval_every": None,
        "save_every": None,
        "seeds": 1,
        # The best score may be that of a step at which less was pruned.
        "patience": 0,
        "runs": str(trained.folder.parent),
        "name": wanted.name or f"{trained.folder.name}-{wanted.kind}",
    }
    if isinstance(dataset, str):
        known["dataset"] = dataset
    return Train(**known)


def _around(wanted: Wanted, config: Train) -> Around:
    around = Around(int8=wanted.int8, narrower=wanted.structured)
    if wanted.teacher is not None:
        around = replace(around, teacher=str(wanted.teacher.folder.absolute()))
    if wanted.prune is not None and not wanted.structured:
        end = max(1, round(LAST * (config.steps or 0)))
        around = replace(around, prune=wanted.prune, scope=wanted.scope, end=end, every=max(1, end // CHANGES))
    return around


def narrower(
    trained: Trained, config: Train, arrays: dict[str, np.ndarray], share: float | None
) -> tuple[Train, dict[str, np.ndarray]]:
    """The settings of a network that is narrower by this share, and its arrays, made of the trained ones.

    Raises UserError if it is not known which channels depend on each other, or not one would be removed.
    """
    given = {path: array.shape for path, array in arrays.items()}
    groups = trained.system.channels(config.task, given)
    if not groups or share is None:
        raise UserError(
            f"--structured removes channels, and which of {_named(config.task)} depend on each other is not known; "
            "remove --structured, which sets single weights to zero"
        )
    task: Any = config.task
    wide, width = task.width, task.width * (1 - share)
    # By the setting, not by its value: a factor of 1 may be written as an int, and becomes .5.
    if get_type_hints(type(task))["width"] is int:
        width = max(1, round(width))
    task = replace(task, width=width)

    def model(key: jax.Array) -> Any:
        return model_of(trained.system.init(task, key, blank(trained.features, 2)))

    narrow = leaves_by_path(jax.eval_shape(model, jax.random.key(0)))
    shapes = {path: leaf.shape for path, leaf in narrow.items()}
    made: list[str] = []
    for group in groups:
        made += group.made
    if all(shapes[path] == given[path] for path in made):
        raise UserError(
            f"--prune {share:g} removes no whole channel of {_named(task)} with a width of {wide:g}; "
            "give a larger share"
        )
    return replace(config, task=task), narrowed(arrays, groups, shapes)


def _named(task: Any) -> str:
    """What a user calls the network: its model, and the architecture if there are several."""
    architecture = getattr(task, "architecture", None)
    return task.model if architecture is None else f"{task.model} ({architecture})"


def _check_teacher(trained: Trained, teacher: Trained) -> None:
    """Raises UserError if the run cannot learn from the teacher's answers."""
    if not trained.system.soft_labels:
        raise UserError(
            f"--distil needs a run that learns shares of classes, and '{trained.folder.name}' is a "
            f"{trained.system.name}; remove --distil"
        )
    if teacher.system.name != trained.system.name:
        raise UserError(
            f"--distil '{teacher.folder.name}' is a {teacher.system.name}; expected a {trained.system.name}, as "
            f"'{trained.folder.name}' is"
        )
    for told, of_run, of_teacher in (
        ("images", image_shape(trained.features), image_shape(teacher.features)),
        ("classes", class_names(trained.features), class_names(teacher.features)),
    ):
        if of_run != of_teacher:
            raise UserError(
                f"--distil '{teacher.folder.name}' was trained on other {told} than '{trained.folder.name}'; give a "
                f"{trained.system.name} of the same images and classes"
            )


def measured(trained: Trained, results: dict[str, Any], data: Any) -> dict[str, Any]:
    """What a run costs and how good it is, as JSON data.

    Args:
        trained: the run.
        results: its metrics on the test split.
        data: what ``open_data`` gave, for the images that are timed; None if the system reads none.

    Returns:
        The headline metric by its name; ``parameters`` and ``nonzero``; ``bytes`` of all arrays after deflate;
        ``operations`` for one example, multiplications and additions; ``milliseconds`` for one example on one core by
        ONNX Runtime, None if that is not installed or cannot run the model.
    """
    found: dict[str, Any] = {}
    for name in (*trained.system.headline, "loss"):
        if isinstance(results.get(name), int | float):
            found[name] = results[name]
            break
    arrays = {}
    for path, array in leaves_by_path(jax.device_get(model_of(trained.state))).items():
        player, kind, *_ = path.split("/")
        averaged = trained.state.players[player].average is not None
        if kind != ("params" if averaged else "average"):
            arrays[path] = np.asarray(array)
    learned = [array for path, array in arrays.items() if path.split("/")[1] in ("params", "average")]
    found["parameters"] = sum(array.size for array in learned)
    found["nonzero"] = sum(int(np.count_nonzero(array)) for array in learned)
    packed = [len(zlib.compress(array.tobytes(), 9)) for array in arrays.values()]
    return {**found, "bytes": sum(packed), "operations": _operations(trained), "milliseconds": _timed(trained, data)}


def _operations(trained: Trained) -> int:
    """Multiplications and additions for one example, those by zeros too."""
    given = [jax.ShapeDtypeStruct((1, *shape), dtype) for shape, dtype in inputs_of(trained).values()]
    with plain_forms():
        analysis: Any = jax.jit(function_of(trained)).lower(*given).cost_analysis()
    return round(analysis["flops"])


def _timed(trained: Trained, data: Any) -> float | None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = write(trained, "onnx", Path(folder))
        except UserError:
            return None
        return timed(path, examples_for(trained, data))["median"]
