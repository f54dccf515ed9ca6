"""What a system gives is taken as its contract says: nothing is made up, and what does not fit is refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import jaxrec
from jaxrec.cli.prediction_files import open_predictions
from jaxrec.data import Feature, open_dataset
from jaxrec.errors import UserError
from jaxrec.run.fit import Run
from jaxrec.run.introduction import for_the_report
from jaxrec.run.told import true_values
from jaxrec.settings import Train, from_dict, preset, registry, to_dict, with_values
from jaxrec.tasks.system import system_of

COUNTING = Path(__file__).parent / "assets" / "counting.py"
pytestmark = pytest.mark.usefixtures("as_users_run_it")


def examples(count: int = 24) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"image": rng.integers(0, 256, (count, 6, 5, 1)).astype(np.uint8), "count": np.arange(count, dtype=float)}


def fit(runs: Path, file: Path = COUNTING) -> Run:
    task = registry.load_file(str(file)).Config(model="counting")
    settings = Train(task=task, steps=2, batch_size=8, mesh="data=1", runs=str(runs), tune_allocator=False)
    return jaxrec.fit(settings, examples())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("runs")).folder


def test_of_its_metrics_no_other_system_tells_the_meaning(run):
    meanings = json.loads((run / "manifest.json").read_text())["report"]["meanings"]
    for model in ("cnn", "autoencoder", "unet"):
        system = system_of(preset(model))
        assert system.meanings.keys() <= for_the_report(system, preset(model))["meanings"].keys()
        assert system.meanings and not system.meanings.keys() & meanings.keys()
    assert "loss" in meanings and "mae" not in meanings


def test_no_augmented_batch_is_shown_of_a_step_that_augments_nothing(run):
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert {"images.png", "worst_counts.png"} <= pictures
    assert "batch.png" not in pictures


def test_predictions_hold_the_true_number_beside_the_predicted_one(run, tmp_path):
    given = open_dataset(examples(), reads={"image": "image", "count": "number"})
    trained = jaxrec.load(run)
    (rows,) = trained.predictions(given.splits["test"])
    test = given.splits["test"].read(np.arange(len(rows)))
    assert [row["truth"] for row in rows] == test["count"].tolist()
    with open_predictions(tmp_path) as write:
        write(rows)
    told = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    with (tmp_path / "predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    expected = trained.predict(test["image"])["number"]
    for written in (told, table):
        assert [float(row["truth"]) for row in written] == test["count"].tolist()
        assert [np.float32(row["count"]) for row in written] == expected.tolist()
    assert {tuple(row) for row in (*told, *table)} == {("example", "truth", "count")}


def test_a_run_is_opened_without_a_word(run, caplog):
    trained = jaxrec.load(run)
    assert trained.predict(examples()["image"])["number"].shape == (24,)
    assert [record.getMessage() for record in caplog.records] == []


def test_each_true_value_of_several_has_a_column():
    features = {"label": Feature("class", (), "int32", ("no", "yes")), "count": Feature("number", (), "float32")}
    example = {"label": np.int32(1), "count": np.float32(2.5)}
    assert true_values(features, example) == {"truth_label": "yes", "truth_count": 2.5}


def test_the_file_of_a_run_has_the_name_of_its_system(run, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_given", {})
    renamed = tmp_path / "renamed.py"
    renamed.write_text(COUNTING.read_text())
    with pytest.raises(UserError, match=r"'counting'.*'renamed'.*--system counting\.py"):
        jaxrec.load(run, system=str(renamed))


def test_an_option_that_a_task_does_not_have_is_named_with_those_near_it():
    for option, words in {
        "optimizer.learning_rate": "'optimizer.learning_rate'.* lr,",
        "optimizer.warm-up": "'optimizer.warm-up'.*'warmup'",
        "optimiser.lr": "'optimiser.lr'.*'optimizer'",
        "average.lr": "'average.lr'",
    }.items():
        with pytest.raises(UserError, match=words):
            with_values(Train(task=preset("cnn")), {option: 1})


# Each is added to a whole system and breaks it in one way.
STEP = """
whole = train_step
def train_step(state, batch, *, axis_name=None):
    after, metrics = whole(state, batch, axis_name=axis_name)
    return {}
"""
BROKEN = {
    "no_loss": (STEP.format("after, {'mae': metrics['mae']}"), "train_step.*'mae'|train_step.* mae.*'loss'"),
    "a_loss_of_each_example": (STEP.format("after, {'loss': metrics['loss'] * jnp.ones(3)}"), r"'loss' \(3,\)"),
    "no_pair": (STEP.format("after"), "train_step"),
    "a_step_that_stands": (STEP.format("after.replace(step=state.step), metrics"), "step.*state.step"),
    "a_state_that_grows": (STEP.format("after.replace(extra={'more': state.step}), metrics"), "extra.*more.*int32"),
    "no_metric": (
        "def eval_step(state, batch): return {'count': batch['count'].mean()}",
        "eval_step.*'count'.*Average",
    ),
    "three_axes": (
        "def artifacts(state, batch): return {'one': {'images': pixels(batch)}}",
        "artifacts.*'one'.*images",
    ),
    "no_picture": ("def artifacts(state, batch): return {'one': {'image': pixels(batch)}}", "artifacts.*'one'.*image"),
    "labels_of_rows": (
        "def worst(state, batch): return {'w': {'images': pixels(batch)[:, None], 'label': batch['count'][None]}}",
        "worst.*'w'.*label",
    ),
    "an_unknown_score": ("SCORE = Score('mea')", "'mea'.*'mae'"),
    "an_unknown_headline": ("HEADLINE = ('mae', 'rmse')", "HEADLINE.*'rmse'"),
    "a_misspelt_fact": ("HEADLINES = ('mae',)", "HEADLINES.*HEADLINE"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_system_that_breaks_its_contract_is_refused_before_it_trains(name, tmp_path):
    change, words = BROKEN[name]
    file = tmp_path / f"{name}.py"
    file.write_text(f"{COUNTING.read_text()}\n{change}\n")
    with pytest.raises(UserError, match=words):
        fit(tmp_path / "runs", file)
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(("model", "name", "old"), [("cnn", "standardize", "standardise"), ("gan", "color", "colour")])
def test_settings_of_earlier_runs_are_read_in_their_former_spelling(model, name, old):
    task = preset(model)
    if model == "gan":
        task = replace(task, diffaugment=("color", "cutout"))
    written = json.dumps(to_dict(Train(task=task)))
    assert from_dict(json.loads(written.replace(f'"{name}"', f'"{old}"'))) == Train(task=task)
    assert f'"{name}"' in written
