"""Every setting, as plain frozen data. Importable without jax, so that help and inspection answer at once."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from jaxrec.errors import UserError

ClassifierModel = Literal["cnn", "cnn-deep", "resnet18", "resnet34", "resnet50", "vit", "speednet"]
AutoencoderModel = Literal["autoencoder", "vae"]
GANModel = Literal["gan"]


@dataclass(frozen=True)
class Rule:
    """Settings for the parameters whose name, such as ``conv1/kernel``, the pattern matches anywhere."""

    pattern: str
    """Regular expression searched in the parameter's name; where several rules match, the last one holds."""
    lr: float = 1.0
    """Multiplies the learning rate."""
    weight_decay: float = 1.0
    """Multiplies the decoupled weight decay."""
    freeze: bool = False
    """Leaves the parameters as they were initialised; their gradients are not computed."""


@dataclass(frozen=True)
class Optimizer:
    """How parameters move: the optimizer, its schedule, and the three different penalties on weights."""

    name: Literal["sgd", "momentum", "nesterov", "adam", "adamw", "nadam", "lion", "adagrad", "rmsprop", "muon"] = (
        "adamw"
    )
    """The update rule, from optax."""
    lr: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine", "one-cycle"] = "cosine"
    """How the learning rate falls from its peak over the run."""
    warmup: float = 0.05
    """Share of the run over which the learning rate rises to its peak: linearly (one-cycle: by a cosine from 1/25)."""
    final: float = 0.0
    """Learning rate at the end of a linear or cosine schedule, as a share of the peak."""
    steps: int = 0
    """Length of the schedule in steps; the training command sets it to the length of the run. 0: the learning rate
    stays at its peak."""
    momentum: float = 0.9
    """Momentum of sgd's relatives and of muon; the first beta of adam's relatives and of lion."""
    beta2: float = 0.999
    """Second beta of adam's relatives (lion keeps its own .99)."""
    weight_decay: float = 0.0
    """Decoupled weight decay (Loshchilov & Hutter 2019): each step shrinks kernels by lr x this."""
    l2: float = 0.0
    """L2 penalty: adds l2 / 2 x the sum of squared kernels to the loss, so it passes through the optimizer."""
    l1: float = 0.0
    """L1 penalty: adds l1 x the sum of absolute kernels to the loss."""
    clip: float = 0.0
    """Largest global norm of the gradient; 0 leaves it alone."""
    rules: tuple[Rule, ...] = ()
    """Learning rate, decay and freezing by parameter name."""


@dataclass(frozen=True)
class Augment:
    """Random changes to training images, made inside the compiled step. Zero and False mean off."""

    flip: Literal["none", "random", "alternating"] = "none"
    """Mirror left-right: a coin per image and epoch, or half the images, then the other half, by turns."""
    crop: int = 0
    """Pad by this many pixels (reflected) and crop back at a random place."""
    resized_crop: float = 0.0
    """Smallest share of the area kept by a random resized crop (.08 is usual)."""
    translate: float = 0.0
    """Largest shift, as a share of the side."""
    rotate: float = 0.0
    """Largest rotation, in degrees."""
    scale: float = 0.0
    """Largest relative change of size: .1 draws factors from .9 to 1.1."""
    brightness: float = 0.0
    """Largest change added to the pixels, which run from 0 to 1."""
    contrast: float = 0.0
    """Largest relative change of contrast."""
    saturation: float = 0.0
    """Largest relative change of saturation; colour images only."""
    cutout: int = 0
    """Side in pixels of a square set to grey."""
    randaugment: int = 0
    """Number of RandAugment operations per image (Cubuk et al. 2020)."""
    magnitude: float = 9.0
    """Strength of RandAugment's operations, 0 to 10."""


