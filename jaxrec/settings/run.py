"""Settings of a run: what is trained on what, for how long, and what is left behind."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jaxrec.settings.classifier import Classifier
from jaxrec.settings.common import Task


@dataclass(frozen=True)
class Train:
    """Train an image-recognition system and leave a run folder to look at."""

    task: Annotated[Task, tyro.conf.arg(name="")] = field(default_factory=Classifier)
    dataset: str = "digits"
    """digits, synthetic, folder:PATH, or the name of a prepared TFDS set such as mnist."""
    data_dir: str | None = None
    """Where prepared TFDS sets lie; else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    train_split: str = "train"
    """Training split, with TFDS slicing: train[:80%]."""
    test_split: str = "test"
    """Split for the figures at the end; never looked at before."""
    validation: float = 0.1
    """Share of the training split held out for evaluation during training and for early stopping."""
    image_size: int | None = None
    """Side in pixels to which a folder's images are resized; else the first image's size."""
    skip_bad: bool = False
    """Leave out a folder's unreadable images, and count them, instead of stopping."""
    memory_mb: int = 1024
    """Sets whose decoded images fit this many MiB live on the device; larger ones are streamed."""
    mesh: str = "data"
    """How the devices are used. data: all of them, each with the whole state and an equal part of the batch. data=2:
    two of them. data=4,model=2: eight, in pairs that share the parameters' and the optimizer's large arrays."""
    batch_size: int = 128
    """Examples per step, over all devices."""
    epochs: float | None = None
    """Length of the run in passes over the training split; or give --steps."""
    steps: int | None = None
    """Length of the run in steps; 2000 where neither is given."""
    seed: int = 0
    """Fixes the initial parameters, the order of the data and every random draw."""
    seeds: int = 1
    """Train this many runs at once, with the seeds from --seed on."""
    name: str | None = None
    """Name of the run's folder; else MODEL-DATASET-NUMBER."""
    runs: str = "runs"
    """Folder that holds the runs."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes, with --processes and --process; auto: as jax finds them, on a TPU
    pod. srun and Open MPI 4's mpirun are known without it."""
    processes: int | None = None
    """How many processes train together; 1: this one trains alone, whatever started it."""
    process: int | None = None
    """Which of the processes this is, from 0 on."""
    resume: bool = False
    """Go on with the run --name from its latest checkpoint."""
    log_every: int = 20
    """Steps between logged metrics."""
    eval_every: int | None = None
    """Steps between evaluations on the validation split; else about ten times a run, on logged steps."""
    save_every: int | None = None
    """Steps between checkpoints; those of evaluations, which may wait ten seconds to be written, come on top."""
    fuse_steps: int | Literal["auto"] = "auto"
    """Steps per compiled program; auto: one on a CPU, where loops make convolutions slow, else the most that
    pass over no step that is logged, evaluated or saved."""
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """Where the loss or a gradient is not finite: stop; skip the update, counting them; or go back to the last good
    checkpoint with half the learning rate, three times at most."""
    patience: int = 0
    """Stop after this many evaluations without improvement and restore the best weights; 0 never stops."""
    min_delta: float = 0.0
    """Smallest change of the validation metric that counts as an improvement."""
    tune_allocator: bool = True
    """Let glibc keep freed memory: faster steps on a CPU, more memory held; no effect without glibc."""
    tensorboard: bool = False
    """Write TensorBoard files as well (extra: tensorboard)."""


@dataclass(frozen=True)
class Sweep(Train):
    """Train many runs at once with hyper-parameters drawn at random, and keep the best."""

    members: int = 16
    """Draws; each is trained with --seeds seeds."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=LOW:HIGH draws the option NAME for each member: log-uniform where LOW is above 0, else uniform."""
    halving: int = 0
    """Cut the run into this many parts and one more; at the end of each but the last, drop the worse half."""
