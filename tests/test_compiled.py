"""What compiled programs hold on a CPU: no convolution in a loop, as many programs as there are steps of a kind."""

import os
import re
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from conftest import small

from jaxrec.config import PRESETS, Train
from jaxrec.errors import UserError
from jaxrec.run import devices
from jaxrec.run.devices import Devices
from jaxrec.run.report import read_metrics
from jaxrec.run.setup import make_steps, steps_at_once
from jaxrec.tasks import task_of
from jaxrec.train import main

pytestmark = pytest.mark.usefixtures("as_users_run_it")

TASKS = {
    # With many or few channels, convolutions would be products.
    "cnn": replace(PRESETS["cnn"], classes=4, width=0.5, accumulate=2),
    "autoencoder": replace(PRESETS["autoencoder"], width=8, accumulate=2),
    "vae": replace(PRESETS["vae"], width=8),
    "gan": replace(PRESETS["gan"], classes=4, width=4, discriminator_steps=2),
}


def compiled(task, fused, platform="cpu"):
    """The text of the program that makes ``fused`` steps at once on 8x8 images."""
    images = {"image": np.zeros((20, 8, 8, 1), np.uint8), "label": np.zeros(20, np.int32)}
    shape = (fused, 8) if fused > 1 else (8,)
    batch = {"index": np.zeros(shape, np.int32), "epoch": np.zeros(shape, np.int32)}
    state = jax.eval_shape(partial(task_of(task).init, task), jax.random.key(0), images)
    program = jax.jit(partial(make_steps, task, platform))
    return program.lower(state, np.int32(-1), batch, images).compile().as_text()


def in_loops(text):
    """The text of all computations that loops run, over and over."""
    bodies = dict(re.findall(r"^%?([\w.-]+) \([^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    found, queue = set(), re.findall(r"body=%?([\w.-]+)", text)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += re.findall(r"(?:body|calls|to_apply|branch_computations=\{)=?%?([\w.-]+)", bodies[name])
    return "\n".join(bodies[name] for name in found)


@pytest.mark.parametrize("task", TASKS)
def test_no_loop_holds_a_convolution_on_a_cpu(task):
    text = compiled(TASKS[task], 3)
    assert "convolution" in text
    assert "convolution" not in in_loops(text)
    # Elsewhere the steps are a loop, so the search finds what it looks for.
    assert "convolution" in in_loops(compiled(TASKS[task], 3, "gpu"))


MILLIONS = {
    "cnn": 640.6, "cnn-deep": 1306.1, "resnet18": 55844, "vit": 7450, "speednet": 14009,
    "autoencoder": 818.1, "vae": 1037.5, "gan": 2135.0,
}  # fmt: skip
"""Floating-point operations of a step on 32 images, as XLA counts them: what makes a step dearer shows here."""


@pytest.mark.parametrize("name", MILLIONS)
def test_steps_cost_what_they_did(name):
    task = replace(PRESETS[name], classes=10)
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


@pytest.mark.parametrize(
    "version, flags, expected",
    [
        ("0.10.2", "", devices.EIGEN),
        ("0.12.0", "--xla_dump_to=x", f"--xla_dump_to=x {devices.EIGEN}"),
        ("0.10.2", f"{devices.EIGEN.partition('=')[0]}=reduce", f"{devices.EIGEN.partition('=')[0]}=reduce"),
        ("0.9.1", "", ""),
        ("0.13.0", "", ""),
    ],
)
def test_the_flag_is_given_to_versions_that_know_it_and_never_over_the_users(version, flags, expected, monkeypatch):
    monkeypatch.setattr("jaxlib.__version__", version)
    monkeypatch.setenv("XLA_FLAGS", flags)
    devices.tune_compiler()
    assert os.environ["XLA_FLAGS"] == expected
