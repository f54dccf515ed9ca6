"""Losses and gradients that are not finite: the run stops, leaves the update out, or goes back."""

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small

from jaxrec.cli import verify
from jaxrec.cli.train import main
from jaxrec.errors import UserError
from jaxrec.run import setup
from jaxrec.run.show.log import Log
from jaxrec.run.show.report import read_metrics
from jaxrec.run.store.checkpoints import Checkpoints, LatestAndBest, hashes_of, split_state
from jaxrec.tasks import task_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]

STEPS = 12


def injected(monkeypatch: pytest.MonkeyPatch, where: str, at: Any) -> None:
    """A NaN in the loss or in a gradient at the steps for which ``at(step, state)`` holds."""

    def train_step(task: Any, state: Any, batch: Any) -> Any:
        after, metrics = task.train_step(state, batch)
        number = jnp.where(at(after.step, state), jnp.nan, 0.0)
        if where == "loss":
            return after, {**metrics, "loss": metrics["loss"] + number}
        add = partial(jax.tree.map, lambda leaf: leaf + number if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf)
        players = {name: player.replace(params=add(player.params)) for name, player in after.players.items()}
        return after.replace(players=players), metrics

    def spoilt(config: Any) -> Any:
        return SimpleNamespace(train_step=partial(train_step, task_of(config)))

    monkeypatch.setattr(setup, "task_of", spoilt)


def train(runs: Path, name: str, *options: object) -> list[dict]:
    usual = ["--steps", STEPS, "--log-every", 1, "--eval-every", 4, "--save-every", 2]
    assert main(small("cnn", "--runs", runs, "--name", name, *usual, *options)) == 0
    return [row for row in read_metrics(runs / name) if row["split"] == "train"]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_stop_names_the_step_and_the_last_good_checkpoint(where, tmp_path, monkeypatch):
    injected(monkeypatch, where, lambda step, state: step == 7)
    # Parameters spoilt in step 7 show in the loss of step 8; a loss may be of parameters that step 6 spoilt.
    named, good = (7, 4) if where == "loss" else (8, 6)
    with pytest.raises(
        UserError, match=rf"the loss is not finite at step {named}; the last good checkpoint is of step {good}"
    ):
        train(tmp_path, "run")


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_skip_leaves_the_update_out_and_counts_it(where, tmp_path, monkeypatch, capsys):
    injected(monkeypatch, where, lambda step, state: (step == 3) | (step == 7))
    save, saved = Checkpoints.save, {}

    def note(checkpoints, step, state, *rest, **options):
        saved[step] = hashes_of(split_state(state)[0]).by_path()
        return save(checkpoints, step, state, *rest, **options)

    monkeypatch.setattr(Checkpoints, "save", note)
    rows = train(tmp_path, "run", "--on-nonfinite", "skip", "--save-every", 1)
    assert [row["skipped"] for row in rows] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert "2 updates were left out" in capsys.readouterr().out
    assert np.isfinite([row["loss"] for row in rows if row["loss"] is not None]).all()
    assert list(saved) == list(range(1, 13))
    assert [step for step in range(2, 13) if saved[step] == saved[step - 1]] == [3, 7]


def test_skip_changes_nothing_of_a_classifier_where_all_is_finite(tmp_path):
    assert [{**row, "skipped": None} for row in train(tmp_path, "a", "--on-nonfinite", "skip")] == [
        {**row, "skipped": None} for row in train(tmp_path, "b")
    ]


def test_a_checkpoint_that_waits_is_a_good_one_too(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrec.run.store.checkpoints.WRITE_SECONDS", 1e9)
    injected(monkeypatch, "loss", lambda step, state: step == 7)
    options = ["--steps", STEPS, "--log-every", 1, "--eval-every", 4]
    with pytest.raises(UserError, match="not finite at step 7; the last good checkpoint is of step 4"):
        main(small("cnn", "--runs", tmp_path, "--name", "run", *options))
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.steps() == [4]


def test_a_full_disk_does_not_hide_what_ended_the_run(tmp_path, monkeypatch):
    injected(monkeypatch, "loss", lambda step, state: step == 7)
    room = iter([2**40])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(room, 0)))
    options = ["--steps", STEPS, "--log-every", 1, "--eval-every", 4]
    with pytest.raises(
        UserError, match=r"^the loss is not finite at step 7; no good checkpoint .*, and a checkpoint needs"
    ):
        main(small("cnn", "--runs", tmp_path, "--name", "run", *options))


def test_rollback_lowers_the_rate_and_goes_on(tmp_path, monkeypatch, capsys):
    expected = train(tmp_path, "alone")
    rate = float(np.float32(1e-3))
    injected(monkeypatch, "loss", lambda step, state: (step == 7) & (state.hyper["lr"] > 0.6 * rate))
    rows = train(tmp_path, "run", "--on-nonfinite", "rollback", "--optimizer.lr", rate)
    assert "the loss is not finite at step 7: back to step 4 with 0.5 of the learning rate" in capsys.readouterr().out
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[:4] == expected[:4] and rows[7] != expected[7]
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        step = checkpoints.latest()
        record: Any = checkpoints.record(step)["progress"]
    assert (step, record["went_back"]) == (STEPS, [4])


