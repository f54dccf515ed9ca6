"""Pictures and curves land where they should, and the report survives whatever a run folder holds."""

import base64
import csv
import html
import io
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxrec
from jaxrec.cli.compare import main as compare_command
from jaxrec.cli.training_arguments import read_arguments
from jaxrec.data import open_dataset
from jaxrec.errors import UserError
from jaxrec.run import evaluation
from jaxrec.run.drawing import arranged
from jaxrec.run.introduction import for_the_report
from jaxrec.run.observers import Moment
from jaxrec.run.show import pictures
from jaxrec.run.show.charts import curves
from jaxrec.run.show.compare import compare, write_comparison
from jaxrec.run.show.fonts import can_write
from jaxrec.run.show.index import write_index
from jaxrec.run.show.log import read_metrics
from jaxrec.run.show.page import text as figure_text
from jaxrec.run.show.pictures import GAP, grid, matrix_picture, save_artifacts, shades, timeline
from jaxrec.run.show.report import write_report
from jaxrec.settings import Train, preset
from jaxrec.tasks.system import named_system, system_of

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('x')</script>&\""


@pytest.mark.parametrize(
    ("side", "channels", "captioned", "scale"),
    [(28, 1, False, 2), (28, 1, True, 3), (8, 3, False, 7), (64, 3, False, 1), (100, 1, True, 1)],
)
def test_grid_places_every_pixel(side: int, channels: int, captioned: bool, scale: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, side, side, channels)).astype(np.uint8)
    captions = [["a"] * 3] * 2 if captioned else None
    drawn = np.asarray(grid(images.astype(np.float32) / 255, captions))
    cell = side * scale
    assert drawn.shape[1] == 3 * cell + 2 * GAP
    foot = (drawn.shape[0] - GAP - 2 * cell) // 2
    assert (foot > 0) == captioned
    for row, column in np.ndindex(2, 3):
        y, x = row * (cell + foot + GAP), column * (cell + GAP)
        expected = np.kron(images[row, column], np.ones((scale, scale, 1), np.uint8))
        np.testing.assert_array_equal(drawn[y : y + cell, x : x + cell], np.broadcast_to(expected, (cell, cell, 3)))
    assert (drawn[:, cell : cell + GAP] == 255).all()


def test_grid_clips_and_takes_nan_for_black() -> None:
    drawn = np.asarray(grid(np.array([-3.0, 9.0, np.nan, 0.5]).reshape(1, 4, 1, 1, 1)))
    assert drawn[0, :: 56 + GAP, 0].tolist() == [0, 255, 0, 128]


def test_grid_writes_mistakes_in_red() -> None:
    drawn = np.asarray(grid(np.zeros((1, 2, 84, 84, 1)), [["cat", "dog"]], np.array([[True, False]]))).astype(int)
    red = (drawn[84:, :, 0] - drawn[84:, :, 1]).max(axis=0)
    assert red[:84].max() > 100
    assert red[84:].max() < 10


def test_classes_are_named_and_right_or_wrong_and_quantities_are_numbers(monkeypatch) -> None:
    written = []
    monkeypatch.setattr(pictures, "grid", lambda _, *told: written.append(told))
    cells = {"images": np.zeros((1, 3, 4, 4, 1)), "prediction": np.array([[2, 1, 0]])}
    pictures.drawn("classes", {**cells, "label": np.array([[2, 0, 0]])}, ["a", "b", "c"])
    quantities = {"label": np.array([[2.0, 6.6, 0.5]]), "prediction": np.array([[2.0004, 1234.5, 0.25]], np.float32)}
    pictures.drawn("quantities", {**cells, **quantities}, [])
    (classes, wrong), (numbers, none) = written
    assert classes == [["c", "b\nis a", "a"]] and wrong.tolist() == [[False, True, False]]
    assert numbers == [["2", "1.23e+03\nis 6.6", "0.25\nis 0.5"]] and none is None


@pytest.mark.parametrize("diagonal", [True, False])
def test_more_counts_are_darker(diagonal: bool) -> None:
    levels = []
    for count in (0, 1, 5, 20, 60, 100):
        matrix = np.array([[count, 100 - count], [3, 4]]) if diagonal else np.array([[100 - count, count], [3, 4]])
        levels.append(shades(matrix)[0, 0 if diagonal else 1].astype(int).sum())
    assert all(after < before for before, after in pairwise(levels))


