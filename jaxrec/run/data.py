"""The data of a run: opened, cut into splits, and the settings that follow from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxrec.augment.apply import STILL, check_composed
from jaxrec.data import (
    STATISTICS_SAMPLE,
    Balanced,
    Dataset,
    Order,
    Split,
    class_counts,
    class_names,
    class_numbers,
    cut_validation,
    open_dataset,
    shuffled,
    statistics,
)
from jaxrec.data.datasets import KEPT
from jaxrec.data.files import Known, Parts
from jaxrec.data.reads import alternatives
from jaxrec.data.splits import not_kept
from jaxrec.errors import UserError
from jaxrec.run.known import KnownData, check_there
from jaxrec.run.world import processes
from jaxrec.settings import Train
from jaxrec.tasks.system import Facts, System

DEFAULT_STEPS = 2000
"""Length of a run that is given neither steps nor epochs."""
EVALUATIONS = 10
"""Evaluations in a run that is not told how often to evaluate."""
SHARE = 0.1
"""Share of the training split that is held out for validation if nothing else is said."""
FEW = 30
"""Examples of a split below which metrics say little."""
SAMPLED_BYTES = 2**30
"""Decoded size from which statistics are taken over a sample of the training split."""


@dataclass(frozen=True)
class Data:
    """A data set cut for a run."""

    dataset: Dataset
    train: Split
    validation: Split | None
    test: Split
    resident: bool
    """Whether the training examples live on the devices."""
    order: Order
    """Which training examples each step takes."""
    remarks: tuple[str, ...] = ()
    """What a user should know of how the set was cut, a sentence each."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the settings were completed with, as JSON data: filled in when a system asks."""


def open_data(
    config: Train,
    system: System,
    dataset: Any = None,
    *,
    trains: bool = False,
    known: KnownData | None = None,
) -> Data:
    """Opens the configured data set, or the given one, with its validation split or one cut from the training split.

    Args:
        config: the settings; those of a run may be incomplete.
        system: says which features are read.
        dataset: arrays by name, arrays by split and name, or a ``Dataset``; default: the one that the settings name.
        trains: whether training examples will be read many times, so that they are held decoded.
        known: the data of the run that is to go on. Its examples keep their split, and a remark says what has changed.

    Raises:
        UserError: the set is not there or lacks what the system reads, or a batch is larger than the training split.
    """
    if known is not None and dataset is None:
        check_there(config.dataset)
    before = None if known is None else known.for_opening("train")
    opened = _open(config, system, dataset, before)
    _check_features(opened, system, config)
    changes = () if known is None else known.changes(opened)
    train = opened.splits["train"]
    # If several processes train, each reads its part of every batch and no more.
    alone = processes.share()[1] == 1
    resident = trains and alone and train.nbytes <= config.memory_mb * 2**20
    if resident or (trains and alone and train.kept):
        train = train.cached()
    uses = None if known is None or not changes else known.uses
    train, validation, remarks = _with_validation(config, opened, train, uses)
    if len(train) < config.batch_size:
        raise UserError(
            f"batch size {config.batch_size} is larger than the training split of {len(train)} examples; "
            f"choose at most {len(train)} with --batch-size"
        )
    test = opened.splits["test"]
    few = {"validation": 0 if validation is None else len(validation), "test": len(test)}
    said = _shared(opened) + _few(few) + _copies(opened, train, test)
    order = _order(config, train) if trains else shuffled(len(train))
    facts = {} if known is None else dict(known.facts)
    return Data(opened, train, validation, test, resident, order, changes + remarks + said, facts)


def open_test(config: Train, system: System, dataset: Any, known: KnownData) -> Data:
    """The test split of a run's data set, or of another one of the same classes; no other split need be there.

    Args:
        config: the run's settings.
        system: the run's system.
        dataset: as for ``open_data``.
        known: the run's data. Examples that the run does not know are tested on if the set states no splits.

    Raises:
        UserError: the set is not there, or has other classes or features than the run's.
    """
    if dataset is None:
        check_there(config.dataset)
    # A measure compares with what was trained on.
    opened = _open(config, system, dataset, known.for_opening("test"), only_test=not system.measures)
    _check_features(opened, system, config)
    remarks = known.changes(opened)
    test = opened.splits["test"]
    train = opened.splits.get("train", test.subset(np.arange(0)))
    if system.measures:
        uses = known.uses if remarks else None
        train, _, _ = _with_validation(config, opened, train, uses)
    # Of its own test split, the run has said it; and who gives arrays can count them.
    few = _few({"test": len(test)}) if isinstance(dataset, str) else ()
    return Data(opened, train, None, test, False, shuffled(len(train)), remarks + few)


