"""What is taken from, or put at, places that the model computes, as ONNX nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .onnx_graph import Graph, Size, Value, element_type, not_written
from .onnx_rules import Params, Rules, ordered, reshaped, whole

RULES = Rules()


@RULES.writes("gather")
def _gather(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """Windows of an array by their first places; of each example its own if axes are batched."""
    x, places = given
    form, sizes = params["dimension_numbers"], params["slice_sizes"]
    if isinstance(places.stored, np.ndarray) and len(places.shape) == 1:
        return _known_window(graph, x, np.broadcast_to(places.stored, places.shape), form, sizes, avals[0])
    taken, batched = tuple(form.start_index_map), tuple(form.operand_batching_dims)
    rest = tuple(axis for axis in range(len(x.shape)) if axis not in (*taken, *batched))
    if any(sizes[axis] != x.shape[axis] for axis in rest):
        raise not_written("gathers parts of slices")
    array = ordered(graph, graph.full(x), (*batched, *taken, *rest))
    index_batched = tuple(form.start_indices_batching_dims)
    index_rest = tuple(axis for axis in range(len(places.shape) - 1) if axis not in index_batched)
    index = graph.one("Cast", graph.full(places), to=element_type(np.int64))
    index = ordered(graph, index, (*index_batched, *index_rest, len(places.shape) - 1))
    windows = [int(sizes[axis]) for axis in taken]
    # A window that would end outside is moved inside, or the whole of it counts as outside.
    bounds = tuple(x.shape[axis] for axis in taken)
    last = graph.one("Sub", graph.shape(bounds), graph.integers(*windows))
    inside = graph.one("Min", graph.one("Max", index, graph.integers(0)), last)
    # The place of every element of a window: [..., window, window, 2] for windows of two axes.
    grid = np.stack(np.meshgrid(*map(np.arange, windows), indexing="ij"), -1).astype(np.int64)
    spread = graph.one("Unsqueeze", inside, graph.integers(*range(-len(taken) - 1, -1)))
    found = graph.one("GatherND", array, graph.one("Add", spread, graph.weight(grid)), batch_dims=len(batched))
    if "FILL" in str(params["mode"]):
        right = graph.one("Cast", graph.one("Equal", index, inside), to=element_type(np.int32))
        right = graph.one("ReduceMin", right, graph.integers(-1), keepdims=0)
        right = graph.one("Unsqueeze", right, graph.integers(*range(-len(taken) - len(rest), 0)))
        right = graph.one("Cast", right, to=element_type(np.bool_))
        found = graph.where(right, found, graph.weight(_filling(params["fill_value"], x.dtype)), x.dtype)
    return whole(_gathered(graph, found, form, (*index_batched, *index_rest), (*taken, *rest), avals[0]), avals[0])


def _gathered(
    graph: Graph, found: str, form: Any, index_axes: tuple[int, ...], window_axes: tuple[int, ...], aval: Any
) -> str:
    """What was gathered, with its axes as JAX orders them.

    It has first the axes of the places, ``index_axes``, then those of the windows, ``window_axes`` of the array.
    """
    count = len(index_axes)
    collapsed = [axis for axis in form.collapsed_slice_dims if axis in window_axes]
    if collapsed:
        found = graph.one("Squeeze", found, graph.integers(*(count + window_axes.index(axis) for axis in collapsed)))
    kept = [axis for axis in window_axes if axis not in collapsed]
    of_windows = iter(count + kept.index(axis) for axis in sorted(kept))
    of_places = iter(np.argsort(index_axes).tolist())
    order = [next(of_windows if axis in form.offset_dims else of_places) for axis in range(len(aval.shape))]
    return ordered(graph, found, tuple(order))


def _known_window(
    graph: Graph, x: Value, place: np.ndarray, form: Any, sizes: Sequence[Size], aval: Any
) -> list[Value]:
    """One window whose place is known."""
    axes = form.start_index_map
    first = [int(min(max(0, start), x.shape[axis] - sizes[axis])) for axis, start in zip(axes, place, strict=True)]
    ends = [start + int(sizes[axis]) for axis, start in zip(axes, first, strict=True)]
    found = graph.one("Slice", graph.full(x), *(graph.integers(*each) for each in (first, ends, axes)))
    return whole(reshaped(graph, found, (), tuple(aval.shape)), aval)


@RULES.writes("scatter")
def _put(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """One slice along an axis replaced, as in ``x.at[:, place].set(slice)``; of each example its own if batched."""
    x, places, update = given
    form = params["dimension_numbers"]
    batched = tuple(map(int, form.operand_batching_dims))
    axes = tuple(map(int, form.scatter_dims_to_operand_dims))
    if len(axes) != 1 or axes != tuple(form.inserted_window_dims) or len(places.shape) != len(batched) + 1:
        raise not_written("replaces several parts of an array")
    (axis,) = axes
    order = _update_order(form, batched, axis, len(x.shape))
    new = graph.one("Unsqueeze", ordered(graph, graph.full(update), order), graph.integers(axis))
    index = graph.one("Squeeze", graph.full(places), graph.integers(-1))
    ranks = np.argsort(batched).tolist()
    index = ordered(graph, index, tuple(form.scatter_indices_batching_dims[rank] for rank in ranks))
    index = graph.one("Unsqueeze", index, graph.integers(*(a for a in range(len(x.shape)) if a not in batched)))
    numbers = np.arange(x.shape[axis], dtype=places.dtype)
    along = graph.weight(numbers.reshape([-1 if each == axis else 1 for each in range(len(x.shape))]))
    return whole(graph.where(graph.one("Equal", along, index), new, graph.full(x), x.dtype), avals[0])


def _update_order(form: Any, batched: tuple[int, ...], axis: int, rank: int) -> tuple[int, ...]:
    """The axes of an update in the order of those of the array, which has ``axis`` besides."""
    windows = iter(form.update_window_dims)
    others = [place for place in range(rank - 1) if place not in form.update_window_dims]
    order = []
    for each in range(rank):
        if each in batched:
            order.append(others[form.scatter_indices_batching_dims[batched.index(each)]])
        elif each != axis:
            order.append(int(next(windows)))
    return tuple(order)


def _filling(value: Any, dtype: np.dtype) -> np.ndarray:
    """What JAX gives for a place outside: NaN, or the least or largest integer."""
    if value is None:
        if np.issubdtype(dtype, np.floating):
            value = np.nan
        else:
            value = np.iinfo(dtype).min if np.issubdtype(dtype, np.signedinteger) else np.iinfo(dtype).max
    return np.array(value, dtype)
