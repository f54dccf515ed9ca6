"""The plan of a run: its numbers against closed forms and against what a real run's step holds."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxrec.cli.plan import Plan, collectives, main, plan
from jaxrec.errors import UserError
from jaxrec.run.data import complete, open_data
from jaxrec.run.initial import initial_state
from jaxrec.run.world.devices import Devices, bytes_per_device
from jaxrec.settings import Autoencoder, Optimizer, preset
from jaxrec.tasks.system import system_of

AS_COMPILED_FOR_USERS = True
pytestmark = pytest.mark.usefixtures("as_users_run_it")

SIZES = [784, 128, 128, 10, 128, 128, 784]
DENSE = Autoencoder(architecture="dense", width=8, code=10, average=0.0, optimizer=Optimizer("adam"))


def test_flops_parameters_and_bytes_of_a_dense_network_are_those_of_its_layers():
    config = Plan(task=DENSE, batch_size=64, image_shape=(32, 32, 1), image_size=28, steps=10)
    found = plan(config, Devices("data=1"), simulated=False)
    kernels = sum(a * b for a, b in itertools.pairwise(SIZES))
    parameters = kernels + sum(SIZES[1:])
    assert found["image_shape"] == (28, 28, 1)
    assert found["parameters"] == parameters
    # Parameters and Adam's two moments in float32, and a few scalars.
    assert 0 <= found["state_bytes"] - 3 * 4 * parameters < 200
    # A product forward, one for each kernel's gradient and, but for the first layer, one for the input's.
    products = 2 * 64 * (3 * kernels - SIZES[0] * SIZES[1])
    assert products < found["flops"] < 1.1 * products
    assert found["collectives"] == {}
    # Pixels, and the int32 index and epoch.
    assert found["batch_bytes_per_device"] == 64 * (784 + 2 * 4)
    # At least the gradients, and at most a few times all numbers that a step makes.
    assert 4 * kernels < found["temporary_bytes_per_device"] < 8 * 4 * (parameters + 64 * sum(SIZES))


def test_a_cut_state_is_gathered_once_and_gradients_are_added_up():
    config = Plan(task=preset("vit"), batch_size=64, image_shape=(8, 8, 1), mesh="data=4,model=2")
    devices = Devices(config.mesh)
    found = plan(config, devices, simulated=True)
    system = system_of(config.task)
    data = open_data(config, system)
    task = complete(config, data, system).task
    real = initial_state(task, system, devices, 0, data.train)
    cut = [x for x in jax.tree.leaves(real.player.params) if not x.sharding.is_fully_replicated]
    assert found["state_bytes_per_device"] == bytes_per_device(real)
    assert found["collectives"]["all-gather"] == (len(cut), sum(leaf.nbytes for leaf in cut))
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(real.player.params))
    count, size = found["collectives"]["all-reduce"]
    assert count >= 1 and parameters <= size < 1.2 * parameters


def test_collectives_are_read_from_a_program():
    program = """
  %all-reduce.3 = (f32[64]{0}, f32[3,4]{1,0}, /*index=5*/bf16[2]{0}) all-reduce(%a, %b, %c), replica_groups={}
  ROOT %g = f32[8,8]{1,0:T(8,128)} all-gather(%x), dimensions={0}
  %h = f32[2]{0} all-gather-start(%x), dimensions={0}
  %s = pred[] add(%all-reduce.3, %y)
"""
    assert collectives(program) == {"all-reduce": (1, 4 * 76 + 4), "all-gather": (2, 4 * 66)}


def test_a_mesh_of_more_devices_than_there_are_is_simulated(tmp_path):
    environment = {**os.environ, "XLA_FLAGS": "", "TFDS_DATA_DIR": str(tmp_path), "JAXREC_CACHE": str(tmp_path / "c")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "jaxrec", "plan", "--model", "cnn", "--dataset", "not-there"]
    done = subprocess.run([*command, "--mesh", "data=16,model=4"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "cnn, batches of 128 images 32x32x3, mesh data=16,model=4"
    assert lines[1].startswith("compiled for 64 simulated devices in ")
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "parameters", "FLOPs a step", "state", "batch", "activations", "all-gather", "all-reduce",
    ]  # fmt: skip
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--image-shape", "0", "8", "1"], "--image-shape 0"),
        (["--mesh", "data=2000"], "--mesh data=2000"),
        (["--model", "resnet19"], "'resnet19'"),
        (["--model", "translator", "--perceptual", "1", "--mesh", "data"], "jaxrec plan"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_sentence(options, sentence):
    with pytest.raises(UserError) as error:
        main(options)
    assert sentence in str(error.value)


def test_a_batch_has_to_divide():
    with pytest.raises(UserError, match=r"batch size 100 .*--batch-size"):
        plan(Plan(batch_size=100), Devices(), simulated=False)
