"""Compression: pruning by magnitude, channels removed, a teacher's answers, and the command."""

import dataclasses
import json
import re
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small
from systems import ROWS, at, batches, systems

from jaxrec.after.channels import narrowed
from jaxrec.after.distil import distilled, soft_labels, with_teacher
from jaxrec.after.prune import MASKS, Gradual, cubic, kernels, pruning, smallest_out
from jaxrec.after.rounded import rounded
from jaxrec.cli import compress, train, verify
from jaxrec.data import blank
from jaxrec.errors import UserError
from jaxrec.models import layers
from jaxrec.models.resnet import LAYOUTS
from jaxrec.models.rounding import in_8_bits, rounded_activations, rounded_kernel
from jaxrec.run.compressing import Wanted, narrower
from jaxrec.run.compressing import compress as run_compress
from jaxrec.run.export import exporting
from jaxrec.run.start import put
from jaxrec.run.store.leaves import leaves_by_path
from jaxrec.run.store.state import model_of
from jaxrec.run.trained import load
from jaxrec.settings import Optimizer, preset
from jaxrec.tasks import classifier
from jaxrec.tasks.state import State
from jaxrec.tasks.system import Channels, system_of

SIZE = 8


def test_sparsity_rises_as_the_cube_says():
    schedule = Gradual(0.8, begin=10, end=30)
    expected = {0: 0, 10: 0, 15: 0.8 * (1 - 0.75**3), 20: 0.8 * (1 - 0.5**3), 30: 0.8, 1000: 0.8}
    for step, share in expected.items():
        np.testing.assert_allclose(cubic(schedule, step), share, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"sparsity": 0.0}, {"sparsity": 1.0}, {"begin": 20}, {"every": 0}])
def test_a_schedule_that_is_none_is_refused(wrong):
    with pytest.raises(UserError):
        Gradual(**{"sparsity": 0.5, "end": 20, **wrong})


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_exactly_the_smallest_are_left_out_and_stay_out(scope):
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(7, 9)), "b": 10 * rng.normal(size=(3, 3, 4, 5))}
    weights = {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}
    masks = {name: jnp.ones(value.shape, bool) for name, value in weights.items()}
    half = smallest_out(weights, masks, jnp.float32(0.5), scope)
    groups = [["a"], ["b"]] if scope == "layer" else [["a", "b"]]
    for group in groups:
        sizes = np.concatenate([np.abs(weights[name]).ravel() for name in group])
        kept = np.concatenate([np.asarray(half[name]).ravel() for name in group])
        assert (~kept).sum() == round(0.5 * sizes.size)
        assert sizes[~kept].max() < sizes[kept].min()
    # Those that were left out are the first of the next to be left out, however large they have become.
    grown = {name: jnp.where(half[name], value, 1000.0) for name, value in weights.items()}
    more = smallest_out(grown, half, jnp.float32(0.75), scope)
    assert all(not np.any(more[name] & ~half[name]) for name in weights)


def pruned_system(row):
    """A system with pruning around it, and batches."""
    config = ROWS[row].config
    return pruning(system_of(config), Gradual(0.75, end=4, every=2)), batches(config, 6, SIZE)


def test_zeros_stay_zero_through_training():
    """Of the parameters and of their average; the other weights go on learning."""
    system, many = pruned_system("cnn")
    state = system.init(ROWS["cnn"].config, jax.random.key(0), at(many, 0))
    step = jax.jit(system.train_step)
    shares, previous = [], state
    for number in range(6):
        previous = state
        state, metrics = step(state, at(many, number))
        shares.append(float(metrics["sparsity"]))
    np.testing.assert_allclose(shares, [0, 0.75 * (1 - 0.5**3), 0.75 * (1 - 0.5**3), 0.75, 0.75, 0.75], atol=0.005)
    masks, before = state.extra[MASKS]["net"], kernels(previous.player.params)
    averages = kernels(state.player.average)
    for name, value in kernels(state.player.params).items():
        assert np.array_equal(masks[name], previous.extra[MASKS]["net"][name])
        assert not np.any(np.where(masks[name], 0, value)) and not np.any(np.where(masks[name], 0, averages[name]))
        assert np.any(np.where(masks[name], value - before[name], 0)) or not masks[name].any()


