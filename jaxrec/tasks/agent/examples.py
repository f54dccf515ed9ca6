"""The images that a box moves over, with the objects to be found in them, and what the network reads of them."""

import jax
import jax.numpy as jnp

from jaxrec.augment import augment_examples, standardize
from jaxrec.settings.agent import Agent as Config
from jaxrec.tasks.inputs import pixels, places, scaled
from jaxrec.tasks.state import Batch, State

READS = {"image": "image", "boxes": "boxes", "label": "box_classes"}
Examples = dict[str, jax.Array]
"""``image`` uint8 [B, H, W, C], ``boxes`` float32 [B, N, 4] as shares of the image's sides, and ``there`` bool [B, N],
which of them are to be found; empty in an environment without images."""


def examples_of(config: Config, batch: Batch) -> Examples:
    """The examples of a batch.

    The images are bytes, so that the replay holds many.
    """
    image = batch["image"]
    height, width = image.shape[1:3]
    if image.dtype != jnp.uint8:
        image = jnp.round(scaled(image) * 255).astype(jnp.uint8)
    label = batch["label"].astype(jnp.int32)
    # Boxes that fill up the room have the class -1.
    there = label >= 0 if config.target_class < 0 else label == config.target_class
    sides = jnp.array([height, width, height, width], jnp.float32)
    return {"image": image, "boxes": batch["boxes"].astype(jnp.float32) / sides, "there": there}


def blank(config: Config, image: jax.Array) -> Examples:
    """The examples of images [B, H, W, C] in which nothing is to be found."""
    count = image.shape[0]
    boxes = jnp.zeros((count, 1, 4), jnp.float32)
    label = jnp.full((count, 1), -1, jnp.int32)
    return examples_of(config, {"image": image, "boxes": boxes, "label": label})


def augmented(state: State, key: jax.Array, batch: Batch) -> Batch:
    """Images in [0, 1], boxes and classes after augmentation."""
    examples = {"image": pixels(batch), "boxes": batch["boxes"], "label": batch["label"]}
    return augment_examples(state.config.augment, key, examples, READS, *places(batch))


def kept(examples: Examples) -> Examples:
    """What the network reads of the examples, as the replay keeps it: the images, if there are any."""
    return {name: values for name, values in examples.items() if name == "image"}


def read(config: Config, examples: Examples) -> Examples:
    """The same as the network reads it: standardized, float32."""
    return {name: standardize(values, config.mean, config.std) for name, values in kept(examples).items()}
