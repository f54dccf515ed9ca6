"""The devices of a run and how arrays lie on them: each batch shared out, the state on every device or cut."""

import math
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrec.errors import UserError
from jaxrec.run.world import hardware

AXES = ("data", "model")
LARGE = 2**12
"""Numbers from which on an array of the state is cut over the axis ``model``; smaller ones are worth no message."""


def read_mesh(text: str, available: int) -> tuple[int, int]:
    """The sizes of the axes ``data`` and ``model`` from ``data=4,model=2``.

    An axis without a number takes the devices that are left, an axis that is not named is 1 long. Raises UserError for
    anything else, and for more devices than there are.
    """
    sizes: dict[str, int | None] = {}
    for part in text.split(","):
        axis, equals, size = part.strip().partition("=")
        if axis not in AXES or axis in sizes or (equals and not re.fullmatch("[1-9][0-9]{0,8}", size)):
            raise UserError(f"--mesh {text} has the part '{part}'; expected data=N,model=M, such as data=4,model=2")
        sizes[axis] = int(size) if equals else None
    known = math.prod(size for size in sizes.values() if size)
    open_axes = [axis for axis in sizes if sizes[axis] is None]
    if len(open_axes) > 1 or known > available or (open_axes and available % known):
        raise UserError(
            f"--mesh {text} does not fit the {available} devices that jax finds; "
            f"give data=N,model=M with N x M at most {available}, or data for all of them"
        )
    rest = available // known
    data = (sizes["data"] or rest) if "data" in sizes else 1
    model = (sizes["model"] or rest) if "model" in sizes else 1
    return data, model


class Devices:
    """A mesh of the axes ``data`` and ``model``.

    All devices take an equal part of each batch. The state lies whole on every device or, where ``model`` is longer
    than 1, its large arrays are cut over that axis and put together where a step needs them (Zhao et al. 2023, FSDP).
    """

    def __init__(self, mesh: str = "data", require: str | None = None) -> None:
        # Each process's next to each other: it has its part of a batch in one piece.
        devices = sorted(_found(), key=lambda device: (device.process_index, device.id))
        _check_platform(devices[0].platform, require)
        sizes = read_mesh(mesh, len(devices))
        each = {sum(device.process_index == process for device in devices) for process in range(jax.process_count())}
        if len(each) > 1:
            raise UserError(f"the processes have {sorted(each)} devices; give each of them as many as the others")
        if jax.process_count() > 1 and math.prod(sizes) != len(devices):
            raise UserError(
                f"--mesh {mesh} leaves out some of the {len(devices)} devices, which {jax.process_count()} processes "
                "have to use all; give data for all of them"
            )
        chosen = np.array(devices[: math.prod(sizes)]).reshape(sizes)
        self.mesh = Mesh(chosen, AXES, axis_types=(AxisType.Auto, AxisType.Auto))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.platform = devices[0].platform

    def describe(self) -> list[str]:
        """One line per kind of device, such as ``8 x cpu``."""
        kinds = [device.device_kind for device in self.mesh.devices.flat]
        return [f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)]

    def accelerators(self) -> list[dict[str, Any]]:
        """Of each kind of GPU or TPU: ``kind``, ``count``, ``memory_bytes`` for arrays and ``driver`` if known."""
        if self.platform == "cpu":
            return []
        found: dict[str, dict[str, Any]] = {}
        for device in self.mesh.devices.flat:
            facts = found.setdefault(device.device_kind, {"kind": device.device_kind, "count": 0, **_facts(device)})
            facts["count"] += 1
        return list(found.values())

    def describe_fully(self) -> str:
        """The devices in one line, with the memory and the driver of those that have their own."""
        parts = []
        for facts in self.accelerators():
            known = []
            if "memory_bytes" in facts:
                known.append(f"{facts['memory_bytes'] / 2**30:.1f} GiB for arrays")
            if "driver" in facts:
                known.append(f"driver {facts['driver']}")
            parts.append(f"{facts['count']} x {facts['kind']}" + (f" ({', '.join(known)})" if known else ""))
        return ", ".join(parts or self.describe())

    def describe_mesh(self, state: Any) -> str:
        """How many bytes of the state lie on each device of which mesh."""
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        axes = ",".join(f"{axis}={size}" for axis, size in self.mesh.shape.items() if size > 1)
        return (
            f"mesh {axes}: state of {whole / 2**20:.2f} MiB, {bytes_per_device(state) / 2**20:.2f} MiB on each device"
        )

    def check_batch(self, batch_size: int) -> None:
        """Raises UserError where a batch cannot be shared out evenly."""
        if batch_size < 1 or batch_size % self.mesh.size:
            fits = max(size for size in range(1, self.mesh.size + 1) if batch_size % size == 0)
            raise UserError(
                f"batch size {batch_size} cannot be shared by {self.mesh.size} devices; "
                f"choose a multiple of {self.mesh.size} with --batch-size, or fewer devices with --mesh data={fits}"
            )

    def round_up(self, batch_size: int) -> int:
        """The smallest size of at least ``batch_size`` that can be shared out evenly."""
        return -(-batch_size // self.mesh.size) * self.mesh.size

    def share(self, batch: Any, leading: int = 0) -> Any:
        """A batch on the host put on the devices, each of which takes its part of the examples.

        ``leading`` is the number of axes before the one of the examples, along which batches are stacked. If several
        processes train, each gives its part.
        """
        sharding = NamedSharding(self.mesh, PartitionSpec(*[None] * leading, AXES))
        return _put(batch, sharding)

    def copy(self, tree: Any) -> Any:
        """Arrays put on every device; those of several processes are the same in each."""
        return _put(tree, self.replicated)

    def finish(self, tree: Any) -> Any:
        """``tree``, which a program computes; on several devices of a CPU, waits until all of them have it.

        A program in which devices meet holds a thread of a small pool for each device until all are there. Of two such
        programs each can hold threads that the other waits for, for ever.
        """
        return jax.block_until_ready(tree) if self.platform == "cpu" and self.mesh.size > 1 else tree

    def layout(self, shape: tuple[int, ...]) -> NamedSharding:
        """How an array of the state lies: a large one cut along its longest axis that ``model`` divides."""
        parts = self.mesh.shape["model"]
        axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
        if parts == 1 or math.prod(shape) < LARGE or not axes:
            return self.replicated
        axis = max(axes, key=lambda axis: shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, "model"))

    def cut(self, state: Any) -> Any:
        """Inside a compiled function: the state as it lies between two steps."""
        if self.mesh.shape["model"] == 1:
            return state
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, self.layout(leaf.shape)), state)

    def gather(self, tree: Any) -> Any:
        """Inside a compiled function: arrays put together again on every device."""
        if self.mesh.shape["model"] == 1:
            return tree
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, self.replicated), tree)