@pytest.mark.parametrize("count", [1, 2, 10, 20, 21, 100, 1000])
def test_a_matrix_keeps_its_shades_at_any_size(count: int) -> None:
    matrix = np.random.default_rng(1).integers(0, 3000, (count, count))
    picture = np.asarray(matrix_picture(matrix, [f"a rather long name {i}" for i in range(count)]))
    cell = max(44, 640 // count) if count <= 20 else max(1, 800 // count)
    margin = picture.shape[0] - count * cell
    assert (margin > 0) == (count <= 20)
    np.testing.assert_array_equal(picture[margin::cell, margin::cell][:count, :count], shades(matrix))


def test_a_matrix_with_a_class_without_examples() -> None:
    assert matrix_picture(np.array([[0, 0], [1, 2]]), []).size[0] > 0
    assert (shades(np.zeros((3, 3), int)) == 250).all()


def _points(svg: str) -> list[list[tuple[float, float]]]:
    lines = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return [[tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()] for line in lines]


@pytest.mark.parametrize(
    "values", [[1.0, 2.0, 4.0, 9.0], [1e-4, 1e-2, 1.0, 100.0], [-5.0, -1.0, 0.0, 2000.0], [7e9] * 4]
)
def test_curves_keep_the_order_of_steps_and_values(values: list[float]) -> None:
    history = {"train": list(zip((0, 10, 20, 30), values, strict=True)), "validation": [(30, values[-1])]}
    train, validation = _points(curves(history))
    assert [x for x, _ in train] == sorted({x for x, _ in train})
    heights = [y for _, y in train]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == len(set(values))
    assert validation == train[-1:]
    assert all(0 <= x <= 440 and 0 <= y <= 250 for x, y in train)


def test_curves_are_logarithmic_over_two_decades_only() -> None:
    (wide,) = _points(curves({"a": [(0, 0.001), (1, 0.1), (2, 10.0)]}))
    assert wide[0][1] - wide[1][1] == pytest.approx(wide[1][1] - wide[2][1], abs=0.2)
    (narrow,) = _points(curves({"a": [(0, 1.0), (1, 2.0), (2, 3.0)]}))
    assert narrow[0][1] - narrow[1][1] == pytest.approx(narrow[1][1] - narrow[2][1], abs=0.2)


@pytest.mark.parametrize(
    ("history", "lines"),
    [
        ({}, 0),
        ({"a": []}, 0),
        ({"a": [(1, math.nan)]}, 0),
        ({"a": [(1, math.nan), (2, 1.0), (3, math.inf), (4, 2.0)]}, 1),
        ({EVIL: [(5, 0.0)]}, 1),
    ],
)
def test_curves_are_xml_whatever_the_values(history: dict, lines: int) -> None:
    svg = curves(history)
    assert len(_points(svg)) == lines
    assert "<script" not in svg
    assert "nan" not in re.sub("<title>.*?</title>", "", svg)


def test_curves_stay_small_for_a_long_run() -> None:
    (line,) = _points(curves({"train": [(step, 1 / (1 + step)) for step in range(100_000)]}))
    assert len(line) == 400
    assert line[0][0] == 56
    assert line[-1][0] == 428


def test_artifacts_are_saved_and_samples_kept_by_step(tmp_path) -> None:
    images, label = np.random.default_rng(0).random((2, 2, 8, 8, 1)), np.array([[0, 1], [1, 7]])
    cells = {"images": images, "label": label, "prediction": label.T, "confidence": np.full((2, 2), 0.5)}
    for step in (100, 200):
        drawn = {"samples": {"images": images}, "predictions": cells}
        save_artifacts(tmp_path, drawn, ["zero", "one"], step, kept=["samples"])
    save_artifacts(tmp_path, {"samples": {"images": images}, "confusion": {"matrix": np.eye(2, dtype=int)}}, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "confusion.png",
        "predictions.png",
        "samples-00000100.png",
        "samples-00000200.png",
        "samples.png",
    ]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "samples.png")), np.asarray(grid(images)))
    with pytest.raises(ValueError, match="'odd' holds"):
        save_artifacts(tmp_path, {"odd": {"numbers": label}}, [], None)


