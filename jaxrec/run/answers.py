"""Measures of the images that a system makes of others: what a judge of the true images sees in them.

The judge is a classifier of our own (see ``jaxrec.run.judge``), trained on the true images of the training split. If
they have no classes, it learns by how many quarter turns an image was turned, so that it has to look at what they show.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxrec import metrics
from jaxrec.data import Feature, Features, Split, at_once, class_names
from jaxrec.models.translator import with_channels
from jaxrec.run.data import Data
from jaxrec.run.judge import IMAGES, MOST, NEAREST, budget, joined, looked, seen, trained_judge, whole
from jaxrec.tasks.inputs import scaled
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System, system_of
from jaxrec.waiting import tell

QUARTERS = ("0", "90", "180", "270")
"""Degrees of the turns that a judge without classes tells apart; those by 90 and 270 are for square images alone."""


def judged_answers(system: System, state: State, data: Data) -> dict[str, Any]:
    """The metrics of the ``image`` that a system predicts for test images, on the judge's features.

    ``frechet_distance`` and ``kernel_distance`` from the true images of the training split; with ``_train_test``, those
    of the true test images; with ``copy_`` before them, those of the inputs. If there are classes, what
    ``metrics.class_statistics`` finds in the answers and, with ``real_`` before it, in the true test images. ``judge``
    is the name and checksum of the features. Test splits of five images or fewer get no distances.
    """
    true = true_images(data)
    learned = with_classes(true)
    network, name = trained_judge(learned.dataset, learned.train, budget(state.config, learned.train))
    look = jax.jit(partial(system_of(network.config).predict, jax.device_get(network)))
    count = min(IMAGES, len(data.test), len(data.train))
    places = np.arange(count)
    made, copies = _made(system, state, data.test, places, look)
    test = seen(look, true.test, places)
    found: dict[str, Any] = {"judge": name, "judged": count}
    if learned is true:
        label = np.concatenate(list(data.test.values("label", places)))
        found |= metrics.class_statistics(made["probabilities"], label)
        real = metrics.class_statistics(test["probabilities"], label)
        found |= {f"real_{key}": value for key, value in real.items()}
    if count <= NEAREST:
        return found
    tell("comparing what the judge sees", 0, 1)
    spread = np.linspace(0, len(data.train) - 1, count).astype(int)
    train = seen(look, true.train, spread)["features"]
    for named, shown in (("{}", made), ("copy_{}", copies), ("{}_train_test", test)):
        found[named.format("frechet_distance")] = metrics.frechet_distance(train, shown["features"])
        found[named.format("kernel_distance")] = metrics.kernel_distance(train, shown["features"])
    tell("comparing what the judge sees", 1, 1)
    return found


def _made(system: System, state: State, test: Split, places: np.ndarray, look: Any) -> tuple[dict, dict]:
    """What the judge sees in the system's answers to test images, and in the inputs."""
    predict = jax.jit(system.predict)
    answers, copies = [], []
    size = at_once(MOST, test.features["image"].shape)
    done = 0
    for images in test.values("image", places):
        for start in range(0, len(images), size):
            part = images[start : start + size]
            outputs = jax.device_get(predict(state, part))
            answer = outputs["image"]
            copy = with_channels(scaled(outputs.get("input", part)), answer.shape[-1])
            answers.append(looked(look, whole(answer)))
            copies.append(looked(look, whole(copy)))
            done += len(part)
            tell("judging answers", done, len(places))
    return joined(answers), joined(copies)


def true_images(data: Data) -> Data:
    """The data with the true images alone, as ``image``, and their ``label`` if they have one."""
    features = data.dataset.features
    names = {"image": truth_of(features)}
    if "label" in features:
        names["label"] = "label"
    dataset = replace(
        data.dataset,
        features={name: features[key] for name, key in names.items()},
        fingerprint=f"{data.dataset.fingerprint} {names['image']}",
    )
    return replace(data, dataset=dataset, train=_renamed(data.train, names), test=_renamed(data.test, names))


def truth_of(features: Features) -> str:
    """The feature that holds the true images: the second image of an example or, without one, the only one."""
    return [name for name, feature in features.items() if feature.kind == "image"][-1]


def _renamed(split: Split, names: dict[str, str]) -> Split:
    """The split with its features under other names: the new one to the old one."""

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        found = split.source(rows)
        return {name: found[key] for name, key in names.items()}

    return Split(read, split.rows, {name: split.features[key] for name, key in names.items()})


def with_classes(data: Data) -> Data:
    """The data or, without two classes, those of each of its training images turned in all ways that keep its shape."""
    features = data.dataset.features
    if "label" in features and len(class_names(features)) > 1:
        return data
    image = features["image"]
    turns = QUARTERS if image.shape[0] == image.shape[1] else QUARTERS[::2]
    turned = {"image": image, "label": Feature("class", (), "int32", turns)}

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        number = (rows % len(turns)).astype(np.int32)
        images = data.train.read(rows // len(turns))["image"]
        quarters = number * (len(QUARTERS) // len(turns))
        shown = [np.rot90(one, quarter) for one, quarter in zip(images, quarters.tolist(), strict=True)]
        return {"image": np.stack(shown), "label": number}

    train = Split(read, np.arange(len(data.train) * len(turns)), turned)
    dataset = replace(data.dataset, features=turned, fingerprint=f"{data.dataset.fingerprint} turned")
    return replace(data, dataset=dataset, train=train)
