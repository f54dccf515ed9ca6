"""Plain operations are the default: forward mode, export for any batch and platform, and what a switch changes."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import close

import jaxrec
from jaxrec.models import layers
from jaxrec.settings import preset, registry
from jaxrec.tasks.system import system_of

SYSTEMS = {
    "cnn": replace(preset("cnn"), classes=4, width=0.25),
    "resnet18": replace(preset("resnet18"), classes=4, width=0.1),
    "vit": replace(preset("vit"), classes=4, width=0.1),
    "speednet": replace(preset("speednet"), classes=4, width=0.1),
    "autoencoder": replace(preset("autoencoder"), width=4, code=5),
    "denoising unet": replace(preset("autoencoder"), architecture="unet", width=4, noise=0.1),
    "vae": replace(preset("vae"), width=4, code=5),
    "gan": replace(preset("gan"), classes=4, width=4, latents=6),
    "translator": replace(preset("translator"), pairs="grey", width=4, depth=1, discriminator_width=4, halvings=1),
    "unet": replace(preset("unet"), classes=4, width=4, depth=2, mean=(0.5,) * 3, std=(0.25,) * 3),
    "resunet": replace(preset("resunet"), classes=4, width=4, depth=2, mean=(0.5,) * 3, std=(0.25,) * 3),
    "detector": replace(preset("detector"), classes=4, width=2, mean=(0.5,) * 3, std=(0.25,) * 3),
    "glimpse": replace(
        preset("glimpse"),
        classes=4,
        looks=2,
        patch=4,
        units=6,
        width=6,
        start="context",
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    ),
    "agent": replace(preset("agent"), width=2, glance=4, moves=2, mean=(0.5,) * 3, std=(0.25,) * 3),
    "rnn": replace(preset("rnn"), classes=4, width=2, units=6, mean=(0.5,) * 3, std=(0.25,) * 3),
    "video": replace(preset("video"), given=3, forecast=2, width=2, hidden=4, layers=1, depth=1),
    "convlstm forecaster": replace(preset("video"), architecture="convlstm", given=3, forecast=2, hidden=4),
}
OF_CLIPS = ("rnn", "video", "convlstm forecaster")
SHAPE = (16, 16, 3)
PLATFORMS = ("cpu", "cuda", "tpu")


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE)).astype(np.uint8)


def clips(count):
    return images(5 * count).reshape(count, 5, *SHAPE)


def inputs(name, count):
    """What a system predicts from."""
    if name in OF_CLIPS:
        return clips(count)
    if name != "gan":
        return images(count)
    latents = np.random.default_rng(1).normal(size=(count, 6)).astype(np.float32)
    return {"latents": latents, "label": np.arange(count, dtype=np.int32) % 4}


@cache
def state_of(name):
    config = SYSTEMS[name]
    batch = {"image": images(4), "clip": clips(4), "label": np.arange(4, dtype=np.int32)}
    return jax.jit(partial(system_of(config).init, config))(jax.random.key(0), batch)


def predictor(name):
    return jax.jit(partial(system_of(SYSTEMS[name]).predict, state_of(name)))


def symbolic(name):
    """Shapes of what a system predicts from, for any number of examples."""
    (batch,) = jax.export.symbolic_shape("batch")
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), inputs(name, 1))


def test_every_system_is_exported_here():
    assert {registry.name_of(config) for config in SYSTEMS.values()} == set(registry.own())


@pytest.mark.parametrize("name", SYSTEMS)
def test_predict_is_exported_for_any_batch_and_platform(name):
    predict = predictor(name)
    with jaxrec.plain_forms():
        exported = jax.export.export(predict, platforms=PLATFORMS)(symbolic(name))
        again = jax.export.deserialize(exported.serialize())
        assert set(again.platforms) == set(PLATFORMS)
        for count in (3, 8):
            close(again.call(inputs(name, count)), predict(inputs(name, count)))


def convolutions(name, platform, count):
    """How many convolutions the program of a system's `predict` has, lowered here for another platform."""
    exported = jax.export.export(predictor(name), platforms=[platform])(inputs(name, count))
    return exported.mlir_module().count("stablehlo.convolution")


CONVOLUTIONS = {
    "cnn": 2,
    "resnet18": 1 + 8 * 2 + 3,
    "vit": 0,
    "speednet": 6,
    "autoencoder": 4,
    "vae": 4,
    "denoising unet": 9,
    "gan": 2,
    "unet": 3 * 2 + 2 * 3 + 1,
    "resunet": 1 + 2 + 5 + 5 + 2 * 3 + 1,
}
"""Convolutions in the definition of each model that `predict` calls, transposed ones included."""


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_program_for_a_tpu_holds_the_models_own_convolutions(name):
    with jaxrec.plain_forms():
        assert convolutions(name, "tpu", 32) == CONVOLUTIONS[name]


