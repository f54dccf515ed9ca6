"""Many runs at once: every member is the run it replaces, and what the population leaves is an ordinary run folder."""

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
from jaxrec.cli.train import read_arguments
from jaxrec.errors import UserError
from jaxrec.run import loop, population, setup
from jaxrec.run.loop import Trainer
from jaxrec.run.population import Population, spread, train_population
from jaxrec.run.show.log import Log
from jaxrec.run.show.report import read_metrics
from jaxrec.run.trained import load_run
from jaxrec.run.world.devices import Devices
from jaxrec.settings import GAN, Autoencoder, Classifier, Sweep, registry, with_values
from jaxrec.tasks import task_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]

SYSTEMS = {"cnn": ["--width", 0.25], "autoencoder": ["--noise", 0.1], "gan": ["--width", 2, "--latents", 4]}
OPTIONS = ["--optimizer.name", "sgd", "--optimizer.schedule", "constant", "--optimizer.warmup", 0]
OPTIONS += ["--log-every", 1, "--eval-every", 6]
DRAWS = [{"optimizer.lr": 0.01, "optimizer.l2": 0.0}, {"optimizer.lr": 0.02, "optimizer.l2": 0.1}]
RUNS = [(seed, values) for values in DRAWS for seed in (5, 6)]


def hyper(config) -> tuple[str, ...]:
    return registry.settings_module(registry.name_of(config)).HYPER


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Programs that run for milliseconds need no optimizing, and a gan no judge."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "judge_gan", lambda *_: {"judge": "none", "frechet_distance": 1.0})
        yield
    jax.config.update("jax_disable_most_optimizations", before)


def note_ends(patch: pytest.MonkeyPatch, kind: Any, states: Any) -> list[Any]:
    """The states that runs of this kind will end with."""
    found, test = [], kind._test

    def noting(trainer: Any, log: Log, state: Any, step: int) -> dict[str, Any]:
        found.append(states(trainer, state))
        return test(trainer, log, state, step)

    patch.setattr(kind, "_test", noting)
    return found


@pytest.fixture
def together(monkeypatch):
    """On a CPU members take turns; with this they are trained by one call, as elsewhere."""
    start = Population.__init__

    def init(made: Population, *given: Any, **named: Any) -> None:
        start(made, *given, **named)
        made.width = len(made.members)

    monkeypatch.setattr(Population, "__init__", init)


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    """Each member's run by itself: its rows, its test figures, its last state."""
    runs = tmp_path_factory.mktemp("singles")

    @cache
    def run(model: str, number: int) -> tuple[list[dict], dict, Any]:
        seed, values = RUNS[number]
        name = f"{model}{number}"
        config = with_values(read_arguments(arguments(model, runs, name, "--seed", seed)), values)
        with pytest.MonkeyPatch.context() as patch:
            ended = note_ends(patch, Trainer, lambda _, state: state)
            assert loop.train(config) == 0
        return read_metrics(runs / name), json.loads((runs / name / "results.json").read_text()), ended[0]

    return run


def arguments(model: str, runs: Path, name: str, *options: object) -> list[str]:
    return small(model, "--runs", runs, "--name", name, *SYSTEMS[model], *OPTIONS, *options)


def read(run: Path, name: str) -> Any:
    return json.loads((run / f"{name}.json").read_text())


