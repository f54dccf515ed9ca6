"""The scripts that try a run's safety, in a short form."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import surroundings

import jaxrec
from jaxrec.data import open_dataset
from jaxrec.models.members import convolutions_as_products
from jaxrec.run.fit import fit
from jaxrec.settings import Classifier, Optimizer, Train, preset

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path[:0] = [str(SCRIPTS)]

import overhead
import speedrun

pytestmark = pytest.mark.slow


def run(script: str, *arguments: str) -> str:
    """What the script prints; it has to succeed."""
    # As compiled for users, streamed and resident images give the same bits.
    environment = surroundings(XLA_FLAGS="", JAX_DISABLE_MOST_OPTIMIZATIONS="false")
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_killed_runs_end_as_if_they_had_been_left_alone():
    said = run("crash_test.py", "--tasks", "autoencoder", "--kills", "2")
    assert said.startswith("autoencoder: 2 kills (")
    assert "all with state " in said


def test_mutated_files_are_read_or_refused_in_one_sentence():
    said = run("fuzz.py", "--images", "1000", "--settings", "500", "--boxes", "800").splitlines()
    boxes = [f"200 {suffix} of boxes" for suffix in (".json", ".xml", ".txt", ".yaml")]
    assert [line.split(":")[0] for line in said] == ["1000 images", *boxes, "500 settings"]
    assert all(" refused" in line for line in said) and all(" read" in line for line in (said[0], said[-1]))


@pytest.fixture
def digits_as_arrays() -> list[dict[str, jax.Array]]:
    splits = open_dataset("digits").splits
    made = []
    for name in ("train", "test"):
        examples = splits[name].load()
        made.append({"image": examples["image"], "label": examples["label"].astype(np.int32)})
    return jax.device_put(made)


@pytest.fixture
def short() -> Train:
    return Train(task=preset("autoencoder"), steps=6, batch_size=64, eval_every=3, log_every=2)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("memory", [1024, 0], ids=["on the device", "streamed"])
def test_the_loop_is_timed_beside_the_compiled_step(memory, short):
    found = overhead.windows(dataclasses.replace(short, memory_mb=memory), rounds=2, seconds=0.01)
    assert len(found.loop) == len(found.bare) == len(found.waits) == 2
    assert min(found.loop + found.bare) > 0
    assert all(0 <= share < 1 for share in found.waits)


def test_members_of_a_population_train_as_they_would_alone(digits_as_arrays):
    config = Classifier(classes=10, width=0.125, optimizer=Optimizer(name="momentum", lr=0.2, steps=60))
    whole = speedrun.training(config, 64)

    def member(key):
        return whole(key, jnp.float32(0.2), *digits_as_arrays).accuracy

    keys = jax.random.split(jax.random.key(0), 2)
    with jaxrec.plain_forms():
        alone = [jax.jit(member)(key) for key in keys]
        together = jax.jit(jax.vmap(member))(keys)
        with convolutions_as_products():
            by_products = jax.jit(jax.vmap(member))(keys)
    np.testing.assert_allclose(together, alone, atol=0.01)
    np.testing.assert_allclose(by_products, alone, atol=0.01)
    assert together.min() > 0.3 and together[0] != together[1]


@pytest.mark.usefixtures("as_users_run_it")
def test_every_part_of_a_run_is_accounted_for(short):
    with overhead.quietly(short) as config, overhead.accounted() as spent:
        assert fit(config).results
    assert set(spent) == {"logging", "checkpoints", "pictures", "validation"}
    assert min(spent.values()) > 0
