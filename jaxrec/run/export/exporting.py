"""A trained run written as a file for another runtime, and that file run by its own runtime on real examples."""

import io
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxrec
from jaxrec.data import Split, class_names, image_shape, pictured
from jaxrec.errors import UserError
from jaxrec.files import write_atomically
from jaxrec.models.cpu.forms import plain_forms
from jaxrec.run.trained import Trained
from jaxrec.settings import to_dict

Named = Callable[..., Mapping[str, jax.Array]]
"""A function of arrays that gives arrays by name."""
PLATFORMS = ("cpu", "cuda", "tpu")
"""Those that a StableHLO program can run on."""
CHECKED = 64
"""Examples that an exported file is checked with."""
TOLERANCE = 1e-4
"""Largest difference of an exported file's answers from the run's: absolute, or of large numbers relative."""
PIECE = 2**23
"""Most numbers in the inputs that a file is given at once."""
TIMED = 2.0
"""Seconds for which an exported file is timed."""


def inputs_of(trained: Trained) -> dict[str, tuple[tuple[int, ...], Any]]:
    """What the run's ``predict`` is given, by name: the shape of one example, and the dtype."""
    if trained.system.drawn_from is not None:
        return dict(trained.system.drawn_from(trained.config.task))
    trained.check_reads_images()
    feature = pictured(trained.features)
    return {feature.kind: (tuple(feature.shape), np.dtype(feature.dtype))}


def function_of(trained: Trained) -> Named:
    """The run's ``predict``, with its parameters, as a function of the arrays of ``inputs_of``."""
    names = list(inputs_of(trained))
    # A translated image is called image, as what it was made of: in a file, no two arrays have one name.
    system, state = trained.system, jax.device_get(trained.state)

    def predict(*arrays: jax.Array) -> Mapping[str, jax.Array]:
        given = arrays[0] if system.drawn_from is None else dict(zip(names, arrays, strict=True))
        outputs = {}
        for name, value in system.predict(state, given).items():
            outputs[f"{name}_out" if name in names else name] = value
        return outputs

    return predict


def described(trained: Trained) -> dict[str, Any]:
    """What an exported file tells of itself, as JSON data."""
    inputs = {name: {"shape": shape, "dtype": str(dtype)} for name, (shape, dtype) in inputs_of(trained).items()}
    return {
        "jaxrec": jaxrec.__version__,
        "system": trained.system.name,
        "run": trained.folder.name,
        "step": trained.step,
        "classes": list(class_names(trained.features)),
        "image_shape": image_shape(trained.features),
        "inputs": inputs,
        "settings": to_dict(trained.config),
    }


def write(trained: Trained, kind: str, folder: Path) -> Path:
    """Writes the file ``model.KIND`` and a script that uses it into the folder; returns the file's path.

    Raises UserError if the model cannot be written in this format, OSError if the folder cannot be written.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    specs = {}
    for name, (shape, dtype) in inputs_of(trained).items():
        specs[name] = jax.ShapeDtypeStruct((batch, *shape), dtype)
    about = described(trained)
    with plain_forms():
        if kind == "onnx":
            from jaxrec.after.export.onnx_trace import onnx_model

            texts = {name: json.dumps(value) for name, value in about.items()}
            content = onnx_model(function_of(trained), specs, texts)
        else:
            exported = jax.export.export(jax.jit(function_of(trained)), platforms=PLATFORMS)(*specs.values())
            content = _archive({"program.bin": exported.serialize(), "metadata.json": json.dumps(about, indent=1)})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model.{kind}"
    write_atomically(path, content)
    write_atomically(folder / f"use_{kind}.py", _script(f"use_{kind}.py"))
    return path


def _archive(files: Mapping[str, bytes | bytearray | str]) -> bytes:
    """A zip archive of files by name; without dates, so that the same model gives the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            if isinstance(data, bytearray):
                data = bytes(data)
            archive.writestr(zipfile.ZipInfo(name), data)
    return content.getvalue()


def _script(name: str) -> bytes:
    return (resources.files("jaxrec.run.export") / "scripts" / name).read_bytes()


@dataclass
class Checked:
    """How an exported file answered."""

    difference: float
    """The largest of any output: absolute up to values of 1, relative above."""
    output: str
    """The output that differs most."""
    agreement: float | None
    """The share of examples whose most probable class is the run's; None if there are no classes."""


def examples_for(trained: Trained, data: Any) -> dict[str, np.ndarray]:
    """Inputs of the run's ``predict``: real examples of the test split or, if none are read, random numbers."""
    rng = np.random.default_rng(0)
    found = {}
    for name, (shape, dtype) in inputs_of(trained).items():
        if trained.system.drawn_from is not None:
            numbers = rng.normal(size=(CHECKED, *shape)) if np.issubdtype(dtype, np.floating) else np.zeros(CHECKED)
            found[name] = numbers.astype(dtype)
        else:
            split = data.test
            read = split.read(np.arange(min(CHECKED, len(split))))
            keys = [key for key, feature in split.features.items() if feature.kind == name]
            found[name] = read[keys[0]]
    return found


