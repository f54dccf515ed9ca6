"""A batch as a function of (seed, step): the order of the examples, and streams that follow it."""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from jaxrec.data.splits import Split
from jaxrec.errors import UserError


@lru_cache(maxsize=64)
def _orders(seed: int, examples: int) -> Callable[[int], np.ndarray]:
    # Runs of several seeds take turns; a batch needs the orders of two epochs at most.
    @lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        key = np.array([seed % 2**64, epoch], np.uint64)
        order = np.random.Generator(np.random.Philox(key=key)).permutation(examples).astype(np.int32)
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


def streamed(
    split: Split, seed: int, batch_size: int, start_step: int, *, steps: int, share: tuple[int, int] = (0, 1)
) -> Iterator[dict[str, np.ndarray]]:
    """Training batches of the ``steps`` steps from ``start_step`` on, read ahead by threads.

    Each has the split's features, [B, ...], and index and epoch int32 [B], of the examples of ``batch_indices``.
    Process ``i`` of ``n``, given ``share=(i, n)``, gets the i-th of n equal parts of every batch. Raises UserError if n
    does not divide B.
    """
    import grain

    part, parts = share
    if batch_size % parts:
        raise UserError(f"batch size {batch_size} cannot be shared by {parts} processes: choose a multiple of {parts}")
    local = slice(part * batch_size // parts, (part + 1) * batch_size // parts)

    def batch(step: int) -> dict[str, np.ndarray]:
        index, epoch = (order[local] for order in batch_indices(seed, step, batch_size, len(split)))
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
