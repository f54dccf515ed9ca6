"""The one table of systems that tests run: small settings, options that make commands quick, and batches.

Every system of jaxrec has at least one row, and so has a stranger's, which is in a file of its own. Whoever adds a
system adds a row, and with it the system's tests under every transform.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from jaxrec.settings import (
    GAN,
    RNN,
    Agent,
    Augment,
    Autoencoder,
    Classifier,
    Detector,
    Forecaster,
    Glimpse,
    Optimizer,
    Rule,
    Segmenter,
    Task,
    Translator,
    registry,
)
from jaxrec.tasks.system import system_of

ROTATION = Path(__file__).parent / "assets" / "rotation.py"
"""A system that is none of jaxrec's own. Importing this table registers it, as --system does."""
CLASSES = 4
SIDE = 8

# All learn by stochastic gradient descent, because Adam hides a gradient of the wrong scale.
SGD = Optimizer(name="sgd", lr=0.05, schedule="constant", warmup=0.0)
SLOW = dataclasses.replace(SGD, lr=0.01)
GRADUAL = dataclasses.replace(SGD, name="momentum", schedule="cosine", warmup=0.5, steps=8, clip=1.0, l2=0.01)
FROZEN = dataclasses.replace(SGD, weight_decay=0.1, rules=(Rule("decoder/dense1", freeze=True), Rule("bias", lr=2.0)))
CHANGES = Augment(flip="alternating", crop=1, scale=0.1, brightness=0.1, cutout=2)
tiny_classifier = partial(Classifier, classes=CLASSES, mean=(0.25,), std=(0.2,), width=0.0625, optimizer=SGD)
tiny_autoencoder = partial(Autoencoder, width=2, code=3, average=0.0, optimizer=SGD)
tiny_segmenter = partial(
    Segmenter, classes=CLASSES, mean=(0.25,), std=(0.2,), width=2, depth=1, average=0.0, optimizer=SGD
)
tiny_detector = partial(
    Detector, classes=CLASSES, mean=(0.25,), std=(0.2,), width=2, stride=2, average=0.0, optimizer=SLOW
)
tiny_rnn = partial(RNN, classes=CLASSES, mean=(0.25,), std=(0.2,), width=2, units=6, optimizer=SGD)
tiny_video = partial(Forecaster, given=1, forecast=2, width=2, hidden=4, layers=1, patch=2, average=0.0, optimizer=SGD)
tiny_agent = partial(
    Agent, width=2, glance=4, reaches=(1.5,), moves=2, replay=32, kept=16, samples=32, average=0.0, optimizer=SLOW
)
tiny_glimpse = partial(
    Glimpse, classes=CLASSES, mean=(0.25,), std=(0.2,), looks=2, patch=4, units=6, width=6, samples=2, optimizer=SGD
)
tiny_gan = partial(GAN, classes=CLASSES, width=2, latents=4, r1=0.0, r2=0.0, average=0.0, optimizer=SLOW)
tiny_translator = partial(
    Translator, width=2, depth=1, discriminator_width=2, halvings=1, pixel=1.0, average=0.0, optimizer=SLOW
)
tiny_rotation = partial(registry.load_file(str(ROTATION)).Config, model="rotation", width=2, optimizer=SGD)


@dataclass(frozen=True)
class Row:
    """A system with small settings for batches of ``batches``."""

    config: Task
    draws: bool = False
    """Whether steps draw random numbers, so that replicas differ from one device."""
    descends: bool = True
    """Whether the loss falls; that of players against each other need not."""


