"""Uses model.stablehlo without jaxrec; needs jax, numpy and pillow.

python use_stablehlo.py PHOTO...                   prints an answer for each photo
python use_stablehlo.py INPUTS.npz ANSWERS.npz     inputs and answers as arrays by name
"""

import json
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageOps

with zipfile.ZipFile(Path(__file__).with_name("model.stablehlo")) as files:
    about = json.loads(files.read("metadata.json"))
    program = jax.export.deserialize(bytearray(files.read("program.bin")))
classes = about["classes"]


def run(inputs):
    """The answers by name."""
    return program.call(*(inputs[name] for name in about["inputs"]))


def read(path):
    """A photo as the model takes it, [1, height, width, channels]."""
    height, width, channels = about["inputs"]["image"]["shape"]
    photo = ImageOps.exif_transpose(Image.open(path)).convert("L" if channels == 1 else "RGB")
    return np.asarray(ImageOps.fit(photo, (width, height)), np.uint8).reshape(1, height, width, channels)


if sys.argv[1].endswith(".npz"):
    np.savez(sys.argv[2], **run(dict(np.load(sys.argv[1]))))
else:
    for path in sys.argv[1:]:
        answers = run({"image": read(path)})
        if "probabilities" in answers and answers["probabilities"].shape == (1, len(classes)):
            best = answers["probabilities"][0].argmax()
            print(path, classes[best], answers["probabilities"][0, best])
        else:
            print(path, {name: value[0].tolist() for name, value in answers.items()})
