"""Trackers of runs, without a network: what they are sent is what they give back."""

import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jaxrec.errors import UserError
from jaxrec.run.show import trackers
from jaxrec.run.show.trackers import check_trackers, open_trackers
from jaxrec.settings import Train

# The trackers' own code warns of what it will change.
pytestmark = pytest.mark.filterwarnings("default")


def send(run: Path, config: Train) -> None:
    """What a run of two rows sends that is resumed between them."""
    check_trackers(config)
    (run / "pictures").mkdir(parents=True)
    picture = run / "pictures" / "worst.png"
    Image.new("RGB", (8, 8)).save(picture)
    for step, loss in ((1, 2.5), (2, 1.5)):
        [tracker] = open_trackers(run, config, step - 1)
        tracker.numbers(step, "train", {"loss": loss})
        tracker.picture(step, picture)
        tracker.close({"accuracy": 0.75} if step == 2 else {})


def test_mlflow_keeps_a_run_in_a_local_database(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    send(tmp_path / "first", Train(log_to=("mlflow",), batch_size=17))
    client = mlflow.MlflowClient()
    [run] = client.search_runs(["0"])
    assert run.info.run_name == "first" and run.info.status == "FINISHED"
    assert run.data.params["batch_size"] == "17"
    sent = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "train/loss")]
    assert sent == [(1, 2.5), (2, 1.5)]
    assert run.data.metrics["test/accuracy"] == 0.75
    assert len(client.list_artifacts(run.info.run_id, "pictures")) == 2


def test_wandb_keeps_a_run_in_its_folder_when_it_is_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "first"
    send(run, Train(log_to=("wandb",), batch_size=17))
    records = []
    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        records += written(file)
    runs = [record.run for record in records if record.HasField("run")]
    # A resumed run has the same id, by which the service puts both parts together.
    assert {(each.display_name, each.run_id) for each in runs} == {
        ("first", (run / "wandb-run.txt").read_text().strip())
    }
    assert "17" in [item.value_json for each in runs for item in each.config.update if item.key == "batch_size"]
    rows = []
    for record in records:
        if record.HasField("history"):
            rows.append({"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item})
    assert [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row] == [("1", "2.5"), ("2", "1.5")]
    assert len(list(run.glob("wandb/offline-run-*/files/media/images/worst*.png"))) == 2


def written(file: Path) -> list[Any]:
    """The records that wandb would send: a log of LevelDB's form, whose blocks of 32 KiB hold whole or cut records."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, records, parts = file.read_bytes(), 7, [], b""
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:  # No room for a header: the rest of the block is empty.
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # A whole record, or the last part of one.
            records.append(Record.FromString(parts))
            parts = b""
    return records


def test_what_a_tracker_refuses_is_one_sentence(tmp_path, monkeypatch):
    class Refuses:
        def __init__(self, *_: object) -> None:
            raise ConnectionError("nobody answers")

    monkeypatch.setitem(trackers.TRACKERS, "mlflow", ("json", Refuses))
    with pytest.raises(UserError, match=r"--log-to mlflow.*nobody answers"):
        open_trackers(tmp_path, Train(log_to=("mlflow",)), 0)
