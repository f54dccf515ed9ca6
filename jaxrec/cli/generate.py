"""jaxrec generate RUN: images from a trained generative model."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxrec.cli.opened_run import OpenedModel, read_options
from jaxrec.errors import UserError
from jaxrec.settings.ranges import AT_LEAST_ONE, POSITIVE, SEED

EXAMPLES = (
    "jaxrec generate runs/gan-mnist-1",
    "jaxrec generate runs/gan-mnist-1 --count 1000 --separate",
    "jaxrec generate runs/gan-mnist-1 --class 7 --truncation 0.7 --out drawn",
)


@dataclass(frozen=True)
class Generate(OpenedModel):
    """Draw images from a trained generative model."""

    count: Annotated[int, AT_LEAST_ONE] = 100
    """Number of images."""
    seed: Annotated[int, SEED] = 0
    """Determines the latents."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME")] = None
    """Draw images of this class alone. Default: all classes in turn."""
    truncation: Annotated[float | None, POSITIVE] = None
    """Factor of the latents. Below 1, images vary less and are closer to the mean. Default: 1."""
    out: str | None = None
    """Folder for the pictures. Default: RUN/generated."""
    separate: bool = False
    """Also write each image to its own PNG file, named by number and class."""


def main(argv: list[str]) -> None:
    """Writes a sheet of images, and with ``--separate`` also each image by itself."""
    options = read_options(Generate, argv, "jaxrec generate", EXAMPLES)
    from jaxrec.data import class_names
    from jaxrec.host import tune_cpu
    from jaxrec.run.show.pictures import save_artifacts
    from jaxrec.run.trained import load

    tune_cpu()
    trained = load(options.run, checkpoint=options.checkpoint)
    drawn = trained.generate(options.count, options.seed, class_name=options.class_name, truncation=options.truncation)
    out = Path(options.out) if options.out else trained.folder / "generated"
    names = None
    if "label" in drawn:
        known = class_names(trained.features)
        names = [known[label] for label in drawn["label"]]
    try:
        save_artifacts(out, {"generated": {"images": _sheet(drawn["image"])}}, ())
        if options.separate:
            _write_each(out, drawn["image"], names)
    except OSError as error:
        raise UserError(f"'{out}' cannot be written ({error.strerror}); choose another folder with --out") from error
    print(f"{options.count} images in {out}")


def _sheet(images: Any) -> Any:
    """Images [N, H, W, C] in rows of ten, the last row filled up with white: [R, 10, H, W, C]."""
    import numpy as np

    columns = min(10, len(images))
    white = np.ones((-len(images) % columns, *images.shape[1:]), images.dtype)
    return np.concatenate([images, white]).reshape(-1, columns, *images.shape[1:])


def _write_each(out: Path, images: Any, names: list[str] | None) -> None:
    import numpy as np
    from PIL import Image

    for number, image in enumerate(np.round(images * 255).astype(np.uint8)):
        # The name may be a stranger's.
        suffix = "-" + re.sub(r"[^\w.-]+", "_", names[number])[:100] if names else ""
        shown = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
        Image.fromarray(shown).save(out / f"{number:05d}{suffix}.png")
