"""Images drawn from a seed: four shapes on noise, learnable within seconds, with their masks and boxes."""

import numpy as np

from jaxrec.data.boxes import around
from jaxrec.data.features import Feature
from jaxrec.data.reads import Reads, chosen_features
from jaxrec.data.sizes import Size
from jaxrec.data.splits import Source, from_arrays

CLASSES = ("disc", "square", "cross", "stripes")
SIZES = {"train": 1024, "test": 256}


def open_synthetic(reads: Reads, size: Size) -> Source:
    """1024 training and 256 test images of a height and width in RGB; the same every time.

    The label is the shape's class; the mask says which pixels belong to the shape, and the box is the one around them.
    """
    features = {
        "image": Feature("image", (*size, 3), "uint8"),
        "label": Feature("class", (), "int32", CLASSES),
        "mask": Feature("mask", size, "uint8", ("background", *CLASSES)),
        "boxes": Feature("boxes", (1, 4), "float32"),
        "box_classes": Feature("box_classes", (1,), "int32", CLASSES),
    }
    chosen, features = chosen_features("synthetic", reads, features)
    drawn = _draw(size)
    read = from_arrays({name: drawn[key] for name, key in chosen.items()})
    return Source(read, SIZES, features, identity=f"synthetic 1 {size[0]}x{size[1]}")


def _draw(size: Size) -> dict[str, np.ndarray]:
    count, rng = sum(SIZES.values()), np.random.Generator(np.random.Philox(0))
    label = rng.permutation(np.arange(count, dtype=np.int32) % len(CLASSES))
    radius = rng.uniform(0.22, 0.32, (count, 1, 1))
    center = rng.uniform(-0.1, 0.1, (2, count, 1, 1))
    color = rng.uniform(0.5, 0.9, (count, 1, 1, 3))
    ground = rng.uniform(0.1, 0.4, (count, 1, 1, 3))

    down, across = ((np.arange(side) + 0.5) / side - 0.5 for side in size)
    y, x = (down[:, None] - center[0]) / radius, (across[None, :] - center[1]) / radius
    inside = np.maximum(abs(x), abs(y)) < 1
    shapes = [
        x**2 + y**2 < 1.2,
        inside,
        inside & (np.minimum(abs(x), abs(y)) < 0.3),
        inside & (np.floor((y + 1) * 2.5) % 2 == 0),
    ]
    shape = np.choose(label[:, None, None], shapes)
    noise = rng.uniform(-0.1, 0.1, (count, *size, 3))
    image = np.rint(255 * (np.where(shape[..., None], color, ground) + noise)).clip(0, 255).astype(np.uint8)
    mask = np.where(shape, label[:, None, None] + 1, 0).astype(np.uint8)
    boxes, _ = around(shape)
    drawn = {"image": image, "label": label, "mask": mask}
    return {**drawn, "boxes": boxes[:, None], "box_classes": label[:, None]}
