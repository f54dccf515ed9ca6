"""The commands, as processes of their own where that is what counts, else called in this one."""

import contextlib
import csv
import errno
import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import small, surroundings
from PIL import Image

from jaxrec import host
from jaxrec.cli import COMMANDS, completion, evaluate, generate, predict, show, train
from jaxrec.cli.help import help_text
from jaxrec.cli.running import _describe, run_command
from jaxrec.data import convert_image, read_image
from jaxrec.errors import UserError
from jaxrec.run.show.log import read_metrics
from jaxrec.run.trained import MOST, load
from jaxrec.settings import Train, models, preset
from jaxrec.settings.options import options

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]


def environment(**changes: str) -> dict[str, str]:
    """On a terminal of 80 columns."""
    return surroundings(COLUMNS="80", **changes)


def python(*arguments: object, where: Path | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**changes), timeout=300, cwd=where)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train --stps 5", "'--steps'"),
        ("trian --steps 5", "'train'"),
        ("train --dataset mnst", "'mnst'"),
        ("train --batch-size 2000", "2000"),
        ("sweep", "--vary"),
        ("plan --image-shape 0 8 1", "--image-shape 0"),
        ("evaluate", "RUN"),
        ("predict runs/none picture.png", "'picture.png'"),
        ("generate runs/none", "'runs/none'"),
        ("inspect runs/none", "'runs/none'"),
    ],
)
def test_mistakes_end_a_process_with_one_sentence_and_code_2(arguments, said, tmp_path):
    command, *rest = arguments.split()
    done = python("-m", "jaxrec", command, *rest, TFDS_DATA_DIR=str(tmp_path), where=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("jaxrec: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def cnn(tmp_path_factory) -> Path:
    """A run trained by a process of its own, whose output lies beside it."""
    runs = tmp_path_factory.mktemp("commands")
    done = python("-m", "jaxrec.train", *small("cnn", "--runs", runs, "--name", "first", "--seed", 3))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (runs / "output").write_text(done.stdout)
    return runs / "first"


def test_compiled_programs_are_few_and_kept(tmp_path):
    kept = []
    for name in ("first", "second"):
        done = python(
            "-m", "jaxrec.train", *small("cnn", "--runs", tmp_path, "--name", name), JAXREC_CACHE=str(tmp_path)
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        kept.append({path.name for path in (tmp_path / "programs").glob("*-cache")})
    first, second = kept
    # Small validation and test splits share a program. The rest of jax's own makes keys.
    expected = {
        "init": 1,
        "train_step": 1,
        "_copied_and_hashed": 1,
        "eval_step": 1,
        "artifacts": 1,
        "seen": 1,
        "worst": 1,
        "predict": 1,
        "_threefry_seed": 1,
        "stage": 1,
    }
    assert Counter(name.removeprefix("jit_").split("-")[0] for name in first) == expected
    assert second == first
    done = python("-m", "jaxrec", "evaluate", tmp_path / "first", JAXREC_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    not (host.carries_onednn() and host.has_matrix_units()), reason="here jax keeps programs in bfloat16 as any others"
)
def test_a_run_in_bfloat16_says_nothing_of_programs_that_cannot_be_kept(tmp_path):
    """On one device, where convolutions are an operation that jax's cache of compiled programs refuses."""
    options = small("cnn", "--precision", "bf16", "--runs", tmp_path, "--name", "narrow")
    done = python("-m", "jaxrec.train", *options, JAXREC_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_training_says_what_it_does_in_plain_lines(cnn):
    text = (cnn.parent / "output").read_text()
    assert "\x1b" not in text
    assert "\r" not in text
    for sentence in (
        r"^cnn with 35,914 parameters on 1 x cpu$",
        r"^digits: 1293 training, 144 validation, 360 test images 8x8x1 of 10 classes, on the device$",
        r"^step compiled in [\d.]+ s; training steps 1 to 6$",
        r"^step 6/6  epoch 0\.3  loss [\d.]+  accuracy [\d.]+  [\d,]+ examples/s  0 s left$",
        r"^step 6: validation loss ",
        r"^test, 360 examples, step 6:$",
        r"^  accuracy +[\d.]+$",
        rf"^read {re.escape(str(cnn))}/report\.html\n\Z",
    ):
        assert re.search(sentence, text, re.MULTILINE), (sentence, text)


def test_a_run_folder_holds_what_a_person_and_a_program_need(cnn):
    config, manifest = (json.loads((cnn / f"{name}.json").read_text()) for name in ("config", "manifest"))
    assert config["seed"] == 3
    assert config["name"] == "first"
    assert config["task"]["system"] == "classifier"
    assert config["task"]["classes"] == 10
    assert manifest["versions"]["jax"] == jax.__version__
    assert {"python", "jaxrec", "flax", "optax", "orbax-checkpoint", "numpy"} <= manifest["versions"].keys()
    assert manifest["devices"] == ["1 x cpu"]
    assert isinstance(manifest["git"], str)
    assert re.fullmatch("[0-9a-f]{64}", manifest["dataset"]["fingerprint"])
    assert (manifest["dataset"]["train"], manifest["dataset"]["class_names"][9]) == (1293, "9")
    assert manifest["dataset"]["features"]["image"]["shape"] == [8, 8, 1]
    assert manifest["report"]["headline"][0] == "accuracy"
    assert manifest["parameters"] == 35_914
    assert manifest["seconds"].keys() == {"load", "compile", "train", "total"}
    assert "jaxrec.train --model cnn" in manifest["command"]
    metrics = read_metrics(cnn)
    assert [(row["step"], row["split"]) for row in metrics] == [
        (2, "train"),
        (3, "train"),
        (3, "validation"),
        (4, "train"),
        (6, "train"),
        (6, "validation"),
    ]
    assert all({"loss", "accuracy"} <= row.keys() for row in metrics)
    assert (cnn / "checkpoints" / "6" / "model").is_dir()
    assert {path.name for path in (cnn / "pictures").iterdir()} == {
        "batch.png",
        "confusion_matrix.png",
        "predictions.png",
        "worst_mistakes.csv",
        "worst_mistakes.png",
    }
    assert "<!doctype html>" in (cnn / "report.html").read_text()
    assert not list(cnn.rglob("*.part"))


@pytest.mark.parametrize(
    ("model", "pictures", "figures"),
    [
        ("autoencoder", {"reconstructions"}, {"mse", "psnr"}),
        ("vae", {"reconstructions", "samples", "samples-00000006", "interpolation"}, {"nll", "elbo", "kl", "mse"}),
        ("gan", {"samples", "samples-00000006", "interpolation"}, {"frechet_distance", "class_consistency", "modes"}),
    ],
)
def test_every_system_leaves_its_pictures_and_figures(trained, model, pictures, figures):
    run = trained(model)
    assert pictures <= {path.stem for path in (run / "pictures").iterdir()}
    results = json.loads((run / "results.json").read_text())
    assert figures <= results.keys()
    assert list(results)[:2] == ["split", "examples"]
    assert (results["split"], results["examples"]) == ("test", 360)
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= len(pictures) - ("samples-00000006" in pictures)


def test_evaluate_prints_one_object_equal_to_the_results(cnn):
    done = python("-m", "jaxrec", "evaluate", cnn, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads((cnn / "results.json").read_text())


def test_evaluate_prints_a_table_and_takes_another_split(cnn, capsys):
    evaluate.main([str(cnn)])
    results = json.loads((cnn / "results.json").read_text())
    assert re.search(rf"│ accuracy +│ {results['accuracy']:.5g} +│", capsys.readouterr().out)
    evaluate.main([str(cnn), "--split", "train[:50]", "--json"])
    other = json.loads(capsys.readouterr().out)
    assert (other["split"], other["examples"]) == ("train[:50]", 50)
    assert sum(map(sum, other["confusion"])) == 50


def test_evaluate_a_gan_gives_the_figures_of_its_training(trained, capsys, monkeypatch):
    run = trained("gan")
    monkeypatch.setenv("JAXREC_CACHE", str(run.parent / "cache"))
    capsys.readouterr()  # the training's lines, where this is the first test to ask for it
    evaluate.main([str(run), "--json"])
    results = json.loads((run / "results.json").read_text())
    given = json.loads(capsys.readouterr().out)
    assert given.pop("judge") == results.pop("judge")
    assert given.pop("split") == results.pop("split")
    assert given == pytest.approx(results, rel=1e-3)


def pictures(folder: Path) -> dict[str, Image.Image]:
    """Images of several kinds, sizes and modes, written to ``folder``."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (8, 8)).astype(np.uint8)
    color = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    images = {
        "a/grey.png": Image.fromarray(grey),
        "a/color.png": Image.fromarray(color),
        "b/palette.gif": Image.fromarray(color).quantize(16),
        "b/clear.png": Image.fromarray(np.dstack([color, color[..., 0]])),
    }
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return images


def test_predict_converts_images_as_training_does(cnn, tmp_path, capsys):
    images = pictures(tmp_path / "in")
    paths = [tmp_path / "in" / "a" / "grey.png", tmp_path / "in" / "a" / "color.png", tmp_path / "in" / "b"]
    predict.main([str(cnn), *map(str, paths), "--out", str(tmp_path / "out")])
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    names = [str(Path(row["path"]).relative_to(tmp_path / "in")) for row in rows]
    assert names == ["a/grey.png", "a/color.png", "b/clear.png", "b/palette.gif"]
    trained = load(cnn)
    inputs = np.stack([convert_image(images[name], (8, 8, 1)) for name in names])
    expected = trained.predict(inputs)["probabilities"]
    written = np.array([list(row["probabilities"].values()) for row in rows])
    np.testing.assert_array_equal(np.float32(written), expected)
    # The least likely class of each image: the loss by the file is that of an evaluation.
    label = expected.argmin(1)
    evaluated = trained.system.eval_step(trained.state, {"image": inputs, "label": label})["classification"]
    loss = -np.log(written[np.arange(4), label]).mean()
    assert loss == pytest.approx(evaluated.compute()["loss"], rel=1e-6)
    assert [row["prediction"] for row in rows] == [str(best) for best in expected.argmax(1)]
    np.testing.assert_array_equal(np.float32([row["probability"] for row in rows]), expected.max(1))
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["prediction"] for row in table] == [row["prediction"] for row in rows]
    out = capsys.readouterr().out
    assert all(word in out for word in ("path", "prediction", "probability", "predictions.csv"))


def test_predict_lists_more_images_than_fit_a_batch_or_the_screen(cnn, tmp_path, capsys):
    for number in range(MOST + 3):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number:03d}.png")
    predict.main([str(cnn), str(tmp_path)])
    rows = (cnn / "predictions" / "predictions.jsonl").read_text().splitlines()
    assert [Path(json.loads(row)["path"]).stem for row in rows] == [f"{n:03d}" for n in range(103)]
    assert "the first 50 of 103 are shown" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("model", ["autoencoder", "vae"])
def test_predict_reconstructs(trained, tmp_path, model):
    images = pictures(tmp_path / "in")
    predict.main([str(trained(model)), str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == len(images)
    assert all(len(row["code"]) == 5 for row in rows)
    inputs = np.stack([read_image(row["path"], (8, 8, 1)) for row in rows])
    found = load(trained(model)).predict(inputs)["reconstruction"]
    expected = ((found - inputs / 255) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose([row["mse"] for row in rows], expected, atol=1e-5)
    assert (tmp_path / "out" / "reconstructions.png").is_file()


def test_predict_gives_the_best_classes_averages_runs_and_reads_paths(trained, tmp_path, capsys, monkeypatch):
    run, out = trained("cnn"), tmp_path / "out"
    images = pictures(tmp_path / "in")
    other = tmp_path / "other run"
    assert train.main(small("cnn", "--runs", tmp_path, "--name", other.name, "--seed", 5)) == 0
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["dataset"]["features"]["image"]["resize"] = "stretch"  # The first run crops, and so the pixels differ.
    (other / "manifest.json").write_text(json.dumps(manifest))
    paths = "".join(f"{tmp_path / 'in' / name}\n" for name in images)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(paths.encode())))
    capsys.readouterr()
    predict.main([str(run), "-", "--top", "3", "--ensemble", str(other), "--out", str(out)])
    said = capsys.readouterr().out
    assert "are cropped" in said and "are stretched" in said and "3 of 4 images have color" in said
    expected = np.mean([load(each).predict(paths.split("\n")[:-1])["probabilities"] for each in (run, other)], axis=0)
    with (out / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["path"] for row in table] == paths.split()
    found = np.array([[float(row[str(digit)]) for digit in range(10)] for row in table])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    order = np.argsort(-expected, axis=1)[:, :3]
    assert [[row[f"top_{place}"] for place in (1, 2, 3)] for row in table] == [list(map(str, row)) for row in order]
    assert all(row["top_1_probability"] == row["probability"] for row in table)
    for given in (["--top", "2"], ["--ensemble", str(run)]):
        with pytest.raises(UserError, match=given[0]):
            predict.main([str(trained("autoencoder")), str(tmp_path / "in"), *given])


def test_generate_draws_one_class_and_scales_the_latents(trained, tmp_path):
    run = load(trained("gan"))
    drawn = run.generate(4, class_name="7")
    assert drawn["label"].tolist() == [7] * 4
    in_turn = run.generate(8)
    np.testing.assert_allclose(run.generate(8, class_name="7")["image"][7], in_turn["image"][7], atol=1e-5)
    np.testing.assert_allclose(run.generate(8, truncation=1.0)["image"], in_turn["image"], atol=1e-5)
    vae = load(trained("vae"))
    spreads = [np.ptp(vae.generate(20, truncation=scale)["image"], axis=0).max() for scale in (1e-6, 0.5, 1.0)]
    assert spreads[0] < spreads[1] < spreads[2]
    for model, given, named in (("vae", ["--class", "7"], "--class"), ("gan", ["--class", "77"], "'77'")):
        with pytest.raises(UserError, match=named):
            generate.main([str(trained(model)), *given])
    generate.main([str(trained("gan")), "--class", "3", "--count", "2", "--separate", "--out", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.glob("0*.png")) == ["00000-3.png", "00001-3.png"]


@pytest.mark.parametrize("model", ["gan", "vae"])
def test_generate_draws_what_the_seed_says(trained, tmp_path, capsys, model):
    sheets = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate.main([str(trained(model)), "--count", "12", "--seed", str(seed), "--out", str(tmp_path / name)])
        sheets.append((tmp_path / name / "generated.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]
    assert "12 images in" in capsys.readouterr().out
    generate.main([str(trained(model)), "--count", "12", "--separate", "--out", str(tmp_path)])
    names = sorted(path.name for path in tmp_path.glob("0*.png"))
    assert names == [f"{n:05d}-{n % 10}.png" if model == "gan" else f"{n:05d}.png" for n in range(12)]
    with Image.open(tmp_path / names[11]) as image:
        one = np.asarray(image)
    with Image.open(tmp_path / "generated.png") as sheet:
        # Images of 8 pixels are enlarged 7 times and lie 2 pixels apart, ten in a row.
        np.testing.assert_array_equal(np.asarray(sheet)[58 : 58 + 56 : 7, 58 : 58 + 56 : 7, 0], one)


def test_commands_name_the_one_that_fits(cnn, trained, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    for run in (cnn, trained("autoencoder")):
        with pytest.raises(UserError, match="predict"):
            generate.main([str(run)])
    with pytest.raises(UserError, match="generate"):
        predict.main([str(trained("gan")), str(tmp_path / "a.png")])


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory) -> tuple[Path, str]:
    """A run whose second half made it worse, so that the best checkpoint is not the latest, and what it printed."""
    runs = tmp_path_factory.mktemp("spoiled")
    rate = ["--optimizer.name", "sgd", "--optimizer.lr", 20, "--optimizer.schedule", "constant"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert train.main(small("autoencoder", "--runs", runs, "--name", "a run", *rate)) == 0
    return runs / "a run", said.getvalue()


def test_a_checkpoint_is_chosen(spoiled, tmp_path, capsys):
    run, _ = spoiled
    losses = {row["step"]: row["loss"] for row in read_metrics(run) if row["split"] == "validation"}
    assert losses[3] < losses[6]
    tested = {}
    for choice in ("best", "latest", "3", "6"):
        evaluate.main([str(run), "--json", "--checkpoint", choice])
        tested[choice] = json.loads(capsys.readouterr().out)
    assert (tested["best"]["step"], tested["latest"]["step"]) == (3, 6)
    assert tested["best"] == tested["3"] != tested["latest"] == tested["6"]
    results = json.loads((run / "results.json").read_text())
    assert tested["6"].pop("worst") == [pytest.approx(example) for example in results.pop("worst")]
    assert tested["6"] == pytest.approx(results)
    assert (load(run).step, load(run, checkpoint=3).step, load(run).best) == (6, 3, 3)
    Image.new("L", (8, 8), 99).save(tmp_path / "a.png")
    errors = []
    for choice in ("best", "latest"):
        predict.main([str(run), str(tmp_path / "a.png"), "--out", str(tmp_path), "--checkpoint", choice])
        errors.append(json.loads((tmp_path / "predictions.jsonl").read_text())["mse"])
    assert errors[0] != errors[1]
    for choice in ("5", "bst"):
        with pytest.raises(UserError, match=f"--checkpoint '{choice}'.* 3, 6"):
            load(run, checkpoint=choice)


def test_the_best_is_named_by_the_run_and_by_evaluate_and_its_command_works_when_pasted(spoiled, capsys):
    run, said = spoiled
    (line,) = [line for line in said.splitlines() if line.startswith("best checkpoint: step 3")]
    evaluate.main(shlex.split(line.partition("jaxrec evaluate ")[2]))
    assert "step 3 " in capsys.readouterr().out
    evaluate.main([str(run)])
    assert "--checkpoint best" in capsys.readouterr().out


def test_a_run_without_validation_has_no_best(tmp_path):
    short = small("autoencoder", "--steps", 1, "--validation", 0, "--runs", tmp_path, "--name", "blind")
    assert train.main([*short, "--architecture", "dense"]) == 0
    with pytest.raises(UserError, match="--checkpoint best"):
        load(tmp_path / "blind", checkpoint="best")
    assert load(tmp_path / "blind").best is None


def test_resume_auto_starts_a_run_and_goes_on_with_it(tmp_path, capsys):
    def steps_made(steps: int, *options: str) -> str:
        arguments = small("autoencoder", "--runs", tmp_path, "--name", "job", "--steps", steps, "--resume", *options)
        arguments += ["--optimizer.schedule", "constant"]
        assert train.main(arguments) == 0
        return capsys.readouterr().out

    assert "training steps 1 to 2" in steps_made(2, "auto")
    assert "training steps 3 to 4" in steps_made(4, "auto")
    assert "no steps are left" in steps_made(4, "auto")
    assert "training steps 5 to 6" in steps_made(6)


def test_inspect_needs_no_device(cnn):
    done = python("-m", "jaxrec", "inspect", cnn, JAX_PLATFORMS="nonexistent")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout[: done.stdout.index("\n}") + 2]) == json.loads((cnn / "config.json").read_text())
    assert "checkpoint of step 6" in done.stdout
    assert re.search(r"│ net/params/conv1 +│ 2 +│ 320 +│", done.stdout)
    assert "35,914 parameters" in done.stdout


def test_inspect_lists_every_array(trained, capsys):
    show.main([str(trained("gan")), "--leaves"])
    out = capsys.readouterr().out
    assert "generator/params/" in out
    assert "discriminator/params/" in out
    state = load(trained("gan")).state
    shapes = [leaf.shape for player in state.players.values() for leaf in jax.tree.leaves(player.params)]
    assert f"{sum(int(np.prod(shape)) for shape in shapes):,} parameters" in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_terminated_run_saves_and_goes_on(number, tmp_path, capsys):
    arguments = small("autoencoder", "--steps", 10**6, "--eval-every", 10**6, "--log-every", 1)
    arguments += ["--optimizer.schedule", "constant", "--runs", str(tmp_path), "--name", "long"]
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxrec.train", *arguments], stdout=subprocess.PIPE, env=environment(), text=True
    )
    rows = tmp_path / "long" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (rows.exists() and rows.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    found = re.search(rf"stopped by {number.name} after step (\d+), state saved", out)
    assert found, out
    step = int(found[1])
    assert read_metrics(tmp_path / "long")[-1]["step"] == step
    assert train.main(["--name", "long", "--runs", str(tmp_path), "--resume", "--steps", str(step + 3)]) == 0
    steps = [row["step"] for row in read_metrics(tmp_path / "long") if row["split"] == "train"]
    assert steps == list(range(1, step + 4))
    assert f"training steps {step + 1} to {step + 3}" in capsys.readouterr().out


def test_a_command_stopped_at_once_says_so(capsys):
    def stopped(_: list[str]) -> None:
        raise KeyboardInterrupt(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        run_command(stopped)
    assert ended.value.code == 143
    assert capsys.readouterr().err == "jaxrec: stopped at once by SIGTERM\n"


def test_an_output_without_room_is_answered_in_one_sentence(trained):
    command = [sys.executable, "-m", "jaxrec", "inspect", str(trained("cnn"))]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("jaxrec: No space left on device; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "advised"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"), False),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), False),
        (TimeoutError("no answer"), False),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), True),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), True),
    ],
)
def test_errors_of_the_system_are_told_with_advice_only_about_files(error, advised):
    said = _describe(error)
    assert (error.strerror or str(error)) in said
    assert error.filename is None or error.filename in said
    assert (";" in said) == advised


def test_runs_without_a_name_are_numbered(tmp_path):
    arguments = [*small("autoencoder", "--runs", tmp_path, "--steps", 1), "--validation", "0"]
    (tmp_path / "autoencoder-digits-1").mkdir()
    assert train.main(arguments) == 0
    config = json.loads((tmp_path / "autoencoder-digits-2" / "config.json").read_text())
    assert config["name"] == "autoencoder-digits-2"


def test_help_and_import_are_light():
    script = "import sys, {0}; print(sorted({{'jax', 'tensorflow', 'flax', 'orbax', 'numpy'}} & set(sys.modules)))"
    assert python("-c", script.format("jaxrec")).stdout.strip() == "[]"
    code = (
        "import runpy, sys\n"
        "sys.argv[1:] = {}\n"
        "try: runpy.run_module('jaxrec', run_name='__main__')\n"
        "except SystemExit as end: print('ended', end.code, {{'jax', 'tensorflow'}} & set(sys.modules))"
    )
    done = python("-c", code.format(["train", "--model", "gan", "--help"]))
    assert done.stdout.endswith("ended 0 set()\n")
    for word in ("--model NAME", "--experiment FILE", "--system FILE", "--discriminator-steps", "resnet18"):
        assert word in done.stdout
    groups = re.findall(r"^(\w+):$", done.stdout, re.M)
    assert groups[:5] == ["examples", "system", "data", "start", "length"]
    assert groups[5:] == ["output", "devices", "optimizer", "augmentation", "advanced"]
    assert max(map(len, done.stdout.splitlines())) <= 80
    for command in (*COMMANDS, ""):
        done = python("-c", code.format([command, "--help"] if command else ["--help"]))
        assert done.stdout.endswith("ended 0 set()\n")
        assert max(map(len, done.stdout.splitlines())) <= 80


def completed(*words: str) -> list[str]:
    """What bash offers for the last word."""
    ask = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _jaxrec"
    program = f"{completion.script(['bash'])}\n{ask}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    return subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_commands_options_and_choices():
    assert completed("jaxrec", "ev") == ["evaluate"]
    assert completed("jaxrec", "evaluate", "runs/a", "--chec") == ["--checkpoint"]
    assert completed("jaxrec", "train", "--optimizer.lr") == ["--optimizer.lr", "--optimizer.lr-scale"]
    assert completed("jaxrec", "train", "--discriminator-st") == ["--discriminator-steps"]
    assert completed("jaxrec", "sweep", "--model", "resnet1") == ["resnet18"]
    assert completed("jaxrec", "train", "--classe") == [], "a hidden option"
    assert completed("jaxrec", "predict", "runs/a", "pho") == [], "bash goes on with file names"


def test_the_other_shells_have_a_script_too():
    for shell in ("bash", "zsh"):
        checked = subprocess.run(["bash", "-n"], input=completion.script([shell]), text=True, capture_output=True)
        assert (checked.returncode, checked.stderr) == (0, "")
    lines = completion.script(["fish"]).splitlines()
    offered = [line for line in lines if "seen_subcommand_from train'" in line]
    assert any(" -l optimizer.schedule -x -a " in line and "cosine" in line for line in offered)
    with pytest.raises(UserError, match=r"'bsh'.*'bash'"):
        completion.script(["bsh"])


def test_help_lists_every_option_and_explains_it():
    for model in models():
        shown = help_text(Train, list(options(Train(task=preset(model)))), "jaxrec train")
        for option in options(Train(task=preset(model))):
            group, dot, name = option.name.removeprefix("--").rpartition(".")
            listed = re.search(rf"^  --{re.escape(group + dot)}(\[no-\])?{re.escape(name)}(?![\w-])", shown, re.M)
            assert bool(listed) == (not option.hidden and not option.records), option.name
            assert option.help, option.name


def test_output_nobody_reads_is_no_error(cnn):
    command = f"{sys.executable} -m jaxrec inspect {cnn} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment(), timeout=120)
    assert (done.returncode, done.stderr) in ((0, ""), (1, ""))
