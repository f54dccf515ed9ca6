"""The devices of a run and how arrays lie on them: the state on every device, each batch shared out."""

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrec.errors import UserError


class Devices:
    """All devices as one axis ``data``."""

    def __init__(self) -> None:
        tune_compiler()
        try:
            devices = jax.devices()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"jax finds no device to compute on ({reason}); check JAX_PLATFORMS") from error
        self.mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.platform = devices[0].platform

    def describe(self) -> list[str]:
        """One line per kind of device, such as ``8 x cpu``."""
        kinds = [device.device_kind for device in self.mesh.devices.flat]
        return [f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)]

    def check_batch(self, batch_size: int) -> None:
        """Raises UserError where a batch cannot be shared out evenly."""
        if batch_size < 1 or batch_size % self.mesh.size:
            raise UserError(
                f"batch size {batch_size} cannot be shared by {self.mesh.size} devices; "
                f"choose a multiple of {self.mesh.size} with --batch-size"
            )

    def round_up(self, batch_size: int) -> int:
        """The smallest size of at least ``batch_size`` that can be shared out evenly."""
        return -(-batch_size // self.mesh.size) * self.mesh.size

    def share(self, batch: Any) -> Any:
        """A batch on the host, or batches stacked along leading axes, put on the devices: each takes its examples."""
        leading = [None] * (batch["index"].ndim - 1)
        return jax.device_put(batch, NamedSharding(self.mesh, PartitionSpec(*leading, "data")))

    def copy(self, tree: Any) -> Any:
        """Arrays put on every device."""
        return jax.device_put(tree, self.replicated)


HEAP = 2**30
"""Bytes of address space that `tune_allocator` asks large pages for."""
EIGEN = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
EIGEN_SINCE, EIGEN_UNTIL = (0, 10), (0, 13)
"""Versions of jaxlib known to have that flag; others end the process over a flag they do not know."""


def tune_allocator() -> None:
    """Tells glibc to keep freed memory, so that XLA's buffers are not given back to the kernel at every step.

    The first `HEAP` bytes are asked for in large pages. The process holds its peak memory to its end. What it gains and
    costs, docs/performance.md tells. Elsewhere than on glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
    settings = {arena_max: 1, mmap_max: 0, trim_threshold: -1, top_pad: 64 * 2**20}
    for name, value in settings.items():
        libc.mallopt(name, value)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # Taken and given back untouched, the space is at the heap's end and costs no memory yet.
    if heap := libc.malloc(HEAP):
        page, madv_hugepage = 2**21, 14
        libc.madvise(-(-heap // page) * page, HEAP - page, madv_hugepage)
        libc.free(heap)


def tune_compiler() -> None:
    """Leaves convolutions on a CPU to Eigen, which is faster on few cores than YNNPACK, jaxlib's choice.

    To be called before jax computes anything, and without effect afterwards. A setting of the user's own in
    ``XLA_FLAGS`` is left as it is.
    """
    flags, version = os.environ.get("XLA_FLAGS", ""), tuple(map(int, jaxlib.__version__.split(".")[:2]))
    if EIGEN.partition("=")[0] not in flags and EIGEN_SINCE <= version < EIGEN_UNTIL:
        os.environ["XLA_FLAGS"] = f"{flags} {EIGEN}".strip()


def keep_programs(folder: Path) -> None:
    """Lets jax keep compiled programs in ``folder``, so that the next run of the same kind starts at once.

    A folder of the user's own choosing (``JAX_COMPILATION_CACHE_DIR``) is left as it is.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
