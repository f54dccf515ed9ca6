"""Checkpoints wait to be written, read tensorstore's specifications one by one, and leave nothing behind in memory."""

import ast
import gc
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from jaxrec.errors import UserError
from jaxrec.run.store import checkpoints
from jaxrec.run.store.checkpoints import Checkpoints, leaking_to_json, to_json
from jaxrec.run.store.hashes import fingerprints

FILE = {"driver": "file", "path": "/tmp/run/"}


@pytest.mark.parametrize(
    "spec",
    [
        FILE,
        {"driver": "file", "path": "/tmp/é 日本 'a' \"b\" \n\t\x01 KvStore.Spec()/"},
        {"driver": "ocdbt", "base": {**FILE, "file_io_sync": False}, "config": {"compression": None}, "path": "x"},
        {"driver": "memory"},
    ],
)
def test_a_specification_is_what_tensorstore_says(spec):
    opened = ts.KvStore.Spec(spec)
    assert to_json(opened) == leaking_to_json(opened)


def test_threads_read_one_specification_at_a_time(monkeypatch):
    read, busy = ast.literal_eval, threading.Semaphore(1)

    def alone(text):
        assert busy.acquire(blocking=False)
        time.sleep(0.01)
        busy.release()
        return read(text)

    monkeypatch.setattr(ast, "literal_eval", alone)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(to_json, [ts.KvStore.Spec(FILE)] * 8)) == [FILE] * 8


def taken(saved: Checkpoints, step: int, score: float | None, **options: bool) -> None:
    state: Any = {"weights": np.full(3, step, np.float32)}
    assert saved.save(step, state, fingerprints(state), {"step": step}, score, **options)


@pytest.fixture
def plain_states(monkeypatch):
    monkeypatch.setattr(checkpoints, "split_state", lambda state: (state, state))


@pytest.mark.parametrize("seed", range(4))
def test_those_that_waited_are_those_that_would_have_been_written(seed, plain_states, tmp_path, monkeypatch):
    scores = np.random.default_rng(seed).integers(0, 4, 7).tolist()  # equal ones among them
    kept = []
    for seconds in (0, 1e9):
        monkeypatch.setattr(checkpoints, "WRITE_SECONDS", seconds)
        (run := tmp_path / str(seconds)).mkdir()
        with Checkpoints(run) as saved:
            for step, score in enumerate(scores):
                taken(saved, step, score, may_wait=True)
            assert bool(saved.steps()) == (seconds == 0)
            saved.wait()
            kept.append((saved.steps(), saved.best(), [saved.record(step) for step in saved.steps()]))
    assert kept[0] == kept[1]
    assert kept[0][:2] == (sorted({scores.index(min(scores)), 6}), scores.index(min(scores)))


def test_one_that_must_not_wait_is_written_with_those_that_do(plain_states, tmp_path):
    with Checkpoints(tmp_path) as saved:
        for step, score in enumerate((0.5, 0.2, 0.3)):
            taken(saved, step, score, may_wait=True)
        taken(saved, 3, None)
        assert saved.steps() == [1, 3]


def test_where_the_best_cannot_be_written_no_later_one_is(plain_states, tmp_path, monkeypatch):
    room = iter([0])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(room, 2**40)))
    with pytest.raises(UserError, match="a checkpoint needs"), Checkpoints(tmp_path) as saved:
        taken(saved, 0, 0.2, may_wait=True)
        taken(saved, 1, 0.5, may_wait=True)
        saved.wait()
    with Checkpoints(tmp_path) as saved:
        assert saved.steps() == []


@pytest.mark.parametrize("kind, expected", [(ValueError, [4]), (KeyboardInterrupt, [])])
def test_what_waits_is_written_unless_the_run_is_ended_at_once(kind, expected, plain_states, tmp_path):
    with pytest.raises(kind), Checkpoints(tmp_path) as saved:
        taken(saved, 4, 0.5, may_wait=True)
        raise kind
    with Checkpoints(tmp_path) as saved:
        assert saved.steps() == expected


def test_saving_leaves_no_objects_behind(tmp_path, monkeypatch):
    arrays = {f"layer{number}": np.full((8, 8), number, np.float32) for number in range(20)}
    monkeypatch.setattr(checkpoints, "split_state", lambda state: (state, state))
    before = 0
    with Checkpoints(tmp_path) as saved:
        state: Any = arrays
        for step in range(30):
            saved.save(step, state, fingerprints(state), {"step": step}, None)
            saved.wait()
            if step == 9:
                gc.collect()
                before = sys.getallocatedblocks()
        gc.collect()
        kept = (sys.getallocatedblocks() - before) / 20
    # tensorstore's own keeps four strings of every array.
    assert kept < 2 * len(arrays)
