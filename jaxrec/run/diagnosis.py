"""How far the answers of a trained classifier can be trusted, and where they are weak: files that the report shows."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxrec.after import calibration, weak_spots
from jaxrec.data import Split, class_names
from jaxrec.errors import UserError
from jaxrec.run.data import Data, open_data
from jaxrec.run.known import known_data
from jaxrec.run.show.plots import reliability_picture
from jaxrec.run.show.trust import CALIBRATION, LABEL_ERRORS, NEAR_DUPLICATES, RELIABILITY, WEAK_SPOTS
from jaxrec.run.store.folder import read_json, write_json
from jaxrec.run.store.listing import write_table
from jaxrec.run.trained import Trained

MOST = 10_000
"""Pairs of near-duplicates that are listed."""
MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "brightness": weak_spots.brightness,
    "size": weak_spots.extent,
    "sharpness": weak_spots.sharpness,
}
"""What slices are made by."""


class Answers(NamedTuple):
    """What a run says of the examples of a split."""

    logits: np.ndarray
    """float32 [N, C]."""
    label: np.ndarray
    """int32 [N], the classes that they are labelled with."""
    quantities: dict[str, np.ndarray]
    """float32 [N] by name: what slices are made by."""
    copies: np.ndarray
    """float32 [N, D], small copies of the images by which to compare them."""

    @property
    def right(self) -> np.ndarray:
        """Whether each class is predicted, bool [N]."""
        return self.logits.argmax(1) == self.label


def answers_of(trained: Trained, split: Split) -> Answers:
    """Looks at every example of a split; raises UserError if the run does not give each a single class."""
    label = _label(trained)
    logits, copies, labels = [], [], []
    quantities: dict[str, list[np.ndarray]] = {}
    for index in _pieces(trained, split):
        examples = split.read(index)
        shown = [examples[name] for name in ("image", "clip", "length") if name in examples]
        outputs = trained.predict(*shown)
        _check_softmax(trained, outputs)
        logits.append(outputs["logits"])
        labels.append(examples[label])
        images = _images(examples)
        copies.append(weak_spots.small_copies(images))
        for name, measure in MEASURES.items():
            quantities.setdefault(name, []).append(measure(images))
    measured = {name: np.concatenate(values) for name, values in quantities.items()}
    return Answers(np.concatenate(logits), np.concatenate(labels), measured, np.concatenate(copies))


def _pieces(trained: Trained, split: Split) -> Iterator[np.ndarray]:
    for start in range(0, len(split), trained.at_once):
        yield np.arange(start, min(start + trained.at_once, len(split)))


def _label(trained: Trained) -> str:
    """The feature that holds the class of each example."""
    found = [name for name, feature in trained.features.items() if feature.kind == "class"]
    if len(found) != 1 or trained.system.rows is None:
        raise UserError(
            f"'{trained.folder.name}' is a run of {trained.config.task.model}, which does not give each example one "
            "class; --calibrate and --weak-spots are for runs that do"
        )
    return found[0]


def _check_softmax(trained: Trained, outputs: dict[str, np.ndarray]) -> None:
    """Raises UserError unless the outputs are logits and the probabilities of one class out of several."""
    logits, given = outputs.get("logits"), outputs.get("probabilities")
    if logits is None or given is None or not np.allclose(calibration.probabilities(logits), given, atol=1e-3):
        raise UserError(
            f"'{trained.folder.name}' gives no logits whose softmax are its probabilities; --calibrate and "
            "--weak-spots are for runs that choose one class out of several"
        )


def _images(examples: dict[str, np.ndarray]) -> np.ndarray:
    """Images [N, H, W, C] in [0, 1], of clips their middle frames."""
    if "image" in examples:
        values = examples["image"]
    else:
        clips = examples["clip"]
        values = clips[np.arange(len(clips)), (examples["length"] - 1) // 2]
    if values.dtype.kind == "u":
        return values.astype(np.float32) / np.iinfo(values.dtype).max
    return values.astype(np.float32)


def open_splits(trained: Trained) -> Data:
    """The run's data with its training and validation splits, cut as it was for the run."""
    return open_data(trained.config, trained.system, known=known_data(trained.folder))


def calibrate(trained: Trained, validation: Split | None, test: Answers) -> dict[str, Any]:
    """Fits a temperature on the validation split, and measures the test split without and with it.

    Writes ``calibration.json`` and the picture ``reliability.png`` into the run's folder. Raises UserError if there is
    no validation split.
    """
    if validation is None:
        raise UserError("--calibrate fits a temperature on the validation split, and the run has none; train with one")
    held_out = answers_of(trained, validation)
    temperature = calibration.fit_temperature(held_out.logits, held_out.label)
    found: dict[str, Any] = {"temperature": temperature, "step": trained.step}
    found |= {"validation": len(validation), "test": len(test.label)}
    drawn = {}
    for name, value in (("before", 1.0), ("after", temperature)):
        probability = calibration.probabilities(test.logits, value)
        drawn[name] = calibration.reliability(probability, test.label)
        found[name] = {
            "calibration_error": drawn[name].error,
            "negative_log_likelihood": calibration.negative_log_likelihood(probability, test.label),
        }
    pictures = trained.folder / "pictures"
    pictures.mkdir(exist_ok=True)
    reliability_picture(drawn).save(pictures / RELIABILITY)
    write_json(trained.folder / CALIBRATION, found)
    return found