@pytest.mark.parametrize("name", ["gan", "rotation"])
def test_a_pruned_step_keeps_what_else_a_state_keeps(name):
    """Of several players, with states of their own, and of a stranger's system."""
    row = systems()[name][0]
    system, many = pruned_system(row)
    before = jax.eval_shape(lambda key: system.init(ROWS[row].config, key, at(many, 0)), jax.random.key(0))
    after, metrics = jax.eval_shape(system.train_step, before, at(many, 0))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert jax.tree.leaves(after) == jax.tree.leaves(before)
    assert set(after.extra[MASKS]) == set(before.players)
    assert metrics["sparsity"].shape == ()


tiny = partial(dataclasses.replace, ROWS["resnet18"].config)
CONNECTED = {
    "cnn": (tiny(model="cnn", width=0.25), 3),
    "cnn-deep": (tiny(model="cnn-deep", width=0.125), 5),
    "speednet": (tiny(model="speednet", width=0.125), 6),
    "speednet-deep": (tiny(model="speednet-deep", width=0.0625), 6),
    "resnet18": (tiny(model="resnet18", width=0.125), 8 + 4),
    "resnet50": (tiny(model="resnet50", width=0.0625), 2 * 5 + 5),
    "efficientnet": (tiny(model="efficientnet-lite0", width=0.25), 15 + 8 + 1),
    # At half of this width, stages that have different channels here have the same.
    "narrow efficientnet": (tiny(model="efficientnet-lite0", width=0.04), 15 + 8 + 1),
    "autoencoder": (dataclasses.replace(ROWS["conv autoencoder"].config, width=4), 2 + 2),
    "residual autoencoder": (
        dataclasses.replace(ROWS["conv autoencoder"].config, architecture="residual", width=4),
        2 * 2 * (2 + 1),
    ),
    "dense vae": (dataclasses.replace(ROWS["vae"].config, architecture="dense", width=1), 4),
}
"""Networks, and how many groups of channels they have."""


@pytest.mark.parametrize("name", CONNECTED)
def test_channels_that_are_zero_are_removed_and_nothing_changes(name, monkeypatch):
    """Every layer loses half; what is kept is what the answers come from."""
    monkeypatch.setitem(LAYOUTS, "resnet50", ((2, 1, 1, 1), True))  # In seconds.
    config, count = CONNECTED[name]
    system = system_of(config)
    narrow = dataclasses.replace(config, width=config.width / 2 if isinstance(config.width, float) else 2)
    if name == "dense vae":
        config, narrow = dataclasses.replace(config, width=2), config
    batch = at(batches(config, 1, 4), 0)
    batch["image"] = np.pad(batch["image"], ((0, 0), (4, 4), (4, 4), (0, 0)))
    wide, small = (jax.jit(partial(system.init, each))(jax.random.key(0), batch) for each in (config, narrow))
    rng = np.random.default_rng(0)
    arrays = {}
    for path, array in leaves_by_path(model_of(wide)).items():
        # At the start, many of them are zero, and could be removed whatever they are added to.
        drawn = rng.normal(0, 0.2, array.shape)
        arrays[path] = np.array(1 + abs(drawn) if path.endswith(("var", "scale")) else array + drawn, np.float32)
    shapes = {path: array.shape for path, array in leaves_by_path(model_of(small)).items()}
    groups = system.channels(config, {path: array.shape for path, array in arrays.items()})
    assert len(groups) == count
    for group in groups:
        # A dense layer may read or make them once for each pixel.
        channels, kept = (
            min(shape[group.made[0]][-1], shape[group.read[0]][-2])
            for shape in ({path: array.shape for path, array in arrays.items()}, shapes)
        )
        silent = rng.permutation(channels)[: channels - kept]
        for path in group.made:
            arrays[path].reshape(-1, channels)[:, silent] = 0
    found = narrowed(arrays, groups, shapes)
    assert {path: array.shape for path, array in found.items()} == shapes
    images = jnp.asarray(batch["image"])
    one, other = (jax.jit(system.predict)(put(*each), images) for each in ((wide, arrays), (small, found)))
    for name in set(one) - {"features"}:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-4)


