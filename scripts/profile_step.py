"""Where the time of a step goes on a CPU, by kind of operation.

    python scripts/profile_step.py cnn128 vit --write benchmarks/profile.md

The workloads are those of scripts/benchmark.py.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "peers"))

import jax
from benchmark import conditions, processor, table, write
from contest import WORKLOADS, examples
from jax.profiler import ProfileData
from jaxrec_step import batch_of, config_of

import jaxrec
from jaxrec.run.initial import initializer
from jaxrec.run.world.devices import Devices
from jaxrec.tasks.system import system_of

STEPS = 20
ABOUT = (
    "Milliseconds of a step under the profiler, which slows it. Operations run at the same time, so that they may add "
    "up to more than the step; Eigen's convolutions are not seen, and fill what is missing."
)
KINDS = {
    "matrix products": r"dot_general",
    "sums and maxima": r"reduce_(sum|max)|/reduce$",
    "copies into another order": r"transpose$|copy|concatenate$|stack$|slice$|pad$",
}
"""What an operation's name ends in, in the order of the test; what is left is arithmetic element by element."""


def parts(workload: str) -> tuple[float, Counter[str]]:
    """Milliseconds of a step, and of its kinds of operations."""
    config = config_of(WORKLOADS[workload], examples(WORKLOADS[workload])[0], False, 1.0)
    devices = Devices()
    batch = devices.share(batch_of(WORKLOADS[workload]))
    system = system_of(config)
    state = initializer(config, system, devices)(jax.random.key(0), batch)
    step = jax.jit(system.train_step, donate_argnums=0).lower(state, batch).compile()
    text = step.as_text()
    names = dict(re.findall(r"^ *(?:ROOT )?%(\S+) = .*?op_name=\"([^\"]*)\"", text, re.MULTILINE))
    known = set(re.findall(r"^ *(?:ROOT )?%(\S+) = ", text, re.MULTILINE))
    for _ in range(5):
        state, _ = step(state, batch)
    jax.block_until_ready(state)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            for _ in range(STEPS):
                state, _ = step(state, batch)
                jax.block_until_ready(state)
            whole = (time.perf_counter() - began) / STEPS * 1000
        (trace,) = Path(folder).rglob("*.xplane.pb")
        profile = ProfileData.from_file(str(trace))
    found: Counter[str] = Counter()
    for event in (event for plane in profile.planes for line in plane.lines for event in line.events):
        # Eigen's convolutions only start in the thread that is watched.
        if event.name in known and "convolution" not in event.name and "conv_general" not in event.name:
            name = names.get(event.name, event.name)
            kind = next((kind for kind, ends in KINDS.items() if re.search(ends, name)), "element by element")
            found[kind] += event.duration_ns / 1e6 / STEPS
    return whole, found


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help=f"some of {', '.join(WORKLOADS)}")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table on this page")
    options = parser.parse_args()
    jaxrec.tune_cpu()
    rows = []
    kinds = [*KINDS, "element by element"]
    for workload in options.workloads:
        whole, found = parts(workload)
        rows.append([workload, f"{whole:.1f}", *(f"{found[kind]:.1f}" for kind in kinds)])
        print(rows[-1], file=sys.stderr)
    head = ["", "ms/step", *kinds]
    versions = f"jaxrec {jaxrec.__version__}", f"jax {jax.__version__}"
    text = f"{conditions(versions, 1)}\n\n{ABOUT}\n\n{table(head, rows)}"
    print(f"## Where the time goes\n\n{text}")
    if options.write:
        write(options.write, {f"Where the time goes, {processor()}": text})


if __name__ == "__main__":
    main()
