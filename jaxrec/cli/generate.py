"""jaxrec generate RUN: pictures from a trained gan or vae; reconstructions from an autoencoder."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxrec.cli.arguments import parse
from jaxrec.errors import UserError


@dataclass(frozen=True)
class Generate:
    """Draw images from a trained gan or vae; an autoencoder reconstructs test images."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    count: int = 100
    """Number of images."""
    seed: int = 0
    """Fixes the latents."""
    out: str | None = None
    """Folder for the pictures; else RUN/generated."""
    separate: bool = False
    """Also write each image as a PNG of its own, named by number and class."""


def main(argv: list[str]) -> None:
    """Writes a sheet of images, and each by itself if asked."""
    options = parse(Generate, argv, "jaxrec generate")
    if options.count < 1:
        raise UserError(f"--count {options.count} draws nothing; give at least 1")
    import jax
    import numpy as np

    from jaxrec.run.setup import check_same_data, open_data
    from jaxrec.run.show.pictures import save_artifacts
    from jaxrec.run.store import folder
    from jaxrec.run.trained import load_run
    from jaxrec.run.world.devices import Devices
    from jaxrec.settings import Autoencoder, Classifier
    from jaxrec.tasks import task_of

    run, config, dataset, state, _ = load_run(options.run, Devices())
    if isinstance(config.task, Classifier):
        raise UserError(f"'{run.name}' is a classifier, which draws no images; use python -m jaxrec predict")
    task = task_of(config.task)
    out = Path(options.out) if options.out else run / "generated"
    if not options.out:
        folder.refuse_links(run)
    labels = None
    if isinstance(config.task, Autoencoder) and config.task.model != "vae":
        data = open_data(config)
        check_same_data(data, dataset)
        test = data.test
        inputs = test.read(np.arange(min(options.count, len(test))))["image"]
        images = np.asarray(jax.jit(task.predict)(state, inputs)["reconstruction"])
        pictures = {"inputs": inputs / 255, "reconstructions": images}
    else:
        draw = jax.jit(task.generate, static_argnums=2)
        drawn = jax.device_get(draw(state, jax.random.key(options.seed), options.count))
        images, labels = drawn["image"], drawn.get("label")
        pictures = {"generated": images}
    try:
        save_artifacts(out, {name: {"images": _sheet(each)} for name, each in pictures.items()}, (), None)
        if options.separate:
            _write_each(out, images, None if labels is None else [dataset["class_names"][label] for label in labels])
    except OSError as error:
        raise UserError(f"'{out}' cannot be written ({error.strerror}); choose another folder with --out") from error
    print(f"{len(images)} images in {out}")


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
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out / f"{number:05d}{suffix}.png")
