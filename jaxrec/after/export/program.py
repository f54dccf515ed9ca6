"""A trained function as a StableHLO program for JAX: exported for any batch and several platforms."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

Named = Callable[..., Mapping[str, jax.Array]]
"""A function of arrays that gives arrays by name."""
PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, DESCRIPTION = "program.bin", "metadata.json"
"""The names of the files within an exported program."""


def stablehlo(
    function: Named,
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    metadata: Mapping[str, Any],
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """A zip archive of a program, as ``jax.export`` serializes it, and what is told of it, as JSON.

    Args:
        function: of arrays, in the order of ``inputs``.
        inputs: shape and dtype of each array by name; sizes may be symbols.
        metadata: JSON data that the archive carries.
        platforms: those that the program can run on.
    """
    exported = jax.export.export(jax.jit(function), platforms=platforms)(*inputs.values())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        # A fixed date, so that the same model gives the same bytes.
        files.writestr(zipfile.ZipInfo(PROGRAM), bytes(exported.serialize()), zipfile.ZIP_DEFLATED)
        files.writestr(zipfile.ZipInfo(DESCRIPTION), json.dumps(metadata, indent=1), zipfile.ZIP_DEFLATED)
    return archive.getvalue()