def check(trained: Trained, kind: str, path: Path, inputs: Mapping[str, np.ndarray]) -> Checked:
    """Runs the exported file by the script beside it, in a process that does not import jaxrec.

    Raises UserError if its runtime fails.
    """
    expected = _expected(trained, inputs)
    found = answers(path, kind, inputs)
    differences = differences_of(found, expected, trained.system.boxed)
    worst = max(differences, key=lambda name: differences[name])
    agreement = None
    if "probabilities" in expected:
        same = found["probabilities"].argmax(-1) == expected["probabilities"].argmax(-1)
        agreement = float(same.mean())
    return Checked(differences[worst], worst, agreement)


def answers(path: Path, kind: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What an exported file says of inputs, by the script beside it, in a process that does not import jaxrec.

    Raises UserError if its runtime fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, answered = Path(folder) / "inputs.npz", Path(folder) / "answers.npz"
        np.savez(given, **dict[str, Any](inputs))
        _run([str(path.parent / f"use_{kind}.py"), str(given), str(answered)], path)
        with np.load(answered) as file:
            return dict(file)


def right_answers(trained: Trained, path: Path, split: Split) -> float | None:
    """The share of a split whose class an ONNX file names rightly; None if its examples have no single class."""
    kinds = {feature.kind: name for name, feature in split.features.items()}
    (name, (shape, _)), *others = inputs_of(trained).items()
    if "class" not in kinds or others:
        return None
    # As many at a time as fit into the memory with all that a network makes of them.
    size = max(1, PIECE // math.prod(shape))
    right = 0
    for start in range(0, len(split), size):
        examples = split.read(np.arange(start, min(start + size, len(split))))
        found = answers(path, "onnx", {name: examples[kinds[name]]})
        if "probabilities" not in found:
            return None
        right += int((found["probabilities"].argmax(-1) == examples[kinds["class"]]).sum())
    return right / len(split)


def _expected(trained: Trained, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with plain_forms():
        found = jax.jit(function_of(trained))(*inputs.values())
    return {name: np.asarray(value) for name, value in jax.device_get(found).items()}


def differences_of(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], boxed: Sequence[str]
) -> dict[str, float]:
    """The largest difference of each output: absolute up to values of 1, relative above.

    Boxes that scores put in order may change places with others of the same score, so each box, with its score and
    class, is compared with the nearest one of the same example.

    Args:
        found: outputs by name, [N, ...].
        expected: those that they should be.
        boxed: the outputs that hold boxes, [N, K, 4].
    """
    found, expected = dict(found), dict(expected)
    differences = {}
    for name in boxed:
        alike = [key for key, value in expected.items() if value.shape[:2] == expected[name].shape[:2]]
        ours = np.concatenate([_flat(found.pop(key)) for key in alike], -1)
        theirs = np.concatenate([_flat(expected.pop(key)) for key in alike], -1)
        differences[name] = max(map(_rows_apart, ours, theirs))
    for name, values in expected.items():
        differences[name] = float(_apart(found[name], values).max(initial=0.0))
    return differences


def _flat(values: np.ndarray) -> np.ndarray:
    """[N, K, ...] as [N, K, D]."""
    return values.reshape(*values.shape[:2], -1).astype(np.float64)


def _apart(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How far numbers are apart: 0 for two that are none, infinite if only one is."""
    if found.shape != expected.shape:
        return np.array(np.inf)
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    apart = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    return np.where(np.isnan(found) & np.isnan(expected), 0.0, np.nan_to_num(apart, nan=np.inf))


def _rows_apart(found: np.ndarray, expected: np.ndarray) -> float:
    """How far the rows [K, D] of two tables are from the nearest row of the other."""
    apart = _apart(*np.broadcast_arrays(found[:, None], expected[None])).max(-1)
    return float(max(apart.min(0).max(initial=0.0), apart.min(1).max(initial=0.0)))


def timed(path: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Milliseconds for one example on one core (``median``, ``p99``) and MiB of ``memory`` of an ONNX file."""
    with tempfile.TemporaryDirectory() as folder:
        given, script = Path(folder) / "inputs.npz", Path(folder) / "time_onnx.py"
        np.savez(given, **dict[str, Any](inputs))
        script.write_bytes(_script("time_onnx.py"))
        return json.loads(_run([str(script), str(path), str(given), str(TIMED)], path))


def _run(command: list[str], path: Path) -> str:
    done = subprocess.run([sys.executable, "-I", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "no output").splitlines()[-1]
        raise UserError(f"'{path}' was written, and its runtime fails on it ({reason}); export it in another format")
    return done.stdout
