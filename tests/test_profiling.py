"""The profile of a few steps: a trace, and what its operations cost."""

import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from conftest import small

from jaxrec.cli.train import main
from jaxrec.run.observers import Moment
from jaxrec.run.profiling import SHOWN, Profile, own_times
from jaxrec.run.show.log import Log
from jaxrec.run.steps import CompiledStep


def told(text: str) -> list[tuple[float, str]]:
    """Share and names of each operation that a run prints."""
    return [(float(share) / 100, name) for share, name in re.findall(r" ms a step +([\d.]+)%  (.*)", text)]


@pytest.mark.usefixtures("as_users_run_it")
def test_a_run_leaves_a_trace_and_tells_its_dearest_operations(tmp_path, capsys):
    options = ["--steps", 4, "--log-every", 1, "--eval-every", 2, "--profile", 2, "--mesh", "data=1"]
    assert main(small("cnn", "--runs", tmp_path, "--name", "a", *options)) == 0
    traces = tmp_path / "a" / "profile"
    assert len(list(traces.rglob("*.xplane.pb"))) == len(list(traces.rglob("*.trace.json.gz"))) == 1
    said = capsys.readouterr().out
    assert "steps 2 to 3" in said
    rows = told(said)
    assert len(rows) == SHOWN
    shares = [share for share, _ in rows]
    # Each is written to a tenth of a percent.
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1 + SHOWN * 0.0005
    assert any(re.search("conv_general_dilated|dot_general", name) for _, name in rows)
    assert any("transpose(" in name for _, name in rows)
    assert told((tmp_path / "a" / "log.txt").read_text("utf-8")) == rows


class Run:
    """A run of one product a step, with another program beside it."""

    def __init__(self, folder: Any, profile: int) -> None:
        self.said: list[str] = []
        session: Any = SimpleNamespace(folder=folder, config=SimpleNamespace(profile=profile))
        log: Any = SimpleNamespace(say=self.said.append, pause=lambda: Log.pause(log), _paused=0.0)
        state = jnp.eye(64)
        made = jax.jit(lambda state: state @ state).lower(state).compile()
        self.beside = jax.jit(jnp.sin)
        self.state, self.made = state, made
        self.profile = Profile(session, log, CompiledStep(lambda *_: None, lambda: str(made.as_text())))

    def make(self, *steps: int) -> None:
        for step in steps:
            self.state = self.made(self.state)
            self.beside(self.state).block_until_ready()
            self.profile(Moment(step, self.state, None, None))


@pytest.mark.parametrize("steps", [2, 5])
def test_a_run_that_ends_early_is_traced_until_then(steps, tmp_path):
    run = Run(tmp_path, profile=100)
    with run.profile:
        run.make(*range(1, steps + 1))
    assert f"steps 2 to {steps}" in run.said[0]
    rows = told("\n".join(run.said))
    assert sum(share for share, _ in rows) == pytest.approx(1, abs=0.002)
    assert not any("sin" in name for _, name in rows)


def test_a_run_of_one_call_says_that_nothing_was_traced(tmp_path):
    run = Run(tmp_path, profile=1)
    with run.profile:
        run.make(1)
    assert "--profile" in run.said[0] and len(run.said) == 1


def test_a_run_that_fails_leaves_no_trace_open(tmp_path):
    run = Run(tmp_path, profile=100)
    with pytest.raises(ZeroDivisionError), run.profile:
        run.make(1, 2)
        raise ZeroDivisionError
    jax.profiler.start_trace(str(tmp_path / "own"))
    jax.profiler.stop_trace()


def test_an_operation_does_not_cost_what_is_inside_it():
    loop = [(0.0, 10.0, "while"), (1.0, 4.0, "dot"), (2.0, 3.0, "add"), (4.0, 6.0, "dot"), (12.0, 13.0, "add")]
    assert own_times(loop) == {"while": 5.0, "dot": 4.0, "add": 2.0}
