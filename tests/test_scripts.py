"""The scripts that try a run's safety, in a short form."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
pytestmark = pytest.mark.slow


def run(script: str, *arguments: str) -> str:
    """What the script prints; it has to succeed."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent), "XLA_FLAGS": ""}
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_killed_runs_end_as_if_they_had_been_left_alone():
    said = run("crash_test.py", "--tasks", "autoencoder", "--kills", "3")
    assert said.startswith("autoencoder: 3 kills (")
    assert "all with state " in said


def test_mutated_files_are_read_or_refused_in_one_sentence():
    said = run("fuzz.py", "--images", "1000", "--settings", "500").splitlines()
    assert [line.split(":")[0] for line in said] == ["1000 images", "500 settings"]
    assert all(" refused" in line and " read" in line for line in said)
