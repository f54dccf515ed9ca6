"""Plain Flax: the workloads as a Flax example would write them. Run by scripts/benchmark.py."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import contest
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import xla

lecun = nn.initializers.lecun_normal()


class CNN(nn.Module):
    """Two convolutions with pooling, one hidden dense layer."""

    dtype: Any

    @nn.compact
    def __call__(self, x, train=True):
        """[B, H, W, C] to logits [B, 10]."""
        for features in (32, 64):
            x = nn.relu(nn.Conv(features, (3, 3), dtype=self.dtype)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(64, dtype=self.dtype)(x))
        return nn.Dense(10, dtype=self.dtype)(x)


class ResNet18(nn.Module):
    """ResNet-18 with a stem for small images."""

    dtype: Any

    @nn.compact
    def __call__(self, x, train=True):
        """[B, H, W, C] to logits [B, 10]."""
        kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=kernel_init)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)
        x = nn.relu(norm()(conv(64, (3, 3))(x)))
        for stage, features in enumerate((64, 128, 256, 512)):
            for block in range(2):
                strides = (2, 2) if stage and not block else (1, 1)
                y = nn.relu(norm()(conv(features, (3, 3), strides, padding=1)(x)))
                y = norm(scale_init=nn.initializers.zeros)(conv(features, (3, 3))(y))
                if x.shape != y.shape:
                    x = norm()(conv(features, (1, 1), strides)(x))
                x = nn.relu(x + y)
        return nn.Dense(10, dtype=self.dtype)(x.mean((1, 2)))


class ResNet50(nn.Module):
    """ResNet-50 with the usual stem for large images."""

    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x, train=True):
        """[B, H, W, C] to logits [B, classes]."""
        kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=kernel_init)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)
        x = nn.relu(norm()(conv(64, (7, 7), (2, 2), padding=3)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate((3, 4, 6, 3)):
            features = 64 * 2**stage
            for block in range(blocks):
                strides = (2, 2) if stage and not block else (1, 1)
                y = nn.relu(norm()(conv(features, (1, 1))(x)))
                y = nn.relu(norm()(conv(features, (3, 3), strides, padding=1)(y)))
                y = norm(scale_init=nn.initializers.zeros)(conv(4 * features, (1, 1))(y))
                if x.shape != y.shape:
                    x = norm()(conv(4 * features, (1, 1), strides)(x))
                x = nn.relu(x + y)
        return nn.Dense(self.classes, dtype=self.dtype)(x.mean((1, 2)))


class UNet(nn.Module):
    """Two convolutions at each scale on the way down and up, and skips between equal scales."""

    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x, train=True):
        """[B, H, W, C] to logits [B, H, W, classes]."""
        kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)

        def pair(x, features):
            for _ in range(2):
                conv = nn.Conv(features, (3, 3), use_bias=False, kernel_init=kernel_init, dtype=self.dtype)
                x = nn.relu(norm()(conv(x)))
            return x

        widths = [contest.UNET_WIDTH * 2**level for level in range(contest.UNET_DEPTH + 1)]
        skips = []
        for features in widths[:-1]:
            x = pair(x, features)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = pair(x, widths[-1])
        for features in widths[-2::-1]:
            x = nn.ConvTranspose(features, (2, 2), (2, 2), kernel_init=kernel_init, dtype=self.dtype)(x)
            x = pair(jnp.concatenate([x, skips.pop()], -1), features)
        return nn.Conv(self.classes, (1, 1), dtype=self.dtype)(x)


class Autoencoder(nn.Module):
    """Strided convolutions to a code of 32, transposed ones back."""

    dtype: Any

    @nn.compact
    def __call__(self, x, train=True):
        """Images [B, 28, 28, 1] to images."""
        conv = partial(nn.Conv, kernel_size=(4, 4), strides=(2, 2), dtype=self.dtype)
        transposed = partial(nn.ConvTranspose, kernel_size=(4, 4), strides=(2, 2), dtype=self.dtype)
        x = nn.gelu(conv(32)(x))
        x = nn.gelu(conv(64)(x))
        shape = x.shape
        x = nn.Dense(32, dtype=self.dtype)(x.reshape(shape[0], -1))
        x = nn.gelu(nn.Dense(shape[1] * shape[2] * shape[3], dtype=self.dtype)(x)).reshape(shape)
        x = nn.gelu(transposed(32)(x))
        return transposed(1)(x)


class Generator(nn.Module):
    """DCGAN's generator."""

    dtype: Any

    @nn.compact
    def __call__(self, z, train=True):
        """Latents [B, 64] to images [B, 32, 32, 3]."""
        width = contest.GAN_WIDTH
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)
        transposed = partial(nn.ConvTranspose, kernel_size=(4, 4), strides=(2, 2), dtype=self.dtype)
        x = nn.Dense(8 * 8 * 4 * width, use_bias=False, dtype=self.dtype)(z).reshape(-1, 8, 8, 4 * width)
        x = nn.relu(norm()(x))
        x = nn.relu(norm()(transposed(2 * width, use_bias=False)(x)))
        return nn.tanh(transposed(3)(x))