def test_channels_that_are_added_are_kept_for_all_their_filters():
    """And those that one axis holds twice, for both."""
    kernels = {"a": [[3.0, 2.0, 0.0]], "b": [[0.0, 1.0, 4.0]], "c": [[0, 0, 0, 1.0, 0, 0]]}
    arrays = {name: np.array(kernel) for name, kernel in kernels.items()} | {"d": np.arange(6.0).reshape(6, 1)}
    group = Channels(("a", "b", "c"), ("d",))
    found = narrowed(arrays, [group], {"a": (1, 2), "b": (1, 2), "c": (1, 4), "d": (4, 1)})
    expected = {"a": [[3, 0]], "b": [[0, 4]], "c": [[0, 0, 1, 0]], "d": [[0], [2], [3], [5]]}
    assert {name: array.tolist() for name, array in found.items()} == expected


def test_a_label_is_shared_with_the_teacher():
    answer = jnp.array([[0.2, 0.8], [0.5, 0.5]])
    shared = soft_labels(jnp.array([0, 1]), answer, 0.5)
    np.testing.assert_allclose(shared, [[0.6, 0.4], [0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(
        soft_labels(jnp.array([[1, 1], [0, 0]]), answer, 0.5), (answer + jnp.array([[1.0], [0]])) / 2
    )
    np.testing.assert_allclose(soft_labels(jnp.array([0, 1]), answer[:, :1], 1.0), answer[:, :1])


@pytest.mark.parametrize(
    ("label", "expected"), [([0, 1], [[0.8, 0.2], [0.8, 0.2]]), ([[1, 1], [0, 0]], [[0.8, 0.5]] * 2)]
)
def test_several_labels_of_an_image_are_probable_by_themselves(label, expected):
    logits = 2 * jnp.log(jnp.array([[4.0, 1.0], [4.0, 1.0]]))

    def seen(state, batch, axis_name=None):
        return state, batch["label"]

    state = with_teacher(State(jnp.int32(0), jax.random.key(0), {}, {}, config=None), share=1.0, temperature=2.0)
    _, shared = distilled(seen, lambda images: logits)(state, {"image": None, "label": jnp.array(label)})
    np.testing.assert_allclose(shared, expected, rtol=1e-6)


def test_a_student_that_sees_only_the_teacher_learns_its_answers():
    """Whatever the labels say."""
    config = ROWS["cnn"].config
    many = batches(config, 1, SIZE)
    batch = at(many, 0)
    taught = jax.nn.one_hot((batch["label"] + 1) % 4, 4)
    step = jax.jit(distilled(classifier.train_step, lambda images: 50.0 * taught))
    config = dataclasses.replace(config, optimizer=Optimizer(name="momentum", lr=0.1))
    state = with_teacher(classifier.init(config, jax.random.key(0), batch), share=1.0)
    for _ in range(60):
        state, _ = step(state, batch)
    assert np.array_equal(classifier.predict(state, batch["image"])["logits"].argmax(-1), taught.argmax(-1))


def test_a_kernel_has_whole_multiples_of_a_scale_of_its_channel():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32) * 10.0 ** np.arange(5)
    kernel = np.where(np.arange(5) == 2, 0, kernel).astype(np.float32)
    rounded_off = np.asarray(rounded_kernel(jnp.asarray(kernel)), np.float64)
    scale = np.abs(kernel).max((0, 1, 2)) / 127
    steps = rounded_off / np.where(scale > 0, scale, 1)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    np.testing.assert_allclose(np.abs(steps).max((0, 1, 2)), [127, 127, 0, 127, 127], rtol=1e-5)
    assert np.all(np.abs(rounded_off - kernel) <= 0.501 * scale)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-2.0, -1.0), (0.0, 0.0)])
def test_activations_have_256_values_with_0_among_them(low, high):
    x = np.linspace(low, high, 3001, dtype=np.float32)
    found = np.asarray(rounded_activations(jnp.asarray(x)), np.float64)
    low, high = min(low, 0), max(high, 0)
    assert len(np.unique(found.round(6))) <= 256
    # An end of the range lies off by what brings 0 onto the grid.
    assert np.abs(found - x).max() <= 1.01 * (high - low) / 255
    assert rounded_activations(jnp.append(jnp.asarray(x), jnp.float32(0)))[-1] == 0


