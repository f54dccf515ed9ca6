"""Every mistake is answered with one sentence and exit code 2, and leaves nothing half-written."""

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small
from PIL import Image

from jaxrec.cli import evaluate, generate, predict, show, train
from jaxrec.cli.arguments import run_command
from jaxrec.run import loop
from jaxrec.run.show.report import write_report
from jaxrec.run.store.checkpoints import Checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]


@pytest.fixture
def sentence(monkeypatch, capsys):
    """Runs a command that must end with one sentence and exit code 2, and returns the sentence."""

    def run(command, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as end:
                run_command(command.main)
        finally:
            logging.disable(logging.NOTSET)
        err = capsys.readouterr().err
        assert end.value.code == 2, err
        assert err.startswith("jaxrec: ")
        assert err.count("\n") == 1
        return err.removeprefix("jaxrec: ").strip()

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--stps 5", "there is no option '--stps' here; did you mean '--steps'?"),
        ("--model cnm", "there is no model 'cnm'; did you mean 'cnn'?"),
        ("--model zebra", "there is no model 'zebra'; the models are cnn, "),
        ("--model", "--model is given without a value"),
        ("--model gan --label-smoothing .1", "there is no option '--label-smoothing' here"),
        ("--optimizer.name adm", "invalid choice 'adm' for argument '--optimizer.name'"),
        ("--optimizer.name adm", "did you mean 'adam'?"),
        ("--batch-size many", "error parsing --batch-size"),
        ("cnn", "unrecognized options: cnn"),
        ("--steps 0", "--steps 0 is out of range; expected 1 or more"),
        ("--steps -5", "--steps -5 is out of range"),
        ("--epochs 0", "--epochs 0.0 is out of range; expected a number above 0"),
        ("--steps 5 --epochs 2", "got --steps 5 and --epochs 2.0; give one of them"),
        ("--batch-size 0", "--batch-size 0 is out of range"),
        ("--log-every 0", "--log-every 0 is out of range"),
        ("--eval-every 0", "--eval-every 0 is out of range"),
        ("--save-every -1", "--save-every -1 is out of range"),
        ("--validation 1", "--validation 1.0 is out of range; expected 0 or more, and less than 1"),
        ("--validation -.1", "--validation -0.1 is out of range"),
        ("--patience -1", "--patience -1 is out of range; expected 0 or more"),
        ("--seed -1", "--seed -1 is out of range; expected 0 to 4294967295"),
        ("--seed 4294967296", "--seed 4294967296 is out of range"),
        ("--optimizer.lr 0", "--optimizer.lr 0.0 is out of range; expected a number above 0"),
        ("--optimizer.lr nan", "--optimizer.lr nan is out of range"),
        ("--optimizer.weight-decay -1", "--optimizer.weight-decay -1.0 is out of range"),
        ("--width -2", "--width -2.0 is out of range"),
        ("--width 1e30", "--width 1e+30 is out of range; expected above 0, and at most 65536"),
        ("--model autoencoder --code 9007199254740992", "is out of range; expected 1 to 65536"),
        ("--dropout 1", "--dropout 1.0 is out of range"),
        ("--augment.crop -1", "--augment.crop -1 is out of range"),
        ("--augment.scale 1", "--augment.scale 1.0 is out of range"),
        ("--augment.magnitude 50", "--augment.magnitude 50.0 is out of range; expected 0 to 10"),
        ("--model vae --noise .5", "a vae takes no noise; got 0.5"),
        ("--patience 3 --validation 0", "--patience decides on the validation split"),
        ("--model gan --patience 3", "--patience needs a figure to watch"),
        ("--model autoencoder --architecture unet", "architecture 'unet' passes its input around the code"),
        ("--dataset mnst", "dataset 'mnst' is not prepared in "),
        ("--dataset mnst", "`python scripts/prepare_dataset.py mnst --data-dir "),
        ("--dataset digts", "did you mean 'digits'?"),
        ("--test-split tets", "dataset 'digits' has no split 'tets', only t"),
        ("--train-split train[:0]", "--train-split train[:0] of dataset 'digits' holds no examples"),
        ("--batch-size 2000", "batch size 2000 is larger than the training split of 1293 examples"),
        ("--batch-size 100", "batch size 100 cannot be shared by 8 devices; choose a multiple of 8"),
        ("--accumulate 3", "a batch of 128 cannot be accumulated in 3 equal parts"),
        ("--name a/b", "--name 'a/b' is not a folder's name"),
        ("--resume", "--resume goes on with the run that --name names"),
        ("--resume --name missing", "there is no run folder"),
        ("--experiment", "--experiment is given without a value"),
        ("--experiment missing.py", "there is no experiment file 'missing.py'"),
    ],
)
def test_mistakes_found_before_training(sentence, tmp_path, monkeypatch, arguments, said):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "runs").mkdir()
    assert said in sentence(train, "--runs", tmp_path / "runs", *arguments.split())
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "sets no config; expected a line config = "),
        ("config = 3", "sets no config"),
        ("config = (", "fails with SyntaxError"),
        ("import nothing_of_the_kind", "fails with ModuleNotFoundError (No module named 'nothing_of_the_kind')"),
        ("from jaxrec.settings import Train\nconfig = Train(stps=3)", "fails with TypeError"),
        ("from jaxrec.settings import Train\nconfig = Train(steps=-3)", "--steps -3 is out of range"),
    ],
)
def test_experiments_that_cannot_be_read(sentence, tmp_path, source, said):
    (tmp_path / "x.py").write_text(source)
    assert said in sentence(train, "--experiment", tmp_path / "x.py", "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def images(folder: Path, *names: str, mode: str = "RGB") -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
    return folder


def truncated(path: Path) -> Path:
    images(path.parent, path.name)
    path.write_bytes(path.read_bytes()[:-60])
    return path


def corrupt(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"not an image" * 9)
    return path


def photograph(path: Path) -> None:
    Image.new("RGB", (1200, 900)).save(path)


SOME = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(10)]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.mkdir(), "holds no class folders"),
        (lambda root: (root / "cat").mkdir(parents=True), "holds no images"),
        (lambda root: images(root, "cat/0.png", "cat/1.png"), "holds one class only, 'cat'"),
        (lambda root: corrupt(images(root, *SOME) / "dog" / "x.png"), "dog/x.png is not a readable image"),
        (lambda root: truncated(images(root, *SOME) / "cat" / "x.png"), "cat/x.png is not a readable image"),
        (lambda root: truncated(images(root, *SOME) / "cat" / "x.png"), "leave out all such files with --skip-bad"),
        (lambda root: photograph(images(root, *SOME) / "cat" / "0.png"), "all images would be given that size"),
    ],
)
def test_folders_that_are_no_sets(sentence, tmp_path, build, said):
    build(tmp_path / "set")
    assert said in sentence(train, "--dataset", f"folder:{tmp_path / 'set'}", "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_bad_images_are_left_out_and_counted_and_grey_ones_converted(sentence, tmp_path, capsys):
    folder = images(tmp_path / "set", *SOME)
    corrupt(folder / "cat" / "bad.png")
    truncated(folder / "dog" / "bad.png")
    options = ("--dataset", f"folder:{folder}", "--skip-bad", "--batch-size", 8, "--steps", 1, "--name", "colour")
    assert train.main(small("cnn", "--runs", tmp_path, *options)) == 0
    assert "2 unreadable images left out" in capsys.readouterr().out
    run = tmp_path / "colour"
    assert json.loads((run / "manifest.json").read_text())["dataset"]["skipped"] == 2

    images(tmp_path / "in", "grey.png", mode="L")
    shutil.copy(folder / "cat" / "bad.png", tmp_path / "in")
    said = sentence(predict, run, tmp_path / "in")
    assert f"{tmp_path / 'in' / 'bad.png'} is not a readable image" in said
    assert "--skip-bad" in said
    assert not (run / "predictions").exists()
    predict.main([str(run), str(tmp_path / "in"), "--skip-bad"])
    assert "1 unreadable images left out" in capsys.readouterr().out
    (row,) = map(json.loads, (run / "predictions" / "predictions.jsonl").read_text().splitlines())
    assert row["path"].endswith("grey.png")
    assert row["prediction"] in ("cat", "dog")
    assert "none of the 1 image files can be read" in sentence(predict, run, tmp_path / "in" / "bad.png", "--skip-bad")


def test_a_last_step_that_spoils_the_parameters_is_no_success(sentence, tmp_path):
    arguments = ["--optimizer.name", "sgd", "--optimizer.lr", 3e38, "--optimizer.warmup", 0, "--validation", 0]
    told = sentence(train, *small("cnn", "--runs", tmp_path, "--name", "wild", "--steps", 1, *arguments))
    assert "the loss on the test split is not finite; no good checkpoint had been saved" in told
    assert not (tmp_path / "wild" / "results.json").exists()


def test_tensorboard_that_is_not_installed(sentence, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'jaxrec[tensorboard]'" in sentence(train, "--tensorboard", "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(conv1", "is no regular expression"),
        ("^conv_1", "is found in no parameter's name; the names are conv1/kernel"),
    ],
)
def test_rules_that_match_nothing(sentence, tmp_path, pattern, said):
    lines = "from jaxrec.settings import Classifier, Optimizer, Rule, Train"
    optimizer = f"Optimizer(rules=(Rule({pattern!r}, freeze=True),))"
    (tmp_path / "x.py").write_text(f"{lines}\nconfig = Train(task=Classifier(optimizer={optimizer}))")
    assert said in sentence(train, "--experiment", tmp_path / "x.py", "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_data_set_that_has_changed_since(sentence, tmp_path, capsys):
    folder = images(tmp_path / "set", *SOME)
    options = ("--dataset", f"folder:{folder}", "--batch-size", 8, "--steps", 1, "--name", "a")
    assert train.main(small("autoencoder", "--runs", tmp_path, *options)) == 0
    evaluate.main([str(tmp_path / "a")])
    images(folder, *(f"ant/{number}.png" for number in range(10)))
    said = f"dataset 'folder:{folder}' is not what the run was trained on"
    for command in (evaluate, generate):
        assert said in sentence(command, tmp_path / "a")
    resume = ("--resume", "--name", "a", "--runs", tmp_path, "--steps", 2)
    assert "classes = 2, now it is 3" in sentence(train, *resume)
    shutil.rmtree(folder / "ant")
    evaluate.main([str(tmp_path / "a")])
    # Turned upside down, the images of a class have the mean that they had.
    for photo in (folder / "cat").iterdir():
        Image.open(photo).rotate(180).save(photo)
    assert said in sentence(train, *resume)


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of a trained run, to be damaged."""
    return lambda model: Path(shutil.copytree(trained(model), tmp_path / "copies" / model))


def test_run_folders_that_are_none(sentence, trained, tmp_path):
    run = trained("autoencoder")
    (tmp_path / "empty").mkdir()
    for command in (evaluate, generate, show):
        near = sentence(command, run.parent / "autoencodr")
        assert "there is no run folder" in near
        assert "did you mean 'autoencoder'?" in near
        assert "it has no config.json" in sentence(command, tmp_path / "empty")
    assert "it has no config.json" in sentence(predict, tmp_path / "empty", images(tmp_path / "in", "a.png"))
    assert "it has no config.json" in sentence(train, "--resume", "--name", "empty", "--runs", tmp_path)
    assert "is there already; go on with it by --resume" in sentence(train, "--name", "empty", "--runs", tmp_path)
    assert not list((tmp_path / "empty").iterdir())


def test_damaged_runs(sentence, copied):
    run = copied("autoencoder")
    shutil.rmtree(run / "checkpoints" / "6" / "model")
    assert "damaged" in sentence(evaluate, run)
    assert "damaged" in sentence(show, run)
    shutil.rmtree(run / "checkpoints")
    for command in (evaluate, show):
        assert "has no checkpoint yet" in sentence(command, run)
    (run / "manifest.json").unlink()
    assert "manifest.json' is missing or damaged" in sentence(evaluate, run)
    (run / "config.json").write_text((run / "config.json").read_text()[:-50])
    assert "config.json' is missing or damaged" in sentence(evaluate, run)
    (run / "config.json").write_text('{"format": 2, "task": {"system": "autoencoder", "colour": 3}}')
    assert "hold Autoencoder 'colour', which this version of jaxrec does not know" in sentence(show, run)


@pytest.mark.parametrize("zeros", [np.zeros, jnp.zeros])
def test_what_fits_into_no_memory(sentence, zeros):
    said = sentence(SimpleNamespace(main=lambda _: zeros((2**45,), np.float32)))
    assert said.startswith("the memory does not suffice") and "--batch-size" in said


def test_a_run_that_no_memory_holds_leaves_no_folder(sentence, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")

    monkeypatch.setattr(loop.Trainer, "_steps", full)
    assert "Out of memory allocating 7 bytes" in sentence(train, *small("cnn", "--runs", tmp_path, "--name", "a"))
    assert not list(tmp_path.iterdir())


def test_damaged_metadata(sentence, copied):
    run = copied("autoencoder")
    shutil.rmtree(run / "sums")
    path = run / "checkpoints" / "6" / "model" / "_METADATA"
    text = path.read_text()
    for content in (text.replace("tree_metadata", "tree_netadata"), "[]", "", text[:50]):
        path.write_text(content)
        for command in (show, evaluate):
            assert "is damaged (its metadata cannot be read)" in sentence(command, run)
    path.unlink()
    os.mkfifo(path)
    for command in (show, evaluate):
        assert "is damaged (its metadata cannot be read)" in sentence(command, run)


def test_the_only_checkpoint_while_it_is_written_anew(sentence, copied):
    run = copied("autoencoder")
    (run / "checkpoints").rename(run / "replaced")
    (run / "checkpoints").mkdir()
    assert "go on with it by --resume" in sentence(evaluate, run)


def test_a_checkpoint_of_another_model(sentence, copied, trained, tmp_path):
    run = copied("autoencoder")
    config = json.loads((run / "config.json").read_text())
    config["task"]["code"] = 7
    (run / "config.json").write_text(json.dumps(config))
    said = "is of another model: its net/"
    for arguments in ((evaluate, run), (train, "--resume", "--name", "autoencoder", "--runs", run.parent)):
        assert said in sentence(*arguments)
    config["task"]["width"] = 2**16  # More than any memory holds.
    (run / "config.json").write_text(json.dumps(config))
    assert said in sentence(evaluate, run)
    run = copied("cnn")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(trained("autoencoder") / "checkpoints", run / "checkpoints")
    assert "is not what was saved), and so is every other" in sentence(evaluate, run)
    shutil.rmtree(run / "sums")
    shutil.copytree(trained("autoencoder") / "sums", run / "sums")
    assert "is of another model: its net/" in sentence(evaluate, run)
    assert "is of another model: its net/" in sentence(predict, run, images(tmp_path / "in", "a.png"))


def test_a_run_is_resumed_with_its_own_settings(sentence, trained):
    run = trained("autoencoder")
    before = (run / "config.json").read_text()
    resume = ("--resume", "--name", run.name, "--runs", run.parent)
    said = sentence(train, *resume, "--optimizer.lr", 1)
    assert "this run was made with optimizer.lr = " in said
    assert "seed = 0, now it is 5" in sentence(train, *resume, "--seed", 5)
    assert "dataset = digits, now it is synthetic" in sentence(train, *resume, "--dataset", "synthetic")
    assert "has made 6 steps already" in sentence(train, *resume, "--steps", 2)
    assert (run / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no images were named"),
        (("missing.png",), "there is no image or folder 'missing.png'"),
        (("EMPTY",), "holds no images"),
    ],
)
def test_images_that_are_not_there(sentence, trained, tmp_path, arguments, said):
    (tmp_path / "EMPTY").mkdir()
    with contextlib.chdir(tmp_path):
        assert said in sentence(predict, trained("cnn"), *arguments).lower().replace("'empty'", "")


def test_options_of_the_other_commands(sentence, trained):
    run = trained("autoencoder")
    assert "did you mean '--json'?" in sentence(evaluate, run, "--jsn")
    assert "no split 'tets'" in sentence(evaluate, run, "--split", "tets")
    assert "--count 0 draws nothing" in sentence(generate, run, "--count", 0)
    assert "there is no option '--leavs' here; did you mean '--leaves'?" in sentence(show, run, "--leavs")


def test_places_that_cannot_be_written(sentence, trained, tmp_path):
    place = "/dev/null/x"
    assert "cannot be made (Not a directory)" in sentence(train, "--runs", place)
    picture = images(tmp_path, "a.png") / "a.png"
    for arguments in ((predict, trained("cnn"), picture), (generate, trained("autoencoder"))):
        assert f"'{place}' cannot be written (Not a directory)" in sentence(*arguments, "--out", place)


Usage = namedtuple("Usage", "total used free")


def test_no_room_for_a_first_checkpoint(sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2**15))
    assert "has room for 0.0 MiB" in sentence(train, *small("autoencoder", "--runs", tmp_path / "runs"))
    assert not list((tmp_path / "runs").iterdir())


def test_no_room_for_a_later_checkpoint(sentence, tmp_path, monkeypatch):
    room = iter([2**30] * 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, next(room, 0)))
    said = sentence(train, *small("autoencoder", "--runs", tmp_path, "--name", "full", "--save-every", 3))
    assert "a checkpoint needs" in said
    with Checkpoints(tmp_path / "full", read_only=True) as checkpoints:
        assert checkpoints.steps() == [3]
    monkeypatch.undo()
    with jax.numpy_dtype_promotion("standard"):
        assert train.main(["--resume", "--name", "full", "--runs", str(tmp_path)]) == 0


def test_a_disk_that_fills_up_in_the_end(sentence, copied, monkeypatch):
    run = copied("autoencoder")

    def report(run: Path) -> Path:
        (run / "report.html.part").symlink_to("/dev/full")
        return write_report(run)

    monkeypatch.setattr(loop, "write_report", report)
    said = sentence(train, "--resume", "--name", run.name, "--runs", run.parent)
    assert "failed (No space left on device)" in said
    assert f"then go on with --name autoencoder --runs {run.parent} --resume" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "the loss is not finite at step 2; no good checkpoint had been saved"),
        (("--eval-every", 1), "the loss on the validation split is not finite at step 1; no good checkpoint"),
        (("--validation", 0, "--log-every", 1), "the loss is not finite at step 2; no good checkpoint"),
    ],
)
def test_a_loss_that_is_not_finite(sentence, tmp_path, options, said):
    arguments = ["--optimizer.name", "sgd", "--optimizer.lr", 1e30, "--optimizer.schedule", "constant", *options]
    told = sentence(train, *small("cnn", "--runs", tmp_path, "--name", "wild", *arguments))
    assert said in told
    assert "lower --optimizer.lr" in told
    assert not (tmp_path / "wild").exists(), "a run without a checkpoint cannot go on"


def test_the_last_good_checkpoint_is_named(sentence, tmp_path):
    arguments = ["--optimizer.name", "sgd", "--optimizer.schedule", "constant", "--optimizer.lr", 300]
    arguments += ["--steps", 60, "--eval-every", 1, "--log-every", 1]
    said = sentence(train, *small("autoencoder", "--runs", tmp_path, "--name", "wild", *arguments))
    found = re.search(r"not finite at step (\d+); the last good checkpoint is of step (\d+): lower", said)
    assert found, said
    failed, good = map(int, found.groups())
    assert 0 < good < failed
    with Checkpoints(tmp_path / "wild", read_only=True) as checkpoints:
        assert good in checkpoints.steps()


@pytest.mark.parametrize("place", ["metrics.jsonl", "config.json.part", "pictures", "checkpoints", "sums/9.json"])
def test_nothing_is_written_through_a_link_out_of_the_folder(sentence, copied, tmp_path, place):
    run, outside = copied("vae"), tmp_path / "outside"
    outside.mkdir()
    path = run / place
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(outside if "." not in place else outside / "new")
    resume = sentence(train, "--resume", "--name", run.name, "--runs", run.parent, "--steps", 9)
    assert f"'{path}' is a link out of the run's folder" in resume
    if place != "checkpoints":
        assert "is a link out of the run's folder" in sentence(generate, run)
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda dataset: dataset.pop("image_shape"),
        lambda dataset: dataset.update(image_shape=[8, 8]),
        lambda dataset: dataset.update(image_shape=[8, 8, -1]),
        lambda dataset: dataset.update(image_shape=[8, 8, 1e9]),
        lambda dataset: dataset.update(class_names="0123456789"),
        lambda dataset: dataset.update(class_names=[1, 2]),
        lambda dataset: dataset.update(class_names=["0"]),
        lambda dataset: dataset.update(fingerprint=None),
        dict.clear,
    ],
)
def test_a_manifest_that_describes_no_data(sentence, copied, change):
    run = copied("vae")
    manifest = json.loads((run / "manifest.json").read_text())
    change(manifest["dataset"])
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert re.search("manifest.json' (is damaged|names 1 classes)", sentence(generate, run))


def test_names_of_classes_stay_names_in_files(copied, tmp_path):
    run = copied("gan")
    manifest = json.loads((run / "manifest.json").read_text())
    names = ["../../up", "/etc/x", "a\0b", "<b>", "x" * 300, "..", "", "\u202egnp", "a\nb", "~"]
    manifest["dataset"]["class_names"] = names
    (run / "manifest.json").write_text(json.dumps(manifest))
    generate.main([str(run), "--count", "10", "--separate", "--out", str(tmp_path / "out")])
    assert len(list((tmp_path / "out").iterdir())) == 11
    assert not list(tmp_path.glob("up*"))


def test_names_of_files_stay_names_in_tables(copied, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    folder = images(tmp_path / "a\\[", "b.png", "red].png")
    (folder / "b.png").rename(folder / os.fsdecode(b"\xff.png"))
    (copied("cnn") / "checkpoints" / "\u00b2").mkdir()  # A digit, to Python.
    show.main([str(tmp_path / "copies" / "cnn")])
    predict.main([str(tmp_path / "copies" / "cnn"), str(folder), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "a\\[/\\udcff.png" in said and "a\\[/red].png" in said
    assert b"\xff.png" in (tmp_path / "out" / "predictions.csv").read_bytes()


@pytest.mark.slow
def test_reading_a_strangers_run_unpickles_nothing(trained, tmp_path):
    """Every command that reads: settings, manifest, metrics, checkpoint, images."""
    code = """
import sys
from jaxrec.cli import evaluate, show, predict
from jaxrec.run.show.report import write_report
from pathlib import Path
def watch(event, arguments):
    if event == "pickle.find_class":
        print("UNPICKLED", *arguments)
sys.addaudithook(watch)
run, image = sys.argv[1:]
evaluate.main([run])
show.main([run])
predict.main([run, image, "--out", run + "-out"])
write_report(Path(run))
print("read all")
"""
    arguments = [shutil.copytree(trained("cnn"), tmp_path / "run"), images(tmp_path / "in", "a.png")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "read all" in done.stdout and "UNPICKLED" not in done.stdout
