"""What the operating system shows of the machine: its processor and memory, an NVIDIA GPU and its driver."""

import contextlib
import importlib.util
import os
import platform
import re
from pathlib import Path
from typing import Any

GPU_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
"""Of these, at least one is there if the machine, the container or the Windows subsystem has an NVIDIA GPU."""
DRIVER_FILE = Path("/proc/driver/nvidia/version")
PLUGINS = {"cuda13": 580, "cuda12": 525}
"""The extras that bring jax's support for NVIDIA GPUs, and the oldest driver that each of them needs."""


def gpu_is_there() -> bool:
    """Whether this process may see an NVIDIA GPU, whether or not jax can use it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(os.path.exists(path) for path in GPU_FILES)


def gpu_driver() -> str:
    """The version of the NVIDIA driver, such as ``580.65.06``; empty if it is not known."""
    try:
        text = DRIVER_FILE.read_text()
    except OSError:
        return ""
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found[0] if found else ""


def gpu_remedy() -> str:
    """What to do so that jax can use the machine's NVIDIA GPU."""
    driver = gpu_driver()
    number = int(driver.partition(".")[0]) if driver else None
    installed = [extra for extra in PLUGINS if importlib.util.find_spec(f"jax_{extra}_plugin") is not None]
    fitting = [extra for extra, oldest in PLUGINS.items() if number is None or number >= oldest]
    if not fitting:
        return f"update its driver {driver} to {PLUGINS['cuda12']} or newer, then pip install 'jaxrec[cuda12]'"
    if set(installed) & set(fitting):
        return (
            "jax's CUDA plugin is installed but does not start: JAX_PLATFORMS=cuda python -m jax.print_environment_info"
        )
    if number is None:
        return "pip install 'jaxrec[cuda13]', or 'jaxrec[cuda12]' if nvidia-smi shows a driver older than 580"
    return f"pip install 'jaxrec[{fitting[0]}]' fits its driver {driver}"


def machine() -> dict[str, Any]:
    """The name, processor, usable cores and memory of the machine, as the manifest records them."""
    found: dict[str, Any] = {"host": platform.node(), "processor": _processor(), "cores": _cores()}
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf.
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return found


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """The processor's model; on other systems than Linux, what Python knows of it."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()
