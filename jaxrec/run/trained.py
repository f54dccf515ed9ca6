"""A finished run, opened again: for evaluation, prediction and generation."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec.data import Features, Split, at_once, blank, cache_dir, class_names, image_shape, pictured
from jaxrec.data.features import from_json, image_feature
from jaxrec.data.folder_clips import read_clip
from jaxrec.data.headers import remarks as told_of_files
from jaxrec.data.images import probe_file, read_as, strict_pillow
from jaxrec.data.sizes import Resizing
from jaxrec.errors import UserError, nearest
from jaxrec.host import keep_programs
from jaxrec.run.by_column import cells_of, metrics_by
from jaxrec.run.data import Data, open_test
from jaxrec.run.ending import tested
from jaxrec.run.evaluation import Evaluator
from jaxrec.run.generated import generated
from jaxrec.run.initial import initializer
from jaxrec.run.known import known_data, seen_in_training
from jaxrec.run.store import folder
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.store.manifest import read_dataset
from jaxrec.run.store.state import model_of
from jaxrec.run.told import told as tell_of
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Train, registry
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System, system_of

MOST = 100
"""Most images that are predicted at once."""


@dataclass
class Trained:
    """A run with trained parameters."""

    folder: Path
    config: Train
    system: System
    features: Features
    """What an example of the training data was made of."""
    described: dict[str, Any]
    """The training data as the manifest describes it."""
    state: State
    step: int
    """The step of the parameters."""
    best: int | None
    """The step of the checkpoint that is the best on the validation split; None if none was evaluated on one."""
    devices: Devices

    @cached_property
    def _predict(self) -> Any:
        return jax.jit(self.system.predict)

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.config.task, self.system, self.devices)

    def predict(self, inputs: Any, length: Any = None) -> dict[str, np.ndarray]:
        """What the model says of images or clips.

        Args:
            inputs: images [N, H, W, C] of uint8, uint16 or floats in [0, 1], of the size that the model was trained on;
                or paths of image files, which are brought to that size as in training. If the model was trained on
                clips: clips [N, T, H, W, C], or paths of animated files or folders of images.
            length: how many frames of each clip are there, int [N]. Default: all.

        Returns:
            The system's outputs by name, [N, ...], such as ``probabilities``.

        Raises:
            UserError: the system reads no images, or a file cannot be read.
        """
        self.check_reads_images()
        shown = self._shown(inputs)
        if length is not None:
            shown = [shown[0], np.asarray(length, np.int32)]
        size = self._at_once(shown[0].shape[1:])
        parts = []
        for start in range(0, len(shown[0]), size):
            parts.append(self._outputs([values[start : start + size] for values in shown], size))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def check_reads_images(self) -> None:
        """Raises UserError if the system reads no images."""
        if self.system.rows is None:
            raise UserError(
                f"'{self.folder.name}' is a {self.system.name}, which draws images and reads none; use generate"
            )

    def predictions(self, split: Split) -> Iterator[list[dict[str, Any]]]:
        """What is told of each example of a split, in rows, as many at a time as are predicted at once.

        A row holds ``path``, or ``example``, its number, if the examples are in no files; ``truth``, the names of its
        classes or its number, if it has any; and what the system says of it. Raises UserError if the system reads
        no images.
        """
        self.check_reads_images()
        places = np.arange(len(split))
        parts = (places[start : start + self.at_once] for start in range(0, len(split), self.at_once))
        return (self._told(split, index) for index in parts)

    def _told(self, split: Split, index: np.ndarray) -> list[dict[str, Any]]:
        rows = []
        found = tell_of(self.system, self.config.task, split, index, self.predict)
        for number, row in zip(index.tolist(), found, strict=True):
            where = {"path": split.file(number)} if split.files else {"example": number}
            rows.append({**where, **row})
        return rows

    @property
    def at_once(self) -> int:
        """Images that are predicted at once: as many as the memory of a few large ones holds."""
        return self._at_once(pictured(self.features).shape)

    def _at_once(self, shape: tuple[int, ...]) -> int:
        return self.system.evaluation_size(self.config.task, at_once(MOST, shape))

    def _shown(self, inputs: Any) -> list[np.ndarray]:
        """What ``predict`` was given, as images, or clips with or without their lengths."""
        if isinstance(inputs, (str, Path)):
            inputs = [inputs]
        if isinstance(inputs, Sequence) and len(inputs) and isinstance(inputs[0], (str, Path)):
            return self.together([self.read(path) for path in inputs])
        if self.reads_clips:
            return [self._clips(np.asarray(inputs))]
        return [self._images(np.asarray(inputs))]

    @property
    def reads_clips(self) -> bool:
        """Whether the model was trained on clips."""
        return pictured(self.features).kind == "clip"

    def together(self, examples: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Images that ``read`` gave as [N, H, W, C]; clips as [N, T, H, W, C], zeros at their ends, and lengths [N]."""
        if not self.reads_clips:
            return [np.stack(examples)]
        lengths = np.array([len(clip) for clip in examples], np.int32)
        # Of one number of frames, as far as they go, so that one program serves all.
        most = max(*lengths.tolist(), pictured(self.features).shape[0])
        clips = np.zeros((len(examples), most, *examples[0].shape[1:]), examples[0].dtype)
        for place, clip in enumerate(examples):
            clips[place, : len(clip)] = clip
        return [clips, lengths]

    def _images(self, images: np.ndarray) -> np.ndarray:
        height, width, channels = image_shape(self.features)
        fits = images.ndim == 4 and len(images) > 0 and images.shape[3] == channels
        if not fits or (images.shape[1:3] != (height, width) and not self.system.any_size):
            raise UserError(
                f"the images are {images.dtype} {images.shape}; expected [N, {height}, {width}, {channels}], "
                "as in training"
            )
        return images

    def _clips(self, clips: np.ndarray) -> np.ndarray:
        """The clips; raises UserError if their frames are not as in training."""
        shape = image_shape(self.features)
        if clips.ndim != 5 or not len(clips) or clips.shape[2:] != shape:
            raise UserError(
                f"the clips are {clips.dtype} {clips.shape}; expected [N, T, {', '.join(map(str, shape))}], as in "
                "training"
            )
        return clips

    def _outputs(self, shown: Sequence[np.ndarray], most: int) -> dict[str, np.ndarray]:
        """The outputs of at most ``most`` images, or clips and lengths; filled up, so few programs serve all."""
        count = len(shown[0])
        # Up to a power of two: one image costs one, and few programs serve all.
        size = min(most, 2 ** (count - 1).bit_length())
        filled = []
        for values in shown:
            filled.append(np.concatenate([values, np.zeros((size - count, *values.shape[1:]), values.dtype)]))
        outputs = jax.device_get(self._predict(self.state, *filled))
        return {name: np.asarray(value)[:count] for name, value in outputs.items()}

    def read(self, path: str | Path) -> np.ndarray:
        """An image file [H, W, C] brought to the training images' size, channels and depth.

        If the model was trained on clips: an animated file or a folder of images, [T, H, W, C].

        Raises UserError if it cannot be read.
        """
        feature = image_feature(self.features)
        if feature.shape[2] not in (1, 3):
            raise UserError(
                f"the model was trained on images of {feature.shape[2]} channels, and files have 1 or 3; give arrays"
            )
        if self.reads_clips:
            return read_clip(Path(path), feature)
        return read_as(path, feature)

    def remarks(self, paths: Sequence[str | Path]) -> tuple[str, ...]:
        """What a user should know of how image files are brought to the training images' form, a sentence each.

        Files that cannot be read are passed over.
        """
        readable, headers = [], []
        with strict_pillow(), ThreadPoolExecutor() as pool:
            for path in map(Path, paths):
                with contextlib.suppress(UserError):
                    headers.append(probe_file(path))
                    readable.append(path)
            pages = "" if self.reads_clips else "images"
            return told_of_files(pool, readable, headers, image_feature(self.features), pages=pages)

    def rows(self, images: np.ndarray, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """What is told of each of N predicted images or clips, of which ``outputs`` are [N, ...]."""
        assert self.system.rows is not None
        return self.system.rows(self.config.task, images, outputs, self.features)

    def at_file_sizes(self, paths: Sequence[str | Path], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs [N, ...] of N predicted image files, with boxes in pixels of the files, upright."""
        moved = dict(outputs)
        height, width, _ = image_shape(self.features)
        resize = image_feature(self.features).resize
        for name in self.system.boxed:
            boxes = []
            for path, found in zip(paths, outputs[name], strict=True):
                boxes.append(Resizing(probe_file(path).size, (height, width), resize).undo_boxes(found))
            moved[name] = np.stack(boxes)
        return moved

    def at_own_size(
        self, path: str | Path, image: np.ndarray, outputs: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """What drawings of one predicted image file are made of: the image and the outputs at the file's own size.

        Args:
            path: the file.
            image: [H, W, C], as it was predicted.
            outputs: what ``at_file_sizes`` gave for it.

        Returns:
            The image [1, h, w, C], and the outputs [1, ...]: those that have a value for each pixel [1, h, w, ...]. If
            the system has none of these and no boxes, image and outputs as they were.
        """
        given = {name: values[None] for name, values in outputs.items()}
        unseen = self.system.unseen(self.config.task)
        if not unseen and not self.system.boxed:
            return image[None], given
        feature = image_feature(self.features)
        height, width = probe_file(path).size
        resizing = Resizing((height, width), image.shape[:2], feature.resize)
        for name, fill in unseen.items():
            given[name] = resizing.undo(outputs[name], fill)[None]
        return read_as(path, feature._replace(shape=(height, width, feature.shape[2])))[None], given

    def generate(
        self, count: int, seed: int = 0, *, class_name: str | None = None, truncation: float | None = None
    ) -> dict[str, np.ndarray]:
        """``count`` images float32 [count, H, W, C] in [0, 1] as ``image``, and their classes as ``label`` if known.

        Args:
            count: how many.
            seed: determines the latents.
            class_name: draw images of this class alone; default: of all classes in turn.
            truncation: a factor of the latents: below 1, images are more alike and closer to the mean. Default: 1.

        Raises:
            UserError: the system generates no images, or cannot choose what is asked for, or there is no such class.
        """
        if self.system.generate is None or not self.system.can_generate(self.config.task):
            raise UserError(
                f"'{self.folder.name}' is a run of {self.config.task.model}, which generates no images; use predict"
            )
        chosen: dict[str, Any] = {}
        if class_name is not None:
            self._check_generates_by("label", "--class")
            chosen["label"] = np.int32(self._class_number(class_name))
        if truncation is not None:
            self._check_generates_by("truncation", "--truncation")
            chosen["truncation"] = np.float32(truncation)
        parts = list(generated(self.system, self.state, count, seed, image_shape(self.features), chosen))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _check_generates_by(self, argument: str, option: str) -> None:
        """Raises UserError if the system's ``generate`` has no such argument."""
        assert self.system.generate is not None
        if argument not in inspect.signature(self.system.generate).parameters:
            raise UserError(f"{self.system.name} cannot generate by {option}; remove it")

    def _class_number(self, name: str) -> int:
        names = class_names(self.features)
        if name not in names:
            hint = nearest(name, names) or f"; expected one of {', '.join(names[:20])}"
            raise UserError(f"--class '{name}' is not a class of the run{hint}")
        return names.index(name)

    def evaluate(
        self, split: str | None = None, dataset: Any = None, tell: Callable[[str], None] = warnings.warn
    ) -> dict[str, Any]:
        """The metrics on a split of the run's data set.

        Args:
            split: a split in TFDS's slicing, such as ``test[:100]``; default: the run's own test split.
            dataset: the name of a set of the same classes, arrays or a ``Dataset``; default: the run's own.
            tell: is called with each sentence that a user should read, such as what has changed in the data set.

        Returns:
            ``split``, ``examples``, ``step``, then each metric by name, as JSON data.

        Raises:
            UserError: the data set is not there, or has other classes or features than the one trained on.
        """
        return self.evaluate_data(self.open_data(split, dataset, tell), split)

    def open_data(
        self,
        split: str | None = None,
        dataset: Any = None,
        tell: Callable[[str], None] = warnings.warn,
        *,
        skip_bad: bool = False,
    ) -> Data:
        """The run's data set, or another one, whose ``test`` is the split to evaluate on; see ``evaluate``.

        ``skip_bad`` leaves out files that cannot be read, as the run may do by its own settings.
        """
        config = replace(
            self.config, test_split=split or self.config.test_split, skip_bad=skip_bad or self.config.skip_bad
        )
        known = known_data(self.folder)
        data = open_test(config, self.system, dataset, known)
        for remark in data.remarks:
            tell(remark)
        for remark in seen_in_training(known, data.dataset, data.test):
            tell(remark)
        return data

    def evaluate_by(self, data: Data, column: str) -> dict[str, dict[str, Any]]:
        """The number of ``examples`` and the headline metrics by each value of a column of the set's table.

        Raises UserError if there is no such column.
        """
        return metrics_by(self._evaluator, self.state, data, cells_of(data, column))

    def evaluate_data(self, data: Data, split: str | None = None) -> dict[str, Any]:
        """What ``evaluate`` gives, of data that ``open_data`` has opened for the same split."""
        return tested(self._evaluator, self.state, data, split or self.config.test_split, self.step)


def load(
    run: str | Path,
    devices: Devices | None = None,
    *,
    system: str | None = None,
    checkpoint: str | int | None = None,
) -> Trained:
    """Opens a run that ``fit`` or a command has trained.

    Args:
        run: the run's folder.
        devices: default: all that jax finds.
        system: the Python file that defines the run's system, if that is neither jaxrec's own nor an installed one.
        checkpoint: ``"latest"``, ``"best"`` (on the validation split) or a step. Default: the latest, or the best if
            the run had patience; if that one is damaged, which is said, the newest whole one.

    Raises:
        UserError: the folder holds no run, there is no such checkpoint, its checkpoints are damaged or of another
            model, or its system is not there.

    Example::

        trained = jaxrec.load("runs/first")
        trained.predict(["photo.jpg"])["probabilities"]
    """
    if system is not None:
        registry.load_file(system)
    devices = devices or Devices()
    keep_programs(cache_dir() / "programs")
    path = folder.find(run)
    config = folder.read_config(path)
    described = read_dataset(path)
    features = from_json(described["features"])
    known = system_of(config.task)
    initialize, key = initializer(config.task, known, devices), jax.random.key(config.seed)
    examples = blank(features, 2)
    # Of shapes alone: damaged settings may ask for more than the memory holds.
    model = model_of(initialize.trace(key, examples).out_info)
    with Checkpoints(path, read_only=True) as checkpoints:

        def read(step: int) -> State:
            checkpoints.check_fits(step, model)
            return checkpoints.restore_model(initialize(key, examples), step)

        best = checkpoints.best()
        if checkpoint is None:
            step, state = checkpoints.newest_whole(read, best if config.patience else None)
        else:
            step = chosen_step(checkpoint, checkpoints)
            state = read(step)
    return Trained(path, config, known, features, described, state, step, best, devices)


def chosen_step(checkpoint: str | int, checkpoints: Checkpoints) -> int:
    """The step of the checkpoint called ``latest``, ``best`` or by its step; raises UserError if there is none."""
    steps = sorted(checkpoints.steps())
    known = ", ".join(str(step) for step in steps)
    if checkpoint == "latest":
        return checkpoints.latest()
    if checkpoint == "best":
        best = checkpoints.best()
        if best is None:
            raise UserError(
                "--checkpoint best needs a checkpoint that was evaluated on a validation split, and the run has none; "
                f"use --checkpoint latest or one of the steps {known}"
            )
        return best
    if str(checkpoint) not in map(str, steps):
        raise UserError(f"--checkpoint '{checkpoint}' is not there; expected latest, best or one of the steps {known}")
    return int(checkpoint)
