"""A traced function as an ONNX model: each equation of its jaxpr becomes nodes; what is known is computed now."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend import core
from onnx import helper

from . import onnx_elementwise, onnx_gathering, onnx_products, onnx_reductions, onnx_shapes
from .onnx_fold import folded
from .onnx_graph import OPSET, Graph, Missing, Value, constant, element_type, is_number, not_written, read_by
from .onnx_rules import Rules

RULES = Rules(
    {
        **onnx_elementwise.RULES,
        **onnx_gathering.RULES,
        **onnx_products.RULES,
        **onnx_reductions.RULES,
        **onnx_shapes.RULES,
    }
)
UNROLLED = 512
"""Most passes of a loop that are written one after another."""


def onnx_model(
    function: Callable[..., Mapping[str, jax.Array]],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    metadata: Mapping[str, str],
) -> bytes:
    """An ONNX model of a function of arrays.

    Constants, such as parameters, are written into the model, and what follows from them alone is computed now: the
    scale of a batch normalization is one constant. After a convolution, it goes into the kernel.

    Args:
        function: of arrays, in the order of ``inputs``; gives arrays by name.
        inputs: shape and dtype of each array by name. The first axis of the first may be any batch: the symbol
            ``batch`` of ``jax.export.symbolic_shape("batch")``.
        metadata: texts that the model carries.

    Returns:
        The model as the bytes of an ONNX file.

    Raises:
        UserError: the function has an operation that is not written here.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*inputs.values())
    graph = Graph(next(iter(inputs)))
    arrays = []
    for name, spec in inputs.items():
        arrays.append(Value(name, tuple(spec.shape), tuple(spec.shape), np.dtype(spec.dtype)))
    found = _called(graph, closed, arrays)
    for name, value in zip(shapes, found, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.full(value)], [name]))
    nodes = folded(graph, _needed(graph.nodes, set(shapes)))
    takes = [_described(name, spec) for name, spec in inputs.items()]
    gives = [_described(name, spec) for name, spec in shapes.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "jaxrec", takes, gives),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="jaxrec",
        ir_version=9,
    )
    used: set[str] = set()
    for node in model.graph.node:
        used |= read_by(node)
    model.graph.initializer.extend(each for each in graph.constants if each.name in used)
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _described(name: str, spec: Any) -> onnx.ValueInfoProto:
    sizes = [int(size) if is_number(size) else str(size) for size in spec.shape]
    return helper.make_tensor_value_info(name, element_type(spec.dtype), sizes)


