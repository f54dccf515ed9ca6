"""The detector as a system: what predict tells of files of other sizes, and when images are put together."""

import csv
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from systems import ROWS, at, batches

from jaxrec.cli import predict
from jaxrec.data.features import Feature
from jaxrec.errors import UserError
from jaxrec.run.show.rectangles import with_boxes
from jaxrec.run.trained import load
from jaxrec.tasks import detector
from jaxrec.tasks.inputs import composing


@pytest.fixture(scope="module")
def told(trained, tmp_path_factory):
    """A run, and what it tells of a photo four times as high and eight times as wide as its images, with every box."""
    folder = tmp_path_factory.mktemp("photos")
    photo = np.random.default_rng(0).integers(0, 256, (128, 256), np.uint8)
    Image.fromarray(photo).save(folder / "0017.png")
    Image.fromarray(photo[:, ::-1]).save(folder / "mirrored.png")
    run = trained("detector")
    with jax.numpy_dtype_promotion("standard"):
        predict.main([str(run), str(folder), "--out", str(folder / "out"), "--score", "0"])
        paths = [folder / "0017.png", folder / "mirrored.png"]
        yield folder / "out", load(run).predict(paths), run


def test_boxes_are_told_in_pixels_of_the_file(told):
    out, outputs, _ = told
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    for place, row in enumerate(rows):
        there = outputs["classes"][place] >= 0
        assert row["objects"] == there.sum() == len(row["boxes"]) > 0
        found = np.array([[box[side] for side in ("y0", "x0", "y1", "x1")] for box in row["boxes"]])
        # An eighth of the photo's size fits in, with 8 rows of border above and below.
        expected = 8 * (outputs["boxes"][place][there] - np.array([8, 0, 8, 0]))
        expected = expected.clip(0, (128, 256, 128, 256))
        np.testing.assert_allclose(found, expected, atol=0.01)
        with Image.open(out / row["pictures"][0]) as picture:
            assert picture.width / picture.height == 2


def test_the_table_and_coco_hold_the_same_boxes(told):
    out, outputs, _ = told
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = list(map(str, range(10)))
    for place, row in enumerate(rows):
        classes = outputs["classes"][place]
        assert [int(row[name]) for name in names] == np.bincount(classes[classes >= 0], minlength=10).tolist()
    results = json.loads((out / "coco.json").read_text())
    images = [17] * int(rows[0]["objects"]) + ["mirrored"] * int(rows[1]["objects"])
    assert [result["image_id"] for result in results] == images
    lines = [json.loads(line)["boxes"] for line in (out / "predictions.jsonl").read_text().splitlines()]
    for result, box in zip(results, [box for line in lines for box in line], strict=True):
        assert result["bbox"] == pytest.approx([box["x0"], box["y0"], box["x1"] - box["x0"], box["y1"] - box["y0"]])
        assert (names[result["category_id"] - 1], result["score"]) == (box["class"], box["score"])


@pytest.mark.usefixtures("as_users_run_it")
def test_a_score_leaves_out_boxes_of_less(told, tmp_path):
    out, outputs, run = told
    least = float(np.median(outputs["scores"][0]))
    predict.main([str(run), str(out.parent / "0017.png"), "--out", str(tmp_path), "--score", f"{least}"])
    (row,) = map(json.loads, (tmp_path / "predictions.jsonl").read_text().splitlines())
    assert row["objects"] == (outputs["scores"][0] >= np.float32(least)).sum() < 100


@pytest.mark.usefixtures("as_users_run_it")
def test_a_score_is_refused_of_runs_without_boxes(trained, told, tmp_path):
    with pytest.raises(UserError, match="--score"):
        predict.main([str(trained("cnn")), str(told[0].parent / "0017.png"), "--out", str(tmp_path), "--score", "0.5"])


def test_images_are_put_together_until_the_last_steps():
    config = ROWS["detector"].config
    of_known_length = replace(config, optimizer=replace(config.optimizer, steps=100))
    state = jax.eval_shape(lambda: detector.init(config, jax.random.key(0), at(batches(config, 1, 2), 0)))
    for step, expected in ((0, True), (84, True), (85, False), (99, False)):
        assert composing(state.replace(step=jnp.int32(step), config=of_known_length)) == expected
    assert composing(state) is True


def test_detection_of_nothing_is_refused():
    config = detector.Config(mean=(0.2,), std=(0.2,))
    with pytest.raises(UserError, match="class"):
        detector.init(config, jax.random.key(0), {"image": np.zeros((1, 8, 8, 1), np.uint8)})


def test_options_reach_what_they_are_for():
    config = replace(ROWS["detector"].config, classes=4)
    batch = at(batches(config, 1, 4), 0)
    images = jnp.asarray(batch["image"], jnp.float32) / 255
    where = detector._cells(config, images)
    keys = jax.random.split(jax.random.key(0))
    count = len(where.strides)
    answer = (jax.random.normal(keys[0], (4, count, 4)), jax.random.normal(keys[1], (4, count, 4, 8)))

    def kept(**changes):
        found = detector._found(replace(config, **changes), answer, images)
        return np.asarray(found.classes >= 0).sum(), np.asarray(found.scores)

    assert kept(overlap=0.2)[0] < kept(overlap=0.9)[0]
    # Soft suppression drops no box and lowers scores.
    assert kept(suppress="soft")[0] > kept(overlap=0.2)[0]
    assert kept(suppress="soft")[1].sum() < kept(overlap=1.0)[1].sum()
    counted = detector._counted(replace(config, score=0.7), detector._found(config, answer, images))
    np.testing.assert_array_equal(counted.classes >= 0, counted.scores >= 0.7)

    def parts(**changes):
        state = jax.eval_shape(lambda: detector.init(replace(config, **changes), jax.random.key(0), batch))
        return jax.tree.map(lambda x: np.asarray(x).sum(), detector._parts(state, answer, where, batch))

    usual, focal, general = parts(), parts(class_loss="varifocal"), parts(box_loss="giou")
    assert usual.classes != focal.classes and usual.box == focal.box
    assert usual.box != general.box and usual.classes == general.classes


def test_files_of_one_name_have_ids_of_their_own():
    box = {"class": "a", "score": 0.5, "y0": 0.0, "x0": 0.0, "y1": 1.0, "x1": 1.0}
    rows = [{"path": path, "boxes": [box]} for path in ("p/0.png", "q/0.png", "q/007.png")]
    features = {"label": Feature("box_classes", (1,), "int32", ("a",))}
    results = detector.listed(detector.Config(), rows, features)["coco"]
    assert [result["image_id"] for result in results] == ["p/0.png", "q/0.png", 7]


def test_images_in_which_nothing_is_found_are_drawn():
    images = np.zeros((2, 40, 40, 3), np.float32)
    none = {"boxes": np.zeros((2, 0, 4)), "box_classes": np.zeros((2, 0), int)}
    assert not with_boxes(images, none, ["a"]).any()
