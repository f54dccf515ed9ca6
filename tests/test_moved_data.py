"""A run is not tied to a path or to files that never change: its data are known by their content."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import small
from PIL import Image

from jaxrec.cli import evaluate, train, verify
from jaxrec.errors import UserError

pytestmark = pytest.mark.usefixtures("as_users_run_it", "own_cache")

LEVELS = {"bars": 40, "disc": 120, "rows": 210}


def fill(root: Path, names, numbers, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            pixels = (LEVELS.get(name, 90) + rng.integers(0, 30, (8, 8))).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data/ and runs/a, which was trained on it by a relative path."""
    root = tmp_path_factory.mktemp("project")
    fill(root / "data", LEVELS, range(10), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        options = ("--dataset", "folder:data", "--batch-size", 8, "--steps", 2, "--eval-every", 2)
        assert train.main(small("cnn", "--runs", "runs", "--name", "a", *options)) == 0
    return root


@pytest.fixture
def project(trained, tmp_path):
    """A copy of it, elsewhere: the data of the original are not touched."""
    return Path(shutil.copytree(trained, tmp_path / "project"))


@pytest.fixture
def evaluated(capsys):
    """The figures of a run and what was said beside them."""

    def run(*arguments: object) -> tuple[dict, str]:
        capsys.readouterr()
        evaluate.main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return json.loads(out), err

    return run


def listed(run: Path) -> list[dict[str, str]]:
    with (run / "examples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_examples_are_listed(trained):
    rows = listed(trained / "runs" / "a")
    manifest = json.loads((trained / "runs" / "a" / "manifest.json").read_text())["dataset"]
    assert {row["path"] for row in rows} == {f"{name}/{number}.png" for name in LEVELS for number in range(10)}
    for role in ("train", "validation", "test"):
        assert sum(row["used_as"] == role for row in rows) == manifest[role]
    assert all(row["path"].split("/")[0] == row["class"] for row in rows)
    assert all((row["split"] == "test") == (row["used_as"] == "test") for row in rows)


def test_other_directories_and_moved_folders(trained, project, evaluated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = json.loads((trained / "runs" / "a" / "results.json").read_text())
    assert evaluated(trained / "runs" / "a")[0] == known
    moved = (project / "data").rename(project / "photos")
    found, said = evaluated(project / "runs" / "a", "--dataset", f"folder:{moved}")
    assert found == known and "changed" not in said
    assert verify.main([str(project / "runs" / "a"), "--dataset", f"folder:{moved}"]) == 0


def test_changed_files_are_named_and_every_file_keeps_its_split(project, evaluated):
    run, data = project / "runs" / "a", project / "data"
    paths = {role: [row["path"] for row in listed(run) if row["used_as"] == role] for role in ("train", "test")}
    (data / paths["train"][0]).unlink()
    (data / paths["test"][0]).unlink()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(data / paths["train"][1])
    fill(data, ["disc"], [77], 5)
    found, said = evaluated(run, "--dataset", f"folder:{data}")
    assert found["examples"] == len(paths["test"]) - 1 + 1
    for path in (paths["train"][0], paths["test"][0], paths["train"][1], "disc/77.png"):
        assert path in said
    assert "trained on, so" not in said


def test_another_set_of_the_same_classes(project, evaluated, tmp_path):
    run = project / "runs" / "a"
    new = fill(tmp_path / "new" / "test", ["rows", "disc"], range(4), 7).parent
    found, said = evaluated(run, "--dataset", f"folder:{new}", "--split", "test")
    assert found["examples"] == 8 and found["support"] == [0, 4, 4]
    assert "none of its 8 files" in said
    flat = fill(tmp_path / "flat", ["rows", "disc"], range(4), 8)
    assert evaluated(run, "--dataset", f"folder:{flat}")[0]["examples"] == 8
    row = next(row for row in listed(run) if row["used_as"] == "train" and row["class"] == "rows")
    shutil.copy(project / "data" / row["path"], new / "test" / "rows" / "seen.png")
    assert "1 of the 9 examples was trained on" in evaluated(run, "--dataset", f"folder:{new}")[1]
    seen = tmp_path / "seen"
    for name in ("rows", "disc"):
        (seen / name).mkdir(parents=True)
        row = next(row for row in listed(run) if row["split"] == "train" and row["class"] == name)
        shutil.copy(project / "data" / row["path"], seen / name)
    with pytest.raises(UserError, match=r"all 2 images .*--split train"):
        evaluate.main([str(run), "--dataset", f"folder:{seen}"])
    assert evaluated(run, "--dataset", f"folder:{seen}", "--split", "train")[0]["examples"] == 2
    fill(new / "test", ["emu"], range(2), 9)
    with pytest.raises(UserError, match="'emu'"):
        evaluated(run, "--dataset", f"folder:{new}")


def test_a_run_goes_on_without_a_bad_file(project, capsys):
    run = project / "runs" / "a"
    bad = next(row["path"] for row in listed(run) if row["used_as"] == "test")
    (project / "data" / bad).write_bytes(b"")
    options = ["--resume", "--name", "a", "--runs", str(run.parent), "--dataset", f"folder:{project / 'data'}"]
    options += ["--steps", "3", "--no-tune-allocator"]
    with pytest.raises(UserError, match="--skip-bad"):
        train.main(options)
    before = {row["path"]: row["used_as"] for row in listed(run)}
    assert train.main([*options, "--skip-bad"]) == 0
    said = capsys.readouterr().out
    assert bad in said and "1 file left out" in said
    assert {row["path"]: row["used_as"] for row in listed(run)} == {p: r for p, r in before.items() if p != bad}
    assert (run / "report.html").exists() and bad in (run / "skipped.csv").read_text()


def test_a_folder_that_is_not_there_any_more(project):
    run = project / "runs" / "a"
    config = json.loads((run / "config.json").read_text())
    for kind in ("folder", "csv"):
        (run / "config.json").write_text(json.dumps({**config, "dataset": f"{kind}:/nowhere"}))
        for command in (evaluate, verify):
            with pytest.raises(UserError, match=f"--dataset {kind}:PATH"):
                command.main([str(run)])


def test_copies_keep_the_splits_that_they_were_dealt(tmp_path, evaluated, capsys):
    """Files of one content have different parts, and so have large ones that are alike for long stretches."""
    data = fill(tmp_path / "data", ["rows", "disc"], range(8), 3)
    for name in ("rows", "disc"):
        for number in range(8):
            shutil.copy(data / name / f"{number}.png", data / name / f"copy-{number}.png")
            bordered = np.zeros((300, 300, 3), np.uint8)
            bordered[140:160] = LEVELS[name] + number
            Image.fromarray(bordered).save(data / name / f"bordered-{number}.bmp")
    options = ("--dataset", f"folder:{data}", "--image-size", 8, "--batch-size", 8, "--eval-every", 2)
    assert train.main(small("cnn", "--runs", tmp_path, "--name", "a", "--steps", 2, *options)) == 0
    said, rows = capsys.readouterr().out, listed(tmp_path / "a")
    digests = {role: [row["digest"] for row in rows if row["used_as"] == role] for role in ("train", "test")}
    copies = sum(digest in digests["train"] for digest in digests["test"])
    assert copies and f"{copies} of the {len(digests['test'])} test examples" in said
    assert len({row["digest"] for row in rows if row["path"].endswith("bmp")}) == 16

    found, said = evaluated(tmp_path / "a")
    assert found == json.loads((tmp_path / "a" / "results.json").read_text())
    assert f"{copies} of the {len(digests['test'])} examples were trained on" in said
    (data / "rows" / "0.png").rename(data / "rows" / "renamed.png")
    before = {row["path"]: row["used_as"] for row in rows}
    assert train.main(["--resume", "--name", "a", "--runs", str(tmp_path), "--steps", "4"]) == 0
    after = {row["path"]: row["used_as"] for row in listed(tmp_path / "a")}
    del before["rows/0.png"], after["rows/renamed.png"]
    assert after == before


def test_a_damaged_file_of_a_run_is_named_before_it_goes_on(project):
    run = project / "runs" / "a"
    (run / "results.json").write_text("{")
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    with pytest.raises(UserError, match=r"results\.json"):
        train.main(["--resume", "--name", "a", "--runs", str(run.parent), "--steps", "4", "--no-tune-allocator"])
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before
