"""The benchmark: jaxrec against plain Flax, PyTorch and Keras on the same work, interleaved. Linux.

    python scripts/benchmark.py                        time per step; jaxrec and plain Flax
    python scripts/benchmark.py --peers                also PyTorch and Keras, in an environment made for them
    python scripts/benchmark.py --peers --quality      time from process start to a quality
    python scripts/benchmark.py --growth               how jaxrec's cost grows with batch, width, side, devices, runs
    python scripts/benchmark.py --gpu --peers          time per step on a GPU; jaxrec, plain Flax and PyTorch

`--write benchmarks/steps.md` puts the tables on that page, each under its heading, in place of the last ones of the
same processor. docs/performance.md says which page is written by which command.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterable
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from on_gpu import ABOUT, gpu_tables
from peers.contest import GOALS, GPU_WORKLOADS, WORKLOADS, Goal
from workers import (
    PRODUCT,
    ROOT,
    SUMMARY,
    Entry,
    Failure,
    Worker,
    best_peer,
    cheats,
    comparison,
    ratio,
    summary_row,
    surroundings,
    table,
)

from jaxrec.data import cache_dir, cut_validation, open_dataset
from jaxrec.host import CPU_FLAGS
from jaxrec.run.store.manifest import source_commit

QUALITY_ROUNDS = 3
PACKAGES = {False: ["torch", "keras", "tensorflow-cpu", "jax", "flax", "optax"], True: ["torch"]}
"""What the peers' environment holds, without and with a GPU."""

TUNED = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""glibc's own variables for what `jaxrec.host.keep_freed_memory` sets."""
FLAGS = " ".join(f"{flag}={value}" for flag, value in CPU_FLAGS.items())

OWN: dict[str, Entry] = {
    "jaxrec": ("jaxrec_step", ["--tuned"], {}),
    "jaxrec, allocator as installed": ("jaxrec_step", [], {}),
    "flax": ("flax_step", [], {}),
    "flax, tuned": ("flax_step", [], TUNED),
    "flax, tuned, jaxrec's flags": ("flax_step", [], {**TUNED, "XLA_FLAGS": FLAGS}),
}
TENSORFLOW, JAX = {"KERAS_BACKEND": "tensorflow"}, {"KERAS_BACKEND": "jax"}
PEERS: dict[str, Entry] = {
    "torch": ("torch_step", [], {}),
    "torch, tuned": ("torch_step", [], TUNED),
    "torch channels_last": ("torch_step", ["--channels-last"], {}),
    "torch channels_last, tuned": ("torch_step", ["--channels-last"], TUNED),
    "torch.compile channels_last": ("torch_step", ["--channels-last", "--compile"], {}),
    "torch.compile channels_last, tuned": ("torch_step", ["--channels-last", "--compile"], TUNED),
    "keras on tensorflow": ("keras_step", [], TENSORFLOW),
    "keras on tensorflow, tuned": ("keras_step", [], {**TENSORFLOW, **TUNED}),
    "keras on tensorflow with jit": ("keras_step", ["--jit"], TENSORFLOW),
    "keras on tensorflow with jit, tuned": ("keras_step", ["--jit"], {**TENSORFLOW, **TUNED}),
    "keras on jax": ("keras_step", [], JAX),
    "keras on jax, tuned": ("keras_step", [], {**JAX, **TUNED}),
}
NO_FLAX = {"glimpse", "translator"}
"""Models that plain Flax has no form of; operations, which are counted in its program, are then left out."""


def interleaved(
    entries: dict[str, tuple[Path, str, Entry]], rounds: int, flags: list[str]
) -> tuple[dict[str, Worker], dict[str, str]]:
    """Every contestant's process after so many rounds of one burst each, and why others were left out."""
    workers: dict[str, Worker] = {}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        try:
            for label, (python, workload, entry) in entries.items():
                print(f"  starting {label}", file=sys.stderr)
                folder = Path(tempfile.mkdtemp(dir=temporary))
                workers[label] = worker = Worker(python, workload, entry, folder, flags)
                try:
                    worker.ready()
                    worker.warm()
                    worker.stop()
                except Failure as failure:
                    left_out[label] = str(failure)
                    workers.pop(label).kill()
            for number in range(rounds):
                print(f"  round {number + 1} of {rounds}", file=sys.stderr)
                for label, worker in list(workers.items()):
                    try:
                        worker.go_on()
                        worker.burst()
                        worker.stop()
                    except Failure as failure:
                        left_out[label] = str(failure)
                        workers.pop(label).kill()
            for worker in workers.values():
                worker.go_on()
                worker.finish()
        finally:
            for worker in workers.values():
                worker.kill()
    return workers, left_out