@pytest.mark.parametrize(
    "options, failing, back, killed",
    [
        # At the rate and at half of it, from the same checkpoint.
        ([], {6: [1, 0.5]}, [4, 4], 7),
        ([], {10: [1, 0.5]}, [8, 8], 11),
        # The second time from an earlier one.
        (["--save-every", 2], {9: [1], 7: [0.5]}, [6, 4], 6),
        (["--save-every", 2], {9: [1], 7: [0.5]}, [6, 4], 10),
        # No checkpoint yet; then steps between logged ones and after evaluations alone.
        ([], {2: [1]}, [0], 10),
        (["--log-every", 5, "--eval-every", 3, "--save-every", 8], {11: [1]}, [9], 12),
    ],
)
def test_runs_that_went_back_are_verified(options, failing, back, killed, tmp_path, monkeypatch, capsys):
    full, write, go_back, backs = float(np.float32(1e-3)), Log.write, Log.go_back, []

    def at(step: Any, state: Any) -> Any:
        share = jnp.round(state.hyper["lr"] / full * 4) / 4
        cases = [(step == where) & (share == rate) for where, rates in failing.items() for rate in rates]
        return jnp.any(jnp.stack(cases))

    injected(monkeypatch, "loss", at)
    if "--save-every" in options:  # Of the latest and the best alone there is rarely an earlier one.
        monkeypatch.setattr(LatestAndBest, "should_preserve", lambda _, kept, context: [True] * len(kept))
    usual = ["--steps", STEPS, "--log-every", 1, "--eval-every", 4, "--save-every", 4, "--optimizer.lr", full]
    arguments = small("cnn", "--runs", tmp_path, "--name", "run", *usual, "--on-nonfinite", "rollback", *options)
    assert main(arguments) == 0
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert history["went_back"] == back
    assert verify.main([str(tmp_path / "run")]) == 0

    def kill(log: Log, step: int, *rest: Any, **state: Any) -> None:
        write(log, step, *rest, **state)
        if step >= killed and len(backs) == len(back):
            raise KeyboardInterrupt

    monkeypatch.setattr(Log, "go_back", lambda log, step: (backs.append(step), go_back(log, step)))
    monkeypatch.setattr(Log, "write", kill)
    with pytest.raises(KeyboardInterrupt):
        main([*arguments, "--name", "killed"])
    monkeypatch.setattr(Log, "write", write)
    capsys.readouterr()
    assert verify.main([str(tmp_path / "killed")]) == 0
    assert "all are as logged" in capsys.readouterr().out
    path = tmp_path / "killed" / "history.json"
    history = json.loads(path.read_text())
    assert history["went_back"] == back
    path.write_text(json.dumps({**history, "went_back": back[:-1]}))
    assert verify.main([str(tmp_path / "killed")]) == 1
    logged = 10 if "--log-every" in options else back[-1] + 1
    assert f"step {logged}: made again from step" in capsys.readouterr().out


def test_a_run_resumed_with_other_settings_is_verified(tmp_path, capsys):
    usual = ["--runs", tmp_path, "--name", "run"]
    assert main(small("gan", *usual, "--steps", 6, "--log-every", 4, "--save-every", 3, "--eval-every", 5)) == 0
    steps = [row["step"] for row in read_metrics(tmp_path / "run") if row["split"] == "train"]
    assert steps == [3, 4, 5, 6]  # Every saved state is a logged one.
    for changed in (
        ["--steps", 9, "--on-nonfinite", "skip", "--log-every", 1],
        ["--steps", 15, "--fuse-steps", 2, "--log-every", 2, "--save-every", 6, "--eval-every", 2],
        ["--steps", 16, "--on-nonfinite", "stop", "--fuse-steps", 1, "--log-every", 5],
    ):
        assert main(["--resume", *map(str, (*usual, *changed))]) == 0
        assert verify.main([str(tmp_path / "run")]) == 0
        assert "all are as logged" in capsys.readouterr().out


def test_rollback_goes_to_the_only_checkpoint_where_the_step_after_it_fails(tmp_path, monkeypatch, capsys):
    rate = float(np.float32(1e-3))
    injected(monkeypatch, "loss", lambda step, state: (step == 5) & (state.hyper["lr"] > 0.6 * rate))
    usual = ["--steps", 6, "--log-every", 1, "--eval-every", 4, "--save-every", 4, "--optimizer.lr", rate]
    assert main(small("gan", "--runs", tmp_path, "--name", "run", *usual, "--on-nonfinite", "rollback")) == 0
    assert "the loss is not finite at step 5: back to step 4 with 0.5 of the learning" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["stop", "rollback"])
def test_what_is_not_finite_takes_no_checkpoints_place(how, tmp_path, monkeypatch, capsys):
    injected(monkeypatch, "gradient", lambda step, state: (step == 8) & (state.hyper["lr"] > 0.6e-3))
    options = ["--validation", 0, "--save-every", 4, "--steps", 8, "--optimizer.lr", 1e-3, "--on-nonfinite", how]
    if how == "stop":
        message = "the parameters are not finite after step 8; the last good checkpoint is of step 4: lower"
        with pytest.raises(UserError, match=message):
            train(tmp_path, "run", *options)
    else:
        assert [row["step"] for row in train(tmp_path, "run", *options)] == list(range(1, 9))
        assert "not finite after step 8: back to step 4 with 0.5 of" in capsys.readouterr().out
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.latest() == (4 if how == "stop" else 8)


def test_rollback_without_a_checkpoint_begins_again_and_gives_up_at_last(tmp_path, monkeypatch, capsys):
    injected(monkeypatch, "loss", lambda step, state: step == 2)
    with pytest.raises(UserError, match="not finite at step 2, after 3 rollbacks; no good checkpoint had been saved"):
        train(tmp_path, "run", "--on-nonfinite", "rollback")
    assert capsys.readouterr().out.count("back to step 0") == 3


def test_populations_have_members_to_drop(tmp_path):
    with pytest.raises(UserError, match="--on-nonfinite skip is for one run"):
        train(tmp_path, "run", "--on-nonfinite", "skip", "--seeds", 2)