def test_boxes_are_drawn_where_they_lie_on_enlarged_images(tmp_path) -> None:
    """Of two images of 60 x 80 beside each other the second has a box; one without class, one beyond the border."""
    images = np.zeros((1, 2, 60, 80, 1), np.float32)
    boxes = np.zeros((1, 2, 3, 4), np.float32)
    boxes[0, 1] = [[20, 10, 50, 40], [0, 0, 60, 80], [40, 60, 90, np.nan]]
    classes = np.array([[[-1, -1, -1], [1, -1, 0]]])
    drawn = {"images": images, "boxes": boxes, "box_classes": classes, "box_scores": np.full((1, 2, 3), 0.5)}
    save_artifacts(tmp_path, {"found": drawn, "wrong": {**drawn, "box_wrong": classes == 1}}, ["cell", "dust"])
    with Image.open(tmp_path / "found.png") as opened:
        pixels = np.asarray(opened)
    scale = 4
    assert pixels.shape == (60 * scale, 2 * 80 * scale + GAP, 3)
    left, right = pixels[:, : 80 * scale], pixels[:, 80 * scale + GAP :]
    assert not left.any()
    ink = right[30 * scale, 10 * scale]
    assert ink.any()
    # The outermost pixels of rows 20 to 50 and columns 10 to 40 are the border; between them nothing is drawn.
    ys, xs = np.nonzero((right[20 * scale :] == ink).all(-1))
    assert (ys.min(), ys.max() + 1) == (0, 30 * scale)
    assert (xs.min(), xs.max() + 1) == (10 * scale, 40 * scale)
    assert not right[20 * scale + 4 : 50 * scale - 4, 10 * scale + 4 : 40 * scale - 4].any()
    with Image.open(tmp_path / "wrong.png") as opened:
        wrong = np.asarray(opened)[:, 80 * scale + GAP :][30 * scale, 10 * scale]
    assert wrong[0] > 150 and wrong[1:].max() < 60


def test_a_picture_of_its_own_gets_its_boxes(tmp_path) -> None:
    picture = np.ones((300, 400, 3), np.float32)
    boxes, classes = np.array([[100.0, 50, 200, 150]]), np.array([7])
    save_artifacts(tmp_path, {"photo": {"picture": picture, "boxes": boxes, "box_classes": classes}}, [])
    with Image.open(tmp_path / "photo.png") as opened:
        assert opened.size == (400, 300)
        assert opened.getpixel((50, 150)) != (255, 255, 255) == opened.getpixel((100, 150))


@pytest.mark.parametrize("count", [3, 40])
def test_curves_of_classes_go_through_their_points(tmp_path, count) -> None:
    """One falls, the others are undefined or lie below; of many classes the mean is drawn."""
    at = np.linspace(0, 1, 101)
    lines = np.full((count, 101), np.nan)
    lines[: count - 1] = 1 - at
    save_artifacts(tmp_path, {"curve": {"curves": lines, "at": at, "axes": ("recall", "precision")}}, ["zero"])
    with Image.open(tmp_path / "curve.png") as opened:
        pixels = np.asarray(opened, np.int64)
    dark = np.argwhere(pixels[36:368, 62:448].sum(-1) < 450)
    assert len(dark) > 300
    np.testing.assert_allclose(dark[:, 0] / 336, dark[:, 1] / 390, atol=0.03)


