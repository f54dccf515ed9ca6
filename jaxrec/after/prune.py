"""Pruning by magnitude: the smallest weights become zero, step by step, while the others go on learning.

    from jaxrec.after.prune import Gradual, pruned, with_masks
    step = jax.jit(pruned(classifier.train_step, Gradual(sparsity=0.9, end=600)))
    state, metrics = step(with_masks(state), batch)

What is pruned are the kernels, arrays of two or more dimensions, of every player.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxrec.errors import UserError
from jaxrec.optimizers import flatten, unflatten
from jaxrec.tasks.state import Batch, Metrics, Player, State
from jaxrec.tasks.system import System

MASKS = "masks"
"""Where a state's ``extra`` keeps them: ``{player: {path of a kernel: bool, its shape}}``, False where it is zero."""
Masks = dict[str, jax.Array]
TrainStep = Callable[..., tuple[State, Metrics]]


@dataclass(frozen=True)
class Gradual:
    """How sparsity rises: fast at first, while many weights are superfluous, then more and more slowly.

    Raises UserError if the numbers make no schedule.
    """

    sparsity: float
    """Share of the weights that are zero at the end, in (0, 1)."""
    end: int
    """The step after which the masks stay as they are."""
    begin: int = 0
    """The first step at which weights are set to zero."""
    every: int = 10
    """Steps between two changes of the masks."""
    scope: Literal["global", "layer"] = "global"
    """global: the smallest weights of a player, wherever they are. layer: the same share of every kernel."""

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise UserError(f"the sparsity is {self.sparsity}; expected a share above 0 and below 1, such as .9")
        if not 0 <= self.begin < self.end or self.every < 1:
            raise UserError(
                f"the masks change from step {self.begin} to step {self.end}, every {self.every} steps; expected an "
                "end after the beginning, and at least 1 step between two changes"
            )


def cubic(schedule: Gradual, step: jax.Array | int) -> jax.Array:
    """The sparsity after ``step`` steps, float32: final x (1 - (1 - progress)^3) (Zhu & Gupta 2017)."""
    passed = (jnp.asarray(step, jnp.float32) - schedule.begin) / (schedule.end - schedule.begin)
    left = 1 - jnp.clip(passed, 0, 1)
    return schedule.sparsity * (1 - left**3)


def kernels(params: Any) -> dict[str, jax.Array]:
    """The arrays that are pruned, by path: those of two or more dimensions."""
    return {name: value for name, value in flatten(params).items() if value.ndim > 1}


def smallest_out(weights: dict[str, jax.Array], masks: Masks, share: jax.Array, scope: str = "global") -> Masks:
    """Masks that leave out exactly the smallest weights; what was left out before stays out.

    Args:
        weights: kernels by path.
        masks: their masks until now.
        share: of the weights that are left out, float32 scalar; rounded to the nearest number of weights.
        scope: ``global`` or ``layer``, as in ``Gradual``.
    """
    sizes = {}
    for name, value in weights.items():
        sizes[name] = jnp.where(masks[name], jnp.abs(value.astype(jnp.float32)), -1.0)
    if scope == "layer":
        return {name: _largest(size.ravel(), share).reshape(size.shape) for name, size in sizes.items()}
    together = _largest(jnp.concatenate([size.ravel() for size in sizes.values()]), share)
    found, start = {}, 0
    for name, size in sizes.items():
        found[name] = together[start : start + size.size].reshape(size.shape)
        start += size.size
    return found


def _largest(sizes: jax.Array, share: jax.Array) -> jax.Array:
    """Of numbers [N], all but the smallest ``share``: bool [N]. Of equal ones, the first are left out first."""
    order = jnp.argsort(sizes, stable=True)
    out = jnp.round(share * sizes.size).astype(jnp.int32)
    places = jnp.arange(sizes.size, dtype=jnp.int32)
    return jnp.zeros(sizes.shape, bool).at[order].set(places >= out)


def masked(player: Player, masks: Masks) -> Player:
    """The player with zeros in its kernels, and in their moving average, where the masks say so."""
    changed = player.replace(params=_masked(player.params, masks))
    if player.average is None:
        return changed
    return changed.replace(average=_masked(player.average, masks))


def _masked(params: Any, masks: Masks) -> Any:
    flat = flatten(params)
    for name, mask in masks.items():
        flat[name] = jnp.where(mask, flat[name], jnp.zeros((), flat[name].dtype))
    return unflatten(flat, params)


def with_masks(state: State) -> State:
    """The state with masks that leave nothing out, as ``pruned`` needs them."""
    masks = {}
    for name, player in state.players.items():
        masks[name] = {path: jnp.ones(value.shape, bool) for path, value in kernels(player.params).items()}
    return state.replace(extra={**state.extra, MASKS: masks})


def pruned(train_step: TrainStep, schedule: Gradual) -> TrainStep:
    """A training step after which the smallest weights are zero, as many as ``schedule`` says.

    It takes and gives a state ``with_masks``; its metrics have ``sparsity`` too, the share of the kernels' weights that
    is left out. Any system's step will do, of one player or several; it is pure like the step that it is made of.
    """

    def step(state: State, batch: Batch, *, axis_name: str | None = None) -> tuple[State, Metrics]:
        extra = dict(state.extra)
        before = extra.pop(MASKS)
        after, metrics = train_step(state.replace(extra=extra), batch, axis_name=axis_name)
        made = after.step
        due = ((made - schedule.begin) % schedule.every == 0) | (made == schedule.end)
        due &= (made >= schedule.begin) & (made <= schedule.end)
        masks, players = {}, {}
        for name, player in after.players.items():
            masks[name] = jax.lax.cond(
                due,
                lambda weights, masks: smallest_out(weights, masks, cubic(schedule, made), schedule.scope),
                lambda weights, masks: masks,
                kernels(player.params),
                before[name],
            )
            players[name] = masked(player, masks[name])
        after = after.replace(players=players, extra={**after.extra, MASKS: masks})
        return after, {**metrics, "sparsity": sparsity(masks)}

    return step


def sparsity(masks: dict[str, Masks]) -> jax.Array:
    """The share of all weights that the players' masks leave out, float32 scalar."""
    leaves = jax.tree.leaves(masks)
    kept = sum(jnp.sum(mask, dtype=jnp.float32) for mask in leaves)
    return 1 - kept / jnp.float32(sum(mask.size for mask in leaves))


def pruning(system: System, schedule: Gradual) -> System:
    """The system, trained by ``pruned``. It has no score: a step at which less is pruned would be the best."""

    def init(*args: Any, **options: Any) -> State:
        return with_masks(system.init(*args, **options))

    return replace(system, init=init, train_step=pruned(system.train_step, schedule), score=None)