def _with_validation(
    config: Train, opened: Dataset, train: Split, uses: Parts | None
) -> tuple[Split, Split | None, tuple[str, ...]]:
    """The training and the validation split, and what is to be said of them.

    ``uses`` tells what a run has used each file as already.
    """
    own = opened.splits.get("validation")
    if config.validation_split is not None and config.validation is not None:
        raise UserError(
            f"got --validation-split {config.validation_split} and --validation {config.validation}; give one of them"
        )
    if own is not None and config.validation is None:
        which = "the set's own" if config.validation_split is None else config.validation_split
        return train, own, (f"the validation split is {which}: {len(own):,} examples",)
    unused = () if own is None else (f"the set's own validation split of {len(own):,} examples is not used",)
    share = SHARE if config.validation is None else config.validation
    if not share:
        return train, None, unused
    if uses is not None and opened.files:
        rows = opened.splits["train"].rows.tolist()
        known = uses.of([opened.files[row] for row in rows], [opened.digests[row] for row in rows])
        held = np.array([use == "validation" for use in known or []])
        if held.any() and not held.all():
            return train.subset(np.flatnonzero(~held)), train.subset(np.flatnonzero(held)), unused
    labels = _classes(train)
    if labels is None:
        return *cut_validation(train, share), unused
    rest, validation = cut_validation(train, share, labels=labels)
    classes = np.zeros(train.rows.max() + 1, np.int32)
    classes[train.rows] = labels
    names = class_names(opened.features)
    lost = not_kept("the validation split", names, classes[rest.rows], classes[validation.rows])
    return rest, validation, unused + lost


def _classes(split: Split) -> np.ndarray | None:
    """The class of each example, int [N]; None if there are none, or too many images to look for them."""
    names = [name for name, feature in split.features.items() if feature.kind == "class"]
    if not names:
        return None
    if split.classes is not None:
        return split.classes[split.rows]
    if split.nbytes > KEPT:
        return None
    whole = split if split.kept is None else split.cached()
    return np.concatenate(list(whole.values(names[0], np.arange(len(split)))))


def _shared(dataset: Dataset) -> tuple[str, ...]:
    """The sentences that say how many examples two splits share, of those that are to be apart; none if none are."""
    said = []
    for one, other in (("test", "train"), ("validation", "train"), ("test", "validation")):
        if one not in dataset.splits or other not in dataset.splits:
            continue
        rows = dataset.splits[one].rows
        count = int(np.isin(rows, dataset.splits[other].rows).sum())
        if count:
            said.append(
                f"{count} of the {len(rows)} examples of the {one} split are in the {other} split, too, so metrics on "
                f"them are too good: change --{one}-split or --{other}-split"
            )
    return tuple(said)


def _copies(dataset: Dataset, train: Split, test: Split) -> tuple[str, ...]:
    """The sentence that says how many files of the test split have a copy in training; none if none has."""
    # Rows of splits that are held in memory are numbered anew; names stay.
    digests = dict(zip(dataset.files, dataset.digests, strict=True))
    if not digests:
        return ()
    trained = [train.file(index) for index in range(len(train))]
    tested = [test.file(index) for index in range(len(test))]
    contents = {digests[name] for name in trained}
    count = sum(digests[name] in contents for name in set(tested) - set(trained))
    if not count:
        return ()
    are = "is a copy of a training example" if count == 1 else "are copies of training examples"
    return (f"{count} of the {len(test)} test examples {are}: keep each in one split alone",)


