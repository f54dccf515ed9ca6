"""Sums, extremes and orders, as ONNX nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .onnx_graph import Graph, Value, element_type, not_written
from .onnx_rules import Params, Rules, Write, type_of, whole

RULES = Rules()


REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
}


def _reduction(operation: str) -> Write:
    def write(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
        axes = params["axes"]
        if not axes:
            return given
        return whole(graph.one(operation, graph.full(given[0]), graph.integers(*axes), keepdims=0), avals[0])

    return write


for _primitive, _operation in REDUCTIONS.items():
    RULES[_primitive] = _reduction(_operation)


def _truth_reduction(operation: str) -> Write:
    """ONNX reduces numbers, not truth values."""

    def write(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
        numbers = graph.one("Cast", graph.full(given[0]), to=element_type(np.int32))
        found = graph.one(operation, numbers, graph.integers(*params["axes"]), keepdims=0)
        return whole(graph.one("Cast", found, to=element_type(np.bool_)), avals[0])

    return write


RULES["reduce_and"] = _truth_reduction("ReduceMin")
RULES["reduce_or"] = _truth_reduction("ReduceMax")


def _place_of(operation: str) -> Write:
    def write(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
        (axis,) = params["axes"]
        found = graph.one(operation, graph.full(given[0]), axis=axis, keepdims=0)
        return whole(graph.one("Cast", found, to=type_of(avals[0])), avals[0])

    return write


RULES["argmax"] = _place_of("ArgMax")
RULES["argmin"] = _place_of("ArgMin")


@RULES.writes("cumsum")
def _cumulative(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    axis = graph.weight(np.array(params["axis"], np.int32))
    return whole(graph.one("CumSum", graph.full(given[0]), axis, reverse=int(params["reverse"])), avals[0])


@RULES.writes("top_k")
def _top(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    axis = params.get("axis", -1)
    values, places = graph.add("TopK", graph.full(given[0]), graph.integers(params["k"]), outputs=2, axis=axis)
    return [*whole(values, avals[0]), *whole(graph.one("Cast", places, to=type_of(avals[1])), avals[1])]


@RULES.writes("sort")
def _sort(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """Rising by the first array; the others follow it."""
    axis = params["dimension"]
    if params["num_keys"] != 1:
        raise not_written("sorts by several keys")
    count = graph.shape((given[0].shape[axis],))
    first, order = graph.add("TopK", graph.full(given[0]), count, outputs=2, axis=axis, largest=0)
    found = whole(first, avals[0])
    for each, aval in zip(given[1:], avals[1:], strict=True):
        found += whole(graph.one("GatherElements", graph.full(each), order, axis=axis), aval)
    return found
