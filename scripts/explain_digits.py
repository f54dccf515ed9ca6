"""Are explanations true? Methods against each other on digits among pieces of other digits, whose place is known.

    python scripts/explain_digits.py
    python scripts/explain_digits.py --images 500 --samples 4000 --methods grad-cam rise

It trains a classifier on `cluttered`, and another on digits with a corner that tells the class. Of each method the
table says

- pointing: the share of the images whose highest value lies in the square of the digit, and a random place's;
- mass: the share of what speaks for the class that lies there;
- insertion - deletion: the mean probability of the class as places are shown, the highest values first, less the mean
  as they are covered; a random order's stands in the last row;
- random network: Spearman's correlation with the explanation of a network of random parameters, mean over 50 images;
- shortcut: the share of the other images whose highest value lies in the corner that tells the class.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrec
from jaxrec.after.explain import METHODS, Settings, explain
from jaxrec.after.explain.truth import deletion, insertion, pointing, rank_correlation, relevance_mass, with_shortcut
from jaxrec.data import open_dataset
from jaxrec.run.explained import true_regions
from jaxrec.settings import Train, preset
from jaxrec.tasks.inputs import scaled
from jaxrec.tasks.state import State
from jaxrec.tasks.system import system_of

READS = {"image": "image", "label": "class", "boxes": "boxes", "box_classes": "box_classes"}
CORNER = 2
"""Pixels of a side of the corner that tells the class."""
PARTS = 10
"""Images that are explained at once."""
COMPARED = 50
"""Images of which the explanation of a random network is looked at."""


def score_of(state: State, image: jax.Array, label: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """The log-odds of a class, of variants of one image."""
    explained = system_of(state.config).explained
    assert explained is not None

    def score(variants: jax.Array) -> jax.Array:
        return explained(state, variants, {"class": jnp.broadcast_to(label, (len(variants),))})

    return score


def by_image(function: Callable[..., Any], *values: Any) -> Any:
    """``function`` of each image and what belongs to it, compiled, some images at a time."""
    mapped = jax.jit(jax.vmap(function))
    found = []
    for start in range(0, len(values[0]), PARTS):
        found.append(jax.device_get(mapped(*(each[start : start + PARTS] for each in values))))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def explanations(state: State, method: str, images: jax.Array, label: jax.Array, settings: Settings) -> np.ndarray:
    """The explanations of images [N, H, W, C] and their classes by one method, [N, H, W]."""

    def of_one(image: jax.Array, label: jax.Array) -> jax.Array:
        return explain(method, score_of(state, image, label), image, jax.random.key(0), settings)

    return by_image(of_one, images, label)


def trained(config: Train, folder: Path, dataset: Any = None) -> State:
    """A classifier after its training."""
    return jaxrec.fit(replace(config, runs=str(folder)), dataset=dataset).state


def untrained(state: State, images: jax.Array, label: jax.Array) -> State:
    """The same network with random parameters."""
    batch = {"image": images, "label": label}
    return system_of(state.config).init(state.config, jax.random.key(1), batch)


def chosen(state: State, batch: dict[str, np.ndarray], count: int) -> np.ndarray:
    """The first examples that are classified right: a wrong answer need not come from the digit."""
    predict = jax.jit(system_of(state.config).predict)
    right = predict(state, batch["image"])["probabilities"].argmax(-1) == batch["label"]
    return np.flatnonzero(right)[:count]


def gap(state: State, images: jax.Array, label: jax.Array, maps: np.ndarray) -> float:
    """The mean probability on the way of insertion less that on the way of deletion."""

    def of_one(image: jax.Array, label: jax.Array, values: jax.Array) -> jax.Array:
        score = score_of(state, image, label)

        def probability(variants: jax.Array) -> jax.Array:
            return jax.nn.sigmoid(score(variants))

        return insertion(probability, image, values).mean() - deletion(probability, image, values).mean()

    return float(by_image(of_one, images, label, maps).mean())


def shortcut_share(folder: Path, methods: Sequence[str], count: int, settings: Settings) -> dict[str, float]:
    """How often each method points at the corner that tells the class."""
    splits = {}
    for name, split in open_dataset("digits").splits.items():
        examples = split.read(np.arange(len(split)))
        images = with_shortcut(scaled(examples["image"]), jnp.asarray(examples["label"]), CORNER)
        # Whatever else is there says nothing: each corner goes with another example's digit.
        others = np.random.default_rng(0).permutation(len(split))
        mixed = np.asarray(images)[others].copy()
        mixed[:, :CORNER, :CORNER] = np.asarray(images)[:, :CORNER, :CORNER]
        splits[name] = {"image": mixed, "label": examples["label"]}
    state = trained(Train(task=preset("cnn"), steps=600, name="shortcut"), folder, splits)
    test = splits["test"]
    index = chosen(state, test, count)
    images, label = jnp.asarray(test["image"][index]), jnp.asarray(test["label"][index])
    region = np.zeros(images.shape[1:3], bool)
    region[:CORNER, :CORNER] = True
    found = {}
    for method in methods:
        maps = explanations(state, method, images, label, settings)
        found[method] = float(np.mean([pointing(each, region) for each in maps]))
    return found


def main() -> None:
    """Trains, explains, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--images", type=int, default=100, help="images that are explained; default: 100")
    parser.add_argument("--samples", type=int, default=1000, help="variants of random methods; default: 1000")
    parser.add_argument("--steps", type=int, default=1500, help="steps of the training; default: 1500")
    options = parser.parse_args()
    jaxrec.tune_cpu()
    settings = Settings(samples=options.samples)
    with tempfile.TemporaryDirectory() as folder:
        config = Train(task=preset("cnn"), dataset="cluttered", steps=options.steps, name="cluttered")
        began = time.perf_counter()
        state = trained(config, Path(folder))
        print(f"trained in {time.perf_counter() - began:.0f} s")
        found = shortcut_share(Path(folder), options.methods, options.images, settings)
    split = open_dataset("cluttered", reads=READS).splits["test"]
    batch = split.read(np.arange(min(len(split), 2 * options.images)))
    index = chosen(state, batch, options.images)
    batch = {name: values[index] for name, values in batch.items()}
    images, label = scaled(batch["image"]), jnp.asarray(batch["label"])
    regions = true_regions(split.features, batch, batch["label"])
    assert regions is not None
    fresh = untrained(state, images, label)
    print(f"{len(index)} images; a random place lies in the digit's square in {regions.mean():.1%}\n")
    print("| method | pointing | mass | insertion - deletion | random network | shortcut | ms an image |")
    print("|---|---|---|---|---|---|---|")
    for method in options.methods:
        explanations(state, method, images[:PARTS], label[:PARTS], settings)
        began = time.perf_counter()
        maps = explanations(state, method, images, label, settings)
        seconds = time.perf_counter() - began
        others = explanations(fresh, method, images[:COMPARED], label[:COMPARED], settings)
        hit = np.mean([pointing(each, region) for each, region in zip(maps, regions, strict=True)])
        mass = np.mean([relevance_mass(each, region) for each, region in zip(maps, regions, strict=True)])
        alike = np.mean(by_image(rank_correlation, maps[:COMPARED], others))
        told = f"{gap(state, images, label, maps):.3f} | {alike:.3f} | {found[method]:.1%}"
        print(f"| {method} | {hit:.1%} | {mass:.1%} | {told} | {1000 * seconds / len(index):.0f} |", flush=True)
    noise = np.random.default_rng(0).random(regions.shape).astype(np.float32)
    hit = np.mean([pointing(each, region) for each, region in zip(noise, regions, strict=True)])
    print(f"| a random order | {hit:.1%} | {regions.mean():.1%} | {gap(state, images, label, noise):.3f} | | | |")


if __name__ == "__main__":
    main()
