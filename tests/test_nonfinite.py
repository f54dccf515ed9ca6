"""Losses and gradients that are not finite: the run stops, or leaves the update out."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small

from jaxrec.cli import verify
from jaxrec.cli.train import main
from jaxrec.errors import UserError
from jaxrec.run import session
from jaxrec.run.show.log import read_metrics
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.store.hashes import hashes_of
from jaxrec.run.store.state import split_state
from jaxrec.tasks.system import System, system_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]

STEPS = 12


def injected(monkeypatch: pytest.MonkeyPatch, where: str, at: Any) -> None:
    """A NaN in the loss or in a gradient at the steps for which ``at(step, state)`` holds."""

    def train_step(system: System, state: Any, batch: Any) -> Any:
        after, metrics = system.train_step(state, batch)
        number = jnp.where(at(after.step, state), jnp.nan, 0.0)
        if where == "loss":
            return after, {**metrics, "loss": metrics["loss"] + number}
        add = partial(jax.tree.map, lambda leaf: leaf + number if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf)
        players = {name: player.replace(params=add(player.params)) for name, player in after.players.items()}
        return after.replace(players=players), metrics

    def spoilt(config: Any) -> System:
        system = system_of(config)
        return replace(system, train_step=partial(train_step, system))

    monkeypatch.setattr(session, "system_of", spoilt)


def train(runs: Path, name: str, *options: object) -> list[dict]:
    usual = ["--steps", STEPS, "--log-every", 1, "--eval-every", 4, "--save-every", 2]
    assert main(small("cnn", "--runs", runs, "--name", name, *usual, *options)) == 0
    return [row for row in read_metrics(runs / name) if row["split"] == "train"]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_stop_names_the_step_and_the_last_good_checkpoint(where, tmp_path, monkeypatch):
    injected(monkeypatch, where, lambda step, state: step == 7)
    # Parameters spoilt in step 7 show in the loss of step 8; a loss may be of parameters that step 6 spoilt.
    named, good = (7, 4) if where == "loss" else (8, 6)
    with pytest.raises(UserError, match=rf"step {named}; .* step {good}:"):
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
    assert "2 updates" in capsys.readouterr().out
    assert np.isfinite([row["loss"] for row in rows if row["loss"] is not None]).all()
    assert list(saved) == list(range(1, 13))
    assert [step for step in range(2, 13) if saved[step] == saved[step - 1]] == [3, 7]


def test_skip_changes_nothing_of_a_classifier_where_all_is_finite(tmp_path):
    """To the last bit, as users' programs are compiled: in processes without the tests' flags."""
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(Path(__file__).parents[1])}
    rows = {}
    for handling in ("skip", "stop"):
        usual = ["--steps", 4, "--log-every", 1, "--eval-every", 4, "--save-every", 4, "--on-nonfinite", handling]
        command = small("cnn", "--runs", tmp_path, "--name", handling, *usual)
        done = subprocess.run(
            [sys.executable, "-m", "jaxrec.train", *command], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found = [row for row in read_metrics(tmp_path / handling) if row["split"] == "train"]
        rows[handling] = [{**row, "skipped": None} for row in found]
    assert rows["skip"] == rows["stop"] and len(rows["skip"]) == 4


def test_a_run_resumed_with_other_settings_is_verified(tmp_path, capsys):
    usual = ["--runs", tmp_path, "--name", "run"]
    assert main(small("autoencoder", *usual, "--steps", 6, "--log-every", 4, "--save-every", 3, "--eval-every", 5)) == 0
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


def test_what_is_not_finite_takes_no_checkpoints_place(tmp_path, monkeypatch):
    injected(monkeypatch, "gradient", lambda step, state: step == 8)
    with pytest.raises(UserError, match=r"step 8; .* step 4:"):
        train(tmp_path, "run", "--validation", 0, "--save-every", 4, "--steps", 8)
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.latest() == 4
