"""Reads the arrays of a PyTorch file, old or zip format, without PyTorch, and without executing what the file says.

Such a file is a pickle, a program for a small stack machine, beside the numbers as they lie in memory. Python's own
machine imports whatever the program names and calls it. The one below knows no import and no call: the few names that
describe arrays make records of its own, and every other name stays a name.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C
"""The number that an old file begins with, as a pickle of its own."""
MARK = object()
"""On the stack, where a group of items begins."""
DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
"""How the numbers of a storage lie in the file. NumPy has no bfloat16: its bits are read as whole numbers."""
WRAPPED = ("state_dict", "model", "model_state_dict", "net")
"""Names under which training scripts put a model's arrays, beside those of the optimizer."""


class Name(NamedTuple):
    """Something of a module that the pickle names; it is never looked up."""

    module: str
    name: str


class Storage(NamedTuple):
    """Numbers that lie in the file under a key."""

    key: str
    kind: str
    count: int


class Tensor(NamedTuple):
    """A view of a storage: sizes and strides are counted in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class Unknown:
    """What would be made by calling something unknown."""

    name: Name


class Machine:
    """Makes plain data of one pickle: numbers, text, tuples, lists, dicts and the records above."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        # What each operation does with its argument; what it gives back is ignored.
        self.does: dict[str, Callable[[Any], Any]] = {
            "MARK": lambda _: self.stack.append(MARK),
            "NONE": lambda _: self.stack.append(None),
            "NEWTRUE": lambda _: self.stack.append(True),
            "NEWFALSE": lambda _: self.stack.append(False),
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_TUPLE": lambda _: self.stack.append(()),
            "TUPLE": lambda _: self.stack.append(tuple(self._group())),
            "TUPLE1": lambda _: self.stack.append(tuple(self._last(1))),
            "TUPLE2": lambda _: self.stack.append(tuple(self._last(2))),
            "TUPLE3": lambda _: self.stack.append(tuple(self._last(3))),
            "APPEND": lambda _: self._append(self._last(1)),
            "APPENDS": lambda _: self._append(self._group()),
            "SETITEM": lambda _: self._set_items(self._last(2)),
            "SETITEMS": lambda _: self._set_items(self._group()),
            "GLOBAL": lambda named: self.stack.append(Name(*named.split(" ", 1))),
            "STACK_GLOBAL": lambda _: self.stack.append(Name(*self._last(2))),
            "REDUCE": lambda _: self.stack.append(_made(*self._last(2))),
            "NEWOBJ": lambda _: self.stack.append(_made(*self._last(2))),
            "BUILD": lambda _: self._last(1),  # Attributes of an object, such as the versions of layers.
            "BINPERSID": lambda _: self.stack.append(_storage(self._last(1)[0])),
            "MEMOIZE": lambda _: self.memo.update({len(self.memo): self.stack[-1]}),
            "POP": lambda _: self._last(1),
        }
        for name in ("BINPUT", "LONG_BINPUT"):
            self.does[name] = lambda place: self.memo.update({place: self.stack[-1]})
        for name in ("BINGET", "LONG_BINGET"):
            self.does[name] = lambda place: self.stack.append(self.memo[place])
        for name in ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"):
            self.does[name] = self.stack.append
        for name in ("BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BINSTRING", "SHORT_BINSTRING"):
            self.does[name] = self.stack.append
        for name in ("PROTO", "FRAME"):
            self.does[name] = lambda _: None

    def run(self, file: io.BytesIO) -> Any:
        """What the pickle that begins at the file's position stands for; reads to its end and no further.

        Raises ValueError, or another error of Python's own, if it is no such pickle.
        """
        for operation, argument, _ in pickletools.genops(file):
            if operation.name == "STOP":
                return self._last(1)[0]
            if operation.name not in self.does:
                raise ValueError(f"the operation {operation.name} is none that describes arrays")
            self.does[operation.name](argument)
        raise ValueError("the pickle has no end")

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("the stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _group(self) -> list[Any]:
        """What lies above the last mark."""
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not MARK:
            place -= 1
        if place < 0:
            raise ValueError("a group has no beginning")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            return  # An unknown object's items.
        self.stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            return
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _made(name: Any, arguments: Any) -> Any:
    """What a call of ``name`` would make, of the few that describe arrays; nothing is called."""
    if name == Name("collections", "OrderedDict"):
        return {}
    if name == Name("torch._utils", "_rebuild_tensor_v2"):
        storage, offset, shape, strides = arguments[:4]
        return Tensor(storage, offset, tuple(shape), tuple(strides))
    if name == Name("torch._utils", "_rebuild_parameter"):
        return arguments[0]
    return Unknown(name)


def _storage(described: Any) -> Storage:
    _, kind, key, _, count = described[:5]
    if not isinstance(kind, Name) or kind.module != "torch" or kind.name not in DTYPES:
        raise ValueError(f"numbers of the kind {kind} are not known")
    return Storage(str(key), kind.name, count)


def read_pytorch(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that ``torch.save`` wrote, by name; floats as float32.

    A file may hold the arrays themselves or, beside other things, under one of the names ``WRAPPED``. Raises UserError
    if it is no such file, is damaged, or holds no arrays.
    """
    try:
        arrays = _arrays(path)
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror or error}); give a file of weights") from error
    except MemoryError:
        raise
    except Exception as error:  # Damaged bytes can lead to any kind of error.
        raise UserError(
            f"'{path}' is not a file of arrays that torch.save wrote, or it is damaged "
            f"({str(error)[:100] or type(error).__name__}); save a model's state_dict()"
        ) from error
    if not arrays:
        raise UserError(f"'{path}' holds no arrays by name; save a model's state_dict()")
    return arrays


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return _of_zip(archive)
        file.seek(0)
        # From memory: a length in the file can ask for no more than there is.
        return _of_old(io.BytesIO(file.read()))


def _of_zip(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """The arrays of the format since PyTorch 1.6: ``data.pkl`` and a file for each storage."""
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if not names:
        raise ValueError("the archive has no data.pkl")
    folder = names[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and _stored(archive, f"{folder}byteorder").strip() != b"little":
        raise ValueError("its numbers are big-endian")
    found = Machine().run(io.BytesIO(_stored(archive, names[0])))

    def numbers(storage: Storage) -> bytes:
        return _stored(archive, f"{folder}data/{storage.key}")

    return _views(found, numbers)


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the archive, which PyTorch does not compress: a small file could otherwise ask for all memory."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(info)


def _of_old(file: io.BytesIO) -> dict[str, np.ndarray]:
    """The arrays of the format before PyTorch 1.6: five pickles, then the storages in the order of the fifth."""
    if Machine().run(file) != MAGIC:
        raise ValueError("it does not begin as such a file")
    Machine().run(file)  # The version of the format.
    if Machine().run(file)["little_endian"] is not True:
        raise ValueError("its numbers are big-endian")
    found = Machine().run(file)
    tensors = _tensors(found)
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    raw: dict[str, bytes] = {}
    for key in Machine().run(file):
        (count,) = struct.unpack("<q", file.read(8))
        if key not in storages:
            raise ValueError(f"the numbers of {key} belong to no array")
        if count != storages[key].count:
            raise ValueError(f"{key} has {count} numbers, expected {storages[key].count}")
        raw[key] = file.read(count * np.dtype(DTYPES[storages[key].kind]).itemsize)
    return _views(found, lambda storage: raw[storage.key])


def _tensors(found: Any) -> dict[str, Tensor]:
    """The arrays by name, of the dict itself or one inside it."""
    if not isinstance(found, Mapping):
        raise ValueError("it holds no dict")
    for name in WRAPPED:
        if isinstance(found.get(name), Mapping):
            found = found[name]
            break
    return {name: each for name, each in found.items() if isinstance(name, str) and isinstance(each, Tensor)}


def _views(found: Any, numbers: Callable[[Storage], bytes]) -> dict[str, np.ndarray]:
    arrays = {}
    read: dict[str, np.ndarray] = {}
    for name, tensor in _tensors(found).items():
        storage = tensor.storage
        if storage.key not in read:
            read[storage.key] = np.frombuffer(numbers(storage), DTYPES[storage.kind])
        arrays[name] = _view(tensor, read[storage.key])
    return arrays


def _view(tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    """A copy of what the tensor shows of a storage's numbers; raises ValueError if it shows more than there is."""
    counts = (tensor.offset, *tensor.shape, *tensor.strides)
    if len(tensor.shape) != len(tensor.strides) or not all(type(each) is int and each >= 0 for each in counts):
        raise ValueError(f"the shape {tensor.shape} with strides {tensor.strides} is none")
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    size = math.prod(tensor.shape)
    if size > len(numbers) or (size and tensor.offset + reach >= len(numbers)):
        raise ValueError(f"an array {tensor.shape} is larger than its {len(numbers)} numbers")
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides)
    if tensor.storage.kind == "BFloat16Storage":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view.astype(np.float32) if view.dtype.kind == "f" else view.copy()
