"""What a system is: the names that its module defines, and what stands in for those that it leaves out.

A system is a module. Required are

- ``Config``, a subclass of ``jaxrec.settings.Task``, and ``PRESETS``, its default settings by ``--model`` name;
- ``READS``, the features of an example that it reads: name in the batch to kind, ``{"image": "image"}``; a kind may be
  alternatives, ``"class|classes"``;
- ``init(config, key, batch) -> State``; ``train_step(state, batch, *, axis_name=None) -> (state, metrics)``, whose
  metrics hold ``loss``; ``eval_step(state, batch) -> {name: Metric}``; ``predict(state, inputs) -> {name: array}``, or
  ``predict(state, clips, length=None)`` of a system that reads clips;
- ``artifacts(state, batch) -> {name: picture}``, what a person would look at; the batch holds the first examples.
  What a picture may be, ``jaxrec.run.show.pictures.save_artifacts`` tells.

The optional names are the fields of ``System`` below. Of jaxrec's own systems ``Config`` and ``PRESETS`` are in
``jaxrec/settings/NAME.py``, so that ``--help`` need not import jax, and the rest in ``jaxrec/tasks/NAME.py``.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.features import Features
from jaxrec.errors import UserError
from jaxrec.metrics.meanings import Meaning
from jaxrec.settings import registry
from jaxrec.settings.common import Task
from jaxrec.weights.preprocessing import Preprocessing

REQUIRED = ("READS", "init", "train_step", "eval_step", "predict", "artifacts")


class Score(NamedTuple):
    """The metric on the validation split by which checkpoints, early stopping and halving choose."""

    name: str = "loss"
    lower: bool = True
    """Whether less is better."""

    def least(self, metrics: Mapping[str, float]) -> float:
        """The metric, negated if more is better: the best state has the least of it."""
        if self.name not in metrics:
            raise UserError(
                f"the system is scored by '{self.name}', and eval_step gives {', '.join(metrics)}; name one of these"
            )
        value = float(metrics[self.name])
        return value if self.lower else -value


LOSS = Score("loss")


class Channels(NamedTuple):
    """Channels of a network that can be removed together; arrays by path, as in ``net/params/conv1/kernel``."""

    made: tuple[str, ...]
    """The arrays whose last axis they are: a kernel that makes them, its bias, normalization and the like; and those of
    other layers whose results are added to them. The axis may hold them several times, one place after another."""
    read: tuple[str, ...]
    """The kernels that read them, by the last axis but one, which may hold them several times as well."""


class Facts(NamedTuple):
    """What a system may ask of the training split to complete its settings; computed when it is called."""

    features: Features
    statistics: Callable[[str], tuple[tuple[float, ...], tuple[float, ...]]]
    """Mean and standard deviation of each channel of the named image feature, of pixels in [0, 1]."""
    class_counts: Callable[[str], np.ndarray]
    """How often each class occurs in the named class or mask feature, int64 [C]; void is left out."""


def same(config: Task, *_: Any) -> Task:
    """The settings as they are."""
    return config


def same_size(config: Task, size: int) -> int:
    """The size as it is."""
    return size


def nothing(config: Task) -> Mapping[str, Any]:
    """No outputs."""
    return {}


def unknown(config: Task) -> None:
    """None."""


def never(config: Task) -> bool:
    """False."""
    return False


def no_channels(config: Task, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Channels, ...]:
    """None."""
    return ()


def no_pictures(results: Mapping[str, Any]) -> dict[str, Any]:
    """No pictures."""
    return {}


@dataclass(frozen=True)
class System:
    """A system's functions and facts.

    In the module, the names of facts are in capitals (``SCORE``) and those of functions are not (``complete``).
    """

    name: str
    init: Callable[..., Any]
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]
    predict: Callable[..., Any]
    artifacts: Callable[..., Any]
    reads: Mapping[str, str] | Callable[[Task], Mapping[str, str]]

    score: Score | None = LOSS
    """None if no metric tells a better state from a worse one. In the module, it may be a function of the settings."""
    headline: tuple[str, ...] = ()
    """The metrics that the report may lead with, the first that is there."""
    captions: Mapping[str, str] = field(default_factory=dict)
    """A sentence under each picture, by the picture's name."""
    meanings: Mapping[str, Meaning] = field(default_factory=dict)
    """What the metrics of the system say, by name; of what every run logs, ``jaxrec.metrics.meanings`` tells."""
    evolving: tuple[str, ...] = ()
    """Pictures that are kept at every evaluation, for a time-lapse."""
    hyper: tuple[str, ...] = ()
    """Options that are numbers in the state's ``hyper``: runs trained at once may differ in them."""
    dataset: str = "digits"
    """The data set of a run that names none."""
    any_size: bool = False
    """Whether ``predict`` takes images of another size than those of training."""
    boxed: tuple[str, ...] = ()
    """The outputs of ``predict`` that hold boxes in pixels of the image, [N, K, 4]: y0, x0, y1, x1. What is told and
    drawn of a file is in pixels of the file."""
    soft_labels: bool = False
    """Whether ``train_step`` takes ``label`` as shares of the classes too, float32 [B, classes]."""
    measures: tuple[str, ...] = ()
    """Measures of ``jaxrec.run.measures`` taken on the final state."""
    complete: Callable[[Task, Facts], Task] = same
    """Fills in the settings that follow from the data."""
    validation_config: Callable[[Task], Task] = same
    """Settings for evaluations during training, if those at the end take long."""
    taught: Callable[[Task], bool | str] = never
    """Whether ``init`` is to be given ``judge``, a model from images in [0, 1] to features and its variables: a
    classifier of the true images that is trained ahead of the run; or the folder of the run that it is."""
    evaluation_size: Callable[[Task, int], int] = same_size
    """The number of examples to evaluate at once, given what their size alone would allow."""
    worst: Callable[..., dict[str, Any]] | None = None
    """``worst(state, batch)``: pictures of the examples of highest loss, given worst first, a few at a time:
    ``{name: {"images": [B, n, H, W, C]}}``, n images side by side of each example, and ``label``, ``prediction`` and
    ``confidence`` [B] if they help: integers are classes, written by name, mistakes in red; floats are quantities,
    written with three digits. ``boxes`` [B, n, K, 4] with ``box_classes`` and others [B, n, K] are drawn on the images.
    For systems whose ``eval_step`` gives ``jaxrec.metrics.Worst``."""
    seen: Callable[..., dict[str, Any]] | None = None
    """``seen(state, batch)``: a training batch as the model sees it after augmentation, under the name ``batch``, as
    ``worst`` gives pictures. ``jaxrec.tasks.inputs.augmented_batch`` is one."""
    summary_pictures: Callable[[Mapping[str, Any]], dict[str, Any]] = no_pictures
    """Pictures made from the metrics on the test split, such as a confusion matrix."""
    rows: Callable[..., list[dict[str, Any]]] | None = None
    """``rows(config, inputs, outputs, features)``: what ``predict`` tells of each input, as a dict; inputs and
    outputs are NumPy arrays. Lists, dicts and arrays go to the JSON file alone. The names ``path``, ``example``,
    ``truth`` and ``pictures`` are taken. None: the system reads no images."""
    listed: Callable[..., dict[str, list[Any]]] | None = None
    """``listed(config, rows, features)``: what ``predict`` writes of told images into other JSON files, each one list
    of all images: the records by the file's name without its ending."""
    sheet: Callable[..., dict[str, Any]] | None = None
    """``sheet(config, inputs, outputs, features)``: pictures of the first inputs that ``predict`` writes."""
    drawings: Callable[..., list[dict[str, Any]]] | None = None
    """``drawings(config, inputs, outputs, features)``: pictures that ``predict`` writes for each input, which has the
    size of its file."""
    unseen: Callable[[Task], Mapping[str, Any]] = nothing
    """The outputs of ``predict`` that hold a value for each pixel, [N, H, W, ...], and the value that stands for pixels
    that were cropped off, so that the model has not seen them."""
    targets: Callable[..., dict[str, Any]] | None = None
    """``targets(config, outputs, wanted) -> {"class": int32 [N], ...}``: what ``explain`` explains of each input, from
    what ``predict`` says of it, as NumPy arrays [N, ...]. ``wanted`` is the number of the class that was asked for, or
    None. A class of -1 means that there is nothing to explain. ``box`` [N, 4] or ``where`` bool [N, H, W] say which
    part of the image it is about; it is drawn."""
    explained: Callable[..., Any] | None = None
    """``explained(state, inputs, target) -> float32 [N]``, or ``explained(state, clips, target, length)``: the score of
    each target that explanations account for. It has a gradient, and scores each input by itself."""
    generate: Callable[..., Any] | None = None
    """``generate(state, key, count, first) -> {"image": float32 [count, H, W, C], "label": int32 [count]}``, for
    systems that draw images. Many are drawn in parts: ``first`` is the number of the part's first image.
    It may also take ``label``, the number of the class to draw (``--class``), and ``truncation``, a factor of the
    latents (``--truncation``)."""
    linear_head: Callable[[Task], tuple[str, str]] | None = None
    """``linear_head(config)``, of systems that tell classes of images: the paths of kernel [D, classes] and bias of the
    layer that makes logits of the ``features`` that ``predict`` gives. None: there is none."""
    channels: Callable[[Task, Mapping[str, tuple[int, ...]]], Sequence[Channels]] = no_channels
    """``channels(config, shapes)``: the channels that ``compress --structured`` may remove, whose number the setting
    ``width`` gives; ``shapes`` are those of the model's arrays, by path. Empty: it is not known which depend on each
    other."""
    preprocessing: Callable[[Task], Preprocessing | None] = unknown
    """How published weights of the configured model expect images; None if there are none."""
    translated: Callable[..., dict[str, np.ndarray]] | None = None
    """``translated(config, arrays, shapes)``: published weights, by the names of their file, as arrays by path of this
    model, such as ``net/params/conv1/kernel``; ``shapes`` are the model's own by path. None: there are none."""
    drawn_from: Callable[[Task], Mapping[str, tuple[tuple[int, ...], Any]]] | None = None
    """What ``predict`` is given in place of images, of systems that read none: arrays by name, the shape of one example
    and the dtype."""
    generates: Callable[[Task], bool] | None = None
    """Whether ``generate`` works with these settings; default: if it is defined."""

    def features_read(self, config: Task) -> Mapping[str, str]:
        """The features that the system reads under these settings: name to kind."""
        return self.reads(config) if callable(self.reads) else self.reads

    def can_generate(self, config: Task) -> bool:
        """Whether the system draws images under these settings."""
        if self.generate is None:
            return False
        return self.generates is None or self.generates(config)


