"""Images in arrays, resized as those of files are."""

from dataclasses import replace

import numpy as np

from jaxrec.data.features import Feature
from jaxrec.data.files import Options
from jaxrec.data.images import convert_to
from jaxrec.data.sizes import told
from jaxrec.data.splits import Source


def resized(source: Source, options: Options) -> Source:
    """The source with its images, uint8 of 1 or 3 channels, brought to the options' size; as it is without one."""
    if options.size is None:
        return source
    features = dict(source.features)
    remarks = source.remarks
    for name, feature in features.items():
        if feature.kind == "image":
            height, width, channels = feature.shape
            features[name] = feature._replace(shape=(*options.size, channels), resize=options.resize)
            remarks += told([(height, width)] * sum(source.sizes.values()), options.size, options.resize)

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        examples = source.read(rows)
        for name, feature in features.items():
            if feature.kind == "image":
                examples[name] = _converted(examples[name], feature)
        return examples

    return replace(source, read=read, features=features, remarks=remarks)


def _converted(images: np.ndarray, feature: Feature) -> np.ndarray:
    from PIL import Image

    converted = np.empty((len(images), *feature.shape), np.uint8)
    for place, image in enumerate(images):
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        converted[place] = convert_to(Image.fromarray(pixels), feature)
    return converted