def _asked() -> str | None:
    """The platforms that the user has told jax to use, such as ``cpu`` by JAX_PLATFORMS; None if jax may choose."""
    return jax.config.values["jax_platforms"] or None


def _found() -> list[Any]:
    """The devices that jax finds; raises UserError if there are none of the platforms that it is told to use."""
    try:
        return jax.devices()
    # jax fails with an AssertionError if it is told to use CUDA and its plugin is not installed.
    except (RuntimeError, AssertionError) as error:
        asked = _asked()
        lines = str(error).strip().splitlines() or [f"JAX_PLATFORMS={asked}"]
        advice = f"check JAX_PLATFORMS={asked}, or unset it to compute on what there is"
        if asked in ("cuda", "gpu") and hardware.gpu_is_there():
            advice = f"there is an NVIDIA GPU: {hardware.gpu_remedy()}"
        raise UserError(f"jax finds no device to compute on ({lines[0]}); {advice}") from error


def _check_platform(platform: str, require: str | None) -> None:
    """Raises UserError if another platform is required; otherwise says if a GPU is there that jax cannot use."""
    unused = platform == "cpu" and hardware.gpu_is_there()
    if require is not None and platform != require:
        advice = "remove --require to compute there, or run on a machine that has one"
        if require == "gpu" and unused:
            advice = f"there is an NVIDIA GPU: {hardware.gpu_remedy()}"
        raise UserError(f"--require {require} is not met, because jax computes on the {platform}; {advice}")
    # Who has named a platform has chosen the CPU.
    if unused and _asked() is None:
        print(f"jaxrec: computing on the CPU, though there is an NVIDIA GPU: {hardware.gpu_remedy()}", file=sys.stderr)


def _facts(device: Any) -> dict[str, Any]:
    """The memory that a GPU or TPU has for arrays, and the driver of a GPU, as far as they are known."""
    facts = {}
    memory = (device.memory_stats() or {}).get("bytes_limit")
    if memory:
        facts["memory_bytes"] = memory
    if device.platform == "gpu" and hardware.gpu_driver():
        facts["driver"] = hardware.gpu_driver()
    return facts


def _put(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays put on devices as ``sharding`` says; of several processes, each gives what its devices take."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    # jax.device_put would first exchange the arrays, to see that they are the same.
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def place(tree: Any, like: Any) -> Any:
    """Numpy arrays, the same in every process, put where those of ``like`` lie."""

    def put(x: np.ndarray, like: jax.Array) -> jax.Array:
        return jax.make_array_from_callback(x.shape, like.sharding, lambda part: x[part])

    return jax.tree.map(put, tree, like)


def fetch(tree: Any) -> Any:
    """Numpy arrays, and keys, of what lies on the devices of all processes, which take part together."""
    replicated = NamedSharding(jax.tree.leaves(tree)[0].sharding.mesh, PartitionSpec())

    def take(leaf: jax.Array) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(take(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return np.asarray(leaf.addressable_data(0))

    # Of all devices, as in `Devices.finish`: what is exchanged next has to find none of them at work.
    return jax.tree.map(take, jax.block_until_ready(jax.jit(lambda tree: tree, out_shardings=replicated)(tree)))


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device holds of a tree of arrays."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
