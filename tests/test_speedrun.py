"""A training as one compiled program makes the steps that are made one by one; the script writes what it measured."""

import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import close

from jaxrec.run.feed import gathered
from jaxrec.settings import Augment, Classifier, Optimizer
from jaxrec.tasks import classifier

sys.path[:0] = [str(Path(__file__).parents[1] / "scripts")]

import speedrun

pytestmark = pytest.mark.usefixtures("as_users_run_it")

EXPERIMENT = """
from jaxrec.settings import Augment, Classifier, Optimizer, Train

optimizer = Optimizer("muon-sgd", lr=0.1, schedule="linear", momentum=0.6, beta2=0.85)
task = Classifier(model="speednet", width=0.05, views="mirror", optimizer=optimizer)
config = Train(dataset="digits", task=task, batch_size=100, epochs=1, validation=0.0)
"""


def test_an_epoch_shows_each_example_once():
    places = jax.jit(speedrun.orders, static_argnums=(1, 2, 3))(jax.random.key(0), 11, 5, 5)
    assert places["index"].shape == places["epoch"].shape == (5, 5)
    assert places["epoch"][:, 0].tolist() == [0, 0, 1, 1, 2]
    first, second = (np.sort(places["index"][rows].ravel()) for rows in (slice(0, 2), slice(2, 4)))
    assert len(np.unique(first)) == len(np.unique(second)) == 10
    assert not np.array_equal(places["index"][0], places["index"][2])


def test_one_program_makes_the_steps_that_are_made_one_by_one():
    optimizer = Optimizer("muon-sgd", lr=0.1, schedule="linear", warmup=0.0, momentum=0.6, beta2=0.85, steps=4)
    config = Classifier(
        width=0.1, dropout=0.1, classes=3, standardize="unit", views="mirror", optimizer=optimizer,
        augment=Augment(flip="alternating", crop=1),
    )  # fmt: skip
    rng = np.random.default_rng(0)

    def drawn(count):
        label = rng.integers(0, 3, count).astype(np.int32)
        image = rng.integers(0, 150, (count, 8, 8, 1)) + 50 * label[:, None, None, None]
        return {"image": jnp.asarray(image, jnp.uint8), "label": jnp.asarray(label)}

    train, test, key = drawn(20), drawn(12), jax.random.key(3)
    found = jax.jit(speedrun.training(config, 8))(key, jnp.float32(0.1), train, test)

    state = jax.jit(classifier.init, static_argnums=0)(config, key, train)
    step, losses = jax.jit(classifier.train_step), []
    places = speedrun.orders(key, 20, 8, 4)
    for number in range(4):
        batch = gathered({name: values[number] for name, values in places.items()}, train)
        state, metrics = step(state, batch)
        losses.append(metrics["loss"])
    answer = jax.jit(classifier.predict)(state, test["image"])["logits"].argmax(-1)
    close(found.losses, jnp.stack(losses), 1e-3)
    assert abs(float(found.accuracy) - float(np.mean(answer == test["label"]))) < 1.5 / 12


def test_the_script_writes_each_run_and_the_arrays(tmp_path):
    file, arrays = tmp_path / "tiny.py", tmp_path / "arrays.npz"
    file.write_text(EXPERIMENT)
    options = [
        "--runs",
        "2",
        "--lr",
        "0.1",
        "0.2",
        "--out",
        tmp_path,
        "--arrays",
        arrays,
        "--goal",
        "0.05",
        "--epochs",
        "0.5",
    ]
    speedrun.main([str(file), *map(str, options), "--train-split", "train[:300]", "--test-split", "test[:100]"])
    report = json.loads((tmp_path / "speedrun-tiny-0.5.json").read_text())
    assert [(run["seed"], run["lr"]) for run in report["runs"]] == [(0, 0.1), (1, 0.1), (0, 0.2), (1, 0.2)]
    assert {len(run["losses"]) for run in report["runs"]} == {2} == {report["steps"]}
    for row in report["summary"]:
        runs = [run for run in report["runs"] if run["lr"] == row["lr"]]
        assert row["mean accuracy"] == pytest.approx(np.mean([run["accuracy"] for run in runs]))
        assert row["at the goal"] == (row["mean accuracy"] >= 0.05)
        assert row["least"] <= row["median seconds"] <= row["most"] and math.isfinite(row["deviation"])
    with np.load(arrays) as written:
        assert written["train_image"].dtype == np.uint8 and written["train_image"].shape == (300, 8, 8, 1)
        assert written["test_label"].shape == (100,)