class Discriminator(nn.Module):
    """DCGAN's discriminator, without normalization."""

    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Images [B, 32, 32, 3] to logits [B]."""
        for features in (2 * contest.GAN_WIDTH, 4 * contest.GAN_WIDTH):
            x = nn.leaky_relu(nn.Conv(features, (4, 4), (2, 2), dtype=self.dtype)(x), 0.2)
        return nn.Dense(1, dtype=self.dtype)(x.reshape(x.shape[0], -1))[:, 0]


class ViT(nn.Module):
    """A small vision transformer: patches of 4x4, width 128, 4 blocks, 4 heads."""

    dtype: Any

    @nn.compact
    def __call__(self, x, train=True):
        """[B, H, W, C] to logits [B, 10]."""
        x = nn.Conv(128, (4, 4), strides=(4, 4), padding="VALID", dtype=self.dtype)(x)
        x = x.reshape(x.shape[0], -1, 128)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:])).astype(x.dtype)
        for _ in range(4):
            y = nn.LayerNorm(dtype=self.dtype)(x)
            x = x + nn.MultiHeadDotProductAttention(4, dtype=self.dtype, kernel_init=lecun)(y)
            y = nn.gelu(nn.Dense(256, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x)))
            x = x + nn.Dense(128, dtype=self.dtype)(y)
        return nn.Dense(10, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x).mean(1))


class SpeedNet(nn.Module):
    """airbench94's network, its stem pooled if asked for; ``kernel`` is the fixed whitening."""

    kernel: Any
    widths: tuple[int, int, int]
    pooled: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, train=True):
        """[B, H, W, C] to logits [B, 10]."""
        dirac = lambda key, shape, dtype: jnp.asarray(contest.dirac(shape), dtype)  # noqa: E731
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.6, use_scale=False, dtype=self.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        kernel = jnp.asarray(self.kernel, self.dtype)
        x = jax.lax.conv_general_dilated(x.astype(self.dtype), kernel, (1, 1), "VALID", dimension_numbers=numbers)
        x = nn.gelu(x + self.param("bias", nn.initializers.zeros, x.shape[-1:]).astype(x.dtype))
        if self.pooled:
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        for i, features in enumerate(self.widths):
            for j in range(2):
                x = nn.Conv(features, (3, 3), use_bias=False, kernel_init=dirac, dtype=self.dtype)(x)
                if not j and (i or not self.pooled):
                    x = nn.max_pool(x, (2, 2), strides=(2, 2))
                x = nn.gelu(norm()(x))
        x = nn.max_pool(x, (3, 3), strides=(3, 3)).reshape(x.shape[0], -1)
        return nn.Dense(10, use_bias=False, kernel_init=nn.initializers.normal(1.0), dtype=self.dtype)(x) / 9


