"""What a rule of the ONNX writer is: how one of JAX's operations becomes nodes; and what many rules need."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .onnx_graph import Graph, Size, Value, element_type, is_number

Params = Mapping[str, Any]
Write = Callable[[Graph, Params, list[Value], Sequence[Any]], list[Value]]
"""A function of the graph, the equation's parameters, what it is given, and the shapes and dtypes of what it gives. It
writes nodes and returns what they give."""


class Rules(dict[str, Write]):
    """Rules by the name of the primitive."""

    def writes(self, *names: str) -> Callable[[Write], Write]:
        """Enters a function for primitives."""

        def enter(write: Write) -> Write:
            for name in names:
                self[name] = write
            return write

        return enter


def whole(name: str, aval: Any) -> list[Value]:
    """A tensor that is stored at its whole size."""
    shape = tuple(aval.shape)
    return [Value(name, shape, shape, np.dtype(aval.dtype))]


def type_of(value: Any) -> int:
    """ONNX's number of an array's dtype."""
    return element_type(value.dtype)


def stored_sizes(shape: tuple[Size, ...], given: Sequence[Value]) -> tuple[Size, ...]:
    """The sizes of what ONNX makes of operands as they are stored: 1 along an axis on which all of them repeat."""
    sizes = []
    for axis, size in enumerate(shape):
        # A number among the operands has no axes.
        stored = {each.sizes[axis] for each in given if each.sizes}
        sizes.append(1 if stored <= {1} else size)
    return tuple(sizes)


def reshaped(graph: Graph, x: str, before: tuple[Size, ...], after: tuple[Size, ...]) -> str:
    """A tensor of the sizes ``before`` in the shape ``after``."""
    if before == after:
        return x
    unknown = [size for size in after if not is_number(size)]
    if len(unknown) == 1:
        sizes = graph.integers(*(int(size) if is_number(size) else -1 for size in after))
    else:
        sizes = graph.shape(after)
    return graph.one("Reshape", x, sizes)


def ordered(graph: Graph, x: str, order: tuple[int, ...]) -> str:
    """A tensor with its axes in another order."""
    if order == tuple(range(len(order))):
        return x
    return graph.one("Transpose", x, perm=list(order))
