"""Uses model.onnx without jaxrec; needs onnxruntime, numpy and pillow.

python use_onnx.py PHOTO...                   prints an answer for each photo
python use_onnx.py INPUTS.npz ANSWERS.npz     inputs and answers as arrays by name
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])


def run(inputs):
    """The answers by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def read(path):
    """A photo as the model takes it, [1, height, width, channels]."""
    _, height, width, channels = session.get_inputs()[0].shape
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
