"""Products, convolutions and pooling, as ONNX nodes."""

from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any

import numpy as np

from .onnx_graph import Graph, Value, element_type, not_written
from .onnx_rules import Params, Rules, Write, ordered, whole

RULES = Rules()


@RULES.writes("dot_general")
def _product(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    a, b = given
    dtype = np.dtype(avals[0].dtype)
    tensors = []
    for each in given:
        name = graph.full(each)
        if each.dtype != dtype:
            name = graph.one("Cast", name, to=element_type(dtype))
        tensors.append(name)
    # Quantizers look for products of this kind.
    if params["dimension_numbers"] == (((len(a.shape) - 1,), (0,)), ((), ())) and len(b.shape) == 2:
        return whole(graph.one("MatMul", *tensors), avals[0])
    equation = _einstein_sum(params["dimension_numbers"], len(a.shape), len(b.shape))
    return whole(graph.one("Einsum", *tensors, equation=equation), avals[0])


def _einstein_sum(dimensions: Any, a_rank: int, b_rank: int) -> str:
    """A product's axes in letters, such as ``abc,cd->abd``: JAX gives first those of the batch, then a's, then b's."""
    (a_sum, b_sum), (a_batch, b_batch) = dimensions
    a_axes = list(ascii_lowercase[:a_rank])
    b_axes = list(ascii_lowercase[a_rank : a_rank + b_rank])
    for one, other in zip((*a_batch, *a_sum), (*b_batch, *b_sum), strict=True):
        b_axes[other] = a_axes[one]
    shared = [a_axes[axis] for axis in a_batch]
    alone = [letter for letter in (*a_axes, *b_axes) if (letter in a_axes) != (letter in b_axes)]
    return f"{''.join(a_axes)},{''.join(b_axes)}->{''.join([*shared, *alone])}"


@RULES.writes("conv_general_dilated")
def _convolution(graph: Graph, params: Params, given: list[Value], avals: Sequence[Any]) -> list[Value]:
    form = params["dimension_numbers"]
    if params["batch_group_count"] != 1:
        raise not_written("convolves groups of the batch")
    x = ordered(graph, graph.full(given[0]), tuple(form.lhs_spec))
    dilated = any(each != 1 for each in params["lhs_dilation"])
    write = _spread_out if dilated else _plain_convolution
    name = write(graph, params, x, given[1])
    return whole(ordered(graph, name, tuple(np.argsort(form.out_spec).tolist())), avals[0])


def _kernel(graph: Graph, value: Value, order: tuple[int, ...], *, turned: bool = False) -> str:
    """A kernel with its axes in the order of ONNX, and if ``turned`` by 180 degrees."""
    if isinstance(value.stored, np.ndarray):
        array = np.transpose(np.broadcast_to(value.stored, value.shape), order)
        if turned:
            array = array[:, :, ::-1, ::-1]
        return graph.weight(array.copy())
    if turned:
        raise not_written("computes the kernel of a transposed convolution")
    return ordered(graph, graph.full(value), order)


def _plain_convolution(graph: Graph, params: Params, x: str, kernel: Value) -> str:
    low, high = zip(*params["padding"], strict=True)
    if min(*low, *high) < 0:
        # ONNX's convolution takes no negative pads.
        edges = graph.integers(0, 0, *low, 0, 0, *high)
        x = graph.one("Pad", x, edges, mode="constant")
        low, high = (0,) * len(low), (0,) * len(high)
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
        raise not_written("has a transposed convolution with groups or strides")
    before, after, more = [], [], []
    sides = [kernel.shape[axis] for axis in spatial]
    for side, dilation, (low, high) in zip(sides, params["rhs_dilation"], params["padding"], strict=True):
        reach = dilation * (side - 1)
        if low > reach:
            raise not_written("pads a transposed convolution beyond its kernel")
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
        of_images = len(window) == 4
        outside = of_images and any(window[axis] != 1 or padding[axis] != (0, 0) for axis in (0, 3))
        dilated = any(each != 1 for each in (*params["base_dilation"], *params["window_dilation"]))
        if not of_images or outside or dilated:
            raise not_written("pools over other axes than the image's")
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
        return whole(graph.one("Transpose", found, perm=[0, 2, 3, 1]), avals[0])

    return write


RULES["reduce_window_max"] = _pooling("MaxPool")
RULES["reduce_window_sum"] = _pooling("AveragePool", count_include_pad=1)