GENERATIONS = {("25", "17"): "Zen 4", ("26", "2"): "Zen 5"}
"""What AMD calls server processors of a family and model; a virtual machine may be told no more than 'AMD EPYC'."""


def processor() -> str:
    """The processor and its number of cores, such as ``AMD EPYC (Zen 4), 2 cores``."""
    facts = dict(re.findall(r"^(\w[\w ]*?)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    name = facts.get("model name", os.uname().machine)
    if name.startswith("AMD EPYC"):
        family, model = facts["cpu family"], facts["model"]
        name += f" ({GENERATIONS.get((family, model), f'family {family}, model {model}')})"
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


@cache
def commit() -> str:
    """The commit that is measured, asked for once: the first table that is written makes the clone differ from it."""
    return source_commit() or "unknown"


def conditions(versions: Iterable[str], rounds: int) -> str:
    """Date, hardware, versions and commit."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    where = f"{processor()}, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}"
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    with_what = f"{python}, {', '.join(dict.fromkeys(versions))}; commit {commit()}"
    return f"{date.today()}, {where}; {with_what}; {rounds} round{'' if rounds == 1 else 's'}."


def steps_table(name: str, options: argparse.Namespace, peers: Path | None) -> tuple[str, list[str]]:
    """The section of a workload and its row in the summary."""
    print(name, file=sys.stderr)
    own, rounds = Path(sys.executable), options.rounds
    contest = {**OWN, **(PEERS if peers else {})}
    entries = {label: (own if label in OWN else peers, name, entry) for label, entry in contest.items()}
    entries[PRODUCT] = (own, "product", ("machine", [], {}))
    workers, left_out = interleaved(entries, rounds, ["--bf16"] * options.bf16)
    needed = {"jaxrec", "flax", PRODUCT}
    if WORKLOADS[name].model in NO_FLAX:
        needed.remove("flax")
    for label in needed:
        if label not in workers:
            raise SystemExit(f"{label} failed on {name}, and nothing can be compared: {left_out[label]}")
    product = workers.pop(PRODUCT)
    limit = product.facts["flops"] / statistics.median(product.seconds)
    machine = f"Matrix product on {product.facts['version']}: {limit / 1e9:,.0f} GFLOP/s."
    for label, reason in cheats(name, workers).items():
        if label in ("jaxrec", "flax"):
            raise SystemExit(f"{label} does other work on {name} than it should, and nothing can be compared: {reason}")
        left_out[label] = reason
        workers.pop(label)
    rows = step_rows(workers, limit)
    head = ["", "ms/step", "jaxrec is faster by", "GFLOP/s", "of product", "peak MiB"]
    head += ["import s", "compile s", "first step s", "loss"]
    versions = [worker.facts["version"] for worker in workers.values()]
    best = best_peer(workers)
    verdict = f"{comparison(workers, best)}{machine}"
    parts = [conditions(versions, rounds), table(head, rows), verdict]
    parts += [f"Left out: {label} ({reason})." for label, reason in left_out.items()]
    return "\n\n".join(parts), [name, processor(), str(date.today()), commit(), *summary_row(workers, best)]


def step_rows(workers: dict[str, Worker], limit: float) -> list[list[str]]:
    """A row of cells for each contestant; without plain Flax's program nobody has counted operations."""
    jaxrec = workers["jaxrec"]
    rows = []
    for label, worker in workers.items():
        median, facts = statistics.median(worker.seconds), worker.facts
        rates = ["", ""]
        if "flax" in workers:
            rate = workers["flax"].facts["flops"] / median
            rates = [f"{rate / 1e9:.0f}", f"{rate / limit:.0%}"]
        rows.append(
            [
                *(label, f"{1000 * median:.2f}", "" if worker is jaxrec else ratio(worker, jaxrec)),
                *(*rates, f"{worker.peak / 2**20:.0f}"),
                *(f"{facts[key]:.1f}" for key in ("import", "compile", "first")),
                f"{facts['loss']:.2f} to {worker.loss:.2g}",
            ]
        )
    return rows


def cnn_flops(batch: int, width: float, side: int) -> float:
    """Operations of a step of the classic CNN: twice the products, padding counted, three passes but in layer one."""
    narrow, wide = round(32 * width), round(64 * width)
    first, second = 27 * narrow * side**2, 9 * narrow * wide * (side // 2) ** 2
    dense = (side // 4) ** 2 * wide * wide + 10 * wide
    return 2.0 * batch * (2 * first + 3 * (second + dense))


GROWTH: dict[str, tuple[str, tuple[float, ...]]] = {
    "batch": ("cnn32", (8, 16, 32, 64, 128, 256, 512, 1024)),
    "width": ("cnn32", (0.25, 0.5, 1, 2, 4)),
    "side": ("cnn32", (28, 56, 112, 224)),
    "devices": ("cnn128", (1, 2, 4, 8)),
    "runs": ("cnn32", (1, 2, 4, 8, 16, 32, 64)),
}
"""Each axis, the workload it changes, and its values."""


def growth_table(axis: str, rounds: int) -> str:
    """The section of one axis: the classic CNN's steps per second, and where the rate of work bends."""
    print(axis, file=sys.stderr)
    base, values = GROWTH[axis]
    entries, work = {}, {}
    for value in values:
        settings = {"batch": WORKLOADS[base].batch, "width": 1.0, "side": 32, "runs": 1}
        options, environment = ["--tuned"], {}
        if axis == "devices":
            environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={value}"}
        else:
            settings[axis] = value
            options += [f"--{axis}", str(value)]
        runs = settings.pop("runs")
        work[str(value)] = runs * cnn_flops(**settings), runs * settings["batch"]
        entries[str(value)] = (Path(sys.executable), base, ("jaxrec_step", options, environment))
    workers, left_out = interleaved(entries, rounds, [])
    rows, rates = [], {}
    for value, worker in workers.items():
        median = statistics.median(worker.seconds)
        flops, images = work[value]
        rates[value] = flops / median / 1e9
        numbers = f"{1000 * median:.2f}", f"{1 / median:.1f}", f"{images / median:,.0f}", f"{rates[value]:.1f}"
        rows.append([value, *numbers, f"{worker.peak / 2**20:.0f}"])
    head = [axis, "ms/step", "steps/s", "images/s", "GFLOP/s", "peak MiB"]
    parts = [conditions([worker.facts["version"] for worker in workers.values()], rounds)]
    parts += [f"Workload: {base}.", table(head, rows), bend(rates)]
    parts += [f"Left out: {label} ({reason})." for label, reason in left_out.items()]
    return "\n\n".join(parts)


def bend(rates: dict[str, float]) -> str:
    """Where the rate of work comes within a tenth of its best, and where it leaves it again."""
    names, best = list(rates), max(rates.values())
    near = [name for name in names if rates[name] >= 0.9 * best]
    text = f"The rate of work is within a tenth of its best, {best:.0f} GFLOP/s, from {near[0]} on"
    later = names[names.index(near[-1]) + 1 :]
    return f"{text}, and falls off from {later[0]} on." if later else f"{text}."


def command(goal: Goal, runs: Path, seed: int) -> list[str]:
    """jaxrec's command for a goal."""
    model = {
        "speednet": ["--width", "0.375", "--stem", "large"],
        "autoencoder": ["--architecture", "conv"],
    }
    numbers = {"batch-size": goal.batch, "steps": goal.steps, "eval-every": goal.every, "seed": seed, "average": 0}
    numbers |= {"validation": 0.1, "runs": runs, "name": "goal"}
    optimizer = {"name": "adam", "lr": goal.lr, "schedule": "linear", "warmup": 0, "momentum": 0.9, "beta2": 0.999}
    numbers |= {f"optimizer.{name}": value for name, value in optimizer.items()}
    flags = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
    return ["-m", "jaxrec.train", "--model", goal.model, "--dataset", goal.dataset, *model[goal.model], *flags]


def rows_of(path: Path, process: subprocess.Popen) -> Iterable[dict[str, Any]]:
    """The rows of a file of JSON lines while a process writes it."""
    text = ""
    while True:
        ended = process.poll() is not None
        if path.exists():
            with path.open() as file:
                file.seek(len(text))
                new = file.read()
            complete = new[: new.rfind("\n") + 1]
            text += complete
            yield from map(json.loads, complete.splitlines())
        if ended:
            return
        time.sleep(0.02)


def time_to(
    goal: Goal, arguments: list[Any], log: Path | None, environment: dict[str, str]
) -> tuple[float, int] | None:
    """Seconds from process start, and steps, to the first evaluation that reaches the goal; None if none does.

    Evaluations are read from the lines that the process prints, or from its file ``log``.
    """
    with tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        options = {"stdout": subprocess.DEVNULL if log else subprocess.PIPE, "stderr": errors, "text": True}
        process = subprocess.Popen(list(map(str, arguments)), env=environment, **options)
        try:
            lines = rows_of(log, process) if log else map(json.loads, process.stdout)
            for row in lines:
                if row.get("split", "validation") == "validation" and goal.reached(row[goal.metric]):
                    return time.perf_counter() - began, row["step"]
            if process.wait():
                errors.seek(0)
                raise SystemExit(f"'{' '.join(map(str, arguments))}' failed: {errors.read()[-500:]}")
            return None
        finally:
            process.kill()
            process.wait()


def quality_table(name: str, options: argparse.Namespace, peers: Path | None) -> str:
    """The section of a goal: seconds from process start, seed by seed."""
    import numpy as np

    print(name, file=sys.stderr)
    goal, rounds = GOALS[name], min(options.rounds, QUALITY_ROUNDS)
    seconds: dict[str, list[tuple[float, int] | None]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = surroundings(folder)
        del environment["JAX_ENABLE_COMPILATION_CACHE"]
        # Everybody is given decoded images: the peers an archive, jaxrec what its first run of a set keeps.
        os.environ["JAXREC_CACHE"] = environment["JAXREC_CACHE"] = str(folder)
        held = open_dataset(goal.dataset).splits["train"].cached()
        train, validation = cut_validation(held, 0.1)
        arrays = {"train": train.load(), "validation": validation.load()}
        np.savez(folder / "data.npz", **{f"{split}_{key}": v for split in arrays for key, v in arrays[split].items()})
        del arrays
        for seed in range(rounds):
            runs = folder / f"runs{seed}"
            # Where compiled programs are kept: every run compiles its own.
            environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / f"programs{seed}")
            log = runs / "goal" / "metrics.jsonl"
            contest: dict[str, tuple[list[Any], Path | None, dict[str, str]]] = {
                "jaxrec": ([sys.executable, *command(goal, runs, seed)], log, environment)
            }
            if peers:
                arguments = [name, folder / "data.npz", seed]
                for label, script in (("torch", "quality_torch"), ("keras on tensorflow", "quality_keras")):
                    program = [peers, ROOT / "scripts" / "peers" / f"{script}.py", *arguments]
                    contest[label] = (program, None, environment | TENSORFLOW)
            for label, run in contest.items():
                print(f"  {label}, seed {seed}", file=sys.stderr)
                seconds.setdefault(label, []).append(time_to(goal, *run))
                print(f"    {seconds[label][-1]}", file=sys.stderr)
    rows = []
    for label, results in seconds.items():
        reached = [result for result in results if result]
        times, steps = ([result[i] for result in reached] for i in (0, 1))
        cells = ["never", "", ""]
        if reached:
            middle = f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"
            cells = [middle, f"{statistics.median(steps):.0f}", f"{len(reached)} of {rounds}"]
        rows.append([label, *cells])
    head = ["", "seconds from process start", "steps", "seeds that reached it"]
    shown = " ".join(command(goal, Path("runs"), 0))
    about = f"{goal.metric} {goal.value} on the validation split, evaluated every {goal.every} steps. Adam at {goal.lr}"
    about += f" falling linearly to 0 over {goal.steps} steps, batch {goal.batch}. jaxrec's command: `python {shown}`"
    versions = [f"{name} {version(name)}" for name in ("jaxrec", "jax")]
    return "\n\n".join([conditions(versions, rounds), about, table(head, rows)])


def peers_python(folder: Path, gpu: bool) -> Path:
    """The Python of the peers' environment, which is made where it is not there yet."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {', '.join(PACKAGES[gpu])} in {folder}", file=sys.stderr)
        index = [] if gpu else ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
        try:
            venv.create(folder, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *index, *PACKAGES[gpu]], check=True)
        except BaseException:
            shutil.rmtree(folder)
            raise
    return python


def with_other_rows(new: str, old: str) -> str:
    """A table, and the rows of an older one of other workloads, or of other processors if a column names them."""
    head, lines, rows = new.splitlines()[:2], new.splitlines()[2:], {}
    names = 2 if "| processor |" in head[0] else 1
    for row in [*old.splitlines()[2:], *lines]:
        rows[tuple(row.split("|")[1 : 1 + names])] = row
    return "\n".join([*head, *rows.values()])


def write(page: Path, sections: dict[str, str], about: str = "") -> None:
    """Puts the sections on a page, in the place of those of the same heading, the new ones at its end.

    Of a summary, rows of other workloads and processors stay. A page that is not there yet begins with ``about``.
    """
    if not page.exists():
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(about, "utf-8")
    intro, *parts = re.split(r"^## ", page.read_text("utf-8"), flags=re.MULTILINE)
    old = {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}
    sections = {
        title: with_other_rows(text, old.get(title, "")) if title.startswith("Summary") else text
        for title, text in sections.items()
    }
    body = "".join(f"## {title}\n\n{text}\n\n" for title, text in {**old, **sections}.items())
    page.write_text(f"{intro.rstrip()}\n\n{body.rstrip()}\n", "utf-8")


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; what suits only one kind of run is refused in another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="PyTorch and Keras too, installed if they are not yet")
    parser.add_argument("--peers-dir", type=Path, help="the peers' environment; default: beside jaxrec's cache")
    parser.add_argument("--peers-python", type=Path, help="a Python that has the peers, in place of an environment")
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--rounds", type=int, help="default: 7, 5 on a GPU")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 arithmetic, float32 parameters")
    parser.add_argument("--quality", nargs="*", choices=list(GOALS), help="time to quality instead of time per step")
    parser.add_argument("--growth", nargs="*", choices=list(GROWTH), help="how cost grows instead of time per step")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables on this page")
    gpu = parser.add_argument_group("on a GPU")
    gpu.add_argument("--gpu", action="store_true", help="on a GPU, in bfloat16, workloads of a size for one")
    gpu.add_argument("--burst", type=float, default=0.3, help="seconds that a contestant trains at a time")
    gpu.add_argument("--together", type=int, default=3, help="workloads that are made ready at once")
    gpu.add_argument("--at-once", type=int, default=2, help="contestants that may try kernels on the card at once")
    gpu.add_argument("--limit", type=float, default=120, help="seconds until those made ready at once have to be so")
    gpu.add_argument("--programs", type=Path, metavar="FOLDER", help="put XLA's compiled programs there, as text")
    gpu.add_argument("--commit", help="what is measured, if there is no git to ask")
    gpu.add_argument("--tiny", action="store_true", help="a trial on the CPU, with tiny batches and images")
    options = parser.parse_args(arguments)
    if options.gpu and (options.quality is not None or options.growth is not None):
        parser.error("--quality and --growth are for the CPU; leave out --gpu")
    if options.tiny and not options.gpu:
        parser.error("--tiny is a trial of --gpu; give both")
    if options.tiny and options.write:
        parser.error("--write keeps what was measured, and --tiny measures nothing; leave one out")
    known = GPU_WORKLOADS if options.gpu else WORKLOADS
    options.workloads = options.workloads or list(known)
    for name in options.workloads:
        if name not in known:
            parser.error(f"--workloads {name} is none of {', '.join(known)}")
    options.rounds = options.rounds or (5 if options.gpu else 7)
    return options


def main() -> None:
    """Reads the command line, runs what it asks for, prints the tables."""
    # So that the contestants, which may be stopped, are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = read_options()
    peers = options.peers_python
    if options.peers and not peers:
        folder = options.peers_dir or cache_dir().with_name("jaxrec-peers" + ("-gpu" if options.gpu else ""))
        peers = peers_python(folder.resolve(), options.gpu)
    kind = ", bf16" if options.bf16 else ""
    sections: dict[str, str] = {}

    def tell(title: str, make: Callable[[], str]) -> None:
        sections[title] = make()
        print(f"## {title}\n\n{sections[title]}\n", flush=True)
        if options.write:
            write(options.write, {title: sections[title]}, ABOUT if options.gpu else "")

    if options.gpu:
        for title, text in gpu_tables(options.workloads, options, peers):
            tell(title, lambda text=text: text)
        return
    if options.quality is not None:
        for name in options.quality or GOALS:
            tell(f"Time to quality: {name}, {processor()}", lambda name=name: quality_table(name, options, peers))
    if options.growth is not None:
        for axis in options.growth or GROWTH:
            tell(f"Growth with {axis}, {processor()}", lambda axis=axis: growth_table(axis, options.rounds))
    if options.quality is None and options.growth is None:
        rows = []

        def section(name: str) -> str:
            text, row = steps_table(name, options, peers)
            rows.append(row)
            return text

        for name in options.workloads:
            tell(f"Time per step: {name}{kind}, {processor()}", lambda name=name: section(name))
        tell(f"Summary{kind}", lambda: table(["", "processor", "date", "commit", *SUMMARY[1:]], rows))


if __name__ == "__main__":
    main()
