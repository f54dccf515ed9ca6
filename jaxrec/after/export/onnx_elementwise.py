"""Arithmetic, comparisons and choices, element by element, as ONNX nodes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .onnx_graph import Graph, Value, element_type, not_written
from .onnx_rules import Params, Rules, Write, stored_sizes, type_of, whole

RULES = Rules()


SAME_NAMES = {
    "add": "Add",
    "add_any": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "min": "Min",
    "pow": "Pow",
    "neg": "Neg",
    "abs": "Abs",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "erf": "Erf",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "copy": "Identity",
    "copy_p": "Identity",
    "reduce_precision": "Identity",
    "stop_gradient": "Identity",
}
"""Primitives that ONNX has under another name."""


def _elementwise(primitive: str, make: Callable[..., str]) -> None:
    """Enters an operation that ``make(graph, params, *tensors)`` writes, of tensors that ONNX broadcasts."""

    def write(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
        name = make(graph, params, *map(graph.operand, given))
        shape = tuple(avals[0].shape)
        return [Value(name, shape, stored_sizes(shape, given), np.dtype(avals[0].dtype))]

    RULES[primitive] = write


def _named(operation: str) -> Callable[..., str]:
    return lambda graph, params, *tensors: graph.one(operation, *tensors)


for _primitive, _operation in SAME_NAMES.items():
    _elementwise(_primitive, _named(_operation))


def _number(graph: Graph, number: float) -> str:
    return graph.weight(np.array(number, np.float32))


def _integer_power(graph: Graph, params: Params, x: str) -> str:
    return graph.one("Pow", x, _number(graph, params["y"]))


def _rounded(graph: Graph, params: Params, x: str) -> str:
    """Halves go to the even neighbor, as ONNX's do, or away from zero."""
    if int(params["rounding_method"]) == 1:
        return graph.one("Round", x)
    half = graph.one("Add", graph.one("Abs", x), _number(graph, 0.5))
    return graph.one("Mul", graph.one("Sign", x), graph.one("Floor", half))


def _finite(graph: Graph, params: Params, x: str) -> str:
    return graph.one("Not", graph.one("Or", graph.one("IsInf", x), graph.one("IsNaN", x)))


_elementwise("ne", lambda graph, params, x, y: graph.one("Not", graph.one("Equal", x, y)))
_elementwise("square", lambda graph, params, x: graph.one("Mul", x, x))
_elementwise("rsqrt", lambda graph, params, x: graph.one("Reciprocal", graph.one("Sqrt", x)))
_elementwise("log1p", lambda graph, params, x: graph.one("Log", graph.one("Add", x, _number(graph, 1))))
_elementwise("expm1", lambda graph, params, x: graph.one("Sub", graph.one("Exp", x), _number(graph, 1)))
_elementwise("erfc", lambda graph, params, x: graph.one("Sub", _number(graph, 1), graph.one("Erf", x)))
_elementwise("integer_pow", _integer_power)
_elementwise("round", _rounded)
_elementwise("is_finite", _finite)
_elementwise("clamp", lambda graph, params, low, x, high: graph.one("Min", graph.one("Max", x, low), high))


@RULES.writes("max")
def _largest(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """Of a number and 0, a rectifier: quantizers give it one range with the convolution before it."""
    dtype, shape = np.dtype(avals[0].dtype), tuple(avals[0].shape)
    others = [each for each in given if not (each.known and not np.any(each.stored))]
    if len(others) == 1 and dtype == np.float32:
        return [Value(graph.one("Relu", graph.small(others[0])), shape, others[0].sizes, dtype)]
    return [Value(graph.one("Max", *map(graph.operand, given)), shape, stored_sizes(shape, given), dtype)]


@RULES.writes("rem")
def _remainder(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    x, y = map(graph.full, given)
    return whole(graph.one("Mod", x, y, fmod=1), avals[0])


def _logical(primitive: str) -> Write:
    """Of truth values, or of the bits of integers."""

    def write(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
        word = primitive.capitalize()
        operation = word if avals[0].dtype == jnp.bool_ else f"Bitwise{word}"
        shape = tuple(avals[0].shape)
        name = graph.one(operation, *map(graph.operand, given))
        return [Value(name, shape, stored_sizes(shape, given), np.dtype(avals[0].dtype))]

    return write


for _primitive in ("and", "or", "xor", "not"):
    RULES[_primitive] = _logical(_primitive)


@RULES.writes("convert_element_type")
def _cast(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    (x,) = given
    name = graph.one("Cast", graph.small(x), to=type_of(avals[0]))
    return [Value(name, x.shape, x.sizes, np.dtype(avals[0].dtype))]


@RULES.writes("select_n")
def _select(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    which, *cases = given
    if len(cases) != 2:
        raise not_written("chooses among several arrays")
    condition = graph.small(which)
    if which.dtype != np.bool_:
        condition = graph.one("Cast", condition, to=element_type(np.bool_))
    no, yes = map(graph.operand, cases)
    shape = tuple(avals[0].shape)
    # A single truth value may choose between whole arrays.
    sizes = stored_sizes(shape, given)
    return [Value(graph.where(condition, yes, no, cases[0].dtype), shape, sizes, cases[0].dtype)]
