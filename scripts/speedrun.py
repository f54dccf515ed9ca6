"""Trains a classifier's experiment as one compiled program, and tells the seconds and the accuracy of each seed.

    python scripts/speedrun.py experiments/cifar10_speednet.py --runs 10 --goal 0.94 --out measured
    python scripts/speedrun.py FILE --runs 0 --arrays cifar10.npz       only writes the decoded images

The program goes from a key to the accuracy on the test split: it draws the parameters, shuffles the images of each
epoch, augments them, makes all steps, and evaluates with the test-time views. The images lie on the device, as uint8.
Its parts are jaxrec's pure functions, so it also shows how to build a training of one's own from them.
"""

import argparse
import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxrec
from jaxrec.cli.training_arguments import read_experiment
from jaxrec.errors import UserError
from jaxrec.parallel import stream
from jaxrec.run.data import complete, open_data
from jaxrec.run.feed import gathered
from jaxrec.run.initial import EXAMPLES
from jaxrec.run.profiling import costs
from jaxrec.settings import Classifier, Train
from jaxrec.tasks import classifier
from jaxrec.tasks.state import Batch, State
from jaxrec.tasks.system import system_of

WARM_UP = 10**6
"""Seed of the run before those that are timed."""


class Result(NamedTuple):
    """What a training gives."""

    accuracy: jax.Array
    """Share of right answers on the test split, float32 scalar."""
    losses: jax.Array
    """The loss of each step, float32 [steps]."""


def orders(key: jax.Array, examples: int, batch_size: int, steps: int) -> dict[str, jax.Array]:
    """``index`` and ``epoch`` of the examples of each step, int32 [steps, batch_size].

    Every epoch is a permutation of its own, of which the part that fills no batch is left out.
    """
    per_epoch = examples // batch_size
    epochs = jnp.arange(math.ceil(steps / per_epoch), dtype=jnp.int32)

    def batches(epoch: jax.Array) -> jax.Array:
        order = jax.random.permutation(stream(key, "order", epoch), examples)
        return order[: per_epoch * batch_size].reshape(per_epoch, batch_size).astype(jnp.int32)

    index = jax.vmap(batches)(epochs).reshape(-1, batch_size)
    epoch = jnp.repeat(epochs, per_epoch)[:, None]
    return {"index": index[:steps], "epoch": jnp.broadcast_to(epoch, index.shape)[:steps]}


def accuracy(state: State, test: Batch, at_once: int) -> jax.Array:
    """The share of right answers on all test examples, ``at_once`` of them at a time."""

    def right(batch: Batch) -> jax.Array:
        answer = classifier.predict(state, batch["image"])["logits"].argmax(-1)
        return jnp.mean((answer == batch["label"]).astype(jnp.float32))

    def cut(values: jax.Array) -> jax.Array:
        return values.reshape(-1, at_once, *values.shape[1:])

    return lax.map(right, {"image": cut(test["image"]), "label": cut(test["label"])}).mean()


def training(config: Classifier, batch_size: int) -> Callable[..., Result]:
    """``(key, lr, train, test) -> Result``: the whole training of ``config.optimizer.steps`` steps. Pure.

    ``train`` and ``test`` hold ``image`` uint8 [N, H, W, C] and ``label`` int32 [N]; ``lr`` is the peak learning rate.
    """

    def train_and_test(key: jax.Array, lr: jax.Array, train: Batch, test: Batch) -> Result:
        first = {name: values[:EXAMPLES] for name, values in train.items()}
        state = classifier.init(config, key, first)
        state = state.replace(hyper={**state.hyper, "lr": lr})

        def step(state: State, places: Batch) -> tuple[State, jax.Array]:
            state, metrics = classifier.train_step(state, gathered(places, train))
            return state, metrics["loss"]

        examples, tests = len(train["label"]), len(test["label"])
        state, losses = lax.scan(step, state, orders(key, examples, batch_size, config.optimizer.steps))
        at_once = max(size for size in range(1, min(tests, batch_size) + 1) if tests % size == 0)
        return Result(accuracy(state, test, at_once), losses)

    return train_and_test