def _few(sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The sentences that say which splits are too small to measure anything."""
    said = []
    for name, size in sizes.items():
        if 0 < size < FEW:
            has = "1 example" if size == 1 else f"{size} examples"
            said.append(
                f"the {name} split has {has}: metrics on fewer than {FEW} say little, one example is {1 / size:.0%}"
            )
    return tuple(said)


def _order(config: Train, train: Split) -> Order:
    """Which examples each step takes, as the settings ask; raises UserError if they have no single class each."""
    if config.sampler == "shuffle":
        return shuffled(len(train))
    classes = [name for name, feature in train.features.items() if feature.kind == "class"]
    if not classes:
        has = ", ".join(f"'{name}' ({feature.kind})" for name, feature in train.features.items())
        raise UserError(
            f"--sampler balanced draws each class equally often, and the examples have {has}; expected a single class "
            "for each example: give --sampler shuffle"
        )
    return Balanced(class_numbers(train, classes[0], share=processes.share(), merge=processes.summed))


def _check_features(dataset: Dataset, system: System, config: Train) -> None:
    """Raises UserError if a set that was opened in Python lacks what the system reads."""
    for name, kinds in system.features_read(config.task).items():
        feature = dataset.features.get(name)
        if feature is None and kinds.endswith("?"):
            continue
        if feature is None or feature.kind not in alternatives(kinds):
            has = ", ".join(f"'{key}' ({each.kind})" for key, each in dataset.features.items())
            raise UserError(
                f"{system.name} reads '{name}' of kind {kinds}, and the data set has {has}: "
                "open it with reads= of the system's READS"
            )


def _open(config: Train, system: System, dataset: Any, known: Known | None, *, only_test: bool = False) -> Dataset:
    if isinstance(dataset, Dataset):
        apart = ("train_split", "test_split", "validation_split", "image_size", "resize", "image_key", "skip_bad")
        for name in apart:
            if getattr(config, name) != getattr(Train, name):
                raise UserError(
                    f"{name} cannot be applied to a data set that is open already; give it to jaxrec.open_dataset"
                )
        return dataset
    if dataset is None:
        dataset = system.dataset if config.dataset is None else config.dataset
    return open_dataset(
        dataset,
        reads=system.features_read(config.task),
        data_dir=config.data_dir,
        train_split=config.train_split,
        test_split=config.test_split,
        validation_split=config.validation_split,
        image_size=config.image_size,
        resize=config.resize,
        image_key=config.image_key,
        skip_bad=config.skip_bad,
        known=known,
        only_test=only_test,
    )


def check_same_data(data: Data, described: Mapping[str, Any]) -> None:
    """Raises UserError if ``data`` is not the set that a run's manifest describes."""
    if data.dataset.fingerprint != described["fingerprint"]:
        raise UserError(
            f"dataset '{data.dataset.name}' is not what the run was trained on: its files, classes or image shape "
            "have changed; put it back as it was, or train another run"
        )


def complete(config: Train, data: Data, system: System) -> Train:
    """The settings with what follows from the data: length in steps, when to evaluate, and what the system asks for.

    Raises UserError if they contradict each other or the data.
    """
    steps = _steps(config, data)
    if config.patience and data.validation is None:
        raise UserError("--patience decides on the validation split, and --validation 0 cuts none; try --validation .1")
    if config.patience and system.score is None:
        raise UserError(
            f"--patience needs a metric to monitor, and none tells a better {system.name} from a worse one; "
            "remove --patience"
        )
    _check_augment(config, data)
    task = replace(config.task, optimizer=replace(config.task.optimizer, steps=steps))
    task = system.complete(task, _facts(data))
    every = config.eval_every
    if every is None:
        every = max(1, steps // EVALUATIONS)
        if every > config.log_every:
            # On logged steps, so that many steps between two of them can be one program.
            every -= every % config.log_every
    return replace(config, task=task, steps=steps, epochs=None, eval_every=every)


def _check_augment(config: Train, data: Data) -> None:
    """Raises UserError if examples are to be put together and what is read of them cannot be.

    The training step would refuse it, too, but only after the run has a folder. Labels are left to it: some systems
    read them and move images without them.
    """
    if not (config.task.augment.mosaic or config.task.augment.paste):
        return
    kinds = {name: feature.kind for name, feature in data.dataset.features.items() if feature.kind not in STILL}
    check_composed(config.task.augment, kinds)


def _steps(config: Train, data: Data) -> int:
    if config.steps is not None and config.epochs is not None:
        raise UserError(f"got --steps {config.steps} and --epochs {config.epochs}; give one of them")
    if config.epochs is not None:
        return max(1, math.ceil(config.epochs * len(data.train) / config.batch_size))
    if config.steps == 0 and not config.probe:
        raise UserError("--steps 0 trains nothing; expected 1 or more, or --probe")
    if config.steps is None:
        return 0 if config.probe else DEFAULT_STEPS
    return config.steps


def _facts(data: Data) -> Facts:
    sample = STATISTICS_SAMPLE if data.train.nbytes > SAMPLED_BYTES else None
    share, merge = processes.share(), processes.summed

    # A run that goes on keeps what it began with, whatever became of its data.
    def moments(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        key = f"statistics of {name}"
        if key not in data.facts:
            data.facts[key] = statistics(data.train, sample, name=name, share=share, merge=merge)
        mean, std = data.facts[key]
        return tuple(mean), tuple(std)

    def counts(name: str) -> np.ndarray:
        key = f"class counts of {name}"
        if key not in data.facts:
            data.facts[key] = class_counts(data.train, name, share=share, merge=merge).tolist()
        return np.array(data.facts[key], np.int64)

    return Facts(data.dataset.features, moments, counts)
