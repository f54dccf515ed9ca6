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

from jaxrec.cli import evaluate, generate, predict, show, train, verify
from jaxrec.cli.running import run_command
from jaxrec.cli.training_arguments import read_arguments
from jaxrec.data import cache_dir
from jaxrec.errors import UserError
from jaxrec.run import ending, session
from jaxrec.run.feed import Resident
from jaxrec.run.show.predicted import free_label
from jaxrec.run.show.report import write_report
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.store.folder import create
from jaxrec.run.world import devices, hardware
from jaxrec.run.world.devices import Devices
from jaxrec.settings import Classifier, Optimizer, Rule, Train, from_dict, to_dict
from jaxrec.settings.ranges import check_numbers

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


def test_what_cannot_be_put_together_is_refused_before_a_run_has_a_folder(sentence, monkeypatch, tmp_path):
    def refuse(config):
        raise AssertionError("a folder was made")

    monkeypatch.setattr(session.folder, "create", refuse)
    for model, option in (("video", "mosaic"), ("translator", "mosaic"), ("cnn", "paste")):
        assert option in sentence(train, "--model", model, f"--augment.{option}", 1, "--runs", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--stps 5", ["'--stps'", "'--steps'"]),
        ("--lr 3", ["'--lr'", "'--optimizer.lr'"]),
        ("--experimnt x.py", ["'--experimnt'", "'--experiment'"]),
        ("--no-skip-bads", ["'--no-skip-bads'", "'--no-skip-bad'"]),
        ("--classes 3", ["'--classes'"]),
        ("--model cnm", ["'cnm'", "'cnn'"]),
        ("--model zebra", ["'zebra'", "resnet18", "gan"]),
        ("--model", ["--model"]),
        ("--steps", ["--steps"]),
        ("--augment.flip --seed 3", ["--augment.flip"]),
        ("--model gan --label-smoothing .1", ["'--label-smoothing'"]),
        ("--optimizer.name adm", ["--optimizer.name", "'adm'", "'adam'"]),
        ("--optimizer.name lbfgs", ["--optimizer.name", "'lbfgs'"]),
        ("--optimizer.schedule=csine", ["--optimizer.schedule", "'csine'", "'cosine'"]),
        ("--model gan --diffaugment color shift", ["--diffaugment", "'shift'"]),
        ("--batch-size many", ["--batch-size", "'many'"]),
        ("cnn", ["cnn"]),
        ("--steps 0", ["--steps 0", "1 or more"]),
        ("--steps -5", ["--steps -5"]),
        ("--epochs 0", ["--epochs 0.0", "above 0"]),
        ("--steps 5 --epochs 2", ["--steps 5", "--epochs 2.0"]),
        ("--batch-size 0", ["--batch-size 0"]),
        ("--log-every 0", ["--log-every 0"]),
        ("--eval-every 0", ["--eval-every 0"]),
        ("--save-every -1", ["--save-every -1"]),
        ("--fuse-steps 0", ["--fuse-steps 0"]),
        ("--fuse-steps atuo", ["--fuse-steps", "'atuo'"]),
        ("--validation 1", ["--validation 1.0", "0 or more", "less than 1"]),
        ("--validation -.1", ["--validation -0.1"]),
        ("--patience -1", ["--patience -1", "0 or more"]),
        ("--seed -1", ["--seed -1", "0 to 4294967295"]),
        ("--seed 4294967296", ["--seed 4294967296"]),
        ("--seed 4294967295 --seeds 2", ["--seed 4294967295", "--seeds 2"]),
        ("--optimizer.lr 0", ["--optimizer.lr 0.0", "above 0"]),
        ("--optimizer.lr nan", ["--optimizer.lr nan"]),
        ("--optimizer.weight-decay -1", ["--optimizer.weight-decay -1.0"]),
        ("--width -2", ["--width -2.0"]),
        ("--width 1e30", ["--width 1e+30", "above 0", "at most 65536"]),
        ("--model autoencoder --code 9007199254740992", ["--code", "1 to 65536"]),
        ("--patience 9007199254740993", ["--patience", "at most 2**53"]),
        ("--dropout 1", ["--dropout 1.0"]),
        ("--augment.crop -1", ["--augment.crop -1"]),
        ("--augment.scale 1", ["--augment.scale 1.0"]),
        ("--augment.magnitude 50", ["--augment.magnitude 50.0", "0 to 10"]),
        ("--model vae --noise .5", ["vae", "noise", "0.5"]),
        ("--model autoencoder --sampler balanced", ["--sampler", "'image'"]),
        ("--class-weights sqrt-inverse", ["--class-weights", "sqrt", "effective"]),
        ("--patience 3 --validation 0", ["--patience", "validation"]),
        ("--model autoencoder --architecture unet", ["architecture", "'unet'"]),
        ("--dataset mnst", ["'mnst'", "jaxrec prepare mnst --data-dir "]),
        ("--dataset digts", ["'digts'", "'digits'"]),
        ("--test-split tets", ["'digits'", "'tets'"]),
        ("--train-split train[:0]", ["train[:0]", "'digits'"]),
        ("--batch-size 2000", ["batch", "2000", "1293"]),
        ("--batch-size 100", ["batch", "100", "8 devices"]),
        ("--accumulate 3", ["128", "3"]),
        ("--name a/b", ["--name", "'a/b'"]),
        ("--model resunet --stem 3", ["--stem", "'3'", "2, 4"]),
        ("--model glimpse --updates 3", ["--updates", "--policy reinforce"]),
        ("--model agent --learning actor-critic --priority .6", ["--priority", "--learning actor-critic"]),
        ("--model translator --pairs negative --unpaired --pixel 1", ["--pixel", "--unpaired"]),
        ("--model translator --cycle 1", ["--cycle", "--unpaired"]),
        ("--resume", ["--resume", "--name"]),
        ("--resume --name missing", ["missing"]),
        ("--resume auto", ["--resume", "--name"]),
        ("--require gpu", ["--require gpu", "cpu"]),
        ("--require gpus", ["--require", "'gpus'", "'gpu'"]),
        ("--resume first", ["--resume", "'first'", "auto"]),
        ("--experiment", ["--experiment"]),
        ("--experiment missing.py", ["--experiment", "'missing.py'"]),
        ("--system", ["--system"]),
        ("--system missing.py", ["--system", "'missing.py'"]),
    ],
)
def test_mistakes_found_before_training(sentence, tmp_path, monkeypatch, arguments, named):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "runs").mkdir()
    said = sentence(train, "--runs", tmp_path / "runs", *arguments.split())
    assert [each for each in named if each not in said] == [], said
    assert not list((tmp_path / "runs").iterdir())


