"""What compiled programs hold on a CPU: no convolution in a loop, as many programs as there are steps of a kind."""

import importlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from conftest import small

from jaxrec import host
from jaxrec.cli.train import main
from jaxrec.errors import UserError
from jaxrec.run.data import complete, open_data
from jaxrec.run.feed import gathered, open_feed, steps_per_call
from jaxrec.run.fit import first_call
from jaxrec.run.initial import initial_state
from jaxrec.run.show.log import read_metrics
from jaxrec.run.steps import Watch, compile_step, program, unharmed, watched_step
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Train, preset
from jaxrec.tasks.system import system_of

AS_COMPILED_FOR_USERS = True
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


def given_to_the_compiler(task, fused, platform="cpu"):
    """The text of the program that makes ``fused`` steps at once on 8x8 images; XLA itself puts nothing into loops."""
    images = {"image": np.zeros((20, 8, 8, 1), np.uint8), "label": np.zeros(20, np.int32)}
    sent = {"index": np.zeros((fused, 8), np.int32), "epoch": np.zeros((fused, 8), np.int32)}
    system = system_of(task)
    state = jax.eval_shape(partial(system.init, task), jax.random.key(0), images)
    found = Devices("data=1")
    found.platform = platform
    fuses: Any = SimpleNamespace(steps_per_call=fused, batch=lambda sent, images, step: gathered(sent, images))
    steps = jax.jit(program(watched_step(system, found, skip=False), fuses, found))
    return steps.lower(state, Watch(np.int32(-1), np.int32(0)), sent, images).as_text("hlo")


def in_loops(text):
    """The text of all computations that loops run, over and over."""
    bodies = dict(re.findall(r"^%?([\w.-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S))
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
    text = given_to_the_compiler(TASKS[task], 3)
    assert "convolution" in text
    assert "convolution" not in in_loops(text)
    # Elsewhere the steps are a loop, so the search finds what it looks for.
    assert "convolution" in in_loops(given_to_the_compiler(TASKS[task], 3, "gpu"))


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
    state = jax.eval_shape(partial(system_of(task).init, task), jax.random.key(0), batch)
    cost = jax.jit(system_of(task).train_step).lower(state, batch).cost_analysis()
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
    assert steps_per_call(config, devices) == 1
    assert steps_per_call(replace(config, fuse_steps=10), devices) == 10
    with pytest.raises(UserError, match=r"--fuse-steps 4 .*--eval-every 50"):
        steps_per_call(replace(config, fuse_steps=4), devices)
    devices.platform = "tpu"
    assert steps_per_call(config, devices) == 10
    assert steps_per_call(replace(config, eval_every=200, save_every=None), devices) == 20


@pytest.mark.parametrize("memory", [1024, 0], ids=["resident", "streamed"])
def test_the_commands_step_takes_its_state_over(memory):
    devices, config = Devices(), Train(dataset="digits", batch_size=8, steps=2, memory_mb=memory)
    system = system_of(config.task)
    data = open_data(config, system, trains=True)
    config = complete(config, data, system)
    feed = open_feed(config, data, devices, seed=0)
    state = initial_state(config.task, system, devices, 0, data.train)
    sent, watch = first_call(feed, 0), unharmed(devices, state)
    step = compile_step(system, feed, devices, state, watch, sent)
    after, _, _ = step(state, watch, sent)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state, watch)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, sent, feed.examples)))


def test_default_evaluations_fall_on_logged_steps():
    system = system_of(Train().task)
    data = open_data(Train(), system)
    for given, every in ((Train(steps=2110), 200), (Train(steps=90), 9), (Train(steps=2110, eval_every=211), 211)):
        assert complete(given, data, system).eval_every == every


class Libc:
    """What `keep_freed_memory` asks of glibc, noted."""

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
    host.keep_freed_memory()
    assert {call[1:] for call in noted.calls if call[0] == "mallopt"} == calls


@pytest.mark.parametrize("command, more", [("train", []), ("sweep", ["--vary", "optimizer.lr=1e-4:1e-1"])])
def test_the_allocator_is_tuned_by_the_training_commands_unless_told_not_to(command, more, monkeypatch):
    def tuned():
        raise UserError("tuned")

    monkeypatch.setattr("jaxrec.host.keep_freed_memory", tuned)
    run = importlib.import_module(f"jaxrec.cli.{command}").main
    for options, said in (([], "tuned"), (["--no-tune-allocator"], "digits2")):
        with pytest.raises(UserError, match=said):
            run(["--model", "cnn", "--dataset", "digits2", *more, *options])


EIGEN, WIDE = (f"{flag}={value}" for flag, value in host.CPU_FLAGS.items())


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
    host.tune_cpu(tune_allocator=False)
    assert os.environ["XLA_FLAGS"] == expected


@pytest.mark.parametrize("own, expected", [(None, False), ("true", True)])
def test_no_step_begins_before_the_last_has_ended_unless_the_user_says_so(own, expected):
    code = "import jax, jaxrec; jaxrec.tune_cpu(); "
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
from jaxrec import host
from jaxrec.cli.train import main
def in_time():
    print("started" if xla_bridge.backends_are_initialized() else "in time")
    sys.exit()
host._give_flags = in_time
main(sys.argv[1:])
"""
    arguments = small("autoencoder", "--runs", tmp_path, "--steps", 1)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("in time")
