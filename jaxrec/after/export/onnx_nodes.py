"""JAX's operations as ONNX nodes: what each primitive of a traced model becomes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrec.errors import UserError

from .onnx_graph import Graph, Size, Value, element_type, is_number

Params = Mapping[str, Any]
Write = Callable[[Graph, Params, list[Value], Sequence[Any]], list[Value]]
NODES: dict[str, Write] = {}
"""By the primitive's name: a function of the graph, the equation's parameters, what it is given, and the shapes and
dtypes of what it gives, which writes nodes and returns what they give."""


def _writes(*names: str) -> Callable[[Write], Write]:
    """Enters a function for primitives."""

    def enter(write: Write) -> Write:
        for name in names:
            NODES[name] = write
        return write

    return enter


def _whole(name: str, aval: Any) -> list[Value]:
    """A tensor that is stored at its whole size."""
    shape = tuple(aval.shape)
    return [Value(name, shape, shape, np.dtype(aval.dtype))]


def _type(value: Any) -> int:
    return element_type(value.dtype)


# --- element by element ---

SAME_NAMES = {
    "add": "Add",
    "add_any": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
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
        return [Value(name, shape, _stored_sizes(shape, given), np.dtype(avals[0].dtype))]

    NODES[primitive] = write


def _stored_sizes(shape: tuple[Size, ...], given: Sequence[Value]) -> tuple[Size, ...]:
    """The sizes of what ONNX makes of operands as they are stored: 1 along an axis on which all of them repeat."""
    sizes = []
    for axis, size in enumerate(shape):
        # A number among the operands has no axes.
        stored = {each.sizes[axis] for each in given if each.sizes}
        sizes.append(1 if stored <= {1} else size)
    return tuple(sizes)


def _named(operation: str) -> Callable[..., str]:
    return lambda graph, params, *tensors: graph.one(operation, *tensors)


for _primitive, _operation in SAME_NAMES.items():
    _elementwise(_primitive, _named(_operation))


def _one_like(graph: Graph, number: float) -> str:
    return graph.weight(np.array(number, np.float32))


def _integer_power(graph: Graph, params: Params, x: str) -> str:
    return graph.one("Pow", x, _one_like(graph, params["y"]))


def _rounded(graph: Graph, params: Params, x: str) -> str:
    """Halves go to the even neighbor, as ONNX's do, or away from zero."""
    if int(params["rounding_method"]) == 1:
        return graph.one("Round", x)
    half = graph.one("Add", graph.one("Abs", x), _one_like(graph, 0.5))
    return graph.one("Mul", graph.one("Sign", x), graph.one("Floor", half))


def _finite(graph: Graph, params: Params, x: str) -> str:
    return graph.one("Not", graph.one("Or", graph.one("IsInf", x), graph.one("IsNaN", x)))


_elementwise("ne", lambda graph, params, x, y: graph.one("Not", graph.one("Equal", x, y)))
_elementwise("square", lambda graph, params, x: graph.one("Mul", x, x))
_elementwise("rsqrt", lambda graph, params, x: graph.one("Reciprocal", graph.one("Sqrt", x)))
_elementwise("log1p", lambda graph, params, x: graph.one("Log", graph.one("Add", x, _one_like(graph, 1))))
_elementwise("expm1", lambda graph, params, x: graph.one("Sub", graph.one("Exp", x), _one_like(graph, 1)))
_elementwise("erfc", lambda graph, params, x: graph.one("Sub", _one_like(graph, 1), graph.one("Erf", x)))
_elementwise("integer_pow", _integer_power)
_elementwise("round", _rounded)
_elementwise("is_finite", _finite)
_elementwise("clamp", lambda graph, params, low, x, high: graph.one("Min", graph.one("Max", x, low), high))


