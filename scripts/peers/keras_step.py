"""Keras 3: the workloads as a Keras example would write them. Run by scripts/benchmark.py, which sets KERAS_BACKEND."""

from collections.abc import Callable, Iterator
from typing import Any

import contest
import keras
import numpy as np
from keras import layers

lecun = {"kernel_initializer": "lecun_normal"}


def gelu(x: Any) -> Any:
    """The tanh form, as the others use."""
    return keras.activations.gelu(x, approximate=True)


def transposed(inputs: int, features: int, **options: Any) -> layers.Layer:
    """Doubles the side; started like the others', for which Keras counts the outputs instead of the inputs."""
    start = keras.initializers.RandomNormal(stddev=(16 * inputs) ** -0.5)
    return layers.Conv2DTranspose(features, 4, 2, padding="same", kernel_initializer=start, **options)


class Learned(layers.Layer):
    """Adds a learned array of the inputs' shape, or of their last axis: positions, a bias."""

    def __init__(self, axes: int, initializer: Any) -> None:
        super().__init__()
        self.axes, self.initializer = axes, initializer

    def build(self, shape: Any) -> None:
        """Makes the array."""
        self.array = self.add_weight(shape=shape[-self.axes :], initializer=self.initializer)

    def call(self, x: Any) -> Any:
        """The sum."""
        return x + keras.ops.cast(self.array, x.dtype)


def cnn(shape: tuple[int, ...]) -> keras.Model:
    """Two convolutions with pooling, one hidden dense layer."""
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(32, 3, padding="same", activation="relu", **lecun),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu", **lecun),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu", **lecun),
            layers.Dense(10, dtype="float32", **lecun),
        ]
    )


def resnet18(shape: tuple[int, ...]) -> keras.Model:
    """ResNet-18 with a stem for small images."""

    def conv(x: Any, features: int, size: int, strides: int = 1, gamma: str = "ones") -> Any:
        x = layers.Conv2D(features, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=gamma)(x)

    first = keras.Input(shape)
    x = layers.ReLU()(conv(first, 64, 3))
    for stage, features in enumerate((64, 128, 256, 512)):
        for block in range(2):
            strides = 2 if stage and not block else 1
            y = layers.ReLU()(conv(x, features, 3, strides))
            y = conv(y, features, 3, gamma="zeros")
            if x.shape != y.shape:
                x = conv(x, features, 1, strides)
            x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(first, layers.Dense(10, dtype="float32", **lecun)(layers.GlobalAveragePooling2D()(x)))


def autoencoder(shape: tuple[int, ...]) -> keras.Model:
    """Strided convolutions to a code of 32, transposed ones back."""
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(32, 4, 2, padding="same", activation=gelu, **lecun),
            layers.Conv2D(64, 4, 2, padding="same", activation=gelu, **lecun),
            layers.Flatten(),
            layers.Dense(32, **lecun),
            layers.Dense(7 * 7 * 64, activation=gelu, **lecun),
            layers.Reshape((7, 7, 64)),
            transposed(64, 32, activation=gelu),
            transposed(32, 1, dtype="float32"),
        ]
    )


