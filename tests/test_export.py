"""Exported files: ONNX and StableHLO say what the model says, in processes without jaxrec."""

import json
import math
import re
import subprocess
import sys
import zipfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import close
from jax import lax
from PIL import Image
from test_forms import SYSTEMS, inputs, state_of

from jaxrec import plain_forms
from jaxrec.after.export.onnx_trace import onnx_model
from jaxrec.cli import compress
from jaxrec.cli.export import main, tell
from jaxrec.errors import UserError
from jaxrec.models.layers import max_pool
from jaxrec.run.export.exporting import differences_of, write
from jaxrec.run.trained import load
from jaxrec.tasks.system import system_of


def run_onnx(content, given):
    """The outputs of an ONNX model by name."""
    session = onnxruntime.InferenceSession(content)
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def named(name):
    """A system's predict as a function of arrays, and the arrays by name, for 3 and for 5 examples."""
    state = state_of(name)
    if name == "detector":
        # At first all scores are nearly the same, and rounding would decide which boxes are kept.
        larger = jax.tree.map(lambda x: 3 * x, state.player.params)
        state = state.replace(players={"net": state.player.replace(average=larger)})
    predict = partial(system_of(SYSTEMS[name]).predict, state)
    if name == "translator":
        return lambda image: {"made": predict(image)["image"]}, lambda count: {"image": inputs(name, count)}
    if isinstance(inputs(name, 1), dict):
        keys = list(inputs(name, 1))
        return lambda *arrays: predict(dict(zip(keys, arrays, strict=True))), partial(inputs, name)
    return predict, lambda count: {"image": inputs(name, count)}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_systems_predict_is_the_same_in_onnx(name):
    predict, given = named(name)
    (batch,) = jax.export.symbolic_shape("batch")
    specs = {key: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for key, x in given(1).items()}
    with plain_forms():
        content = onnx_model(predict, specs, {"classes": "4"})
        compiled = jax.jit(predict)
        for count in (3, 5):
            expected = jax.device_get(compiled(*given(count).values()))
            found = run_onnx(content, given(count))
            assert found.keys() == expected.keys()
            assert all(found[key].dtype == value.dtype for key, value in expected.items())
            apart = differences_of(found, expected, system_of(SYSTEMS[name]).boxed)
            assert max(apart.values()) < 2e-5, apart


