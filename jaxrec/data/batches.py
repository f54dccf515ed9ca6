"""A batch as a function of (seed, step): orders of the examples, and streams that follow them."""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import numpy as np

from jaxrec.data.splits import Split
from jaxrec.errors import UserError

Order = Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]
"""``(seed, step, batch_size)`` to the examples of the step: index int32 [B] and epoch int32 [B]."""
TURNS = 64
"""Turns of the classes that are drawn at once."""


def _generator(seed: int, number: int, stream: int) -> np.random.Generator:
    """A generator of its own for each triple; ``stream`` tells apart what is drawn from one seed."""
    key = np.array([seed % 2**64, number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


@lru_cache(maxsize=64)
def _orders(seed: int, examples: int) -> Callable[[int], np.ndarray]:
    # Runs of several seeds take turns; a batch needs the orders of two epochs at most.
    @lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        order = _generator(seed, epoch, 0).permutation(examples).astype(np.int32)
        order.flags.writeable = False
        return order

    return order


def batch_indices(seed: int, step: int, batch_size: int, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """The examples of one step: index int32 [B] in [0, examples), epoch int32 [B].

    Training reads one endless stream: the epochs one after the other, each a permutation of all examples drawn from
    (seed, epoch). Step ``s`` takes positions ``s * B`` to ``s * B + B - 1``, so a batch may span epochs, and any
    step's batch can be asked for directly.
    """
    epoch, place = np.divmod(int(step) * batch_size + np.arange(batch_size, dtype=np.int64), examples)
    index = np.empty(batch_size, np.int32)
    for each in range(int(epoch[0]), int(epoch[-1]) + 1):
        here = epoch == each
        index[here] = _orders(int(seed), examples)(each)[place[here]]
    return index, epoch.astype(np.int32)


def shuffled(examples: int) -> Order:
    """The order of ``batch_indices``."""
    return partial(batch_indices, examples=examples)


class Balanced:
    """An order that draws each class equally often, however many examples it has.

    Training reads one endless stream of turns. In a turn each class is drawn once, in an order drawn from (seed, turn).
    The examples of a class follow one another as permutations, drawn from (seed, class, epoch), so each of them is
    drawn equally often, too; the epoch of an example says how often it was drawn before. Classes without examples are
    left out.

    Args:
        label: int [N], the class of each example.
    """

    def __init__(self, label: np.ndarray) -> None:
        self.members = [np.flatnonzero(label == number) for number in np.unique(label)]
        # A batch needs the orders of an epoch or two of each class, and of a few more if the class is small.
        self._class_order = lru_cache(maxsize=4 * len(self.members))(self._permuted)
        self._turns = lru_cache(maxsize=4)(self._permuted_classes)

    def __call__(self, seed: int, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Index and epoch, int32 [B], of the examples of a step."""
        index, epoch = np.empty(batch_size, np.int32), np.empty(batch_size, np.int64)
        first = int(step) * batch_size
        for place in range(batch_size):
            turn, number = divmod(first + place, len(self.members))
            drawn = self._turns(seed, turn // TURNS)[turn % TURNS, number]
            epoch[place], within = divmod(turn, len(self.members[drawn]))
            index[place] = self._class_order(seed, int(drawn), int(epoch[place]))[within]
        return index, epoch.astype(np.int32)

    def _permuted(self, seed: int, number: int, epoch: int) -> np.ndarray:
        """The examples of a class in the order of an epoch."""
        return _generator(seed, epoch, 2 + number).permutation(self.members[number])

    def _permuted_classes(self, seed: int, block: int) -> np.ndarray:
        """The classes in the order of each of ``TURNS`` turns, int [TURNS, classes]."""
        classes = np.tile(np.arange(len(self.members)), (TURNS, 1))
        return _generator(seed, block, 1).permuted(classes, axis=1)


def streamed(
    split: Split,
    seed: int,
    batch_size: int,
    start_step: int,
    *,
    steps: int,
    share: tuple[int, int] = (0, 1),
    order: Order | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Training batches of the ``steps`` steps from ``start_step`` on, read ahead by threads.

    Each has the split's features, [B, ...], and index and epoch int32 [B], of the examples that ``order`` names;
    default: those of ``batch_indices``.
    Process ``i`` of ``n``, given ``share=(i, n)``, gets the i-th of n equal parts of every batch. Raises UserError if n
    does not divide B.
    """
    import grain

    part, parts = share
    if batch_size % parts:
        raise UserError(f"batch size {batch_size} cannot be shared by {parts} processes: choose a multiple of {parts}")
    order = order or shuffled(len(split))
    local = slice(part * batch_size // parts, (part + 1) * batch_size // parts)

    def batch(step: int) -> dict[str, np.ndarray]:
        index, epoch = (part[local] for part in order(seed, step, batch_size))
        return {**split.read(index), "index": index, "epoch": epoch}

    # The other cores are the step's if it runs on the CPU, and more threads stand in line for Python's lock.
    threads = max(1, min(8, (os.cpu_count() or 1) // 2))
    stream = grain.MapDataset.range(start_step, start_step + steps).map(batch)
    return iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))


def eval_batches(split: Split, batch_size: int, share: tuple[int, int] = (0, 1)) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order, in batches of one size: the split's features [B, ...], and index int32 [B].

    ``real`` bool [B] is False where the last batch is filled up with example 0. Process ``i`` of ``n``, given
    ``share=(i, n)``, gets the i-th of n equal parts of every batch; n has to divide B.
    """
    part = batch_size // share[1]
    for start in range(share[0] * part, share[0] * part + len(split), batch_size):
        index = np.arange(start, start + part, dtype=np.int32)
        real = index < len(split)
        index = np.where(real, index, np.int32(0))
        yield {**split.read(index), "index": index, "real": real}