class RNN(nn.Module):
    """Convolutions over each frame, gated recurrent units over time."""

    dtype: Any

    @nn.compact
    def __call__(self, x, train=True):
        """[B, T, H, W, C] to logits [B, 10]."""
        batch, time = x.shape[:2]
        x = x.reshape(batch * time, *x.shape[2:])
        for features in contest.RNN_WIDTHS:
            x = nn.relu(nn.Conv(features, (3, 3), dtype=self.dtype)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.Dense(contest.UNITS, dtype=self.dtype)(x.reshape(batch, time, -1))
        x = nn.relu(nn.LayerNorm(dtype=self.dtype)(x))
        x = nn.RNN(nn.GRUCell(contest.UNITS, dtype=self.dtype))(x)
        return nn.Dense(10, dtype=self.dtype)(x.mean(1))


class Detector(nn.Module):
    """A backbone, a pyramid of three scales, and a head with a branch for the classes and one for the boxes."""

    dtype: Any

    @nn.compact
    def __call__(self, x, train=True):
        """[B, H, W, C] to logits [B, A, classes] and logits [B, A, 4, bins] of the distances to the sides."""
        he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=he_normal)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)

        def layer(x, features, size=3, strides=1):
            return nn.relu(norm()(conv(features, (size, size), (strides, strides))(x)))

        coarsest, scales = contest.STRIDES[-1], []
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % coarsest), (0, -x.shape[2] % coarsest), (0, 0)), mode="edge")
        for level, features in enumerate(contest.LEVELS):
            x = layer(x, features, strides=2)
            if level >= len(contest.LEVELS) - len(contest.STRIDES):
                x = x + layer(layer(x, features // 2, 1), features)
                scales.append(x)
        features = 3 * contest.DETECTOR_WIDTH // 2
        fine, middle, coarse = (layer(x, features, 1) for x in scales)
        middle = layer(middle + doubled(coarse), features)
        fine = layer(fine + doubled(middle), features)
        middle = layer(fine, features, strides=2) + middle
        coarse = layer(middle, features, strides=2) + coarse

        def branch():
            shared = conv(features, (3, 3))
            found = [nn.relu(norm()(shared(x))) for x in (fine, middle, coarse)]
            return jnp.concatenate([x.reshape(x.shape[0], -1, features) for x in found], 1)

        small = partial(nn.Dense, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype)
        prior = nn.initializers.constant(-math.log((1 - contest.PRIOR) / contest.PRIOR))
        scores = small(contest.WORKLOADS["detector"].classes, bias_init=prior)(branch())
        sides = small(4 * contest.BINS)(branch())
        return scores, sides.reshape(*sides.shape[:2], 4, contest.BINS)


def doubled(x):
    """Each pixel of [B, H, W, C] twice along both sides."""
    return x.repeat(2, 1).repeat(2, 2)


LACKS = {"glimpse": "example of recurrent attention", "translator": "example of translation with a U-Net"}
"""What this has no form of."""

SIZED = {"resnet50": ResNet50, "unet": UNet}
"""Models that are told the number of classes."""
MODELS = {"cnn": CNN, "resnet18": ResNet18, "autoencoder": Autoencoder, "vit": ViT, "rnn": RNN, "detector": Detector}


class Player(flax.struct.PyTreeNode):
    """Parameters, batch statistics and optimizer state."""

    params: Any
    stats: Any
    opt_state: Any


adam = optax.adam(contest.LEARNING_RATE, contest.BETA1, contest.BETA2)


def player(model: nn.Module, *inputs: Any, seed: int = 0) -> Player:
    """A model at the start of its training."""
    variables = jax.jit(model.init)(jax.random.key(seed), *inputs)
    stats = variables.get("batch_stats", {})
    return Player(variables["params"], stats, jax.jit(adam.init)(variables["params"]))


def model_of(workload: contest.Workload, inputs: Any, dtype: Any) -> nn.Module:
    """The model of a workload other than the DCGAN; ``inputs``, float32 as it will see them, give the whitening."""
    if workload.model in contest.SPEEDNET:
        return SpeedNet(contest.whitening(inputs), *contest.SPEEDNET[workload.model], dtype)
    if workload.model in SIZED:
        return SIZED[workload.model](workload.classes, dtype)
    return MODELS[workload.model](dtype)


def updated(player: Player, grads: Any, stats: Any) -> Player:
    """The player after one step of Adam."""
    updates, opt_state = adam.update(grads, player.opt_state)
    return Player(optax.apply_updates(player.params, updates), stats, opt_state)


def build(workload: contest.Workload, options: Any) -> contest.Contestant:
    """Compiles the step of the workload."""
    if workload.model in LACKS:
        raise SystemExit(f"plain Flax has no {LACKS[workload.model]}")
    dtype = jnp.bfloat16 if options.bf16 else jnp.float32
    images, label = contest.examples(workload)
    x, y = jnp.asarray(contest.inputs(workload, images)), jnp.asarray(label)
    if workload.model == "dcgan":
        state, step = gan(dtype, x)
    else:
        model = model_of(workload, contest.inputs(workload, images), dtype)
        state = player(model, x)
        step = partial(one_player, model, loss_of(workload))
    lowered = jax.jit(step, donate_argnums=0).lower(state, x, y)
    with contest.turn(options):
        compiled = lowered.compile()

    def advance(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, loss = compiled(state, x, y)
        return float(loss)

    players = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, Player))
    count = sum(leaf.size for each in players if isinstance(each, Player) for leaf in jax.tree.leaves(each.params))
    facts = xla.facts(compiled, options, "flax")
    return contest.Contestant(advance, count, f"flax {flax.__version__}", xla.operations(lowered, compiled), **facts)


def loss_of(workload: contest.Workload) -> Callable[..., jax.Array]:
    """The loss of outputs, inputs and classes."""
    if workload.model == "autoencoder":
        return lambda outputs, x, y: optax.losses.squared_error(outputs, x).mean()
    if workload.objects:
        return detection(workload)
    return lambda outputs, x, y: optax.losses.softmax_cross_entropy_with_integer_labels(outputs, y).mean()


def detection(workload: contest.Workload) -> Callable[..., jax.Array]:
    """The detector's loss, which is jaxrec's own: plain jax.numpy, as it would be written here."""
    # Imported for this workload alone, because the time of the imports is measured.
    from jaxrec import losses
    from jaxrec.models.detector import Places
    from jaxrec.tasks.detector import BOX, CLASSES, SIDES

    places, boxes = Places(*map(jnp.asarray, contest.places(workload))), jnp.asarray(contest.boxes(workload))

    def loss(outputs, x, y):
        return losses.detection(*outputs, places, boxes, y).total(CLASSES, BOX, SIDES).mean()

    return loss


def one_player(
    model: nn.Module, loss_of_outputs: Callable[..., jax.Array], state: Player, x: jax.Array, y: jax.Array
) -> Any:
    """One update of a model other than the DCGAN."""

    def loss(params):
        variables = {"params": params, "batch_stats": state.stats}
        outputs, new = model.apply(variables, x, train=True, mutable=["batch_stats"])
        outputs = jax.tree.map(lambda output: output.astype(jnp.float32), outputs)
        return loss_of_outputs(outputs, x, y), new.get("batch_stats", {})

    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    return updated(state, grads, stats), value


def gan(dtype: Any, images: jax.Array) -> Any:
    """The first state and the step of the DCGAN: the discriminator's turn, then the generator's on fresh latents."""
    generator, discriminator = Generator(dtype), Discriminator(dtype)
    latents = jnp.zeros((1, contest.LATENTS))
    players = player(generator, latents), player(discriminator, images[:1], seed=1)

    def generate(params, stats, key):
        z = jax.random.normal(key, (images.shape[0], contest.LATENTS))
        variables = {"params": params, "batch_stats": stats}
        fake, new = generator.apply(variables, z, train=True, mutable=["batch_stats"])
        return fake, new["batch_stats"]

    def score(params, x):
        return discriminator.apply({"params": params}, x).astype(jnp.float32)

    def step(state, x, y):
        g, d, key = state
        key, first, second = jax.random.split(key, 3)
        fake, _ = generate(g.params, g.stats, first)

        def discriminator_loss(params):
            return jnp.mean(jax.nn.softplus(-score(params, x)) + jax.nn.softplus(score(params, fake)))

        value, grads = jax.value_and_grad(discriminator_loss)(d.params)
        d = updated(d, grads, {})

        def generator_loss(params):
            fake, stats = generate(params, g.stats, second)
            return jax.nn.softplus(-score(d.params, fake)).mean(), stats

        (_, stats), grads = jax.value_and_grad(generator_loss, has_aux=True)(g.params)
        return (updated(g, grads, stats), d, key), value

    return (*players, jax.random.key(2)), step


if __name__ == "__main__":
    options = contest.parser().parse_args()
    contest.serve(build, options, contest.workload_of(options))
