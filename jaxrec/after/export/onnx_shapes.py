"""What changes the shape of arrays, or takes parts of them, as ONNX nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .onnx_graph import Graph, Size, Value, element_type, is_number, not_written
from .onnx_rules import Params, Rules, reshaped, type_of, whole

RULES = Rules()


@RULES.writes("broadcast_in_dim")
def _broadcast(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """Only the axes are put in place; the array repeats along the others, and is made larger when it has to be."""
    x, shape = given[0], tuple(avals[0].shape)
    sizes: list[Size] = [1] * len(shape)
    for axis, place in enumerate(params["broadcast_dimensions"]):
        sizes[place] = x.sizes[axis]
    stored = tuple(sizes)
    if x.known:
        array = np.reshape(x.stored, [int(size) for size in sizes])
        return [Value(array, shape, stored, x.dtype)]
    name = reshaped(graph, graph.small(x), x.sizes, stored)
    return [Value(name, shape, stored, x.dtype)]


@RULES.writes("reshape", "squeeze", "expand_dims")
def _reshape(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    (x,) = given
    return whole(reshaped(graph, graph.full(x), x.shape, tuple(avals[0].shape)), avals[0])


@RULES.writes("transpose")
def _transpose(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    (x,) = given
    order = params["permutation"]
    name = graph.one("Transpose", graph.small(x), perm=list(order))
    sizes = tuple(x.sizes[axis] for axis in order)
    return [Value(name, tuple(avals[0].shape), sizes, x.dtype)]


@RULES.writes("concatenate")
def _concatenate(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    return whole(graph.one("Concat", *map(graph.full, given), axis=params["dimension"]), avals[0])


@RULES.writes("stack")
def _stack(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    axis = params["axis"]
    parts = [graph.one("Unsqueeze", graph.full(each), graph.integers(axis)) for each in given]
    return whole(graph.one("Concat", *parts, axis=axis), avals[0])


@RULES.writes("split")
def _split(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    sizes = graph.integers(*params["sizes"])
    names = graph.add("Split", graph.full(given[0]), sizes, outputs=len(avals), axis=params["axis"])
    parts: list[Value] = []
    for name, aval in zip(names, avals, strict=True):
        parts += whole(name, aval)
    return parts


@RULES.writes("slice")
def _slice(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    (x,) = given
    starts, ends = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(starts)
    axes = []
    for axis, size in enumerate(avals[0].shape):
        from_first = is_number(starts[axis]) and starts[axis] == 0
        # As many elements as there are, from the first on, are all of them, one by one.
        if not from_first or size != x.shape[axis]:
            axes.append(axis)
    if not axes:
        return whole(graph.full(x), avals[0])
    first = graph.shape(tuple(starts[axis] for axis in axes))
    end = graph.shape(tuple(ends[axis] for axis in axes))
    array = graph.full(x)
    apart = [steps[axis] for axis in axes]
    name = graph.one("Slice", array, first, end, graph.integers(*axes), graph.integers(*apart))
    return whole(name, avals[0])


@RULES.writes("dynamic_slice")
def _dynamic_slice(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """The place is moved inside, as JAX does."""
    x, *starts = given
    sizes, wide = tuple(params["slice_sizes"]), element_type(np.int64)
    bounds = []
    for axis, start in enumerate(starts):
        last = graph.one("Sub", graph.shape((x.shape[axis],)), graph.shape((sizes[axis],)))
        place = graph.one("Cast", graph.full(start), to=wide)
        place = graph.one("Reshape", place, graph.integers(1))
        place = graph.one("Max", place, graph.integers(0))
        bounds.append(graph.one("Min", place, last))
    begin = graph.one("Concat", *bounds, axis=0)
    end = graph.one("Add", begin, graph.shape(sizes))
    name = graph.one("Slice", graph.full(x), begin, end, graph.integers(*range(len(sizes))))
    return whole(name, avals[0])


@RULES.writes("rev")
def _reverse(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    axes = params["dimensions"]
    # From the last element backwards, to a place before any first one. The step back is -1, as the last place is.
    last, before = [-1] * len(axes), [np.iinfo(np.int64).min] * len(axes)
    bounds = [graph.integers(*each) for each in (last, before, axes, last)]
    name = graph.one("Slice", graph.full(given[0]), *bounds)
    return whole(name, avals[0])


@RULES.writes("pad")
def _pad(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """Zeros between elements are not written; a negative pad cuts off."""
    x, filling = given
    if any(inside for _, _, inside in params["padding_config"]):
        raise not_written("pads between elements")
    before = [low for low, _, _ in params["padding_config"]]
    after = [high for _, high, _ in params["padding_config"]]
    name = graph.one("Pad", graph.full(x), graph.integers(*before, *after), graph.full(filling), mode="constant")
    return whole(name, avals[0])


@RULES.writes("dim_as_value")
def _size(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    length = graph.one("Squeeze", graph.shape((params["dim"],)), graph.integers(0))
    return whole(graph.one("Cast", length, to=type_of(avals[0])), avals[0])


@RULES.writes("iota")
def _iota(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """It depends on the batch, or it would be known."""
    aval, axis = avals[0], params["dimension"]
    size = aval.shape[axis]
    length = graph.one("Squeeze", graph.shape((size,)), graph.integers(0))
    numbers = graph.one("Range", graph.weight(np.array(0, np.int64)), length, graph.weight(np.array(1, np.int64)))
    sizes = tuple(size if place == axis else 1 for place in range(len(aval.shape)))
    name = reshaped(graph, graph.one("Cast", numbers, to=type_of(aval)), (size,), sizes)
    return [Value(name, tuple(aval.shape), sizes, np.dtype(aval.dtype))]
