"""Trains for half an hour and says whether memory, open files and threads stay as they were.

    python scripts/soak.py                   the mean of the first and of the last tenth of 30 minutes
    python scripts/soak.py --minutes 1
    python scripts/soak.py --every 50        ten times as many evaluations and checkpoints

The run logs, evaluates, draws pictures and saves every few seconds. The first tenth begins with the hundredth
checkpoint: by then tensorstore, which starts threads as there is to be written at once and keeps them, has most of
those that it will ever have. Exit code 1 where memory grew by more than a twentieth, files or threads by more than one,
or a program was compiled after that. Linux.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import mean

import jax

from jaxrec.cli.running import run_command
from jaxrec.cli.train import main as train

LOG_EVERY = 20
ARGUMENTS = ["--model", "cnn", "--width", "0.5", "--steps", "100000000", "--batch-size", "64", "--average", "0.99"]
ARGUMENTS += ["--log-every", str(LOG_EVERY), "--memory-mb", "0", "--name", "soak"]
WARM = 100
COMPILED = "/jax/core/compile/backend_compile_duration"


def sample() -> dict[str, float]:
    """Resident memory in MiB, open files and threads of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "memory": int(status["VmRSS"].split()[0]) / 2**10,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
    }


def main() -> int:
    """Reads the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=int, default=500, help="steps from one evaluation and checkpoint to the next")
    options = parser.parse_args()
    samples: list[dict[str, float]] = []
    compiled: list[float] = []

    def note(event: str, _: float, **__: object) -> None:
        if event == COMPILED:
            compiled.append(time.monotonic())

    jax.monitoring.register_event_duration_secs_listener(note)
    began: list[float] = []

    def watch(run: Path) -> None:
        while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("validation") < WARM:
            time.sleep(0.2)
        began.append(time.monotonic())
        while time.monotonic() < began[0] + 60 * options.minutes:
            samples.append(sample())
            time.sleep(max(0.05, options.minutes / 20))
        os.kill(os.getpid(), signal.SIGTERM)

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        threading.Thread(target=watch, args=(Path(folder) / "soak",), daemon=True).start()
        shown, sys.stdout = sys.stdout, nowhere
        try:
            every = ["--eval-every", str(options.every), "--save-every", str(options.every)]
            code = train([*ARGUMENTS, *every, "--runs", folder])
        finally:
            sys.stdout = shown
        rows = (Path(folder) / "soak" / "metrics.jsonl").read_text()
    steps, saves = rows.count('"train"') * LOG_EVERY, rows.count('"validation"')
    tenth = max(1, len(samples) // 10)
    again = sum(moment > began[0] for moment in compiled)
    print(
        f"{steps} steps and {saves} evaluations and checkpoints in {options.minutes:g} minutes, stopped with exit code "
        f"{code}; {again} programs compiled anew"
    )
    flat = code == 128 + signal.SIGTERM and not again
    for name, allowed in (("memory", 1.05), ("files", 1.0), ("threads", 1.0)):
        first, last = (mean(each[name] for each in part) for part in (samples[:tenth], samples[-tenth:]))
        flat &= last <= first * allowed + (name != "memory")
        unit = " MiB" if name == "memory" else ""
        print(f"{name}: first tenth {first:.1f}{unit}, last tenth {last:.1f}{unit}")
    return int(not flat)


if __name__ == "__main__":
    run_command(lambda _: main())
