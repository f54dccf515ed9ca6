"""The devices of a run and how arrays lie on them: the state on every device, each batch shared out."""

import ctypes
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrec.errors import UserError


class Devices:
    """All devices as one axis ``data``."""

    def __init__(self) -> None:
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


def tune_allocator() -> None:
    """Tells glibc to keep freed memory, so that XLA's buffers are not given back to the kernel at every step.

    Page faults were two thirds of some steps on a CPU. The process holds its peak memory to its end. Elsewhere than on
    glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
    settings = {arena_max: 1, mmap_max: 0, trim_threshold: -1, top_pad: 64 * 2**20}
    for name, value in settings.items():
        mallopt(name, value)


def keep_programs(folder: Path) -> None:
    """Lets jax keep compiled programs in ``folder``, so that the next run of the same kind starts at once.

    A folder of the user's own choosing (``JAX_COMPILATION_CACHE_DIR``) is left as it is.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