A = np.random.default_rng(0).normal(size=(3, 4, 6, 2)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 2, 4)).astype(np.float32)
EDGES = ((0, 0, 0), (1, -2, 0), (0, 0, 0), (0, 0, 0))
NHWC = ("NHWC", "HWIO", "NHWC")
WINDOW = lax.GatherDimensionNumbers(offset_dims=(0, 1, 2, 3), collapsed_slice_dims=(), start_index_map=(2,))
"""Windows of an image by their first columns."""
OPERATIONS = {
    "strided": lambda x: lax.conv_general_dilated(x, KERNEL, (2, 2), "SAME", dimension_numbers=NHWC),
    "dilated": lambda x: lax.conv_general_dilated(
        x, KERNEL, (1, 1), [(2, 2), (0, 3)], rhs_dilation=(2, 2), dimension_numbers=NHWC
    ),
    "grouped": lambda x: lax.conv_general_dilated(
        x, KERNEL[:, :, :1], (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=2
    ),
    "transposed": lambda x: lax.conv_transpose(x, KERNEL, (2, 2), "SAME", dimension_numbers=NHWC),
    "transposed, valid": lambda x: lax.conv_transpose(x, KERNEL, (3, 2), "VALID", dimension_numbers=NHWC),
    "cut": lambda x: lax.conv_general_dilated(x, KERNEL, (1, 1), [(-1, 1), (1, -1)], dimension_numbers=NHWC),
    "max pool": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 2, 1), "SAME"),
    "mean pool": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    "products": lambda x: jnp.einsum("bhwc,bkwc->bhk", x, x[:, ::2]),
    "gather": lambda x: jnp.take(x, jnp.argsort(x[0, :, 0, 0])[:2], axis=1),
    "gather at a known place": lambda x: lax.gather(x, jnp.array([1]), WINDOW, (x.shape[0], 3, 2, 2), mode="clip"),
    "gather, moved inside": lambda x: lax.gather(x, jnp.array([9]), WINDOW, (x.shape[0], 4, 2, 1), mode="clip"),
    "gather, each its own": lambda x: jnp.take_along_axis(x, jnp.argmax(x, axis=1, keepdims=True), axis=1),
    "outside": lambda x: jnp.take(x, (x[:, 0, 0, 0] * 100).astype(jnp.int32), axis=1, mode="fill"),
    "put": lambda x: (
        x.at[:, 2].set(-1.0) + jax.vmap(lambda y, i: y.at[:, i % 6].set(y[:, 0]))(x, jnp.arange(x.shape[0]))
    ),
    "loop": lambda x: lax.while_loop(lambda y: jnp.abs(y).max() > 0.1, lambda y: y * 0.5, x),
    "loops": lambda x: jax.vmap(lambda y: lax.while_loop(lambda z: jnp.abs(z).max() > 0.1, lambda z: z * 0.5, y))(x),
    "windows": lambda x: jax.vmap(lambda y, i: lax.dynamic_slice(y, (i, 1, 0), (2, 3, 2)))(
        x, jnp.arange(x.shape[0]) % 4
    ),
    "sort": lambda x: jnp.sort(x, axis=2),
    "order": lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis=1), axis=1),
    "top": lambda x: lax.top_k(x, 2)[0],
    "scan": lambda x: lax.scan(lambda c, y: (c * 0.5 + y, c - y), x[:, 0], x.swapaxes(0, 1), reverse=True)[1],
    "cond": lambda x: lax.cond(x.sum() > 0, lambda y: y + 1, lambda y: y * 2, x),
    "pieces": lambda x: jnp.concatenate([lax.pad(x, 0.5, EDGES), x[:, 1:4:2, ::-1]], axis=1),
    "batch": lambda x: x + jnp.arange(x.shape[0], dtype=jnp.float32)[:, None, None, None],
    "rounding": lambda x: jnp.stack([jnp.round(x * 4), jnp.floor(x), jnp.sign(x), x % 0.7, jnp.clip(x, -0.5, 0.5)]),
    "functions": lambda x: jax.nn.gelu(x, approximate=False) + jnp.log1p(x**2) + lax.rsqrt(1 + x**2) + jnp.expm1(x),
    "truth": lambda x: jnp.where((x > 0).any(-1, keepdims=True) & ~(x < -1), x, 3).astype(jnp.float32),
    "softmax": lambda x: jax.nn.softmax(x, axis=-2) * jax.nn.logsumexp(x, axis=1, keepdims=True),
    "window": lambda x: lax.dynamic_slice(x, (0, (x[0, 0, 0, 0] * 9).astype(jnp.int32), 1, 0), (1, 2, 3, 2)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_what_it_is_in_jax(name):
    function = OPERATIONS[name]
    (batch,) = jax.export.symbolic_shape("batch")
    spec = jax.ShapeDtypeStruct((batch, *A.shape[1:]), A.dtype)
    content = onnx_model(lambda x: {"y": function(x)}, {"x": spec}, {})
    for x in (A, A[:2] - 0.5):
        close(run_onnx(content, {"x": x})["y"], np.asarray(function(jnp.asarray(x))), 1e-5)


def test_what_is_not_known_is_refused_by_name():
    spec = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    with pytest.raises(UserError, match=r"cholesky.*stablehlo"):
        onnx_model(lambda x: {"y": jnp.linalg.cholesky(x)}, {"x": spec}, {})


def test_a_known_place_outside_is_refused():
    spec = jax.ShapeDtypeStruct(A.shape, A.dtype)
    with pytest.raises(UserError, match="outside"):
        onnx_model(lambda x: {"y": x.at[:, :, 9].get(mode="fill")}, {"x": spec}, {})


def test_constants_are_computed_when_the_file_is_written():
    """Normalization by known statistics is one product and one sum, whatever they are computed from."""
    scale, variance = np.full(2, 3.0, np.float32), np.full(2, 4.0, np.float32)
    spec = jax.ShapeDtypeStruct((3, 4, 6, 2), jnp.float32)
    model = onnx.load_from_string(
        onnx_model(lambda x: {"y": x * (lax.rsqrt(jnp.asarray(variance)) * scale)}, {"x": spec}, {})
    )
    assert [node.op_type for node in model.graph.node] == ["Mul", "Identity"]
    assert max(onnx.numpy_helper.to_array(each).size for each in model.graph.initializer) == 2


def _normed(x):
    rng = np.random.default_rng(2)
    mean, scale, bias = rng.normal(size=(3, x.shape[-1])).astype(np.float32)
    return (x - mean) * scale + bias


CONVOLUTIONS = {name: OPERATIONS[name] for name in ("strided", "grouped", "transposed", "cut")}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_normalization_goes_into_the_kernel_before_it(name):
    def function(x):
        return {"y": jax.nn.relu(_normed(CONVOLUTIONS[name](x) / 2))}

    content = onnx_model(function, {"x": jax.ShapeDtypeStruct(A.shape, A.dtype)}, {})
    kinds = [node.op_type for node in onnx.load_from_string(content).graph.node]
    kinds = [kind for kind in kinds if kind not in ("Transpose", "Pad")]
    assert kinds == ["ConvTranspose" if name == "transposed" else "Conv", "Relu", "Identity"]
    close(run_onnx(content, {"x": A})["y"], np.asarray(function(jnp.asarray(A))["y"]), 1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_normalization_goes_through_maxima_into_the_kernel_if_it_keeps_their_order(sign):
    scale = sign * np.linspace(0.5, 2, KERNEL.shape[-1], dtype=np.float32)

    def function(x):
        y = lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME", dimension_numbers=NHWC)
        return {"y": jax.nn.relu((max_pool(y, 2, 1, padding=1) - scale) * scale + 1)}

    content = onnx_model(function, {"x": jax.ShapeDtypeStruct(A.shape, A.dtype)}, {})
    kinds = {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert {"Sub", "Mul", "Add"} & kinds == (set() if sign == 1 else {"Mul", "Add"})
    close(run_onnx(content, {"x": A})["y"], np.asarray(function(jnp.asarray(A))["y"]), 1e-5)


@pytest.mark.parametrize("name", ["resnet18", "speednet"])
def test_a_network_without_its_normalizations_says_the_same(name):
    state = state_of(name)
    rng = np.random.default_rng(0)

    def drawn(path, array):
        around = {"mean": 0, "var": 1, "scale": 1}.get(path[-1].key)
        return array if around is None else jnp.asarray(around + rng.uniform(0, 0.5, array.shape), jnp.float32)

    player = jax.tree_util.tree_map_with_path(drawn, {"params": state.player.params, "stats": state.player.stats})
    state = state.replace(players={"net": state.player.replace(average=None, **player)})

    def function(image):
        return {"logits": system_of(SYSTEMS[name]).predict(state, image)["logits"]}

    with plain_forms():
        content = onnx_model(function, {"image": jax.ShapeDtypeStruct((8, *inputs(name, 8).shape[1:]), np.uint8)}, {})
    graph = onnx.load_from_string(content).graph
    sizes = {constant.name: math.prod(constant.dims) for constant in graph.initializer}
    first = [node.op_type for node in graph.node].index("Conv")
    by_channel = set()
    for node in graph.node[first:]:
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            by_channel |= {sizes[name] for name in node.input if sizes.get(name, 1) > 1}
    # Behind the first convolution, what is left is the bias of the classes.
    assert by_channel <= {SYSTEMS[name].classes}
    close(run_onnx(content, {"image": inputs(name, 8)})["logits"], function(inputs(name, 8))["logits"], 1e-5)


OTHERWISE_USED = {
    "by two": lambda y: y + _normed(y),
    "from a number": lambda y: 1 - y,
    "by pixel": lambda y: y * np.arange(4, dtype=np.float32)[:, None, None],
    "by example": lambda y: y * np.arange(3, dtype=np.float32)[:, None, None, None],
}


@pytest.mark.parametrize("name", OTHERWISE_USED)
def test_what_is_no_normalization_stays(name):
    def function(x):
        return {"y": OTHERWISE_USED[name](lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME", dimension_numbers=NHWC))}

    content = onnx_model(function, {"x": jax.ShapeDtypeStruct(A.shape, A.dtype)}, {})
    close(run_onnx(content, {"x": A})["y"], np.asarray(function(jnp.asarray(A))["y"]), 1e-5)


@pytest.mark.parametrize("kind", ["onnx", "stablehlo"])
def test_the_command_writes_a_file_and_a_script_that_uses_it(kind, trained, tmp_path, capsys, as_users_run_it):
    run = trained("cnn")
    assert main([str(run), "--format", kind, "--out", str(tmp_path)]) == 0
    assert str(tmp_path / f"model.{kind}") in capsys.readouterr().out
    photo = tmp_path / "photo.png"
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(photo)
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / f"use_{kind}.py", photo], capture_output=True, text=True, check=True
    )
    name, answer, probability = done.stdout.split()
    assert name == str(photo) and answer in "0123456789" and 0 < float(probability) <= 1
    if kind == "onnx":
        properties = {each.key: each.value for each in onnx.load(tmp_path / "model.onnx").metadata_props}
        assert properties.keys() >= {"run", "system", "inputs", "image_shape"}
        about = {key: json.loads(value) for key, value in properties.items()}
    else:
        about = json.loads(zipfile.ZipFile(tmp_path / "model.stablehlo").read("metadata.json"))
    assert about["classes"] == list("0123456789") and about["settings"]["task"]["model"] == "cnn"


def test_a_model_in_8_bits_is_smaller_and_says_nearly_the_same(trained, tmp_path, capsys, as_users_run_it):
    assert main([str(trained("cnn")), "--int8", "--calibrate", "64", "--out", str(tmp_path)]) == 0
    whole, small = tmp_path / "model.onnx", tmp_path / "int8" / "model.onnx"
    assert small.stat().st_size < 0.35 * whole.stat().st_size
    given = {"image": np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1)).astype(np.uint8)}
    assert "classes" in {each.key for each in onnx.load(small).metadata_props}
    shares = re.findall(r"right about ([\d.]+)%", capsys.readouterr().out)
    accuracy = 100 * json.loads((trained("cnn") / "results.json").read_text())["accuracy"]
    assert float(shares[0]) == pytest.approx(accuracy, abs=0.01) and abs(float(shares[1]) - accuracy) < 3
    expected = run_onnx(whole.read_bytes(), given)["probabilities"]
    assert np.abs(run_onnx(small.read_bytes(), given)["probabilities"] - expected).max() < 0.1


@pytest.mark.parametrize("command", [main, compress.main])
def test_8_bits_of_what_reads_no_images_are_refused_before_anything_is_done(command, trained):
    run = trained("gan")
    with pytest.raises(UserError, match="--int8"):
        command([str(run), "--int8"])
    assert not (run / "exported").exists() and not run.with_name(f"{run.name}-int8").exists()


def test_a_generator_is_drawn_from_by_its_latents(trained, tmp_path, as_users_run_it):
    assert main([str(trained("gan")), "--out", str(tmp_path)]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [each.name for each in session.get_inputs()] == ["latents", "label"]


def test_a_file_that_answers_otherwise_is_told(trained, tmp_path, capsys, as_users_run_it):
    run = load(trained("cnn"))
    path = write(run, "onnx", tmp_path)
    given = {"image": np.zeros((4, *run.features["image"].shape), np.uint8)}
    assert tell(run, "onnx", path, given) <= 1e-4
    model = onnx.load(path)
    bias = next(each for each in model.graph.initializer if list(each.dims) == [10])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
    onnx.save(model, path)
    capsys.readouterr()
    assert tell(run, "onnx", path, given) == pytest.approx(0.01, rel=0.01)
    assert "0.01" in capsys.readouterr().out


def test_options_that_do_not_go_together_are_refused(trained):
    with pytest.raises(UserError, match="--format onnx"):
        main([str(trained("cnn")), "--format", "tflite"])
    with pytest.raises(UserError, match="--int8"):
        main([str(trained("cnn")), "--format", "stablehlo", "--int8"])
