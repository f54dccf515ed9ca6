"""What an agent acts in: environments as pairs of pure functions, and one of them, a box that moves over an image.

Everything here is of a single episode; ``jax.vmap`` makes many of it.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxrec.boxes import iou
from jaxrec.errors import UserError
from jaxrec.parallel import per_replica

Reward = Literal["sign", "change"]


class Environment(NamedTuple):
    """A pair of pure functions, and how many actions there are."""

    reset: Callable[[jax.Array], tuple[Any, Any]]
    """``reset(key) -> (observation, state)``: the start of an episode."""
    step: Callable[[Any, jax.Array, jax.Array], tuple[Any, Any, jax.Array, jax.Array]]
    """``step(state, action, key) -> (observation, state, reward, done)``: what an action, int32 scalar, leads to.
    The reward is a float32 scalar, and ``done`` a bool scalar: the episode has ended."""
    actions: int
    """Actions are numbered from 0 to this, which is not among them."""
    promising: Callable[[Any], jax.Array] | None = None
    """``promising(state) -> bool [actions]``: the actions that guided exploration chooses among, if any is; None if
    nobody knows."""


class Gymnax(Protocol):
    """The interface of an environment of gymnax (https://github.com/RobertTLange/gymnax)."""

    num_actions: int

    def reset(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        """The first observation and the state."""
        ...

    def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple[Any, ...]:
        """Observation, state, reward, done and further information; from version 1 on, ``terminated`` and ``truncated``
        in place of done."""
        ...


def from_gymnax(environment: Gymnax, params: Any = None) -> Environment:
    """An environment with gymnax's interface as an ``Environment``; ``params`` are its own, which stay as they are.

    An episode that its own limit of time truncates has ended like any other. Raises UserError if it lacks ``reset``,
    ``step`` or ``num_actions``, or if its actions are not numbered.
    """
    for name in ("reset", "step", "num_actions"):
        if not hasattr(environment, name):
            raise UserError(
                f"the environment is a {type(environment).__name__} without {name}; expected gymnax's interface: "
                "reset(key, params), step(key, state, action, params) and num_actions"
            )
    _check_numbered(environment, params)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        return environment.reset(key, params)

    def step(state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, Any, jax.Array, jax.Array]:
        observation, state, reward, *ends, _ = environment.step(key, state, action, params)
        done = jnp.stack([jnp.asarray(end, bool) for end in ends]).any()
        return observation, state, jnp.asarray(reward, jnp.float32), done

    return Environment(reset, step, environment.num_actions)


def _check_numbered(environment: Any, params: Any) -> None:
    """Raises UserError if the environment says that its actions are other than numbers from 0 on."""
    if not callable(getattr(environment, "action_space", None)):
        return
    known = getattr(environment, "default_params", None) if params is None else params
    space = environment.action_space(known)
    if not hasattr(space, "n"):
        raise UserError(
            f"the actions of {type(environment).__name__} are of the kind {type(space).__name__}; expected numbered "
            "actions, gymnax's Discrete"
        )


ACTIONS = ("left", "right", "up", "down", "smaller", "larger", "flatter", "narrower", "stop")
"""What can be done to the box: four moves, two sizes, two shapes, and the end."""
STOP = len(ACTIONS) - 1
LEAST_SIDE = 0.04
"""A box's shortest side, as a share of the image's."""
STOPPED_WELL = 3.0
"""Reward of stopping on the object; stopping elsewhere costs as much."""
NOTICED = 1e-6
"""Overlaps that differ by less are equal: rounding makes as much."""


class Rules(NamedTuple):
    """How the box moves, and what is rewarded."""

    moves: int = 12
    """Actions in an episode, at most; the box is where the last one left it."""
    shift: float = 0.2
    """A move, as a share of the box's side."""
    zoom: float = 0.75
    """Factor of both sides when the box gets smaller."""
    squeeze: float = 0.8
    """Factor of one side when the box gets flatter or narrower."""
    enough: float = 0.6
    """IoU from which it is right to stop."""
    reward: Reward = "sign"
    """sign: 1 if an action raises the IoU, else -1. change: ten times the change of the IoU."""


class Search(NamedTuple):
    """The state of an episode with a box."""

    box: jax.Array
    """float32 [4]: y0, x0, y1, x1 as shares of the image's sides."""
    history: jax.Array
    """int32 [moves]: the actions so far, then -1."""
    made: jax.Array
    """int32 scalar: how many actions were made."""


Seen = dict[str, jax.Array]
"""What the agent is told: ``box`` and ``history`` as in ``Search``. The image is the same for the whole episode."""


def box_search(boxes: jax.Array, there: jax.Array, rules: Rules) -> Environment:
    """A box that begins as the whole image and is to end as one of the objects' boxes (Caicedo & Lazebnik 2015).

    An action is rewarded if it raises the IoU with the object that the box overlaps most, and the end if that IoU is
    ``rules.enough``. An episode that runs out of moves ends as if it had been stopped.

    Args:
        boxes: the objects' boxes, float32 [N, 4], as shares of the image's sides.
        there: which of them there are, bool [N].
        rules: how the box moves, and what is rewarded.
    """

    def reset(key: jax.Array) -> tuple[Seen, Search]:
        whole = jnp.array([0.0, 0.0, 1.0, 1.0], jnp.float32)
        state = Search(whole, jnp.full(rules.moves, -1, jnp.int32), jnp.int32(0))
        return _seen(state), state

    def step(state: Search, action: jax.Array, key: jax.Array) -> tuple[Seen, Search, jax.Array, jax.Array]:
        reward, done = judged(state, action)
        box = moved(state.box, rules)[action]
        history = state.history.at[state.made].set(action)
        state = Search(box, history, state.made + 1)
        return _seen(state), state, reward, done

    def judged(state: Search, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The reward of an action, and whether it ends the episode."""
        before = overlap(state.box, boxes, there)
        after = overlap(moved(state.box, rules)[action], boxes, there)
        stopped = action == STOP
        done = stopped | (state.made + 1 >= rules.moves)
        change = after - before
        reward = 10 * change if rules.reward == "change" else jnp.where(change > NOTICED, jnp.float32(1), -1.0)
        end = jnp.where(after >= rules.enough, jnp.float32(STOPPED_WELL), -STOPPED_WELL)
        reward = jnp.where(stopped, 0.0, reward) + jnp.where(done, end, 0.0)
        return reward.astype(jnp.float32), done

    def promising(state: Search) -> jax.Array:
        before = overlap(state.box, boxes, there)
        after = overlap(moved(state.box, rules), boxes, there)
        better = after > before + NOTICED
        return better.at[STOP].set(before >= rules.enough)

    return Environment(reset, step, len(ACTIONS), promising)


def _seen(state: Search) -> Seen:
    return {"box": state.box, "history": state.history}


def moved(box: jax.Array, rules: Rules) -> jax.Array:
    """Where each of the actions takes a box [4]: float32 [actions, 4], inside the image.

    What reaches over the image's border is cut off, so that a move towards it trims the box.
    """
    center = (box[:2] + box[2:]) / 2
    sides = box[2:] - box[:2]
    # By action: how far the center goes, in sides of the box, and what the sides are multiplied by.
    shifts = [(0, -1), (0, 1), (-1, 0), (1, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]
    zoom, squeeze = rules.zoom, rules.squeeze
    factors = [*[(1, 1)] * 4, (zoom, zoom), (1 / zoom, 1 / zoom), (squeeze, 1), (1, squeeze), (1, 1)]
    centers = center + rules.shift * sides * jnp.array(shifts, jnp.float32)
    grown = jnp.maximum(sides * jnp.array(factors, jnp.float32), LEAST_SIDE)
    # A center stays far enough inside that a box of the least side is left.
    centers = jnp.clip(centers, LEAST_SIDE / 2, 1 - LEAST_SIDE / 2)
    corners = jnp.concatenate([centers - grown / 2, centers + grown / 2], axis=-1)
    # Stopping leaves the box as it is, to the last bit.
    return jnp.clip(corners, 0.0, 1.0).at[STOP].set(box)


def overlap(box: jax.Array, boxes: jax.Array, there: jax.Array) -> jax.Array:
    """IoU, float32 [...], of boxes [..., 4] with the one of ``boxes`` [N, 4] that each overlaps most; 0 if none is."""
    overlaps = jnp.where(there, iou(box[..., None, :], boxes), 0.0)
    return overlaps.max(axis=-1)


def greedy_action(box: jax.Array, boxes: jax.Array, there: jax.Array, rules: Rules) -> jax.Array:
    """What somebody would do who knows the objects and looks one action ahead: int32 scalar.

    The action that raises the IoU most, or the end if none does.
    """
    after = overlap(moved(box, rules), boxes, there)
    best = after.argmax()
    return jnp.where(after[best] > after[STOP] + NOTICED, best, STOP).astype(jnp.int32)


class Episode(NamedTuple):
    """What happened in episodes of the leading shape [...], in T moves."""

    observation: Any
    """What was seen before each move and after the last, arrays [..., T + 1, ...]."""
    action: jax.Array
    """int32 [..., T]."""
    reward: jax.Array
    """float32 [..., T]; 0 after the end."""
    done: jax.Array
    """bool [..., T]: this move ended the episode."""
    there: jax.Array
    """bool [..., T]: the episode had not ended before this move."""
    state: Any
    """The environment's state when the episode ended, or after the last move."""


Choose = Callable[[Any, Any, jax.Array], jax.Array]
"""``choose(observation, state, key) -> int32 [...]``: an action for each of the episodes."""


def play(
    reset: Callable[[jax.Array], tuple[Any, Any]],
    step: Callable[[Any, jax.Array, jax.Array], tuple[Any, Any, jax.Array, jax.Array]],
    choose: Choose,
    keys: jax.Array,
    moves: int,
    axis_name: str | None = None,
) -> Episode:
    """Plays ``moves`` moves of each episode; one that ends sooner stays as it is.

    Args:
        reset: an environment's, mapped over the episodes.
        step: likewise.
        choose: the policy, asked for all episodes at once.
        keys: a key for each episode, of any shape.
        moves: how many.
        axis_name: the mapped axis of ``pmap`` or ``shard_map``: each replica plays its own episodes.
    """

    def keys_of(move: jax.Array) -> tuple[jax.Array, jax.Array]:
        folded = _apart(keys, move)
        return _apart(folded, 0), _apart(folded, 1)

    def move(carry: tuple[Any, Any, jax.Array], number: jax.Array) -> tuple[Any, Any]:
        observation, state, ended = carry
        chosen_by, moved_by = keys_of(number)
        action = choose(observation, state, chosen_by)
        seen, after, reward, done = step(state, action, moved_by)
        kept_seen, kept = _unless(ended, (observation, state), (seen, after))
        record = (observation, action, jnp.where(ended, 0.0, reward), done & ~ended, ~ended)
        return (kept_seen, kept, ended | done), record

    start = per_replica((*reset(keys), jnp.zeros(keys.shape, bool)), axis_name)
    numbers = jnp.arange(1, moves + 1, dtype=jnp.int32)
    (last, state, _), record = jax.lax.scan(move, start, numbers)
    observations, action, reward, done, there = jax.tree.map(lambda x: jnp.moveaxis(x, 0, keys.ndim), record)
    observations = jax.tree.map(
        lambda x, end: jnp.concatenate([x, jnp.expand_dims(end, keys.ndim)], keys.ndim), observations, last
    )
    return Episode(observations, action, reward, done, there, state)


def _apart(keys: jax.Array, number: jax.typing.ArrayLike) -> jax.Array:
    """Other keys of the same shape: what they draw does not depend on what the others draw."""
    fold = jax.random.fold_in
    for _ in range(keys.ndim):
        fold = jax.vmap(fold, (0, None))
    return fold(keys, number)


def _unless(ended: jax.Array, before: Any, after: Any) -> Any:
    """``before`` if an episode had ended, and ``after`` if not."""

    def choose(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(ended.reshape(ended.shape + (1,) * (new.ndim - ended.ndim)), old, new)

    return jax.tree.map(choose, before, after)
