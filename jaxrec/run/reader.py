"""The reader of images made of label maps: a segmenter of our own that reads the labels back.

It is trained on the real photos of the training split with their label maps, and kept on the disk. What it reads in
made photos stands beside what it reads in the real ones, and in their mean.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import metrics
from jaxrec.data import Feature, Split, at_once
from jaxrec.run.answers import truth_of
from jaxrec.run.data import Data
from jaxrec.run.judge import MOST, kept_network, whole
from jaxrec.settings import Augment, Optimizer, Task, preset
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System, system_of, with_known
from jaxrec.waiting import tell

VERSION = "reader-v1"
MODEL = "unet"
BATCH, LEAST_STEPS, MOST_STEPS = 16, 50, 600
MOST_PIXELS = 8 * 10**7
"""Pixels that the reader is trained on at most: 300 steps of 16 images of 128x128 pixels."""
SAMPLED = 100
"""Images that are looked at to find the colors of the labels."""
COLORS = 32
"""Most colors of label maps."""
LEAST, COVERED = 0.001, 0.5
"""Share of all pixels that a color of a label has at least in flat places, and that all of them have together there."""
NEAR = 30
"""Largest difference from its color, in a channel, of a pixel of a label; what is further lies between two labels."""
VOID = 255


class Labels(NamedTuple):
    """The classes that the colors of label maps stand for."""

    colors: np.ndarray
    """uint8 [K, 3]."""

    def numbers(self, images: np.ndarray) -> np.ndarray:
        """The class of each pixel, uint8 [N, H, W], of images [N, H, W, 3]; ``VOID`` between two labels."""
        nearest = np.zeros(images.shape[:3], np.uint8)
        least = np.full(images.shape[:3], 256, np.int32)
        for number, color in enumerate(self.colors.astype(np.int32)):
            distance = np.abs(images.astype(np.int32) - color).max(-1)
            nearest = np.where(distance < least, np.uint8(number), nearest)
            least = np.minimum(distance, least)
        return np.where(least > NEAR, np.uint8(VOID), nearest)


def read_answers(system: System, state: State, data: Data) -> dict[str, Any]:
    """What the reader finds in the images that a system makes of the label maps of the test split.

    ``reader_`` before a metric of segmentation (see ``metrics.Pixels``); ``real_reader_``, of the real photos, and
    ``mean_reader_``, of the training photos' mean. ``reader`` is the reader's name and checksum. Empty if the inputs
    are no label maps.
    """
    labels = find_labels(data)
    if labels is None:
        return {}
    network, name = _trained_reader(state.config, data, labels)
    read = jax.jit(partial(system_of(network.config).predict, jax.device_get(network)))
    predict = jax.jit(system.predict)
    truth = truth_of(data.dataset.features)
    mean = _mean(data.train, truth)
    sums: dict[str, Any] = {}
    size = at_once(MOST, data.test.features["image"].shape)
    for start in range(0, len(data.test), size):
        examples = data.test.read(np.arange(start, min(start + size, len(data.test))))
        mask = labels.numbers(examples["image"])
        answers = whole(jax.device_get(predict(state, examples["image"]))["image"])
        shown = {"": answers, "real_": examples[truth], "mean_": np.broadcast_to(mean, answers.shape)}
        for prefix, images in shown.items():
            found = _pixels(read, images, mask)
            sums[prefix] = found if start == 0 else sums[prefix].merge(found)
        tell("reading answers", start + len(mask), len(data.test))
    told: dict[str, Any] = {"reader": name}
    for prefix, pixels in sums.items():
        numbers = {key: value for key, value in pixels.compute().items() if np.ndim(value) == 0 and key != "loss"}
        told |= {f"{prefix}reader_{key}": value for key, value in numbers.items()}
    return told


def find_labels(data: Data) -> Labels | None:
    """The labels of the training split's inputs; None if these are no label maps, or are not translated."""
    image = data.dataset.features["image"]
    if truth_of(data.dataset.features) == "image" or image.dtype != "uint8" or image.shape[-1] != 3:
        return None
    places = np.linspace(0, len(data.train) - 1, min(SAMPLED, len(data.train))).astype(int)
    codes = np.concatenate([_flat(part) for part in data.train.values("image", places)])
    total = len(places) * image.shape[0] * image.shape[1]
    values, counts = np.unique(codes, return_counts=True)
    frequent = counts >= LEAST * total
    if not 2 <= frequent.sum() <= COLORS or counts[frequent].sum() < COVERED * total:
        return None
    colors = np.stack([values[frequent] >> 16, values[frequent] >> 8 & 255, values[frequent] & 255], -1)
    return Labels(colors.astype(np.uint8))


def _flat(images: np.ndarray) -> np.ndarray:
    """The colors, as whole numbers [M], of the pixels of images [N, H, W, 3] whose four neighbors have the same color.

    Where an image was resized, colors between two labels have no such pixels.
    """
    codes = (images.astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(-1)
    inner = codes[:, 1:-1, 1:-1]
    across = (inner == codes[:, 1:-1, :-2]) & (inner == codes[:, 1:-1, 2:])
    down = (inner == codes[:, :-2, 1:-1]) & (inner == codes[:, 2:, 1:-1])
    return inner[across & down]


def _mean(train: Split, truth: str) -> np.ndarray:
    """The mean of the true images, uint8 [H, W, C]."""
    total = sum(part.sum(0, dtype=np.float64) for part in train.values(truth, np.arange(len(train))))
    return np.round(np.asarray(total) / len(train)).astype(np.uint8)


def _pixels(read: Any, images: np.ndarray, mask: np.ndarray) -> Any:
    """The metrics of what the reader sees in images whose true classes are ``mask``."""
    probabilities = read(images)["probabilities"]
    found = metrics.Pixels.from_batch(probabilities, jnp.asarray(mask), None, jnp.zeros(len(mask)), void=VOID)
    return jax.device_get(found)


def _trained_reader(config: Task, data: Data, labels: Labels) -> tuple[State, str]:
    """The reader of a data set and its name with checksum."""
    truth = truth_of(data.dataset.features)
    photo = data.dataset.features[truth]
    names = tuple(str(number) for number in range(len(labels.colors)))
    features = {"image": photo, "mask": Feature("mask", photo.shape[:2], "uint8", names, VOID)}

    def source(rows: np.ndarray) -> dict[str, np.ndarray]:
        examples = data.train.read(rows)
        return {"image": examples[truth], "mask": labels.numbers(examples["image"])}

    batch = min(BATCH, len(data.train))
    steps = getattr(config, "judge_steps", None)
    if steps is None:
        steps = max(LEAST_STEPS, min(MOST_STEPS, MOST_PIXELS // (batch * photo.shape[0] * photo.shape[1])))
    settings = _settings(photo, len(names), steps)
    train = Split(source, np.arange(len(data.train)), features)
    content = f"{VERSION} {settings} {data.dataset.fingerprint} {truth} {len(train)}"
    state, checksum = kept_network(settings, train, content, batch, steps, "training the reader")
    return state, f"{VERSION}-{MODEL}-{data.dataset.name}-{checksum}"


def _settings(photo: Feature, classes: int, steps: int) -> Task:
    channels = photo.shape[-1]
    return with_known(
        replace(
            preset(MODEL),
            average=0.98,
            optimizer=Optimizer(lr=3e-3, schedule="one-cycle", warmup=0.2, steps=steps),
            augment=Augment(flip="random", scale=0.1),
        ),
        # What groups are normalized by is not kept from step to step, so that parameters are all there is to keep.
        norm="group",
        classes=classes,
        void=VOID,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )
