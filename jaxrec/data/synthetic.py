"""Images drawn from a seed: four shapes on noise, learnable within seconds."""

import numpy as np

from jaxrec.data.splits import Source, from_arrays

CLASSES = ("disc", "square", "cross", "stripes")
SIZES = {"train": 1024, "test": 256}


def open_synthetic(image_size: int | None) -> Source:
    """1024 training and 256 test images of ``image_size`` (32) pixels a side in RGB; the same every time."""
    size, count, rng = image_size or 32, sum(SIZES.values()), np.random.Generator(np.random.Philox(0))
    label = rng.permutation(np.arange(count, dtype=np.int32) % len(CLASSES))
    radius = rng.uniform(0.22, 0.32, (count, 1, 1))
    centre = rng.uniform(-0.1, 0.1, (2, count, 1, 1))
    colour = rng.uniform(0.5, 0.9, (count, 1, 1, 3))
    ground = rng.uniform(0.1, 0.4, (count, 1, 1, 3))

    place = (np.arange(size) + 0.5) / size - 0.5
    y, x = (place[:, None] - centre[0]) / radius, (place[None, :] - centre[1]) / radius
    inside = np.maximum(abs(x), abs(y)) < 1
    shapes = [
        x**2 + y**2 < 1.2,
        inside,
        inside & (np.minimum(abs(x), abs(y)) < 0.3),
        inside & (np.floor((y + 1) * 2.5) % 2 == 0),
    ]
    shape = np.choose(label[:, None, None], shapes)[..., None]
    noise = rng.uniform(-0.1, 0.1, (count, size, size, 3))
    images = np.rint(255 * (np.where(shape, colour, ground) + noise)).clip(0, 255).astype(np.uint8)
    return Source(from_arrays(images, label), SIZES, (size, size, 3), CLASSES, identity=f"synthetic 1 {size}")