DATA = (
    "score",
    "headline",
    "captions",
    "meanings",
    "evolving",
    "hyper",
    "dataset",
    "any_size",
    "boxed",
    "soft_labels",
    "measures",
)
FUNCTIONS = (
    "complete",
    "validation_config",
    "taught",
    "evaluation_size",
    "worst",
    "seen",
    "summary_pictures",
    "rows",
    "listed",
    "sheet",
    "drawings",
    "unseen",
    "targets",
    "explained",
    "channels",
    "linear_head",
    "preprocessing",
    "translated",
    "generate",
    "generates",
    "drawn_from",
)


def read_system(name: str, settings: ModuleType, functions: ModuleType) -> System:
    """The system that two modules define, which may be one and the same.

    Raises UserError if a required name is missing, or a name is nearly that of a fact.
    """
    missing = [each for each in REQUIRED if not hasattr(functions, each)]
    if missing:
        raise UserError(
            f"the system '{name}' defines no {missing[0]}; expected {', '.join(REQUIRED)}: see jaxrec.tasks.system"
        )
    for module in (settings, functions):
        _check_spelling(name, module)
    given = {each: getattr(functions, each) for each in REQUIRED[1:]}
    for each in DATA:
        for module in (settings, functions):
            if hasattr(module, each.upper()):
                given[each] = getattr(module, each.upper())
    for each in FUNCTIONS:
        if hasattr(functions, each):
            given[each] = getattr(functions, each)
    return System(name=name, reads=functions.READS, **given)


