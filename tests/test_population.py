"""Many runs at once: every member is the run it replaces, and what the population leaves is an ordinary run folder."""

import dataclasses
import json
import os
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import small

from jaxrec.cli import evaluate, sweep, train
from jaxrec.cli.training_arguments import read_arguments
from jaxrec.errors import UserError
from jaxrec.run import feed, members, population
from jaxrec.run.evaluation import Evaluator
from jaxrec.run.fit import Run, fit
from jaxrec.run.members import spread
from jaxrec.run.observers import Moment
from jaxrec.run.population import fit_members
from jaxrec.run.trained import load
from jaxrec.settings import GAN, Autoencoder, Classifier, Sweep, Train, registry, with_values
from jaxrec.settings.draws import draws
from jaxrec.tasks import autoencoder
from jaxrec.tasks.system import system_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]

SYSTEMS = {
    "cnn": ["--width", 0.25],
    "autoencoder": ["--noise", 0.1],
    "gan": ["--width", 2, "--latents", 4, "--judge-steps", 1],
}
OPTIONS = ["--optimizer.name", "sgd", "--optimizer.schedule", "constant", "--optimizer.warmup", 0]
OPTIONS += ["--log-every", 1, "--eval-every", 6]
DRAWS = [{"optimizer.lr": 0.01, "optimizer.l2": 0.0}, {"optimizer.lr": 0.02, "optimizer.l2": 0.1}]
CLOSE = {"cnn": ("loss", "accuracy"), "autoencoder": ("loss", "mse", "psnr"), "gan": ("frechet_distance_train_test",)}
"""Metrics of the test split that rounding leaves as they are: a judge's of generated images it does not."""
RUNS = [(seed, values) for values in DRAWS for seed in (5, 6)]


FORMS = {"by turns": False, "together": True}
"""On a CPU members take turns; elsewhere they are trained by one call."""


def hyper(config: Any) -> tuple[str, ...]:
    return registry.settings_module(registry.name_of(config)).HYPER


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Programs that run for milliseconds need no optimizing."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


class Draws:
    """A stand-in for what is drawn: the values that a test names."""

    def __init__(self, *values: dict[str, float]) -> None:
        self.values = list(values)

    def __call__(self, config: Sweep) -> list[dict[str, float]]:
        return self.values


def sweep_of(monkeypatch: pytest.MonkeyPatch, config: Train, values: list[dict[str, float]], **options: Any) -> Run:
    """A sweep whose members have these values."""
    monkeypatch.setattr(population, "draws", Draws(*values))
    fields = {each.name: getattr(config, each.name) for each in dataclasses.fields(Train)}
    return fit_members(Sweep(**fields, members=len(values)), **options)


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    """Each member's run by itself."""
    runs = tmp_path_factory.mktemp("singles")

    @cache
    def run(model: str, number: int) -> Run:
        seed, values = RUNS[number]
        config = read_arguments(arguments(model, runs, f"{model}{number}", "--seed", seed))
        return fit(with_values(config, values))

    return run


def arguments(model: str, runs: Path, name: str, *options: object) -> list[str]:
    return small(model, "--runs", runs, "--name", name, *SYSTEMS[model], *OPTIONS, *options)


def read(run: Path, name: str) -> Any:
    return json.loads((run / f"{name}.json").read_text())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", SYSTEMS)
