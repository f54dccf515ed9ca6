"""A run: what it leaves, how it stops and goes on, and that the way images reach the device changes nothing."""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from conftest import same_arrays, small

from jaxrec.cli.train import main
from jaxrec.errors import UserError
from jaxrec.optimizers import schedule
from jaxrec.run import data, drawing, ending, evaluation, feed, judge
from jaxrec.run.show.log import Log, read_metrics
from jaxrec.run.store import checkpoints, folder
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.store.manifest import manifest
from jaxrec.run.trained import load
from jaxrec.settings import GAN, Train
from jaxrec.tasks import autoencoder
from jaxrec.tasks.system import named_system

# They train for long enough to gain by it, and streamed and resident images give the same bits only so.
AS_COMPILED_FOR_USERS = True
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]


def rows(run: Path, split: str) -> list[dict]:
    return [row for row in read_metrics(run) if row["split"] == split]


def kept(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def train(runs: Path, name: str, *options: object, model: str = "autoencoder") -> Path:
    assert main(small(model, "--runs", runs, "--name", name, *options)) == 0
    return runs / name


class Killed(BaseException):
    """Nothing is done after it."""


def killed(*_: Any, **__: Any) -> None:
    raise Killed


@pytest.mark.parametrize("model", ["resnet18", "vit", "speednet"])
def test_the_larger_classifiers_train_and_improve(model, tmp_path):
    """On real digits, in a minute at most; one of ten is right by chance."""
    assert (
        main(small(model, "--runs", tmp_path, "--name", "a", "--width", 0.25, "--steps", 90, "--eval-every", 30)) == 0
    )
    accuracies = [row["accuracy"] for row in rows(tmp_path / "a", "validation")]
    assert accuracies[0] < accuracies[-1]
    assert json.loads((tmp_path / "a" / "results.json").read_text())["accuracy"] > 0.7


def test_early_stopping_restores_the_weights_that_validate_best(tmp_path):
    options = ["--optimizer.lr", 0.3, "--optimizer.schedule", "constant", "--patience", 2]
    run = train(tmp_path, "a", "--steps", 80, "--eval-every", 2, *options)
    losses = {row["step"]: row["loss"] for row in rows(run, "validation")}
    best = min(losses, key=lambda step: losses[step])
    last = max(losses)
    assert last < 80
    assert last == best + 4
    assert kept(run) == [best, last]
    results = json.loads((run / "results.json").read_text())
    assert results["step"] == best
    state = load(run).state
    with Checkpoints(run, read_only=True) as saved:
        expected = saved.restore_model(state, best)
    assert all(map(np.array_equal, jax.tree.leaves(state.players), jax.tree.leaves(expected.players)))
    assert f"{last} of 80" in (run / "report.html").read_text()
    # Resumed, it has waited long enough already.
    assert main(["--name", "a", "--runs", str(tmp_path), "--resume"]) == 0
    assert kept(run) == [best, last]
    assert json.loads((run / "results.json").read_text()) == results


def test_a_change_below_min_delta_is_no_improvement(tmp_path):
    run = train(tmp_path, "a", "--steps", 40, "--eval-every", 2, "--patience", 3, "--min-delta", 1000)
    losses = [row["loss"] for row in rows(run, "validation")]
    assert len(losses) == 1 + 3
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("every", [[], ["--save-every", 3]], ids=str)
def test_the_latest_and_the_best_checkpoint_are_kept(every, tmp_path):
    run = train(tmp_path, "a", "--steps", 7, "--eval-every", 2, "--optimizer.lr", 0.5, *every)
    losses = {row["step"]: row["loss"] for row in rows(run, "validation")}
    assert list(losses) == [2, 4, 6, 7]
    assert kept(run) == sorted({min(losses, key=lambda step: losses[step]), 7})


@pytest.mark.parametrize(
    ("model", "names", "evolving"),
    [
        ("gan", ["interpolation", "real", "samples"], ["samples"]),
        ("autoencoder", ["reconstructions", "worst_reconstructions"], []),
    ],
)
def test_pictures_that_the_next_overwrite_are_drawn_now_and_then(model, names, evolving, tmp_path, monkeypatch):
    drawn = []

    def note(_: Path, pictures: dict, __: Any, step: int | None, kept: Any) -> None:
        drawn.append((step, sorted(pictures)))

    monkeypatch.setattr(drawing, "save_artifacts", note)
    few = ["--train-split", "train[:256]", "--test-split", "test[:32]", "--batch-size", 32]
    for seconds in (1e9, 0):
        monkeypatch.setattr(drawing, "PICTURE_SECONDS", seconds)
        train(tmp_path, str(seconds), "--steps", 6, "--eval-every", 2, *few, model=model)
    between = [(4, evolving), (6, evolving)] if evolving else []
    first = (2, sorted(["batch", *names]))
    assert drawn == [first, *between, (None, names), first, *[(step, names) for step in (4, 6, None)]]


def test_rows_have_step_split_and_metrics(tmp_path, monkeypatch):
    traces, step = [], autoencoder.train_step
    monkeypatch.setattr(autoencoder, "train_step", lambda *given, **named: traces.append(1) or step(*given, **named))
    run = train(tmp_path, "a", "--steps", 9, "--log-every", 4, "--eval-every", 5, "--tensorboard")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["split"]) for row in lines if row["split"] == "train"] == [
        (4, "train"),
        (5, "train"),
        (8, "train"),
        (9, "train"),
    ]
    assert [row["step"] for row in lines if row["split"] == "validation"] == [5, 9]
    assert all(isinstance(row["loss"], float) for row in lines if row["split"] != "clock")
    assert {"mse", "psnr", "loss"} <= rows(run, "validation")[0].keys()
    assert len(traces) == 1, "the step is traced once a run"


