"""The judge of generated images: a classifier of our own, named and checksummed, whose features distances are taken on.

Published Frechet distances ("FID") use the features of one Inception network, whose weights cannot be had without a
download; a distance on other features is another number and never called so. Beside each distance stands the same
distance between real training and real test images: what a perfect generator would score.
"""

import hashlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxrec import metrics
from jaxrec.data import batch_indices
from jaxrec.errors import UserError
from jaxrec.run.setup import Data
from jaxrec.settings import Augment, Classifier, Optimizer
from jaxrec.tasks import classifier, gan
from jaxrec.tasks.state import State

VERSION = "judge-v1"
EPOCHS, LEAST_STEPS, MOST_STEPS, BATCH = 3, 400, 1500, 128
CONFIG = Classifier(
    model="cnn", average=0.99, optimizer=Optimizer(lr=2e-3), augment=Augment(translate=0.05, rotate=8, scale=0.08)
)
IMAGES = 10_000
"""Most generated images, and as many real ones, that the figures are taken on."""
NEIGHBOURS = 5_000
"""Of these, the most that nearest neighbours are searched among."""
NEAREST = 5
"""Nearest neighbours that the balls of precision, recall, density and coverage reach to."""


def trained_judge(data: Data, cache: Path) -> tuple[State, str]:
    """The judge of a data set and its name with checksum; trained on the training split once, then read from ``cache``.

    The recipe is fixed and never looks at the test split.
    """
    shape, images = data.dataset.image_shape, data.train
    steps = min(max(LEAST_STEPS, EPOCHS * len(images) // BATCH), MOST_STEPS)
    optimizer = replace(CONFIG.optimizer, steps=steps)
    config = replace(CONFIG, classes=len(data.dataset.class_names), optimizer=optimizer)
    blank = {"image": jnp.zeros((1, *shape), jnp.uint8)}
    state = jax.jit(partial(classifier.init, config))(jax.random.key(0), blank)
    content = f"{VERSION} {CONFIG} {data.dataset.fingerprint} {len(images)}"
    path = cache / "judges" / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        _train(state, data, steps, path)
    with np.load(path) as saved:
        average = traverse_util.unflatten_dict({name: jnp.asarray(saved[name]) for name in saved.files}, sep="/")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    player = state.player.replace(average=average)
    return state.replace(players={"net": player}), f"{VERSION}-cnn-{data.dataset.name}-{checksum}"


def _train(state: State, data: Data, steps: int, path: Path) -> None:
    step = jax.jit(classifier.train_step)
    for number in range(steps):
        index, epoch = batch_indices(0, number, BATCH, len(data.train))
        state, _ = step(state, {**data.train.read(index), "index": index, "epoch": epoch})
    flat: Any = traverse_util.flatten_dict(jax.device_get(state.player.average), sep="/")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, **flat)
        os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"the judge of generated images cannot be kept in '{path.parent}' ({error.strerror}); "
            "make room there, or choose another place with the environment variable JAXREC_CACHE"
        ) from error


def judge_gan(state: State, data: Data, cache: Path) -> dict[str, Any]:
    """The figures of a gan against its training images, on the judge's features.

    ``frechet_distance``, ``kernel_distance`` and, with ``_train_test``, the same between real images; ``precision``,
    ``recall``, ``density``, ``coverage``; ``modes`` and, where conditional, ``class_consistency``; ``judge``, the name
    and checksum of the features. Test splits of five images or fewer get no distances.
    """
    judge, name = trained_judge(data, cache)
    look = jax.jit(partial(classifier.predict, jax.device_get(judge)))
    count = min(IMAGES, len(data.test), len(data.train))
    real = _features(look, data.train.read(np.linspace(0, len(data.train) - 1, count).astype(int))["image"])["features"]
    test = _features(look, data.test.read(np.arange(count))["image"])["features"]
    images, label = generated(state, count)
    seen = _features(look, images)
    figures = {**metrics.class_statistics(seen["probabilities"], label), "judge": name, "generated": count}
    if count <= NEAREST:
        # Too few points for distances between distributions.
        return figures
    fake, few = seen["features"], slice(None, NEIGHBOURS)
    return {
        "frechet_distance": metrics.frechet_distance(real, fake),
        "frechet_distance_train_test": metrics.frechet_distance(real, test),
        "kernel_distance": metrics.kernel_distance(real, fake),
        "kernel_distance_train_test": metrics.kernel_distance(real, test),
        **metrics.coverage_statistics(real[few], fake[few], NEAREST),
        **figures,
    }


def generated(state: State, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """``count`` images uint8 from a fixed key, with their intended classes where the gan is conditional."""
    size = 500
    make = jax.jit(partial(gan.generate, count=size))
    parts = [jax.device_get(make(state, jax.random.key(number))) for number in range(-(-count // size))]
    images = np.concatenate([np.round(part["image"] * 255).astype(np.uint8) for part in parts])[:count]
    label = np.concatenate([part["label"] for part in parts])[:count] if "label" in parts[0] else None
    return images, label


def _features(look: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    parts = [jax.device_get(look(images[start : start + 500])) for start in range(0, len(images), 500)]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("features", "probabilities")}