@_writes("rem")
def _remainder(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    x, y = map(graph.full, given)
    return _whole(graph.one("Mod", x, y, fmod=1), avals[0])


def _logical(primitive: str) -> Write:
    """Of truth values, or of the bits of integers."""

    def write(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
        word = primitive.capitalize()
        operation = word if avals[0].dtype == jnp.bool_ else f"Bitwise{word}"
        shape = tuple(avals[0].shape)
        name = graph.one(operation, *map(graph.operand, given))
        return [Value(name, shape, _stored_sizes(shape, given), np.dtype(avals[0].dtype))]

    return write


for _primitive in ("and", "or", "xor", "not"):
    NODES[_primitive] = _logical(_primitive)


@_writes("convert_element_type")
def _cast(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    (x,) = given
    name = graph.one("Cast", graph.small(x), to=_type(avals[0]))
    return [Value(name, x.shape, x.sizes, np.dtype(avals[0].dtype))]


@_writes("select_n")
def _select(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    which, *cases = given
    if len(cases) != 2:
        raise UserError("the model chooses among several arrays, which the ONNX writer cannot write")
    condition = graph.small(which)
    if which.dtype != np.bool_:
        condition = graph.one("Cast", condition, to=element_type(np.bool_))
    no, yes = map(graph.operand, cases)
    shape = tuple(avals[0].shape)
    # A single truth value may choose between whole arrays.
    sizes = _stored_sizes(shape, given)
    return [Value(graph.where(condition, yes, no, cases[0].dtype), shape, sizes, cases[0].dtype)]


# --- shapes ---


@_writes("broadcast_in_dim")
def _broadcast(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """Only the axes are put in place; the array repeats along the others, and is made larger when it has to be."""
    x, shape = given[0], tuple(avals[0].shape)
    sizes: list[Size] = [1] * len(shape)
    for axis, place in enumerate(params["broadcast_dimensions"]):
        sizes[place] = x.sizes[axis]
    if x.known:
        return [Value(np.reshape(x.stored, [int(size) for size in sizes]), shape, tuple(sizes), x.dtype)]
    return [Value(_reshaped(graph, graph.small(x), x.sizes, tuple(sizes)), shape, tuple(sizes), x.dtype)]


def _reshaped(graph: Graph, x: str, before: tuple[Size, ...], after: tuple[Size, ...]) -> str:
    """A tensor of the sizes ``before`` in the shape ``after``."""
    if before == after:
        return x
    unknown = [size for size in after if not is_number(size)]
    if len(unknown) == 1:
        sizes = graph.integers(*(int(size) if is_number(size) else -1 for size in after))
    else:
        sizes = graph.shape(after)
    return graph.one("Reshape", x, sizes)


@_writes("reshape", "squeeze", "expand_dims")
def _reshape(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    (x,) = given
    return _whole(_reshaped(graph, graph.full(x), x.shape, tuple(avals[0].shape)), avals[0])


@_writes("transpose")
def _transpose(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    (x,) = given
    order = params["permutation"]
    name = graph.one("Transpose", graph.small(x), perm=list(order))
    return [Value(name, tuple(avals[0].shape), tuple(x.sizes[axis] for axis in order), x.dtype)]


@_writes("concatenate")
def _concatenate(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    return _whole(graph.one("Concat", *map(graph.full, given), axis=params["dimension"]), avals[0])


@_writes("stack")
def _stack(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    axis = params["axis"]
    parts = [graph.one("Unsqueeze", graph.full(each), graph.integers(axis)) for each in given]
    return _whole(graph.one("Concat", *parts, axis=axis), avals[0])


@_writes("split")
def _split(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    sizes = graph.integers(*params["sizes"])
    names = graph.add("Split", graph.full(given[0]), sizes, outputs=len(avals), axis=params["axis"])
    return [value for name, aval in zip(names, avals, strict=True) for value in _whole(name, aval)]


@_writes("slice")
def _slice(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    (x,) = given
    starts, ends = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(starts)
    axes = [axis for axis, size in enumerate(avals[0].shape) if not _is_all(starts[axis], steps[axis], size, x, axis)]
    if not axes:
        return _whole(graph.full(x), avals[0])
    bounds = [graph.shape(tuple(each[axis] for axis in axes)) for each in (starts, ends)]
    name = graph.one("Slice", graph.full(x), *bounds, graph.integers(*axes), graph.integers(*(steps[a] for a in axes)))
    return _whole(name, avals[0])


def _is_all(start: Size, step: int, size: Size, x: Value, axis: int) -> bool:
    return is_number(start) and start == 0 and step == 1 and size == x.shape[axis]


@_writes("dynamic_slice")
def _dynamic_slice(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """The place is moved inside, as JAX does."""
    x, *starts = given
    sizes, wide = tuple(params["slice_sizes"]), element_type(np.int64)
    bounds = []
    for axis, start in enumerate(starts):
        last = graph.one("Sub", graph.shape((x.shape[axis],)), graph.shape((sizes[axis],)))
        place = graph.one("Reshape", graph.one("Cast", graph.full(start), to=wide), graph.integers(1))
        bounds.append(graph.one("Min", graph.one("Max", place, graph.integers(0)), last))
    begin = graph.one("Concat", *bounds, axis=0)
    end = graph.one("Add", begin, graph.shape(sizes))
    return _whole(graph.one("Slice", graph.full(x), begin, end, graph.integers(*range(len(sizes)))), avals[0])


@_writes("rev")
def _reverse(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    axes = params["dimensions"]
    first, last = [-1] * len(axes), [np.iinfo(np.int64).min] * len(axes)
    bounds = [graph.integers(*each) for each in (first, last, axes, first)]
    return _whole(graph.one("Slice", graph.full(given[0]), *bounds), avals[0])


@_writes("pad")
def _pad(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """Zeros between elements are not written; a negative pad cuts off."""
    x, filling = given
    if any(inside for _, _, inside in params["padding_config"]):
        raise UserError("the model pads between elements, which the ONNX writer cannot write; use --format stablehlo")
    before = [low for low, _, _ in params["padding_config"]]
    after = [high for _, high, _ in params["padding_config"]]
    name = graph.one("Pad", graph.full(x), graph.integers(*before, *after), graph.full(filling), mode="constant")
    return _whole(name, avals[0])


@_writes("dim_as_value")
def _size(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    length = graph.one("Squeeze", graph.shape((params["dim"],)), graph.integers(0))
    return _whole(graph.one("Cast", length, to=_type(avals[0])), avals[0])


@_writes("iota")
def _iota(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """It depends on the batch, or it would be known."""
    aval, axis = avals[0], params["dimension"]
    size = aval.shape[axis]
    length = graph.one("Squeeze", graph.shape((size,)), graph.integers(0))
    numbers = graph.one("Range", graph.weight(np.array(0, np.int64)), length, graph.weight(np.array(1, np.int64)))
    sizes = tuple(size if place == axis else 1 for place in range(len(aval.shape)))
    name = _reshaped(graph, graph.one("Cast", numbers, to=_type(aval)), (size,), sizes)
    return [Value(name, tuple(aval.shape), sizes, np.dtype(aval.dtype))]


# --- sums and orders ---

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
        return _whole(graph.one(operation, graph.full(given[0]), graph.integers(*axes), keepdims=0), avals[0])

    return write


for _primitive, _operation in REDUCTIONS.items():
    NODES[_primitive] = _reduction(_operation)


def _truth_reduction(operation: str) -> Write:
    """ONNX reduces numbers, not truth values."""

    def write(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
        numbers = graph.one("Cast", graph.full(given[0]), to=element_type(np.int32))
        found = graph.one(operation, numbers, graph.integers(*params["axes"]), keepdims=0)
        return _whole(graph.one("Cast", found, to=element_type(np.bool_)), avals[0])

    return write


NODES["reduce_and"] = _truth_reduction("ReduceMin")
NODES["reduce_or"] = _truth_reduction("ReduceMax")


def _place_of(operation: str) -> Write:
    def write(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
        (axis,) = params["axes"]
        found = graph.one(operation, graph.full(given[0]), axis=axis, keepdims=0)
        return _whole(graph.one("Cast", found, to=_type(avals[0])), avals[0])

    return write


NODES["argmax"] = _place_of("ArgMax")
NODES["argmin"] = _place_of("ArgMin")


@_writes("cumsum")
def _cumulative(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    axis = graph.weight(np.array(params["axis"], np.int32))
    return _whole(graph.one("CumSum", graph.full(given[0]), axis, reverse=int(params["reverse"])), avals[0])


@_writes("top_k")
def _top(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    axis = params.get("axis", -1)
    values, places = graph.add("TopK", graph.full(given[0]), graph.integers(params["k"]), outputs=2, axis=axis)
    return [*_whole(values, avals[0]), *_whole(graph.one("Cast", places, to=_type(avals[1])), avals[1])]


@_writes("sort")
def _sort(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """Rising by the first array; the others follow it."""
    axis = params["dimension"]
    if params["num_keys"] != 1:
        raise UserError("the model sorts by several keys, which the ONNX writer cannot write; use --format stablehlo")
    count = graph.shape((given[0].shape[axis],))
    first, order = graph.add("TopK", graph.full(given[0]), count, outputs=2, axis=axis, largest=0)
    found = _whole(first, avals[0])
    for each, aval in zip(given[1:], avals[1:], strict=True):
        found += _whole(graph.one("GatherElements", graph.full(each), order, axis=axis), aval)
    return found


# --- gathering ---


@_writes("gather")
def _gather(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """Windows of an array by their first places; of each example its own if axes are batched."""
    x, places = given
    form, sizes = params["dimension_numbers"], params["slice_sizes"]
    if isinstance(places.stored, np.ndarray) and len(places.shape) == 1:
        return _known_window(graph, x, np.broadcast_to(places.stored, places.shape), form, sizes, avals[0])
    taken, batched = tuple(form.start_index_map), tuple(form.operand_batching_dims)
    rest = tuple(axis for axis in range(len(x.shape)) if axis not in (*taken, *batched))
    if any(sizes[axis] != x.shape[axis] for axis in rest):
        raise UserError("the model gathers parts of slices, which the ONNX writer cannot write; use --format stablehlo")
    array = _ordered(graph, graph.full(x), (*batched, *taken, *rest))
    index_batched = tuple(form.start_indices_batching_dims)
    index_rest = tuple(axis for axis in range(len(places.shape) - 1) if axis not in index_batched)
    index = graph.one("Cast", graph.full(places), to=element_type(np.int64))
    index = _ordered(graph, index, (*index_batched, *index_rest, len(places.shape) - 1))
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
    return _whole(_gathered(graph, found, form, (*index_batched, *index_rest), (*taken, *rest), avals[0]), avals[0])


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
    return _ordered(graph, found, tuple(order))


def _known_window(
    graph: Graph, x: Value, place: np.ndarray, form: Any, sizes: Sequence[Size], aval: Any
) -> list[Value]:
    """One window whose place is known."""
    axes = form.start_index_map
    first = [int(min(max(0, start), x.shape[axis] - sizes[axis])) for axis, start in zip(axes, place, strict=True)]
    ends = [start + int(sizes[axis]) for axis, start in zip(axes, first, strict=True)]
    found = graph.one("Slice", graph.full(x), *(graph.integers(*each) for each in (first, ends, axes)))
    return _whole(_reshaped(graph, found, (), tuple(aval.shape)), aval)


@_writes("scatter")
def _put(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    """One slice along an axis replaced, as in ``x.at[:, place].set(slice)``; of each example its own if batched."""
    x, places, update = given
    form = params["dimension_numbers"]
    batched = tuple(map(int, form.operand_batching_dims))
    axes = tuple(map(int, form.scatter_dims_to_operand_dims))
    if len(axes) != 1 or axes != tuple(form.inserted_window_dims) or len(places.shape) != len(batched) + 1:
        raise UserError("the model replaces several parts of an array, which the ONNX writer cannot write")
    (axis,) = axes
    windows = iter(form.update_window_dims)
    others = [place for place in range(len(update.shape)) if place not in form.update_window_dims]
    order = []
    for each in range(len(x.shape)):
        if each in batched:
            order.append(others[form.scatter_indices_batching_dims[batched.index(each)]])
        elif each != axis:
            order.append(int(next(windows)))
    new = graph.one("Unsqueeze", _ordered(graph, graph.full(update), tuple(order)), graph.integers(axis))
    index = graph.one("Squeeze", graph.full(places), graph.integers(-1))
    ranks = np.argsort(batched).tolist()
    index = _ordered(graph, index, tuple(form.scatter_indices_batching_dims[rank] for rank in ranks))
    index = graph.one("Unsqueeze", index, graph.integers(*(a for a in range(len(x.shape)) if a not in batched)))
    numbers = np.arange(x.shape[axis], dtype=places.dtype)
    along = graph.weight(numbers.reshape([-1 if each == axis else 1 for each in range(len(x.shape))]))
    return _whole(graph.where(graph.one("Equal", along, index), new, graph.full(x), x.dtype), avals[0])


def _filling(value: Any, dtype: np.dtype) -> np.ndarray:
    """What JAX gives for a place outside: NaN, or the least or largest integer."""
    if value is None:
        if np.issubdtype(dtype, np.floating):
            value = np.nan
        else:
            value = np.iinfo(dtype).min if np.issubdtype(dtype, np.signedinteger) else np.iinfo(dtype).max
    return np.array(value, dtype)


def _ordered(graph: Graph, x: str, order: tuple[int, ...]) -> str:
    """A tensor with its axes in another order."""
    if order == tuple(range(len(order))):
        return x
    return graph.one("Transpose", x, perm=list(order))


# --- products, convolutions and pooling ---


@_writes("dot_general")
def _product(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    a, b = given
    (a_sum, b_sum), (a_batch, b_batch) = params["dimension_numbers"]
    dtype = np.dtype(avals[0].dtype)
    tensors = []
    for each in given:
        name = graph.full(each)
        tensors.append(name if each.dtype == dtype else graph.one("Cast", name, to=element_type(dtype)))
    is_dense = not a_batch and len(b.shape) == 2 and tuple(b_sum) == (0,) and tuple(a_sum) == (len(a.shape) - 1,)
    if is_dense:
        return _whole(graph.one("MatMul", *tensors), avals[0])
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    a_axes = [next(letters) for _ in a.shape]
    b_axes = [next(letters) for _ in b.shape]
    for one, other in zip((*a_batch, *a_sum), (*b_batch, *b_sum), strict=True):
        b_axes[other] = a_axes[one]
    batch = [a_axes[axis] for axis in a_batch]
    rest = [letter for letter in (*a_axes, *b_axes) if (letter in a_axes) != (letter in b_axes)]
    equation = f"{''.join(a_axes)},{''.join(b_axes)}->{''.join((*batch, *rest))}"
    return _whole(graph.one("Einsum", *tensors, equation=equation), avals[0])


@_writes("conv_general_dilated")
def _convolution(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    form = params["dimension_numbers"]
    if params["batch_group_count"] != 1:
        raise UserError("the model convolves groups of the batch, which the ONNX writer cannot write")
    x = _ordered(graph, graph.full(given[0]), tuple(form.lhs_spec))
    dilated = any(each != 1 for each in params["lhs_dilation"])
    write = _spread_out if dilated else _plain_convolution
    name = write(graph, params, x, given[1])
    return _whole(_ordered(graph, name, tuple(np.argsort(form.out_spec).tolist())), avals[0])


def _kernel(graph: Graph, value: Value, order: tuple[int, ...], *, turned: bool = False) -> str:
    """A kernel with its axes in the order of ONNX, and if ``turned`` by 180 degrees."""
    if isinstance(value.stored, np.ndarray):
        array = np.transpose(np.broadcast_to(value.stored, value.shape), order)
        return graph.weight(array[:, :, ::-1, ::-1].copy() if turned else array.copy())
    if turned:
        raise UserError("the model computes the kernel of a transposed convolution, which the ONNX writer cannot write")
    return _ordered(graph, graph.full(value), order)


def _plain_convolution(graph: Graph, params: Params, x: str, kernel: Value) -> str:
    low, high = zip(*params["padding"], strict=True)
    if min(*low, *high) < 0:
        edges = graph.integers(0, 0, *low, 0, 0, *high)
        x, low, high = graph.one("Pad", x, edges, mode="constant"), (0,) * len(low), (0,) * len(high)
    return graph.one(
        "Conv",
        x,
        _kernel(graph, kernel, tuple(params["dimension_numbers"].rhs_spec)),
        strides=list(params["window_strides"]),
        pads=[*low, *high],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )


def _spread_out(graph: Graph, params: Params, x: str, kernel: Value) -> str:
    """A convolution of an image that is spread out with zeros: ONNX's transposed convolution by the turned kernel."""
    out, into, *spatial = params["dimension_numbers"].rhs_spec
    if params["feature_group_count"] != 1 or any(each != 1 for each in params["window_strides"]):
        raise UserError("the model has a transposed convolution with groups or strides; use --format stablehlo")
    before, after, more = [], [], []
    sides = [kernel.shape[axis] for axis in spatial]
    for side, dilation, (low, high) in zip(sides, params["rhs_dilation"], params["padding"], strict=True):
        reach = dilation * (side - 1)
        if low > reach:
            raise UserError("the model pads a transposed convolution beyond its kernel; use --format stablehlo")
        before.append(reach - low)
        after.append(max(0, reach - high))
        more.append(max(0, high - reach))
    return graph.one(
        "ConvTranspose",
        x,
        _kernel(graph, kernel, (into, out, *spatial), turned=True),
        strides=list(params["lhs_dilation"]),
        pads=[*before, *after],
        output_padding=more,
        dilations=list(params["rhs_dilation"]),
    )


def _pooling(operation: str, **attributes: Any) -> Write:
    """Over windows of the two middle axes of [B, H, W, C]."""

    def write(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
        window, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
        outside = [window[axis] != 1 or padding[axis] != (0, 0) for axis in (0, 3)] if len(window) == 4 else [True]
        dilated = any(each != 1 for each in (*params["base_dilation"], *params["window_dilation"]))
        if any(outside) or dilated:
            raise UserError("the model pools over other axes than the image's; use --format stablehlo")
        low, high = zip(*padding[1:3], strict=True)
        found = graph.one(
            operation,
            graph.one("Transpose", graph.full(given[0]), perm=[0, 3, 1, 2]),
            kernel_shape=list(window[1:3]),
            strides=list(strides[1:3]),
            pads=[*low, *high],
            **attributes,
        )
        if operation == "AveragePool":
            found = graph.one("Mul", found, graph.weight(np.array(window[1] * window[2], given[0].dtype)))
        return _whole(graph.one("Transpose", found, perm=[0, 2, 3, 1]), avals[0])

    return write


NODES["reduce_window_max"] = _pooling("MaxPool")
NODES["reduce_window_sum"] = _pooling("AveragePool", count_include_pad=1)
