"""Metrics of a class per pixel, from one confusion matrix of the whole split."""

from typing import Self

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.metrics.sums import Metric, Results, at_least_one, count, ratio, real_examples, total


def pixels_that_count(mask: jax.Array, classes: int, void: int | None) -> jax.Array:
    """Which pixels have a class, bool: those of an integer ``mask`` from 0 to ``classes`` - 1 that are not ``void``."""
    counted = (mask >= 0) & (mask < classes)
    return counted if void is None else counted & (mask != void)


class Pixels(Metric):
    """Semantic segmentation: confusion matrix of pixels, and the loss per image."""

    confusion: jax.Array
    """int32 [C, C]; rows are true classes, columns predicted ones. Pixels of no class are in neither."""
    loss: jax.Array
    count: jax.Array
    """The number of real images."""

    @classmethod
    def from_batch(
        cls, logits: jax.Array, mask: jax.Array, real: jax.Array | None, loss: jax.Array, *, void: int | None = None
    ) -> Self:
        """From logits [B, H, W, C], true classes int [B, H, W], real bool [B] (None: all real) and loss [B]; pure.

        A pixel counts if its image is real and its value is a class, 0 to C - 1, and not ``void``. Raises ValueError
        for a batch of 2**31 pixels or more, which an int32 could not count; larger sums are made by ``merge``, on the
        host.
        """
        chex.assert_rank([logits, mask], [4, 3])
        chex.assert_equal_shape_prefix([logits, mask], 3)
        if mask.size >= 2**31:
            raise ValueError(
                f"a batch of {mask.size} pixels cannot be counted; expected fewer than 2**31: cut the batch"
            )
        classes = logits.shape[-1]
        real = real_examples(real, len(mask))
        mask = mask.astype(jnp.int32)
        counted = real[:, None, None] & pixels_that_count(mask, classes, void)
        predicted = logits.argmax(axis=-1).astype(jnp.int32)
        # One place of the flat matrix per pixel; what does not count is sent outside, and dropped.
        place = jnp.where(counted, mask * classes + predicted, classes * classes)
        confusion = jnp.zeros(classes * classes, jnp.int32).at[place.reshape(-1)].add(1, mode="drop")
        return cls(confusion=confusion.reshape(classes, classes), loss=total(loss, real), count=count(real))

    def compute(self) -> Results:
        """Values by name, from the one matrix of all pixels; all shares are in [0, 1].

        iou [C], hits over the pixels that are of the class or predicted as it, nan if there are none; miou, its mean
        over the classes that are not nan; dice, the same mean of 2 x hits over the sum of both sides;
        frequency_weighted_iou, weighted by the share of true pixels; pixel_accuracy; loss, mean over images;
        confusion int64 [C, C]. Raises ValueError if no pixel was counted.
        """
        confusion = np.asarray(self.confusion, np.int64)
        pixels = at_least_one(confusion.sum())
        hits, true, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        iou = ratio(hits, true + predicted - hits, empty=np.nan)
        dice = ratio(2 * hits, true + predicted, empty=np.nan)
        return {
            "loss": float(self.loss) / at_least_one(self.count),
            "miou": float(np.nanmean(iou)),
            "pixel_accuracy": float(hits.sum() / pixels),
            "dice": float(np.nanmean(dice)),
            "frequency_weighted_iou": float(np.nansum(true * iou) / pixels),
            "iou": iou,
            "confusion": confusion,
        }
