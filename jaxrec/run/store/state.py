"""A state in two parts, as checkpoints hold it; saving and restoring one in a loop of your own."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from jaxrec.errors import UserError
from jaxrec.run.store.hashes import hash_leaves
from jaxrec.run.store.leaves import from_host, leaves_by_path, misfit, to_host
from jaxrec.tasks.state import State

T = TypeVar("T")

MODEL = ("params", "stats", "average")
"""The fields of a player that inference needs."""


def split_state(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state as (model, train): what inference needs, and every other leaf.

    ``model`` is ``{player: {"params", "stats", "average"}}``, without ``average`` if there is none. ``train`` holds the
    other fields of the state by name and, under ``players``, the other fields of each player. Both are read from the
    dataclasses, so a field that is added to either is saved without a change here.
    """
    model: dict[str, Any] = {}
    players: dict[str, Any] = {}
    for name, player in state.players.items():
        fields = _fields(player)
        model[name] = {each: fields.pop(each) for each in MODEL}
        if model[name]["average"] is None:
            del model[name]["average"]
        players[name] = fields
    return model, {**_fields(state), "players": players}


def model_of(state: State) -> dict[str, Any]:
    """What inference needs of a state: each player's ``params``, ``stats`` and, if there is one, ``average``."""
    return split_state(state)[0]


def join_state(state: State, model: dict[str, Any], train: dict[str, Any] | None = None) -> State:
    """``state`` with the parts of `split_state` put in; without ``train``, only the model is replaced."""
    players = {name: player.replace(**model[name]) for name, player in state.players.items()}
    if train is None:
        return state.replace(players=players)
    for name, fields in train["players"].items():
        players[name] = players[name].replace(**fields)
    return state.replace(**{**train, "players": players})


def _fields(node: Any) -> dict[str, Any]:
    """The fields of a flax dataclass that hold arrays; the others are settings and code."""
    fields = [each.name for each in dataclasses.fields(node) if each.metadata.get("pytree_node", True)]
    return {name: getattr(node, name) for name in fields}


def nested(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Arrays by path as the tree of dicts that Orbax writes. It writes no empty arrays, so they are left out."""
    return traverse_util.unflatten_dict({path: array for path, array in arrays.items() if array.size}, sep="/")


def flat(tree: dict[str, Any], like: dict[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `nested`; ``like``, leaves by path, says which arrays are empty."""
    empty = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in like.items() if not leaf.size}
    return {**empty, **leaves_by_path(tree)}


def save_state(folder: str | Path, state: Any) -> None:
    """Saves every leaf of a state, for a training loop of your own.

    ``state`` is a ``State`` or any other tree of jax and numpy arrays, random keys and Python numbers. What is static,
    such as settings and models, is code and is not saved. The folder appears when everything is written. Raises
    UserError if it exists already or cannot be written.

    Example::

        for step in range(1, 1001):
            state, metrics = train_step(state, batches[step])
            if step % 100 == 0:
                save_state(f"states/{step}", state)
        state = load_state("states/1000", init(config, key, batch))
    """
    path = Path(folder).absolute()
    if path.exists():
        raise UserError(f"'{folder}' exists already and a saved state is not overwritten; choose another folder")
    arrays = to_host(state)
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(nested(arrays)),
        hashes=ocp.args.JsonSave(hash_leaves(arrays).by_path()),
    )
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(path, args=items)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"the state cannot be saved in '{folder}' ({reason}); make room or give permission") from error


def load_state(folder: str | Path, like: T) -> T:
    """The state that `save_state` wrote, bit for bit.

    ``like`` is a state of the same structure, such as a new one: it gives the static fields, and the devices that the
    arrays are put on. Raises UserError if nothing was saved in the folder, if the saved state is damaged, or if it does
    not fit ``like``; then the first array that does not fit is named.
    """
    path = Path(folder).absolute()
    if not path.is_dir():
        raise UserError(f"there is no saved state '{folder}'; give a folder that save_state wrote")
    expected = leaves_by_path(like)
    items = ocp.args.Composite(state=ocp.args.StandardRestore(), hashes=ocp.args.JsonRestore())
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            found = checkpointer.restore(path, args=items)
        arrays = flat(found["state"], expected)
        changed = changed_array(arrays, found["hashes"])
    except Exception as error:  # Orbax raises a dozen kinds of errors on damaged files.
        raise UserError(f"the state in '{folder}' is damaged ({first_line(error)}); restore another") from error
    if changed is not None:
        raise UserError(f"the state in '{folder}' is damaged ({changed} is not what was saved); restore another")
    difference = misfit(arrays, expected)
    if difference is not None:
        raise UserError(f"the state in '{folder}' does not fit: {difference}; give load_state a state of its structure")
    return from_host(like, arrays)


def changed_array(arrays: dict[str, np.ndarray], hashes: dict[str, int]) -> str | None:
    """The path of the first array whose hash is not the saved one; None if all are as saved."""
    for path, value in hash_leaves(arrays).by_path().items():
        if hashes.get(path) != value:
            return path
    return None


def first_line(error: Exception) -> str:
    """What an error says, in one line of at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
