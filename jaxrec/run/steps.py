"""The compiled step of a run, and what it watches over."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.run.feed import Feed
from jaxrec.run.world.devices import Devices
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System

Step = Callable[[State, "Watch", dict[str, Any]], tuple[State, "Watch", dict[str, jax.Array]]]


class CompiledStep(NamedTuple):
    """``(state, watch, sent) -> (state, watch, metrics)``; the state's memory goes to its successor."""

    call: Callable[[Any, Any, Any], tuple[Any, Any, Any]]
    text: Callable[[], str]
    """The program as it was compiled; a line of it names an operation, and the function that it comes from."""

    def __call__(self, state: Any, watch: Any, sent: Any) -> tuple[Any, Any, Any]:
        """Makes the steps of one call."""
        return self.call(state, watch, sent)


class Watch(NamedTuple):
    """What is watched on the devices, so that watching costs no wait: int32 scalars."""

    failed: Any
    """The first step whose loss was not finite, or -1."""
    skipped: Any
    """Updates that were skipped."""


@dataclass
class Event:
    """The steps that a call has made."""

    step: int
    """Steps made so far."""
    state: Any
    """The state, on the devices; the next call takes its memory over."""
    watch: Any
    metrics: Any
    """The last step's metrics, on the devices."""


def watched_step(system: System, devices: Devices, skip: bool) -> Step:
    """The system's step, on a batch divided over the devices, with a watch over what is not finite.

    Args:
        system: whose ``train_step`` it is.
        devices: parameters are gathered from them before the step, and divided again after it.
        skip: skip and count an update whose loss or result is not finite; otherwise only note its step.
    """

    def step(state: State, watch: Watch, batch: dict[str, Any]) -> tuple[State, Watch, dict[str, jax.Array]]:
        with jax.sharding.use_abstract_mesh(devices.mesh.abstract_mesh):
            after, metrics = system.train_step(_gathered(devices, state), batch)
            after = devices.cut(after)
        finite = jnp.isfinite(metrics["loss"])
        if not skip:
            failed = jnp.where(~finite & (watch.failed < 0), after.step, watch.failed)
            return after, Watch(failed, watch.skipped), metrics
        finite &= _is_finite(after.players)
        players = jax.tree.map(partial(jnp.where, finite), after.players, state.players)
        extra = jax.tree.map(partial(jnp.where, finite), after.extra, state.extra)
        watch = Watch(watch.failed, watch.skipped + (~finite).astype(jnp.int32))
        return after.replace(players=players, extra=extra), watch, metrics

    return step


def _is_finite(players: Any) -> jax.Array:
    """Whether all numbers are finite: a gradient that is not leaves its mark on parameters or optimizer."""
    numbers = [leaf for leaf in jax.tree.leaves(players) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in numbers]))


def _gathered(devices: Devices, state: State) -> State:
    """The state with what the models read put together; the update is made on each device's part."""
    players = {}
    for name, player in state.players.items():
        players[name] = player.replace(params=devices.gather(player.params), stats=devices.gather(player.stats))
    return state.replace(players=players)


def unharmed(devices: Devices, state: Any) -> Any:
    """The watch over a state, or over each state in a list, whose losses were all finite so far."""

    def watch(each: State) -> Watch:
        shape = each.step.shape
        return devices.copy(Watch(np.full(shape, -1, np.int32), np.zeros(shape, np.int32)))

    return jax.tree.map(watch, state, is_leaf=lambda each: isinstance(each, State))


def program(step: Step, feed: Feed, devices: Devices) -> Callable[..., Any]:
    """``(state, watch, sent, examples) -> (state, watch, metrics)``, of all steps that a call makes. Pure."""

    # The functions' names are those of the programs in a trace.
    def train_step(state: State, watch: Watch, sent: Any, examples: Any) -> Any:
        return step(state, watch, feed.batch(sent, examples, state.step))

    def train_steps(state: State, watch: Watch, sent: Any, examples: Any) -> Any:
        batches = feed.batch(sent, examples, state.step)

        def body(carry: tuple[State, Watch], batch: Any) -> tuple[tuple[State, Watch], Any]:
            state, watch, metrics = step(*carry, batch)
            return (state, watch), metrics

        # No loop on a CPU: XLA has no fast convolutions there.
        unroll = len(batches["index"]) if devices.platform == "cpu" else 1
        (state, watch), metrics = jax.lax.scan(body, (state, watch), batches, unroll=unroll)
        return state, watch, jax.tree.map(lambda values: values[-1], metrics)

    return train_step if feed.steps_per_call == 1 else train_steps


def compile_step(
    system: System, feed: Feed, devices: Devices, state: Any, watch: Any, sent: Any, *, skip: bool = False
) -> CompiledStep:
    """The compiled program for the shapes of the given arguments; a call of fewer steps compiles another.

    Args:
        system: the system to train.
        feed: makes batches of what is sent.
        devices: the devices that share the work.
        state: a state, or states of several members stacked along a first axis; what is sent is then stacked too.
        watch: as ``unharmed`` makes it.
        sent: what a call sends, such as that of the feed's first call.
        skip: as in ``watched_step``.
    """
    steps = program(watched_step(system, devices, skip), feed, devices)
    if state.step.ndim:
        steps = jax.vmap(steps, in_axes=(0, 0, 0, None))
    jitted = jax.jit(steps, donate_argnums=(0, 1))
    first = jitted.lower(state, watch, sent, feed.examples).compile()
    compiled = {_shapes(sent): first}

    def call(state: Any, watch: Any, sent: Any) -> tuple[Any, Any, Any]:
        made = compiled.get(_shapes(sent), jitted)
        return devices.finish(made(state, watch, sent, feed.examples))

    return CompiledStep(call, lambda: str(first.as_text()))


def _shapes(sent: Any) -> tuple[Any, ...]:
    return tuple(leaf.shape for leaf in jax.tree.leaves(sent))


def run_steps(step: CompiledStep, feed: Feed, state: Any, watch: Any, start: int, end: int) -> Iterator[Event]:
    """Makes the steps from ``start`` to ``end``, and yields one event for each call of the compiled step.

    The state of an event is given up to the next call: copy what you want to keep. Nothing is moved between the host
    and the devices inside a call; a transfer raises.
    """
    for call in feed.calls(start, end):
        with jax.transfer_guard("disallow"):
            state, watch, metrics = step(state, watch, call.sent)
        yield Event(call.end, state, watch, metrics)
