"""jaxrec plan --model ... --mesh ...: what a run would need, from compiling its step alone."""

import math
import re
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from jaxrec.cli.train import read_arguments
from jaxrec.errors import UserError
from jaxrec.settings import Train

HELP = """Tell a run's parameters, FLOPs, bytes per device and collectives. Reads no data and trains nothing.

It takes every option of jaxrec train. A --mesh with numbers, such as data=16,model=4, is compiled for as many simulated
devices of this machine's CPU, with the operations that GPUs and TPUs would get; --mesh data for the devices that are
here."""
MOST_SIMULATED = 1024
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64}


@dataclass(frozen=True)
class Plan(Train):
    """Tell what a run would need."""

    image_shape: tuple[int, int, int] = (32, 32, 3)
    """Height, width and channels of the images."""
    labels: int = 10
    """Number of classes."""


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """How many collectives of each kind a compiled program has, and the bytes that they give each device."""
    found: dict[str, tuple[int, int]] = {}
    for shapes, kind in re.findall(rf"^.*? = (\(.*?\)|\S+) ({'|'.join(KINDS)})(?:-start)?\(", program, re.M):
        size = 0
        for name, sides in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shapes):
            size += BITS.get(name, 32) // 8 * math.prod(int(side) for side in sides.split(",") if side)
        count, total = found.get(kind, (0, 0))
        found[kind] = (count + 1, total + size)
    return found


def plan(config: Plan, devices: Any, *, simulated: bool) -> dict[str, Any]:
    """The figures of a run's step on ``Devices``; ``simulated`` ones stand for others."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxrec.models import layers
    from jaxrec.run.setup import DEFAULT_STEPS, Watch, make_steps
    from jaxrec.run.world.devices import AXES, bytes_per_device
    from jaxrec.tasks import task_of

    devices.check_batch(config.batch_size)
    height, width, channels = config.image_shape
    steps = config.steps or DEFAULT_STEPS
    found = {"classes": config.labels, "mean": (0.5,) * channels, "std": (0.25,) * channels}
    found["optimizer"] = replace(config.task.optimizer, steps=steps)
    task = replace(config.task, **{name: found[name] for name in found if hasattr(config.task, name)})
    shared = NamedSharding(devices.mesh, PartitionSpec(AXES))

    def examples(*shape: int, kind: type = np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.batch_size, *shape), kind, sharding=shared)

    batch = {"image": examples(height, width, channels, kind=np.uint8)}
    batch |= {name: examples() for name in ("label", "index", "epoch")}

    def laid_out(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=devices.layout(leaf.shape))

    def step(state: Any, watch: Watch, batch: Any) -> Any:
        return make_steps(task, devices, config.on_nonfinite == "skip", state, watch, batch, {})

    with layers.forward_mode() if simulated else nullcontext():
        state = jax.eval_shape(lambda key, batch: task_of(task).init(task, key, batch), jax.random.key(0), batch)
        state = jax.tree.map(laid_out, state)
        watch = Watch(*[jax.ShapeDtypeStruct((), np.int32, sharding=devices.replicated)] * 2)
        began = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(state, watch, batch)
        compiled = lowered.compile()
    cost: Any = lowered.cost_analysis()
    memory: Any = compiled.memory_analysis()
    leaves = jax.tree.leaves(state)
    return {
        "compile_seconds": time.perf_counter() - began,
        "parameters": sum(leaf.size for player in state.players.values() for leaf in jax.tree.leaves(player.params)),
        "flops": float(cost["flops"]),
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        "state_bytes_per_device": bytes_per_device(state),
        "batch_bytes_per_device": bytes_per_device(batch),
        "temporary_bytes_per_device": int(memory.temp_size_in_bytes),
        "collectives": collectives(compiled.as_text() or ""),
    }


def _size(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _devices_named(mesh: str) -> int | None:
    """How many devices a mesh names; None where it takes those that are left."""
    sizes = [part.partition("=")[2] for part in mesh.split(",")]
    return math.prod(map(int, sizes)) if all(re.fullmatch("[1-9][0-9]{0,8}", size) for size in sizes) else None


def main(argv: list[str]) -> None:
    """Prints the figures."""
    config = read_arguments(argv, Plan, "jaxrec plan", HELP)
    if min(config.image_shape) < 1 or config.labels < 1:
        shape = " ".join(map(str, config.image_shape))
        raise UserError(f"--image-shape {shape} and --labels {config.labels} have to be 1 or more; give them as such")
    count = _devices_named(config.mesh)
    if count is not None and count > MOST_SIMULATED:
        raise UserError(f"--mesh {config.mesh} names {count} devices; expected at most {MOST_SIMULATED}")
    import jax

    if count:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)

    from jaxrec.run.world.devices import Devices

    devices = Devices(config.mesh)
    found = plan(config, devices, simulated=bool(count))
    shape = "x".join(map(str, config.image_shape))
    where = f"{count} simulated devices" if count else ", ".join(devices.describe())
    print(f"{config.task.model}, batches of {config.batch_size} images {shape}, mesh {config.mesh}")
    print(f"compiled for {where} in {found['compile_seconds']:.1f} s")
    rows = [
        ("parameters", f"{found['parameters']:,}"),
        ("FLOPs a step", f"{found['flops']:.4g}, {found['flops'] / config.batch_size:.4g} an example"),
        ("state", f"{_size(found['state_bytes'])}, {_size(found['state_bytes_per_device'])} on each device"),
        ("batch", f"{_size(found['batch_bytes_per_device'])} on each device"),
        ("activations", f"{_size(found['temporary_bytes_per_device'])} on each device, gradients included"),
    ]
    for kind, (number, size) in found["collectives"].items():
        rows.append((kind, f"{number} a step, {_size(size)} on each device"))
    for name, text in rows:
        print(f"{name:<20}{text}")
    if not found["collectives"]:
        print(f"{'collectives':<20}none")
