"""What XLA tells of a compiled program. Used by jaxrec_step.py and flax_step.py."""

import contextlib
from typing import Any

import contest
import jax


def operations(lowered: Any, compiled: Any) -> float | None:
    """Floating-point operations of a program as it was written, or as it was compiled, or None if XLA tells neither."""
    for program in (lowered, compiled):
        if flops := _cost(program, "flops"):
            return flops
    return None


def facts(compiled: Any, options: Any, name: str) -> dict[str, Any]:
    """``bytes`` and, on a GPU, ``peak`` of a contestant of this ``name``; its program's text is put where asked."""
    if options.programs:
        kind = "_several" * options.several + "_plain" * options.plain
        with contextlib.suppress(Exception):
            (options.programs / f"{options.workload}_{name}{kind}.txt").write_text(compiled.as_text())
    found: dict[str, Any] = {"bytes": _cost(compiled, "bytes accessed")}
    if contest.on_card(options):
        found["peak"] = lambda: _memory(compiled)
    return found


def _cost(program: Any, name: str) -> float | None:
    # What is known differs from platform to platform and from version to version.
    with contextlib.suppress(Exception):
        costs = program.cost_analysis()
        if isinstance(costs, list):
            costs = costs[0]
        return float(costs[name])
    return None


def _memory(compiled: Any) -> int:
    """Bytes of arguments, results and intermediate values; the allocator's own peak holds the tries of kernels too."""
    try:
        plan = compiled.memory_analysis()
        parts = plan.argument_size_in_bytes, plan.output_size_in_bytes, plan.temp_size_in_bytes
        return sum(parts) - plan.alias_size_in_bytes
    except Exception:
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