LAYERS = {
    "strided": (partial(layers.conv, strides=2), (3, 3, 4, 5)),
    "transposed": (partial(layers.conv_transpose, strides=2), (3, 3, 4, 5)),
    "depthwise": (layers.depthwise, (3, 3, 1, 4)),
    "dense": (layers.dense, (4, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_rounds_both_operands_and_gradients_go_straight_through(name):
    """They are those of the layer at the rounded operands."""
    layer, shape = LAYERS[name]
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((2, 6, 6, 4), shape))
    with in_8_bits():
        found, pullback = jax.vjp(layer, x, kernel)
    expected, plain_pullback = jax.vjp(layer, rounded_activations(x), rounded_kernel(kernel))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, layer(x, kernel), atol=1e-4)
    for one, other in zip(pullback(found), plain_pullback(found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_step_in_8_bits_learns_from_rounded_numbers_and_keeps_whole_ones():
    config = ROWS["cnn"].config
    batch = at(batches(config, 1, SIZE), 0)
    state = classifier.init(config, jax.random.key(0), batch)
    plain, coarse = (jax.jit(step)(state, batch)[0] for step in (classifier.train_step, rounded(classifier.train_step)))
    assert jax.tree.structure(plain) == jax.tree.structure(coarse)
    for path, value in kernels(coarse.player.params).items():
        other = np.asarray(kernels(plain.player.params)[path])
        assert not np.array_equal(value, other)
        assert np.abs(value - rounded_kernel(value)).max() > 0


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory, as_users_run_it, own_cache):
    """A small trained run."""
    folder = tmp_path_factory.mktemp("runs")
    train.main(small("cnn", "--runs", folder, "--name", "wide", "--width", 0.25, "--steps", 12, "--eval-every", 12))
    return folder / "wide"


def told(run):
    return json.loads((run / "compressed.json").read_text("utf-8"))


def test_a_pruned_run_opens_like_any_other(run, monkeypatch, capsys):
    monkeypatch.setattr(exporting, "TIMED", 0.05)
    assert compress.main([str(run), "--prune", ".9", "--steps", "10"]) == 0
    assert "accuracy" in capsys.readouterr().out
    new = run.with_name("wide-pruned")
    found, numbers = load(new), told(new)
    weights = kernels(found.state.player.params)
    zero = sum(int(np.sum(np.asarray(value) == 0)) for value in weights.values())
    assert zero == round(0.9 * sum(value.size for value in weights.values()))
    assert numbers["after"]["nonzero"] < 0.2 * numbers["before"]["nonzero"]
    assert numbers["after"]["bytes"] < 0.4 * numbers["before"]["bytes"]
    assert numbers["after"]["accuracy"] == found.evaluate()["accuracy"]
    assert found.predict(np.zeros((1, 8, 8, 1), np.uint8))["probabilities"].shape == (1, 10)


def test_a_pruned_run_is_resumed_and_verified_as_it_was_trained(run, capsys):
    name = "resumed"
    run_compress(load(run), Wanted(prune=0.9, teacher=load(run), steps=10, name=name))
    before = kernels(load(run.with_name(name)).state.player.params)
    train.main(["--name", name, "--runs", str(run.parent), "--resume", "--steps", "14", "--no-tune-allocator"])
    after = load(run.with_name(name))
    assert after.step == 14
    for path, weights in kernels(after.state.player.params).items():
        assert np.array_equal(weights == 0, before[path] == 0) and not np.array_equal(weights, before[path])
    assert verify.main([str(run.with_name(name))]) == 0
    assert " 0 logged" not in capsys.readouterr().out


def test_a_run_without_half_of_its_channels_is_a_smaller_network(run, monkeypatch):
    """It learns from the wide run, too."""
    monkeypatch.setattr(exporting, "TIMED", 0.05)
    arguments = ["--prune", ".5", "--structured", "--distil", str(run), "--steps", "4", "--name", "narrow"]
    assert compress.main([str(run), *arguments]) == 0
    numbers = told(run.with_name("narrow"))
    assert numbers["after"]["operations"] < 0.5 * numbers["before"]["operations"]
    assert load(run.with_name("narrow")).state.player.params["conv2"]["kernel"].shape == (3, 3, 4, 8)
    resumed = ["--name", "narrow", "--runs", str(run.parent), "--resume", "--steps", "6", "--no-tune-allocator"]
    assert train.main(resumed) == 0 and load(run.with_name("narrow")).step == 6
    with pytest.raises(UserError, match="--structured"):
        verify.main([str(run.with_name("narrow"))])
    shutil.rmtree(run.with_name("narrow") / "checkpoints")
    with pytest.raises(UserError, match="'narrow' has no checkpoint"):
        train.main(resumed)


def test_a_run_trained_for_8_bits_is_exported_in_them(run, monkeypatch, capsys):
    monkeypatch.setattr(exporting, "TIMED", 0.05)
    assert compress.main([str(run), "--int8", "--steps", "4"]) == 0
    new = run.with_name("wide-int8")
    out = capsys.readouterr().out
    shares = [float(share) for share in re.findall(r"right about ([\d.]+)%", out)]
    accuracy = 100 * load(new).evaluate()["accuracy"]
    assert shares[0] == pytest.approx(accuracy, abs=0.01) and abs(shares[1] - accuracy) < 3
    assert verify.main([str(new)]) == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--prune"),
        (("--structured", "--distil", "wide"), "--prune"),
        (("--prune", ".5", "--structured", "--scope", "layer"), "--scope"),
    ],
)
def test_what_makes_nothing_smaller_is_refused(run, arguments, named):
    with pytest.raises(UserError, match=named):
        compress.main([str(run), *arguments])
    made = {"wide", "wide-pruned", "wide-int8", "narrow", "resumed"}
    assert {path.name for path in run.parent.iterdir() if path.is_dir()} <= made


