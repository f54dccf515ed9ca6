"""What is claimed of the experiments: one file made from their headers, and whether it still holds with other seeds.

    python scripts/claims.py --write                    writes benchmarks/claims.json from the headers
    python scripts/claims.py                            runs every experiment anew, which takes hours
    python scripts/claims.py digits_cnn mnist_cnn       runs these
    python scripts/claims.py digits_cnn --seeds 1       a quick trial

The header of a file in experiments/ is the one place where a result is written down. Its fields:

- ``Command``: what is run, a command a line; N stands for the seed and RUN for the run's folder.
- ``Hardware``, ``Seeds`` and ``Time``, in seconds, of the training command.
- ``Commit``: one whose code gives the result.
- ``Result``, and ``Control`` for what stands beside it: a claim a line, ``METRIC MEAN UNIT ± DEVIATION (remark)``.
  The metric is named as in results.json; ``ap50[0]`` is the first number of a list. The unit may be left out, and
  ``%`` is a hundred times what results.json says. The deviation is the sample standard deviation over the seeds.
  Other lines say in words what is not run again.

A claim holds if the mean over the new seeds lies within two deviations of the stated mean, above or below: a result
that is better now should be stated anew, too. The new seeds are those after the highest that was used.

Chance alone refutes some claims that are true, because both means are of few seeds and the deviation of three seeds is
itself a rough guess. If nothing but the seeds has changed, and results are normally distributed, a claim of three seeds
fails 13 % of the time against three new seeds, 22 % against one, and 7 % against very many; a claim of five seeds 5 %
against three. So of forty claims about five are expected to fail. One that fails should be run once more with
``--seeds 10``, and looked into if it fails again. The other way round, three seeds against three find a result that has
moved by two deviations in 59 % of the trials, and one that has moved by three in 84 %.

The exit code is 1 if a claim no longer holds or an experiment fails.
"""

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 2
"""How many deviations the new mean may be away from the stated one."""
NUMBER = r"-?\d*\.?\d+"
CLAIM = re.compile(
    rf"(?P<metric>[a-z]\w*(\[\d+\])?) (?P<mean>{NUMBER})( (?P<unit>%|[a-zA-Z]+))? ± (?P<deviation>{NUMBER})( \(.*\))?"
)
PRINTED = {
    "int8_accuracy": r"int8/model\.onnx: right about ([\d.]+%)",
    "int8_size": r"int8/model\.onnx: ([\d.]+) kB",
}
"""Metrics that results.json does not have, and where they stand in what ``jaxrec export`` prints."""

Claims = dict[str, dict[str, Any]]
"""What is claimed of each experiment, by its name."""


class RunFailed(Exception):
    """A command of an experiment ended with an error."""


def header_fields(path: Path) -> dict[str, list[str]]:
    """The lines of each field of an experiment's header, by the field's name."""
    found: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").splitlines():
        start = re.match(r"([A-Z]\w+): +(.*)", line)
        if start:
            lines = found.setdefault(start[1], [])
            lines.append(start[2])
        elif line.startswith(" ") and lines is not None:
            lines.append(line.strip())
        else:
            lines = None
    return found


def field(path: Path, fields: Mapping[str, list[str]], name: str, pattern: str) -> re.Match[str]:
    """The text of a field, matched. Raises ValueError if the header has no such field or the text another form."""
    text = " ".join(fields.get(name, []))
    found = re.fullmatch(pattern, text)
    if not found:
        raise ValueError(f"{path}: expected a field '{name}:' of the form {pattern}, got '{text}'")
    return found


def claimed(path: Path) -> dict[str, Any]:
    """What an experiment's header claims. Raises ValueError if the header cannot be read."""
    fields = header_fields(path)
    field(path, fields, "Command", "jaxrec train .*")
    metrics: dict[str, dict[str, Any]] = {}
    for line in [*fields.get("Result", []), *fields.get("Control", [])]:
        found = CLAIM.fullmatch(line)
        if found:
            mean, deviation = float(found["mean"]), float(found["deviation"])
            metrics[found["metric"]] = {"mean": mean, "deviation": deviation, "unit": found["unit"] or ""}
        elif "±" in line:
            raise ValueError(f"{path}: expected 'METRIC MEAN UNIT ± DEVIATION (remark)', got '{line}'")
    if not metrics:
        raise ValueError(f"{path}: no line of 'Result:' is of the form METRIC MEAN UNIT ± DEVIATION (remark)")
    timed = field(path, fields, "Time", r"(\d+) s \((.*)\)")
    return {
        "commands": fields["Command"],
        "metrics": metrics,
        "seeds": [int(seed) for seed in field(path, fields, "Seeds", r"\d+(, \d+)*")[0].split(", ")],
        "seconds": int(timed[1]),
        "timed": timed[2],
        "hardware": field(path, fields, "Hardware", ".+")[0],
        "commit": field(path, fields, "Commit", "[0-9a-f]{7,40}")[0],
    }


def all_claimed(root: Path) -> Claims:
    """What the headers of all experiments claim."""
    return {path.stem: claimed(path) for path in sorted((root / "experiments").glob("*.py"))}


