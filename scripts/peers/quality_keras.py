"""A straightforward Keras run to a goal: GOAL DATA SEED. Prints each evaluation. Run by scripts/benchmark.py."""

import sys
from typing import Any

import contest
import keras
import numpy as np
import tensorflow as tf
from keras_step import adam, model_of


class Tell(keras.callbacks.Callback):
    """Prints the evaluation that Keras makes at the end of what it calls an epoch."""

    def __init__(self, goal: contest.Goal) -> None:
        super().__init__()
        self.goal = goal

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """One JSON line."""
        contest.say(step=(epoch + 1) * self.goal.every, **{self.goal.metric: float(logs[f"val_{self.goal.metric}"])})


def clipped(target: Any, outputs: Any) -> Any:
    """Squared error of pixels clipped to [0, 1]."""
    return keras.ops.mean(keras.ops.square(keras.ops.clip(outputs, 0, 1) - target), axis=(1, 2, 3))


def main(name: str, path: str, seed: str) -> None:
    """Trains on the arrays in ``path`` and evaluates as often as the goal says."""
    keras.utils.set_random_seed(int(seed))
    goal, data = contest.GOALS[name], np.load(path)
    reconstructs = goal.metric == "mse"
    images = data["train_image"]
    mean, std = map(np.float32, ((0.0, 1.0) if reconstructs else contest.moments(images[:5000])))

    def pair(x: Any, y: Any) -> Any:
        """What the model sees and what it is to answer."""
        x = (tf.cast(x, tf.float32) / 255 - mean) / std
        return x, x if reconstructs else y

    train = tf.data.Dataset.from_tensor_slices((images, data["train_label"])).shuffle(len(images)).repeat()
    train = train.batch(goal.batch).map(pair).prefetch(tf.data.AUTOTUNE)
    validation = tf.data.Dataset.from_tensor_slices((data["validation_image"], data["validation_label"]))
    validation = validation.batch(500).map(pair)
    model = model_of(goal.model, pair(images[:5000], None)[0].numpy())
    metric = keras.metrics.MeanMetricWrapper(clipped, name="mse") if reconstructs else "accuracy"
    loss = "mse" if reconstructs else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.PolynomialDecay(goal.lr, goal.steps, 0.0)
    model.compile(adam(rate), loss, metrics=[metric], jit_compile=False)
    model.fit(
        train,
        steps_per_epoch=goal.every,
        epochs=goal.steps // goal.every,
        validation_data=validation,
        callbacks=[Tell(goal)],
        verbose=0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
