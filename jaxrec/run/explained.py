"""Explanations of what a trained run says of images, some images at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.after.explain import Settings, explain
from jaxrec.data.features import at_once
from jaxrec.errors import UserError
from jaxrec.run.trained import Trained
from jaxrec.tasks.inputs import frames

MOST = 8
"""Images or clips that are explained at once, at most."""


class Explained(NamedTuple):
    """What is explained of N images, and the explanations."""

    target: dict[str, np.ndarray]
    """``class`` int32 [N], -1 if there was nothing to explain; ``box`` or ``where`` if the system gives them."""
    score: np.ndarray
    """float32 [N]."""
    maps: dict[str, np.ndarray]
    """float32 [N, H, W], or [N, T, H, W] of clips, by the method's name."""


@dataclass
class Explainer:
    """Explains what a run says; compiles once for each method and size of images.

    Raises UserError if the run's system gives nothing that could be explained.
    """

    trained: Trained
    methods: Sequence[str]
    """Of ``jaxrec.after.explain.METHODS``."""
    settings: Settings = field(default_factory=Settings)
    wanted: int | None = None
    """The number of the class to explain; default: what the run says itself."""
    seed: int = 0

    def __post_init__(self) -> None:
        system = self.trained.system
        if system.explained is None or system.targets is None:
            raise UserError(
                f"'{self.trained.folder.name}' is a run of {self.trained.config.task.model}, which gives no score of a "
                "class that could be explained; expected a run that classifies, segments or detects"
            )
        self._scored = jax.jit(system.explained)
        self._mapped = {method: jax.jit(partial(self._maps, method)) for method in self.methods}

    def __call__(self, inputs: np.ndarray, length: np.ndarray | None = None) -> Explained:
        """Explains images [N, H, W, C], or clips [N, T, H, W, C] and their lengths [N], as ``predict`` takes them.

        Raises UserError if a method does not suit the network.
        """
        trained = self.trained
        lengths = () if length is None else (length,)
        outputs = trained.predict(inputs, *lengths)
        assert trained.system.targets is not None
        target = trained.system.targets(trained.config.task, outputs, self.wanted)
        size = at_once(MOST, inputs.shape[1:])
        parts = []
        for start in range(0, len(inputs), size):
            # Filled up with the last one, so that one program serves all.
            places = np.minimum(np.arange(start, start + size), len(inputs) - 1)
            chosen = {name: values[places] for name, values in target.items()}
            # The class of nothing to explain is none that an array has.
            chosen["class"] = np.maximum(chosen["class"], 0)
            shown = (np.asarray(frames(inputs[places])), chosen, *(each[places] for each in lengths))
            found = {"score": self._scored(trained.state, *shown)}
            for method, maps in self._mapped.items():
                found[method] = maps(trained.state, *shown)
            parts.append(jax.device_get(found))
        joined = {name: np.concatenate([part[name] for part in parts])[: len(inputs)] for name in parts[0]}
        return Explained(target, joined.pop("score"), joined)

    def _maps(self, method: str, state: Any, *shown: Any) -> jax.Array:
        """The explanations of several images with their targets, and of clips with their lengths."""
        explained = self.trained.system.explained
        assert explained is not None

        def of_one(image: jax.Array, *about: Any) -> jax.Array:
            def score(variants: jax.Array) -> jax.Array:
                def for_each(value: jax.Array) -> jax.Array:
                    return jnp.broadcast_to(value, (len(variants), *value.shape))

                return explained(state, variants, *jax.tree.map(for_each, about))

            return explain(method, score, image, jax.random.key(self.seed), self.settings)

        return jax.vmap(of_one)(*shown)


def true_regions(
    features: Mapping[str, Any], examples: Mapping[str, np.ndarray], number: np.ndarray
) -> np.ndarray | None:
    """Where the classes int [N] truly are in N examples: bool [N, H, W]; None if they hold neither mask nor box.

    Args:
        features: of the examples.
        examples: as a split gives them, with ``image`` [N, H, W, C].
        number: of the class of each.
    """
    by_kind = {feature.kind: name for name, feature in features.items() if name in examples}
    if "mask" in by_kind:
        return examples[by_kind["mask"]] == number[:, None, None]
    if "boxes" not in by_kind or "image" not in examples:
        return None
    height, width = examples["image"].shape[1:3]
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    regions = np.zeros((len(number), height, width), bool)
    every = zip(regions, examples[by_kind["boxes"]], examples[by_kind["box_classes"]], number, strict=True)
    for region, boxes, classes, wanted in every:
        for y0, x0, y1, x1 in boxes[classes == wanted]:
            region |= (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    return regions
