"""Calibration and weak spots against closed forms, and `jaxrec evaluate` with both."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxrec.after.calibration import fit_temperature, negative_log_likelihood, probabilities, reliability
from jaxrec.after.weak_spots import brightness, extent, find_label_errors, near_duplicates, sharpness, slices
from jaxrec.after.weak_spots import small_copies as copies
from jaxrec.cli import evaluate, predict
from jaxrec.errors import UserError
from jaxrec.run.trained import load


def drawn(count, temperature):
    """Logits whose softmax, at a temperature, are the probabilities that the labels are drawn with."""
    random = np.random.default_rng(0)
    logits = 3 * random.normal(size=(count, 4))
    every = probabilities(logits, temperature).cumsum(1)
    return logits, (random.random((count, 1)) > every).sum(1).clip(max=3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    logits, label = drawn(20_000, temperature)
    found = fit_temperature(logits, label)
    assert found == pytest.approx(temperature, rel=0.05)

    def loss(value):
        return negative_log_likelihood(probabilities(logits, value), label)

    assert loss(found) <= min(loss(found * 1.01), loss(found / 1.01))
    assert reliability(probabilities(logits, found), label).error < 0.015


def test_reliability_counts_by_confidence():
    probability = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
    found = reliability(probability, np.array([0, 1, 1, 1]))
    there = found.count > 0
    np.testing.assert_array_equal(found.count[there], [2, 2])
    np.testing.assert_allclose(found.confidence[there], [0.7, 0.9])
    np.testing.assert_allclose(found.accuracy[there], [1.0, 0.5])
    assert found.error == pytest.approx((0.3 + 0.4) / 2)


def test_labels_that_were_changed_are_suspected():
    random = np.random.default_rng(1)
    true = random.integers(0, 5, 1000)
    probability = probabilities(4 * np.eye(5)[true] + random.normal(size=(1000, 5)))
    label = true.copy()
    changed = random.choice(1000, 50, replace=False)
    label[changed] = (true[changed] + 1) % 5
    found = find_label_errors(probability, label)
    hits = np.isin(found.index, changed)
    assert hits.mean() > 0.8 and hits.sum() > 25
    assert (np.diff(found.margin) <= 0).all()
    assert (found.suggested[hits] == true[found.index[hits]]).mean() > 0.95


def test_confident_learning_by_hand():
    probability = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.8, 0.2], [0.45, 0.55]])
    label = np.array([0, 0, 1, 1, 0])
    # Usual probabilities: (.9 + .5 + .45) / 3 = .617 for the first class and (.8 + .2) / 2 = .5 for the second.
    found = find_label_errors(probability, label)
    assert found.index.tolist() == [3, 4, 1]
    np.testing.assert_allclose(found.margin, [0.6, 0.1, 0.0], atol=1e-12)


def test_slices_hold_equal_numbers():
    place, limits = slices(np.arange(100.0))
    assert np.bincount(place).tolist() == [25, 25, 25, 25] and len(limits) == 5
    same, limits = slices(np.ones(7))
    assert set(same.tolist()) == {0} and len(limits) == 1


def test_quantities_of_images():
    images = np.zeros((2, 16, 16, 1), np.float32)
    images[0, 4:12, 4:12] = 1
    images[1] = np.linspace(0, 1, 16)[:, None]
    assert extent(images)[0] == 64 / 256
    np.testing.assert_allclose(brightness(images), [0.25, 0.5])
    assert sharpness(images)[1] < 0.1 < sharpness(images)[0]


def test_near_duplicates_are_found_despite_brightness_and_noise():
    random = np.random.default_rng(2)
    images = random.random((30, 24, 24, 3), np.float32)
    again = 0.5 * images[[4, 7]] + 0.1 + 0.01 * random.random((2, 24, 24, 3), np.float32)
    pairs = near_duplicates(copies(images), copies(again))
    assert sorted(pairs[:, :2].astype(int).tolist()) == [[4, 0], [7, 1]]
    within = near_duplicates(copies(np.concatenate([images, again])))
    assert sorted(within[:, :2].astype(int).tolist()) == [[4, 30], [7, 31]]


@pytest.mark.slow
def test_evaluate_calibrates_and_lists_weak_spots(trained, capsys, as_users_run_it):
    run = trained("cnn")
    capsys.readouterr()
    evaluate.main([str(run), "--calibrate", "--weak-spots", "--json"])
    found = json.loads(capsys.readouterr().out)
    calibration = found["calibration"]
    # Before scaling, it is the error that the metrics tell.
    assert calibration["before"]["calibration_error"] == pytest.approx(found["calibration_error"], abs=1e-4)
    assert calibration["before"]["negative_log_likelihood"] == pytest.approx(found["loss"], rel=1e-3)
    assert calibration["after"]["negative_log_likelihood"] < calibration["before"]["negative_log_likelihood"]
    weak = found["weak_spots"]
    assert weak["accuracy"] == pytest.approx(found["accuracy"])
    assert weak["class_accuracy"] == pytest.approx(found["worst_class_accuracy"])
    by_brightness = [each for each in weak["slices"] if each["by"] == "brightness"]
    assert sum(each["examples"] for each in by_brightness) == found["examples"]
    page = (run / "report.html").read_text()
    assert "Temperature" in page and "Weak spots" in page and "label_errors.csv" in page
    assert (run / "pictures" / "reliability.png").is_file()
    with (run / "label_errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == weak["label_errors"] and {row["split"] for row in rows} <= {"test", "validation"}


@pytest.mark.slow
def test_predict_divides_by_the_temperature_that_was_fitted(trained, tmp_path, as_users_run_it):
    run = shutil.copytree(trained("cnn"), tmp_path / "run", ignore=shutil.ignore_patterns("calibration.json"))
    image = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    arguments = [str(run), str(tmp_path / "image.png"), "--calibrated"]
    with pytest.raises(UserError, match="--calibrate"):
        predict.main(arguments)
    assert not (run / "predictions").exists()
    step = load(run).step
    for damaged in ("{", '{"temperature": 0.25}', json.dumps({"temperature": 0.25, "step": step - 1})):
        (run / "calibration.json").write_text(damaged)
        with pytest.raises(UserError, match=r"calibration\.json|--checkpoint"):
            predict.main(arguments)
    (run / "calibration.json").write_text(json.dumps({"temperature": 0.25, "step": step}))
    predict.main(arguments)
    (told,) = (run / "predictions" / "predictions.jsonl").read_text().splitlines()
    said = list(json.loads(told)["probabilities"].values())
    logits = load(run).predict(image[None, ..., None])["logits"]
    np.testing.assert_allclose(said, probabilities(logits, 0.25)[0], atol=1e-6)
    # Each run of an ensemble has a temperature of its own.
    other = shutil.copytree(run, tmp_path / "other")
    (other / "calibration.json").write_text(json.dumps({"temperature": 2.0, "step": step}))
    predict.main([*arguments, "--ensemble", str(other)])
    (told,) = (run / "predictions" / "predictions.jsonl").read_text().splitlines()
    mean = (probabilities(logits, 0.25)[0] + probabilities(logits, 2.0)[0]) / 2
    np.testing.assert_allclose(list(json.loads(told)["probabilities"].values()), mean, atol=1e-6)
