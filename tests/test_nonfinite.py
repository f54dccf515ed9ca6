"""Losses and gradients that are not finite: the run stops, leaves the update out, or goes back."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small

from jaxrec import verify
from jaxrec.errors import UserError
from jaxrec.run import setup
from jaxrec.run.checkpoints import Checkpoints, hashes_of, split_state
from jaxrec.run.log import Log
from jaxrec.run.loop import ROLLBACK_FACTOR
from jaxrec.run.report import read_metrics
from jaxrec.tasks import task_of
from jaxrec.train import main

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

    def note(checkpoints, step, state, *rest):
        saved[step] = jax.device_get(hashes_of(split_state(state)[0]))
        return save(checkpoints, step, state, *rest)

    monkeypatch.setattr(Checkpoints, "save", note)
    rows = train(tmp_path, "run", "--on-nonfinite", "skip", "--save-every", 1)
    assert [row["skipped"] for row in rows] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert "2 updates were left out" in capsys.readouterr().out
    assert np.isfinite([row["loss"] for row in rows if row["loss"] is not None]).all()
    assert list(saved) == list(range(1, 13))
    assert [step for step in range(2, 13) if saved[step] == saved[step - 1]] == [3, 7]


def test_skip_changes_nothing_where_all_is_finite(tmp_path):
    assert [{**row, "skipped": None} for row in train(tmp_path, "a", "--on-nonfinite", "skip")] == [
        {**row, "skipped": None} for row in train(tmp_path, "b")
    ]


def test_rollback_lowers_the_rate_and_goes_on(tmp_path, monkeypatch, capsys):
    expected = train(tmp_path, "alone")
    rate = float(np.float32(1e-3))
    injected(monkeypatch, "loss", lambda step, state: (step == 7) & (state.hyper["lr"] > 0.6 * rate))
    rows = train(tmp_path, "run", "--on-nonfinite", "rollback", "--optimizer.lr", rate)
    assert "the loss is not finite at step 7: back to step 4 with 0.5 of the learning rate" in capsys.readouterr().out
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert len(expected) == len(rows)
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        step = checkpoints.latest()
        record: Any = checkpoints.record(step)["progress"]
    assert (step, record["rollbacks"]) == (STEPS, [4])
    assert [row["rollbacks"] for row in rows] == [0] * 4 + [1] * 8
    assert ROLLBACK_FACTOR == 0.5


@pytest.mark.parametrize("good", [0, 4, 8])
def test_a_run_that_went_back_is_verified_saved_since_or_killed_before(good, tmp_path, monkeypatch, capsys):
    rate, write = float(np.float32(1e-3)), Log.write
    # A quarter of the rate is low enough; it goes back twice.
    injected(monkeypatch, "loss", lambda step, state: (step == good + 2) & (state.hyper["lr"] > 0.3 * rate))

    def killed(log: Log, step: int, *rest: Any, **state: Any) -> None:
        write(log, step, *rest, **state)
        if step == good + 3:
            raise KeyboardInterrupt

    options = ["--on-nonfinite", "rollback", "--optimizer.lr", rate, "--save-every", 4]
    assert len(train(tmp_path, "run", *options)) == STEPS
    assert verify.main([str(tmp_path / "run")]) == 0
    if not good:
        return
    monkeypatch.setattr(Log, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "killed", *options)
    monkeypatch.setattr(Log, "write", write)
    capsys.readouterr()
    assert verify.main([str(tmp_path / "killed")]) == 0
    assert f"steps {good} to {good + 3} made again" in capsys.readouterr().out
    metrics = tmp_path / "killed" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"rollbacks": 2', '"rollbacks": 1'))
    assert verify.main([str(tmp_path / "killed")]) == 1
    assert f"step {good + 1}: made again from step {good}, the state is " in capsys.readouterr().out


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