@dataclass(frozen=True)
class Task:
    """What every system's configuration has."""

    precision: Literal["f32", "bf16"] = "f32"
    """Arithmetic of the forward and backward pass; parameters stay float32."""
    accumulate: int = 1
    """Split each batch into this many parts and add up their gradients before the update."""
    average: float = 0.0
    """Decay of the moving average of the parameters (.999, say), used for evaluation; 0 keeps none."""
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()
    classes: tyro.conf.Suppress[int] = 0
    """Number of classes; set from the data."""
    mean: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Mean of each channel of the training images in [0, 1]; set from the data."""
    std: tyro.conf.Suppress[tuple[float, ...]] = ()
    """Standard deviation of each channel of the training images in [0, 1]; set from the data."""


@dataclass(frozen=True)
class Classifier(Task):
    """Image classification."""

    model: ClassifierModel = "cnn"
    """The system to train."""
    width: float = 1.0
    """Multiplies the number of channels."""
    activation: Literal["relu", "sigmoid", "tanh", "gelu"] = "relu"
    """Nonlinearity between layers (cnn and resnets)."""
    dropout: float = 0.0
    """Share of activations dropped before the last layer."""
    stem: Literal["auto", "small", "large"] = "auto"
    """First layers of a resnet: a 3x3 convolution, or 7x7 and pooling; auto is small up to 64 pixels.
    large halves the image before speednet's first block, which is faster and a little less accurate."""
    patch: int = 4
    """Side of vit's patches, in pixels."""
    head: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: one class per image. sigmoid: one independent yes or no per class (binary, multi-label)."""
    loss: Literal["cross-entropy", "mse", "focal"] = "cross-entropy"
    """Loss on the head's outputs."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes."""
    mixup: float = 0.0
    """Alpha of mixup (Zhang et al. 2018)."""
    cutmix: float = 0.0
    """Alpha of cutmix (Yun et al. 2019)."""
    standardise: Literal["dataset", "unit"] = "dataset"
    """dataset: subtract the training mean and divide by the deviation. unit: x / 255."""
    views: Literal["one", "mirror", "mirror-shift"] = "one"
    """Test-time views whose logits are averaged: the image; and its mirror; and one-pixel shifts of both."""


@dataclass(frozen=True)
class Autoencoder(Task):
    """Autoencoders: plain, denoising (noise > 0) and variational (model vae)."""

    average: float = 0.99
    """Decay of the moving average of the parameters, used for evaluation; 0 keeps none."""
    optimizer: Optimizer = Optimizer(name="muon", lr=1e-2, momentum=0.95)
    model: AutoencoderModel = "autoencoder"
    """The system to train."""
    architecture: Literal["conv", "dense", "unet"] = "conv"
    """Encoder and decoder; unet has skip connections (denoising only)."""
    width: int = 32
    """Channels of the first convolution; the dense layers have 16 times as many units."""
    code: int = 32
    """Length of the code."""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """gaussian: squared error. bernoulli: cross-entropy, pixels read as probabilities."""
    binarize: bool = False
    """Draw each pixel as 0 or 1 with its intensity as the probability, anew each step (vae)."""
    noise: float = 0.0
    """Standard deviation of the noise added to the inputs, then clipped to [0, 1]; the target is the clean image
    (autoencoder)."""
    kl_weight: float = 1.0
    """Weight of the divergence from the prior (vae); 1 is the evidence bound."""
    kl_warmup: float = 0.1
    """Share of the run over which the divergence's weight rises from 0 (vae)."""
    train_samples: int = 1
    """Codes drawn per image in training; more than one trains the importance-weighted bound (vae)."""
    eval_samples: int = 100
    """Codes drawn per image for the importance-weighted bound on the test split (vae); in training, at most 10."""


@dataclass(frozen=True)
class GAN(Task):
    """Generative adversarial networks."""

    average: float = 0.995
    """Decay of the moving average of the parameters, used for evaluation; 0 keeps none."""
    optimizer: Optimizer = Optimizer(name="adam", lr=1e-3, momentum=0.0, beta2=0.99)
    model: GANModel = "gan"
    """The system to train."""
    architecture: Literal["dcgan", "residual"] = "dcgan"
    """Generator and discriminator."""
    width: int = 16
    """Channels of the widest-resolution layer; doubled at each halving."""
    latents: int = 64
    """Length of the latent vector."""
    conditional: bool = True
    """Tell both players the class."""
    loss: Literal["non-saturating", "least-squares", "hinge", "wasserstein", "relativistic"] = "relativistic"
    """The game."""
    discriminator_steps: int = 1
    """Discriminator updates per generator update, inside one step; each takes its share of the batch."""
    gradient_penalty: float | None = None
    """Weight of the Wasserstein gradient penalty; else 10 with wasserstein, 0 with the other games."""
    r1: float | None = None
    """Gamma of the penalty gamma / 2 x |gradient of D at real images|^2 (Mescheder et al. 2018); else 0 with
    wasserstein and under spectral normalisation, 1 otherwise."""
    r2: float | None = None
    """The same at generated images (Huang et al. 2024)."""
    spectral_norm: bool = False
    """Divide the discriminator's kernels by their largest singular value (Miyato et al. 2018)."""
    discriminator_lr: float = 1.0
    """The discriminator's learning rate as a multiple of the generator's."""
    diffaugment: tuple[Literal["colour", "translation", "cutout"], ...] = ()
    """Differentiable augmentation of what the discriminator sees (Zhao et al. 2020)."""


