"""jaxrec plan --model ... --mesh ...: what a run would need, estimated by compiling its step."""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from jaxrec.cli.training_arguments import read_arguments
from jaxrec.data.features import Feature, pictured
from jaxrec.data.sizes import parse_size
from jaxrec.errors import UserError
from jaxrec.settings import Train
from jaxrec.settings.options import Group
from jaxrec.settings.ranges import AT_LEAST_ONE

EXAMPLES = (
    "jaxrec plan --model resnet50 --image-shape 224 224 3 --labels 1000",
    "jaxrec plan --model vit --mesh data=16,model=4 --batch-size 1024",
    "jaxrec plan --experiment mnist_cnn --image-shape 28 28 1",
)
PLAN = Group("plan")
BOXES = 100
"""Boxes that an example is taken to have."""
MOST_SIMULATED = 1024
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64}


@dataclass(frozen=True)
class Plan(Train):
    """Estimate a run's parameters, FLOPs, memory and collectives. Reads no data and trains nothing.

    All options of jaxrec train are allowed. A --mesh with numbers, such as data=16,model=4, is compiled for that many
    simulated devices, with the operations that GPUs and TPUs would run; --mesh data uses this machine's devices.
    """

    image_shape: Annotated[tuple[int, int, int], PLAN, AT_LEAST_ONE] = (32, 32, 3)
    """Height, width and channels of the images, or of the frames of clips. --image-size changes height and width."""
    frames: Annotated[int, PLAN, AT_LEAST_ONE] = 20
    """Number of frames of each clip."""
    labels: Annotated[int, PLAN, AT_LEAST_ONE] = 10
    """Number of classes."""


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """For each kind of collective in a compiled program: how many there are, and the bytes each device receives."""
    found: dict[str, tuple[int, int]] = {}
    for shapes, kind in re.findall(rf"^.*? = (\(.*?\)|\S+) ({'|'.join(KINDS)})(?:-start)?\(", program, re.M):
        size = 0
        for name, sides in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shapes):
            size += BITS.get(name, 32) // 8 * math.prod(int(side) for side in sides.split(",") if side)
        count, total = found.get(kind, (0, 0))
        found[kind] = (count + 1, total + size)
    return found


def plan(config: Plan, devices: Any, *, simulated: bool) -> dict[str, Any]:
    """What a run's step needs on ``Devices``; ``simulated`` devices stand for those of another machine."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxrec.models.cpu.forms import plain_forms
    from jaxrec.run.data import DEFAULT_STEPS
    from jaxrec.run.initial import count_parameters
    from jaxrec.run.steps import Watch, watched_step
    from jaxrec.run.world.devices import AXES, bytes_per_device
    from jaxrec.tasks.system import system_of

    devices.check_batch(config.batch_size)
    config = replace(config, image_shape=_image_shape(config))
    optimizer = replace(config.task.optimizer, steps=config.steps or DEFAULT_STEPS)
    task = replace(config.task, optimizer=optimizer)
    system = system_of(task)
    if system.taught(task):
        raise UserError(
            "these settings learn from a judge that is trained ahead of the run, and jaxrec plan trains nothing: leave "
            "out the option that asks for it, such as --perceptual"
        )
    features = _features(config, system.features_read(task))
    task = system.complete(task, _facts(features))
    shared = NamedSharding(devices.mesh, PartitionSpec(AXES))

    def examples(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=shared)

    batch = {name: examples(feature.shape, feature.dtype) for name, feature in features.items()}
    batch |= {name: examples((), np.int32) for name in ("index", "epoch")}
    step = watched_step(system, devices, config.on_nonfinite == "skip")

    def laid_out(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=devices.layout(leaf.shape))

    def lowered() -> Any:
        """The step's program before it is compiled."""
        return jax.jit(step, donate_argnums=(0, 1)).lower(state, watch, batch)

    watch = Watch(*[jax.ShapeDtypeStruct((), np.int32, sharding=devices.replicated)] * 2)
    with plain_forms():
        state = jax.eval_shape(lambda key, batch: system.init(task, key, batch), jax.random.key(0), batch)
        state = jax.tree.map(laid_out, state)
        # The model's own operations are counted: XLA cannot tell what is in an operation of another library.
        plain = lowered()
    cost: Any = plain.cost_analysis()
    began = time.perf_counter()
    compiled = (plain if simulated else lowered()).compile()
    compile_seconds = time.perf_counter() - began
    memory: Any = compiled.memory_analysis()
    leaves = jax.tree.leaves(state)
    return {
        "clips": pictured(features).kind == "clip",
        "image_shape": config.image_shape,
        "compile_seconds": compile_seconds,
        "parameters": count_parameters(state),
        "flops": float(cost["flops"]),
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        "state_bytes_per_device": bytes_per_device(state),
        "batch_bytes_per_device": bytes_per_device(batch),
        "temporary_bytes_per_device": int(memory.temp_size_in_bytes),
        "collectives": collectives(compiled.as_text() or ""),
    }