ROWS = {
    "cnn": Row(tiny_classifier(optimizer=GRADUAL, average=0.9, width=0.125)),
    "resnet18": Row(tiny_classifier(model="resnet18")),
    "speednet": Row(tiny_classifier(model="speednet", activation="gelu")),
    "vit": Row(tiny_classifier(model="vit", label_smoothing=0.1)),
    "vit with class token": Row(tiny_classifier(model="vit", class_token=True, qkv_bias=False, depth=1)),
    "conv autoencoder": Row(tiny_autoencoder(accumulate=2)),
    "dense autoencoder": Row(tiny_autoencoder(architecture="dense", optimizer=FROZEN)),
    "unet": Row(tiny_segmenter(loss="cross-entropy+dice", average=0.9)),
    "augmented cnn": Row(tiny_classifier(width=0.125, dropout=0.2, cutmix=1.0, augment=CHANGES), draws=True),
    "vae": Row(
        tiny_autoencoder(model="vae", likelihood="bernoulli", binarize=True, accumulate=2, optimizer=SLOW), draws=True
    ),
    "unet denoiser": Row(tiny_autoencoder(architecture="unet", noise=0.3), draws=True),
    "relativistic gan": Row(
        tiny_gan(r1=0.1, r2=0.1, average=0.9, diffaugment=("translation",), adapt_to=0.6), draws=True, descends=False
    ),
    "hinge gan": Row(tiny_gan(loss="hinge", spectral_norm=True, discriminator_steps=2), draws=True, descends=False),
    "wasserstein gan": Row(
        tiny_gan(loss="wasserstein", architecture="residual", gradient_penalty=1.0), draws=True, descends=False
    ),
    "resunet": Row(
        tiny_segmenter(model="resunet", auxiliary=0.4, dropout=0.2, augment=Augment(flip="random", crop=1)), draws=True
    ),
    "detector": Row(
        tiny_detector(average=0.9, augment=Augment(turns=True, scale=0.1, mosaic=0.5, paste=1)), draws=True
    ),
    "gru of clips": Row(tiny_rnn(average=0.9, pool="attention", accumulate=2)),
    "lru of rows": Row(tiny_rnn(sequence="rows", cell="lru", dropout=0.2, augment=Augment(translate=0.1)), draws=True),
    "simvp": Row(tiny_video(average=0.9, accumulate=2, depth=0, optimizer=dataclasses.replace(SGD, lr=0.5))),
    "convlstm forecaster": Row(
        tiny_video(
            architecture="convlstm",
            loss="cross-entropy",
            sampling=1.0,
            optimizer=dataclasses.replace(SGD, lr=0.5, steps=8),
            augment=Augment(reverse=True),
        ),
        draws=True,
    ),
    # What the moves are worth is learned from what the moves are thought to be worth, so the loss need not fall.
    "q agent": Row(tiny_agent(average=0.9, priority=0.6, explore_last=0.5), draws=True, descends=False),
    "actor-critic agent": Row(
        tiny_agent(learning="actor-critic", reward="change", cnn=False, augment=Augment(flip="random")),
        draws=True,
        descends=False,
    ),
    "glimpse": Row(tiny_glimpse(average=0.9, augment=Augment(translate=0.1)), draws=True),
    "glimpse by ppo": Row(
        tiny_glimpse(
            policy="ppo",
            reward="gain",
            head="every",
            core="lstm",
            start="context",
            learned_deviation=True,
            entropy=0.01,
            cnn=False,
        ),
        draws=True,
    ),
    "translator": Row(
        tiny_translator(pairs="inpaint", game="hinge", spectral_norm=True, matching=1.0, average=0.9, accumulate=2)
    ),
    "unpaired translator": Row(
        # With two channels, dropout leaves some images none, and normalizing nothing makes rounding large.
        tiny_translator(pairs="negative", unpaired=True, width=4, identity=0.0, pool=16, dropout=0.2),
        draws=True,
        descends=False,
    ),
    "rotation": Row(tiny_rotation(average=0.9, accumulate=2, augment=Augment(translate=0.1)), draws=True),
}


def add_rows(file: str) -> None:
    """Adds a row for each preset of a system in a file: its default settings, with the optimizer of the other rows."""
    module = registry.load_file(file)
    for model in module.PRESETS:
        config = dataclasses.replace(registry.preset(model), optimizer=SGD)
        ROWS[model] = Row(config, draws=_draws(config))


