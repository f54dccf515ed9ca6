"""What compiled programs hold on a CPU: no convolution in a loop, as many programs as there are steps of a kind."""

import importlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import small

from jaxrec.cli.train import main
from jaxrec.errors import UserError
from jaxrec.run import evaluation, setup
from jaxrec.run.setup import Watch, make_steps, steps_at_once
from jaxrec.run.show.report import read_metrics
from jaxrec.run.world import devices
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Train, preset
from jaxrec.tasks import task_of

pytestmark = pytest.mark.usefixtures("as_users_run_it")

TASKS = {
    # With many or few channels, convolutions would be products.
    "cnn": replace(preset("cnn"), classes=4, width=0.5, accumulate=2),
    "cnn-deep": replace(preset("cnn-deep"), classes=4, width=0.5),
    "speednet": replace(preset("speednet"), classes=4, width=0.2),
    "autoencoder": replace(preset("autoencoder"), width=8, accumulate=2),
    "vae": replace(preset("vae"), width=8),
    "gan": replace(preset("gan"), classes=4, width=4, discriminator_steps=2),
}


def compiled(task, fused, platform="cpu"):
    """The text of the program that makes ``fused`` steps at once on 8x8 images."""
    images = {"image": np.zeros((20, 8, 8, 1), np.uint8), "label": np.zeros(20, np.int32)}
    shape = (fused, 8) if fused > 1 else (8,)
    batch = {"index": np.zeros(shape, np.int32), "epoch": np.zeros(shape, np.int32)}
    state = jax.eval_shape(partial(task_of(task).init, task), jax.random.key(0), images)
    found = Devices("data=1")
    found.platform = platform
    program = jax.jit(partial(make_steps, task, found, False))
    return program.lower(state, Watch(np.int32(-1), np.int32(0)), batch, images).compile().as_text()


def in_loops(text):
    """The text of all computations that loops run, over and over."""
    bodies = dict(re.findall(r"^%?([\w.-]+) \([^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    found, queue = set(), re.findall(r"body=%?([\w.-]+)", text)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += bodies.keys() & set(re.findall(r"[\w.-]+", bodies[name]))
    return "\n".join(bodies[name] for name in found)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_no_loop_holds_a_convolution_on_a_cpu(task):
    text = compiled(TASKS[task], 3)
    assert "convolution" in text
    assert "convolution" not in in_loops(text)
    # Elsewhere the steps are a loop, so the search finds what it looks for.
    assert "convolution" in in_loops(compiled(TASKS[task], 3, "gpu"))


MILLIONS = {
    "cnn": 718.6, "cnn-deep": 1384.1, "resnet18": 55844, "vit": 7450, "speednet": 14009,
    "autoencoder": 818.1, "vae": 1037.5, "gan": 2135.0,
}  # fmt: skip
"""Floating-point operations of a step on 32 images, as XLA counts them: what makes a step dearer shows here."""


@pytest.mark.parametrize("name", MILLIONS)
def test_steps_cost_what_they_did(name):
    task = preset(name)
    if hasattr(task, "classes"):
        task = replace(task, classes=10)
    shape = (32, 32, 3) if name in ("resnet18", "vit", "speednet") else (28, 28, 1)
    batch = {"image": np.zeros((32, *shape), np.uint8), "label": np.zeros(32, np.int32)}
    state = jax.eval_shape(partial(task_of(task).init, task), jax.random.key(0), batch)
    cost = jax.jit(task_of(task).train_step).lower(state, batch).cost_analysis()
    assert cost["flops"] / 1e6 == pytest.approx(MILLIONS[name], rel=0.02)


def test_steps_made_at_once_are_the_same_steps(tmp_path, capsys):
    options = ["--steps", 11, "--log-every", 4, "--eval-every", 4]
    for fused in (1, 4):
        assert main(small("cnn", "--runs", tmp_path, "--name", f"by-{fused}", "--fuse-steps", fused, *options)) == 0
    one, four = (read_metrics(tmp_path / f"by-{fused}") for fused in (1, 4))
    assert [(row["step"], row["split"]) for row in one] == [(row["step"], row["split"]) for row in four]
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in four], rel=1e-4)


def test_steps_made_at_once_pass_over_no_pause():
    devices = Devices()
    config = Train(log_every=20, eval_every=50, save_every=100)
    assert steps_at_once(config, devices) == 1
    assert steps_at_once(replace(config, fuse_steps=10), devices) == 10
    with pytest.raises(UserError, match="--fuse-steps 4 passes over steps of --eval-every 50; give a divisor of 50"):
        steps_at_once(replace(config, fuse_steps=4), devices)
    devices.platform = "tpu"
    assert steps_at_once(config, devices) == 10
    assert steps_at_once(replace(config, eval_every=200, save_every=None), devices) == 20