def test_a_platform_that_is_not_there(tmp_path):
    command = [sys.executable, "-m", "jaxrec", "train", "--runs", tmp_path / "runs"]
    done = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cuda"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "JAX_PLATFORMS=cuda" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def with_gpu(tmp_path, monkeypatch):
    """Makes the machine look as if it had an NVIDIA GPU with a driver of this version."""

    def show(driver: str | None) -> None:
        (tmp_path / "nvidia0").touch()
        monkeypatch.setattr(hardware, "GPU_FILES", (str(tmp_path / "nvidia0"),))
        monkeypatch.setattr(hardware, "DRIVER_FILE", tmp_path / "version")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if driver is not None:
            text = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Tue Jun\nGCC version: 12.3.0\n"
            (tmp_path / "version").write_text(text)

    return show


@pytest.mark.parametrize(
    ("driver", "remedy"),
    [
        ("580.65.06", "pip install 'jaxrec[cuda13]'"),
        ("570.86.15", "pip install 'jaxrec[cuda12]'"),
        ("470.82", "update its driver 470.82"),
        (None, "'jaxrec[cuda12]' if nvidia-smi"),
    ],
)
def test_a_gpu_that_jax_cannot_use_is_said_in_one_line_with_the_remedy(with_gpu, driver, remedy, monkeypatch, capsys):
    with_gpu(driver)
    Devices()
    assert capsys.readouterr().err == "", "the tests have chosen the CPU by JAX_PLATFORMS"
    monkeypatch.setattr(devices, "_asked", lambda: None)
    Devices()
    said = capsys.readouterr().err
    assert remedy in said and said.count("\n") == 1
    with pytest.raises(UserError, match="--require gpu") as error:
        Devices(require="gpu")
    assert remedy in str(error.value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Devices()
    assert capsys.readouterr().err == ""


def test_the_memory_and_driver_of_a_gpu_are_named(with_gpu):
    with_gpu("570.86.15")
    gpu = SimpleNamespace(device_kind="NVIDIA H100", platform="gpu", memory_stats=lambda: {"bytes_limit": 59 * 2**30})
    two = Devices()
    two.platform, two.mesh = "gpu", SimpleNamespace(devices=np.array([gpu, gpu]))
    expected = {"kind": "NVIDIA H100", "count": 2, "memory_bytes": 59 * 2**30, "driver": "570.86.15"}
    assert two.accelerators() == [expected]
    assert two.describe_fully() == "2 x NVIDIA H100 (59.0 GiB for arrays, driver 570.86.15)"


def test_hidden_options_are_not_suggested(sentence):
    """``--classes`` is taken from the data."""
    assert "'--classes'" not in sentence(train, "--class-weights", 1)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("", "config"),
        ("config = 3", "config"),
        ("config = (", "SyntaxError"),
        ("import nothing_of_the_kind", "ModuleNotFoundError (No module named 'nothing_of_the_kind')"),
        ("from jaxrec.settings import Train\nconfig = Train(stps=3)", "TypeError"),
        ("from jaxrec.settings import Train\nconfig = Train(steps=-3)", "--steps -3"),
    ],
)
def test_experiments_that_cannot_be_read(sentence, tmp_path, source, named):
    (tmp_path / "x.py").write_text(source)
    said = sentence(train, "--experiment", tmp_path / "x.py", "--runs", tmp_path / "runs")
    assert named in said
    assert "x.py" in said or "--steps" in said
    assert not (tmp_path / "runs").exists()


