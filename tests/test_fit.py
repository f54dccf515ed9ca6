"""Training from Python: what `fit` returns, observers, a run opened again, and a loop of one's own."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import jaxrec
from jaxrec.data import open_dataset
from jaxrec.errors import UserError
from jaxrec.run.observers import Moment
from jaxrec.settings import Classifier, Optimizer, Sweep, Train, preset, registry
from jaxrec.tasks import classifier

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]

TINY = Classifier(model="cnn", width=0.5, optimizer=Optimizer(name="adam", lr=1e-2, schedule="constant"))


@pytest.fixture(scope="module")
def digits() -> dict[str, np.ndarray]:
    """Some of the digits as arrays."""
    return open_dataset("digits").splits["train"].read(np.arange(400))


def settings(runs: Path, name: str, **changes: Any) -> Train:
    usual = {"task": TINY, "steps": 30, "batch_size": 32, "eval_every": 15, "log_every": 5}
    return Train(runs=str(runs), name=name, **{**usual, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits) -> tuple[jaxrec.Run, list[Moment]]:
    """A run on arrays, and the moments that an observer was given, without their states."""
    moments = []

    def keep(moment: Moment) -> None:
        assert int(moment.state.step) == moment.step
        moments.append(replace(moment, state=None, watch=None))

    with jax.numpy_dtype_promotion("standard"):
        made = jaxrec.fit(settings(tmp_path_factory.mktemp("runs"), "a"), digits, observers=[keep])
    return made, moments


def test_fit_returns_the_settings_the_state_the_history_and_the_results(run):
    made, _ = run
    assert made.stopped is None
    assert made.config.task.classes == 10
    assert int(made.state.step) == made.results["step"] == 30
    assert made.results["examples"] == 80  # A fifth of the arrays.
    assert made.results["accuracy"] > 0.5
    assert [row["step"] for row in made.history if row["split"] == "train"] == [5, 10, 15, 20, 25, 30]
    assert [row["step"] for row in made.history if row["split"] == "validation"] == [15, 30]
    assert (made.folder / "report.html").is_file()


def test_observers_see_every_step_and_every_row(run):
    made, moments = run
    assert [each.step for each in moments] == list(range(1, 31))
    assert [each.step for each in moments if each.evaluates] == [15, 30]
    assert [each.step for each in moments if each.last] == [30]
    rows = [(step, split, metrics) for each in moments for step, split, metrics in each.rows]
    assert len(rows) == len(made.history)
    for (step, split, metrics), row in zip(rows, made.history, strict=True):
        assert row.items() >= {"step": step, "split": split, **metrics}.items()
    scores = {each.step: each.score for each in moments if each.score is not None}
    losses = {row["step"]: row["loss"] for row in made.history if row["split"] == "validation"}
    assert scores == losses


def test_a_run_opened_again_predicts_and_evaluates_as_it_did(run, digits, tmp_path):
    made, _ = run
    trained = jaxrec.load(made.folder)
    assert trained.step == 30
    expected = jax.jit(classifier.predict)(made.state, digits["image"])["probabilities"]
    found = trained.predict(digits["image"])["probabilities"]  # Of 400 images, in several parts.
    np.testing.assert_allclose(found, expected, atol=1e-5)
    PIL.Image.fromarray(digits["image"][0, ..., 0]).save(tmp_path / "digit.png")
    for paths in (tmp_path / "digit.png", [str(tmp_path / "digit.png")]):
        np.testing.assert_allclose(trained.predict(paths)["probabilities"], found[:1], atol=1e-6)
    again = trained.evaluate(dataset=digits)
    assert again.keys() == made.results.keys()
    assert again["loss"] == pytest.approx(made.results["loss"], rel=1e-5)
    assert trained.evaluate("test[:10]", digits)["examples"] == 10


def test_a_run_opened_again_refuses_what_it_cannot_do(run, digits):
    trained = jaxrec.load(run[0].folder)
    with pytest.raises(UserError, match="predict"):
        trained.generate(3)
    for images in (digits["image"][0], digits["image"][:, :4], np.zeros((2, 8, 8, 3), np.uint8)):
        with pytest.raises(UserError, match=r"\[N, 8, 8, 1\]"):
            trained.predict(images)
    others = {**digits, "image": 255 - digits["image"]}
    with pytest.warns(UserWarning, match="arrays"):
        trained.evaluate(dataset=others)
    with pytest.raises(UserError, match="arrays"):
        trained.evaluate(dataset={**digits, "image": digits["image"][:, :4]})


def test_a_data_set_that_is_open_has_to_fit_the_system_and_the_settings(tmp_path):
    """Else a split that was asked for would be passed over in silence."""
    opened = jaxrec.open_dataset("digits")
    with pytest.raises(UserError, match="test_split"):
        jaxrec.fit(settings(tmp_path, "sliced", test_split="test[:10]"), opened)
    with pytest.raises(UserError, match="mask"):
        jaxrec.fit(settings(tmp_path, "unet", task=preset("unet")), opened)
    assert not list(tmp_path.glob("*/config.json"))


def test_a_vae_opened_again_generates_by_the_seed(tmp_path, digits):
    task = replace(preset("vae"), architecture="dense", width=4, code=5, eval_samples=3)
    made = jaxrec.fit(settings(tmp_path, "vae", task=task, steps=4, eval_every=4), {"image": digits["image"]})
    trained = jaxrec.load(made.folder)
    images = trained.generate(5)["image"]
    assert images.shape == (5, 8, 8, 1)
    assert images.min() >= 0
    assert images.max() <= 1
    np.testing.assert_array_equal(trained.generate(5)["image"], images)
    assert not np.array_equal(trained.generate(5, seed=1)["image"], images)


def test_fit_takes_splits_and_open_data_sets(tmp_path, digits):
    parts = {"train": {}, "test": {}}
    for name, values in digits.items():
        parts["train"][name], parts["test"][name] = values[:300], values[300:]
    short = {"steps": 2, "eval_every": 2}
    by_split = jaxrec.fit(settings(tmp_path, "a", **short), parts)
    assert by_split.results["examples"] == 100
    opened = jaxrec.fit(settings(tmp_path, "b", **short), open_dataset(parts))
    assert opened.results == by_split.results


def test_a_sweep_is_fitted_and_its_best_member_returned(tmp_path, digits):
    seen = []
    config = settings(tmp_path, "a", steps=6, eval_every=3)
    fields = {name: getattr(config, name) for name in Train.__dataclass_fields__}
    sweep = Sweep(**fields, members=3, vary=("optimizer.lr=1e-5:1e-2",))
    made = jaxrec.fit(sweep, digits, observers=[lambda moment: seen.append((moment.step, len(moment.state)))])
    assert seen == [(step, 3) for step in range(1, 7)]
    assert made.results["members"] == 3
    last = {row["member"]: row["loss"] for row in made.history if (row["step"], row["split"]) == (6, "validation")}
    best = min(last, key=lambda member: last[member])
    assert made.results["checkpoint_of"] == best
    trained = jaxrec.load(made.folder)
    np.testing.assert_allclose(trained.state.hyper["lr"], made.state.hyper["lr"])
    same(trained.state.player.params, made.state.player.params)


SYSTEM = '''
"""A classifier whose state also holds the sum of the labels that it has seen."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from jaxrec.settings import Classifier
from jaxrec.tasks import classifier
from jaxrec.tasks.classifier import READS, artifacts, complete, eval_step, predict


