"""Batch normalization folded into the convolution before it, in an ONNX graph (Jacob et al. 2018).

With known statistics it is a factor and a sum for each channel. Inside the kernel, the factor costs nothing and has no
range of its own in 8 bits. Runtimes do not fold it themselves: axes are put back in JAX's order in between. Max pooling
may lie between the two if the factors are positive: the largest number stays the largest.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .onnx_graph import Graph, read_by

CHANNELS_OUT = {"Conv": 0, "ConvTranspose": 1}
"""The axis of a kernel that becomes the channels."""


def folded(graph: Graph, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes of a graph without sums and products by constants for each channel that follow a convolution.

    The convolutions have other kernels, and a bias; they say the same but for rounding. A convolution stays as it is
    if its result is used in several places, or its kernel is computed.

    Args:
        graph: holds the constants; gets the changed ones.
        nodes: the nodes, each after those whose results it takes.
    """
    constants = {each.name: numpy_helper.to_array(each) for each in graph.constants}
    users = _users(nodes)
    replaced: dict[str, onnx.NodeProto] = {}
    given: dict[str, str] = {}  # What the result of a dropped node is now.
    for node in nodes:
        if node.op_type in CHANNELS_OUT and len(node.input) == 2 and _can_fold(node, constants):
            factor, more, dropped = _affine(node, constants, users)
            given.update(dropped)
            if dropped:
                replaced[node.output[0]] = _changed(graph, node, constants[node.input[1]], factor, more)
    kept = []
    for node in nodes:
        if node.output[0] in given:
            continue
        node = replaced.get(node.output[0], node)
        node.input[:] = [_now(name, given) for name in node.input]
        kept.append(node)
    return kept


def _users(nodes: Sequence[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that take each tensor."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in read_by(node):
            users.setdefault(name, []).append(node)
    return users


def _can_fold(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> bool:
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    return node.input[1] in constants and (node.op_type == "Conv" or groups == 1)


def _affine(
    node: onnx.NodeProto, constants: Mapping[str, np.ndarray], users: Mapping[str, list[onnx.NodeProto]]
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """What the nodes after a convolution do to its channels: a factor and a sum float64 [C].

    Also what each of these nodes is given, by the name of what it gives.
    """
    kernel = constants[node.input[1]]
    channels = kernel.shape[CHANNELS_OUT[node.op_type]]
    factor, more, dropped = np.ones(channels), np.zeros(channels), {}
    for follower in _followers(node, users):
        kind = follower.node.op_type
        numbers = _by_channel(constants.get(follower.other), follower.axis, kernel.ndim, channels)
        if numbers is None:
            break
        if follower.pooled and kind in ("Mul", "Div") and not np.all(numbers > 0):
            break
        if kind == "Mul":
            factor, more = factor * numbers, more * numbers
        elif kind == "Div":
            factor, more = factor / numbers, more / numbers
        else:
            more = more + (numbers if kind == "Add" else -numbers)
        dropped[follower.node.output[0]] = follower.changed
    return factor, more, dropped


class _Follower(NamedTuple):
    """A sum or product after a convolution."""

    node: onnx.NodeProto
    changed: str
    """The tensor that it changes."""
    other: str
    """Its other operand."""
    axis: int
    """The axis that holds the channels."""
    pooled: bool
    """Whether it changes maxima of what the convolution gave."""


def _followers(node: onnx.NodeProto, users: Mapping[str, list[onnx.NodeProto]]) -> Iterator[_Follower]:
    """The sums and products after a convolution, as long as each result has one use."""
    name, axis, pooled = node.output[0], 1, False
    while len(users.get(name, ())) == 1:
        (follower,) = users[name]
        if follower.op_type == "Transpose":
            (order,) = (list(each.ints) for each in follower.attribute if each.name == "perm")
            axis = order.index(axis)
        elif follower.op_type == "MaxPool" and axis == 1:
            pooled = True
        else:
            other = _other_operand(follower, name)
            if other is None:
                return
            yield _Follower(follower, name, other, axis, pooled)
        name = follower.output[0]


def _other_operand(node: onnx.NodeProto, name: str) -> str | None:
    """What is added to a tensor, subtracted from it, multiplied with it, or what it is divided by; None otherwise."""
    if node.op_type in ("Add", "Mul"):
        first, second = node.input
        return second if first == name else first
    if node.op_type in ("Sub", "Div") and node.input[0] == name:
        return node.input[1]
    return None


def _by_channel(array: np.ndarray | None, axis: int, rank: int, channels: int) -> np.ndarray | None:
    """A constant as one number for each channel, float64 [C] or []; None if it is anything else."""
    if array is None or array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if shape[axis] not in (1, channels) or array.size != shape[axis]:
        return None
    return array.astype(np.float64).reshape(-1) if array.size > 1 else array.astype(np.float64).reshape(())


def _changed(
    graph: Graph, node: onnx.NodeProto, kernel: np.ndarray, factor: np.ndarray, more: np.ndarray
) -> onnx.NodeProto:
    """The convolution with the factor in its kernel, and the sum as its bias."""
    sizes = [1] * kernel.ndim
    sizes[CHANNELS_OUT[node.op_type]] = -1
    changed = (kernel * factor.reshape(sizes)).astype(kernel.dtype)
    tensors = [node.input[0], graph.weight(changed), graph.weight(more.astype(kernel.dtype))]
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return helper.make_node(node.op_type, tensors, list(node.output), **attributes)


def _now(name: str, given: Mapping[str, str]) -> str:
    while name in given:
        name = given[name]
    return name
