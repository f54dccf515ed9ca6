"""Settings of a run: what is trained on what, for how long, and what is left behind."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jaxrec.settings.classifier import Classifier
from jaxrec.settings.common import Task
from jaxrec.settings.options import ADVANCED, DATA, DEVICES, LENGTH, OUTPUT, START, Group
from jaxrec.settings.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, SEED, SHARE_BELOW_ONE


@dataclass(frozen=True)
class Train:
    """Train an image-recognition system and leave a run folder to look at."""

    task: Annotated[Task, tyro.conf.arg(name="")] = field(default_factory=Classifier)
    dataset: Annotated[str | None, DATA] = None
    """digits, scenes, moving, bouncing, translated, cluttered, the last three with _mnist, synthetic, folder:PATH,
    csv:FILE, npz:FILE, or the name of a prepared TFDS data set such as mnist. Default: digits, or what the system asks
    for."""
    data_dir: Annotated[str | None, DATA] = None
    """Folder of the prepared TFDS data sets, or of the original files of mnist, fashion_mnist, cifar10 and cifar100.
    Default: $TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    train_split: Annotated[str, DATA] = "train"
    """Training split; TFDS slices such as train[:80%] are allowed."""
    test_split: Annotated[str, DATA] = "test"
    """Split for the final metrics; nothing is chosen on it."""
    validation_split: Annotated[str | None, DATA] = None
    """Split for evaluation during training and early stopping. Default: the set's own, called validation, val or valid;
    without one, --validation cuts it from the training split."""
    validation: Annotated[float | None, DATA, SHARE_BELOW_ONE] = None
    """Fraction of the training split held out as the validation split, with equal shares of each class; 0: none.
    Default: 0.1, unless the set has a validation split of its own."""
    image_size: Annotated[int | str | None, DATA, AT_LEAST_ONE, tyro.conf.arg(metavar="SIZE")] = None
    """Size in pixels to which images are resized: 64 for a square, or height x width, such as 224x160. Default: the
    images' own size or, if they differ, that of the first one."""
    resize: Annotated[str | None, DATA, tyro.conf.arg(metavar="NAME")] = None
    """How images of another shape are brought to that size. crop: cut off the overhang. crop:0.875: and keep only this
    share of the sides, the middle. pad: add black borders on two sides. stretch: distort them. Default: pad if the
    system reads boxes, crop otherwise."""
    image_key: Annotated[str | None, DATA] = None
    """The feature of a prepared data set that is the image, if it has several. Of pairs: the one that is translated, of
    a folder A or B."""
    skip_bad: Annotated[bool, DATA] = False
    """Leave out unreadable images of a folder or table, and faulty boxes, instead of stopping; skipped.csv names
    them."""
    memory_mb: Annotated[int, ADVANCED, NOT_NEGATIVE] = 1024
    """Largest decoded data set, in MiB, that is kept on the devices; larger ones are streamed."""
    mesh: Annotated[str, DEVICES] = "data"
    """How devices share the work. data: every device holds the whole state and takes an equal part of the batch.
    data=2: only two devices. data=4,model=2: eight devices in pairs; each pair shares the large arrays of the state."""
    require: Annotated[Literal["gpu", "tpu"] | None, DEVICES] = None
    """Fail unless this device is found: gpu or tpu. Default: train on what JAX finds, if need be on the CPU."""
    batch_size: Annotated[int, DATA, AT_LEAST_ONE] = 128
    """Examples per step, over all devices."""
    sampler: Annotated[Literal["shuffle", "balanced"], DATA] = "shuffle"
    """Order of the training examples. shuffle: each example once per epoch. balanced: each class equally often, for
    sets in which some classes are rare; examples of rare classes are then seen more often."""
    init_from: Annotated[str | None, START, tyro.conf.arg(metavar="RUN|FILE|NAME")] = None
    """Weights to start from: the folder of a run, a .safetensors file or one of PyTorch's, hf:OWNER/REPOSITORY, or
    efficientnet-lite0. Every array is taken that has the path and the shape of one of the model's; the screen names the
    others. How images are standardized, and --image-size and --resize unless given, come with the weights."""
    reinit: Annotated[str, START, tyro.conf.arg(metavar="REGEX")] = ""
    """Draw arrays anew whose path, such as head/kernel, contains a match of this regular expression, although
    --init-from has them."""
    probe: Annotated[bool, START] = False
    """Fit the last layer to the features of the weights, which are computed once, and then train as long as is asked
    for. Without --steps or --epochs, the run ends there. Classifiers only."""
    epochs: Annotated[float | None, LENGTH, POSITIVE] = None
    """Length of the run in passes over the training split, instead of --steps."""
    steps: Annotated[int | None, LENGTH, NOT_NEGATIVE] = None
    """Length of the run in steps. Default: 2000, unless --epochs is given; 0 with --probe."""
    seed: Annotated[int, LENGTH, SEED] = 0
    """Determines the initial parameters, the order of the data and every random number."""
    seeds: Annotated[int, LENGTH, AT_LEAST_ONE] = 1
    """Number of runs to train at once, with consecutive seeds from --seed on."""
    name: Annotated[str | None, OUTPUT] = None
    """Name of the run folder. Default: MODEL-DATASET-NUMBER."""
    runs: Annotated[str, OUTPUT] = "runs"
    """Folder that contains the run folders."""
    coordinator: Annotated[str | None, ADVANCED] = None
    """HOST:PORT of the first of several processes, used with --processes and --process. auto: let JAX find it, as on a
    TPU pod. Not needed under srun or Open MPI 4."""
    processes: Annotated[int | None, ADVANCED, AT_LEAST_ONE] = None
    """Number of processes that train together. 1: train alone, even under a launcher."""
    process: Annotated[int | None, ADVANCED, NOT_NEGATIVE] = None
    """Number of this process, counted from 0."""
    resume: Annotated[bool | Literal["auto"], LENGTH, tyro.conf.arg(metavar="[auto]")] = False
    """Continue the run --name from its latest checkpoint. auto: continue it if it is there, otherwise start it, so that
    a job that is started again can be given the same command."""
    log_every: Annotated[int, OUTPUT, AT_LEAST_ONE] = 20
    """Log metrics every N steps."""
    eval_every: Annotated[int | None, OUTPUT, AT_LEAST_ONE] = None
    """Evaluate on the validation split every N steps. Default: about ten times per run."""
    save_every: Annotated[int | None, OUTPUT, AT_LEAST_ONE] = None
    """Save a checkpoint every N steps, in addition to those saved at evaluations."""
    fuse_steps: Annotated[int | Literal["auto"], ADVANCED, AT_LEAST_ONE] = "auto"
    """Steps per compiled program. auto: one on a CPU, where convolutions inside loops are slow; otherwise as many as
    fit between two logged, evaluated or saved steps."""
    on_nonfinite: Annotated[Literal["stop", "skip"], ADVANCED] = "stop"
    """What to do if the loss or a gradient is not finite. stop: end the run. skip: skip and count the update."""
    patience: Annotated[int, LENGTH, NOT_NEGATIVE] = 0
    """Stop after this many evaluations without improvement and restore the best parameters. 0: never stop early."""
    min_delta: Annotated[float, ADVANCED, NOT_NEGATIVE] = 0.0
    """Smallest change of the validation metric that counts as an improvement."""
    tune_allocator: Annotated[bool, ADVANCED] = True
    """Let glibc keep freed memory, which makes steps on a CPU faster and uses more memory."""
    tensorboard: Annotated[bool, OUTPUT] = False
    """Also write TensorBoard files; needs jaxrec[tensorboard]."""
    log_to: Annotated[tuple[Literal["wandb", "mlflow"], ...], OUTPUT] = ()
    """Also send metrics, settings and pictures to Weights & Biases or MLflow; needs jaxrec[wandb] or jaxrec[mlflow]."""
    profile: Annotated[int | None, OUTPUT, AT_LEAST_ONE, tyro.conf.arg(metavar="STEPS")] = None
    """Trace this many steps after the first call, into the run's folder profile, and print the ten operations that take
    longest."""


SEARCH = Group("search")


@dataclass(frozen=True)
class Sweep(Train):
    """Train many runs at once with random hyper-parameters, and keep the best."""

    members: Annotated[int, SEARCH, AT_LEAST_ONE] = 16
    """Number of random draws; each is trained with --seeds seeds."""
    vary: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], SEARCH] = ()
    """NAME=LOW:HIGH draws the option NAME anew for each member: log-uniformly if LOW is above 0, otherwise uniformly.
    Repeat it for each option to vary."""
    halving: Annotated[int, SEARCH, NOT_NEGATIVE] = 0
    """Number of times, evenly spaced over the run, at which the worse half of the members is removed."""