@pytest.mark.parametrize("form", ["by turns", "together"])
@pytest.mark.parametrize("model", SYSTEMS)
def test_every_member_is_the_run_it_replaces(model, form, tmp_path, monkeypatch, request, singles, capsys):
    monkeypatch.setattr(setup, "AHEAD", 4)
    streamed = []
    if form == "together":
        request.getfixturevalue("together")
        streamed = [] if model == "cnn" else ["--memory-mb", 0]
    ended = note_ends(
        monkeypatch, Population, lambda trainer, state: {m.member: one for m, one in trainer._states(state)}
    )
    config = read_arguments(arguments(model, tmp_path, "all", "--seed", 5, "--seeds", 2, *streamed))
    assert train_population(config, DRAWS) == 0
    assert f"4 members, trained {form} by one compiled step" in capsys.readouterr().out
    run, (states,) = tmp_path / "all", ended
    rows, members = read_metrics(run), read(run, "members")
    assert [(each["seed"], each["values"]) for each in members] == RUNS
    # The two that would change places if seeds and draws did.
    for number in (1, 2):
        expected_rows, expected_test, expected = singles(model, number)
        own = [
            {k: v for k, v in row.items() if k not in ("member", "split")} for row in rows if row["member"] == number
        ]
        for row, expected_row in zip(own, expected_rows, strict=True):
            assert row == pytest.approx({name: expected_row[name] for name in row}, rel=1e-4, abs=1e-5)
        # By SGD the two differ by rounding alone: Adam's quotients would enlarge it where gradients are near 0.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            jax.device_get(states[number].players),
            jax.device_get(expected.players),
        )
        figures = {name: expected_test[name] for name in members[number]["test"]}
        assert members[number]["test"] == pytest.approx(figures, rel=1e-4, abs=1e-5)


def test_of_many_seeds_an_ordinary_run_folder_is_left(tmp_path, capsys):
    """The command, from --seeds to what evaluate says of the folder."""
    assert train.main(arguments("cnn", tmp_path, "seeds", "--seed", 3, "--seeds", 3, "--steps", 4)) == 0
    said = capsys.readouterr().out
    run = tmp_path / "seeds"
    members, results, config = (read(run, name) for name in ("members", "results", "config"))
    assert [each["seed"] for each in members] == [3, 4, 5]
    best = min(members, key=lambda each: each["validation_loss"])
    assert results["checkpoint_of"] == best["member"]
    assert (config["seed"], config["seeds"]) == (best["seed"], 1)
    assert f"the checkpoint is of member {best['member']} (seed {best['seed']})" in said
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
    with pytest.raises(UserError, match="run 'seeds' is a population"):
        train.main(["--name", "seeds", "--runs", str(tmp_path), "--resume"])


@pytest.mark.parametrize("form", ["by turns", "together"])
def test_halving_goes_on_with_the_better_half(form, tmp_path, request, monkeypatch):
    if form == "together":
        request.getfixturevalue("together")
    compiled, compile_step = [], population.compile_step
    monkeypatch.setattr(population, "compile_step", lambda *given: compiled.append(1) or compile_step(*given))
    options = ["--members", 5, "--vary", "optimizer.lr=1e-4:0.5", "--halving", 2, "--steps", 9]
    assert sweep.main(arguments("autoencoder", tmp_path, "a", *options)) == 0
    run = tmp_path / "a"
    members, rows = read(run, "members"), read_metrics(run)
    remaining = range(5)
    for end, count in ((3, 3), (6, 2)):
        losses = {row["member"]: row["loss"] for row in rows if (row["step"], row["split"]) == (end, "validation")}
        assert sorted(losses) == sorted(remaining)
        remaining = sorted(losses, key=lambda member: losses[member])[:count]
        dropped = {each["member"] for each in members if each["dropped"] == end}
        assert dropped == losses.keys() - set(remaining)
    assert sorted({row["member"] for row in rows if row["step"] == 9}) == sorted(remaining)
    assert {each["member"] for each in members if each["test"]} == set(remaining)
    assert len(compiled) == (1 if form == "by turns" else 3)
    config = read(run, "config")
    best = members[read(run, "results")["checkpoint_of"]]
    assert config["task"]["optimizer"]["lr"] == best["values"]["optimizer.lr"]
    state = load_run(run, Devices())[3]
    assert state.step.shape == ()


def test_a_member_that_fails_fails_alone(tmp_path, capsys):
    config = read_arguments(arguments("cnn", tmp_path, "a", "--steps", 4, "--validation", 0))
    draws = [{"optimizer.lr": 1e30}, {"optimizer.lr": 0.01}]
    assert train_population(config, draws) == 0
    bad, good = read(tmp_path / "a", "members")
    assert (bad["failed"], bad["test"], good["failed"]) == (2, None, None)
    # Without a validation split nothing is compared, and the first that did not fail is kept.
    assert read(tmp_path / "a", "results")["checkpoint_of"] == 1
    assert "loss_std" not in read(tmp_path / "a", "results")
    assert "not finite at step 2" in (tmp_path / "a" / "report.html").read_text()
    config = read_arguments(arguments("cnn", tmp_path, "b", "--steps", 4))
    with pytest.raises(UserError, match="the loss of every member is not finite, of the last from step 2 on;"):
        train_population(config, [{"optimizer.lr": 1e30}, {"optimizer.lr": 1e31}])