def test_counts_of_a_class_are_dots(tmp_path) -> None:
    """Of two classes the second has images that were counted right and ones that were not; and no image at all."""
    counts = np.array([[0, 0, 0, 9], [1, 0, 0, 1], [1, 4, 4, 5], [1, 4, 0, 2]])
    for name, rows in {"two": counts, "none": np.zeros((0, 4), int)}.items():
        save_artifacts(tmp_path, {name: {"counts": rows}}, ["cell", "dust"])
    with Image.open(tmp_path / "two.png") as opened:
        pixels = np.asarray(opened.convert("RGB"), np.int64)
    second = pixels[44:210, pixels.shape[1] // 2 + 40 : -14]
    low, middle, high = 166 / 10, 166 / 2, 166 * 0.9  # the places of 0, 2 and 4 between -.5 and 4.5
    across = {0: 18, 4: 177}
    colored = second.max(-1) - second.min(-1) > 60
    for true, detected, there in (
        (4, high, True),
        (4, low, True),
        (0, low, True),
        (0, high, False),
        (4, middle, False),
    ):
        assert colored[round(166 - detected), across[true]] == there


@pytest.mark.parametrize(("count", "frames"), [(0, None), (1, None), (2, 2), (30, 24)])
def test_timeline_shows_at_most_24_steps(tmp_path, count: int, frames: int | None) -> None:
    for step in range(count):
        images = np.full((1, 2, 8, 8, 1), step / max(count - 1, 1))
        save_artifacts(tmp_path, {"samples": {"images": images}}, [], step, kept=["samples"])
    path = timeline(tmp_path, "samples")
    if frames is None:
        assert path is None
        return
    with Image.open(tmp_path / "samples.gif") as animation:
        assert animation.n_frames == frames
        seen = []
        for index in range(frames):
            animation.seek(index)
            seen.append(animation.convert("L").getpixel((10, 10)))
    assert seen[0] < seen[-1]
    assert seen == sorted(seen)


class _Tags(HTMLParser):
    """Collects tags and attributes, and checks that every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _run(folder, name: str = "cnn-digits-1", classes: tuple[str, ...] = ("zero", "one")):
    run = folder / "runs" / name
    run.mkdir(parents=True)
    config = {
        "task": {"system": "classifier", "model": "cnn", "optimizer": {"lr": 0.000375123, "rules": []}},
        "dataset": "digits",
        "steps": 40,
    }
    dataset = {"name": classes[0] if classes[0] == EVIL else "digits", "train": 1293, "class_names": list(classes)}
    manifest = {
        "versions": {"jax": "0.10.2"},
        "devices": ["cpu", "cpu"],
        "dataset": dataset,
        "parameters": 93322,
        "report": for_the_report(named_system("classifier"), preset("cnn")),
    }
    results = {"split": "test", "examples": 360, "accuracy": 0.972222, "recall": [0.99, 0.95], "step": 40}
    rows = [{"step": s, "split": p, "loss": 1 / s, EVIL: 1.0} for s in (20, 40) for p in ("train", "validation")]
    for file, value in (("config", config), ("manifest", manifest), ("results", results)):
        (run / f"{file}.json").write_text(json.dumps(value))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_artifacts(run / "pictures", {"confusion_matrix": {"matrix": np.eye(2, dtype=int)}}, classes, 40)
    return run


def test_report_of_a_whole_run(tmp_path) -> None:
    run = _run(tmp_path)
    page = write_report(run).read_text()
    tags = _Tags(page)
    assert "cnn on digits: accuracy 0.9722 on 360 test examples." in page
    assert page.index("<td>one</td>") < page.index("<td>zero</td>")
    assert "0.000375123" in page
    assert "93,322" in page
    assert "jaxrec evaluate runs/cnn-digits-1" in page
    assert "Stopped early" not in page
    assert sum(tag == "svg" for tag, _ in tags.seen) == 2
    images = [attrs["src"] or "" for tag, attrs in tags.seen if tag == "img"]
    assert len(images) == 1
    assert images[0].startswith("data:image/png;base64,")
    assert [tag for tag, _ in tags.seen if tag in ("script", "link", "iframe")] == ["script"]
    assert not [attrs for _, attrs in tags.seen if str(attrs.get("href", "")).startswith(("http", "//"))]


def test_report_escapes_every_name(tmp_path) -> None:
    run = _run(tmp_path, "<b>bold</b>".replace("/", "_"), (EVIL, "<img src=x>"))
    (run / "pictures" / "confusion_matrix.png").rename(run / "pictures" / "<i>.png")
    page = write_report(run).read_text()
    tags = [tag for tag, _ in _Tags(page).seen]
    assert not {"b", "i"} & set(tags)
    assert tags.count("script") == 1, "the page's own"
    assert tags.count("img") == 1
    assert "&lt;script&gt;" in page
    assert "<h1>&lt;b&gt;bold&lt;_b&gt;</h1>" in page


def test_report_says_which_pictures_cannot_be_read(tmp_path) -> None:
    run = _run(tmp_path)
    Image.new("RGB", (8, 8)).save(run / "pictures" / "postscript.png", "EPS")
    os.mkfifo(run / "pictures" / "pipe.png")
    page = write_report(run).read_text()
    for name, reason in (("postscript", "its content is none of PNG"), ("pipe", "not a file")):
        assert re.search(rf"{name}\.png is not a readable image \({reason}", page)
    assert page.count("<img ") == 1


def test_report_of_an_empty_folder(tmp_path) -> None:
    page = write_report(tmp_path).read_text()
    _Tags(page)
    for sentence in ("Nothing has been logged", "No test metrics", "No metrics", "No pictures", "none written"):
        assert sentence in page
    with pytest.raises(UserError, match="missing"):
        write_report(tmp_path / "missing")


@pytest.mark.parametrize(
    ("missing", "planned", "sentence"),
    [
        (True, 100, "last logged step 40 of 100."),
        (True, None, "last logged step 40."),
        (False, 100, "after step 40 of 100"),
    ],
)
def test_report_says_how_far_the_run_came(tmp_path, missing: bool, planned: int | None, sentence: str) -> None:
    run = _run(tmp_path)
    config = json.loads((run / "config.json").read_text()) | {"steps": planned}
    (run / "config.json").write_text(json.dumps(config))
    if missing:
        (run / "results.json").unlink()
    assert sentence in write_report(run).read_text()


@pytest.mark.parametrize(("side", "frames"), [(1, 1), (2400, 1), (288, 24)])
def test_every_picture_is_in_the_page(tmp_path, side: int, frames: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (frames, side, side, 3), np.uint8)
    first, *rest = map(Image.fromarray, noise)
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "pictures" / ("noise.gif" if rest else "noise.png")
    first.save(path, save_all=True, append_images=rest) if rest else first.save(path)
    tags = _Tags(write_report(tmp_path).read_text()).seen
    (source,) = [attrs["src"] or "" for tag, attrs in tags if tag == "img"]
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.*)", source).groups()
    with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert shown.format == kind.upper()
        assert getattr(shown, "n_frames", 1) == frames
        assert abs(np.asarray(shown.convert("RGB")).mean() - noise[0].mean()) < 3
    assert len(data) < 700_000
    assert f"pictures/{path.name}" in [attrs.get("href") for tag, attrs in tags if tag == "a"]


@pytest.mark.parametrize("name", ["猫犬", "кошка", "γάτα", "قط", "Maß"])
def test_a_name_is_written_with_its_letters_or_as_a_number(name: str) -> None:
    def drawn(text: str) -> np.ndarray:
        return np.asarray(matrix_picture(np.eye(2, dtype=int), [text, "dog"]))

    assert can_write("dog")
    if not can_write(name):
        np.testing.assert_array_equal(drawn(name), drawn("0"))
        return
    # Boxes would look the same for any letters of as many.
    assert drawn(name).shape != drawn(name[::-1]).shape or (drawn(name) != drawn(name[::-1])).any()


@pytest.mark.parametrize("name", ["\U000f0000", "a\nb", "\udcff"])
def test_a_name_without_letters_is_written_as_a_number(name: str) -> None:
    assert not can_write(name)
    matrix = np.eye(2, dtype=int)
    np.testing.assert_array_equal(matrix_picture(matrix, [name, "dog"]), matrix_picture(matrix, ["0", "dog"]))


def test_metrics_with_torn_lines_and_nan(tmp_path) -> None:
    lines = [
        '{"step": 1, "loss": NaN}',
        '{"step": 2, "lo{"step": 2, "loss": 3.0}',
        "7",
        '{"loss": 2.0}',
        '{"step": "2", "loss": 2.0}',
        "[" * 100_000,
        '{"step": 3, "loss": 1.5}',
        '{"st',
    ]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\xc3")
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 3]
    assert math.isnan(rows[0]["loss"])
    _Tags(write_report(tmp_path).read_text())


def test_a_resumed_run_counts_each_step_once(tmp_path) -> None:
    rows = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 4.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = write_report(tmp_path).read_text()
    assert "step 2: 4<" in page
    assert "step 2: 9<" not in page


@pytest.mark.parametrize(
    ("model", "metrics", "headline", "commands"),
    [
        ("cnn", {"loss": 0.5, "accuracy": 0.75, "f1_macro": 0.7}, "accuracy 0.75", ["evaluate", "predict", "explain"]),
        ("cnn", {"loss": 0.5, "hamming": 0.25}, "loss 0.5", ["evaluate", "predict", "explain"]),
        ("autoencoder", {"loss": 9.0, "mse": 0.01, "psnr": 20.5}, "psnr 20.5", ["evaluate", "predict"]),
        ("vae", {"elbo": -92.0, "nll": 90.5, "psnr": 1.0}, "nll 90.5", ["evaluate", "predict", "generate"]),
        ("gan", {"loss": 3.0, "class_consistency": 0.96}, "class consistency 0.96", ["evaluate", "generate"]),
        ("gan", {"loss": 3.0, "frechet_distance": 7.5}, "frechet distance 7.5", ["evaluate", "generate"]),
    ],
)
def test_report_leads_with_the_headline_of_the_system(tmp_path, model, metrics, headline, commands) -> None:
    run, task = _run(tmp_path), preset(model)
    config = {"task": {"model": model}, "dataset": "digits", "runs": "/some where/runs", "steps": 40}
    (run / "config.json").write_text(json.dumps(config))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["report"] = for_the_report(system_of(task), task)
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "results.json").write_text(json.dumps({"split": "test", "examples": 360, "step": 40, **metrics}))
    page = write_report(run).read_text()
    assert f"{model} on digits: {headline} on 360 test examples." in page
    folder = "&#x27;/some where/runs/cnn-digits-1&#x27;"
    assert re.findall(r"jaxrec (\w+) " + re.escape(folder), page) == commands
    assert "jaxrec train --name cnn-digits-1 --runs &#x27;/some where/runs&#x27; --resume" in page


def test_report_shows_what_a_system_says_of_itself(tmp_path) -> None:
    """A headline, a caption and a metric by class of which no code of the report has heard."""
    run = _run(tmp_path)
    manifest = json.loads((run / "manifest.json").read_text())
    facts = {"headline": ["turning"], "captions": {"confusion_matrix": "How it turned."}, "evolving": []}
    manifest["report"] = {**facts, "score": None, "commands": ["evaluate"]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    results = {"split": "test", "examples": 9, "step": 40, "accuracy": 0.5, "turning": 0.25, "roundness": [0.5, 0.125]}
    (run / "results.json").write_text(json.dumps(results))
    page = write_report(run).read_text()
    assert "cnn on digits: turning 0.25 on 9 test examples." in page
    assert "<figcaption>How it turned. <a" in page
    assert page.index("<td>one</td><td>0.125</td>") < page.index("<td>zero</td><td>0.5</td>")


@pytest.fixture(scope="module")
def photos(trained_on_photos):
    return trained_on_photos[0]


@pytest.fixture(scope="module")
def trained_on_photos(tmp_path_factory):
    """A run on a folder of 40 training and 90 test images, and its reports while it trained."""
    folder, runs = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 45)):
        for label, name in enumerate(("dog", "猫")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.normal(100 + 30 * label, 40, (12, 12)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number:03}.png")
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(evaluation, "MOST", 32)
        task = replace(preset("cnn"), width=0.1)
        config = Train(task, f"folder:{folder}", steps=8, batch_size=16, eval_every=4, runs=str(runs), name="dogs")
        while_training: list[str] = []

        def note(moment: Moment) -> None:
            page = Path(config.runs) / str(config.name) / "report.html"
            if moment.evaluates and not moment.last:
                while_training.append(page.read_text("utf-8"))

        return jaxrec.fit(config, observers=[note]), while_training


def test_the_worst_mistakes_are_those_of_the_whole_split(photos) -> None:
    split = open_dataset(photos.config.dataset).splits["test"]
    examples, root = split.load(), photos.config.dataset.removeprefix("folder:")
    probabilities = jaxrec.load(photos.folder).predict(examples["image"])["probabilities"]
    loss = -np.log(probabilities[np.arange(90), examples["label"]])
    order = np.argsort(-loss, kind="stable")[:32]
    with (photos.folder / "pictures" / "worst_mistakes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = split.features["label"].names
    assert [int(row["example"]) for row in rows] == order.tolist()
    np.testing.assert_allclose([float(row["loss"]) for row in rows], loss[order], rtol=1e-4)
    for row, number in zip(rows, order, strict=True):
        with Image.open(f"{root}/{row['file']}") as file:
            np.testing.assert_array_equal(np.asarray(file), examples["image"][number, ..., 0])
        assert row["truth"] == names[examples["label"][number]] == row["file"].split("/")[1]
        assert row["prediction"] == names[probabilities[number].argmax()]
        assert float(row["probability"]) == pytest.approx(probabilities[number].max(), rel=1e-4)
    with Image.open(photos.folder / "pictures" / "worst_mistakes.png") as picture:
        drawn = np.asarray(picture)
    np.testing.assert_array_equal(drawn[:84:7, :84:7, 0], examples["image"][order[0], ..., 0])
    np.testing.assert_array_equal(drawn[:84:7, -84::7, 0], examples["image"][order[7], ..., 0])


def test_worst_examples_become_a_grid_of_whole_rows() -> None:
    images = np.random.default_rng(0).random((11, 1, 600, 300, 1))
    cells = arranged({"images": images, "label": np.arange(11)})
    assert cells["label"].tolist() == [list(range(8))]
    assert cells["images"].shape == (1, 8, 200, 100, 1)
    np.testing.assert_allclose(cells["images"][0, 3, 5, 7], images[3, 0, 15:18, 21:24].mean())
    assert arranged({"images": np.zeros((11, 4, 8, 8, 3))})["images"].shape == (8, 4, 8, 8, 3)
    boxes = {"images": np.zeros((3, 2, 1000, 500, 3)), "boxes": np.full((3, 2, 5, 4), 400.0)}
    cells = arranged({**boxes, "box_classes": np.zeros((3, 2, 5), int)})
    assert cells["images"].shape == (3, 2, 500, 250, 3)
    assert cells["boxes"].shape == (3, 2, 5, 4) and (cells["boxes"] == 200).all()
    assert cells["box_classes"].shape == (3, 2, 5)


def _charts(page: str) -> list[str]:
    return re.findall(r'<figure class="chart"><figcaption>([^<]*?) ?<', page)


def test_no_curve_comes_twice_and_no_class_is_a_curve(tmp_path) -> None:
    run = _run(tmp_path)
    same = {"worst_class": 1, "lr": 0.1}
    rows = [
        {"step": step, "split": "train", "loss": step, "generator_loss": step, "odd": -step, **same} for step in (1, 2)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = {"split": "test", "examples": 9, "step": 40, "accuracy": 0.5, "worst_class": 1}
    (run / "results.json").write_text(json.dumps(results))
    page = write_report(run).read_text()
    opened, folded = page.split("1 more curve")
    assert _charts(opened) == ["loss", "lr"] and _charts(folded) == ["odd"]
    assert "the same: generator loss" in opened
    assert "<td>worst class</td><td>one</td>" in page


def test_each_class_has_a_row_with_its_figures(photos) -> None:
    results, page = photos.results, (photos.folder / "report.html").read_text("utf-8")
    for number, name in enumerate(("dog", "猫")):
        figures = [results[key][number] for key in ("precision", "recall", "f1", "support")]
        cells = "".join(f"<td>{'undefined' if value is None else figure_text(value)}</td>" for value in figures)
        assert f"<td>{name}</td>{cells}" in page


def test_the_report_says_what_differs_from_the_defaults_and_how_to_train_it_again(photos) -> None:
    page = (photos.folder / "report.html").read_text("utf-8")
    again = re.findall(r"<pre>(jaxrec train --model [^<]*)</pre>", page)
    config = read_arguments(shlex.split(html.unescape(again[0]))[2:])
    assert config.task == replace(preset("cnn"), width=0.1)
    assert (config.dataset, config.steps, config.batch_size) == (photos.config.dataset, 8, 16)
    for option in ("--width", "--steps", "--batch-size"):
        assert f"<td>{option}</td>" in page
    assert "<td>--validation</td>" not in page


def test_a_search_leads_with_its_best_member(tmp_path) -> None:
    run = _run(tmp_path)
    members = []
    for number, accuracy in enumerate((0.5, 0.9, 0.7)):
        values = {"optimizer.lr": 0.1 / (1 + number)}
        record = {"member": number, "seed": 0, "values": values, "validation": 1 - accuracy, "failed": None}
        members.append({**record, "dropped": None, "test": {"accuracy": accuracy}})
    (run / "members.json").write_text(json.dumps(members))
    results = {"split": "test", "examples": 360, "step": 40, "members": 3, "checkpoint_of": 1}
    (run / "results.json").write_text(json.dumps({**results, "accuracy": 0.7, "accuracy_std": 0.2}))
    page = write_report(run).read_text()
    assert "accuracy 0.9 on 360 test examples, the best of 3 members." in page
    order = [page.index(f"<tr><td>{number}</td><td>0</td>") for number in (1, 2, 0)]
    assert order == sorted(order)


def test_the_report_is_there_while_the_run_trains(trained_on_photos) -> None:
    (page,) = trained_on_photos[1]
    assert "last logged step 4 of 8." in page
    assert page.count("<img ") == 3, "worst mistakes, predictions, a batch as augmented"
    _Tags(page)


def test_loss_headline_learning_rate_and_rate_are_in_the_open(photos) -> None:
    opened = (photos.folder / "report.html").read_text("utf-8").partition("more curves</summary>")[0]
    assert _charts(opened) == ["loss", "accuracy", "lr", "examples per second"]


def test_the_runs_of_a_folder_are_listed(photos, tmp_path) -> None:
    assert (photos.folder.parent / "index.html").is_file()
    _run(tmp_path)
    shutil.copytree(photos.folder, tmp_path / "runs" / "dogs")
    damaged = tmp_path / "runs" / EVIL[:7]
    damaged.mkdir()
    (damaged / "config.json").write_text("[")
    page = write_index(tmp_path / "runs").read_text("utf-8")
    links = [attrs["href"] for tag, attrs in _Tags(page).seen if tag == "a"]
    assert sorted(links) == ["%3Cscript/report.html", "cnn-digits-1/report.html", "dogs/report.html"]
    assert f"accuracy {figure_text(photos.results['accuracy'])}" in page and "accuracy 0.9722" in page


@pytest.mark.parametrize("file", ["config.json", "manifest.json", "results.json", "members.json"])
@pytest.mark.parametrize("content", ["", "3", "[" * 100_000])
def test_a_damaged_file_is_named(photos, tmp_path, file, content) -> None:
    other = shutil.copytree(photos.folder, tmp_path / "cats")
    (other / file).write_text(content)
    with pytest.raises(UserError, match=file):
        compare_command([str(photos.folder), str(other), "--out", str(tmp_path / "both.html")])
    assert not (tmp_path / "both.html").exists()


def test_runs_are_compared(photos, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    other = shutil.copytree(photos.folder, tmp_path / "cats")
    config, results = (json.loads((other / f"{name}.json").read_text()) for name in ("config", "results"))
    config["task"]["optimizer"]["lr"] = 0.25
    results["accuracy"] = 1.0
    (other / "config.json").write_text(json.dumps(config))
    (other / "results.json").write_text(json.dumps(results))
    compare_command([str(photos.folder), str(other), "--out", str(tmp_path / "both.html")])
    said, page = capsys.readouterr().out, (tmp_path / "both.html").read_text("utf-8")
    rows = [re.split(r"\s*[│┃]\s*", line.strip("│ ")) for line in said.splitlines()]
    assert ["--optimizer.lr", "0.001", "0.25"] in [[cell.strip() for cell in row] for row in rows]
    assert "--batch-size 16" in said and "--width" not in said.split("test metrics")[0]
    assert "<td>--optimizer.lr</td><td>0.001</td><td>0.25</td>" in page
    assert f"<td>accuracy ↑</td><td>{figure_text(photos.results['accuracy'])}</td><td><strong>1</strong></td>" in page
    loss = ElementTree.fromstring(re.findall("<svg.*?</svg>", page)[0]).attrib["data-series"]
    assert [name for name, _ in json.loads(loss)] == ["dogs", "cats"]
    _Tags(page)
    with pytest.raises(UserError, match="two"):
        compare_command([str(other)])
    with pytest.raises(UserError, match="--out"):
        compare_command([str(photos.folder), str(other), "--out", str(tmp_path / "missing" / "both.html")])


BROWSERS = [path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path]
LOOK = """
<body><script>
onload = async () => {
  const seen = [];
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument;
    page.querySelectorAll("details").forEach(each => each.open = true);
    await Promise.all([...page.images].map(image => image.decode().catch(() => {})));
    const chart = page.querySelector("svg[data-series]");
    if (chart) {
      const box = chart.getBoundingClientRect();
      chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right}));
    }
    seen.push({
      width: frame.width, wide: page.documentElement.scrollWidth,
      images: page.images.length, decoded: [...page.images].filter(image => image.naturalWidth > 0).length,
      values: chart ? page.querySelector(".values").textContent : "",
      paper: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    });
  }
  document.title = JSON.stringify(seen);
};
</script>
"""


@pytest.mark.skipif(not BROWSERS, reason="no Chromium is installed")
@pytest.mark.parametrize(("scheme", "paper"), [(1, "rgb(255, 255, 255)"), (0, "rgb(21, 24, 28)")])
def test_pages_in_a_browser(photos, tmp_path, scheme: int, paper: str) -> None:
    """At 1400 and 400 pixels, light and dark: nothing is wider than the page, and every picture is shown."""
    compared = tmp_path / "compare.html"
    write_comparison(compare([photos.folder, photos.folder]), compared)
    frames = ""
    for page in (photos.folder / "report.html", photos.folder.parent / "index.html", compared):
        for width in (1400, 400):
            text = html.escape(page.read_text("utf-8"))
            frames += f'<iframe width="{width}" height="900" style="border:0" srcdoc="{text}"></iframe>'
    (tmp_path / "look.html").write_text(f'<meta charset="utf-8">{LOOK}{frames}', "utf-8")
    # The budget runs on while pictures are decoded, which takes long on a busy machine.
    command = [BROWSERS[0], "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=100000"]
    command += [f"--user-data-dir={tmp_path}/browser", f"--blink-settings=preferredColorScheme={scheme}"]
    command += ["--dump-dom", f"file://{tmp_path}/look.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title, done.stderr[-2000:]
    seen = json.loads(html.unescape(title[1]))
    assert len(seen) == 6
    for page in seen:
        assert page["wide"] <= int(page["width"])
        assert page["decoded"] == page["images"]
        assert page["paper"] == paper
    assert [page["images"] for page in seen] == [4, 4, 0, 0, 0, 0]
    assert all(page["values"].startswith("step 8: ") for page in (*seen[:2], *seen[4:]))
