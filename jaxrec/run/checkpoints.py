"""Checkpoints of a run: model, training state and progress saved together, the latest and the best kept (Orbax)."""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import traverse_util
from orbax.checkpoint import checkpoint_managers

from jaxrec.errors import UserError
from jaxrec.tasks.state import State

ITEMS = ("model", "train", "progress")


def split_state(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state as (model, train): what inference needs, and what going on with the training needs besides."""
    model, train = {}, {"step": state.step, "key": state.key, "hyper": state.hyper, "opt_state": {}}
    for name, player in state.players.items():
        model[name] = {"params": player.params, "stats": player.stats}
        if player.average is not None:
            model[name]["average"] = player.average
        train["opt_state"][name] = player.opt_state
    return model, train


def join_state(state: State, model: dict[str, Any], train: dict[str, Any] | None = None) -> State:
    """``state`` with its arrays replaced by restored ones; without ``train``, the optimizer's are left as they are."""
    players = {name: player.replace(**model[name]) for name, player in state.players.items()}
    if train is None:
        return state.replace(players=players)
    opt_state = train["opt_state"]
    players = {name: player.replace(opt_state=opt_state[name]) for name, player in players.items()}
    return state.replace(step=train["step"], key=train["key"], hyper=train["hyper"], players=players)


def saved_shapes(run: Path, step: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a saved model's arrays by path, such as ``net/params/conv1/kernel``, from metadata alone."""
    item = run / "checkpoints" / str(step) / "model"
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            metadata: Any = checkpointer.metadata(item)
        return _shapes(metadata.item_metadata.tree)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"checkpoint '{item}' is damaged; restore it, or train again") from error


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    flat: Any = traverse_util.flatten_dict(tree, sep="/")
    return {name: tuple(leaf.shape) for name, leaf in flat.items()}


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


class Checkpoints:
    """The checkpoints in ``run/checkpoints``; a context manager that waits at its end for what is being saved."""

    def __init__(self, run: Path, *, read_only: bool = False) -> None:
        # Keeping the best alone would delete the latest, and a resumed run would go back to the best.
        keep = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(1),
                checkpoint_managers.BestN(
                    get_metric_fn=_score, reverse=True, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep, best_fn=_score, best_mode="min", read_only=read_only, create=not read_only
        )
        self.folder = run / "checkpoints"
        if read_only and not self.folder.is_dir():
            raise UserError(f"run '{run.name}' has no checkpoint yet; let it train until its first, or start it again")
        self.manager = ocp.CheckpointManager(self.folder, item_names=ITEMS, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.manager.close()
        except Exception:
            # What ended the run is worth more than what followed from it.
            if kind is None:
                raise

    def check_room(self, state: State) -> None:
        """Raises UserError where the disk has no room for a checkpoint; Orbax fails far less clearly."""
        needed = 2**16 + sum(leaf.nbytes for leaf in jax.tree.leaves(split_state(state)))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"a checkpoint needs {needed / 2**20:.1f} MiB and '{self.folder}' has room for {free / 2**20:.1f} MiB; "
                "make room, or choose another place with --runs"
            )

    def save(self, step: int, state: State, progress: dict[str, Any], score: float | None) -> None:
        """Saves in the background; ``score`` is what the best checkpoint has least of (None: no candidate)."""
        model, train = split_state(state)
        arguments = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            train=ocp.args.StandardSave(train),
            # A copy, because it is written while the run goes on.
            progress=ocp.args.JsonSave(dict(progress)),
        )
        self.wait()
        self.check_room(state)
        self.manager.save(step, args=arguments, metrics=None if score is None else {"score": score})

    def wait(self) -> None:
        """Waits for what is being saved; raises UserError where that failed."""
        try:
            self.manager.wait_until_finished()
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"a checkpoint could not be written to '{self.folder}' ({reason}); make room or give permission"
            ) from error

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are kept."""
        return list(self.manager.all_steps())

    def latest(self) -> int:
        """The step of the newest checkpoint; raises UserError where there is none."""
        step = self.manager.latest_step()
        if step is None:
            raise UserError(f"there is no checkpoint in '{self.folder}' yet; start the run again under another --name")
        return step

    def best(self) -> int:
        """The step of the checkpoint with the least score; the newest where none has one."""
        best = self.manager.best_step()
        return self.latest() if best is None else best

    def restore(self, state: State, step: int) -> tuple[State, dict[str, Any]]:
        """The state and the progress saved at ``step``; ``state`` gives shapes and placement."""
        model, train = (jax.tree.map(ocp.utils.to_shape_dtype_struct, part) for part in split_state(state))
        self._check_fits(step, model)
        arguments = ocp.args.Composite(
            model=ocp.args.StandardRestore(model),
            train=ocp.args.StandardRestore(train),
            progress=ocp.args.JsonRestore(),
        )
        found = self._restore(step, arguments)
        return join_state(state, found["model"], found["train"]), found["progress"]

    def restore_model(self, state: State, step: int) -> State:
        """``state`` with the parameters and statistics saved at ``step``."""
        model = jax.tree.map(ocp.utils.to_shape_dtype_struct, split_state(state)[0])
        self._check_fits(step, model)
        found = self._restore(step, ocp.args.Composite(model=ocp.args.StandardRestore(model)))
        return join_state(state, found["model"])

    def _check_fits(self, step: int, model: dict[str, Any]) -> None:
        """Raises UserError where the model saved at ``step`` has other arrays; Orbax fails far less clearly."""
        saved, expected = saved_shapes(self.folder.parent, step), _shapes(model)
        for name in sorted(saved.keys() | expected.keys()):
            shape, fits = saved.get(name), expected.get(name)
            if shape != fits:
                raise UserError(
                    f"checkpoint {step} in '{self.folder}' is of another model: its {name} has shape {shape}, "
                    f"expected {fits}; put the run's own checkpoints back, or train again"
                )

    def _restore(self, step: int, arguments: Any) -> Any:
        try:
            return self.manager.restore(step, args=arguments)
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"checkpoint {step} in '{self.folder}' does not fit the run's settings ({reason}); "
                "it is of another model or damaged: put the run's own checkpoints back, or train again"
            ) from error
