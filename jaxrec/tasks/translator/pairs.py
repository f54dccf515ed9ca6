"""What is translated into what: the inputs and the targets of a batch."""

from collections.abc import Mapping

import jax

from jaxrec.augment import augment_examples
from jaxrec.augment.made_pairs import MADE
from jaxrec.settings.translator import Translator as Config
from jaxrec.tasks.inputs import places, scaled
from jaxrec.tasks.state import Batch


def second(config: Config) -> str:
    """The name of the second image in a batch: unpaired, it is no target of the first."""
    return "other" if config.unpaired else "target"


def translated(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What is translated, a value of ``pairs``, if examples have features of these shapes."""
    if config.pairs is not None:
        return config.pairs
    if second(config) in shapes:
        return "own"
    return "grey" if shapes["image"][-1] > 1 else "inpaint"


def translated_in(config: Config, batch: Batch) -> str:
    """What is translated in this batch; see ``translated``."""
    shapes = {name: values.shape for name, values in batch.items()}
    return translated(config, shapes)


def pair(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The inputs [B, H, W, C] and targets [B, H, W, D] of a batch, float32 in [0, 1]."""
    kind = translated_in(config, batch)
    images = scaled(batch["image"])
    if kind == "own":
        return images, scaled(batch[second(config)])
    # The image is the target, and what is translated is made of it.
    return MADE[kind](images), images


def augmented(config: Config, key: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The inputs and targets of a batch after augmentation, as in ``pair``.

    Both images of an example move alike, and pairs are made of images that have moved.
    """
    images = {"image": scaled(batch["image"])}
    other = second(config)
    if other in batch and config.pairs not in MADE:
        images[other] = scaled(batch[other])
    kinds = dict.fromkeys(images, "image")
    moved = augment_examples(config.augment, key, images, kinds, *places(batch))
    return pair(config, moved)


def knows_targets(config: Config, batch: Batch) -> bool:
    """Whether the second image of an example is what its first is to become."""
    return not config.unpaired or translated_in(config, batch) != "own"