def _image_shape(config: Plan) -> tuple[int, int, int]:
    """Height, width and channels of what the network would see."""
    height, width, channels = config.image_shape
    size = parse_size(config.image_size)
    if size is not None:
        height, width = size
    return height, width, channels


def _features(config: Plan, reads: Mapping[str, str]) -> dict[str, Feature]:
    """What the examples would be made of, for a system that reads these kinds."""
    height, width, _ = config.image_shape
    names = tuple(str(number) for number in range(config.labels))
    known = {
        "image": Feature("image", config.image_shape, "uint8"),
        "clip": Feature("clip", (config.frames, *config.image_shape), "uint8"),
        "length": Feature("length", (), "int32"),
        "class": Feature("class", (), "int32", names),
        "classes": Feature("classes", (config.labels,), "int32", names),
        "mask": Feature("mask", (height, width), "uint8", names),
        "boxes": Feature("boxes", (BOXES, 4), "float32"),
        "box_classes": Feature("box_classes", (BOXES,), "int32", names),
        "number": Feature("number", (), "float32"),
    }
    return {name: known[kinds.removesuffix("?").split("|")[0]] for name, kinds in reads.items()}


def _facts(features: Mapping[str, Feature]) -> Any:
    """Made-up facts: they decide no shape."""
    import numpy as np

    from jaxrec.tasks.system import Facts

    def statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        channels = features[name].shape[-1]
        return (0.5,) * channels, (0.25,) * channels

    def class_counts(name: str) -> np.ndarray:
        return np.ones(len(features[name].names), np.int64)

    return Facts(features, statistics, class_counts)


def _size(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _devices_named(mesh: str) -> int | None:
    """How many devices a mesh names; None if it takes whatever is there."""
    sizes = [part.partition("=")[2] for part in mesh.split(",")]
    return math.prod(map(int, sizes)) if all(re.fullmatch("[1-9][0-9]{0,8}", size) for size in sizes) else None


def main(argv: list[str]) -> None:
    """Prints the estimate."""
    config = read_arguments(argv, Plan, "jaxrec plan", EXAMPLES)
    count = _devices_named(config.mesh)
    if count is not None and count > MOST_SIMULATED:
        raise UserError(f"--mesh {config.mesh} names {count} devices; expected at most {MOST_SIMULATED}")
    import jax

    if count:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)

    from jaxrec.host import tune_cpu
    from jaxrec.run.world.devices import Devices

    if not count:
        tune_cpu(config.tune_allocator)
    devices = Devices(config.mesh)
    found = plan(config, devices, simulated=bool(count))
    shape = "x".join(map(str, found["image_shape"]))
    where = f"{count} simulated devices" if count else ", ".join(devices.describe())
    what = f"clips of {config.frames} frames" if found["clips"] else "images"
    print(f"{config.task.model}, batches of {config.batch_size} {what} {shape}, mesh {config.mesh}")
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
