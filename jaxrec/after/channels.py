"""Channels removed for good: the arrays of a narrower network, made of those of a trained one.

A system says which channels go together (``channels`` of ``jaxrec.tasks.system``); the rest follows from shapes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxrec.tasks.system import Channels


def narrowed(
    arrays: Mapping[str, np.ndarray], groups: Sequence[Channels], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The arrays with fewer channels in each group; those of the largest filters are kept (Li et al. 2017).

    Args:
        arrays: of the trained network, by path.
        groups: the channels that are removed together.
        shapes: of the narrower network, by path: they say how many are kept.

    Returns:
        All arrays by path. If the filters and biases of the removed channels were zero, and activations of zero are
        zero, the network's answers are as they were.
    """
    found = dict(arrays)
    kept = {}
    # Every choice is made on the whole network: a filter's size does not depend on what is removed before it.
    for group in groups:
        first = group.made[0]
        kept[first] = largest_filters(arrays[first], shapes[first][-1])
    for group in groups:
        places = kept[group.made[0]]
        for path in group.made:
            found[path] = found[path][..., places]
        for path in group.read:
            found[path] = _rows(found[path], arrays[group.made[0]].shape[-1], places)
    return found


def largest_filters(kernel: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the ``count`` output channels of a kernel [..., O] of the largest norm, in order, int [count]."""
    sizes = np.square(kernel.astype(np.float64)).reshape(-1, kernel.shape[-1]).sum(0)
    return np.sort(np.argsort(-sizes, kind="stable")[:count])


def _rows(kernel: np.ndarray, channels: int, places: np.ndarray) -> np.ndarray:
    """A kernel [..., I, O] that reads only these channels; I is a multiple of them if maps were made a vector."""
    *window, inputs, outputs = kernel.shape
    apart = kernel.reshape(*window, inputs // channels, channels, outputs)
    return apart[..., places, :].reshape(*window, -1, outputs)
