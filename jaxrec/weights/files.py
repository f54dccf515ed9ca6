"""Files of weights by their kind: arrays by the names that the file gives them."""

from pathlib import Path

import numpy as np

from jaxrec.errors import UserError
from jaxrec.weights.pytorch import read_pytorch

INSTALL = "pip install 'jaxrec[pretrained]'"


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file, or of a file of PyTorch's, by name.

    Raises UserError if it cannot be read, or the library that reads it is missing.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return read_pytorch(path)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file by name; raises UserError if it cannot be read, or safetensors is missing."""
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise UserError(
            f"'{path}' is read by the package safetensors, which is missing; install it: {INSTALL}"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read as safetensors ({str(error)[:100]}); download it again") from error