def _check_spelling(name: str, module: ModuleType) -> None:
    """Raises UserError if the module defines a name that is nearly that of a fact: nothing would read it."""
    facts = ["READS", "PRESETS", *(each.upper() for each in DATA)]
    for each in vars(module):
        meant = difflib.get_close_matches(each, facts, n=1, cutoff=0.85) if each.isupper() else []
        if meant and each not in facts:
            raise UserError(
                f"the system '{name}' defines {each}, which nothing reads; call it {meant[0]}, or rename it if it is "
                "something else"
            )


def system_of(config: Task) -> System:
    """The system that the settings belong to, with the score that it has under them."""
    system = named_system(registry.name_of(config))
    score: Any = system.score
    return replace(system, score=score(config)) if callable(score) else system


def named_system(name: str) -> System:
    """The system called ``name``; raises UserError if there is none or it is incomplete."""
    return read_system(name, registry.settings_module(name), registry.system_module(name))


def refuse_unused(config: Task, reason: str, *names: str) -> None:
    """Raises UserError if settings of these names, which have no effect for the ``reason``, are not their defaults."""
    usual = type(config)()
    for name in names:
        if getattr(config, name) != getattr(usual, name):
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} {getattr(config, name)} has no effect {reason}; remove it")


def with_known(config: Task, **values: Any) -> Task:
    """The settings with those of ``values`` set that they have fields for."""
    known = {name: value for name, value in values.items() if hasattr(config, name)}
    return replace(config, **known)
