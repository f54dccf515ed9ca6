"""Every experiment file runs, shrunk to two steps of a small network on a few real images, and has what it claims."""

import json
import math
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrec.cli.training_arguments import read_experiment
from jaxrec.data import blank
from jaxrec.run.data import complete, open_data
from jaxrec.run.fit import fit
from jaxrec.settings import Task, Train
from jaxrec.settings.ranges import check_numbers
from jaxrec.tasks.system import system_of, with_known

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts")]

import claims

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]

FILES = sorted((ROOT / "experiments").glob("*.py"))
REQUIRED = {
    "digits_cnn",
    "mnist_cnn",
    "edge_mnist",
    "cifar10_speednet",
    "cifar10_speedrun",
    "mnist_autoencoder",
    "mnist_denoising",
    "mnist_vae",
    "mnist_gan",
    "stacked_mnist",
    "cifar10_colour",
    "mnist_negative",
    "camvid_unet",
    "moving_actions",
    "utd_actions",
    "moving_mnist",
    "mnist_rows",
    "scenes_detector",
    "bccd_detector",
    "bccd_detector_hour",
    "bccd_agent",
    "glimpse_mnist",
    "glimpse_translated",
}
SIZES = {"bccd": "60x80", "camvid": "90x120", "scenes": "32"}
"""The largest images, made small."""


def shrunk(task: Task) -> Task:
    """The same system of the same parts with an eighth of the channels; windows are a quarter as high and wide."""
    small = {}
    for name in ("width", "discriminator_width", "units"):
        count = getattr(task, name, 0)
        small[name] = count / 8 if isinstance(count, float) else max(count // 8, 2)
    height, width = task.augment.window
    augment = replace(task.augment, window=(height // 4, width // 4))
    return with_known(task, eval_samples=2, judge_steps=2, looks=2, augment=augment, **small)


def test_the_published_results_are_there():
    assert {path.stem for path in FILES} >= REQUIRED


def skip_without_examples(config: Train) -> None:
    """Skips the test if the experiment's data are not on this machine."""
    if config.dataset not in ("digits", "synthetic") and not os.environ.get("TFDS_DATA_DIR"):
        pytest.skip(f"{config.dataset} is read from TFDS_DATA_DIR, which is not set")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_step_can_be_traced_at_its_own_size(path):
    """All of it fits together: image size, windows, widths and batch."""
    config = read_experiment(str(path))
    skip_without_examples(config)
    few = f"train[:{config.batch_size}]"
    config = replace(config, train_split=few, test_split="test[:2]", validation=0.0, validation_split=None)
    system = system_of(config.task)
    data = open_data(config, system)
    config = complete(config, data, system)
    batch = blank(data.train.features, config.batch_size)
    for name in ("index", "epoch"):
        batch[name] = np.zeros(config.batch_size, np.int32)
    state = jax.eval_shape(partial(system.init, config.task), jax.random.key(0), batch)
    after, metrics = jax.eval_shape(system.train_step, state, batch)
    before, after = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each) for each in (state, after))
    assert after == before
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_experiment_runs(path, tmp_path, monkeypatch):
    config = read_experiment(str(path))
    check_numbers(config)
    skip_without_examples(config)
    if config.dataset != "digits":
        monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    run = fit(
        replace(
            config,
            task=shrunk(config.task),
            train_split="train[:16]",
            test_split="test[:8]",
            image_size=SIZES.get(config.dataset, config.image_size),
            batch_size=8,
            steps=2,
            epochs=None,
            log_every=1,
            eval_every=2,
            save_every=None,
            mesh="data=1",  # as on most users' machines
            tune_allocator=False,
            name="run",
            runs=str(tmp_path),
        )
    )
    assert run.results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert run.results["examples"] == 8
    numbers = [value for value in run.results.values() if isinstance(value, float)]
    assert numbers
    assert all(map(math.isfinite, numbers))
    for metric, claim in claims.claimed(path)["metrics"].items():
        # What is printed by the export is not among the results.
        if metric not in claims.PRINTED:
            assert math.isfinite(claims.value_of(run.results, metric, claim["unit"]))