def claims_file(root: Path) -> Path:
    """Where the claims are kept."""
    return root / "benchmarks" / "claims.json"


def as_text(claims: Claims) -> str:
    """The contents of the file of claims."""
    return json.dumps(claims, indent=2, ensure_ascii=False) + "\n"


def figures_of(commands: Sequence[str], seed: int, run: Path, root: Path) -> dict[str, Any]:
    """Runs an experiment's commands; returns the results by the metrics' names. Raises RunFailed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    printed = ""
    for command in commands:
        words = [{"N": str(seed), "RUN": str(run)}.get(word, word) for word in command.split()]
        if words[1] == "train":
            words += ["--runs", str(run.parent), "--name", run.name]
        python = [sys.executable, "-m", *words]
        done = subprocess.run(python, cwd=root, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RunFailed(f"'{command}' with seed {seed} failed: {done.stderr.strip()[-500:]}")
        printed += done.stdout
    results = run / "results.json"
    if not results.exists():
        raise RunFailed(f"{' and '.join(commands)} with seed {seed} left no results.json")
    figures = json.loads(results.read_text("utf-8"))
    for metric, pattern in PRINTED.items():
        found = re.search(pattern, printed)
        if found:
            figures[metric] = float(found[1].rstrip("%")) / (100 if found[1].endswith("%") else 1)
    return figures


def value_of(figures: Mapping[str, Any], metric: str, unit: str) -> float:
    """A metric of one run, in the unit of its claim. Raises RunFailed if the run does not have it."""
    name, _, place = metric.rstrip("]").partition("[")
    if name not in figures:
        raise RunFailed(f"the results have no {name}")
    value = figures[name]
    if place:
        value = value[int(place)] if int(place) < len(value) else None
    if value is None:
        raise RunFailed(f"{metric} of the results is undefined")
    return 100 * value if unit == "%" else value


def holds(claim: Mapping[str, Any], values: Sequence[float]) -> bool:
    """Whether the mean of the new values lies within two deviations of the stated mean, or is rounded to it."""
    decimals = -int(Decimal(str(claim["mean"])).as_tuple().exponent)
    rounding = 0.5 * 10**-decimals
    # Numbers that are equal as printed may differ in the last bit.
    return abs(statistics.mean(values) - claim["mean"]) <= max(WIDTH * claim["deviation"], rounding) + 1e-9


def told(claim: Mapping[str, Any], values: Sequence[float]) -> str:
    """The new figure beside the stated one."""
    unit = f" {claim['unit']}" if claim["unit"] else ""
    text = f"{statistics.mean(values):.4g}{unit}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.2g}"
    return f"{text}, stated {claim['mean']:.4g}{unit} ± {claim['deviation']:.2g}"


def tried(name: str, claim: Mapping[str, Any], count: int, root: Path) -> list[str]:
    """Runs an experiment with so many new seeds and prints what came of it; returns the claims that do not hold."""
    seeds = [max(claim["seeds"]) + 1 + number for number in range(count)]
    began, runs = time.perf_counter(), []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for seed in seeds:
                runs.append(figures_of(claim["commands"], seed, Path(folder) / f"{name}-{seed}", root))
        values = {
            metric: [value_of(figures, metric, each["unit"]) for figures in runs]
            for metric, each in claim["metrics"].items()
        }
    except RunFailed as failure:
        print(f"{name}: {failure}", flush=True)
        return [name]
    seconds = (time.perf_counter() - began) / count
    print(f"{name}, seeds {', '.join(map(str, seeds))}: {seconds:.0f} s each")
    print(f"  stated: {claim['seconds']} s on {claim['hardware']}")
    failed = []
    for metric, each in claim["metrics"].items():
        verdict = "holds"
        if not holds(each, values[metric]):
            verdict = "NO LONGER HOLDS"
            failed.append(f"{name} {metric}")
        print(f"  {metric}: {told(each, values[metric])}: {verdict}", flush=True)
    return failed


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Writes the file of claims, or runs experiments anew; ``root`` holds experiments/ and benchmarks/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="the experiments to run; default: all")
    parser.add_argument("--seeds", type=int, default=3, metavar="COUNT", help="how many new seeds each is run with")
    parser.add_argument("--write", action="store_true", help="write the file from the headers and run nothing")
    options = parser.parse_args(argv)
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: expected 1 or more")
    if options.write:
        try:
            text = as_text(all_claimed(root))
        except ValueError as error:
            parser.error(str(error))
        claims_file(root).parent.mkdir(exist_ok=True)
        claims_file(root).write_text(text, "utf-8")
        return 0
    if not claims_file(root).exists():
        parser.error(f"{claims_file(root)} is not there; write it with --write")
    claims: Claims = json.loads(claims_file(root).read_text("utf-8"))
    unknown = sorted(set(options.names) - set(claims))
    if unknown:
        parser.error(f"there is no experiment {', '.join(unknown)}; the experiments are {', '.join(claims)}")
    failed: list[str] = []
    for name in options.names or claims:
        failed += tried(name, claims[name], options.seeds, root)
    if failed:
        print(f"no longer holds: {', '.join(failed)}")
        return 1
    print("every claim holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
