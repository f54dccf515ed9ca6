"""Writes files as torch.save does, for tests: PyTorch itself is not needed."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "u1": "Byte", "b1": "Bool"}
MAGIC = 0x1950A86A20F9469CFC6C


class Stored:
    """An array that is pickled as a tensor: a view of a storage."""

    def __init__(self, key: str, array: np.ndarray, view: tuple[Any, ...] | None = None, kind: str | None = None):
        self.key, self.array = key, np.ascontiguousarray(array)
        self.kind = kind or KINDS[self.array.dtype.str[1:]]
        steps = tuple(step // self.array.itemsize for step in self.array.strides)
        self.view = view or (0, self.array.shape, steps)

    def __reduce__(self) -> Any:
        offset, shape, strides = self.view
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (Storage(self), offset, shape, strides, False, {})


class Storage:
    def __init__(self, stored: Stored):
        self.stored = stored


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        kind = getattr(sys.modules["torch"], f"{value.stored.kind}Storage")
        return "storage", kind, value.stored.key, "cpu", value.stored.array.size


def _modules() -> dict[str, types.ModuleType]:
    """Stand-ins with the names that the pickle holds."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in {*KINDS.values(), "BFloat16"}:
        name = f"{kind}Storage"
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*_: Any) -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    return {"torch": torch, "torch._utils": utils}


def stored(arrays: Mapping[str, np.ndarray]) -> dict[str, Stored]:
    return collections.OrderedDict((name, Stored(str(n), array)) for n, (name, array) in enumerate(arrays.items()))


def write(path: Path, content: Any, tensors: Mapping[str, Stored], *, old: bool = False) -> Path:
    """Writes ``content``, which holds ``tensors``, in the format of today or the old one."""
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update(_modules())
    try:
        body = io.BytesIO()
        Pickler(body, 2).dump(content)
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
    storages = {each.key: each.array for each in tensors.values()}
    if old:
        parts = [pickle.dumps(value, 2) for value in (MAGIC, 1001, {"little_endian": True})]
        parts += [body.getvalue(), pickle.dumps(list(storages), 2)]
        parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
        path.write_bytes(b"".join(parts))
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path
