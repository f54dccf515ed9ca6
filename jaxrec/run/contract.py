"""Whether a system keeps its contract, found out before the data are uploaded: from shapes, without computing."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxrec.data import Split
from jaxrec.errors import UserError, nearest
from jaxrec.metrics.meanings import MEANINGS
from jaxrec.metrics.worst import MOST
from jaxrec.run.drawing import PICTURE_EXAMPLES
from jaxrec.run.evaluation import batch_size
from jaxrec.run.session import Session
from jaxrec.settings import registry
from jaxrec.tasks.system import System

PICTURES = {"images": 5, "picture": 3, "indices": 2, "matrix": 2, "curves": 2, "counts": 2, "frames": 6}
"""How many axes the array of each kind of picture has."""


def check_contract(session: Session, state: Any) -> None:
    """Raises UserError if the functions of a system that is not jaxrec's own give what a run cannot use.

    The conformance suite checks jaxrec's own: to trace the deepest of them once more would take seconds.
    """
    system = session.system
    if system.name in registry.own():
        return
    train, shown = session.data.train, session.data.validation or session.data.train
    size = session.config.batch_size
    check_train_step(system, state, _batch(train, size))
    check_metrics(system, state, {**_batch(train, size), "real": np.ones(size, bool)})
    drawn = batch_size(PICTURE_EXAMPLES, shown)
    check_pictures("artifacts", jax.eval_shape(system.artifacts, state, _batch(shown, drawn)), cells=2)
    few = _batch(train, min(MOST, batch_size(PICTURE_EXAMPLES, train), size))
    for name, draw in (("worst", system.worst), ("seen", system.seen)):
        if draw is not None:
            check_pictures(name, jax.eval_shape(draw, state, few), cells=1)


def _batch(split: Split, size: int) -> dict[str, np.ndarray]:
    """A blank batch of examples of the split."""
    batch = {"index": np.zeros(size, np.int32), "epoch": np.zeros(size, np.int32)}
    for name, values in split.read(np.arange(1)).items():
        batch[name] = np.zeros((size, *values.shape[1:]), values.dtype)
    return batch


def check_train_step(system: System, state: Any, batch: dict[str, np.ndarray]) -> None:
    """Raises UserError if ``train_step`` gives no loss, or not the state of the next step in the same form."""
    step = jax.jit(system.train_step)
    found = jax.eval_shape(step, state, batch)
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], Mapping):
        raise UserError(f"train_step of '{system.name}' gives {_types(found)}; expected (state, metrics by name)")
    after, metrics = found
    if "loss" not in metrics:
        raise UserError(
            f"train_step of '{system.name}' gives the metrics {', '.join(metrics) or 'none'}, and no 'loss'; add it: a "
            "run stops if its loss is not finite"
        )
    for name, value in metrics.items():
        if value.shape:
            raise UserError(
                f"train_step of '{system.name}' gives '{name}' {value.shape}; expected one number: its mean"
            )
    _check_same_form(system, state, after)
    # Of this program nothing is left but the count: what it does not need is neither compiled nor sent.
    made = int(jax.jit(lambda state, batch: step(state, batch)[0].step - state.step)(state, batch))
    if made != 1:
        raise UserError(
            f"train_step of '{system.name}' adds {made} to the state's step; expected 1: return "
            "state.replace(step=state.step + 1, ...)"
        )


def _check_same_form(system: System, before: Any, after: Any) -> None:
    had, has = _forms(before), _forms(after)
    for path in {**had, **has}:
        if had.get(path) == has.get(path):
            continue
        was, now = had.get(path, "not there"), has.get(path, "gone")
        raise UserError(
            f"train_step of '{system.name}' gives a state of another form: state{path} was {was} and is {now}; what a "
            "step returns has to have the shapes and dtypes of what it took"
        )


def _forms(state: Any) -> dict[str, str]:
    """Shape and dtype of each array by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype} {leaf.shape}" for path, leaf in leaves}


def check_metrics(system: System, state: Any, batch: dict[str, np.ndarray]) -> None:
    """Raises UserError if ``eval_step`` gives no metrics, or none of a name in ``SCORE`` or ``HEADLINE``."""
    found = jax.eval_shape(system.eval_step, state, batch)
    if not isinstance(found, Mapping):
        raise UserError(f"eval_step of '{system.name}' gives {_types(found)}; expected metrics by name")
    for name, metric in found.items():
        if not hasattr(metric, "merge") or not hasattr(metric, "compute"):
            raise UserError(
                f"eval_step of '{system.name}' gives '{name}', {_types(metric)}; expected a metric that has merge and "
                "compute, such as jaxrec.metrics.Average"
            )
    values = _computed(found)
    if values is None:
        return
    numbers = [name for name, value in values.items() if np.ndim(value) == 0]
    if system.score is not None and system.score.name not in numbers:
        raise UserError(
            f"the system '{system.name}' is scored by '{system.score.name}', and eval_step gives "
            f"{', '.join(numbers)}{nearest(system.score.name, numbers) or '; name one of these in SCORE'}"
        )
    known = {*numbers, *system.meanings, *MEANINGS}
    for name in system.headline:
        if name not in known:
            raise UserError(
                f"HEADLINE of '{system.name}' names '{name}', which neither eval_step gives nor MEANINGS explains"
                f"{nearest(name, known) or ': remove it'}"
            )


def _computed(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The metrics' values if every sum were 1; None if a metric does not compute that."""
    values: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for metric in metrics.values():
                values |= jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), metric).compute()
    except Exception:  # Such numbers need not make sense to it; an evaluation then finds out what it gives.
        return None
    return values


def check_pictures(function: str, pictures: Any, cells: int) -> None:
    """Raises UserError if pictures by name, as ``function`` gives them, cannot be drawn.

    ``cells`` is how many axes of a grid's images are before those of an image and its neighbors: 2 for [R, C, ...].
    """
    if not isinstance(pictures, Mapping) or not all(isinstance(each, Mapping) for each in pictures.values()):
        raise UserError(f"{function} gives {_types(pictures)}; expected pictures by name, each a dict of arrays")
    for name, picture in pictures.items():
        kinds = [kind for kind in PICTURES if kind in picture]
        if not kinds:
            raise UserError(
                f"{function} gives the picture '{name}' with {', '.join(picture) or 'nothing'}; expected one of "
                f"{', '.join(PICTURES)}"
            )
        array = picture[kinds[0]]
        if len(array.shape) != PICTURES[kinds[0]]:
            raise UserError(
                f"{function} gives the picture '{name}' with {kinds[0]} {array.shape}; expected {PICTURES[kinds[0]]} "
                "axes: see the table of pictures in docs/add_a_system.md"
            )
        for told in ("label", "prediction", "confidence"):
            if told in picture and picture[told].shape != array.shape[:cells]:
                raise UserError(
                    f"{function} gives the picture '{name}' with {told} {picture[told].shape}; expected "
                    f"{array.shape[:cells]}, one for each of its images"
                )


def _types(found: Any) -> str:
    """What something is, in a word or two."""
    if isinstance(found, tuple):
        return f"({', '.join(_types(each) for each in found)})"
    if hasattr(found, "shape"):
        return f"an array {found.shape}"
    return f"a {type(found).__name__}"