def loaded(config: Train) -> tuple[Train, Batch, Batch]:
    """The complete settings, and the training and the test split, decoded, on the host."""
    system = system_of(config.task)
    data = open_data(config, system, trains=True)
    splits = []
    for split in (data.train, data.test):
        examples = split.load()
        splits.append({"image": examples["image"], "label": examples["label"].astype(np.int32)})
    return complete(config, data, system), *splits


def of_length(config: Train, epochs: float, examples: int) -> Train:
    """The complete settings of a training of so many passes over the examples."""
    steps = math.ceil(epochs * examples / config.batch_size)
    optimizer = replace(config.task.optimizer, steps=steps)
    return replace(config, steps=steps, task=replace(config.task, optimizer=optimizer))


def changed(config: Train, options: argparse.Namespace) -> Train:
    """The settings with what the command line changes."""
    task = config.task
    if options.width:
        task = replace(task, width=options.width)
    if options.freeze:
        task = replace(task, optimizer=replace(task.optimizer, freeze=options.freeze))
    config = replace(config, task=task)
    for name in ("batch_size", "train_split", "test_split"):
        if getattr(options, name):
            config = replace(config, **{name: getattr(options, name)})
    return config


class Report:
    """What was measured so far: one JSON file, written anew after every run, and lines on the screen."""

    def __init__(self, file: Path, facts: dict[str, Any], goal: float) -> None:
        self.file, self.facts, self.goal = file, facts, goal
        self.runs: list[dict[str, Any]] = []

    def add(self, **numbers: Any) -> None:
        """Takes facts of the whole."""
        self.facts |= numbers
        print(", ".join(f"{name} {value}" for name, value in numbers.items()), flush=True)
        self.write()

    def ran(self, seed: int, lr: float, seconds: float, result: Result) -> None:
        """Takes a timed run."""
        losses = np.asarray(result.losses)
        run = {"seed": seed, "lr": lr, "seconds": round(seconds, 4), "accuracy": round(float(result.accuracy), 5)}
        self.runs.append({**run, "losses": [round(float(loss), 4) for loss in losses]})
        print(f"{json.dumps(run)} last loss {losses[-1]:.4f}", flush=True)
        self.write()

    def write(self) -> None:
        """Writes the file."""
        self.file.write_text(json.dumps({**self.facts, "summary": self.summary(), "runs": self.runs}, indent=1))

    def summary(self) -> list[dict[str, Any]]:
        """For each learning rate: seconds, and mean and sample standard deviation of the accuracy."""
        rows = []
        for lr in dict.fromkeys(run["lr"] for run in self.runs):
            runs = [run for run in self.runs if run["lr"] == lr]
            seconds, found = [run["seconds"] for run in runs], [run["accuracy"] for run in runs]
            row = {"lr": lr, "runs": len(runs), "median seconds": statistics.median(seconds)}
            row |= {"mean seconds": statistics.mean(seconds), "least": min(seconds), "most": max(seconds)}
            row |= {"mean accuracy": statistics.mean(found), "at the goal": statistics.mean(found) >= self.goal}
            row["deviation"] = statistics.stdev(found) if len(found) > 1 else 0.0
            rows.append(row)
        return rows


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds that a function takes, and what it gives, ready."""
    began = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - began, result


def show_costs(run: Callable[[], Result], text: str, folder: Path) -> None:
    """Traces a run, and prints the operations that take longest."""
    with jax.profiler.trace(str(folder)):
        jax.block_until_ready(run())
    newest = max(folder.glob("plugins/profile/*/*.xplane.pb"))  # Named by the time.
    for cost in costs(jax.profiler.ProfileData.from_file(str(newest)), text)[:30]:
        print(cost, flush=True)


def measure(config: Train, train: Batch, test: Batch, options: argparse.Namespace, report: Report) -> None:
    """Compiles the program, warms it up, and times it with each seed."""
    assert isinstance(config.task, Classifier)
    lrs = options.lr or [config.task.optimizer.lr]
    seconds, splits = timed(jax.device_put, (train, test))
    report.add(upload_seconds=round(seconds, 3))

    def arguments(seed: int, lr: float) -> tuple[Any, ...]:
        return (jax.random.key(seed), jnp.float32(lr), *splits)

    began = time.perf_counter()
    forms = jaxrec.plain_forms() if options.plain else contextlib.nullcontext()
    with forms:
        lowered = jax.jit(training(config.task, config.batch_size)).lower(*arguments(0, lrs[0]))
    report.add(lower_seconds=round(time.perf_counter() - began, 2))
    began = time.perf_counter()
    program = lowered.compile()
    report.add(compile_seconds=round(time.perf_counter() - began, 2))
    seconds, _ = timed(program, *arguments(WARM_UP, lrs[0]))
    report.add(warm_up_seconds=round(seconds, 3))
    for lr in lrs:
        for seed in range(options.runs):
            given = jax.block_until_ready(arguments(seed, lr))
            report.ran(seed, lr, *timed(program, *given))
        print(json.dumps(report.summary()[-1]), flush=True)
    if options.trace:
        show_costs(lambda: program(*arguments(WARM_UP, lrs[0])), str(program.as_text()), options.out / "trace")


def main(argv: list[str] | None = None) -> None:
    """Reads the command line, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="a file with config = Train(...) of a classifier, or a name")
    parser.add_argument("--runs", type=int, default=10, help="seeds, from 0 on; 0: measure nothing")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="FOLDER", help="where the JSON file goes")
    parser.add_argument("--label", default="", help="added to the file's name")
    parser.add_argument("--goal", type=float, default=0.94, help="accuracy that the mean should reach")
    parser.add_argument(
        "--lr",
        type=float,
        nargs="+",
        help="peak learning rates; choose among them on images held out by --train-split and --test-split",
    )
    parser.add_argument("--epochs", type=float, nargs="+", help="in place of the experiment's; a program for each")
    parser.add_argument("--width", type=float, help="in place of the experiment's")
    parser.add_argument("--batch-size", type=int, help="in place of the experiment's")
    parser.add_argument("--freeze", metavar="REGEX", help="in place of the experiment's")
    parser.add_argument("--train-split", metavar="SPLIT", help="such as train[:2000]")
    parser.add_argument("--test-split", metavar="SPLIT", help="such as test[:1000]")
    parser.add_argument("--plain", action="store_true", help="XLA's own operations, max pooling among them")
    parser.add_argument("--trace", action="store_true", help="also trace a run, and print what takes longest")
    parser.add_argument("--arrays", type=Path, metavar="FILE", help="write the decoded splits as .npz")
    options = parser.parse_args(argv)
    if options.runs < 0:
        parser.error(f"--runs {options.runs}: expected 0 or more")
    began = time.perf_counter()
    try:
        config = read_experiment(options.experiment)
        if not isinstance(config.task, Classifier):
            parser.error(f"{options.experiment} trains a {config.task.model}; expected a classifier")
        config, train, test = loaded(changed(config, options))
    except UserError as error:
        parser.error(str(error))
    print(f"{len(train['label'])} and {len(test['label'])} examples in {time.perf_counter() - began:.1f} s", flush=True)
    if options.arrays:
        splits = {"train": train, "test": test}
        arrays = {f"{split}_{name}": values for split, part in splits.items() for name, values in part.items()}
        np.savez(options.arrays, **arrays)
    if not options.runs:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    name = Path(options.experiment).stem + options.label
    lengths = {name: config}
    if options.epochs:
        lengths = {f"{name}-{epochs:g}": of_length(config, epochs, len(train["label"])) for epochs in options.epochs}
    for name, config in lengths.items():
        facts = {"experiment": name, "steps": config.steps, "batch_size": config.batch_size, "width": config.task.width}
        facts |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "jaxrec": jaxrec.__version__}
        report = Report(options.out / f"speedrun-{name}.json", facts, options.goal)
        report.add(**facts)
        measure(config, train, test, options, report)


if __name__ == "__main__":
    main()
