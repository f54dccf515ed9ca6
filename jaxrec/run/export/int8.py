"""An exported ONNX file in 8 bits: ranges of activations from training examples, weights channel by channel."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxrec.data import Split

AT_ONCE = 32
"""Examples that ranges are taken from at once."""


def write_int8(path: Path, split: Split, count: int) -> Path:
    """Writes the model at ``path`` in 8 bits, as the same file in the folder ``int8`` beside it.

    Sums stay 32 bits wide.

    Args:
        path: an ONNX file of one input, images or clips.
        split: the training examples.
        count: how many of them the ranges are taken from.

    Returns:
        The path of the file; the script that uses it lies beside it.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = _batches(path, split, count)

    class Examples(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    folder = path.parent / "int8"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        prepared, made = Path(scratch) / "prepared.onnx", Path(scratch) / "made.onnx"
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(made),
            Examples(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        (folder / path.name).write_bytes(made.read_bytes())
    script = path.parent / "use_onnx.py"
    (folder / script.name).write_bytes(script.read_bytes())
    return folder / path.name


def _batches(path: Path, split: Split, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Some examples, evenly spread over the split, as inputs of the model at ``path``."""
    import onnxruntime

    name = onnxruntime.InferenceSession(str(path)).get_inputs()[0].name
    places = np.linspace(0, len(split) - 1, min(count, len(split))).astype(np.int64)
    for part in np.array_split(places, -(-len(places) // AT_ONCE)):
        yield {name: split.read(part)[name]}
