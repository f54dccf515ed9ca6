"""Every experiment file states its result and runs, shrunk to two steps on a few real images."""

import ast
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from jaxrec.cli.training_arguments import read_experiment
from jaxrec.run.fit import fit
from jaxrec.settings.ranges import check_numbers
from jaxrec.tasks.system import with_known

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]

FILES = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))
REQUIRED = {
    "digits_cnn",
    "mnist_cnn",
    "edge_mnist",
    "cifar10_speednet",
    "mnist_autoencoder",
    "mnist_denoising",
    "mnist_vae",
    "mnist_gan",
    "camvid_unet",
    "moving_actions",
    "utd_actions",
    "mnist_rows",
    "scenes_detector",
    "bccd_detector",
    "bccd_agent",
    "glimpse_mnist",
    "glimpse_translated",
}


def test_the_published_results_are_there():
    assert {path.stem for path in FILES} >= REQUIRED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_states_what_was_run_and_what_came_of_it(path):
    header = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    for word in ("command", "hardware", "seeds", "time", "result"):
        assert re.search(rf"^\s*{word}\b", header, re.IGNORECASE | re.MULTILINE), f"{path.name} has no line '{word}'"
    assert f"jaxrec train --experiment {path.stem}" in header
    assert re.search(r"^Seeds: +\d+(, \d+){2,}$", header, re.MULTILINE), "expected three seeds or more"
    assert re.search(r"^Result: +[a-z].* [\d.]+ ?[%a-zA-Z]* ± [\d.]+", header, re.MULTILINE), (
        "expected a mean ± deviation"
    )


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_tables_give_the_headers_results(page):
    """Every number with a deviation, and the time."""
    text = (Path(__file__).parents[1] / page).read_text("utf-8")
    for path in FILES:
        header = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        row = re.search(rf"^\| {path.stem} \|.*$", text, re.MULTILINE)
        assert row, f"{page} has no row of {path.stem}"
        number = r"[\d.]+(?= ?[%a-zA-Z]* ± [\d.]+)|(?<=± )[\d.]+"
        shown, stated = set(re.findall(number, row[0])), set(re.findall(number, header))
        assert shown and shown <= stated
        time = re.search(r"^Time: +(\d+) s", header, re.MULTILINE)
        assert time and f"| {time[1]} " in row[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_experiment_runs(path, tmp_path, monkeypatch):
    config = read_experiment(str(path))
    check_numbers(config)
    if config.dataset not in ("digits", "synthetic") and not os.environ.get("TFDS_DATA_DIR"):
        pytest.skip(f"{config.dataset} is read from TFDS_DATA_DIR, which is not set")
    if config.dataset != "digits":
        monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    task = with_known(config.task, eval_samples=2, judge_steps=2, looks=2)
    small = {"train_split": "train[:16]", "test_split": "test[:8]", "batch_size": 8, "steps": 2, "epochs": None}
    often = {"log_every": 1, "eval_every": None, "save_every": None, "tune_allocator": False}
    run = fit(replace(config, task=task, name="run", runs=str(tmp_path), **small, **often))
    assert run.results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert run.results["examples"] == 8
    numbers = [value for value in run.results.values() if isinstance(value, float)]
    assert numbers
    assert all(map(math.isfinite, numbers))