def fitted_temperature(trained: Trained) -> float:
    """The temperature that `calibrate` has fitted to the weights of a run.

    Raises UserError if none was fitted, or one to the weights of another step.
    """
    path, fit = trained.folder / CALIBRATION, f"jaxrec evaluate {trained.folder} --calibrate"
    if not path.exists():
        raise UserError(
            f"--calibrated divides by a temperature, and '{trained.folder.name}' has none; fit one by {fit}"
        )

    def parsed(found: Any) -> tuple[int, float]:
        return int(found["step"]), float(found["temperature"])

    step, temperature = read_json(path, parsed)
    if step != trained.step:
        raise UserError(
            f"the temperature of '{trained.folder.name}' was fitted at step {step}, and these are the weights of step "
            f"{trained.step}; fit one to them by {fit} and the same --checkpoint"
        )
    return temperature


def calibrated(outputs: dict[str, np.ndarray], temperature: float) -> dict[str, np.ndarray]:
    """A run's outputs, with the probabilities float32 [N, C] of its logits divided by a temperature."""
    found = calibration.probabilities(outputs["logits"], temperature)
    return {**outputs, "probabilities": found.astype(np.float32)}


def find_weak_spots(trained: Trained, data: Data, test_split: Split, test: Answers) -> dict[str, Any]:
    """The worst slices, probable label errors and near-duplicates of the test split.

    Errors are looked for on the validation split, too, and near-duplicates of test images among training images. Writes
    ``weak_spots.json``, ``label_errors.csv`` and ``near_duplicates.csv`` into the run's folder.
    """
    splits = {"test": (test_split, test)}
    if data.validation is not None and len(data.validation):
        splits["validation"] = (data.validation, answers_of(trained, data.validation))
    errors = []
    for name, (split, answers) in splits.items():
        errors += _label_errors(trained, name, split, answers)
    pairs = _near_duplicates(data.train, test_split, test)
    write_table(trained.folder / LABEL_ERRORS, ("split", "example", "label", "suggested", "margin"), errors)
    write_table(trained.folder / NEAR_DUPLICATES, ("example", "split of the other", "other", "correlation"), pairs)
    found = {
        "accuracy": float(test.right.mean()),
        "examples": len(test.label),
        **_least_accurate(trained, test),
        "slices": _slices(test),
        "label_errors": len(errors),
        "near_duplicates": len(pairs),
    }
    write_json(trained.folder / WEAK_SPOTS, found)
    return found


def _least_accurate(trained: Trained, answers: Answers) -> dict[str, Any]:
    names = class_names(trained.features)
    count = np.bincount(answers.label, minlength=len(names))
    hits = np.bincount(answers.label, weights=answers.right, minlength=len(names))
    shares = np.where(count > 0, hits / np.maximum(count, 1), np.inf)
    worst = int(shares.argmin())
    return {"class": names[worst], "class_accuracy": float(shares[worst])}


def _slices(answers: Answers) -> list[dict[str, Any]]:
    """Every slice by every quantity, the least accurate first."""
    found = []
    for name, values in answers.quantities.items():
        place, limits = weak_spots.slices(values)
        for number in range(len(limits) - 1):
            inside = place == number
            if inside.any():
                low, high = (float(each) for each in limits[number : number + 2])
                accuracy = float(answers.right[inside].mean())
                found.append({"by": name, "from": low, "to": high, "examples": int(inside.sum()), "accuracy": accuracy})
    return sorted(found, key=lambda each: each["accuracy"])


def _label_errors(trained: Trained, name: str, split: Split, answers: Answers) -> list[tuple[Any, ...]]:
    names = class_names(trained.features)
    suspects = weak_spots.find_label_errors(calibration.probabilities(answers.logits), answers.label)
    rows = []
    columns = [each.tolist() for each in suspects]
    for index, suggested, margin in zip(*columns, strict=True):
        labelled = names[int(answers.label[index])]
        rows.append((name, _called(split, index), labelled, names[suggested], f"{margin:.4f}"))
    return rows


def _near_duplicates(train: Split, test_split: Split, test: Answers) -> list[tuple[Any, ...]]:
    """Pairs of a test image with another test image or a training image, the likest first."""
    copies = []
    for index in train.pieces(np.arange(len(train))):
        copies.append(weak_spots.small_copies(_images(train.read(index))))
    others = {"test": (test_split, None), "train": (train, np.concatenate(copies) if copies else np.zeros((0, 1)))}
    found = []
    for name, (split, second) in others.items():
        if second is not None and not len(second):
            continue
        for one, other, alike in weak_spots.near_duplicates(test.copies, second)[:MOST].tolist():
            found.append((_called(test_split, int(one)), name, _called(split, int(other)), f"{alike:.4f}"))
    return sorted(found, key=lambda row: row[-1], reverse=True)


def _called(split: Split, index: int) -> str:
    """The file of an example, or its number if it is in no file of its own."""
    return split.file(index) or str(index)
