"""Checkpoints read tensorstore's specifications thread by thread, and leave nothing behind in memory."""

import ast
import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from jaxrec.run import checkpoints
from jaxrec.run.checkpoints import Checkpoints, leaking_to_json, to_json

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


def test_saving_leaves_no_objects_behind(tmp_path, monkeypatch):
    arrays = {f"layer{number}": np.full((8, 8), number, np.float32) for number in range(20)}
    monkeypatch.setattr(checkpoints, "split_state", lambda state: (state, state))
    before = 0
    with Checkpoints(tmp_path) as saved:
        state: Any = arrays
        for step in range(30):
            saved.save(step, state, {"step": step}, None)
            saved.wait()
            if step == 9:
                gc.collect()
                before = sys.getallocatedblocks()
        gc.collect()
        kept = (sys.getallocatedblocks() - before) / 20
    # tensorstore's own keeps four strings of every array.
    assert kept < 2 * len(arrays)
