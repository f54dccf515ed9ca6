"""Metrics of a detector: average precision as COCO and Pascal VOC define it, and how well it counts.

The boxes of every image are kept, and all is computed on the host: matching is done once, and what is asked of other
samples of the images is computed from the matches.
"""

from collections.abc import Mapping
from typing import Any, Self

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.metrics import precision
from jaxrec.metrics.matching import Images, matched
from jaxrec.metrics.precision import mean_of_defined
from jaxrec.metrics.sums import Metric, Results, at_least_one, real_examples


class Detections(Metric):
    """Boxes found and true boxes of every image. It merges on the host alone, by joining arrays, not by ``psum``."""

    boxes: jax.Array
    """float32 [B, K, 4]."""
    scores: jax.Array
    """float32 [B, K]."""
    classes: jax.Array
    """int32 [B, K]; -1 is no detection."""
    true_boxes: jax.Array
    """float32 [B, N, 4]."""
    true_classes: jax.Array
    """int32 [B, N]; -1 is no box."""
    real: jax.Array
    """bool [B], False for padding."""
    class_count: int = flax.struct.field(pytree_node=False)
    counted_from: float = flax.struct.field(pytree_node=False, default=0.5)
    interval: bool = flax.struct.field(pytree_node=False, default=True)
    voc: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def from_batch(
        cls,
        boxes: jax.Array,
        scores: jax.Array,
        classes: jax.Array,
        true_boxes: jax.Array,
        true_classes: jax.Array,
        real: jax.Array | None = None,
        *,
        class_count: int,
        counted_from: float = 0.5,
        interval: bool = True,
        voc: bool = False,
    ) -> Self:
        """From what was found and what is there in a batch; pure.

        Args:
            boxes: floats [B, K, 4] of y0, x0, y1, x1 in pixels, in any order, as ``jaxrec.boxes.nms`` gives them.
            scores: floats [B, K].
            classes: int32 [B, K]; -1 for no detection.
            true_boxes: floats [B, N, 4].
            true_classes: int32 [B, N]; -1 for no box.
            real: bool [B], False for padding (None: all real). Images without true boxes count.
            class_count: the number of classes, C.
            counted_from: the score from which on detections are counted as things, for ``count_error``.
            interval: whether to compute intervals of map and map50.
            voc: whether to compute Pascal VOC's average precision, too.
        """
        chex.assert_rank([boxes, scores, classes, true_boxes, true_classes], [3, 2, 2, 3, 2])
        chex.assert_equal_shape_prefix([boxes, scores, classes], 2)
        chex.assert_equal_shape_prefix([true_boxes, true_classes], 2)
        return cls(
            boxes=jnp.asarray(boxes, jnp.float32),
            scores=jnp.asarray(scores, jnp.float32),
            classes=jnp.asarray(classes, jnp.int32),
            true_boxes=jnp.asarray(true_boxes, jnp.float32),
            true_classes=jnp.asarray(true_classes, jnp.int32),
            real=real_examples(real, len(boxes)),
            class_count=class_count,
            counted_from=counted_from,
            interval=interval,
            voc=voc,
        )

    def merge(self, other: Self) -> Self:
        """The images of both."""
        return jax.tree.map(lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)]), self, other)

    def compute(self) -> Results:
        """Values by name; shares are in [0, 1], and what is undefined is nan.

        COCO's, with at most 100 detections of a class in an image, means over the classes that have true boxes: map,
        the mean over IoUs from .5 to .95 of the average precision at 101 recalls; map50 and map75, at one IoU;
        map_small, map_medium and map_large, of boxes of up to 32 x 32, up to 96 x 96 and more pixels; mar, the mean
        over IoUs of the share of boxes that is found.

        By class, float64 [C], nan for classes without true boxes: ap50 and ap, the average precision at IoU .5 and the
        mean over IoUs; recall, the share of its boxes that is found at IoU .5; count_error, the mean over images of the
        absolute difference between the number of true boxes and that of detections of score ``counted_from`` or more;
        and count_error_mean, its mean over the classes that have true boxes.

        For pictures: precision_at_recalls float64 [C, 101], the curve of each class at IoU .5; counts int64 [M, 4],
        how many images (the last column) of each class (the first) have how many true boxes and detections.

        With ``interval``: map_low, map_high, map50_low and map50_high, the 2.5th and 97.5th percentiles over 200
        samples of the images, drawn with replacement from a fixed seed. With ``voc``: voc_ap50 [C] and voc_map50, all
        points under the curve, where a detection is wrong if a better one has found the box that it overlaps most.

        Raises ValueError if there is no real image, or a class number is too large.
        """
        images = self._images()
        matches = matched(images)
        precisions = precision.average_precisions(images, matches)
        present = images.truths.sum(axis=0) > 0
        results: Results = {"map": mean_of_defined(precisions["all"])}
        results["map50"] = mean_of_defined(precisions["all"][0])
        results["map75"] = mean_of_defined(precisions["all"][5])
        for size in ("small", "medium", "large"):
            results[f"map_{size}"] = mean_of_defined(precisions[size])
        recalls = precision.found_shares(images, matches)
        results["mar"] = mean_of_defined(recalls)
        predicted = images.detected(self.counted_from)
        errors = np.where(present, np.abs(images.truths - predicted).mean(axis=0), np.nan)
        results["count_error_mean"] = mean_of_defined(errors)
        if self.interval:
            results |= precision.intervals(images, matches)
        if self.voc:
            voc = precision.voc_precisions(images)
            results |= {"voc_map50": mean_of_defined(voc), "voc_ap50": voc}
        results["ap50"] = precisions["all"][0]
        results["ap"] = precisions["all"].mean(axis=0)
        results["recall"] = recalls[0]
        results["count_error"] = errors
        results["precision_at_recalls"] = precision.precision_curves(images, matches)
        results["counts"] = _counted_pairs(images.truths, predicted)
        return results

    def _images(self) -> Images:
        """The real images; raises ValueError if there is none."""
        real = np.asarray(self.real)
        at_least_one(real.sum())

        def counted(values: Any) -> np.ndarray:
            return np.asarray(values)[real]

        return Images.of(
            counted(self.boxes),
            counted(self.scores),
            counted(self.classes),
            counted(self.true_boxes),
            counted(self.true_classes),
            self.class_count,
        )


def summary_pictures(results: Mapping[str, Any]) -> dict[str, Any]:
    """The curves of precision over recall, and of each class the numbers of boxes there and detected.

    ``results`` are those of :class:`Detections`, or what was read of them from a JSON file.
    """
    # JSON has no nan but null, of which float makes a nan.
    curves = np.array(results["precision_at_recalls"], float)
    return {
        "precision_recall": {"curves": curves, "at": precision.RECALLS, "axes": ("recall", "precision")},
        "counts": {"counts": np.array(results["counts"])},
    }


def _counted_pairs(truths: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Class, true number, predicted number, and the images that have them, int64 [M, 4], of counts [I, C]."""
    kinds = np.broadcast_to(np.arange(truths.shape[1]), truths.shape)
    rows, images = np.unique(np.stack([kinds, truths, predicted], axis=-1).reshape(-1, 3), axis=0, return_counts=True)
    return np.concatenate([rows, images[:, None]], axis=1)
