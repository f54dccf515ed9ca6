"""The benchmark on a GPU: contestants of a few workloads are made ready at once, then timed by turns, one at a time.

Starting is what takes long: imports, compiling, and the choice of kernels by trying them. Those tries are measurements
on the card themselves, so only a few contestants may make theirs at a time.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

from peers.contest import STEPS_A_CALL
from workers import (
    COPY,
    PRODUCT,
    SUMMARY,
    Entry,
    Failure,
    Worker,
    best_peer,
    cheats,
    comparison,
    ratio,
    summary_row,
    table,
)

from jaxrec.run.store.manifest import source_commit

OWN: dict[str, Entry] = {
    "jaxrec": ("jaxrec_step", ["--tuned", "--several"], {}),
    "jaxrec, one step a call": ("jaxrec_step", ["--tuned"], {}),
    "flax": ("flax_step", [], {}),
}
POOLING: dict[str, Entry] = {"jaxrec, XLA's pooling": ("jaxrec_step", ["--tuned", "--several", "--plain"], {})}
"""Of the workloads whose pools jaxrec has a form of its own for."""
POOLED = {"cnn", "speednet", "unet"}
FEW_CORES = {"TORCHINDUCTOR_COMPILE_THREADS": "4"}
"""Each `torch.compile` would start as many compilers as there are cores."""
PEERS: dict[str, Entry] = {
    "torch channels_last": ("torch_step", ["--channels-last"], {}),
    "torch.compile channels_last": ("torch_step", ["--channels-last", "--compile"], FEW_CORES),
    "torch.compile channels_last, CUDA graph": ("torch_step", ["--channels-last", "--compile", "--graph"], FEW_CORES),
}
PROBES: dict[str, tuple[str, Entry]] = {
    PRODUCT: ("product", ("machine", [], {})),
    COPY: ("copy", ("machine", [], {})),
}
PATIENCE = 60.0
"""Seconds within which a contestant has to make a burst of steps."""
ABOUT = f"""# On a GPU

A step of jaxrec, plain Flax and PyTorch on the same work, in bfloat16 with float32 parameters: forward, backward and an
update by Adam on one batch held on the card, its loss fetched once per burst. All have the same number of trainable
parameters and the same batch; docs/performance.md says how else the contest is held.

- *jaxrec* makes {STEPS_A_CALL} steps a call. Its commands make as many on a GPU as lie between two lines of the log.
- *XLA's pooling*: jaxrec without the one form of its own that it has on a GPU, the gradient of side by side max pools.
- PyTorch computes under autocast with tensors in channels_last, `torch.backends.cudnn.benchmark` and fused Adam. *CUDA
  graph*: the whole step, compiled, is one graph.
- TFLOP/s are those that XLA counts in plain Flax's program, divided by everybody's time; *of product* is the share of
  what jax's product of two matrices of 8192x8192 random bfloat16 numbers reached between the rounds. *Of memory* is the
  bytes that XLA says a program reads and writes, divided by its time, as a share of what one pass over an array
  reached; XLA alone tells them.
- *Memory* is that of arguments, results and intermediate values: XLA's plan of the step, PyTorch's peak.
- *Compile* runs from the end of the imports to the end of the first step, without the wait for the card. It is taken
  while other contestants compile too, on the same cores, so alone all are faster.

Each table says with which options it was measured. The whole page:

```bash
python scripts/benchmark.py --gpu --peers --write benchmarks/gpu.md
```
"""
"""What stands at the top of the page."""


class Contest:
    """The contestants that run now; those that fail are named with the reason, and stop nobody else."""

    def __init__(self, options: argparse.Namespace, peers: Path | None, folder: Path) -> None:
        self.options, self.peers, self.folder = options, peers, folder
        self.flags = ["--gpu", "--bf16", *["--tiny"] * options.tiny, *["--turns", str(folder), str(options.at_once)]]
        self.running: dict[str, dict[str, Worker]] = {}
        """The contestants of each workload."""
        self.left_out: dict[str, dict[str, str]] = {}

    def start(self, name: str) -> None:
        """Starts all contestants of a workload, or what measures the card if the name is empty."""
        self.running[name], self.left_out[name] = {}, {}
        python = Path(sys.executable)
        entries = {label: (python, name, entry) for label, entry in OWN.items()}
        if name in POOLED:
            entries |= {label: (python, name, entry) for label, entry in POOLING.items()}
        if self.peers:
            entries |= {label: (self.peers, name, entry) for label, entry in PEERS.items()}
        if not name:
            entries = {label: (python, *probe) for label, probe in PROBES.items()}
        flags = [*self.flags]
        if self.options.programs:
            self.options.programs.mkdir(parents=True, exist_ok=True)
            flags += ["--programs", str(self.options.programs.resolve())]
        for label, (python, workload, entry) in entries.items():
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            self.running[name][label] = Worker(python, workload, entry, folder, flags, self.options.burst)

    def drop(self, name: str, label: str, reason: object) -> None:
        """Ends a contestant before its time."""
        print(f"  {name}: {label} is left out: {reason}", file=sys.stderr, flush=True)
        self.left_out[name][label] = str(reason)
        self.running[name].pop(label).kill()

    def each(self, name: str, ask: Callable[[Worker], None]) -> None:
        """Asks something of every contestant of a workload, and ends those that fail."""
        for label, worker in list(self.running[name].items()):
            try:
                ask(worker)
            except Failure as failure:
                self.drop(name, label, failure)

    def wait(self, name: str, deadline: float) -> None:
        """Waits until the contestants of a workload have made their first step, and ends those that are too late."""
        self.each(name, lambda worker: worker.ready(max(1.0, deadline - time.monotonic())))
        for label, worker in self.running[name].items():
            print(f"  {name}: {label} compiled in {worker.facts['compile']:.1f} s", file=sys.stderr, flush=True)

    def warm(self, name: str) -> None:
        """Finds the length of everybody's bursts."""
        self.each(name, lambda worker: worker.warm(PATIENCE))

    def turn(self, name: str) -> None:
        """One burst of every contestant of a workload."""
        self.each(name, lambda worker: worker.burst(PATIENCE))

    def finish(self, name: str) -> None:
        """Ends the contestants of a workload."""
        self.each(name, lambda worker: worker.finish(PATIENCE))
        for worker in self.running[name].values():
            worker.kill()

    def close(self) -> None:
        """Ends all that still run."""
        for workers in self.running.values():
            for worker in workers.values():
                worker.kill()


