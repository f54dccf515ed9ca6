"""What concerns the whole process on a CPU: XLA's flags, freed memory, the order of steps, the forms of operations."""

import ctypes
import os
import platform
import warnings
from pathlib import Path

import jax
import jaxlib

from jaxrec.models.cpu.forms import use_own_forms
from jaxrec.models.cpu.onednn import use_onednn

HEAP = 2**30
"""Bytes of address space for which `keep_freed_memory` asks for large pages."""
CPU_FLAGS = {
    "--xla_cpu_experimental_ynn_fusion_type": "-individual_convolution",
    "--xla_cpu_prefer_vector_width": "512",
}
"""Convolutions by Eigen, faster on few cores than YNNPACK, and vectors of 512 bits; by default XLA's have 256."""
FLAGS_SINCE, FLAGS_UNTIL = (0, 10), (0, 13)
"""Versions of jaxlib that are known to have these flags. Others end the process over a flag that they do not know."""
ONEDNN_IN = ("0.10.2", "0.12.0.1")
"""Versions of jaxlib in which XLA runs oneDNN's convolutions as `jaxrec.models.cpu.onednn` asks for them."""


def tune_cpu(tune_allocator: bool = True) -> None:
    """Makes steps on a CPU faster; call it before jax computes anything.

    It turns on four things, of which all but the last change nothing where jax computes on a GPU or TPU:

    - The operations of models take forms of their own (`jaxrec.models.cpu`), of which convolutions in bfloat16 are
      oneDNN's if the CPU has matrix units. They have gradients of any order and no forward mode: for `jax.jvp` or
      `jax.hessian` use `jaxrec.plain_forms`.
    - XLA gets the `CPU_FLAGS`, unless ``XLA_FLAGS`` sets these flags.
    - No step begins before the last has ended, unless ``JAX_CPU_ENABLE_ASYNC_DISPATCH`` is set. Of steps that are
      called ahead jax would hold the memory of all, and the heap would be fragmented; the cores are busy with one. This
      holds on one device: steps of several are called ahead all the same.
    - Freed memory is kept (`keep_freed_memory`), unless ``tune_allocator`` is False.

    Once jax has computed something, XLA's flags and the order of steps no longer change.
    """
    use_own_forms()
    if carries_onednn() and has_matrix_units():
        use_onednn()
    if "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    _give_flags()
    if tune_allocator:
        keep_freed_memory()


def carries_onednn() -> bool:
    """Whether this jaxlib holds oneDNN, as far as is known."""
    return jaxlib.__version__ in ONEDNN_IN and platform.system() == "Linux" and platform.machine() == "x86_64"


def has_matrix_units() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 by itself (AMX), and oneDNN is not told to do without."""
    facts = Path("/proc/cpuinfo")
    return facts.exists() and "amx_bf16" in facts.read_text().split() and "ONEDNN_MAX_CPU_ISA" not in os.environ


def _give_flags() -> None:
    """Adds to ``XLA_FLAGS`` those of the `CPU_FLAGS` that it does not set."""
    version = tuple(int(number) for number in jaxlib.__version__.split(".")[:2])
    if not FLAGS_SINCE <= version < FLAGS_UNTIL:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    more = [f"{flag}={value}" for flag, value in CPU_FLAGS.items() if flag not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *more]).strip()


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory, so that XLA's buffers are not given back to the kernel at every step.

    The first `HEAP` bytes are asked for in large pages. The process holds its peak memory to its end;
    benchmarks/steps.md tells what that costs and gains. Without glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # The numbers of mallopt's parameters in malloc.h.
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)
    libc.mallopt(top_pad, 64 * 2**20)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # Taken and given back untouched, the space is at the heap's end and costs no memory yet.
    heap = libc.malloc(HEAP)
    if heap:
        page, madv_hugepage = 2**21, 14
        first_page = -(-heap // page) * page
        libc.madvise(first_page, HEAP - page, madv_hugepage)
        libc.free(heap)


def keep_programs(folder: Path) -> None:
    """Lets jax keep compiled programs in ``folder``, so that the next run of the same kind starts at once.

    A folder of the user's own choosing (``JAX_COMPILATION_CACHE_DIR``) is left as it is.
    """
    # jax cannot keep programs with operations of oneDNN (`jaxrec.models.cpu.onednn`), and warns each time.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry .*bad_alloc", UserWarning)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
