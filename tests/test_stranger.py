"""A system that is none of jaxrec's own, in one file: all that the commands do for ours they do for it."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import arrays, same_arrays, surroundings
from PIL import Image
from systems import ROTATION

import jaxrec
from jaxrec.cli import evaluate, plan, predict, show, sweep, train, verify
from jaxrec.errors import UserError
from jaxrec.run.show.log import read_metrics
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.settings import Train, registry

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]

SYSTEM = ["--system", str(ROTATION)]
QUICK = ["--batch-size", "64", "--eval-every", "3", "--log-every", "2", "--width", "4", "--no-tune-allocator"]
EVEN = ["--optimizer.schedule", "constant", "--optimizer.warmup", "0"]
"""With these, how long a run is to last does not change its first steps."""


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins as a new process does: with no system but jaxrec's own."""
    forget(monkeypatch)


def forget(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(registry, "_given", {})


def python(*arguments: object, where: Path, **changes: str) -> str:
    """What a process of its own, on one CPU device, writes."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings(**changes), timeout=300, cwd=where)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def assert_same_results(got: dict[str, Any], run: Path) -> None:
    """Up to the order of sums, which is another on one device and on eight."""
    expected = read(run / "results.json")
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)


def trained(runs: Path, name: str, *options: object) -> Path:
    """A run of this process."""
    assert train.main([*SYSTEM, "--runs", str(runs), "--name", name, *QUICK, *map(str, options)]) == 0
    return runs / name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 200 steps, trained as a user trains it."""
    where = tmp_path_factory.mktemp("stranger")
    python("-m", "jaxrec.train", "--system", ROTATION, "--steps", 200, "--name", "turns", where=where)
    return where / "runs" / "turns"


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of 12 steps on the devices of this process."""
    with pytest.MonkeyPatch.context() as patch:
        forget(patch)
        yield trained(tmp_path_factory.mktemp("short"), "whole", "--steps", 12, *EVEN)


def test_it_learns_and_the_checkpoint_of_its_best_own_metric_is_kept(run):
    rows = [row for row in read_metrics(run) if row["split"] == "validation"]
    accuracy = {row["step"]: row["turn_accuracy"] for row in rows}
    assert sorted(accuracy) == list(range(20, 201, 20))
    with Checkpoints(run, read_only=True) as checkpoints:
        best, kept = checkpoints.best(), checkpoints.steps()
    assert accuracy[best] == max(accuracy.values()) > 0.6  # Guessing gives 0.25.
    assert set(kept) == {best, 200}
    results = read(run / "results.json")
    assert results["turn_accuracy"] > 0.6
    assert results["examples"] == 360


def test_a_resumed_run_ends_bit_for_bit_as_one_that_was_left_alone(short, tmp_path, monkeypatch):
    parts = trained(tmp_path, "parts", "--steps", 6, *EVEN)
    forget(monkeypatch)
    resume = ["--resume", "--runs", str(tmp_path), "--name", "parts", "--steps", "12"]
    assert train.main([*SYSTEM, *resume]) == 0
    assert arrays(parts).keys() == arrays(short).keys()
    assert same_arrays(parts, short)
    assert read_metrics(parts) == read_metrics(short)


def test_it_is_verified(short, capsys):
    assert verify.main([*SYSTEM, str(short)]) == 0
    assert "all are as logged" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["seeds", "sweep"])
def test_many_runs_at_once_keep_the_one_of_the_best_own_metric(command, tmp_path):
    options = [*SYSTEM, "--runs", str(tmp_path), "--name", "many", "--steps", "6", *QUICK]
    if command == "seeds":
        assert train.main([*options, "--seeds", "4"]) == 0
    else:
        assert sweep.main([*options, "--members", "4", "--vary", "optimizer.lr=1e-4:1e-1", "--halving", "1"]) == 0
    members = read(tmp_path / "many" / "members.json")
    results = read(tmp_path / "many" / "results.json")
    going = [member for member in members if member["dropped"] is None]
    assert (len(members), len(going)) == (4, 4 if command == "seeds" else 2)
    kept = members[results["checkpoint_of"]]
    assert kept["validation"] == max(member["validation"] for member in going)
    dropped = [member["validation"] for member in members if member["dropped"] is not None]
    assert all(0 <= value <= 1 for value in dropped)


def test_it_is_evaluated(run, capsys):
    evaluate.main([str(run), *SYSTEM, "--json"])
    assert_same_results(json.loads(capsys.readouterr().out), run)


def test_it_predicts_a_folder(run, tmp_path):
    """One digit in four positions is not said to be turned alike."""
    seven = np.zeros((8, 8), np.uint8)
    seven[0:2, 1:7], seven[2:8, 4:6] = 255, 255
    (tmp_path / "images").mkdir()
    for turn in range(4):
        Image.fromarray(np.rot90(seven, turn)).save(tmp_path / "images" / f"{turn}.png")
    predict.main([str(run), str(tmp_path / "images"), *SYSTEM, "--out", str(tmp_path / "out")])
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [Path(row["path"]).stem for row in rows] == ["0", "1", "2", "3"]
    assert len({row["turn"] for row in rows}) > 1
    for row in rows:
        assert row["turn"] == 90 * int(np.argmax(row["probabilities"]))
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert [int(row["turn"]) for row in csv.DictReader(file)] == [row["turn"] for row in rows]


def test_it_is_planned_and_inspected(run, capsys):
    plan.main([*SYSTEM, "--image-shape", "8", "8", "1"])
    planned = capsys.readouterr().out
    parameters = read(run / "manifest.json")["parameters"]
    assert f"{parameters:,}\n" in planned
    show.main([str(run), *SYSTEM])
    assert f"{parameters:,} parameters" in capsys.readouterr().out


def test_the_report_has_its_own_headline_caption_and_commands(run):
    page = (run / "report.html").read_text()
    module = registry.load_file(str(ROTATION))
    assert module.CAPTIONS["turns"] in page
    accuracy = read(run / "results.json")["turn_accuracy"]
    verdict = page.partition('class="verdict"')[2].partition("</p>")[0]
    assert f"turn accuracy {accuracy:.4g}" in verdict
    told = page.partition("<h2>Use this run</h2>\n<pre>")[2].partition("</pre>")[0]
    commands = told.splitlines()
    assert [line.split()[1] for line in commands] == ["evaluate", "predict", "train"]
    assert all(f"--system {ROTATION}" in line for line in commands)


@pytest.mark.parametrize("main", [evaluate.main, predict.main, verify.main, show.main, train.main])
def test_without_its_file_a_run_is_not_opened_and_the_option_is_named(main, run):
    arguments = {
        train.main: ["--resume", "--name", run.name, "--runs", str(run.parent)],
        predict.main: [str(run), str(run / "pictures")],
    }
    with pytest.raises(UserError, match=r"'rotation'.*--system rotation\.py"):
        main(arguments.get(main, [str(run)]))
    with pytest.raises(UserError, match="--system"):
        jaxrec.load(run)


def test_from_python_it_takes_images_that_are_not_square(tmp_path):
    config = registry.load_file(str(ROTATION)).Config
    rng = np.random.default_rng(0)
    images = rng.random((40, 12, 9, 3), np.float32)
    task = config(model="rotation", width=2)
    settings = Train(task=task, steps=2, batch_size=8, mesh="data=1", runs=str(tmp_path), tune_allocator=False)
    done = jaxrec.fit(settings, {"image": images})
    assert set(done.results) >= {"loss", "turn_accuracy"}
    outputs = jaxrec.load(done.folder).predict(images)["turns"]
    assert outputs.shape == (40, 4)
    # Only the middle square counts.
    images[:, [0, 11]] = 0
    np.testing.assert_array_equal(jaxrec.load(done.folder).predict(images)["turns"], outputs)


def install(site: Path) -> None:
    """Puts a package with the system into a folder as pip would: the package, and beside it what it offers."""
    (site / "quarter_turns").mkdir(parents=True)
    (site / "quarter_turns" / "__init__.py").write_text("")
    (site / "quarter_turns" / "turns.py").write_text(ROTATION.read_text())
    about = site / "quarter_turns-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: quarter-turns\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{registry.GROUP}]\nrotation = quarter_turns.turns\n")


def test_an_installed_package_offers_it_as_a_model(tmp_path, monkeypatch, capsys):
    install(tmp_path / "site")
    path = os.pathsep.join([str(Path(jaxrec.__file__).parents[1]), str(tmp_path / "site")])
    options = ["--model", "rotation", "--steps", 6, "--name", "installed", *QUICK]
    python("-m", "jaxrec.train", *options, where=tmp_path, PYTHONPATH=path)
    run = tmp_path / "runs" / "installed"
    with pytest.raises(UserError, match="--system"):
        jaxrec.load(run)
    monkeypatch.syspath_prepend(tmp_path / "site")
    evaluate.main([str(run), "--json"])
    assert_same_results(json.loads(capsys.readouterr().out), run)
    assert "--system" not in (run / "report.html").read_text()
    # Imported in Python, it has the name by which it is found again.
    forget(monkeypatch)
    config = sys.modules["quarter_turns.turns"].Config
    assert registry.name_of(config(model="rotation")) == "rotation"
    monkeypatch.delitem(sys.modules, "quarter_turns.turns")
    monkeypatch.delitem(sys.modules, "quarter_turns")


def test_a_program_that_defines_it_leaves_a_run_that_can_be_opened_with_the_program(tmp_path):
    program = tmp_path / "mine.py"
    main = """
if __name__ == "__main__":
    import jaxrec
    from jaxrec.settings import Train
    jaxrec.fit(Train(task=Config(model="mine", width=2), steps=2, batch_size=16, name="a", tune_allocator=False))
"""
    program.write_text(ROTATION.read_text() + main)
    python(program, where=tmp_path)
    run = tmp_path / "runs" / "a"
    with pytest.raises(UserError, match=r"--system mine\.py"):
        jaxrec.load(run)
    assert_same_results(jaxrec.load(run, system=str(program)).evaluate(), run)


def test_a_file_that_lacks_a_function_is_named_with_it(tmp_path):
    file = tmp_path / "halfway.py"
    file.write_text(f"{ROTATION.read_text()}\ndel train_step")
    with pytest.raises(UserError, match=r"'halfway'.*train_step"):
        train.main(["--system", str(file), "--runs", str(tmp_path / "runs"), "--no-tune-allocator"])
    assert not (tmp_path / "runs").exists()
