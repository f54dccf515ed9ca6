"""Damaged checkpoints are noticed, named and passed over; changed numbers are found; runs are verified."""

import logging
import re
import shutil
from functools import cache
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
from jaxrec.models.cpu import parts
from jaxrec.run import feed, observers
from jaxrec.run.initial import initializer
from jaxrec.run.show.log import read_metrics
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.store.folder import read_config
from jaxrec.run.store.hashes import fingerprints, hashes_of
from jaxrec.run.store.leaves import to_host
from jaxrec.run.store.state import split_state
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Task
from jaxrec.tasks.state import State
from jaxrec.tasks.system import system_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("as_users_run_it"),
    # Of a failed restoration Orbax leaves the other reads to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def as_the_commands_log():
    """Orbax and asyncio log the traceback of every failed read from threads, in which Python 3.11's parser may fail."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def test_fingerprints_tell_every_bit_apart_and_no_layout():
    tree = {
        "a": jnp.arange(24.0).reshape(2, 3, 4),
        "b": jnp.arange(8, dtype=jnp.int32),
        "c": jnp.array([True, False]),
        "d": jnp.arange(4, dtype=jnp.bfloat16),
        "key": jax.random.key_data(jax.random.key(3)),
    }
    hashes = jax.device_get(fingerprints(tree))
    first = hashes.by_path()
    assert list(first) == list(tree)
    assert hashes.values.dtype == np.uint32
    sharding = jax.NamedSharding(jax.make_mesh((8,), ("x",)), jax.P("x"))
    spread = {**tree, "b": jax.device_put(tree["b"], sharding)}
    assert fingerprints(spread).by_path() == first
    assert fingerprints(spread).digest() == hashes.digest() != fingerprints({**tree, "c": ~tree["c"]}).digest()
    bits = np.arange(24.0, dtype=np.float32).view(np.uint32)
    for place in (0, 11, 23):
        for bit in range(32):
            changed = bits.copy()
            changed[place] ^= np.uint32(1 << bit)
            other = fingerprints({"a": jnp.asarray(changed.view(np.float32).reshape(2, 3, 4))})
            assert other.by_path()["a"] != first["a"]
    swapped = tree["b"].at[jnp.array([1, 5])].set(tree["b"][jnp.array([5, 1])])
    for changed in (swapped, jnp.arange(9, dtype=jnp.int32)):
        assert fingerprints({"b": changed}).by_path()["b"] != first["b"]


@pytest.fixture(scope="module", autouse=True)
def rising_loss():
    """The loss on the validation split rises from step to step, so that the best checkpoint is not the latest."""
    validated = observers.validated

    def rising(evaluator: Any, state: State, session: Any) -> dict[str, float]:
        metrics = validated(evaluator, state, session)
        return {**metrics, "loss": metrics["loss"] + int(state.step)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observers, "validated", rising)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, as_users_run_it, rising_loss) -> Path:
    """A run with two checkpoints: the best is of step 6, the latest of step 9."""
    runs = tmp_path_factory.mktemp("runs")
    options = ["--steps", 9, "--log-every", 1, "--eval-every", 6, "--save-every", 3, "--average", 0.9]
    assert main(small("autoencoder", "--runs", runs, "--name", "whole", *options)) == 0
    assert sorted(int(path.name) for path in (runs / "whole" / "checkpoints").iterdir()) == [6, 9]
    return runs / "whole"


@cache
def blank(task: Task) -> State:
    """A state of the runs' shapes."""
    examples = {"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros(2, np.int32)}
    return initializer(task, system_of(task), Devices("data=1"))(jax.random.key(0), examples)


def restored(run: Path) -> tuple[int, list[np.ndarray]]:
    """Step and arrays of the newest whole checkpoint."""
    state = blank(read_config(run).task)
    with Checkpoints(run, read_only=True) as checkpoints:
        step, (state, _) = checkpoints.newest_whole(lambda step: checkpoints.restore(state, step))
    return step, list(to_host(state).values())


def chunks(run: Path) -> list[Path]:
    """The files of the latest checkpoint that hold numbers."""
    return sorted((run / "checkpoints" / "9").rglob("d/*"))


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 0x10
    return bytes(changed)


DAMAGE = {
    "first byte": lambda content: flipped(content, 0),
    "middle byte": lambda content: flipped(content, len(content) // 2),
    "last byte": lambda content: flipped(content, -1),
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "removed": lambda content: None,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_no_damage_gives_wrong_arrays(run, kind, tmp_path, capsys):
    whole = restored(run)
    assert whole[0] == 9
    shutil.copytree(run, tmp_path / "older")
    shutil.rmtree(tmp_path / "older" / "checkpoints" / "9")
    older = restored(tmp_path / "older")
    capsys.readouterr()
    harmed, copy = 0, shutil.copytree(run, tmp_path / "copy")
    files = sorted(path for path in (copy / "checkpoints" / "9").rglob("*") if path.is_file())
    assert len(files) > 10
    for file in files:
        content = file.read_bytes()
        changed = DAMAGE[kind](content) if content else None
        file.unlink()
        if changed is not None:
            file.write_bytes(changed)
        step, arrays = restored(copy)
        assert step in (6, 9), file
        assert all(map(np.array_equal, arrays, (whole if step == 9 else older)[1])), file
        said = capsys.readouterr().err
        assert ("going on with checkpoint 6" in said and "checkpoint 9 in" in said) == (step == 6), (file, said)
        harmed += step == 6
        file.write_bytes(content)
    assert harmed >= 4  # Some files say nothing that is not said by others.
    assert restored(copy)[0] == 9


@pytest.mark.parametrize("left", [0, 1, 0.5, 1.0])
def test_a_save_cut_half_way_is_no_checkpoint(run, left, tmp_path, capsys):
    """Orbax writes into a folder of another name; whatever lies there when the process is killed does not count."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    part = (copy / "checkpoints" / "9").rename(copy / "checkpoints" / "9.orbax-checkpoint-tmp")
    files = sorted(path for path in part.rglob("*") if path.is_file())
    for path in files[left if isinstance(left, int) else round(left * len(files)) :]:
        path.unlink()
    assert restored(copy)[0] == 6
    rows = [row for row in read_metrics(run) if row["split"] == "train"]
    assert main(["--resume", "--runs", str(tmp_path), "--name", "copy"]) == 0
    assert "steps 7 to 9" in capsys.readouterr().out
    assert not part.exists()
    assert [row for row in read_metrics(copy) if row["split"] == "train"] == rows
    assert all(map(np.array_equal, restored(copy)[1], restored(run)[1]))


def test_where_none_is_whole_the_run_says_so(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").rglob("manifest.ocdbt"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"^checkpoint 9 in .* is damaged"):
        restored(tmp_path / "run")


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_a_resumed_run_passes_a_damaged_checkpoint_over(how, run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    for victim in [file for file in chunks(copy) if "model" in file.parts]:
        content = victim.read_bytes()
        victim.write_bytes(content[:-5] if how == "cut" else flipped(content, len(content) // 2))
    saved, save = [], Checkpoints.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", lambda *given: (save(*given), saved.append(given[1])))
        assert main(["--runs", str(tmp_path), "--name", "run", "--resume", "--save-every", "1"]) == 0
    said = capsys.readouterr().err
    assert "checkpoint 9 in" in said and "going on with checkpoint 6" in said
    assert saved == [7, 8, 9]
    assert [path.name.split("-")[0] for path in (copy / "damaged").iterdir()] == ["9"]
    assert restored(copy)[0] == 9
    assert all(map(np.array_equal, restored(copy)[1], restored(run)[1]))


def test_folders_that_are_no_checkpoints_are_left_alone(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "checkpoints" / "\u00b2").mkdir()  # A digit, to Python.
    assert restored(copy)[0] == 9


def test_a_checkpoint_of_another_step_is_damaged(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "checkpoints" / "9").rename(copy / "checkpoints" / "99")
    assert restored(copy)[0] == 6
    assert "checkpoint 99 in" in capsys.readouterr().err


def test_an_untouched_run_is_verified(run, capsys):
    assert verify.main([str(run)]) == 0
    # Those of nine steps and of the evaluations and checkpoints after two of them.
    assert "11 logged states" in capsys.readouterr().out


def test_a_run_made_in_parts_on_one_of_many_devices_goes_on_and_is_verified(tmp_path, monkeypatch, capsys):
    in_parts, sizes = parts.in_parts, []
    monkeypatch.setattr(parts, "PART_BYTES", 2**15)
    monkeypatch.setattr(
        parts, "in_parts", lambda apply, *rest: in_parts(lambda x: sizes.append(len(x)) or apply(x), *rest)
    )
    monkeypatch.setattr(feed, "AHEAD", 4)
    options = small("cnn", "--runs", tmp_path, "--name", "run", "--mesh", "data=1", "--log-every", 1)
    assert main(options) == 0
    assert 4 in sizes
    assert main(["--runs", str(tmp_path), "--name", "run", "--resume", "--steps", "14"]) == 0
    assert verify.main([str(tmp_path / "run")]) == 0
    assert "8 logged states" in capsys.readouterr().out


def test_a_run_that_was_made_longer_is_verified(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    assert main(["--runs", str(tmp_path), "--name", "copy", "--resume", "--steps", "14"]) == 0
    assert verify.main([str(copy)]) == 0
    assert re.search(r"1\d logged states", capsys.readouterr().out)
    for path in (copy / "checkpoints").iterdir():  # As if it had been killed before it saved again.
        if int(path.name) > 9:
            shutil.rmtree(path)
    shutil.copytree(run / "checkpoints" / "9", copy / "checkpoints" / "9", dirs_exist_ok=True)
    assert verify.main([str(copy)]) == 0
    assert "steps 9 to 14 repeated" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[" * 200_000, "{}", "[]", '{"made_with": []}', '{"made_with": [3]}'])
def test_a_damaged_history_is_named(content, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "history.json").write_text(content)
    with pytest.raises(UserError, match=r"history.json"):
        verify.main([str(copy)])


@pytest.mark.parametrize("item", ["model", "progress"])
def test_verifying_names_a_damaged_checkpoint(item, run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    for path in (copy / "checkpoints" / "9" / item).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-5])
    assert verify.main([str(copy)]) == 1
    assert re.search(r"step 9: checkpoint 9 in .* is damaged", capsys.readouterr().out)


def test_verifying_nothing_is_no_verification(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(UserError, match="--steps 0"):
        verify.main([str(copy), "--steps", "0"])
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:3]))
    assert verify.main([str(copy)]) == 1
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").mkdir()
    with pytest.raises(UserError, match="there is no checkpoint"):
        verify.main([str(copy)])


def tampered(run: Path, copy: Path, change: Any) -> None:
    """A copy of the run in which the state at step 9 was changed and saved as if it were the run's own."""
    shutil.copytree(run, copy)
    state = blank(read_config(run).task)
    with Checkpoints(copy) as checkpoints:
        state, progress = checkpoints.restore(state, 9)
    shutil.rmtree(copy / "checkpoints" / "9")
    with Checkpoints(copy) as checkpoints:
        changed = change(state)
        checkpoints.save(9, changed, hashes_of(*split_state(changed)), progress, None)


def test_a_tampered_checkpoint_is_found(run, tmp_path, capsys):
    def change(state: Any) -> Any:
        player = state.players["net"]
        params = dict(player.params)
        name = sorted(params)[0]
        params[name] = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].add(1e-3), params[name])
        return state.replace(players={"net": player.replace(params=params)})

    tampered(run, tmp_path / "run", change)
    assert verify.main([str(tmp_path / "run")]) == 1
    said = capsys.readouterr().out
    assert "step 9: the checkpoint's state is " in said
    assert re.search(r"step 9: model/net/params/\S+ and \d+ more arrays differ from the checkpoint's", said)