def _draws(config: Task) -> bool:
    """Whether a step draws numbers: under another key it is another step."""
    system, batch = system_of(config), at(batches(config, 1, 8), 0)
    state = system.init(config, jax.random.key(0), batch)
    one, other = (system.train_step(state.replace(key=jax.random.key(seed)), batch)[0].players for seed in (1, 2))
    return not all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


DENSE = ["--architecture", "dense", "--width", "4", "--code", "5"]
SMALL = {
    "cnn": [],
    "autoencoder": DENSE,
    "vae": [*DENSE, "--eval-samples", "3"],
    "gan": ["--width", "8", "--judge-steps", "20"],
    "unet": ["--width", "4", "--depth", "2"],
    "resunet": ["--width", "4", "--depth", "1"],
    "detector": [
        *("--width", "4", "--image-size", "32", "--train-split", "train[:128]", "--test-split", "test[:32]"),
        *("--mesh", "data=1"),
    ],
    "rnn": ["--sequence", "rows", "--dataset", "digits", "--units", "8"],
    "glimpse": [
        *("--dataset", "digits", "--looks", "2", "--patch", "4", "--units", "8", "--width", "8", "--samples", "1")
    ],
    "video": [
        *("--dataset", "bouncing", "--image-size", "8", "--given", "2", "--forecast", "2"),
        *("--width", "2", "--hidden", "4", "--layers", "1", "--depth", "0"),
        *("--train-split", "train[:96]", "--validation-split", "validation[:32]", "--test-split", "test[:32]"),
    ],
    "agent": [
        *("--width", "4", "--glance", "4", "--moves", "3", "--copies", "1", "--samples", "32", "--no-cnn"),
        *("--image-size", "16", "--train-split", "train[:96]", "--test-split", "test[:32]"),
    ],
    "translator": [
        *("--width", "4", "--depth", "1", "--discriminator-width", "4", "--halvings", "1", "--judge-steps", "20"),
    ],
    "rotation": ["--width", "4"],
}
"""The models that commands are tried on, and the options that make them quick; other classifiers are like a cnn."""


def systems() -> dict[str, list[str]]:
    """The rows of each system that is tested, by the system's name."""
    found: dict[str, list[str]] = {}
    for name, row in ROWS.items():
        found.setdefault(registry.name_of(row.config), []).append(name)
    return found


def batches(config: Task, steps: int, size: int) -> dict[str, np.ndarray]:
    """What the system reads of ``steps`` batches of 8x8 images [steps, size, ...], and their places in the data.

    Each class is a different bright row on noise.
    """
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, (steps, size)).astype(np.int32)
    image = rng.integers(0, 100, (steps, size, SIDE, SIDE, 1))
    bright = np.arange(SIDE) == 2 * label[..., None]
    image[bright] += 150
    # A clip is the image, perhaps its reflection, and room for another frame.
    # The bright row is an object, and there is room for another.
    top = 2.0 * label[..., None]
    box = np.stack([top, 0 * top, top + 1, 0 * top + SIDE], -1).astype(np.float32)
    mask = np.broadcast_to(bright[..., None] * label[..., None, None], (steps, size, SIDE, SIDE))
    by_kind = {
        "image": image.astype(np.uint8),
        "class": label,
        "classes": np.eye(CLASSES, dtype=np.int32)[label],
        "mask": mask.astype(np.uint8),
        "boxes": np.concatenate([box, 0 * box], -2),
        "box_classes": np.stack([label, np.full_like(label, -1)], -1),
        "number": label.astype(np.float32),
        "clip": np.stack([image, image[..., ::-1, :, :], 0 * image], 2).astype(np.uint8),
        "length": 1 + label % 3,
    }
    reads = system_of(config).features_read(config)
    found = {name: by_kind[first_kind(kinds)] for name, kinds in reads.items()}
    index = np.arange(steps * size, dtype=np.int32).reshape(steps, size)
    return {**found, "index": index, "epoch": index // 20}


def first_kind(kinds: str) -> str:
    """The first alternative in ``"class|classes?"``."""
    return kinds.removesuffix("?").split("|")[0]


def at(batches: Mapping[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    """One of a stack of batches."""
    return {name: values[step] for name, values in batches.items()}
