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
        All arrays by path. If the filters, biases and running means of the removed channels were zero, and
        activations of zero are zero, the network's answers are as they were.
    """
    found = dict(arrays)
    for group in groups:
        # The choice is made on the whole network: a filter's size does not depend on what was removed before it.
        sizes = filter_sizes(arrays, group)
        places = largest(sizes, _count(shapes, group))
        for path in group.made:
            found[path] = _only(found[path], -1, len(sizes), places)
        for path in group.read:
            found[path] = _only(found[path], -2, len(sizes), places)
    return found


def filter_sizes(arrays: Mapping[str, np.ndarray], group: Channels) -> np.ndarray:
    """The squared norm of the filters that make each channel of a group, float64 [C]."""
    count = _count({path: array.shape for path, array in arrays.items()}, group)
    sizes = np.zeros(count)
    for path in group.made:
        # Biases and statistics are no filters.
        if arrays[path].ndim > 1:
            sizes += np.square(arrays[path].astype(np.float64)).reshape(-1, count).sum(0)
    return sizes


def largest(sizes: np.ndarray, count: int) -> np.ndarray:
    """The places of the ``count`` largest numbers, in order, int [count]."""
    return np.sort(np.argsort(-sizes, kind="stable")[:count])


def _count(shapes: Mapping[str, tuple[int, ...]], group: Channels) -> int:
    """The channels of a group. Where maps become a vector, or a vector maps, an axis is a multiple of them."""
    return min([shapes[path][-1] for path in group.made] + [shapes[path][-2] for path in group.read])


def _only(array: np.ndarray, axis: int, channels: int, places: np.ndarray) -> np.ndarray:
    """An array with only these channels along an axis that holds them once, or several times one after the other."""
    numbers = np.arange(array.shape[axis]).reshape(-1, channels)
    return np.take(array, numbers[:, places].ravel(), axis)