def test_a_member_that_fails_on_the_test_split_fails_alone(tmp_path):
    config = read_arguments(arguments("cnn", tmp_path, "a", "--steps", 1, "--validation", 0))
    draws = [{"optimizer.lr": 0.01}, {"optimizer.lr": 1e30}]
    assert train_population(config, draws) == 0
    good, bad = read(tmp_path / "a", "members")
    assert (good["failed"], bad["failed"], bad["test"]) == (None, 1, None)
    results = read(tmp_path / "a", "results")
    assert (results["checkpoint_of"], results["members"], results["loss"]) == (0, 1, good["test"]["loss"])
    with pytest.raises(UserError, match=r"the loss of member 0 \(.*\) on the test split is not finite; no good"):
        train_population(replace(config, name="b"), draws[::-1])


@pytest.mark.parametrize("form", ["by turns", "together"])
def test_steps_made_at_once_are_the_same_steps(form, tmp_path, request):
    """Parts that end between two pauses, so that there are steps left over on both sides."""
    if form == "together":
        request.getfixturevalue("together")
    options = ["--members", 2, "--vary", "optimizer.lr=1e-3:0.1", "--seeds", 2, "--halving", 1, "--steps", 11]
    options += ["--log-every", 2, "--eval-every", 2]
    for fused in (1, 2):
        given = arguments("autoencoder", tmp_path, f"by-{fused}", *options, "--fuse-steps", fused)
        assert sweep.main(given) == 0
    one, two = (read_metrics(tmp_path / f"by-{fused}") for fused in (1, 2))
    assert {row["step"] for row in one if row["split"] == "train"} == {2, 4, 5, 6, 8, 10, 11}
    for row, other in zip(one, two, strict=True):
        assert row.pop("split") == other.pop("split")
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_a_member_of_vaes_is_validated_with_few_codes(tmp_path, monkeypatch):
    drawn, make = [], loop.Evaluator.__call__

    def noting(evaluator: Any, state: Any, *rest: Any) -> dict[str, Any]:
        drawn.append(state.config.eval_samples)
        return make(evaluator, state, *rest)

    monkeypatch.setattr(loop.Evaluator, "__call__", noting)
    given = small("vae", "--runs", tmp_path, "--name", "a", "--seeds", 2, "--steps", 1, "--eval-samples", 12)
    assert train.main(given) == 0
    assert drawn == [loop.VALIDATION_CODES] * 2 + [12] * 2


def test_a_stopped_population_keeps_its_best_member(tmp_path, monkeypatch, capsys):
    write = Log.write

    def stop(log: Log, step: int, *rest: Any) -> None:
        write(log, step, *rest)
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Log, "write", stop)
    given = arguments("autoencoder", tmp_path, "a", "--seeds", 2, "--steps", 50, "--eval-every", 3)
    assert train.main(given) == 128 + signal.SIGTERM
    assert "saved; a population cannot be resumed" in capsys.readouterr().out
    members = read(tmp_path / "a", "members")
    best = min(members, key=lambda each: each["validation_loss"])
    _, config, _, _, step = load_run(tmp_path / "a", Devices())
    assert config.seed == best["seed"]
    assert step >= 4
    assert not (tmp_path / "a" / "results.json").exists()


