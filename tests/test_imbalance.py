"""Sets in which some classes are rare: an order that draws each class equally often, and weights in the loss."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from conftest import same_arrays, small

from jaxrec.cli.train import main
from jaxrec.data import Balanced, Feature, Split, streamed
from jaxrec.data.splits import from_arrays
from jaxrec.errors import UserError
from jaxrec.run.data import open_data
from jaxrec.settings import Classifier, Train
from jaxrec.tasks import classifier
from jaxrec.tasks.system import named_system

LABEL = np.repeat([0, 3, 4], [57, 3, 10])
"""Classes 1 and 2 have no examples."""


def drawn(order: Balanced, batch_size: int, steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    pairs = [order(seed, step, batch_size) for step in range(steps)]
    return np.concatenate([index for index, _ in pairs]), np.concatenate([epoch for _, epoch in pairs])


def test_each_class_and_within_it_each_example_is_drawn_equally_often():
    index, epoch = drawn(Balanced(LABEL), 7, 90)
    assert index.dtype == epoch.dtype == np.int32
    turns = LABEL[index].reshape(-1, 3)  # 210 turns of three classes.
    np.testing.assert_array_equal(np.sort(turns, axis=1), np.broadcast_to([0, 3, 4], turns.shape))
    assert len({tuple(turn) for turn in turns.tolist()}) == 6
    counts = np.bincount(index, minlength=len(LABEL))
    for number in (0, 3, 4):
        assert counts[number == LABEL].sum() == 210
        assert np.ptp(counts[number == LABEL]) <= 1
    earlier = np.zeros(len(LABEL), int)
    for each, times in zip(index, epoch, strict=True):
        assert times == earlier[each]
        earlier[each] += 1


def test_the_balanced_order_is_a_function_of_seed_and_step():
    index, epoch = drawn(Balanced(LABEL), 7, 90)
    for batch_size in (10, 70):
        again = drawn(Balanced(LABEL), batch_size, 630 // batch_size)
        np.testing.assert_array_equal(again, (index, epoch))
    late = Balanced(LABEL)(0, 80, 7)
    np.testing.assert_array_equal(late, (index[560:567], epoch[560:567]))
    assert not np.array_equal(drawn(Balanced(LABEL), 7, 90, seed=1)[0], index)
    assert Balanced(LABEL)(2**32 - 1, 10**9, 512)[0].max() < len(LABEL)


def test_streamed_batches_follow_the_order():
    features = {"label": Feature("class", (), "int32", tuple("abcde"))}
    split = Split(from_arrays({"label": LABEL.astype(np.int32)}), np.arange(len(LABEL)), features)
    order = Balanced(LABEL)
    halves = [streamed(split, 5, 6, 40, steps=3, share=(part, 2), order=order) for part in range(2)]
    for step, *parts in zip(range(40, 43), *halves, strict=True):
        index, epoch = order(5, step, 6)
        for name, values in {"index": index, "epoch": epoch, "label": LABEL[index]}.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_balanced_run_goes_on_bit_for_bit(tmp_path):
    settings = ["--sampler", "balanced", "--class-weights", "effective", "--optimizer.schedule", "constant"]
    settings += ["--optimizer.warmup", 0, "--eval-every", 9]
    for name, steps in (("part", 2), ("whole", 5)):
        assert main(small("cnn", "--runs", tmp_path, "--name", name, "--steps", steps, *settings)) == 0
    assert main(["--name", "part", "--runs", str(tmp_path), "--resume", "--steps", "5"]) == 0
    assert same_arrays(tmp_path / "part", tmp_path / "whole")


def several_labels() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"image": rng.integers(0, 256, (20, 8, 8, 1)).astype(np.uint8), "label": rng.integers(0, 2, (20, 3))}


def test_several_labels_an_image_are_refused():
    task = Classifier(head="sigmoid")
    with pytest.raises(UserError, match="--sampler"):
        config = Train(task=task, sampler="balanced", batch_size=4)
        open_data(config, named_system("classifier"), several_labels(), trains=True)
    facts: Any = SimpleNamespace(features={"label": Feature("classes", (3,), "int32", tuple("abc"))})
    with pytest.raises(UserError, match="--class-weights"):
        classifier.complete(Classifier(head="sigmoid", class_weights="sqrt"), facts)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_the_loss_of_training_weighs_each_image_by_its_class(head):
    rng = np.random.default_rng(1)
    batch = {"image": rng.integers(0, 256, (16, 8, 8, 1)).astype(np.uint8), "label": np.arange(16, dtype=np.int32) % 3}
    facts: Any = SimpleNamespace(
        features={"label": Feature("class", (), "int32", tuple("abc"))},
        class_counts=lambda name: np.array([80, 10, 10]),
    )
    asked = Classifier(width=0.1, head=head, standardize="unit", class_weights="inverse")
    config = classifier.complete(asked, facts)
    np.testing.assert_allclose(config.weights, np.array([1.25, 10, 10]) / 3, rtol=1e-6)
    state = classifier.init(config, jax.random.key(0), batch)
    _, metrics = jax.jit(classifier.train_step)(state, batch)
    p = np.asarray(classifier.predict(state, batch["image"])["probabilities"], np.float64)
    truth = np.eye(3)[batch["label"]]
    if head == "softmax":
        loss = -(truth * np.log(p)).sum(1)
    else:
        loss = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean(1)
    weights = np.array(config.weights)[batch["label"]]
    assert float(metrics["loss"]) == pytest.approx((weights * loss).mean(), rel=1e-5)
    # Evaluation is by the loss as it is.
    evaluated = classifier.eval_step(state, batch)["classification"].compute()
    assert evaluated["loss"] == pytest.approx(loss.mean(), rel=1e-5)
