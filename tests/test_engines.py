"""Predictions by Ray and Spark: what a worker answers, and whole jobs where the engines are installed."""

import importlib.util
import io
import json

import numpy as np
import pytest
from PIL import Image

from jaxrec.cli.predict import main
from jaxrec.errors import UserError
from jaxrec.run.engines import ENGINES, PACKAGES, answers, image_files, is_parquet
from jaxrec.run.trained import load

pytestmark = [pytest.mark.usefixtures("as_users_run_it")]
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)


def png(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def test_a_worker_answers_as_the_run_does_and_names_what_it_cannot_read(trained):
    run = trained("cnn")
    contents = [*map(png, IMAGES[:3]), b"broken", png(IMAGES[3])]
    paths = [f"{number}.png" for number in range(5)]
    found = answers(str(run), None, paths, contents)
    assert found["path"] == paths
    expected = load(run).predict(IMAGES[:4, ..., None])["probabilities"]
    rows = [json.loads(text) for text in found["answer"] if text]
    np.testing.assert_allclose([list(row["probabilities"].values()) for row in rows], expected, atol=1e-5)
    assert [found["prediction"][place] for place in (0, 1, 2, 4)] == [str(each) for each in expected.argmax(-1)]
    assert [bool(error) for error in found["error"]] == [False, False, False, True, False]
    assert "3.png" in found["error"][3] and not found["answer"][3]


def test_sources_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        is_parquet(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no images"):
        image_files(str(tmp_path))
    (tmp_path / "a.png").write_bytes(png(IMAGES[0]))
    assert not is_parquet(str(tmp_path)) and image_files(str(tmp_path)) == [str(tmp_path / "a.png")]
    (tmp_path / "part.parquet").touch()
    assert is_parquet(str(tmp_path))


@pytest.mark.filterwarnings("ignore")  # The engines' own.
@pytest.mark.parametrize("engine", ENGINES)
def test_a_job_answers_every_image_once(engine, trained, tmp_path, capsys):
    if any(importlib.util.find_spec(name) is None for name in PACKAGES[engine]):
        with pytest.raises(UserError, match=f"jaxrec\\[{engine}\\]"):
            main([str(trained("cnn")), "--engine", engine, str(tmp_path)])
        pytest.skip(f"{engine} is not installed")
    import pyarrow.parquet

    photos = tmp_path / "photos"
    photos.mkdir()
    for number, image in enumerate(IMAGES):
        (photos / f"{number}.png").write_bytes(png(image) if number != 7 else b"broken")
    main([str(trained("cnn")), "--engine", engine, str(photos), "--out", str(tmp_path / "out")])
    assert "29 images" in capsys.readouterr().out
    table = pyarrow.parquet.read_table(tmp_path / "out" / "answers").to_pydict()
    assert sorted(path.rpartition("/")[2] for path in table["path"]) == sorted(f"{n}.png" for n in range(30))
    assert "7.png" in (tmp_path / "out" / "skipped.csv").read_text()


def test_what_an_engine_does_not_do_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UserError, match="--ensemble"):
        main([str(trained("cnn")), "--engine", "ray", "a", "b"])
    (tmp_path / "answers").mkdir()
    with pytest.raises(UserError, match="--out"):
        main([str(trained("cnn")), "--engine", "ray", "a", "--out", str(tmp_path)])
