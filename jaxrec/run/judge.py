"""The judge of generated images: a network of our own, named and checksummed, whose features distances are taken on.

Published Fréchet distances ("FID") use the features of one Inception network, whose weights cannot be had without a
download; a distance on other features is another number and never called so. Beside each distance stands the same
distance between real training and real test images: what a perfect generator would score.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxrec import metrics
from jaxrec.data import Dataset, Split, at_once, batch_indices, blank, cache_dir, class_names, image_shape
from jaxrec.errors import UserError
from jaxrec.files import open_atomically
from jaxrec.run.data import Data
from jaxrec.run.generated import generated
from jaxrec.settings import Augment, Optimizer, Task, preset
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System, system_of, with_known
from jaxrec.waiting import counted, tell

VERSION = "judge-v1"
MODEL = "cnn"
EPOCHS, LEAST_STEPS, MOST_STEPS, BATCH = 3, 400, 1500, 128
MOST_EPOCHS = 50
"""Passes that a small set is trained on at most: from more, nothing is learned that helps."""
MOST_PIXELS = 2 * 10**8
"""Pixels that the judge is trained on at most: 1500 steps of 128 images of 32x32 pixels."""
IMAGES = 10_000
"""Most generated images, and as many real ones, that the metrics are taken on."""
NEIGHBORS = 5_000
"""Of these, the most that nearest neighbors are searched among."""
NEAREST = 5
"""Nearest neighbors that the balls of precision, recall, density and coverage reach to."""
MOST = 500
"""Most images that are looked at at once."""


def judge(system: System, state: State, data: Data) -> dict[str, Any]:
    """The metrics of a generator against its training images, on the judge's features.

    ``frechet_distance``, ``kernel_distance`` and, with ``_train_test``, the same between real images; ``precision``,
    ``recall``, ``density``, ``coverage``; what ``metrics.class_statistics`` finds in the judge's probabilities;
    ``judge``, the name and checksum of the features. Test splits of five images or fewer get no distances, and data
    without classes no metrics, because nothing can be learned to look at.
    """
    if "label" not in data.dataset.features or len(class_names(data.dataset.features)) < 2:
        return {}
    channels = data.dataset.channels
    learned, train = (data.dataset, data.train) if channels is None else (channels, channels.splits["train"])
    network, name = trained_judge(learned, train, budget(state.config, train))
    look = jax.jit(partial(system_of(network.config).predict, jax.device_get(network)))
    if channels is not None:
        look = partial(look_by_channel, look)
    count = min(IMAGES, len(data.test), len(data.train))
    spread = np.linspace(0, len(data.train) - 1, count).astype(int)
    real = seen(look, data.train, spread)["features"]
    test = seen(look, data.test, np.arange(count))["features"]
    made = _seen_in_generated(look, generated(system, state, count, 0, image_shape(data.dataset.features)), count)
    tell("comparing what the judge sees", 0, 1)
    found = {
        **metrics.class_statistics(made["probabilities"], made.get("label")),
        "judge": name,
        "generated": count,
    }
    if count <= NEAREST:
        tell("comparing what the judge sees", 1, 1)
        # Too few points for distances between distributions.
        return found
    fake, few = made["features"], slice(None, NEIGHBORS)
    found = {
        "frechet_distance": metrics.frechet_distance(real, fake),
        "frechet_distance_train_test": metrics.frechet_distance(real, test),
        "kernel_distance": metrics.kernel_distance(real, fake),
        "kernel_distance_train_test": metrics.kernel_distance(real, test),
        **metrics.coverage_statistics(real[few], fake[few], NEAREST),
        **found,
    }
    tell("comparing what the judge sees", 1, 1)
    return found


def look_by_channel(look: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the judge sees in each channel [N, H, W, 1] of images [N, H, W, C], taken together.

    ``features`` [N, C D], those of the channels side by side; ``probabilities`` [N, K^C] of their classes, the last
    channel's changing fastest, as if channels did not depend on one another.
    """
    count = images.shape[-1]
    seen = [jax.device_get(look(images[..., each : each + 1])) for each in range(count)]
    joint = seen[0]["probabilities"]
    for other in seen[1:]:
        joint = (joint[:, :, None] * other["probabilities"][:, None, :]).reshape(len(images), -1)
    return {"features": np.concatenate([each["features"] for each in seen], axis=1), "probabilities": joint}