def test_half_of_an_autoencoders_width_is_a_whole_number(tmp_path, as_users_run_it, own_cache):
    train.main(small("autoencoder", "--runs", tmp_path, "--name", "wide", "--steps", 2, "--architecture", "residual"))
    run_compress(load(tmp_path / "wide"), Wanted(prune=0.4, structured=True, steps=2, name="narrow"))
    narrow = load(tmp_path / "narrow")
    assert narrow.config.task.width == 2 and narrow.step == 2


@pytest.mark.parametrize("model", ["vit", "unet", "detector", "gan"])
def test_channels_that_depend_on_each_other_are_left(run, model):
    trained = load(run)
    other = dataclasses.replace(
        trained, config=dataclasses.replace(trained.config, task=preset(model)), system=system_of(preset(model))
    )
    with pytest.raises(UserError, match=f"which of {model}.* depend on each other is not known"):
        run_compress(other, Wanted(prune=0.5, structured=True, steps=1, name="none"))


def of_width(run, config):
    """What is known of a run, as if it had been trained with another network."""
    trained = load(run)
    system = system_of(config)
    state = jax.jit(partial(system.init, config))(jax.random.key(0), blank(trained.features, 2))
    arrays = {path: np.array(array) for path, array in leaves_by_path(model_of(state)).items()}
    other = dataclasses.replace(trained, config=dataclasses.replace(trained.config, task=config), system=system)
    return other, arrays


def test_an_autoencoder_whose_maps_stand_side_by_side_is_named(run):
    other, arrays = of_width(
        run, dataclasses.replace(ROWS["conv autoencoder"].config, architecture="unet", width=4, noise=0.2)
    )
    with pytest.raises(UserError, match=r"autoencoder \(unet\)"):
        narrower(other, other.config, arrays, 0.5)


def test_half_of_a_factor_that_was_written_as_an_int_is_a_half(run):
    other, arrays = of_width(run, tiny(model="cnn", width=1))
    config, narrow = narrower(other, other.config, arrays, 0.5)
    assert config.task.width == 0.5
    assert narrow["net/params/conv1/kernel"].shape[-1] == arrays["net/params/conv1/kernel"].shape[-1] / 2


@pytest.mark.parametrize(
    ("config", "share"),
    [
        (dataclasses.replace(ROWS["conv autoencoder"].config, width=1), 0.5),
        (dataclasses.replace(ROWS["conv autoencoder"].config, width=32), 0.01),
        (tiny(model="cnn", width=0.25), 0.001),
    ],
)
def test_a_share_of_less_than_a_channel_is_refused(run, config, share):
    other, arrays = of_width(run, config)
    with pytest.raises(UserError, match=f"--prune {share:g} removes no whole channel"):
        narrower(other, other.config, arrays, share)


def test_a_run_that_is_there_is_not_written_over(run):
    with pytest.raises(UserError, match="--name"):
        run_compress(load(run), Wanted(prune=0.5, name=run.name))
