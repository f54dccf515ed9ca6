"""A split: the rows of a source that a run trains or tests on, their validation cut and their statistics."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from jaxrec.errors import UserError

Shape = tuple[int, int, int]
Read = Callable[[np.ndarray], dict[str, np.ndarray]]

KEPT = 2**30
"""Bytes of decoded images up to which a split is kept decoded from one run to the next."""
STATISTICS_SAMPLE = 20_000
"""Images enough for the statistics of a set too large to be held in memory."""


@dataclass(frozen=True)
class Source:
    """All images of a set, its splits one after the other; what each kind of set has to provide."""

    read: Read
    """Rows int [n] to image uint8 [n, H, W, C] and label int32 [n]; called from several threads."""
    sizes: dict[str, int]
    """Number of images in each split, in the order of the rows."""
    image_shape: Shape
    class_names: tuple[str, ...]
    identity: str
    """Names the content: equal for equal images."""
    skipped: int = 0
    version: str = ""
    """Differs where the files or their decoder may have changed; empty where decoded images are not to be kept."""


def from_arrays(images: np.ndarray, labels: np.ndarray) -> Read:
    """Reads rows of images uint8 [N, H, W, C] and labels int32 [N] that lie in memory."""
    return lambda rows: {"image": images[rows], "label": labels[rows]}


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels by index, from 0 to ``len(split) - 1``."""

    source: Read
    rows: np.ndarray
    image_shape: Shape
    kept: Path | None = None
    """The file in which the decoded images stay from one run to the next."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all images, decoded."""
        return len(self) * prod(self.image_shape)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at int indices [n], which may repeat: image uint8 [n, H, W, C], label int32 [n]."""
        return self.source(self.rows[indices])

    def load(self) -> dict[str, np.ndarray]:
        """All examples, read once: image uint8 [N, H, W, C], label int32 [N]."""
        image = np.empty((len(self), *self.image_shape), np.uint8)
        label = np.empty(len(self), np.int32)
        pieces = list(self._pieces(np.arange(len(self))))
        # Threads help where decoding outlasts Python's own share of the work; for small images they stand in line.
        with ThreadPoolExecutor(1 if prod(self.image_shape) < 2**14 else None) as pool:
            for piece, examples in zip(pieces, pool.map(self.read, pieces), strict=True):
                image[piece], label[piece] = examples["image"], examples["label"]
        return {"image": image, "label": label}

    def cached(self) -> "Split":
        """The same split decoded: held in memory or, with ``kept``, mapped from what an earlier run decoded."""
        examples = self._found()
        if examples is None:
            examples = self.load()
            self._keep(examples)
        return Split(from_arrays(examples["image"], examples["label"]), np.arange(len(self)), self.image_shape)

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype([("image", np.uint8, self.image_shape), ("label", np.int32)])

    def _found(self) -> dict[str, np.ndarray] | None:
        if self.kept is None:
            return None
        try:
            examples = np.load(self.kept, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # not there, or cut short
            return None
        if examples.dtype != self._dtype or examples.shape != (len(self),):
            return None
        return {"image": examples["image"], "label": np.array(examples["label"])}

    def _keep(self, examples: dict[str, np.ndarray]) -> None:
        """Writes the file; where there is no room or permission, the next run decodes again."""
        if self.kept is None:
            return
        table = np.empty(len(self), self._dtype)
        table["image"], table["label"] = examples["image"], examples["label"]
        with contextlib.suppress(OSError):
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.kept.parent, suffix=".part", delete=False) as file:
                try:
                    np.save(file, table)
                    file.flush()
                    os.fsync(file.fileno())
                    # In one go, so that other processes never see a part of it.
                    Path(file.name).replace(self.kept)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise

    def subset(self, indices: np.ndarray) -> "Split":
        """The split of the examples at int indices [n]."""
        return Split(self.source, self.rows[indices], self.image_shape)

    def _pieces(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Cuts indices into pieces of at most 1000 images and 16 MiB."""
        size = min(1000, max(1, 2**24 // prod(self.image_shape)))
        return (indices[start : start + size] for start in range(0, len(indices), size))

    def images(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """The images at int indices, a piece at a time: uint8 [n, H, W, C] with n at most 1000."""
        return (self.read(piece)["image"] for piece in self._pieces(indices))


def cut_validation(split: Split, share: float, seed: int = 0) -> tuple[Split, Split]:
    """Cuts a split into (train, validation); validation gets the rounded share, at least one example.

    The cut depends on the seed and the number of examples alone. Raises UserError if nothing would be left to train on.
    """
    count = max(1, round(share * len(split)))
    if not 0 < share < 1 or count >= len(split):
        raise UserError(
            f"validation share {share} of {len(split)} examples cannot be cut: "
            "expected a number between 0 and 1 that leaves at least one training example; change --validation"
        )
    order = np.random.default_rng(seed).permutation(len(split))
    return split.subset(np.sort(order[count:])), split.subset(np.sort(order[:count]))


def statistics(
    split: Split,
    sample: int | None = None,
    *,
    share: tuple[int, int] = (0, 1),
    merge: Callable[[np.ndarray], np.ndarray] = lambda counts: counts,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of image / 255, over all examples or a seeded sample of them.

    Exact over the images it reads: they are counted by value. A deviation is at least 1 / 255, so that dividing by it
    is safe. For a set that is streamed, ``sample=STATISTICS_SAMPLE`` keeps the start short. Process ``i`` of ``n``,
    given ``share=(i, n)``, reads every n-th image, and ``merge`` adds up the processes' counts.
    """
    indices = np.arange(len(split))
    if sample is not None and sample < len(split):
        indices = np.sort(np.random.default_rng(0).choice(len(split), sample, replace=False))
    channels = split.image_shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for images in split.images(indices[share[0] :: share[1]]):
        counts += np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(channels)])
    counts = merge(counts)
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    deviation = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.maximum(deviation, 1 / 255).tolist())