def budget(config: Task, train: Split) -> int:
    """The steps that the judge is trained for: those that the settings name, or what its images allow.

    That is three passes and at least 400 steps, but no more passes and pixels than ``MOST_EPOCHS`` and ``MOST_PIXELS``.
    """
    asked = getattr(config, "judge_steps", None)
    if asked is not None:
        return asked
    batch, examples = _batch(train), len(train)
    height, width, _ = image_shape(train.features)
    usual = min(max(LEAST_STEPS, EPOCHS * examples // batch), MOST_STEPS)
    return max(1, min(usual, MOST_EPOCHS * examples // batch, MOST_PIXELS // (batch * height * width)))


def _batch(train: Split) -> int:
    """Images in a step of the judge's training."""
    return min(at_once(BATCH, image_shape(train.features)), len(train))


def trained_judge(dataset: Dataset, train: Split, steps: int) -> tuple[State, str]:
    """The judge of a data set and its name with checksum; trained on the training split once, then kept on the disk.

    The recipe is fixed and never looks at the test split.
    """
    config = _settings(dataset, steps)
    content = f"{VERSION} {config} {dataset.fingerprint} {len(train)}"
    state, checksum = kept_network(config, train, content, _batch(train), steps, "training the judge")
    return state, f"{VERSION}-{MODEL}-{dataset.name}-{checksum}"


def kept_network(config: Task, train: Split, content: str, batch: int, steps: int, told: str) -> tuple[State, str]:
    """A system's state after some steps, and a checksum of its parameters; trained once, then kept on the disk.

    Args:
        config: the system's settings; it has one player, whose moving average is kept and no statistics.
        train: what it is trained on.
        content: differs if what is trained on or how differs.
        batch: examples per step.
        steps: how many.
        told: what is shown while it is trained.
    """
    system = system_of(config)
    state = jax.jit(partial(system.init, config))(jax.random.key(0), blank(train.features, 1))
    path = cache_dir() / "judges" / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        _train(system, state, train, batch, steps, path, told)
    with np.load(path) as saved:
        average = traverse_util.unflatten_dict({name: jnp.asarray(saved[name]) for name in saved.files}, sep="/")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    player = state.player.replace(average=average)
    return state.replace(players={"net": player}), checksum


def _settings(dataset: Dataset, steps: int) -> Task:
    return with_known(
        replace(
            preset(MODEL),
            average=0.99,
            optimizer=Optimizer(lr=2e-3, steps=steps),
            augment=Augment(translate=0.05, rotate=8, scale=0.08),
        ),
        classes=len(class_names(dataset.features)),
    )


def _train(system: System, state: State, train: Split, batch: int, steps: int, path: Path, told: str) -> None:
    step = jax.jit(system.train_step)
    for number in counted(range(steps), told, steps):
        index, epoch = batch_indices(0, number, batch, len(train))
        state, _ = step(state, {**train.read(index), "index": index, "epoch": epoch})
    flat: Any = traverse_util.flatten_dict(jax.device_get(state.player.average), sep="/")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(path) as file:
            np.savez(file, **flat)
    except OSError as error:
        raise UserError(
            f"the judge of generated images cannot be kept in '{path.parent}' ({error.strerror}); "
            "make room there, or choose another place with the environment variable JAXREC_CACHE"
        ) from error


def seen(look: Any, split: Split, indices: np.ndarray) -> dict[str, np.ndarray]:
    """What the judge sees in examples of a split, read piece by piece."""
    return joined([looked(look, images) for images in split.values("image", indices)])


def _seen_in_generated(look: Any, parts: Iterable[dict[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """What the judge sees in generated images, with the classes that they were meant to be, if they are known."""
    found, done = [], 0
    for part in parts:
        done += len(part["image"])
        tell("judging generated images", done, count)
        images = looked(look, whole(part["image"]))
        if "label" in part:
            images["label"] = part["label"]
        found.append(images)
    return joined(found)


def whole(images: Any) -> np.ndarray:
    """Images in [0, 1] as uint8, as they would be saved."""
    return np.round(np.asarray(images) * 255).astype(np.uint8)


def looked(look: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """The judge's ``features`` and ``probabilities`` of images [N, H, W, C]."""
    size = at_once(MOST, images.shape[1:])
    parts = [jax.device_get(look(images[start : start + size])) for start in range(0, len(images), size)]
    return joined([{name: part[name] for name in ("features", "probabilities")} for part in parts])


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays by name, each of all parts one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
