"""Where a run's batches come from: what is sent to the devices for each call of the compiled step."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.data import streamed
from jaxrec.errors import UserError
from jaxrec.run.data import Data
from jaxrec.run.world import processes
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Train

AHEAD = 64
"""How many steps' example indices are sent to the devices per transfer.

Sending one step's takes as long as sending 64's, about 5 % of a small step on a CPU.
"""


class Call(NamedTuple):
    """One call of the compiled step."""

    end: int
    """Steps made after it."""
    sent: Any
    """What the step takes."""


class Feed(ABC):
    """Batches of a run, as a function of its seed and the step."""

    def __init__(self, devices: Devices, leading: int = 0, steps_per_call: int = 1, examples: Any = None) -> None:
        self.devices = devices
        self.leading = leading
        """Axes before that of the examples in what is sent."""
        self.steps_per_call = steps_per_call
        """How many steps one call makes, at most."""
        self.examples: dict[str, Any] = examples or {}
        """The training examples if they live on the devices, else empty."""

    @abstractmethod
    def on_host(self, start: int, end: int) -> Iterator[Call]:
        """The calls that make the steps from ``start`` to ``end``, with what they send still on the host."""

    @abstractmethod
    def batch(self, sent: Any, examples: dict[str, Any], step: jax.Array) -> dict[str, Any]:
        """Inside the compiled step: the batch of ``step``, or a stack of batches if a call makes several steps."""

    def calls(self, start: int, end: int) -> Iterator[Call]:
        """The calls that make the steps from ``start`` to ``end``; what several of them share is sent once."""
        before, sent = None, None
        for call in self.on_host(start, end):
            if call.sent is not before:
                before, sent = call.sent, self.send(call.sent)
            yield Call(call.end, sent)

    def send(self, batch: Any) -> Any:
        """What a call takes, put on the devices."""
        return self.devices.share(batch, self.leading)


def open_feed(config: Train, data: Data, devices: Devices, seed: int, examples: dict[str, Any] | None = None) -> Feed:
    """The feed that suits the data and the devices; puts the training examples there if they fit.

    Args:
        config: the settings of the run.
        data: its data; ``resident`` says whether the examples live on the devices.
        devices: the devices that share the work.
        seed: determines the order of the examples.
        examples: those that another feed has put on the devices already.

    Raises:
        UserError: the number of steps per call would pass over a step that is logged, evaluated or saved.
    """
    steps = steps_per_call(config, devices)
    if not data.resident:
        return Streamed(config, data, devices, seed, steps)
    examples = examples or devices.copy(data.train.load())
    if steps == 1:
        return Resident(config, data, devices, seed, examples)
    return Fused(config, data, devices, seed, steps, examples)


def steps_per_call(config: Train, devices: Devices) -> int:
    """How many steps one compiled program makes, at most.

    Raises UserError if the number asked for would pass over a step that is logged, evaluated or saved.
    """
    pauses = {"log-every": config.log_every, "eval-every": config.eval_every, "save-every": config.save_every}
    if config.fuse_steps == "auto":
        if devices.platform == "cpu":
            # A loop's convolutions are 20 times slower on a CPU, and unrolled steps gain too little for compiling them.
            return 1
        return math.gcd(*filter(None, pauses.values()))
    for option, every in pauses.items():
        if every and every % config.fuse_steps:
            raise UserError(
                f"--fuse-steps {config.fuse_steps} passes over steps of --{option} {every}; give a divisor of {every}"
            )
    return config.fuse_steps


class Orders(NamedTuple):
    """The examples of `AHEAD` steps from a multiple of it on, int32 [AHEAD, B]; each step takes its own row."""

    index: Any
    epoch: Any


class Resident(Feed):
    """The examples live on the devices; the indices of the next `AHEAD` steps are sent at once."""

    def __init__(self, config: Train, data: Data, devices: Devices, seed: int, examples: Any) -> None:
        super().__init__(devices, leading=1, examples=examples)
        self.size, self.order, self.seed = config.batch_size, data.order, seed

    def on_host(self, start: int, end: int) -> Iterator[Call]:
        """A call for each step; `AHEAD` of them share what is sent."""
        orders = None
        for step in range(start, end):
            if orders is None or step % AHEAD == 0:
                orders = self._orders(step - step % AHEAD)
            yield Call(step + 1, orders)

    def _orders(self, first: int) -> Orders:
        rows = [self.order(self.seed, first + row, self.size) for row in range(AHEAD)]
        index, epoch = zip(*rows, strict=True)
        return Orders(np.stack(index), np.stack(epoch))

    def batch(self, sent: Orders, examples: dict[str, Any], step: jax.Array) -> dict[str, Any]:
        """The examples of the step's own row."""
        row = step % AHEAD
        return gathered({"index": sent.index[row], "epoch": sent.epoch[row]}, examples)


class Streamed(Feed):
    """The examples are read while the run goes on, and sent with each call: of one step, or stacked for several."""

    def __init__(self, config: Train, data: Data, devices: Devices, seed: int, steps: int) -> None:
        super().__init__(devices, leading=int(steps > 1), steps_per_call=steps)
        self.size, self.seed, self.train, self.order = config.batch_size, seed, data.train, data.order

    def on_host(self, start: int, end: int) -> Iterator[Call]:
        """A call for each step, or for each group of steps."""
        share = processes.share()
        batches = streamed(self.train, self.seed, self.size, start, steps=end - start, share=share, order=self.order)
        if self.steps_per_call > 1:
            return grouped(batches, start, end, self.steps_per_call)
        return (Call(step, batch) for step, batch in enumerate(batches, start + 1))

    def batch(self, sent: dict[str, Any], examples: dict[str, Any], step: jax.Array) -> dict[str, Any]:
        """What was sent."""
        return sent


class Fused(Feed):
    """The examples live on the devices; the indices of the steps that one call makes are sent with it."""

    def __init__(self, config: Train, data: Data, devices: Devices, seed: int, steps: int, examples: Any) -> None:
        super().__init__(devices, leading=1, steps_per_call=steps, examples=examples)
        self.size, self.order, self.seed = config.batch_size, data.order, seed

    def on_host(self, start: int, end: int) -> Iterator[Call]:
        """A call for each group of steps."""
        return grouped(self._orders(start, end), start, end, self.steps_per_call)

    def _orders(self, start: int, end: int) -> Iterator[dict[str, np.ndarray]]:
        for step in range(start, end):
            index, epoch = self.order(self.seed, step, self.size)
            yield {"index": index, "epoch": epoch}

    def batch(self, sent: dict[str, Any], examples: dict[str, Any], step: jax.Array) -> dict[str, Any]:
        """The stack of the steps' examples."""
        return gathered(sent, examples)


def gathered(places: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    """The examples at ``places["index"]``, with the places themselves."""
    return {**places, **{name: values[places["index"]] for name, values in examples.items()}}


def grouped(batches: Iterator[dict[str, np.ndarray]], start: int, end: int, steps: int) -> Iterator[Call]:
    """Calls of ``steps`` steps each, [steps, B, ...], on the host.

    They begin at multiples of ``steps``; a step before the first multiple or after the last is a call of its own.
    """
    while start < end:
        count = steps if start % steps == 0 and start + steps <= end else 1
        start += count
        yield Call(start, stack(list(itertools.islice(batches, count))))


def stack(trees: list[Any]) -> Any:
    """Trees of arrays of one shape, along a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
