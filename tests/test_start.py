"""Weights that a run starts from: which arrays are taken, rules by path, layers, frozen statistics, and resuming."""

import dataclasses
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import arrays, same_arrays, small

from jaxrec import optimizers
from jaxrec.cli.train import main
from jaxrec.cli.verify import main as verify
from jaxrec.errors import UserError
from jaxrec.models.layers import batch_norm
from jaxrec.run.start import match, within
from jaxrec.settings import Classifier, Optimizer, Rule
from jaxrec.tasks import classifier

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def test_arrays_are_taken_by_path_and_shape():
    shapes = {
        "net/params/conv/kernel": (3, 3),
        "net/params/head/kernel": (3, 10),
        "net/params/norm/scale": (3,),
        "net/stats/batch_stats/norm/mean": (3,),
        "net/average/conv/kernel": (3, 3),
    }
    given = {path: np.zeros(shape) for path, shape in shapes.items() if "average" not in path}
    given["net/params/head/kernel"] = np.zeros((3, 5))
    given["other"] = np.zeros(1)
    found = match(shapes, given, reinit="^norm/mean")
    assert found.taken == ["net/params/conv/kernel", "net/params/norm/scale"]
    assert [line.split()[0] for line in found.anew] == ["net/params/head/kernel", "net/stats/batch_stats/norm/mean"]
    assert found.left == ["other"]
    assert within("net/stats/batch_stats/block1/norm/mean") == "block1/norm/mean"


def test_rates_by_path_multiply_and_frozen_parameters_are_named():
    config = Optimizer(rules=(Rule("kernel", lr=3.0),), lr_scale=("^head=10", "kernel=.5"), freeze="^conv")
    rates = {name: optimizers.rule_for(config, name).lr for name in ("head/kernel", "head/bias", "conv/bias")}
    assert rates == {"head/kernel": 15.0, "head/bias": 10.0, "conv/bias": 1.0}
    assert optimizers.rule_for(config, "conv/kernel").freeze
    assert not optimizers.rule_for(config, "head/kernel").freeze
    for wrong in ("head", "=2", "head=x", "head=-1"):
        with pytest.raises(UserError, match="--lr-scale"):
            optimizers.rule_for(Optimizer(lr_scale=(wrong,)), "head/kernel")
    with pytest.raises(UserError, match="--freeze"):
        optimizers.check_rules(Optimizer(freeze="."), [{"conv": 1}])


def test_layers_stand_in_the_order_of_the_model_and_learn_by_their_depth():
    config = Classifier(model="resnet18", classes=4, mean=(0.0,), std=(1.0,), width=0.0625)
    steps = Optimizer(name="sgd", layer_decay=0.5, unfreeze=0.5, steps=60)
    batch = {"image": jnp.zeros((2, 8, 8, 1)), "label": jnp.zeros(2, jnp.int32)}
    config = dataclasses.replace(config, optimizer=steps)
    layers = jax.eval_shape(lambda key: classifier.init(config, key, batch), jax.random.key(0)).player.layers
    assert layers == (("conv", "norm"), ("stage1",), ("stage2",), ("stage3",), ("stage4",), ("head",))
    for above, (layer, *_) in enumerate(reversed(layers)):
        name, begins = f"{layer}/kernel", 5 * above
        rates = [float(optimizers.layer_rate(steps, layers, name, jnp.int32(step))) for step in (begins - 1, begins)]
        assert rates == [0.5**above if above == 0 else 0.0, 0.5**above]
    params = {"head/kernel": jnp.ones(2), "stage3_block2/conv1/kernel": jnp.ones(2)}
    numbers = {"lr": jnp.float32(1), "weight_decay": jnp.float32(0)}
    plain = dataclasses.replace(steps, schedule="constant", warmup=0.0, unfreeze=0.0)
    moved, _, _ = optimizers.update(
        plain, numbers, jnp.int32(0), params, optimizers.transformation(plain).init(params), params, layers=layers
    )
    np.testing.assert_allclose(moved["head/kernel"], 0.0)
    np.testing.assert_allclose(moved["stage3_block2/conv1/kernel"], 0.75)


@pytest.mark.parametrize("told", [True, False])
def test_frozen_batch_normalization_is_as_in_evaluation(told):
    """Both for a layer that is told when it is made whether to use its statistics, and when it is called."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = x.mean((1, 2))
            for name in ("kept", "learning"):
                x = batch_norm(x, train, name=name) if told else nn.BatchNorm(momentum=0.9, name=name)(x, not train)
            return nn.Dense(3)(x)

    batch = {"image": jax.random.uniform(jax.random.key(1), (8, 2, 2, 3)), "label": jnp.arange(8) % 3}
    optimizer = Optimizer(name="sgd", freeze="^kept")
    config = Classifier(classes=3, standardize="unit", optimizer=optimizer)
    state = classifier.init(config, jax.random.key(0), batch, model=Net())
    before = state.player.stats["batch_stats"]
    state, _ = classifier.train_step(state, batch)
    after = state.player.stats["batch_stats"]
    np.testing.assert_array_equal(after["kept"]["mean"], before["kept"]["mean"])
    # The first gives what it is given, but for its epsilon.
    seen = batch["image"].mean((0, 1, 2)) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(after["learning"]["mean"], 0.1 * seen, rtol=1e-5)


def test_a_run_starts_from_another_and_resumes_bit_for_bit(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    source = shutil.copytree(trained("cnn"), tmp_path / "source")
    before = arrays(source)
    rules = ("--init-from", source, "--reinit", "^head", "--freeze", "conv1", "--layer-decay", ".8")
    constant = ("--optimizer.schedule", "constant", "--optimizer.warmup", "0", "--lr-scale", "head=10")
    asked = small("cnn", *rules, *constant, "--runs", tmp_path)
    assert main([*asked, "--name", "whole"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"weights from {source}" in said and "head/kernel (--reinit)" in said
    after = arrays(tmp_path / "whole")
    kept = [name for name in before if "/params/conv1/" in name]
    assert kept
    for name in kept:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    moved = [name for name in before if "/params/conv2/kernel" in name]
    assert moved and not any(np.array_equal(after[name], before[name]) for name in moved)
    verify([str(tmp_path / "whole"), "--steps", "2"])
    assert main([*asked, "--name", "part", "--steps", "3"]) == 0
    shutil.rmtree(source)  # A checkpoint has taken its place.
    assert main(["--resume", "--name", "part", "--runs", str(tmp_path), "--steps", "6"]) == 0
    assert same_arrays(tmp_path / "whole", tmp_path / "part")


def test_weights_that_fit_nowhere_are_refused(trained, tmp_path):
    for options, named in (
        (("--init-from", trained("cnn")), "--init-from"),
        (("--init-from", tmp_path / "gone"), "gone"),
        (("--reinit", "head"), "--init-from"),
    ):
        with pytest.raises(UserError, match=named):
            main(small("rnn", *options, "--runs", tmp_path))
    assert not list(tmp_path.glob("rnn*"))