@pytest.mark.parametrize("name", ["cnn", "vit", "speednet", "autoencoder"])
def test_a_tuned_process_on_a_gpu_trains_by_plain_operations(name, monkeypatch):
    """`tune_cpu` is on in these tests; where jax computes on a GPU it changes no product of the step."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    numbers = np.arange(8, dtype=np.int32)
    batch = {"image": images(8), "label": numbers % 4, "index": numbers}
    step = system_of(SYSTEMS[name]).train_step

    def program():
        # Traced as a new function each time, so that nothing is taken from before.
        with jax.numpy_dtype_promotion("standard"):
            traced = jax.jit(lambda *arguments: step(*arguments)).trace(state_of(name), batch)
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    def products(program):
        return program.count("stablehlo.convolution"), program.count("stablehlo.dot_general")

    tuned = program()
    with jaxrec.plain_forms():
        assert products(program()) == products(tuned)
    assert set(re.findall(r"stablehlo.custom_call @(\w+)", tuned)) <= {"cu_threefry2x32_ffi"}


def test_own_forms_would_be_other_operations():
    """Else the tests of plain operations would find nothing to tell apart."""
    assert convolutions("cnn", "cpu", 32) < CONVOLUTIONS["cnn"]


def test_a_function_traced_with_one_kind_of_forms_is_traced_anew_for_the_other():
    x, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    conv = jax.jit(layers.conv)

    def holds_a_convolution():
        return "convolution" in conv.lower(x, kernel).as_text()

    conv(x, kernel)
    assert not holds_a_convolution()
    with jaxrec.plain_forms():
        conv(x, kernel)
        assert holds_a_convolution()
    assert not holds_a_convolution()


def test_a_symbolic_batch_takes_plain_operations_by_itself():
    (batch,) = jax.export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, 8, 8, 3), jnp.float32)
    program = jax.export.export(jax.jit(lambda x: layers.conv(x, jnp.ones((3, 3, 3, 4)))))(x).mlir_module()
    assert "stablehlo.convolution" in program


AFTER_A_PLAIN_IMPORT = """
import sys
import jaxrec
assert "jax" not in sys.modules
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax.flatten_util import ravel_pytree
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Classifier
from jaxrec.tasks.classifier import init, predict

Devices()  # As fit and load do: it is the commands that tune.
rng = np.random.default_rng(0)
batch = {
    "image": jnp.asarray(rng.integers(0, 256, (4, 8, 8, 1)), jnp.uint8),
    "label": jnp.asarray([0, 1, 2, 0], jnp.int32),
}
config = Classifier(model="cnn", classes=3, width=0.05, activation="tanh")
state = jax.jit(partial(init, config))(jax.random.key(0), batch)
((name, player),) = state.players.items()
flat, unravel = ravel_pytree(player.params)

def loss(flat):
    changed = state.replace(players={name: player.replace(params=unravel(flat), average=None)})
    logits = predict(changed, batch["image"])["logits"]
    return -jax.nn.log_softmax(logits)[jnp.arange(4), batch["label"]].mean()

gradient = jax.jit(jax.grad(loss))(flat)
direction = gradient / jnp.linalg.norm(gradient)
_, tangent = jax.jvp(jax.jit(loss), (flat,), (direction,))
np.testing.assert_allclose(tangent, gradient @ direction, rtol=1e-5)
step = 1e-2
difference = (loss(flat + step * direction) - loss(flat - step * direction)) / (2 * step)
np.testing.assert_allclose(tangent, difference, rtol=1e-3)

hessian = jax.jit(jax.hessian(loss))(flat)
reverse = jax.jit(jax.grad(lambda flat: jax.grad(loss)(flat) @ direction))(flat)
assert abs(reverse).max() > 1e-3
np.testing.assert_allclose(hessian @ direction, reverse, atol=1e-5)

jaxrec.tune_cpu(tune_allocator=False)
try:
    jax.jvp(loss, (flat,), (direction,))
except TypeError:
    with jaxrec.plain_forms():
        np.testing.assert_allclose(jax.jvp(loss, (flat,), (direction,))[1], tangent, rtol=1e-6)
    print("as promised")
"""


def test_forward_mode_and_the_hessian_work_after_a_plain_import():
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", AFTER_A_PLAIN_IMPORT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "as promised\n"