def _needed(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the wanted tensors follow from, in their order."""
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted = wanted.union(read_by(node))
    return kept[::-1]


def _known(value: Any) -> Value:
    """A constant; random keys, which NumPy does not know, stay as they are."""
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        held = np.empty((), object)
        held[()] = value
        return Value(held, value.shape, value.shape, held.dtype)
    return constant(value)


def _array(value: Value) -> Any:
    """A constant as JAX takes it."""
    if value.dtype == object:
        return value.stored.item()  # type: ignore[union-attr]
    return jnp.asarray(np.broadcast_to(value.stored, value.shape))


def _called(graph: Graph, closed: Any, inputs: Sequence[Value]) -> list[Value]:
    """Writes a closed jaxpr; returns the outputs."""
    constants = [_known(each) for each in closed.consts]
    return _walk(graph, closed.jaxpr, constants, inputs)


def _walk(graph: Graph, jaxpr: Any, constants: Sequence[Value], inputs: Sequence[Value]) -> list[Value]:
    """Writes the equations; returns the outputs."""
    values: dict[Any, Value] = {}

    def read(variable: Any) -> Value:
        if isinstance(variable, core.Literal):
            return constant(np.asarray(variable.val, cast(Any, variable.aval).dtype))
        return values[variable]

    values.update(zip(jaxpr.constvars, constants, strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))
    for equation in jaxpr.eqns:
        found = _equation(graph, equation, [read(variable) for variable in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _equation(graph: Graph, equation: Any, given: list[Value]) -> list[Value]:
    if _is_known(equation, given):
        return _computed(equation, given)
    name, params = equation.primitive.name, equation.params
    # These may pass over what is missing: it may be of no use to them.
    if name == "scan":
        return _unrolled(graph, params, given)
    if name == "cond":
        return _chosen(graph, params["branches"], given)
    inner = _inner(params)
    if inner is not None:
        return _called(graph, inner, given)
    avals = [variable.aval for variable in equation.outvars]
    missing = _missing(given)
    if missing is None and name not in RULES:
        missing = Missing(name)
    if missing is not None:
        return [_without(missing, aval) for aval in avals]
    return RULES[name](graph, params, given, avals)


def _is_known(equation: Any, given: Sequence[Value]) -> bool:
    """Whether an equation gives the same for every input."""
    # A size as a number is given nothing, and depends on the batch for all that.
    if equation.primitive.name == "dim_as_value" or not all(value.known for value in given):
        return False
    sizes: list[Any] = []
    for variable in equation.outvars:
        sizes += variable.aval.shape
    return all(map(is_number, sizes))


def _missing(values: Sequence[Value]) -> Missing | None:
    """The first operation that is missing for one of the arrays."""
    for value in values:
        if isinstance(value.stored, Missing):
            return value.stored
    return None


def _without(missing: Missing, like: Any) -> Value:
    """An array of this shape and dtype that cannot be made."""
    shape = tuple(like.shape)
    return Value(missing, shape, shape, like.dtype)


def _computed(equation: Any, given: list[Value]) -> list[Value]:
    """What an equation gives if all that it is given is known."""
    primitive = equation.primitive
    found = primitive.bind(*map(_array, given), **primitive.get_bind_params(equation.params))
    if not primitive.multiple_results:
        found = [found]
    return [_known(each) for each in found]


def _inner(params: Mapping[str, Any]) -> Any:
    """The closed jaxpr that an equation does nothing but call; None if it is not of that kind."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = params.get(name)
        if isinstance(found, core.ClosedJaxpr):
            return found
        if isinstance(found, core.Jaxpr):
            return core.ClosedJaxpr(found, ())
    return None


def _unrolled(graph: Graph, params: Mapping[str, Any], given: list[Value]) -> list[Value]:
    """A loop, its passes one after another."""
    length, consts, carried = params["length"], params["num_consts"], params["num_carry"]
    if not is_number(length) or length > UNROLLED:
        raise not_written(f"has a loop of {length} passes, more than {UNROLLED}")
    body = params["jaxpr"]
    inner = [_known(each) for each in body.consts]
    fixed, carry, sequences = given[:consts], given[consts : consts + carried], given[consts + carried :]
    outputs: list[list[Value]] = []
    order = range(length - 1, -1, -1) if params["reverse"] else range(length)
    for place in order:
        parts = [_at(graph, each, place) for each in sequences]
        found = _walk(graph, body.jaxpr, inner, [*fixed, *carry, *parts])
        carry = found[:carried]
        outputs.append(found[carried:])
    if params["reverse"]:
        outputs.reverse()
    stacks = [_stacked(graph, each) for each in zip(*outputs, strict=True)]
    return [*carry, *stacks]


@RULES.writes("while")
def _looped(graph: Graph, params: Mapping[str, Any], given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """A loop that ends when its condition says so, as ONNX's own."""
    of_condition, of_body = params["cond_nconsts"], params["body_nconsts"]
    condition_fixed, rest = given[:of_condition], given[of_condition:]
    body_fixed, first = rest[:of_body], rest[of_body:]
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]

    def goes_on(graph: Graph, carry: list[Value]) -> Value:
        return _called(graph, condition, [*condition_fixed, *carry])[0]

    inner = graph.inside()
    names = [graph.fresh("carried") for _ in first]
    carry = [Value(name, each.shape, each.shape, each.dtype) for name, each in zip(names, first, strict=True)]
    going = goes_on(inner, carry)
    found = _called(inner, body, [*body_fixed, *carry])
    # Of a batch of loops, those that have ended stay as they are.
    found = [_where(inner, going, new, old) for new, old in zip(found, carry, strict=True)]
    results = [_any(inner, goes_on(inner, found)), *map(inner.full, found)]
    outputs = [inner.one("Identity", each) for each in results]
    number, again = graph.fresh("pass"), graph.fresh("again")
    state = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in first]
    truth, count = jax.ShapeDtypeStruct((), np.bool_), jax.ShapeDtypeStruct((), np.int64)
    loop = helper.make_graph(
        inner.nodes,
        "loop",
        [_described(number, count), _described(again, truth), *map(_described, names, state)],
        [_described(name, spec) for name, spec in zip(outputs, [truth, *state], strict=True)],
    )
    start = [graph.full(each) for each in first]
    begins = _any(graph, goes_on(graph, list(first)))
    last = graph.add("Loop", "", begins, *start, outputs=len(first), body=loop)
    return [Value(name, each.shape, each.shape, each.dtype) for name, each in zip(last, first, strict=True)]