def test_the_commands_step_takes_its_state_over(tmp_path):
    devices = Devices()
    config = Train(dataset="digits", batch_size=8, steps=2)
    data = setup.open_data(config, trains=True)
    config = setup.complete(config, data)
    examples = data.train.read(np.arange(8))
    state = evaluation.initializer(config.task, devices)(jax.random.key(0), examples)
    _, batch = next(setup.batches(config, data, devices, 0, 0, 2))
    batch, watch = devices.share(batch), setup.unharmed(devices, state)
    step = setup.compile_step(config, data, devices, state, batch)
    after, _, _ = step(state, watch, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state, watch)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, batch)))


def test_default_evaluations_fall_on_logged_steps():
    data = setup.open_data(Train(dataset="digits"))
    assert setup.complete(Train(steps=2110), data).eval_every == 200
    assert setup.complete(Train(steps=90), data).eval_every == 9
    assert setup.complete(Train(steps=2110, eval_every=211), data).eval_every == 211


class Libc:
    """What `tune_allocator` asks of glibc, noted."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))

        self.__dict__[name] = call
        return call


@pytest.mark.parametrize("libc, calls", [("glibc", {(-4, 0), (-1, -1), (-2, 64 * 2**20)}), ("", set())])
def test_the_allocator_is_tuned_where_glibc_is(libc, calls, monkeypatch):
    noted = Libc()
    monkeypatch.setattr("ctypes.CDLL", lambda _: noted)
    monkeypatch.setattr("platform.libc_ver", lambda: (libc, ""))
    devices.tune_allocator()
    assert {call[1:] for call in noted.calls if call[0] == "mallopt"} == calls


@pytest.mark.parametrize(
    "command, more", [("train", []), ("sweep", ["--vary", "optimizer.lr=1e-4:1e-1"])]
)
def test_the_allocator_is_tuned_by_the_training_commands_unless_told_not_to(command, more, monkeypatch):
    def tuned():
        raise UserError("tuned")

    monkeypatch.setattr("jaxrec.run.loop.tune_allocator", tuned)
    run = importlib.import_module(f"jaxrec.cli.{command}").main
    for options, said in (([], "tuned"), (["--no-tune-allocator"], "digits2")):
        with pytest.raises(UserError, match=said):
            run(["--model", "cnn", "--dataset", "digits2", *more, *options])


EIGEN, WIDE = (f"{flag}={value}" for flag, value in devices.CPU_FLAGS.items())


@pytest.mark.parametrize(
    "version, flags, expected",
    [
        ("0.10.2", "", f"{EIGEN} {WIDE}"),
        ("0.12.0", "--xla_dump_to=x", f"--xla_dump_to=x {EIGEN} {WIDE}"),
        ("0.10.2", f"{EIGEN},-reduce", f"{EIGEN},-reduce {WIDE}"),
        ("0.9.1", "", ""),
        ("0.13.0", "", ""),
    ],
)
def test_flags_are_given_to_versions_that_know_them_and_never_over_the_users(version, flags, expected, monkeypatch):
    monkeypatch.setattr("jaxlib.__version__", version)
    monkeypatch.setenv("XLA_FLAGS", flags)
    devices.tune_cpu()
    assert os.environ["XLA_FLAGS"] == expected


@pytest.mark.parametrize("own, expected", [(None, False), ("true", True)])
def test_no_step_begins_before_the_last_has_ended_unless_the_user_says_so(own, expected):
    code = "import jax; from jaxrec.run.world import devices; devices.tune_cpu(); "
    code += "print(jax.config.values['jax_cpu_enable_async_dispatch'])"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_CPU_ENABLE_ASYNC_DISPATCH"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1])}
    environment |= {} if own is None else {"JAX_CPU_ENABLE_ASYNC_DISPATCH": own}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == f"{expected}\n", done.stderr


@pytest.mark.slow
def test_the_training_command_tunes_the_compiler_before_jax_starts(tmp_path):
    """Afterwards it would change nothing, and two runs of one command could be rounded differently."""
    code = """
import sys
from jax._src import xla_bridge
from jaxrec.run.world import devices
from jaxrec.cli.train import main
tune = devices.tune_cpu
def in_time():
    print("started" if xla_bridge.backends_are_initialized() else "in time")
    tune()
devices.tune_cpu = in_time
sys.exit(main(sys.argv[1:]))
"""
    arguments = small("autoencoder", "--runs", tmp_path, "--steps", 1)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("in time")
