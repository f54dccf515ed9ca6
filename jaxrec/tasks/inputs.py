"""What a system makes of a batch before its model sees it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.augment import augment
from jaxrec.data.features import at_once
from jaxrec.errors import UserError
from jaxrec.parallel import stream
from jaxrec.settings import Task
from jaxrec.tasks.state import Batch, State

LARGEST = {"uint8": 255, "uint16": 65535}
COMPOSED = 0.85
"""Share of the run after which no images are put together any more: the last steps see what evaluation will see."""
FEWEST = 4
"""Images on a sheet of the largest ones."""


def scaled(image: Any) -> jax.Array:
    """Images as float32 in [0, 1]: uint8 divided by 255, uint16 by 65535, floats as they are.

    Raises UserError for another dtype, and for anything but [B, H, W, C].
    """
    known = str(image.dtype) in LARGEST or jnp.issubdtype(image.dtype, jnp.floating)
    if image.ndim != 4 or not known:
        raise UserError(
            f"the images are {image.dtype} {image.shape}; expected [batch, height, width, channels] of uint8, uint16 "
            "or floats in [0, 1]"
        )
    values = jnp.asarray(image, jnp.float32)
    if str(image.dtype) in LARGEST:
        return values / LARGEST[str(image.dtype)]
    return values


def frames(values: Any) -> jax.Array:
    """Images [B, H, W, C] or clips [B, T, H, W, C] as float32 in [0, 1]; see ``scaled``, which is asked of images."""
    if values.ndim != 5:
        return scaled(values)
    return scaled(values.reshape(-1, *values.shape[2:])).reshape(values.shape)


def pixels(batch: Batch) -> jax.Array:
    """The batch's images as float32 in [0, 1]; see ``scaled``."""
    return scaled(batch["image"])


def image_shape(batch: Batch) -> tuple[int, int, int]:
    """Height, width and channels of the batch's images."""
    image = batch["image"]
    if image.ndim != 4:
        raise UserError(f"batch['image'] is {image.shape}; expected [batch, height, width, channels]")
    height, width, channels = image.shape[1:]
    return height, width, channels


def sheet_size(rows: int, columns: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a sheet of generated images of this shape: as given, or fewer if the images are large."""
    most = max(FEWEST, at_once(rows * columns, shape))
    columns = min(columns, most)
    return min(rows, most // columns), columns


def lengths(batch: Batch) -> jax.Array:
    """How many frames of each of the batch's clips are there, int32 [B], at least 1; all if the batch does not say."""
    size, time = batch["clip"].shape[:2]
    length = batch.get("length", jnp.full(size, time, jnp.int32))
    return jnp.clip(length.astype(jnp.int32), 1, time)


def places(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """``index`` and ``epoch`` of the batch's examples, int32 [B].

    A batch without them counts as the first examples in the first epoch.
    """
    size = next(iter(batch.values())).shape[0]
    index = batch.get("index", jnp.arange(size, dtype=jnp.int32))
    epoch = batch.get("epoch", jnp.zeros((size,), jnp.int32))
    return index, epoch


def augmented(config: Task, key: jax.Array, batch: Batch) -> jax.Array:
    """The batch's images as float32 in [0, 1] after the configured augmentation."""
    return augment(config.augment, key, pixels(batch), *places(batch))


def augmented_batch(state: Any, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``batch``: the images of a batch as ``augmented`` leaves them, float32 [B, 1, H, W, C] in [0, 1].

    The ``seen`` of systems whose training step does nothing else to them and draws from the stream "augment".
    """
    images = augmented(state.config, stream(state.key, "augment", state.step), batch)
    return {"batch": {"images": images[:, None]}}


def composing(state: State) -> jax.Array | bool:
    """Whether this step may put images together, bool scalar: always if the length of the run is not known."""
    steps = state.config.optimizer.steps
    return state.step < round(COMPOSED * steps) if steps else True


def rgb(images: jax.Array) -> jax.Array:
    """Images [..., C] of any number of channels as three: gray repeated, or the first three."""
    if images.shape[-1] < 3:
        images = images[..., :1]
    return jnp.broadcast_to(images[..., :3], (*images.shape[:-1], 3))


def example_keys(batch: Batch, name: str) -> jax.Array:
    """A key per example [B], drawn from its ``index`` alone.

    Evaluation draws with them, so that it does not depend on the size of a batch and is the same for all models.
    """
    index, _ = places(batch)
    return jax.vmap(partial(stream, jax.random.key(0), name))(index)
