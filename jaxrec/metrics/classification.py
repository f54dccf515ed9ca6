"""Metrics of a classifier, for one label per example and for several."""

from collections.abc import Mapping
from typing import Any, Self

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.metrics.meanings import Meaning
from jaxrec.metrics.sums import Metric, Results, at_least_one, count, ratio, real_examples, total

CONFIDENCE_BINS = 15
MOST_CLASSES_IN_CONFUSION = 200
"""With more classes the matrix would be a picture of pixels."""
CONFUSION = (
    "Confusion: rows are the true classes, columns the predicted ones; the darker, the larger its share of the row. "
    "Blue is right, red is wrong."
)
"""The caption of that picture."""
PRECISION = "Of the examples that are said to be of a class, the share that is"
RECALL = "Of the examples of a class, the share that is found"
F1 = "Harmonic mean of precision and recall"
EACH = "each class counts as much as another"
POOLED = "over all classes together"
BY_SIZE = "each class weighted by its number of examples"
MEANINGS = {
    "accuracy": Meaning("Share of the examples whose class is predicted.", "more"),
    "top5_accuracy": Meaning("Share of the examples whose class is among the five most probable ones.", "more"),
    "label_accuracy": Meaning("Share of right answers over all labels; high for a model that finds none.", "more"),
    "exact_match": Meaning("Share of the examples of which every label is right.", "more"),
    "precision_macro": Meaning(f"{PRECISION}; {EACH}.", "more"),
    "precision_micro": Meaning(f"{PRECISION}; {POOLED}.", "more"),
    "precision_weighted": Meaning(f"{PRECISION}; {BY_SIZE}.", "more"),
    "recall_macro": Meaning(f"{RECALL}; {EACH}.", "more"),
    "recall_micro": Meaning(f"{RECALL}; {POOLED}.", "more"),
    "recall_weighted": Meaning(f"{RECALL}; {BY_SIZE}.", "more"),
    "f1_macro": Meaning(f"{F1}; {EACH}.", "more"),
    "f1_micro": Meaning(f"{F1}; {POOLED}.", "more"),
    "f1_weighted": Meaning(f"{F1}; {BY_SIZE}.", "more"),
    "calibration_error": Meaning("How far the stated confidence is from the share that is right, on average.", "less"),
    "worst_class": Meaning("The class of which the smallest share is found.", "", "class"),
    "worst_class_accuracy": Meaning("Share of that class that is found.", "more"),
}


class Classification(Metric):
    """Single-label classification: confusion matrix, loss, top-5 and calibration."""

    confusion: jax.Array
    """int32 [C, C]; rows are true classes, columns predicted ones."""
    loss: jax.Array
    top5: jax.Array
    bin_count: jax.Array
    bin_confidence: jax.Array
    bin_correct: jax.Array

    @classmethod
    def from_batch(cls, logits: jax.Array, label: jax.Array, real: jax.Array | None, loss: jax.Array) -> Self:
        """From logits [B, C], label int32 [B] in [0, C), real bool [B] (None: all real) and loss [B]; pure.

        What padding holds, labels out of range included, does not matter.
        """
        chex.assert_rank([logits, label], [2, 1])
        classes = logits.shape[1]
        real = real_examples(real, logits.shape[0])
        logits = jnp.asarray(logits, jnp.float32)
        predicted = logits.argmax(axis=1)
        top5 = jax.lax.top_k(logits, min(5, classes))[1]
        confidence = jnp.where(real, jax.nn.softmax(logits).max(axis=1), 0.0)
        # Bins (m - 1, m] / 15 as in Guo et al. 2017.
        index = jnp.ceil(confidence * CONFIDENCE_BINS).astype(jnp.int32) - 1
        member = (index[:, None].clip(0) == jnp.arange(CONFIDENCE_BINS)) & real[:, None]
        return cls(
            confusion=jnp.zeros((classes, classes), jnp.int32).at[label, predicted].add(real.astype(jnp.int32)),
            loss=total(loss, real),
            top5=count((top5 == label[:, None]).any(axis=1) & real),
            bin_count=count(member, axis=0),
            bin_confidence=jnp.where(member, confidence[:, None], 0.0).sum(axis=0),
            bin_correct=count(member & (predicted == label)[:, None], axis=0),
        )

    def compute(self) -> Results:
        """Values by name; all shares are in [0, 1].

        loss, accuracy, top5_accuracy (more than 5 classes only); precision, recall and f1, each [C] and averaged:
        _macro over the classes that are true or predicted at least once, _micro and _weighted; support int64 [C], the
        examples of each class; calibration_error (expected calibration error, Guo et al. 2017, 15 equal bins);
        worst_class and worst_class_accuracy, its recall, over the classes present; confusion int64 [C, C].

        A class's precision is nan if it is never predicted, its recall if it never occurs, its f1 if neither; as in
        scikit-learn, averages count 0 there.
        """
        confusion = np.asarray(self.confusion, np.int64)
        examples = at_least_one(confusion.sum())
        hits, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        recall = ratio(hits, support, empty=np.nan)
        worst = int(np.nanargmin(recall))
        gaps = np.asarray(self.bin_correct, np.float64) - np.asarray(self.bin_confidence, np.float64)
        results: Results = {"loss": float(self.loss) / examples, "accuracy": float(hits.sum() / examples)}
        if len(confusion) > 5:
            results["top5_accuracy"] = int(self.top5) / examples
        results |= _retrieval(hits, predicted, support, averaged=support + predicted > 0)
        results["calibration_error"] = float(np.abs(gaps).sum() / examples)
        results["worst_class_accuracy"] = float(recall[worst])
        results["worst_class"] = worst
        results["confusion"] = confusion
        return results


