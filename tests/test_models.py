"""Every model at every image shape: shapes, dtypes, gradients and statistics; and what is special to each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.errors import UserError
from jaxrec.models.autoencoder import Autoencoder as AutoencoderModule
from jaxrec.models.autoencoder import Block
from jaxrec.models.couplings import Couplings
from jaxrec.models.cpu import parts
from jaxrec.models.resnet import LAYOUTS, ResNet
from jaxrec.models.speednet import SpeedNet, dirac, whitening
from jaxrec.settings import GAN, Autoencoder, Classifier, classifier
from jaxrec.tasks.autoencoder import build as build_autoencoder
from jaxrec.tasks.classifier import build as build_classifier
from jaxrec.tasks.gan import build as build_gan

SHAPES = [(8, 8, 1), (28, 28, 1), (32, 32, 3)]
ODD = (15, 13, 3)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
precisions = pytest.mark.parametrize("precision", ["f32", "bf16"])
KEY = jax.random.key(0)
RNGS = {"params": KEY, "dropout": KEY}

CLASSIFIERS = list(classifier.PRESETS)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def classifier(name, shape, **options):
    config = Classifier(model=name, classes=5, width=options.pop("width", 0.1), **options)
    return build_classifier(config, shape)


def players(shape, **options):
    return build_gan(GAN(classes=5, width=4, latents=6, **options), shape)


def init(model, *inputs):
    return jax.jit(functools.partial(model.init, train=False))(RNGS, *inputs)


def outputs(model, *inputs):
    """Abstract variables and training outputs: traced, not computed."""
    result, variables = jax.eval_shape(functools.partial(model.init_with_output, train=True), RNGS, *inputs)
    for leaf in jax.tree.leaves((result, variables)):
        assert leaf.dtype == jnp.float32
    return result, variables


def draw(model, *inputs):
    """Variables of size .1 to .5 and either sign: quick, and no layer starts at 0, which would cut gradients."""
    random = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: (random.uniform(0.1, 0.5, leaf.shape) * random.choice([-1, 1], leaf.shape)).astype(np.float32),
        outputs(model, *inputs)[1],
    )
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    return variables


def count(model, shape):
    variables = jax.eval_shape(model.init, KEY, np.zeros((1, *shape), np.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@precisions
@shapes
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_give_logits_and_features(name, shape, precision):
    model = classifier(name, shape, precision=precision, dropout=0.5)
    (logits, features), _ = outputs(model, normal(3, *shape))
    assert logits.shape == (3, 5)
    assert features.shape[0] == 3 and features.ndim == 2


@pytest.mark.parametrize("name", ["cnn", "vit", "speednet"])
def test_classifiers_compute_in_bfloat16_what_they_do_in_float32(name):
    # Optimized, as XLA takes its products of bfloat16 from among the fused operations around them.
    images = normal(8, 32, 32, 3)
    exact, rough = (classifier(name, (32, 32, 3), precision=each, width=0.25) for each in ("f32", "bf16"))
    variables = init(exact, images)

    def loss(params, model):
        logits, _ = model.apply({**variables, "params": params}, images, train=False)
        return jnp.sin(logits).mean()

    expected, got = (jax.jit(jax.grad(lambda p, m=model: loss(p, m)))(variables["params"]) for model in (exact, rough))

    def error(a, b):
        return np.linalg.norm(a - b) / np.linalg.norm(b)

    errors = [error(*both) for both in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)]
    assert 0 < max(errors) < 0.3


@precisions
@pytest.mark.parametrize("shape", [*SHAPES, ODD, (40, 33, 1)], ids=str)
@pytest.mark.parametrize("architecture", ["conv", "dense", "residual", "unet"])
def test_autoencoders_give_images_back(architecture, shape, precision):
    config = Autoencoder(architecture=architecture, width=4, code=6, precision=precision)
    assert outputs(build_autoencoder(config, shape), normal(3, *shape))[0].shape == (3, *shape)


@pytest.mark.parametrize("architecture", ["conv", "dense", "residual"])
def test_vae_encodes_means_and_log_variances(architecture):
    model = build_autoencoder(Autoencoder(model="vae", architecture=architecture, width=2, code=6), ODD)
    x = normal(3, *ODD)
    variables = draw(model, x)
    mean, log_variance = jax.jit(lambda x: model.apply(variables, x, method="encode"))(x)
    assert mean.shape == log_variance.shape == (3, 6)
    decoded, through = jax.jit(lambda x: (model.apply(variables, mean, method="decode"), model.apply(variables, x)))(x)
    np.testing.assert_allclose(decoded, through, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("code", [1, 5])
def test_a_learned_prior_can_be_undone_and_knows_its_change_of_volume(code):
    model = Couplings(4, code, units=8)
    z = normal(3, code)
    made = model.init(KEY, z)
    # A network that starts at 0 would leave nothing to undo.
    variables = jax.tree.map(lambda leaf: normal(*leaf.shape) / 3, made)

    def forward(z):
        seen, change = model.apply(variables, z[None])
        return seen[0], change[0]

    seen, change = jax.jit(jax.vmap(forward))(z)
    jacobians = jax.jit(jax.vmap(jax.jacobian(lambda z: forward(z)[0])))(z)
    np.testing.assert_allclose(change, np.linalg.slogdet(jacobians)[1], rtol=1e-4, atol=1e-4)
    assert np.abs(seen - z).max() > 0.1
    back = model.apply(variables, seen, method="inverse")
    np.testing.assert_allclose(back, z, rtol=1e-3, atol=1e-3)


def test_autoencoder_passes_through_its_code():
    model = AutoencoderModule((8, 8, 1), "dense", code=4, width=1)
    x = normal(3, 8, 8, 1)
    variables = draw(model, x)

    def both(x):
        code = model.apply(variables, x, method="encode")
        return code, model.apply(variables, code, method="decode"), model.apply(variables, x)

    code, decoded, through = jax.jit(both)(x)
    assert code.shape == (3, 4)
    np.testing.assert_allclose(decoded, through, rtol=1e-4, atol=1e-4)


@precisions
@pytest.mark.parametrize("shape", [*SHAPES, ODD], ids=str)
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("architecture", ["dcgan", "residual"])
def test_players_meet(architecture, conditional, shape, precision):
    options = {"architecture": architecture, "conditional": conditional, "precision": precision}
    label = np.arange(3, dtype=np.int32) if conditional else None
    for spectral in (False, True):
        generator, discriminator = players(shape, spectral_norm=spectral, **options)
        if not spectral:
            assert outputs(generator, normal(3, 6), label)[0].shape == (3, *shape)
        logits, variables = outputs(discriminator, normal(3, *shape), label)
        assert logits.shape == (3,)
        assert ("batch_stats" in variables) == spectral


SMALL, Z, LABEL = (8, 8, 1), normal(4, 6), np.array([0, 1, 2, 4], np.int32)
MODELS = {
    "cnn": (classifier("cnn", SMALL), normal(4, *SMALL)),
    "resnet": (ResNet(5, (1, 1), width=0.1), normal(4, *SMALL)),
    "resnet-bottleneck": (ResNet(5, (1, 1), True, "large", width=0.1), normal(4, 16, 16, 1)),
    "vit": (classifier("vit", SMALL).clone(depth=1), normal(4, *SMALL)),
    "speednet": (classifier("speednet", SMALL), normal(4, *SMALL)),
    "speednet-deep": (classifier("speednet-deep", SMALL), normal(4, *SMALL)),
    "conv": (build_autoencoder(Autoencoder(width=2), ODD), normal(4, *ODD)),
    "dense": (build_autoencoder(Autoencoder(architecture="dense", width=1), SMALL), normal(4, *SMALL)),
    "unet": (build_autoencoder(Autoencoder(architecture="unet", width=2), ODD), normal(4, *ODD)),
}
for name in ("dcgan", "residual"):
    pair = players(SMALL, architecture=name, spectral_norm=name == "dcgan")
    MODELS |= {f"{name}-generator": (pair[0], Z, LABEL), f"{name}-discriminator": (pair[1], normal(4, *SMALL), LABEL)}


@pytest.mark.parametrize("name", MODELS)
def test_training_reaches_every_parameter_and_moves_statistics(name):
    model, *inputs = MODELS[name]
    variables = draw(model, *inputs)
    params = variables.pop("params")

    def loss(params, train):
        result, updates = model.apply({"params": params, **variables}, *inputs, train=train, mutable=["batch_stats"])
        # The classifiers' features are inside the logits.
        result = result[0] if isinstance(result, tuple) else result
        weights = jnp.sin(jnp.arange(result.size, dtype=jnp.float32)).reshape(result.shape)
        return jnp.sum(weights * result), updates

    gradients, trained = jax.jit(jax.grad(lambda p: loss(p, True), has_aux=True))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all() and np.any(leaf != 0), jax.tree_util.keystr(path)
    before = variables.get("batch_stats")
    if before is not None:
        evaluated = jax.jit(lambda p: loss(p, False)[1])(params)
        jax.tree.map(np.testing.assert_array_equal, evaluated["batch_stats"], before)
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(trained["batch_stats"]), strict=True):
            assert np.any(old != new) and np.isfinite(new).all()


@pytest.mark.parametrize(
    "model, shape, parameters",
    [
        (ResNet(10, *LAYOUTS["resnet18"], "small"), (32, 32, 3), 11_173_962),
        (ResNet(1000, *LAYOUTS["resnet34"], "large"), (224, 224, 3), 21_797_672),
        (ResNet(1000, *LAYOUTS["resnet50"], "large"), (224, 224, 3), 25_557_032),
    ],
)
def test_resnets_have_torchvisions_parameter_counts(model, shape, parameters):
    assert count(model, shape) == parameters


@pytest.mark.parametrize("side, stem, size", [(64, "auto", 3), (65, "auto", 7), (32, "large", 7), (128, "small", 3)])
def test_resnet_stem_follows_the_image_size(side, stem, size):
    shape = (side, side, 3)
    _, variables = outputs(classifier("resnet18", shape, stem=stem), normal(1, *shape))
    assert variables["params"]["conv"]["kernel"].shape[:2] == (size, size)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_width_multiplies_the_parameters(name):
    counts = [count(classifier(name, (32, 32, 3), width=width), (32, 32, 3)) for width in (0.5, 1.0, 2.0)]
    assert 1.5 * counts[0] < counts[1] < counts[2] / 1.5


def test_resnet_blocks_start_as_their_shortcuts():
    model = ResNet(5, (1,), width=0.1)
    x = normal(2, 8, 8, 1)
    variables = init(model, x)

    def features(params):
        return model.apply({**variables, "params": params}, x)[1]

    doubled = jax.tree_util.tree_map_with_path(
        lambda path, w: 2 * w if "block" in str(path) and "'conv1'" in str(path) else w, variables["params"]
    )
    before, after = jax.jit(lambda: (features(variables["params"]), features(doubled)))()
    np.testing.assert_array_equal(before, after)


def test_speednet_statistics_are_taken_over_the_mapped_axis():
    x = normal(4, 8, 8, 1)
    config = Classifier(model="speednet", classes=5, width=0.1)
    whole, mapped = (build_classifier(config, (8, 8, 1), axis_name=name) for name in (None, "data"))
    variables = draw(whole, x)

    def run(model, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    ((expected, _), statistics), ((got, _), parts) = jax.jit(
        lambda x: (
            run(whole, x),
            jax.vmap(lambda x: run(mapped, x), axis_name="data")(x.reshape(2, 2, 8, 8, 1)),
        )
    )(x)
    np.testing.assert_allclose(got.reshape(expected.shape), expected, atol=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-4), parts, statistics)


@precisions
@pytest.mark.parametrize("name", ["cnn", "cnn-deep", "vit"])
def test_what_a_batch_gives_does_not_depend_on_the_parts_it_is_made_in(name, precision, one_device, monkeypatch):
    model, x = classifier(name, (16, 16, 3), dropout=0.5, precision=precision), normal(2, 16, 16, 3)
    variables, kept = init(model, x), []
    apply, sizes = parts.in_parts, []
    monkeypatch.setattr(
        parts, "in_parts", lambda function, *rest: apply(lambda x: sizes.append(len(x)) or function(x), *rest)
    )

    def loss(params):
        logits, features = model.apply({"params": params}, x, train=True, rngs={"dropout": KEY})
        return jnp.sum(jnp.sin(logits)) + jnp.sum(features**2)

    for bytes_at_once, expected in ((2**40, [2]), (1, [1, 1])):
        monkeypatch.setattr(parts, "PART_BYTES", bytes_at_once)
        sizes.clear()
        kept.append(jax.device_get(jax.jit(jax.value_and_grad(lambda params: loss(params)))(variables["params"])))
        assert sizes == expected
    tolerance = 1e-5 if precision == "f32" else 2e-2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max()), *kept)


def test_vit_refuses_a_patch_that_does_not_divide_the_image():
    with pytest.raises(UserError, match="28x28 images into 5x5 patches"):
        outputs(classifier("vit", (28, 28, 1), patch=5), normal(1, 28, 28, 1))


def test_vit_is_blind_to_the_order_of_patches_but_for_their_positions():
    model = classifier("vit", (8, 8, 1))
    x = normal(2, 8, 8, 1)
    moved = np.concatenate([x[:, 4:], x[:, :4]], 1)
    variables = draw(model, x)
    without = {
        "params": {**variables["params"], "positions": jnp.zeros((1, 4, variables["params"]["positions"].shape[2]))}
    }

    def distance(variables):
        return jnp.abs(model.apply(variables, x)[0] - model.apply(variables, moved)[0]).max()

    blind, seeing = jax.jit(lambda: (distance(without), distance(variables)))()
    assert blind < 1e-4 < seeing


@pytest.mark.parametrize("channels", [1, 3])
def test_speednet_whitens_the_images_it_is_initialised_with(channels):
    rough = normal(200, 9, 9, channels)
    # Sums over neighbors and channels make pixels depend on each other, as in photographs.
    x = rough[:, 1:, 1:] + rough[:, :-1, 1:] + rough[:, 1:, :-1] + 0.5 * rough.sum(-1, keepdims=True)[:, 1:, 1:] + 1
    filters = jax.jit(lambda x: SpeedNet(5).init(KEY, x)["constants"]["whitening"])(x)
    assert filters.shape == (4 * channels, 4 * channels)
    neighbors = np.concatenate([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]], -1)
    flat = neighbors.reshape(-1, 4 * channels)
    np.testing.assert_allclose(np.cov((flat @ filters).T), np.eye(4 * channels), atol=0.02)
    assert np.abs(np.cov(flat.T) - np.eye(4 * channels)).max() > 1


@shapes
def test_speednet_pooled_stem_changes_neither_parameters_nor_outputs_shape(shape):
    x = normal(2, *shape)
    early, late = (outputs(classifier("speednet", shape, stem=stem), x) for stem in ("large", "small"))
    assert jax.tree.map(jnp.shape, early) == jax.tree.map(jnp.shape, late)


def test_speednet_deep_adds_its_third_convolution_to_the_first():
    """Without the third convolutions nothing depends on the second ones."""
    x = normal(2, 16, 16, 3)
    model = classifier("speednet-deep", (16, 16, 3), width=0.02)
    variables = draw(model, x)

    def logits(names, factor):
        params = dict(variables["params"])
        for name in names:
            params[name] = {"kernel": params[name]["kernel"] * factor}
        return model.apply({**variables, "params": params}, x)[0]

    second, third = [f"conv{block}2" for block in (1, 2, 3)], [f"conv{block}3" for block in (1, 2, 3)]
    np.testing.assert_array_equal(logits(third, 0.0), logits([*second, *third], 0.0))
    assert np.abs(logits([], 1.0) - logits(second, 0.0)).max() > 1e-3


def test_speednets_logits_are_divided():
    x = normal(2, *SMALL)
    model = classifier("speednet", SMALL)
    variables = draw(model, x)
    small = classifier("speednet", SMALL, logit_divisor=18.0)
    np.testing.assert_allclose(2 * small.apply(variables, x)[0], model.apply(variables, x)[0], rtol=1e-5)


def test_speednet_survives_constant_images():
    assert np.isfinite(jax.jit(whitening)(np.ones((4, 8, 8, 1), np.float32))).all()


@pytest.mark.parametrize("inputs, features", [(3, 5), (5, 3), (4, 4)])
def test_dirac_kernels_copy_their_inputs(inputs, features):
    x = normal(2, 6, 6, inputs)
    kernel = dirac(KEY, (3, 3, inputs, features))
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    copies = min(inputs, features)
    np.testing.assert_allclose(y[..., :copies], x[..., :copies], atol=1e-6)
    assert np.all(np.asarray(kernel[..., copies:]) != 0)


def test_players_see_their_class():
    generator, discriminator = players((8, 8, 1))
    z, images = normal(1, 6).repeat(2, 0), normal(1, 8, 8, 1).repeat(2, 0)
    label = np.array([1, 3], np.int32)
    for model, inputs in ((generator, z), (discriminator, images)):
        variables = draw(model, inputs, label)
        first, second = jax.jit(model.apply)(variables, inputs, label)
        assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("architecture", ["dcgan", "residual"])
def test_generated_images_lie_between_minus_one_and_one(architecture):
    generator, _ = players((8, 8, 1), architecture=architecture, conditional=False)
    z = 100 * normal(8, 6)
    images = jax.jit(generator.apply)(draw(generator, z), z)
    assert np.abs(images).max() <= 1 and images.std() > 0.01


def test_a_residual_block_starts_as_its_shortcut():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 3)), jnp.float32)
    block = Block()
    variables = jax.jit(block.init)(jax.random.key(0), x)
    np.testing.assert_array_equal(block.apply(variables, x), x)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(variables))
