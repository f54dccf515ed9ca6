"""An ONNX graph while it is written: its nodes, its constants, and sizes that depend on the batch."""

import copy
import hashlib
import itertools
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jaxrec.errors import UserError

OPSET = 18
"""The version of ONNX's operators, of 2022: runtimes of all platforms know it."""
TYPES = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "uint16": TensorProto.UINT16,
    "int16": TensorProto.INT16,
    "uint32": TensorProto.UINT32,
    "int32": TensorProto.INT32,
    "uint64": TensorProto.UINT64,
    "int64": TensorProto.INT64,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}
Size = Any
"""An int, or a polynomial of the batch, as JAX writes the sizes of a program for any batch."""


class Missing(NamedTuple):
    """In place of an array: the operation that would have made it, which is not written here.

    It is refused when an output turns out to need it. Some never do: keys are folded that nothing is drawn with.
    """

    operation: str


def not_written(what: str) -> UserError:
    """The error of a model that ``what`` is said of."""
    return UserError(f"the model {what}, which the ONNX writer cannot write; export it with --format stablehlo")


@dataclass(frozen=True)
class Value:
    """An array of the traced function: a tensor of the graph, or a constant.

    Either may be stored smaller than it is, with 1 in place of a size along which it repeats: ONNX's arithmetic
    broadcasts, so that most arrays never have to be made as large as JAX says they are.
    """

    stored: str | np.ndarray | Missing
    """The tensor's name, or the constant, or what is missing."""
    shape: tuple[Size, ...]
    """The shape that the array has in the traced function."""
    sizes: tuple[Size, ...]
    """The shape as stored: of each axis its size or 1."""
    dtype: np.dtype

    @property
    def known(self) -> bool:
        """Whether it is a constant."""
        return isinstance(self.stored, np.ndarray)

    @property
    def whole(self) -> bool:
        """Whether it is stored as large as it is."""
        return self.shape == self.sizes


def constant(array: Any) -> Value:
    """A constant."""
    array = np.asarray(array)
    return Value(array, array.shape, array.shape, array.dtype)


def is_number(size: Size) -> bool:
    """Whether a size is the same for every batch."""
    return isinstance(size, int | np.integer)


class Graph:
    """The nodes and constants written so far."""

    def __init__(self, batch_of: str) -> None:
        """``batch_of`` is the input whose first axis is the batch."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._weights: dict[tuple[int, tuple[int, ...], bytes], str] = {}
        self._numbers = itertools.count(1)
        self._batch = self.one("Shape", batch_of, start=0, end=1)

    def inside(self) -> "Graph":
        """A graph for the body of a loop: it has nodes of its own, and the constants and names of this one."""
        inner = copy.copy(self)
        inner.nodes = []
        return inner

    def fresh(self, kind: str) -> str:
        """A name that no tensor has yet."""
        return f"{kind}_{next(self._numbers)}"

    def add(self, operation: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Writes a node; returns the names of its outputs."""
        names = [self.fresh(operation) for _ in range(outputs)]
        self.nodes.append(helper.make_node(operation, list(inputs), names, **attributes))
        return names

    def one(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Writes a node of one output; returns its name."""
        return self.add(operation, *inputs, **attributes)[0]

    def weight(self, array: np.ndarray) -> str:
        """The name of a constant; equal ones are written once, such as the kernels of a loop that is unrolled."""
        element = element_type(array.dtype)
        array = np.asarray(array, order="C")
        key = element, array.shape, hashlib.sha256(array.tobytes()).digest()
        if key not in self._weights:
            self._weights[key] = self.fresh("constant")
            self.constants.append(numpy_helper.from_array(array, self._weights[key]))
        return self._weights[key]

    def integers(self, *numbers: int) -> str:
        """A constant int64 [N], as ONNX wants axes and sizes."""
        return self.weight(np.array(numbers, np.int64))

    def small(self, value: Value) -> str:
        """The tensor as it is stored, for operations that broadcast."""
        if isinstance(value.stored, Missing):
            raise not_written(f"has the operation '{value.stored.operation}'")
        return value.stored if isinstance(value.stored, str) else self.weight(value.stored)

    def operand(self, value: Value) -> str:
        """As ``small``, a constant without leading axes of size 1: runtimes look for biases of one axis."""
        if not isinstance(value.stored, np.ndarray):
            return self.small(value)
        array = value.stored
        while array.ndim and array.shape[0] == 1:
            array = array[0]
        return self.weight(array)

    def full(self, value: Value) -> str:
        """The tensor at its whole size."""
        if value.whole:
            return self.small(value)
        return self.one("Expand", self.small(value), self.shape(value.shape))

    def where(self, which: str, yes: str, no: str, dtype: np.dtype) -> str:
        """``yes`` if ``which`` is true, otherwise ``no``; runtimes choose among numbers, not among truth values."""
        if dtype != np.bool_:
            return self.one("Where", which, yes, no)
        numbers = (self.one("Cast", each, to=TensorProto.UINT8) for each in (yes, no))
        return self.one("Cast", self.one("Where", which, *numbers), to=TensorProto.BOOL)

    def shape(self, sizes: tuple[Size, ...]) -> str:
        """The sizes as a tensor int64 [N]."""
        if all(map(is_number, sizes)):
            return self.integers(*map(int, sizes))
        parts = [self.integers(int(size)) if is_number(size) else self._size(size) for size in sizes]
        return self.one("Concat", *parts, axis=0)

    def _size(self, size: Size) -> str:
        """A size that depends on the batch, as a tensor int64 [1]."""
        factor, more = linear(size)
        name = self._batch
        if factor != 1:
            name = self.one("Mul", name, self.integers(factor))
        return self.one("Add", name, self.integers(more)) if more else name


def linear(size: Size) -> tuple[int, int]:
    """The numbers (a, c) of a size that is a * batch + c; raises UserError if it is anything else."""
    form = re.fullmatch(r"(?:(\d+)\*)?batch(?: ([+-]) (\d+))?", str(size))
    if form is None:
        raise not_written(f"has an array of {size} elements")
    factor, sign, more = form.groups()
    return int(factor or 1), int(f"{sign or ''}{more or 0}")


def element_type(dtype: Any) -> int:
    """ONNX's number of a dtype; raises UserError if runtimes do not have it."""
    name = jnp.dtype(dtype).name
    if name not in TYPES:
        raise UserError(
            f"the model computes in {name}, which ONNX runtimes have not on a CPU; train it in float32 or export it "
            "with --format stablehlo"
        )
    return TYPES[name]


def read_by(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node takes, a loop also those that its body does."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= read_by(inner)
    return names
