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
        place = np.broadcast_to(places.stored, places.shape)
        return _known_window(graph, x, place, params, avals[0])
    taken, batched = tuple(form.start_index_map), tuple(form.operand_batching_dims)
    rest = tuple(axis for axis in range(len(x.shape)) if axis not in (*taken, *batched))
    if any(sizes[axis] != x.shape[axis] for axis in rest):
        raise not_written("gathers parts of slices")
    array = ordered(graph, graph.full(x), (*batched, *taken, *rest))
    # The last axis of the places holds the coordinates of one.
    *index_axes, coordinates = range(len(places.shape))
    index_batched = tuple(form.start_indices_batching_dims)
    index_rest = tuple(axis for axis in index_axes if axis not in index_batched)
    index = graph.one("Cast", graph.full(places), to=element_type(np.int64))
    index = ordered(graph, index, (*index_batched, *index_rest, coordinates))
    # A window that would end outside is moved inside, or the whole of it counts as outside.
    windows = [int(sizes[axis]) for axis in taken]
    bounds = tuple(x.shape[axis] for axis in taken)
    last = graph.one("Sub", graph.shape(bounds), graph.integers(*windows))
    inside = graph.one("Max", index, graph.integers(0))
    inside = graph.one("Min", inside, last)
    # Places and offsets broadcast: [..., 1, 1, 2] and [window, window, 2] for windows of two axes.
    spread = graph.one("Unsqueeze", inside, graph.integers(*range(-len(taken) - 1, -1)))
    every = graph.one("Add", spread, graph.weight(_offsets(windows)))
    found = graph.one("GatherND", array, every, batch_dims=len(batched))
    if "FILL" in str(params["mode"]):
        filling = _filling(params["fill_value"], x.dtype)
        right = _unmoved(graph, index, inside, len(taken) + len(rest))
        found = graph.where(right, found, graph.weight(filling), x.dtype)
    found = _gathered(graph, found, form, (*index_batched, *index_rest), (*taken, *rest), avals[0])
    return whole(found, avals[0])


def _offsets(windows: Sequence[int]) -> np.ndarray:
    """From the first place of a window, the way to each of its elements; int64 [window, window, 2] for two axes."""
    steps = [np.arange(size) for size in windows]
    along = np.meshgrid(*steps, indexing="ij")
    return np.stack(along, -1).astype(np.int64)


def _unmoved(graph: Graph, index: str, inside: str, window_rank: int) -> str:
    """Whether a window lies inside without being moved, with ``window_rank`` axes of size 1 for its elements."""
    # ONNX has no minimum of truth values, but one of numbers.
    same = graph.one("Cast", graph.one("Equal", index, inside), to=element_type(np.int32))
    same = graph.one("ReduceMin", same, graph.integers(-1), keepdims=0)
    same = graph.one("Unsqueeze", same, graph.integers(*range(-window_rank, 0)))
    return graph.one("Cast", same, to=element_type(np.bool_))


def _gathered(
    graph: Graph, found: str, form: Any, index_axes: tuple[int, ...], window_axes: tuple[int, ...], aval: Any
) -> str:
    """What was gathered, with its axes as JAX orders them.

    It has first the axes of the places, ``index_axes``, then those of the windows, ``window_axes`` of the array.
    """
    count = len(index_axes)
    collapsed = [axis for axis in form.collapsed_slice_dims if axis in window_axes]
    if collapsed:
        single = [count + window_axes.index(axis) for axis in collapsed]
        found = graph.one("Squeeze", found, graph.integers(*single))
    kept = [axis for axis in window_axes if axis not in collapsed]
    # JAX mixes the axes of windows with those of places, and keeps the array's and the places' order of each.
    of_windows = [count + kept.index(axis) for axis in sorted(kept)]
    of_places = np.argsort(index_axes).tolist()
    order = []
    for axis in range(len(aval.shape)):
        source = of_windows if axis in form.offset_dims else of_places
        order.append(source.pop(0))
    return ordered(graph, found, tuple(order))


def _known_window(graph: Graph, x: Value, place: np.ndarray, params: Params, aval: Any) -> list[Value]:
    """One window whose place is known."""
    sizes: Sequence[Size] = params["slice_sizes"]
    known = dict(zip(params["dimension_numbers"].start_index_map, place, strict=True))
    axes, starts, ends = [], [], []
    for axis, size in enumerate(sizes):
        if axis not in known and size == x.shape[axis]:
            continue
        # A window that would end outside is moved inside, or the whole of it counts as outside.
        wanted = int(known.get(axis, 0))
        start = int(min(max(0, wanted), x.shape[axis] - size))
        if start != wanted and "FILL" in str(params["mode"]):
            raise not_written("takes what lies outside of an array")
        axes.append(axis)
        starts.append(start)
        ends.append(start + int(size))
    array = graph.full(x)
    found = graph.one("Slice", array, graph.integers(*starts), graph.integers(*ends), graph.integers(*axes))
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
    rank = len(x.shape)
    new = ordered(graph, graph.full(update), _update_order(form, batched, axis, rank))
    new = graph.one("Unsqueeze", new, graph.integers(axis))
    # The places are put along the array's batched axes, and the numbers of slices along the axis of slices: where the
    # two are equal, an element is replaced.
    index = graph.one("Squeeze", graph.full(places), graph.integers(-1))
    index_order = [form.scatter_indices_batching_dims[number] for number in np.argsort(batched)]
    index = ordered(graph, index, tuple(index_order))
    others = [each for each in range(rank) if each not in batched]
    index = graph.one("Unsqueeze", index, graph.integers(*others))
    sizes = [1] * rank
    sizes[axis] = x.shape[axis]
    numbers = np.arange(x.shape[axis], dtype=places.dtype)
    here = graph.one("Equal", graph.weight(numbers.reshape(sizes)), index)
    return whole(graph.where(here, new, graph.full(x), x.dtype), avals[0])


def _update_order(form: Any, batched: tuple[int, ...], axis: int, rank: int) -> tuple[int, ...]:
    """The axes of an update in the order of those of the array, which has ``axis`` besides."""
    of_windows = [int(place) for place in form.update_window_dims]
    of_places = [place for place in range(rank - 1) if place not in of_windows]
    order = []
    for each in range(rank):
        if each in batched:
            index_axis = form.scatter_indices_batching_dims[batched.index(each)]
            order.append(of_places[index_axis])
        elif each != axis:
            order.append(of_windows.pop(0))
    return tuple(order)


def _filling(value: Any, dtype: np.dtype) -> np.ndarray:
    """What JAX gives for a place outside: NaN, or the least or largest integer."""
    if value is None and np.issubdtype(dtype, np.floating):
        value = np.nan
    elif value is None and np.issubdtype(dtype, np.signedinteger):
        value = np.iinfo(dtype).min
    elif value is None:
        value = np.iinfo(dtype).max
    return np.array(value, dtype)