@pytest.mark.parametrize(
    "config",
    [Classifier(classes=4, mean=(0.5,), std=(0.2,)), Autoencoder(), GAN(classes=4)],
    ids=lambda c: type(c).__name__,
)
def test_what_may_vary_is_what_the_state_holds(config):
    config = with_values(Sweep(task=config), dict.fromkeys(hyper(config), 0.5)).task
    batch = {"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros(2, np.int32)}
    state = jax.eval_shape(lambda key: task_of(config).init(config, key, batch), jax.random.key(0))
    names = {option.rpartition(".")[2].replace("-", "_") for option in hyper(config)}
    assert state.hyper.keys() == names


def test_draws_fill_their_ranges_by_the_seed():
    config = Sweep(members=2000, vary=("optimizer.lr=1e-4:1e-1", "optimizer.weight_decay=0:0.1"))
    drawn = sweep.draws(config)
    rates, decays = (np.array([each[name] for each in drawn]) for name in ("optimizer.lr", "optimizer.weight-decay"))
    assert rates.min() >= 1e-4
    assert rates.max() <= 1e-1
    # A third of a log-uniform draw from three decades lies in each; of a uniform one, its share of the width.
    counts = np.histogram(rates, [1e-4, 1e-3, 1e-2, 1e-1])[0]
    assert all(abs(counts - 2000 / 3) < 4 * np.sqrt(2000 * 2 / 9))
    assert abs((decays < 0.025).mean() - 0.25) < 4 * np.sqrt(0.1875 / 2000)
    assert sweep.draws(config) == drawn
    assert sweep.draws(replace(config, seed=1)) != drawn


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        (sweep, "", "a sweep needs something to vary: give --vary optimizer.lr=1e-4:1e-1"),
        (sweep, "--vary width=1:2", "'width' cannot differ between runs that are trained at once, only optimizer.lr, "),
        (sweep, "--vary optimizer.lrr=1:2", "did you mean 'optimizer.lr'?"),
        (sweep, "--vary noise=0:1", "'noise' cannot differ"),
        (sweep, "--vary optimizer.lr", "--vary optimizer.lr cannot be read; expected NAME=LOW:HIGH"),
        (sweep, "--vary optimizer.lr=1:", "cannot be read; expected NAME=LOW:HIGH"),
        (sweep, "--vary optimizer.lr=2:1", "goes from 2 to 1; expected the lower end first"),
        (sweep, "--vary optimizer.lr=nan:1", "goes from nan to 1"),
        (sweep, "--vary optimizer.lr=0:1", "--optimizer.lr 0.0 is out of range; expected a number above 0"),
        (sweep, "--vary optimizer.l2=0:inf", "--optimizer.l2 inf is out of range"),
        (sweep, "--vary optimizer.l2=0:1 --members 0", "--members 0 is out of range; expected 1 or more"),
        (sweep, "--vary optimizer.l2=0:1 --members 7 --halving 3", "--halving 3 leaves nobody of 7 members"),
        (sweep, "--vary optimizer.l2=0:1 --halving 3 --steps 3", "a run of 3 steps cannot be cut for --halving 3"),
        (sweep, "--vary optimizer.l2=0:1 --halving 1 --validation 0", "--halving decides on the validation split"),
        (sweep, "--model gan --vary r1=0:1 --halving 1", "--halving needs a figure to halve by"),
        (sweep, "--vary optimizer.l2=0:1 --resume", "a population of runs cannot be resumed"),
        (train, "--seeds 0", "--seeds 0 is out of range; expected 1 or more"),
        (train, "--seeds 2 --seed 4294967295", "--seed 4294967295 and --seeds 2 go past the last seed, 4294967295"),
        (train, "--seeds 2 --patience 3", "--patience 3 would stop each of 2 members at another step"),
        (train, "--seeds 2 --batch-size 100", "batch size 100 cannot be shared by 8 devices"),
    ],
)  # fmt: skip
def test_mistakes(command, options, said, tmp_path):
    with pytest.raises(UserError) as told:
        command.main(["--runs", str(tmp_path / "runs"), *options.split()])
    assert said in str(told.value)
    assert not (tmp_path / "runs").exists()


def test_spread_is_of_the_figures_that_all_have():
    rows = [{"a": 1.0, "b": None, "worst_class": 3}, {"a": 3.0, "b": 2.0, "worst_class": 1}]
    assert spread(rows) == {"a": 2.0, "a_std": pytest.approx(2**0.5)}
    assert spread(rows[:1]) == {"a": 1.0}
