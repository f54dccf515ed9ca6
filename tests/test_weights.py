"""Files of weights from elsewhere: read exactly, never executed; and networks of their names give their logits."""

import json
import os
import random
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small
from flax import traverse_util
from jax import lax
from pytorch_files import Stored, stored, write

from jaxrec.cli.train import main
from jaxrec.errors import UserError
from jaxrec.models.efficientnet import EfficientNet, Stage
from jaxrec.models.layers import depthwise
from jaxrec.models.resnet import LAYOUTS, ResNet
from jaxrec.models.vit import ViT, resized_positions
from jaxrec.run.trained import load
from jaxrec.settings import Classifier
from jaxrec.tasks import classifier
from jaxrec.weights import tables
from jaxrec.weights.files import read_file
from jaxrec.weights.places import located
from jaxrec.weights.preprocessing import beside
from jaxrec.weights.pytorch import read_pytorch

RNG = np.random.default_rng(0)
SOME = {
    "conv.weight": RNG.normal(size=(4, 3, 2, 2)).astype(np.float32),
    "half": RNG.normal(size=3).astype(np.float16),
    "count": np.array(7),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("old", [False, True])
def test_files_of_pytorch_are_read_exactly(old, tmp_path):
    tensors = stored(SOME)
    whole = np.arange(12, dtype=np.float32)
    # The second row of a transposed matrix, and numbers of 16 bits that are the upper halves of float32.
    tensors["view"] = Stored("view", whole, (1, (4, 2), (3, 1)))
    tensors["brain"] = Stored("brain", np.array([0x3F80, 0xC000], np.uint16), kind="BFloat16")
    found = read_pytorch(write(tmp_path / "x.pth", tensors, tensors, old=old))
    assert found.keys() == tensors.keys()
    for name, array in SOME.items():
        np.testing.assert_array_equal(found[name], array)
    assert found["half"].dtype == np.float32 and found["count"].dtype == np.int64
    np.testing.assert_array_equal(found["view"], whole.reshape(4, 3)[:, 1:])
    np.testing.assert_array_equal(found["brain"], [1.0, -2.0])
    # A training script's file, with an object that is none of ours.
    script = {"epoch": 3, "args": Unknown(), "state_dict": OrderedDict(stored(SOME))}
    assert read_pytorch(write(tmp_path / "y.pth", script, stored(SOME), old=old)).keys() == SOME.keys()


class Unknown:
    """What a pickle would call when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("old", [False, True])
def test_nothing_in_a_file_is_executed_however_damaged(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"hook": Unknown(), "state_dict": stored(SOME)}
    path = write(tmp_path / "x.pth", content, stored(SOME), old=old)
    assert read_pytorch(path).keys() == SOME.keys()
    whole, draw = path.read_bytes(), random.Random(0)
    end = len(whole) if old else whole.index(b"archive/byteorder")
    refused = 0
    for number in range(300):
        damaged = bytearray(whole)
        for _ in range(1 + number % 3):
            damaged[draw.randrange(end)] = draw.randrange(256)
        if number % 10 == 0:
            del damaged[draw.randrange(end) :]
        path.write_bytes(damaged)
        try:
            read_pytorch(path)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 100
    assert not (tmp_path / "executed").exists()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "x.safetensors").write_bytes(b"12345678{}")
    write(tmp_path / "list.pth", [1, 2], {})
    write(tmp_path / "none.pth", {"epoch": 3}, {})
    big = {"a": Stored("a", np.zeros(4, np.float32), (2, (3,), (1,)))}
    write(tmp_path / "big.pth", big, big)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=path.name):
            read_file(path)


# Networks in the layout and the names of PyTorch


def conv(x, kernel, strides=1, padding=None, groups=1):
    """As torch.nn.functional.conv2d, of x [B,C,H,W] and a kernel [D,C,K,K]; without padding, TensorFlow's SAME."""
    pads = "SAME" if padding is None else [(padding, padding)] * 2
    numbers = ("NCHW", "OIHW", "NCHW")
    return lax.conv_general_dilated(
        x, kernel, (strides, strides), pads, dimension_numbers=numbers, feature_group_count=groups
    )


class Net:
    """Arrays by PyTorch's names, drawn when they are first asked for, and layers of them."""

    def __init__(self, seed=1):
        self.rng, self.arrays = np.random.default_rng(seed), {}

    def take(self, name, *shape, scale=0.3, shift=0.0):
        if name not in self.arrays:
            values = shift + scale * self.rng.normal(size=shape)
            self.arrays[name] = values.astype(np.float32)
        return self.arrays[name]

    def norm(self, name, x, epsilon=1e-5):
        count = x.shape[1]
        scale, shift = self.take(f"{name}.weight", count, shift=1.0), self.take(f"{name}.bias", count)
        mean = self.take(f"{name}.running_mean", count)
        variance = np.abs(self.take(f"{name}.running_var", count, shift=1.0, scale=0.1))
        self.arrays[f"{name}.num_batches_tracked"] = np.array(5)
        scale, shift, mean, variance = (each[:, None, None] for each in (scale, shift, mean, variance))
        return (x - mean) / np.sqrt(variance + epsilon) * scale + shift

    def conv(self, name, x, outputs, size, strides=1, padding=None, groups=1):
        kernel = self.take(f"{name}.weight", outputs, x.shape[1] // groups, size, size)
        return conv(x, kernel, strides, padding, groups)

    def linear(self, name, x, outputs, bias=True):
        y = x @ self.take(f"{name}.weight", outputs, x.shape[-1]).T
        return y + self.take(f"{name}.bias", outputs) if bias else y


def resnet(net, x, blocks, bottleneck, width, classes):
    """torchvision's, for large images."""
    x = jax.nn.relu(net.norm("bn1", net.conv("conv1", x, width, 7, 2, 3)))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), (1, 1), (1, 1)))
    for stage, count in enumerate(blocks, 1):
        for place in range(count):
            name, features = f"layer{stage}.{place}", width * 2 ** (stage - 1)
            strides = 2 if stage > 1 and place == 0 else 1
            sizes = [(features, 1, 1), (features, 3, strides), (4 * features, 1, 1)]
            if not bottleneck:
                sizes = [(features, 3, strides), (features, 3, 1)]
            y = x
            for number, (outputs, size, step) in enumerate(sizes, 1):
                y = net.norm(f"{name}.bn{number}", net.conv(f"{name}.conv{number}", y, outputs, size, step, size // 2))
                y = jax.nn.relu(y) if number < len(sizes) else y
            if y.shape != x.shape:
                x = net.norm(f"{name}.downsample.1", net.conv(f"{name}.downsample.0", x, y.shape[1], 1, strides, 0))
            x = jax.nn.relu(x + y)
    return net.linear("fc", x.mean((2, 3)), classes)


def vit(net, x, patch, dim, depth, heads, classes):
    """timm's."""

    def norm(name, x):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        scale, shift = net.take(f"{name}.weight", dim, shift=1.0), net.take(f"{name}.bias", dim)
        return (x - mean) / jnp.sqrt(variance + 1e-6) * scale + shift

    kernel = net.take("patch_embed.proj.weight", dim, 3, patch, patch)
    x = conv(x, kernel, patch, 0) + net.take("patch_embed.proj.bias", dim)[:, None, None]
    x = x.reshape(*x.shape[:2], -1).swapaxes(1, 2)
    x = jnp.concatenate([jnp.tile(net.take("cls_token", 1, 1, dim), (len(x), 1, 1)), x], axis=1)
    x += net.take("pos_embed", 1, x.shape[1], dim)
    for block in (f"blocks.{number}" for number in range(depth)):
        parts = net.linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x), 3 * dim)
        query, key, value = parts.reshape(*x.shape[:2], 3, heads, -1).transpose(2, 0, 3, 1, 4)
        weights = jax.nn.softmax(query @ key.swapaxes(2, 3) / np.sqrt(dim // heads, dtype=np.float32))
        x += net.linear(f"{block}.attn.proj", (weights @ value).transpose(0, 2, 1, 3).reshape(x.shape), dim)
        hidden = net.linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x), 4 * dim)
        x += net.linear(f"{block}.mlp.fc2", jax.nn.gelu(hidden, approximate=False), dim)
    return net.linear("head", norm("norm", x)[:, 0], classes)