def events(run: Path) -> list[Any]:
    """What TensorBoard reads from a run's folder: the events in the order written."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((run / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            # A record: its length, a checksum of it, the event, and a checksum.
            length = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_learning_rate_norms_epoch_and_clock_are_logged_and_resumed_without_repeats(tmp_path, capsys, monkeypatch):
    """A run killed after its last checkpoint: the steps that are made again are there once."""
    options = ["--steps", 8, "--log-every", 2, "--eval-every", 4, "--optimizer.name", "sgd", "--tensorboard"]
    write = Log.write

    def kill(log: Log, step: int, *rest: Any, **named: Any) -> None:
        write(log, step, *rest, **named)
        if step == 8:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", kill)
        with pytest.raises(Killed):
            train(tmp_path, "a", *options, model="cnn")
    run = tmp_path / "a"
    assert [row["step"] for row in rows(run, "train")] == [2, 4, 6, 8]
    assert main(["--name", "a", "--runs", str(tmp_path), "--resume"]) == 0

    said = (run / "log.txt").read_text("utf-8").splitlines()
    dated = [line.partition("UTC: ")[2] for line in said if "UTC: " in line]
    assert dated == ["started", "resumed after step 4"]
    assert [line for line in said if "UTC: " not in line] == capsys.readouterr().out.splitlines()

    optimizer = folder.read_config(run).task.optimizer
    assert [row["step"] for row in rows(run, "train")] == [2, 4, 6, 8]
    for row in rows(run, "train"):
        rate = optimizer.lr * float(schedule(optimizer, np.int32(row["step"] - 1)))
        assert row["lr"] == pytest.approx(rate, rel=1e-5)
        # Without momentum and decay an update is the gradient times the learning rate.
        assert row["update_norm"] == pytest.approx(row["lr"] * row["gradient_norm"], rel=1e-3)
        assert row["epoch"] == pytest.approx(row["step"] * 64 / 1293, abs=1e-4)
    clock = read_metrics(run, clock=True)
    assert [row["step"] for row in clock] == [2, 4, 6, 8]
    assert [row["time"] for row in clock] == sorted(row["time"] for row in clock)
    for row in clock:
        assert row["step_seconds"] * row["examples_per_second"] == pytest.approx(64)

    shown, tags, pictures = [], set(), 0
    for event in events(run):
        if event.HasField("session_log"):  # TensorBoard forgets what came before of these steps.
            shown = [step for step in shown if step < event.step]
        for value in event.summary.value:
            tags.add(value.tag)
            pictures += value.HasField("image")
            if value.tag == "train/loss":
                shown.append(event.step)
    assert shown == [2, 4, 6, 8]
    assert {"train/lr", "clock/time", "validation/loss"} <= tags
    assert pictures
    assert any(tag.startswith("_hparams_") for tag in tags)


def test_streamed_and_resident_images_give_the_same_run_and_another_seed_another(tmp_path, capsys, monkeypatch):
    # As of a large set, of which the mean and deviation are taken over a sample.
    monkeypatch.setattr(data, "SAMPLED_BYTES", 0)
    monkeypatch.setattr(data, "STATISTICS_SAMPLE", 100)
    monkeypatch.setattr(feed, "AHEAD", 4)
    options = ["--optimizer.name", "sgd", "--steps", 25, "--log-every", 1]
    here = train(tmp_path, "here", *options)
    assert ", on the device" in " ".join(capsys.readouterr().out.split())
    there = train(tmp_path, "there", *options, "--memory-mb", 0)
    assert ", streamed" in " ".join(capsys.readouterr().out.split())
    other = train(tmp_path, "other", *options, "--seed", 1)
    assert len(read_metrics(here)) > 25
    assert read_metrics(here) == read_metrics(there)
    assert same_arrays(here, there)
    assert read_metrics(here) != read_metrics(other)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, capsys):
    options = ["--steps", 9, "--log-every", 1, "--eval-every", 4, "--noise", 0.3, "--average", 0.9]
    options += ["--augment.flip", "alternating"]
    whole = train(tmp_path, "whole", *options)
    write = Log.write

    def stop(log: Log, step: int, *rest: Any, **named: Any) -> None:
        write(log, step, *rest, **named)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", stop)
        assert main(small("autoencoder", "--runs", tmp_path, "--name", "part", *options)) == 128 + signal.SIGTERM
    part, out = tmp_path / "part", capsys.readouterr().out
    assert "SIGTERM" in out
    assert not (part / "results.json").exists()
    assert 5 <= max(kept(part)) < 9
    command = out.partition("jaxrec train ")[2].split("\n")[0]
    assert main([*command.split(), "--memory-mb", "0"]) == 0
    assert same_arrays(whole, part)
    assert read_metrics(whole) == read_metrics(part)
    assert (whole / "results.json").read_text() == (part / "results.json").read_text()


def test_a_finished_run_is_lengthened_but_not_shortened(tmp_path):
    run = train(tmp_path, "a", "--optimizer.schedule", "constant", "--optimizer.warmup", 0, "--steps", 4)
    assert main(["--name", "a", "--runs", str(tmp_path), "--resume", "--steps", "7"]) == 0
    longer = train(tmp_path, "b", "--optimizer.schedule", "constant", "--optimizer.warmup", 0, "--steps", 7)
    assert same_arrays(run, longer)
    with pytest.raises(UserError, match=r"7 steps .*--steps"):
        main(["--name", "a", "--runs", str(tmp_path), "--resume", "--steps", "5"])
    assert json.loads((run / "config.json").read_text())["steps"] == 7


def test_the_judge_is_trained_once_and_tells_good_images_from_bad(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    gan, config = named_system("gan"), GAN(judge_steps=100)
    digits = data.open_data(Train(task=config), gan)
    state, name = judge.trained_judge(digits.dataset, digits.train, 100)
    assert name.startswith("judge-v1-cnn-digits-")
    assert len(list((tmp_path / "judges").iterdir())) == 1
    monkeypatch.setattr(judge, "_train", None)
    again, same = judge.trained_judge(digits.dataset, digits.train, 100)
    assert same == name
    assert all(map(np.array_equal, jax.tree.leaves(state.player.average), jax.tree.leaves(again.player.average)))

    copied = digits.train.read(np.arange(len(digits.test)))
    noise = np.random.default_rng(0).integers(0, 256, copied["image"].shape).astype(np.uint8)
    found = []
    for images in (copied["image"], noise):
        monkeypatch.setattr(
            judge, "generated", lambda *_, images=images: [{"image": images / 255, "label": copied["label"]}]
        )
        found.append(judge.judge(gan, SimpleNamespace(config=config), digits))
    good, bad = found
    assert good["judge"] == bad["judge"] == name
    for kind in ("frechet_distance", "kernel_distance"):
        assert good[f"{kind}_train_test"] == bad[f"{kind}_train_test"]
        assert good[kind] < bad[kind] / 10
    assert good["class_consistency"] > 0.8 > 0.3 > bad["class_consistency"]
    assert good["modes"] == 10
    assert good["coverage"] > 0.8 > bad["coverage"]


@pytest.mark.parametrize(("model", "options"), [("gan", ["--judge-steps", 2]), ("vae", [])], ids=["gan", "vae"])
def test_a_few_images_are_enough(model, options, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    splits = ["--train-split", "train[:14]", "--test-split", "test[:1]", "--batch-size", 8]
    run = train(tmp_path, "a", *splits, "--validation", 0.1, *options, model=model)
    results = json.loads((run / "results.json").read_text())
    assert results["examples"] == 1
    assert "frechet_distance" not in results


def test_a_moved_run_goes_on_and_keeps_the_record_of_its_beginning(tmp_path):
    options = ["--optimizer.schedule", "constant", "--optimizer.warmup", 0]
    train(tmp_path / "old", "a", *options, "--steps", 4)
    with Checkpoints(tmp_path / "old" / "a", read_only=True) as saved:
        before = saved.record(4)["progress"]["seconds"]
    (tmp_path / "old" / "a").rename(tmp_path / "b")
    assert main(["--name", "b", "--runs", str(tmp_path), "--resume", "--steps", "6"]) == 0
    made = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert made["resumed_from"]["command"]
    assert 0 < before < made["seconds"]["train"]
    assert kept(tmp_path / "b")[-1] == 6


def test_the_manifest_stands_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert manifest({}, [])["git"] == ""
    assert manifest({}, [])["versions"]["python"] == sys.version.split()[0]


@pytest.mark.parametrize("then", ["", "killed before it saves", "killed while it saves"])
def test_a_run_stopped_while_it_evaluates_goes_on_as_if_it_had_not_been(then, tmp_path, monkeypatch, capsys):
    options = ["--steps", 9, "--log-every", 1, "--eval-every", 4, "--average", 0.9, "--patience", 3]
    whole = train(tmp_path, "whole", *options)
    batches, calls = evaluation.eval_batches, []

    def stop(*arguments: Any) -> Any:
        for batch in batches(*arguments):
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "eval_batches", stop)
        patch.setattr(evaluation, "batch_size", lambda *_: 8)
        assert main(small("autoencoder", "--runs", tmp_path, "--name", "part", *options)) == 128 + signal.SIGTERM
    part = tmp_path / "part"
    assert "SIGTERM after step 4" in capsys.readouterr().out
    assert not rows(part, "validation")
    if then:
        with monkeypatch.context() as patch:
            place = (Checkpoints, "save") if "before" in then else (checkpoints, "write_atomically")
            patch.setattr(*place, killed)
            patch.setattr(Checkpoints, "__exit__", lambda *_: None)
            with pytest.raises(Killed):
                main(["--name", "part", "--runs", str(tmp_path), "--resume"])
        assert len(rows(part, "validation")) == 1
        assert (part / "checkpoints" / "4").exists()
        capsys.readouterr()
    assert main(["--name", "part", "--runs", str(tmp_path), "--resume"]) == 0
    assert "steps 5 to 9" in capsys.readouterr().out
    assert same_arrays(whole, part)
    assert read_metrics(whole) == read_metrics(part)
    assert kept(whole) == kept(part)


def test_a_second_signal_ends_the_run_at_once(tmp_path, monkeypatch):
    numbers, write, before = [signal.SIGTERM, signal.SIGINT], Log.write, signal.getsignal(signal.SIGINT)

    def twice(log: Log, step: int, *rest: Any, **named: Any) -> None:
        write(log, step, *rest, **named)
        if step == 2:
            for number in numbers:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(Log, "write", twice)
    with pytest.raises(KeyboardInterrupt) as stopped:
        main(small("autoencoder", "--runs", tmp_path, "--name", "run", "--log-every", 1))
    assert stopped.value.args == (signal.SIGINT,)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_while_the_test_split_is_evaluated_ends_the_run_at_once(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ending, "tested", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt) as stopped:
            main(small("autoencoder", "--runs", tmp_path, "--name", "run"))
    assert stopped.value.args == (signal.SIGTERM,)
    assert main(["--name", "run", "--runs", str(tmp_path), "--resume"]) == 0
    assert (tmp_path / "run" / "report.html").exists()


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    assert main(small("cnn", "--runs", tmp_path, "--name", "a")) == 0
    held, written = folder.lock(tmp_path / "a"), (tmp_path / "a" / "metrics.jsonl").read_bytes()
    resume = ["--resume", "--runs", str(tmp_path), "--name", "a", "--steps", "8"]
    with pytest.raises(UserError, match="another process"):
        main(resume)
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == written
    os.close(held)
    assert main(resume) == 0