def test_every_member_is_the_run_it_replaces(model, form, tmp_path, monkeypatch, singles):
    monkeypatch.setattr(feed, "AHEAD", 4)
    streamed = ["--memory-mb", 0] if form == "together" and model != "cnn" else []
    stacks = []

    def keep(moment: Moment) -> None:
        if moment.last:
            stacks.extend(jax.device_get([each.players for each in moment.state]))

    config = read_arguments(arguments(model, tmp_path, "all", "--seed", 5, "--seeds", 2, *streamed))
    run = sweep_of(monkeypatch, config, DRAWS, observers=[keep], together=FORMS[form])
    assert len(stacks) == (1 if FORMS[form] else 4)
    states = [jax.tree.map(lambda leaf, at=at: leaf[at], stack) for stack in stacks for at in range(4 // len(stacks))]
    records = read(run.folder, "members")
    assert [(each["seed"], each["values"]) for each in records] == RUNS
    # The two that would change places if seeds and draws did.
    for number in (1, 2):
        alone = singles(model, number)
        rows = [row for row in run.history if row["member"] == number]
        for row, expected in zip(rows, alone.history, strict=True):
            own = {name: value for name, value in row.items() if name not in ("member", "split")}
            assert own == pytest.approx({name: expected[name] for name in own}, rel=1e-4, abs=1e-5)
        # By SGD the two differ by rounding alone: Adam's quotients would enlarge it where gradients are near 0.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            states[number],
            jax.device_get(alone.state.players),
        )
        test = {name: value for name, value in records[number]["test"].items() if name in CLOSE[model]}
        assert test == pytest.approx({name: alone.results[name] for name in test}, rel=1e-4, abs=1e-5)
        assert test


def test_of_many_seeds_an_ordinary_run_folder_is_left(tmp_path, capsys):
    """The command, from --seeds to what evaluate says of the folder."""
    assert train.main(arguments("cnn", tmp_path, "seeds", "--seed", 3, "--seeds", 3, "--steps", 4)) == 0
    said = capsys.readouterr().out
    run = tmp_path / "seeds"
    members, results, config = (read(run, name) for name in ("members", "results", "config"))
    assert [each["seed"] for each in members] == [3, 4, 5]
    best = min(members, key=lambda each: each["validation"])
    assert results["checkpoint_of"] == best["member"]
    assert (config["seed"], config["seeds"]) == (best["seed"], 1)
    assert f"member {best['member']} (seed {best['seed']})" in said
    losses = [each["test"]["loss"] for each in members]
    assert results["loss"] == pytest.approx(np.mean(losses))
    assert results["loss_std"] == pytest.approx(np.std(losses, ddof=1))
    assert results["members"] == 3
    evaluate.main([str(run), "--json"])
    again = json.loads(capsys.readouterr().out)
    assert {name: again[name] for name in best["test"]} == pytest.approx(best["test"])
    page = (run / "report.html").read_text()
    assert f"{results['accuracy']:.4g} ± {results['accuracy_std']:.2g}" in page
    assert all(f"<tr><td>{each['member']}</td><td>{each['seed']}</td>" in page for each in members)
    assert "--resume" not in page
    with pytest.raises(UserError, match="'seeds'"):
        train.main(["--name", "seeds", "--runs", str(tmp_path), "--resume"])


@pytest.mark.parametrize("form", FORMS)
def test_halving_goes_on_with_the_better_half(form, tmp_path, monkeypatch):
    compiled, compile_step = [], members.compile_step
    monkeypatch.setattr(members, "compile_step", lambda *given: compiled.append(1) or compile_step(*given))
    options = ["--members", 5, "--vary", "optimizer.lr=1e-4:0.5", "--halving", 2, "--steps", 9]
    config = read_arguments(arguments("autoencoder", tmp_path, "a", *options), Sweep, "jaxrec sweep")
    run = fit_members(config, together=FORMS[form])
    records = read(run.folder, "members")
    remaining = range(5)
    for end, count in ((3, 3), (6, 2)):
        validated = [row for row in run.history if (row["step"], row["split"]) == (end, "validation")]
        losses = {row["member"]: row["loss"] for row in validated}
        assert sorted(losses) == sorted(remaining)
        remaining = sorted(losses, key=lambda member: losses[member])[:count]
        dropped = {each["member"] for each in records if each["dropped"] == end}
        assert dropped == losses.keys() - set(remaining)
    assert sorted({row["member"] for row in run.history if row["step"] == 9}) == sorted(remaining)
    assert {each["member"] for each in records if each["test"]} == set(remaining)
    assert len(compiled) == (1 if form == "by turns" else 3)
    best = records[run.results["checkpoint_of"]]
    assert read(run.folder, "config")["task"]["optimizer"]["lr"] == best["values"]["optimizer.lr"]
    assert load(run.folder).state.step.shape == run.state.step.shape == ()


def test_a_member_that_fails_fails_alone(tmp_path, monkeypatch):
    config = read_arguments(arguments("cnn", tmp_path, "a", "--steps", 4, "--validation", 0))
    values = [{"optimizer.lr": 1e30}, {"optimizer.lr": 0.01}]
    run = sweep_of(monkeypatch, config, values)
    bad, good = read(run.folder, "members")
    assert (bad["failed"], bad["test"], good["failed"]) == (2, None, None)
    # Without a validation split nothing is compared, and the first that did not fail is kept.
    assert run.results["checkpoint_of"] == 1
    assert "loss_std" not in run.results
    assert "not finite at step 2" in (run.folder / "report.html").read_text()
    config = read_arguments(arguments("cnn", tmp_path, "b", "--steps", 4))
    with pytest.raises(UserError, match=r"every member .* step 2 "):
        sweep_of(monkeypatch, config, [{"optimizer.lr": 1e30}, {"optimizer.lr": 1e31}])


def test_a_member_that_fails_on_the_test_split_fails_alone(tmp_path, monkeypatch):
    config = read_arguments(arguments("cnn", tmp_path, "a", "--steps", 1, "--validation", 0))
    values = [{"optimizer.lr": 0.01}, {"optimizer.lr": 1e30}]
    run = sweep_of(monkeypatch, config, values)
    good, bad = read(run.folder, "members")
    assert (good["failed"], bad["failed"], bad["test"]) == (None, 1, None)
    assert (run.results["checkpoint_of"], run.results["members"]) == (0, 1)
    assert run.results["loss"] == good["test"]["loss"]
    with pytest.raises(UserError, match=r"member 0 \(.*test split"):
        sweep_of(monkeypatch, replace(config, name="b"), values[::-1])


@pytest.mark.parametrize("form", FORMS)
def test_steps_made_at_once_are_the_same_steps(form, tmp_path):
    """Parts that end between two pauses, so that there are steps left over on both sides."""
    options = ["--members", 2, "--vary", "optimizer.lr=1e-3:0.1", "--seeds", 2, "--halving", 1, "--steps", 11]
    options += ["--log-every", 2, "--eval-every", 2]
    histories = []
    for fused in (1, 2):
        given = arguments("autoencoder", tmp_path, f"by-{fused}", *options, "--fuse-steps", fused)
        config = read_arguments(given, Sweep, "jaxrec sweep")
        histories.append(fit_members(config, together=FORMS[form]).history)
    one, two = histories
    assert {row["step"] for row in one if row["split"] == "train"} == {2, 4, 5, 6, 8, 10, 11}
    for row, other in zip(one, two, strict=True):
        assert row.pop("split") == other.pop("split")
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_a_member_of_vaes_is_validated_with_few_codes(tmp_path, monkeypatch):
    drawn, make = [], Evaluator.__call__

    def noting(evaluator: Any, state: Any, *rest: Any) -> dict[str, Any]:
        drawn.append(state.config.eval_samples)
        return make(evaluator, state, *rest)

    monkeypatch.setattr(Evaluator, "__call__", noting)
    given = small("vae", "--runs", tmp_path, "--name", "a", "--seeds", 2, "--steps", 1, "--eval-samples", 12)
    assert train.main(given) == 0
    assert drawn == [autoencoder.VALIDATION_CODES] * 2 + [12] * 2


def test_a_stopped_population_keeps_its_best_member(tmp_path):
    def stop(moment: Moment) -> None:
        if moment.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    given = arguments("autoencoder", tmp_path, "a", "--seeds", 2, "--steps", 50, "--eval-every", 3)
    run = fit(read_arguments(given), observers=[stop])
    assert run.stopped == signal.SIGTERM
    assert run.results == {}
    best = min(read(run.folder, "members"), key=lambda each: each["validation"])
    trained = load(run.folder)
    assert trained.config.seed == best["seed"]
    assert 4 <= trained.step == run.state.step < 50
    assert not (run.folder / "results.json").exists()


@pytest.mark.parametrize(
    "config",
    [Classifier(classes=4, mean=(0.5,), std=(0.2,)), Autoencoder(), GAN(classes=4)],
    ids=lambda c: type(c).__name__,
)
def test_what_may_vary_is_what_the_state_holds(config):
    config = with_values(Sweep(task=config), dict.fromkeys(hyper(config), 0.5)).task
    batch = {"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros(2, np.int32)}
    state = jax.eval_shape(lambda key: system_of(config).init(config, key, batch), jax.random.key(0))
    names = {option.rpartition(".")[2].replace("-", "_") for option in hyper(config)}
    assert state.hyper.keys() == names


def test_draws_fill_their_ranges_by_the_seed():
    config = Sweep(members=2000, vary=("optimizer.lr=1e-4:1e-1", "optimizer.weight_decay=0:0.1"))
    drawn = draws(config)
    rates, decays = (np.array([each[name] for each in drawn]) for name in ("optimizer.lr", "optimizer.weight-decay"))
    assert rates.min() >= 1e-4
    assert rates.max() <= 1e-1
    # A third of a log-uniform draw from three decades lies in each; of a uniform one, its share of the width.
    counts = np.histogram(rates, [1e-4, 1e-3, 1e-2, 1e-1])[0]
    assert all(abs(counts - 2000 / 3) < 4 * np.sqrt(2000 * 2 / 9))
    assert abs((decays < 0.025).mean() - 0.25) < 4 * np.sqrt(0.1875 / 2000)
    assert draws(config) == drawn
    assert draws(replace(config, seed=1)) != drawn


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        (sweep, "", "--vary"),
        (sweep, "--vary width=1:2", "'width'"),
        (sweep, "--vary optimizer.lrr=1:2", "'optimizer.lr'"),
        (sweep, "--vary noise=0:1", "'noise'"),
        (sweep, "--vary optimizer.lr", "--vary optimizer.lr "),
        (sweep, "--vary optimizer.lr=1:", "--vary optimizer.lr=1:"),
        (sweep, "--vary optimizer.lr=2:1", "--vary optimizer.lr=2:1"),
        (sweep, "--vary optimizer.lr=nan:1", "--vary optimizer.lr=nan:1"),
        (sweep, "--vary optimizer.lr=0:1", "--optimizer.lr 0.0"),
        (sweep, "--vary optimizer.l2=0:inf", "--optimizer.l2 inf"),
        (sweep, "--vary optimizer.l2=0:1 --members 0", "--members 0"),
        (sweep, "--vary optimizer.l2=0:1 --members 7 --halving 3", "--halving 3"),
        (sweep, "--vary optimizer.l2=0:1 --halving 3 --steps 3", "--halving 3"),
        (sweep, "--vary optimizer.l2=0:1 --halving 1 --validation 0", "--halving"),
        (sweep, "--vary optimizer.l2=0:1 --resume", "--resume"),
        (train, "--seeds 0", "--seeds 0"),
        (train, "--seeds 2 --seed 4294967295", "--seed 4294967295"),
        (train, "--seeds 2 --patience 3", "--patience 3"),
        (train, "--seeds 2 --batch-size 100", "batch size 100"),
        (train, "--seeds 2 --on-nonfinite skip", "--on-nonfinite skip"),
    ],
)  # fmt: skip
def test_mistakes(command, options, said, tmp_path):
    with pytest.raises(UserError) as told:
        command.main(["--runs", str(tmp_path / "runs"), *options.split()])
    assert said in str(told.value)
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [(sweep, "--vary r1=0:1 --halving 1", "--halving"), (train, "--patience 3", "--patience")],
)
def test_a_system_without_a_score_has_nothing_to_choose_by(command, options, said, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrec.tasks.gan.SCORE", None)
    with pytest.raises(UserError, match=said):
        command.main(["--runs", str(tmp_path / "runs"), "--model", "gan", *options.split()])
    assert not list(tmp_path.glob("runs/*"))


def test_spread_is_of_the_metrics_that_all_have():
    rows = [{"a": 1.0, "b": None, "worst_class": 3}, {"a": 3.0, "b": 2.0, "worst_class": 1}]
    assert spread(rows) == {"a": 2.0, "a_std": pytest.approx(2**0.5)}
    assert spread(rows[:1]) == {"a": 1.0}