@dataclass(frozen=True)
class Config(Classifier):
    """A classifier that counts."""

    model: Literal["cnn"] = "cnn"


PRESETS = {"counting": Config(width=0.25)}


def init(config, key, batch):
    state = classifier.init(config, key, batch)
    return state.replace(extra={"seen": jnp.zeros((), jnp.int32), "recent": {"label": jnp.zeros(4, jnp.int32)}})


def train_step(state, batch, *, axis_name=None):
    after, metrics = classifier.train_step(state, batch, axis_name=axis_name)
    seen = state.extra["seen"] + batch["label"].sum(dtype=jnp.int32)
    return after.replace(extra={"seen": seen, "recent": {"label": batch["label"][:4]}}), metrics
'''


def test_what_else_evolves_is_saved_and_restored(tmp_path, digits):
    (tmp_path / "counting.py").write_text(SYSTEM)
    task = registry.load_file(str(tmp_path / "counting.py")).PRESETS["counting"]
    short = {"task": task, "log_every": 1, "eval_every": 4}
    whole = jaxrec.fit(settings(tmp_path, "whole", steps=8, **short), digits)
    constant = {**short, "task": replace(task, optimizer=Optimizer(schedule="constant", warmup=0.0))}
    half = jaxrec.fit(settings(tmp_path, "half", steps=4, **constant), digits)
    assert 0 < int(half.state.extra["seen"]) < int(whole.state.extra["seen"])
    resumed = jaxrec.fit(settings(tmp_path, "half", steps=8, resume=True, **constant), digits)
    # The batches are the same, and so is what was counted of them.
    for name in ("seen", "recent"):
        jax.tree.map(np.testing.assert_array_equal, resumed.state.extra[name], whole.state.extra[name])


def test_a_loop_of_ones_own_goes_on_from_a_saved_state(tmp_path, digits):
    config = replace(TINY, classes=10, standardize="unit", average=0.9, dropout=0.2)
    batches = [{name: values[16 * n : 16 * n + 16] for name, values in digits.items()} for n in range(6)]
    start = jax.jit(partial(classifier.init, config))
    step = jax.jit(classifier.train_step)
    state = start(jax.random.key(0), batches[0])
    state = state.replace(extra={"sum": jnp.zeros((2, 3)), "nested": [jnp.arange(3), {"key": jax.random.key(7)}]})
    for number, batch in enumerate(batches):
        if number == 3:
            jaxrec.save_state(tmp_path / "3", state)
            middle = state
        state, _ = step(state, batch)
    other = start(jax.random.key(1), batches[0]).replace(extra=jax.tree.map(jnp.copy, middle.extra))
    loaded = jaxrec.load_state(tmp_path / "3", other)
    same(loaded, middle)
    for batch in batches[3:]:
        loaded, _ = step(loaded, batch)
    same(loaded, state)


def same(a: Any, b: Any) -> None:
    """Asserts that two states hold the same numbers, bit for bit."""

    def check(x: jax.Array, y: jax.Array) -> None:
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)

    jax.tree.map(check, a, b)