def test_a_model_of_another_system_than_the_experiments(sentence, tmp_path):
    (tmp_path / "x.py").write_text("from jaxrec.settings import GAN, Train\nconfig = Train(task=GAN())")
    assert "--model cnn" in sentence(train, "--experiment", tmp_path / "x.py", "--model", "cnn")


STRANGERS = """
from __future__ import annotations
from dataclasses import dataclass
from typing import Annotated
from jaxrec.settings import Task
from jaxrec.settings.ranges import Range

@dataclass(frozen=True)
class Config(Task):
    \"\"\"Settings of a stranger.\"\"\"

    turns: Annotated[int, Range(1, 4)] = 4
    \"\"\"How many turns are told apart.\"\"\"
    shift: float = -1.0
    \"\"\"A number of any sign.\"\"\"

PRESETS = {"first": Config(), "second": Config(turns=2)}
"""


def test_a_strangers_system_has_options_of_its_own(sentence, tmp_path, capsys):
    file = tmp_path / "strange.py"
    file.write_text(STRANGERS)
    task = read_arguments(["--system", str(file), "--shift", "-3"]).task
    assert (task.model, task.turns, task.shift) == ("first", 4, -3.0)
    task = read_arguments([f"--system={file}", "--model", "second", "--optimizer.lr", "1"]).task
    assert (task.model, task.turns, task.optimizer.lr) == ("second", 2, 1.0)
    assert from_dict(to_dict(Train(task=task))).task == task
    for arguments, named in (
        (["--turns", 5], "--turns 5"),
        (["--turs", 3], "'--turns'"),
        (["--model", "thrid"], "'thrid'"),
        (["--shift", "nan"], "--shift nan"),
    ):
        assert named in sentence(train, "--system", file, *arguments)
    with pytest.raises(SystemExit) as end:
        train.main(["--system", str(file), "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "--turns" in shown and "How many turns are told apart." in shown and "second" in shown
    namesake = tmp_path / "elsewhere" / "strange.py"
    namesake.parent.mkdir()
    namesake.write_text(f"{STRANGERS}# Another system.\n")
    said = sentence(train, "--system", namesake)
    assert str(file) in said and str(namesake) in said
    assert read_arguments(["--system", str(file)]).task.turns == 4


def test_a_run_of_a_system_that_is_not_there(sentence, trained, tmp_path):
    run = Path(shutil.copytree(trained("autoencoder"), tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    config["task"]["system"] = "elsewhere"
    (run / "config.json").write_text(json.dumps(config))
    picture = images(tmp_path / "in", "a.png")
    for arguments in ((evaluate, run), (show, run), (verify, run), (generate, run), (predict, run, picture)):
        said = sentence(*arguments)
        assert "'elsewhere'" in said and "--system" in said
        assert "'no.py'" in sentence(*arguments, "--system", "no.py")


def test_numbers_of_records_and_tuples_are_checked():
    wrong = Train(task=Classifier(optimizer=Optimizer(rules=(Rule("kernel", lr=-1.0),))))
    with pytest.raises(UserError, match=r"--lr -1\.0"):
        check_numbers(wrong)
    with pytest.raises(UserError, match="--mean inf"):
        check_numbers(Train(task=Classifier(mean=(0.5, float("inf")))))
    check_numbers(Train(task=Classifier(mean=(0.5, 0.25))))


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
        (lambda root: images(root, "cat/0.png", "cat/1.png"), "holds only one class, 'cat'"),
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
    options = ("--dataset", f"folder:{folder}", "--skip-bad", "--batch-size", 8, "--steps", 1, "--name", "color")
    assert train.main(small("cnn", "--runs", tmp_path, *options)) == 0
    assert "2 files left out: 2 unreadable" in capsys.readouterr().out
    run = tmp_path / "color"
    assert json.loads((run / "manifest.json").read_text())["dataset"]["left_out"] == 2

    images(tmp_path / "in", "grey.png", mode="L")
    shutil.copy(folder / "cat" / "bad.png", tmp_path / "in")
    said = sentence(predict, run, tmp_path / "in")
    assert f"{tmp_path / 'in' / 'bad.png'} is not a readable image" in said
    assert "--skip-bad" in said
    assert not (run / "predictions").exists()
    predict.main([str(run), str(tmp_path / "in"), "--skip-bad"])
    assert "1 file left out: 1 unreadable" in capsys.readouterr().out
    (row,) = map(json.loads, (run / "predictions" / "predictions.jsonl").read_text().splitlines())
    assert row["path"].endswith("grey.png")
    assert row["prediction"] in ("cat", "dog")
    assert "none of the 1 image files can be read" in sentence(predict, run, tmp_path / "in" / "bad.png", "--skip-bad")


def test_a_last_step_that_spoils_the_parameters_is_no_success(sentence, tmp_path):
    arguments = ["--optimizer.name", "sgd", "--optimizer.lr", 3e38, "--optimizer.warmup", 0, "--validation", 0]
    told = sentence(train, *small("cnn", "--runs", tmp_path, "--name", "wild", "--steps", 1, *arguments))
    assert "loss on the test split is not finite" in told
    assert not (tmp_path / "wild" / "results.json").exists()


def test_tensorboard_that_is_not_installed(sentence, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'jaxrec[tensorboard]'" in sentence(train, "--tensorboard", "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(conv1", "'(conv1'"),
        ("^conv_1", "conv1/kernel"),
    ],
)
def test_rules_that_match_nothing(sentence, tmp_path, pattern, said):
    lines = "from jaxrec.settings import Classifier, Optimizer, Rule, Train"
    optimizer = f"Optimizer(rules=(Rule({pattern!r}, freeze=True),))"
    (tmp_path / "x.py").write_text(f"{lines}\nconfig = Train(task=Classifier(optimizer={optimizer}))")
    assert said in sentence(train, "--experiment", tmp_path / "x.py", "--runs", tmp_path / "runs")
    assert not list((tmp_path / "runs").iterdir())


def test_a_data_set_of_other_images(sentence, tmp_path):
    folder = images(tmp_path / "set", *SOME)
    options = ("--dataset", f"folder:{folder}", "--batch-size", 8, "--steps", 1, "--name", "a")
    assert train.main(small("autoencoder", "--runs", tmp_path, *options)) == 0
    said = sentence(evaluate, tmp_path / "a", "--dataset", "digits")
    assert "'digits' is not what the run was trained on" in said
    said = sentence(train, "--resume", "--name", "a", "--runs", tmp_path, "--dataset", "digits", "--steps", 2)
    assert "'digits' is not what the run was trained on" in said


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of a trained run, to be damaged."""
    return lambda model: Path(shutil.copytree(trained(model), tmp_path / "copies" / model))


def test_run_folders_that_are_none(sentence, trained, tmp_path):
    run = trained("autoencoder")
    (tmp_path / "empty").mkdir()
    for command in (evaluate, generate, show):
        near = sentence(command, run.parent / "autoencodr")
        assert "autoencodr'" in near and "'autoencoder'" in near
        assert "config.json" in sentence(command, tmp_path / "empty")
    assert "config.json" in sentence(predict, tmp_path / "empty", images(tmp_path / "in", "a.png"))
    assert "config.json" in sentence(train, "--resume", "--name", "empty", "--runs", tmp_path)
    assert "--resume" in sentence(train, "--name", "empty", "--runs", tmp_path)
    assert not list((tmp_path / "empty").iterdir())


def test_damaged_runs(sentence, copied):
    run = copied("autoencoder")
    shutil.rmtree(run / "checkpoints" / "6" / "model")
    assert "checkpoint 6" in sentence(evaluate, run)
    assert "checkpoint 6" in sentence(show, run)
    shutil.rmtree(run / "checkpoints")
    for command in (evaluate, show):
        assert run.name in sentence(command, run)
    (run / "manifest.json").unlink()
    assert "manifest.json" in sentence(evaluate, run)
    (run / "config.json").write_text((run / "config.json").read_text()[:-50])
    assert "config.json" in sentence(evaluate, run)
    (run / "config.json").write_text('{"format": 2, "task": {"system": "autoencoder", "color": 3}}')
    assert "'color'" in sentence(show, run)


@pytest.mark.parametrize("zeros", [np.zeros, jnp.zeros])
def test_what_fits_into_no_memory(sentence, zeros):
    said = sentence(SimpleNamespace(main=lambda _: zeros((2**45,), np.float32)))
    assert said.startswith("out of memory")


def test_a_run_that_no_memory_holds_leaves_no_folder(sentence, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")

    monkeypatch.setattr(Resident, "calls", full)
    said = sentence(train, *small("cnn", "--runs", tmp_path, "--name", "a"))
    assert "Out of memory allocating 7 bytes" in said and "--batch-size" in said
    assert not list(tmp_path.iterdir())


def test_damaged_metadata(sentence, copied):
    run = copied("autoencoder")
    path = run / "checkpoints" / "6" / "model" / "_METADATA"
    text = path.read_text()
    for content in (text.replace("tree_metadata", "tree_netadata"), "[]", "", text[:50]):
        path.write_text(content)
        for command in (show, evaluate):
            assert "checkpoint 6" in sentence(command, run)


def test_a_checkpoint_of_another_model(sentence, copied, trained, tmp_path):
    run = copied("autoencoder")
    config = json.loads((run / "config.json").read_text())
    config["task"]["code"] = 7
    (run / "config.json").write_text(json.dumps(config))
    said = "net/"
    for arguments in ((evaluate, run), (train, "--resume", "--name", "autoencoder", "--runs", run.parent)):
        assert said in sentence(*arguments)
    config["task"]["width"] = 2**16  # More than any memory holds.
    (run / "config.json").write_text(json.dumps(config))
    assert said in sentence(evaluate, run)
    run = copied("cnn")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(trained("autoencoder") / "checkpoints", run / "checkpoints")
    assert "net/" in sentence(evaluate, run)
    assert "net/" in sentence(predict, run, images(tmp_path / "in", "a.png"))


def test_a_run_is_resumed_with_its_own_settings(sentence, trained):
    run = trained("autoencoder")
    before = (run / "config.json").read_text()
    resume = ("--resume", "--name", run.name, "--runs", run.parent)
    said = sentence(train, *resume, "--optimizer.lr", 1)
    assert "optimizer.lr" in said
    assert "seed = 0" in sentence(train, *resume, "--seed", 5)
    assert "'synthetic' is not what" in sentence(train, *resume, "--dataset", "synthetic")
    assert "--steps" in sentence(train, *resume, "--steps", 2)
    assert (run / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "after the run"),
        (("missing.png",), "'missing.png'"),
        (("EMPTY",), "'EMPTY'"),
    ],
)
def test_images_that_are_not_there(sentence, trained, tmp_path, arguments, said):
    (tmp_path / "EMPTY").mkdir()
    with contextlib.chdir(tmp_path):
        assert said in sentence(predict, trained("cnn"), *arguments)


def test_options_of_the_other_commands(sentence, trained):
    run = trained("autoencoder")
    assert "'--json'" in sentence(evaluate, run, "--jsn")
    assert "'tets'" in sentence(evaluate, run, "--split", "tets")
    assert "--count 0" in sentence(generate, run, "--count", 0)
    assert "'--leaves'" in sentence(show, run, "--leavs")
    assert "RUN" in sentence(verify)
    assert "--steps 0" in sentence(verify, run, "--steps", 0)
    assert "--seed -1" in sentence(generate, run, "--seed", -1)


def test_places_that_cannot_be_written(sentence, trained, tmp_path):
    place = "/dev/null/x"
    said = sentence(train, "--runs", place)
    assert place in said and "Not a directory" in said
    picture = images(tmp_path, "a.png") / "a.png"
    for arguments in ((predict, trained("cnn"), picture), (generate, trained("vae"))):
        said = sentence(*arguments, "--out", place)
        assert place in said and "Not a directory" in said


Usage = namedtuple("Usage", "total used free")


def test_no_room_for_a_first_checkpoint(sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2**15))
    assert "--runs" in sentence(train, *small("autoencoder", "--runs", tmp_path / "runs"))
    assert not list((tmp_path / "runs").iterdir())


def test_no_room_for_a_later_checkpoint(sentence, tmp_path, monkeypatch):
    room = iter([2**30] * 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, next(room, 0)))
    said = sentence(train, *small("autoencoder", "--runs", tmp_path, "--name", "full", "--save-every", 3))
    assert "--runs" in said
    with Checkpoints(tmp_path / "full", read_only=True) as checkpoints:
        assert checkpoints.steps() == [3]
    monkeypatch.undo()
    with jax.numpy_dtype_promotion("standard"):
        assert train.main(["--resume", "--name", "full", "--runs", str(tmp_path)]) == 0


def test_a_disk_that_fills_up_in_the_end(sentence, copied, monkeypatch):
    run = copied("autoencoder")

    def report(run: Path) -> Path:
        (run / f"report.html.{os.getpid()}.part").symlink_to("/dev/full")
        return write_report(run)

    monkeypatch.setattr(ending, "write_report", report)
    said = sentence(train, "--resume", "--name", run.name, "--runs", run.parent)
    assert "No space left on device" in said
    assert f"--name autoencoder --runs {run.parent} --resume" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "loss is not finite at step 2"),
        (("--eval-every", 1), "loss on the validation split is not finite at step 1"),
        (("--validation", 0, "--log-every", 1), "loss is not finite at step 2"),
    ],
)
def test_a_loss_that_is_not_finite(sentence, tmp_path, options, said):
    arguments = ["--optimizer.name", "sgd", "--optimizer.lr", 1e30, "--optimizer.schedule", "constant", *options]
    told = sentence(train, *small("cnn", "--runs", tmp_path, "--name", "wild", *arguments))
    assert said in told
    assert "checkpoint" in told and "--optimizer.lr" in told
    assert not (tmp_path / "wild").exists(), "a run without a checkpoint cannot go on"


def test_the_last_good_checkpoint_is_named(sentence, tmp_path):
    arguments = ["--optimizer.name", "sgd", "--optimizer.schedule", "constant", "--optimizer.lr", 300]
    arguments += ["--steps", 60, "--eval-every", 1, "--log-every", 1]
    said = sentence(train, *small("autoencoder", "--runs", tmp_path, "--name", "wild", *arguments))
    found = re.search(r"not finite at step (\d+); .* of step (\d+):", said)
    assert found, said
    failed, good = map(int, found.groups())
    assert 0 < good < failed
    with Checkpoints(tmp_path / "wild", read_only=True) as checkpoints:
        assert good in checkpoints.steps()


@pytest.mark.parametrize("content", ["", "[" * 100_000, "{}", '{"dataset": 3}', '{"dataset": {"name": "digits"}}'])
def test_a_manifest_that_describes_no_data(sentence, copied, content):
    run = copied("vae")
    (run / "manifest.json").write_text(content)
    assert "manifest.json" in sentence(generate, run)


@pytest.mark.parametrize(
    "content",
    ["", "[" * 100_000, "[]", "{}", '{"task": 3}', '{"format": 2, "task": {"system": "autoencoder"}, "steps": "x"}'],
)
def test_settings_that_cannot_be_read(sentence, copied, content):
    run = copied("autoencoder")
    (run / "config.json").write_text(content)
    for command in (show, evaluate):
        said = sentence(command, run)
        assert f"{run / 'config.json'}' is missing or damaged" in said or "the settings " in said


def test_names_of_classes_stay_names_in_files(copied, tmp_path):
    run = copied("gan")
    manifest = json.loads((run / "manifest.json").read_text())
    names = ["../../up", "/etc/x", "a\0b", "<b>", "x" * 300, "..", "", "\u202egnp", "a\nb", "~"]
    manifest["dataset"]["features"]["label"]["names"] = names
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


STRANGE = """
import pwd, sys
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
from jaxrec.cli import dispatch
from jaxrec.cli.running import run_command
for arguments in (["train", *sys.argv[1:]], ["predict", "runs/long", "set", "--out", "out"]):
    sys.argv[1:] = arguments
    try:
        run_command(dispatch)
    except SystemExit as end:
        print("ended", end.code)
"""


def test_names_of_any_bytes_and_length_a_plain_terminal_and_a_user_without_a_home(tmp_path):
    root = tmp_path / ("d" * 200) / ("e f" * 30)
    for name in (b"caf\xe9", "\u732b".encode()):
        folder = root / "set" / os.fsdecode(name)
        images(folder, *(f"{number}.png" for number in range(9)))
        (folder / "7.png").rename(folder / ("x" * 240 + ".png"))
        (folder / "8.png").rename(folder / os.fsdecode(b"\xff.png"))
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "JAXREC_CACHE", "XDG_CACHE_HOME")}
    kept |= {"LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[1]), "XLA_FLAGS": ""}
    options = small("cnn", "--dataset", "folder:set", "--batch-size", 8, "--steps", 1, "--eval-every", 1)
    command = [sys.executable, "-c", STRANGE, *options, "--name", "long"]
    done = subprocess.run(command, env=kept, cwd=root, capture_output=True, text=True)
    assert done.stdout.count("ended 0") == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and "JAXREC_CACHE" in done.stderr
    assert "\\udcff.png" in "".join(done.stdout.split())
    assert (root / "out" / "predictions.csv").read_bytes().count(b"\n") == 19
    names = json.loads((root / "runs" / "long" / "manifest.json").read_text())["dataset"]["class_names"]
    assert sorted(names) == ["caf\\xe9", "\u732b"]


def test_names_made_from_long_ones_fit_the_file_system(tmp_path):
    made = create(Train(dataset=f"folder:/{'a b' * 100}/photos", runs=str(tmp_path)))
    assert made.is_dir() and made.name.endswith("photos-1")
    taken: set[str] = set()
    labels = [free_label(Path("\u732b" * 80 + f"{number}.png"), taken) for number in range(3)]
    assert len(set(labels)) == 3
    assert max(len(os.fsencode(label)) for label in labels) < 200
    with pytest.raises(UserError, match="--name"):
        create(Train(name="x" * 210, dataset="digits", runs=str(tmp_path)))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="JAXREC_CACHE"):
        cache_dir()
    monkeypatch.delenv("JAXREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    own = cache_dir()
    assert own.is_dir() and own == cache_dir()
    said = capsys.readouterr().err
    assert "JAXREC_CACHE" in said and said.count("\n") == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_dir() == tmp_path / "cache" / "jaxrec"


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
