"""Trackers that a run's numbers and pictures are sent to: TensorBoard, Weights & Biases, MLflow."""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from jaxrec.errors import UserError, check_installed
from jaxrec.run.show.page import is_number
from jaxrec.run.show.pictures import STEP_NAME
from jaxrec.run.store import folder
from jaxrec.settings import Train

PICTURES = (".png", ".webp")
"""Suffixes of pictures."""


class Tracker(Protocol):
    """What a tracker of runs has to do; it is made when the run starts or goes on."""

    def numbers(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Takes a row of metrics.jsonl."""

    def picture(self, step: int, path: Path) -> None:
        """Takes a picture that was written."""

    def close(self, results: Mapping[str, float]) -> None:
        """Takes the metrics on the test split, if the run came to its end, and sends all that waits."""


class TensorBoard:
    """Event files in the run's folder, for ``tensorboard --logdir``."""

    def __init__(self, run: Path, config: Train, start: int) -> None:
        from tensorboardX import SummaryWriter

        # What a killed run wrote after its last checkpoint is written again, and shall not be shown twice.
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
        self.settings = {}
        for name, value in folder.settings(config).items():
            self.settings[name] = value if isinstance(value, bool | int | float | str) else str(value)

    def numbers(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """A scalar ``split/name`` for each value."""
        for name, value in values.items():
            self.writer.add_scalar(f"{split}/{name}", value, step)

    def picture(self, step: int, path: Path) -> None:
        """The picture, under its file's name."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self.writer.add_image(path.stem, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self, results: Mapping[str, float]) -> None:
        """The settings as hyper-parameters, beside the metrics on the test split."""
        if results:
            figures = {f"test/{name}": value for name, value in results.items()}
            # The name keeps them in this run; tensorboardX would make a run of its own of them.
            self.writer.add_hparams(self.settings, figures, name=".")
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, called as the run's folder; its environment variables hold, as WANDB_MODE."""

    def __init__(self, run: Path, config: Train, start: int) -> None:
        wandb = importlib.import_module("wandb")

        self.wandb, known = wandb, _noted(run, "wandb")
        self.run = wandb.init(
            project="jaxrec", name=run.name, id=known, resume="allow", dir=run, config=folder.settings(config)
        )
        _note(run, "wandb", self.run.id)
        # A resumed run repeats steps, which wandb's own counter would refuse.
        self.run.define_metric("*", step_metric="step")

    def numbers(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """A point of ``split/name`` for each value."""
        self.run.log({"step": step, **{f"{split}/{name}": value for name, value in values.items()}})

    def picture(self, step: int, path: Path) -> None:
        """The picture, under its file's name."""
        self.run.log({"step": step, path.stem: self.wandb.Image(str(path))})

    def close(self, results: Mapping[str, float]) -> None:
        """The metrics on the test split as the run's summary."""
        self.run.summary.update({f"test/{name}": value for name, value in results.items()})
        self.run.finish()


class MLflow:
    """A run of MLflow, called as the run's folder; its environment variables hold, as MLFLOW_TRACKING_URI."""

    def __init__(self, run: Path, config: Train, start: int) -> None:
        mlflow = importlib.import_module("mlflow")

        self.mlflow, known = mlflow, _noted(run, "mlflow")
        active = mlflow.start_run(run_id=known, run_name=None if known else run.name)
        _note(run, "mlflow", active.info.run_id)
        if known is None:
            mlflow.log_params({name: str(value)[:500] for name, value in folder.settings(config).items()})

    def numbers(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """A point of ``split/name`` for each value."""
        self.mlflow.log_metrics({f"{split}/{name}": value for name, value in values.items()}, step=step)

    def picture(self, step: int, path: Path) -> None:
        """The picture as an artifact, with its step in the name."""
        from PIL import Image

        with Image.open(path) as image:
            self.mlflow.log_image(image.convert("RGB"), f"pictures/{path.stem}-{step:08d}.png")

    def close(self, results: Mapping[str, float]) -> None:
        """The metrics on the test split as metrics."""
        self.mlflow.log_metrics({f"test/{name}": value for name, value in results.items()})
        self.mlflow.end_run()


TRACKERS: dict[str, tuple[str, type[Any]]] = {
    "tensorboard": ("tensorboardX", TensorBoard),
    "wandb": ("wandb", Wandb),
    "mlflow": ("mlflow", MLflow),
}
"""Each tracker by name: the package that it needs, and what is made with (run folder, settings, steps made)."""


def _noted(run: Path, tracker: str) -> str | None:
    """What the tracker calls the run, if it has seen it before."""
    note = run / f"{tracker}-run.txt"
    return note.read_text("utf-8").strip() if note.exists() else None


def _note(run: Path, tracker: str, name: str) -> None:
    (run / f"{tracker}-run.txt").write_text(name + "\n", "utf-8")


def _asked(config: Train) -> list[str]:
    return [*(["tensorboard"] if config.tensorboard else []), *config.log_to]


def check_trackers(config: Train) -> None:
    """Raises UserError if the package of a tracker that is asked for is not installed."""
    for name in _asked(config):
        package, _ = TRACKERS[name]
        check_installed(_option(name), (package,), name)


def open_trackers(run: Path, config: Train, start: int) -> list[Tracker]:
    """The trackers that the settings ask for, opened for a run that has made ``start`` steps.

    Raises UserError if a tracker cannot be opened, as without a key or a server.
    """
    return [_opened(name, run, config, start) for name in _asked(config)]


def _opened(name: str, run: Path, config: Train, start: int) -> Tracker:
    try:
        return TRACKERS[name][1](run, config, start)
    except Exception as error:  # Each client has errors of its own, which only its package names.
        raise UserError(f"{_option(name)} cannot start: {error}") from error


def _option(name: str) -> str:
    return "--tensorboard" if name == "tensorboard" else f"--log-to {name}"


def numbers_in(values: Mapping[str, Any]) -> dict[str, float]:
    """The single numbers among values."""
    return {name: float(value) for name, value in values.items() if is_number(value)}


def new_pictures(pictures: Path, seen: dict[Path, int]) -> Iterable[Path]:
    """The pictures in a folder that were written since the last call; ``seen`` remembers when."""
    found = []
    for path in sorted(pictures.glob("*")):
        written = path.stat().st_mtime_ns
        if path.suffix in PICTURES and not STEP_NAME.fullmatch(path.stem) and seen.get(path) != written:
            seen[path] = written
            found.append(path)
    return found
