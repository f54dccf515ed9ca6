"""A linear probe: equal to its closed forms, and a run that is nothing but a probe."""

import numpy as np
import pytest
from conftest import small
from sklearn.linear_model import LogisticRegression

from jaxrec.after.probe import linear_head, neighbors_accuracy
from jaxrec.cli.train import main
from jaxrec.errors import UserError
from jaxrec.run.show.log import read_metrics
from jaxrec.run.trained import load

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_the_logistic_regression_of_standardized_features(classes):
    label = np.arange(60) % classes
    features = (RNG.normal(size=(60, 4)) * [1, 10, 100, 1] + label[:, None]).astype(np.float32)
    head = linear_head(features, label, classes + 1)
    assert head.kernel.shape == (4, classes + 1) and head.kernel.dtype == np.float32
    logits = features @ head.kernel + head.bias
    assert logits.argmax(1).max() < classes  # The class that does not occur is never the answer.
    standardized = (features - features.mean(0)) / (features.std(0) + 1e-6)
    reference = LogisticRegression(C=0.1, max_iter=200).fit(standardized, label)
    powers = np.exp(logits[:, :classes] - logits[:, :classes].max(1, keepdims=True))
    np.testing.assert_allclose(powers / powers.sum(1, keepdims=True), reference.predict_proba(standardized), atol=2e-3)


def test_neighbors_vote_by_cosine():
    features, label = np.eye(3, dtype=np.float32) * [[1], [5], [9]], np.array([0, 1, 2])
    asked = np.array([[9, 1, 0], [0, 0.2, 0.1], [0, 0, 3]], np.float32)
    assert neighbors_accuracy(features, label, asked, np.array([0, 1, 2])) == 1.0
    assert neighbors_accuracy(features, label, asked, np.array([0, 2, 2])) == pytest.approx(2 / 3)


def test_a_run_of_a_probe_alone_fits_the_head_and_goes_on_from_it(
    tmp_path, trained, capsys, monkeypatch, as_users_run_it
):
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    asked = ("--init-from", trained("cnn"), "--reinit", "head", "--probe", "--runs", tmp_path, "--name", "a")
    arguments = small("cnn", *asked)
    place = arguments.index("--steps")
    assert main(arguments[:place] + arguments[place + 2 :]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "linear probe of 64 features" in said and "nearest neighbors" in said
    probe = load(tmp_path / "a")
    assert probe.step == 0
    assert probe.evaluate()["accuracy"] > 0.8  # A network of six steps has 0.4.
    assert (tmp_path / "a" / "report.html").is_file()
    assert [row["split"] for row in read_metrics(tmp_path / "a")] == ["validation"]
    assert main(["--resume", "--name", "a", "--runs", str(tmp_path), "--steps", "2"]) == 0
    assert load(tmp_path / "a").step == 2


def test_systems_without_such_a_head_refuse(tmp_path, as_users_run_it):
    for model in ("autoencoder", "speednet"):
        with pytest.raises(UserError, match="--probe"):
            main(small(model, "--probe", "--runs", tmp_path))
    with pytest.raises(UserError, match="--steps"):
        main(small("cnn", "--steps", "0", "--runs", tmp_path))