AnyTask = Classifier | Autoencoder | GAN


@dataclass(frozen=True)
class Train:
    """Train an image-recognition system and leave a run folder to look at."""

    task: Annotated[AnyTask, tyro.conf.arg(name="")] = field(default_factory=Classifier)
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


_OF_OPTIMIZER = ("optimizer.lr", "optimizer.weight-decay", "optimizer.l1", "optimizer.l2")
HYPER = {
    "Classifier": _OF_OPTIMIZER,
    "Autoencoder": (*_OF_OPTIMIZER, "noise", "kl-weight"),
    "GAN": (*_OF_OPTIMIZER, "r1", "r2", "gradient-penalty", "discriminator-lr"),
}
"""The options that are numbers in the state's ``hyper``, by system: runs trained at once may differ in them."""

PRESETS: dict[str, AnyTask] = {
    "cnn": Classifier(model="cnn"),
    "cnn-deep": Classifier(model="cnn-deep"),
    "resnet18": Classifier(model="resnet18"),
    "resnet34": Classifier(model="resnet34"),
    "resnet50": Classifier(model="resnet50"),
    "vit": Classifier(model="vit"),
    "speednet": Classifier(model="speednet", activation="gelu"),
    "autoencoder": Autoencoder(),
    "vae": Autoencoder(model="vae", likelihood="bernoulli", binarize=True),
    "gan": GAN(),
}


AnyTrain = TypeVar("AnyTrain", bound=Train)


def with_values(config: AnyTrain, values: Mapping[str, float]) -> AnyTrain:
    """The settings with some of the options of ``HYPER`` set: ``{"optimizer.weight-decay": 0.1}``."""
    for option, value in values.items():
        group, _, name = option.replace("-", "_").rpartition(".")
        own = {name: value}
        task = replace(config.task, **{group: replace(getattr(config.task, group), **own)} if group else own)
        config = replace(config, task=task)
    return config


def to_dict(config: Train) -> dict[str, Any]:
    """The settings as plain nested data for a JSON file; ``task.kind`` names the system."""
    values = asdict(config)
    return {**values, "task": {"kind": type(config.task).__name__, **values["task"]}}


def from_dict(values: dict[str, Any]) -> Train:
    """The inverse of ``to_dict``; raises UserError for settings this version does not know."""
    kinds = {kind.__name__: kind for kind in (Classifier, Autoencoder, GAN)}
    task = dict(values.get("task", {}))
    kind = task.pop("kind", None)
    if kind not in kinds:
        raise UserError(f"the settings are of the system '{kind}'; expected one of {', '.join(kinds)}")
    nested = {
        "optimizer": _build(Optimizer, {**task.get("optimizer", {}), "rules": ()}),
        "augment": _build(Augment, task.get("augment", {})),
    }
    rules = tuple(_build(Rule, rule) for rule in task.get("optimizer", {}).get("rules", ()))
    nested["optimizer"] = replace(nested["optimizer"], rules=rules)
    return _build(Train, {**values, "task": _build(kinds[kind], {**task, **nested})})


def _build(kind: type, values: dict[str, Any]) -> Any:
    unknown = values.keys() - {each.name for each in fields(kind)}
    if unknown:
        raise UserError(
            f"the settings hold {kind.__name__} '{min(unknown)}', which this version of jaxrec does not know; "
            "read the run with the version its manifest names"
        )
    made = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    hints = get_type_hints(kind)
    for name, value in made.items():
        if not _fits(value, hints[name]):
            raise UserError(f"the settings hold {kind.__name__} '{name}' = {value!r:.60}, which is none of its values")
    return kind(**made)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of a field's type."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple and isinstance(value, tuple):
        parts = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if isinstance(value, bool) or origin is tuple:
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