class MultiLabel(Metric):
    """Independent yes or no per class, decided at probability 1/2; a binary problem is one class."""

    true_positive: jax.Array
    false_positive: jax.Array
    false_negative: jax.Array
    true_negative: jax.Array
    exact: jax.Array
    loss: jax.Array
    count: jax.Array

    @classmethod
    def from_batch(cls, logits: jax.Array, label: jax.Array, real: jax.Array | None, loss: jax.Array) -> Self:
        """From logits [B, C], label [B, C] in {0, 1}, real bool [B] (None: all real) and loss [B]; pure."""
        chex.assert_equal_shape([logits, label])
        chex.assert_rank(logits, 2)
        real = real_examples(real, logits.shape[0])
        counted = real[:, None]
        yes, true = logits > 0, jnp.asarray(label, bool)
        return cls(
            true_positive=count(yes & true & counted, axis=0),
            false_positive=count(yes & ~true & counted, axis=0),
            false_negative=count(~yes & true & counted, axis=0),
            true_negative=count(~yes & ~true & counted, axis=0),
            exact=count((yes == true).all(axis=1) & real),
            loss=total(loss, real),
            count=count(real),
        )

    def compute(self) -> Results:
        """Values by name; all shares are in [0, 1].

        loss; label_accuracy, the share of right answers over all labels, which is high for a model that finds nothing
        if labels are rare; exact_match, the share of examples with every label right; precision, recall and f1, each
        [C] and averaged: _macro over all classes, _micro and _weighted; support int64 [C], the examples that have each
        label. What is undefined for a class is nan; as in scikit-learn, averages count 0 there.
        """
        examples = at_least_one(self.count)
        tp, fp = np.asarray(self.true_positive, np.int64), np.asarray(self.false_positive, np.int64)
        fn, tn = np.asarray(self.false_negative, np.int64), np.asarray(self.true_negative, np.int64)
        return {
            "loss": float(self.loss) / examples,
            "label_accuracy": float((tp + tn).sum() / (tp + fp + fn + tn).sum()),
            "exact_match": int(self.exact) / examples,
            **_retrieval(tp, tp + fp, tp + fn, averaged=np.ones(len(tp), bool)),
        }


def _retrieval(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray, *, averaged: np.ndarray) -> Results:
    """Precision, recall and F1 of each class, and their averages as scikit-learn's with zero_division=0.

    The macro averages are taken over the classes that are ``averaged``, bool [C].
    """
    fractions = {
        "precision": (hits, predicted),
        "recall": (hits, support),
        "f1": (2 * hits, predicted + support),
    }
    averages, per_class = {}, {}
    for name, (top, bottom) in fractions.items():
        values = ratio(top, bottom)
        averages[f"{name}_macro"] = float(values[averaged].mean())
        averages[f"{name}_micro"] = float(ratio(top.sum(), bottom.sum()))
        averages[f"{name}_weighted"] = float(ratio((values * support).sum(), support.sum()))
        per_class[name] = ratio(top, bottom, empty=np.nan)
    return {**averages, **per_class, "support": support}


def summary_pictures(results: Mapping[str, Any]) -> dict[str, Any]:
    """The confusion matrix of the test split, unless the classes are too many to see."""
    matrix = results.get("confusion")
    if matrix is None or len(matrix) > MOST_CLASSES_IN_CONFUSION:
        return {}
    return {"confusion_matrix": {"matrix": np.asarray(matrix)}}