def lite(net, x, stages, width, classes, names):
    """EfficientNet-Lite's, with the names of efficientnet_lite_pytorch or timm."""
    epsilon = 1e-3
    relu6 = jax.nn.relu6
    stem, last = names["stem"], names["last"]
    x = relu6(net.norm(stem[1], net.conv(stem[0], x, 32 // width, 3, 2), epsilon))
    number = 0
    for stage_number, stage in enumerate(stages):
        for place in range(stage.blocks):
            block = names["block"](number, stage_number, place)
            inner = names["first"] if stage.expansion == 1 else names["inner"]
            y, layers = x, iter(inner)
            if stage.expansion > 1:
                y = net.conv(block + next(layers), y, x.shape[1] * stage.expansion, 1)
                y = relu6(net.norm(block + next(layers), y, epsilon))
            strides = stage.strides if place == 0 else 1
            y = net.conv(block + next(layers), y, y.shape[1], stage.size, strides, groups=y.shape[1])
            y = relu6(net.norm(block + next(layers), y, epsilon))
            y = net.conv(block + next(layers), y, stage.channels // width, 1)
            y = net.norm(block + next(layers), y, epsilon)
            x = x + y if x.shape == y.shape else y
            number += 1
    x = relu6(net.norm(last[1], net.conv(last[0], x, 1280 // width, 1), epsilon))
    return net.linear(names["head"], x.mean((2, 3)), classes)


LITE_NAMES = {
    "stem": ("_conv_stem", "_bn0"),
    "last": ("_conv_head", "_bn1"),
    "head": "_fc",
    "block": lambda number, stage, place: f"_blocks.{number}.",
    "first": ("_depthwise_conv", "_bn1", "_project_conv", "_bn2"),
    "inner": ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"),
}
TIMM_LITE_NAMES = {
    "stem": ("conv_stem", "bn1"),
    "last": ("conv_head", "bn2"),
    "head": "classifier",
    "block": lambda number, stage, place: f"blocks.{stage}.{place}.",
    "first": ("conv_dw", "bn1", "conv_pw", "bn2"),
    "inner": ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"),
}


def check_equal(model, translated, reference, images):
    """The model gives the reference's logits with the translated arrays; none is missing and none left over."""
    paths = {tuple(path.split("/")[1:]): array for path, array in translated.items()}
    tree = traverse_util.unflatten_dict(paths)
    variables = {"params": tree["params"], **tree.get("stats", {})}
    expected = jax.eval_shape(lambda key: model.init(key, images), jax.random.key(0))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, expected)
    logits, _ = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, reference, rtol=1e-4, atol=1e-4 * np.abs(reference).max())


def images(side, seed=2):
    return np.random.default_rng(seed).normal(size=(2, side, side, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_give_torchvisions_logits(name):
    net, x = Net(), images(32)
    reference = jax.jit(lambda x: resnet(net, x, *LAYOUTS[name], 4, 5))(x.transpose(0, 3, 1, 2))
    blocks, bottleneck = LAYOUTS[name]
    model = ResNet(5, blocks=blocks, bottleneck=bottleneck, stem="large", width=1 / 16)
    check_equal(model, tables.resnet(net.arrays), reference, x)


def test_vits_give_timms_logits():
    net, x = Net(), images(12)
    reference = jax.jit(lambda x: vit(net, x, 4, 12, 2, 3, 5))(x.transpose(0, 3, 1, 2))
    model = ViT(5, patch=4, dim=12, depth=2, heads=3, mlp_ratio=4.0, class_token=True, exact_gelu=True)
    check_equal(model, tables.vit(net.arrays), reference, x)


@pytest.mark.parametrize("names", [LITE_NAMES, TIMM_LITE_NAMES], ids=["lite", "timm"])
def test_efficientnets_give_their_logits(names):
    stages = (Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(1, 5, 2, 6, 40))
    net, x = Net(), images(15)
    reference = jax.jit(lambda x: lite(net, x, stages, 8, 5, names))(x.transpose(0, 3, 1, 2))
    check_equal(EfficientNet(5, stages=stages, width=1 / 8), tables.efficientnet(net.arrays), reference, x)


@pytest.mark.parametrize("size, strides, side", [(3, 1, 5), (5, 2, 7), (3, 2, 6)])
def test_depthwise_convolution_is_xlas(size, strides, side):
    x, kernel = jnp.asarray(RNG.normal(size=(2, side, side, 3)), jnp.float32), jnp.ones((size, size, 1, 3))
    kernel = kernel * jnp.arange(size, dtype=jnp.float32)[:, None, None, None]

    def reference(x, kernel):
        return conv(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), strides, groups=3).transpose(0, 2, 3, 1)

    np.testing.assert_allclose(depthwise(x, kernel, strides), reference(x, kernel), rtol=1e-5, atol=1e-5)
    found, expected = (
        jax.grad(lambda *given, f=f: jnp.sin(f(*given)).sum(), (0, 1))(x, kernel)
        for f in (lambda *given: depthwise(*given, strides), reference)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


def test_positions_are_interpolated_between_neighbors():
    grid = jnp.arange(4.0)[None, :, None] + jnp.zeros((1, 4, 2))
    token = jnp.full((1, 1, 2), 9.0)
    found = resized_positions(jnp.concatenate([token, grid], 1), 1 + 16, True)
    np.testing.assert_array_equal(found[:, 0], token[:, 0])
    inner = found[0, 1:, 0].reshape(4, 4)
    assert np.all(np.diff(inner, axis=1) > 0) and np.all(np.diff(inner, axis=0) > 0)
    np.testing.assert_allclose(inner.mean(), 1.5, atol=1e-5)
    with pytest.raises(UserError, match="square"):
        resized_positions(grid, 5, False)


# A run that starts from a file


def test_a_run_takes_weights_and_preprocessing_from_a_file(tmp_path, monkeypatch, capsys, as_users_run_it):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    net, x = Net(), images(32)
    jax.eval_shape(lambda x: vit(net, x, 8, 12, 1, 3, 7), x.transpose(0, 3, 1, 2))  # draws the arrays
    tensors = stored(net.arrays)
    path = write(tmp_path / "model.bin", tensors, tensors)
    said = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "input_size": [3, 32, 32], "crop_pct": 0.9}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": said}))
    shape = ("--width", "0.03125", "--heads", "3", "--depth", "1", "--patch", "8")
    photos = ("--dataset", f"folder:{folder(tmp_path)}", "--validation", "0", "--batch-size", "8")
    options = (*shape, *photos, "--init-from", path, "--runs", tmp_path, "--steps", "1")
    assert main(small("vit-s16", *options, "--name", "a")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "net/params/head/kernel ([12, 2], they have [12, 7])" in printed
    trained = load(tmp_path / "a")
    assert (trained.config.image_size, trained.config.resize) == (32, "crop:0.9")
    assert trained.config.task.mean == (0.5, 0.4, 0.3)
    # Of a picture that is white but for its border, which is a tenth of it, the network sees white alone.
    assert trained.read(tmp_path / "white.png").min() == 255
    smaller = main(small("vit-s16", *options, "--name", "b", "--image-size", "16"))
    assert smaller == 0
    assert "4, 12" not in capsys.readouterr().out


def folder(place):
    from PIL import Image

    for kind in ("light", "dark"):
        (place / "photos" / kind).mkdir(parents=True)
        for number in range(12):
            colour = (200 + number if kind == "light" else number,) * 3
            Image.new("RGB", (40, 36), colour).save(place / "photos" / kind / f"{number}.png")
    white = Image.new("RGB", (400, 400), "black")
    white.paste("white", (12, 12, 388, 388))
    white.save(place / "white.png")
    return place / "photos"


def test_names_that_lead_nowhere_are_refused(tmp_path):
    for name in ("resnet", str(tmp_path / "gone.pth")):
        with pytest.raises(UserError, match="--init-from"):
            located(name)
    with pytest.raises(UserError, match="cnn"):
        classifier.translated(Classifier(model="cnn"), {}, {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        beside(tmp_path / "model.bin")


def test_safetensors_are_read_by_their_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    library.save_file({"conv.weight": SOME["conv.weight"]}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(read_file(tmp_path / "x.safetensors")["conv.weight"], SOME["conv.weight"])


def test_a_repository_of_the_hub_is_read_from_its_cache(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    place = tmp_path / "models--timm--small"
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots" / "abc" / "model.safetensors").write_bytes(b"x")
    assert located("hf:timm/small") == place / "snapshots" / "abc" / "model.safetensors"
    with pytest.raises(UserError, match="hf:timm/gone"):
        located("hf:timm/gone")