def vit(shape: tuple[int, ...]) -> keras.Model:
    """A small vision transformer: patches of 4x4, width 128, 4 blocks, 4 heads."""
    first = keras.Input(shape)
    x = layers.Reshape((64, 128))(layers.Conv2D(128, 4, 4, **lecun)(first))
    x = Learned(2, keras.initializers.RandomNormal(stddev=0.02))(x)
    for _ in range(4):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 32, **lecun)(y, y)])
        y = layers.Dense(256, activation=gelu, **lecun)(layers.LayerNormalization(epsilon=1e-6)(x))
        x = layers.Add()([x, layers.Dense(128, **lecun)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(first, layers.Dense(10, dtype="float32", **lecun)(x))


def speednet(shape: tuple[int, ...], kernel: np.ndarray) -> keras.Model:
    """airbench94's network, narrowed, its stem pooled; ``kernel`` [2, 2, 3, 24] is the fixed whitening."""

    def dirac(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        return contest.dirac(tuple(shape))

    whiten = layers.Conv2D(kernel.shape[-1], 2, use_bias=False, trainable=False)
    parts: list[Any] = [keras.Input(shape), whiten, Learned(1, "zeros"), layers.Activation(gelu)]
    parts.append(layers.MaxPooling2D())
    for i, features in enumerate(contest.SPEEDNET["speednet"][0]):
        for j in range(2):
            parts.append(layers.Conv2D(features, 3, padding="same", use_bias=False, kernel_initializer=dirac))
            if i and not j:
                parts.append(layers.MaxPooling2D())
            parts += [layers.BatchNormalization(momentum=0.6, epsilon=1e-5, scale=False), layers.Activation(gelu)]
    normal = keras.initializers.RandomNormal(stddev=1.0)
    parts += [layers.MaxPooling2D(3), layers.Flatten()]
    parts += [layers.Dense(10, use_bias=False, kernel_initializer=normal, dtype="float32"), layers.Rescaling(1 / 9)]
    model = keras.Sequential(parts)
    whiten.set_weights([kernel])
    return model


def rnn(shape: tuple[int, ...]) -> keras.Model:
    """Clips of ``shape`` (T, H, W, C): convolutions over each frame, gated recurrent units over time."""
    first = keras.Input(shape)
    x = keras.ops.reshape(first, (-1, *shape[1:]))
    for features in contest.RNN_WIDTHS:
        x = layers.Conv2D(features, 3, padding="same", activation="relu", **lecun)(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(contest.UNITS, **lecun)(layers.Flatten()(x))
    x = layers.ReLU()(layers.LayerNormalization(epsilon=1e-6)(x))
    x = keras.ops.reshape(x, (-1, shape[0], contest.UNITS))
    x = layers.GRU(contest.UNITS, return_sequences=True, **lecun)(x)
    return keras.Model(first, layers.Dense(10, dtype="float32", **lecun)(layers.GlobalAveragePooling1D()(x)))


LACKS = {
    "detector": "losses of a detector",
    "glimpse": "example of recurrent attention",
    "translator": "example of translation with a U-Net",
}
"""What this has no form of."""

MODELS = {"cnn": cnn, "resnet18": resnet18, "autoencoder": autoencoder, "vit": vit, "rnn": rnn}


def model_of(name: str, images: np.ndarray) -> keras.Model:
    """The model of a workload; ``images``, float32 as it will see them, give sizes and whitening."""
    if name == "speednet":
        return speednet(images.shape[1:], contest.whitening(images))
    return MODELS[name](images.shape[1:])


def adam(rate: Any = contest.LEARNING_RATE) -> keras.optimizers.Adam:
    """Adam with the others' epsilon."""
    return keras.optimizers.Adam(rate, contest.BETA1, contest.BETA2, epsilon=1e-8)


def generator() -> keras.Model:
    """DCGAN's: latents to images."""
    width = contest.GAN_WIDTH
    return keras.Sequential(
        [
            keras.Input((contest.LATENTS,)),
            layers.Dense(8 * 8 * 4 * width, use_bias=False, **lecun),
            layers.Reshape((8, 8, 4 * width)),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            layers.ReLU(),
            transposed(4 * width, 2 * width, use_bias=False),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            layers.ReLU(),
            transposed(2 * width, 3, activation="tanh", dtype="float32"),
        ]
    )


def discriminator(shape: tuple[int, ...]) -> keras.Model:
    """DCGAN's, without normalization: images to logits [B, 1]."""
    parts: list[Any] = [keras.Input(shape)]
    for features in (2 * contest.GAN_WIDTH, 4 * contest.GAN_WIDTH):
        parts += [layers.Conv2D(features, 4, 2, padding="same", **lecun), layers.LeakyReLU(0.2)]
    return keras.Sequential([*parts, layers.Flatten(), layers.Dense(1, dtype="float32", **lecun)])


def tensorflow_gan(g: keras.Model, d: keras.Model, images: np.ndarray, jit: bool) -> Callable[[], Any]:
    """The step of the DCGAN: the discriminator's turn, then the generator's on fresh latents."""
    import tensorflow as tf

    x = tf.constant(images)
    shape = (len(images), contest.LATENTS)
    g_optimizer, d_optimizer = adam(), adam()
    g_optimizer.build(g.trainable_variables)
    d_optimizer.build(d.trainable_variables)

    @tf.function(jit_compile=jit)
    def step() -> Any:
        fake = g(tf.random.normal(shape), training=True)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.math.softplus(-d(x)) + tf.math.softplus(d(fake)))
        d_optimizer.apply(tape.gradient(loss, d.trainable_variables), d.trainable_variables)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in g.trainable_variables])
            g_loss = tf.reduce_mean(tf.math.softplus(-d(g(tf.random.normal(shape), training=True))))
        g_optimizer.apply(tape.gradient(g_loss, g.trainable_variables), g.trainable_variables)
        return loss

    return step


def jax_gan(g: keras.Model, d: keras.Model, images: np.ndarray) -> Callable[[], Any]:
    """The same on JAX, where Keras asks for functions of the variables."""
    import jax

    x, softplus = jax.numpy.asarray(images), jax.nn.softplus
    shape = (len(images), contest.LATENTS)
    g_optimizer, d_optimizer = adam(), adam()
    g_optimizer.build(g.trainable_variables)
    d_optimizer.build(d.trainable_variables)

    def score(variables: Any, images: Any) -> Any:
        return d.stateless_call(variables, [], images)[0]

    @jax.jit
    def step(state: Any) -> Any:
        key, g_trained, g_other, g_moments, d_trained, d_moments = state
        key, first, second = jax.random.split(key, 3)
        fake, _ = g.stateless_call(g_trained, g_other, jax.random.normal(first, shape), training=True)

        def d_loss(trained: Any) -> Any:
            return (softplus(-score(trained, x)) + softplus(score(trained, fake))).mean()

        loss, grads = jax.value_and_grad(d_loss)(d_trained)
        d_trained, d_moments = d_optimizer.stateless_apply(d_moments, grads, d_trained)

        def g_loss(trained: Any) -> Any:
            fake, other = g.stateless_call(trained, g_other, jax.random.normal(second, shape), training=True)
            return softplus(-score(d_trained, fake)).mean(), other

        (_, g_other), grads = jax.value_and_grad(g_loss, has_aux=True)(g_trained)
        g_trained, g_moments = g_optimizer.stateless_apply(g_moments, grads, g_trained)
        return (key, g_trained, g_other, g_moments, d_trained, d_moments), loss

    def values(variables: Any) -> Any:
        return [variable.value for variable in variables]

    state = (
        *(jax.random.key(0), values(g.trainable_variables), values(g.non_trainable_variables)),
        *(values(g_optimizer.variables), values(d.trainable_variables), values(d_optimizer.variables)),
    )

    def one() -> Any:
        nonlocal state
        state, loss = step(state)
        return loss

    return one


def build(workload: contest.Workload, options: Any) -> contest.Contestant:
    """Makes the step of the workload."""
    if workload.model in LACKS:
        raise SystemExit(f"Keras has no {LACKS[workload.model]}")
    keras.utils.set_random_seed(0)
    if options.bf16:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    on_jax = keras.backend.backend() == "jax"
    images, label = contest.examples(workload)
    x = contest.inputs(workload, images)
    if on_jax:
        import jax as backend
    else:
        import tensorflow as backend
    version = f"keras {keras.__version__} on {backend.__name__} {backend.__version__}"
    if workload.model == "dcgan":
        models = [generator(), discriminator(x.shape[1:])]
        step = jax_gan(*models, x) if on_jax else tensorflow_gan(*models, x, options.jit)

        def advance(steps: int) -> float:
            for _ in range(steps):
                loss = step()
            return float(loss)

    else:
        models = [model_of(workload.model, x)]
        (model,) = models
        reconstructs = workload.model == "autoencoder"
        loss = "mse" if reconstructs else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(adam(), loss, jit_compile=on_jax or options.jit)
        pair = (x, x if reconstructs else label)

        def forever() -> Iterator[Any]:
            while True:
                yield pair

        data = forever() if on_jax else backend.data.Dataset.from_tensors(pair).repeat()

        def advance(steps: int) -> float:
            return model.fit(data, steps_per_epoch=steps, verbose=0).history["loss"][-1]

    count = sum(int(np.prod(variable.shape)) for model in models for variable in model.trainable_variables)
    if workload.model == "rnn":
        # The second bias of a GRU's first two gates only adds to the first one.
        count -= 2 * contest.UNITS
    return contest.Contestant(advance, count, version)


if __name__ == "__main__":
    options = contest.parser().parse_args()
    contest.serve(build, options, contest.workload_of(options))