def _where(graph: Graph, going: Value, new: Value, old: Value) -> Value:
    """``new`` for the loops of a batch that go on, ``old`` for the others."""
    if not going.shape:
        return new
    ones = graph.integers(*range(len(going.shape), len(new.shape)))
    which = graph.full(going)
    if len(new.shape) > len(going.shape):
        which = graph.one("Unsqueeze", which, ones)
    name = graph.where(which, graph.full(new), graph.full(old), new.dtype)
    return Value(name, new.shape, new.shape, new.dtype)


def _any(graph: Graph, truths: Value) -> str:
    """Whether any is true, a tensor without axes."""
    if not truths.shape:
        return graph.full(truths)
    numbers = graph.one("Cast", graph.full(truths), to=element_type(np.int32))
    return graph.one("Cast", graph.one("ReduceMax", numbers, keepdims=0), to=element_type(np.bool_))


def _at(graph: Graph, value: Value, place: int) -> Value:
    """``value[place]``."""
    shape, sizes = value.shape[1:], value.sizes[1:]
    place = min(place, value.sizes[0] - 1)
    if isinstance(value.stored, np.ndarray):
        return Value(value.stored[place], shape, sizes, value.dtype)
    if isinstance(value.stored, Missing):
        return Value(value.stored, shape, sizes, value.dtype)
    index = graph.weight(np.array(place, np.int64))
    return Value(graph.one("Gather", value.stored, index, axis=0), shape, sizes, value.dtype)


def _stacked(graph: Graph, values: Sequence[Value]) -> Value:
    """Arrays of one shape along a new first axis."""
    shape, dtype = (len(values), *values[0].shape), values[0].dtype
    missing = _missing(values)
    if missing is not None:
        return Value(missing, shape, shape, dtype)
    axis = graph.integers(0)
    parts = [graph.one("Unsqueeze", graph.full(each), axis) for each in values]
    return Value(graph.one("Concat", *parts, axis=0), shape, shape, dtype)


def _chosen(graph: Graph, branches: Sequence[Any], given: list[Value]) -> list[Value]:
    """A branch by its number; if that is not known, both of two branches are computed."""
    number, *operands = given

    def taken(place: int) -> list[Value]:
        return _called(graph, branches[place], operands)

    if isinstance(number.stored, Missing):
        return [_without(number.stored, each) for each in taken(0)]
    if isinstance(number.stored, np.ndarray):
        return taken(int(np.clip(number.stored, 0, len(branches) - 1)))
    if len(branches) != 2:
        raise not_written("chooses among several branches")
    second = graph.one("Cast", number.stored, to=element_type(np.bool_))
    found = []
    for no, yes in zip(taken(0), taken(1), strict=True):
        name = graph.where(second, graph.full(yes), graph.full(no), no.dtype)
        found.append(Value(name, no.shape, no.shape, no.dtype))
    return found
