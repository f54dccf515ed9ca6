"""What `jaxrec evaluate` tells of a set of photos in a table, beyond the metrics of its test split."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import small
from PIL import Image

from jaxrec.cli import evaluate, predict, train
from jaxrec.data import open_dataset
from jaxrec.errors import UserError
from jaxrec.run.by_column import in_order
from jaxrec.run.trained import load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on 90 photos, of which one has another size; their table says by which camera each was taken."""
    folder = tmp_path_factory.mktemp("table")
    random = np.random.default_rng(0)
    lines = ["path,label,split,camera"]
    for number in range(90):
        pixels = random.integers(0, 256, (8, 10 if number == 7 else 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "train" if number < 50 else "test"
        lines.append(f"{number}.png,{('cat', 'dog')[number % 2]},{split},{('old', 'new', '')[number % 3]}")
    (folder / "set.csv").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_CACHE", str(folder / "cache"))
        options = ("--dataset", f"csv:{folder / 'set.csv'}", "--batch-size", 16, "--validation", 0)
        assert train.main(small("cnn", *options, "--runs", folder, "--name", "run")) == 0
    return folder / "run"


def test_remarks_and_class_names_are_told(run, capsys):
    capsys.readouterr()
    evaluate.main([str(run)])
    told, said = capsys.readouterr()
    remarks = json.loads((run / "manifest.json").read_text())["dataset"]["remarks"]
    assert "1 of 90" in remarks[0]
    assert said.startswith(remarks[0])
    results = json.loads((run / "results.json").read_text())
    (line,) = [line for line in told.splitlines() if "worst_class " in line]
    assert ("cat", "dog")[results["worst_class"]] in line
    evaluate.main([str(run), "--json"])
    assert json.loads(capsys.readouterr().out) == results


def lines(folder: Path) -> tuple[list[dict], list[dict]]:
    """The rows of predictions.csv and of predictions.jsonl."""
    with (folder / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    return table, [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_predictions_are_those_of_predict_beside_the_truth(run, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrec.run.trained.MOST", 16)  # Three batches.
    evaluate.main([str(run), "--predictions", "--out", str(tmp_path / "all")])
    table, rows = lines(tmp_path / "all")
    assert sorted(int(Path(row["path"]).stem) for row in rows) == list(range(50, 90))
    assert all(row["truth"] == ("cat", "dog")[int(Path(row["path"]).stem) % 2] for row in rows)
    results = json.loads((run / "results.json").read_text())
    assert np.mean([row["truth"] == row["prediction"] for row in rows]) == pytest.approx(results["accuracy"])
    paths = [str(run.parent / row["path"]) for row in rows]
    predict.main([str(run), *paths, "--out", str(tmp_path / "some")])
    same_table, same = lines(tmp_path / "some")
    assert [row["probabilities"] for row in rows] == [row["probabilities"] for row in same]
    assert [name for name in table[0] if name != "truth"] == list(same_table[0])
    assert [row["cat"] for row in table] == [row["cat"] for row in same_table]


def test_predictions_of_examples_without_files_have_numbers_and_need_a_system_that_reads_images(run):
    opened = load(run)
    split = opened.open_data().test
    (rows,) = opened.predictions(replace(split, files=()))
    assert [row["example"] for row in rows] == list(range(40))
    opened.system = replace(opened.system, rows=None)
    with pytest.raises(UserError, match="generate"):
        opened.predictions(split)
    with pytest.raises(UserError, match="--predictions"):
        evaluate.main([str(run), "--out", "folder"])


def test_slices_are_the_examples_of_each_cell(run, tmp_path, capsys):
    evaluate.main([str(run), "--slice", "camera", "--json", "--predictions", "--out", str(tmp_path)])
    slices = json.loads(capsys.readouterr().out)["slices"]["camera"]
    assert list(slices) == ["", "new", "old"]
    _, rows = lines(tmp_path)
    for cell, found in slices.items():
        those = [row for row in rows if ("old", "new", "")[int(Path(row["path"]).stem) % 3] == cell]
        right = np.mean([row["truth"] == row["prediction"] for row in those])
        assert (found["examples"], found["accuracy"]) == (len(those), pytest.approx(right))
    evaluate.main([str(run), "--slice", "camera"])
    old = slices["old"]
    told = capsys.readouterr().out
    assert re.search(rf"│ old +│ {old['examples']} +│ {old['accuracy']:.5g} +│", told)
    assert re.search(rf"│ \(empty\) +│ {slices['']['examples']} +│", told)
    with pytest.raises(UserError, match=r"--slice lens.*camera"):
        evaluate.main([str(run), "--slice", "lens"])


def test_cells_that_are_numbers_are_in_their_order():
    assert in_order({"10", "9", "", "-1.5"}) == ["", "-1.5", "9", "10"]
    assert in_order({"b", "10", "9"}) == ["10", "9", "b"]


def test_a_set_that_is_not_prepared_refuses_an_image_key(run):
    arrays = {"image": np.zeros((9, 8, 8, 1), np.uint8), "label": np.arange(9) % 2}
    for data in ("digits", "scenes", f"csv:{run.parent / 'set.csv'}", {"train": arrays, "test": arrays}):
        with pytest.raises(UserError, match="--image-key left"):
            open_dataset(data, image_key="left", reads={"image": "image"})