def gpu_tables(names: list[str], options: argparse.Namespace, peers: Path | None) -> Iterator[tuple[str, str]]:
    """Headings and texts of the sections, each as soon as it is measured."""
    rows = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        contest = Contest(options, peers, Path(temporary))
        try:
            contest.start("")
            for first in range(0, len(names), options.together):
                together = names[first : first + options.together]
                began = time.monotonic()
                for name in together:
                    contest.start(name)
                for name in ("", *together):
                    if not contest.running[name] or not all(w.facts for w in contest.running[name].values()):
                        contest.wait(name, began + options.limit)
                contest.warm("")
                print(f"  ready after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
                for name in together:
                    title, text, summary = timed(contest, name)
                    if summary:
                        rows.append([name, card(options), str(date.today()), commit(options), *summary])
                    yield title, text
        finally:
            contest.close()
    if rows:
        yield "Summary", table(["", "processor", "date", "commit", *SUMMARY[1:]], rows)


def timed(contest: Contest, name: str) -> tuple[str, str, list[str]]:
    """The section of a workload whose contestants are ready, and what is told of it in the summary, if anything is."""
    contest.warm(name)
    contest.turn("")
    for _ in range(contest.options.rounds):
        contest.turn(name)
    contest.finish(name)
    workers, probes = contest.running.pop(name), contest.running[""]
    left_out = contest.left_out[name]
    if "jaxrec" in workers:
        for label, reason in cheats(name, workers).items():
            left_out[label] = reason
            workers.pop(label)
    rates = {}
    for label, probe in probes.items():
        if probe.seconds:
            rates[label] = probe.facts["flops"] / probe.median()
    head = ["", "ms/step", "jaxrec is faster by", "TFLOP/s", "of product", "of memory", "memory MiB"]
    head += ["import s", "compile s", "loss"]
    parts = [conditions(workers, contest.options), table(head, gpu_rows(workers, rates))]
    row = []
    if "jaxrec" in workers:
        best = best_peer(workers)
        row = summary_row(workers, best)
        parts.append(comparison(workers, best).strip())
    told = {PRODUCT: "Matrix product: {:,.0f} TFLOP/s.", COPY: "Memory: {:,.2f} TB/s."}
    parts.append(" ".join(told[label].format(rate / 1e12) for label, rate in rates.items()))
    # A bar would be a column's border.
    parts += [f"Left out: {label} ({reason.replace('|', '/')})." for label, reason in left_out.items()]
    return f"Time per step: {name}, {card(contest.options)}", "\n\n".join(filter(None, parts)), row


def gpu_rows(workers: dict[str, Worker], rates: dict[str, float]) -> list[list[str]]:
    """A row of cells for each contestant; a cell of what nobody knows is empty."""
    rows = []
    flops = workers["flax"].facts["flops"] if "flax" in workers else None
    for label, worker in workers.items():
        median, facts = worker.median(), worker.facts
        faster = "" if label == "jaxrec" or "jaxrec" not in workers else ratio(worker, workers["jaxrec"])
        done, of_product, of_memory = "", "", ""
        if flops:
            done = f"{flops / median / 1e12:.1f}"
        if flops and PRODUCT in rates:
            of_product = f"{flops / median / rates[PRODUCT]:.0%}"
        if facts.get("bytes") and COPY in rates:
            of_memory = f"{facts['bytes'] / median / rates[COPY]:.0%}"
        cells = [label, f"{1000 * median:.3f}", faster, done, of_product, of_memory, f"{worker.peak / 2**20:.0f}"]
        cells += [f"{facts['import']:.1f}", f"{facts['compile']:.1f}", f"{facts['loss']:.2f} to {worker.loss:.2g}"]
        rows.append(cells)
    return rows


def card(options: argparse.Namespace) -> str:
    """The name of the card."""
    if options.tiny:
        return "tiny on a CPU"
    return told("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "unknown card"


def commit(options: argparse.Namespace) -> str:
    """The commit that is measured."""
    return options.commit or source_commit() or "unknown"


def conditions(workers: dict[str, Worker], options: argparse.Namespace) -> str:
    """Date, card, versions, commit and how the contest was held."""
    memory = told("nvidia-smi", "--query-gpu=memory.total,driver_version", "--format=csv,noheader")
    versions = dict.fromkeys(worker.facts["version"] for worker in workers.values())
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    where = f"{card(options)} ({memory or 'memory and driver unknown'})"
    how = f"--rounds {options.rounds} --burst {options.burst} --together {options.together} --at-once {options.at_once}"
    how += f" --limit {options.limit:g}"
    return f"{date.today()}, {where}; {python}, {', '.join(versions)}; commit {commit(options)}; {how}."


def told(*command: str) -> str:
    """What a command prints; empty if there is no such command, or if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
