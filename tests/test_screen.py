"""What the terminal shows: the bar's line at any width, rates over the last seconds, the table at the end."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from jaxrec.data.features import Feature
from jaxrec.data.splits import Split
from jaxrec.run import judge
from jaxrec.run.introduction import changed_schedule
from jaxrec.run.observers import _score_first
from jaxrec.run.show import screen
from jaxrec.run.show.screen import Pace, Waiting, figures, open_bar, told
from jaxrec.settings import Optimizer
from jaxrec.tasks.system import Score
from jaxrec.waiting import counted, listening

GAN = {
    "discriminator_gradient_norm": 0.4,
    "discriminator_loss": 0.6103,
    "fake": 0.3691,
    "generator_loss": 0.7874,
    "generator_lr": 1e-3,
    "loss": 0.7874,
}


def drawn(width: int) -> str:
    """A bar in the middle of a run, as a terminal of this width shows it."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    bar = open_bar(console)
    loss, *others = told(GAN)
    wished = ["validation loss 0.7912", "8,584 examples/s", *others]
    bar.add_task("training", total=20000, completed=1500, needed=["epoch 12.3", "1:02:45 left", loss], wished=wished)
    with console.capture() as shown:
        console.print(bar.get_renderable())
    return shown.get().rstrip("\n")


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_bar_keeps_step_epoch_time_left_and_loss(width):
    line = drawn(width)
    assert "\n" not in line and len(line) <= width
    for needed in ("step 1500/20000", "epoch 12.3", "1:02:45 left", "loss 0.7874"):
        assert needed in line
    assert ("validation loss 0.7912" in line, "fake 0.3691" in line) == (width >= 100, width >= 200)
    assert "gradient_norm" not in line and "_lr" not in line


def test_the_rate_is_that_of_the_last_seconds():
    pace = Pace(100, 0.0)
    assert pace.step_seconds == 0
    pace.at(110, 5.0)
    assert pace.step_seconds == pytest.approx(0.5)
    for step in range(1, 21):  # Ten times as fast from here on.
        pace.at(110 + 20 * step, 5.0 + step)
    assert pace.step_seconds == pytest.approx(0.05)


def test_many_figures_of_one_kind_share_a_line():
    values = {"loss": "0.3", "precision_macro": "0.9", "precision_micro": "0.8", "precision_weighted": "0.7"}
    values |= {"kernel_distance": "1", "kernel_distance_train_test": "2"}
    assert figures(values) == [
        "  loss                        0.3",
        "  precision                   macro 0.9   micro 0.8   weighted 0.7",
        "  kernel_distance             1",
        "  kernel_distance_train_test  2",
    ]


def test_long_work_is_counted_and_silent_without_a_listener(monkeypatch):
    monkeypatch.setattr(screen, "WAITING_SECONDS", 0)
    said: list[str] = []
    with listening(Waiting(Console(file=io.StringIO()), said.append)):
        assert list(counted("abc", "reading headers", 5, each=2)) == ["a", "b", "c"]
    assert said == [f"reading headers: {done} of 5" for done in (0, 2, 4, 5, 5)]
    assert list(counted("abc", "reading headers", 3)) == ["a", "b", "c"]
    assert len(said) == 5


def test_a_terminal_shows_a_count_that_vanishes():
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system=None, width=80)
    waiting = Waiting(console, print)
    waiting("training the judge", 3, 400)
    assert waiting.line is not None
    waiting.line.refresh()
    assert "training the judge" in shown.getvalue() and "3/400" in shown.getvalue()
    waiting("training the judge", 400, 400)
    assert waiting.line is None


def budget(examples: int, side: int) -> tuple[int, int]:
    features = {"image": Feature("image", (side, side, 3), "uint8")}
    train = Split(lambda rows: {}, np.arange(examples), features)
    config: Any = SimpleNamespace(judge_steps=None)
    return judge.budget(config, train), judge._batch(train)


def test_the_judge_follows_the_data():
    """Usual sets keep the recipe; few or large images are looked at less."""
    assert budget(54000, 28) == (3 * 54000 // 128, 128)
    assert budget(1293, 8) == (400, 128)
    assert budget(72, 96) == (50, 72)
    for examples, side in ((72, 96), (50_000, 224), (10**6, 512)):
        steps, batch = budget(examples, side)
        assert steps >= 1 and steps * batch <= 50 * examples and steps * batch * side**2 <= 2e8


def test_a_longer_schedule_is_said():
    made_with = [[0, {"steps": 1000}], [1000, {"steps": 2000}]]
    optimizer = Optimizer(lr=1e-3, schedule="cosine", warmup=0, steps=2000)
    session: Any = SimpleNamespace(
        progress=SimpleNamespace(made_with=made_with, step=1000),
        config=SimpleNamespace(steps=2000, task=SimpleNamespace(optimizer=optimizer)),
    )
    state: Any = SimpleNamespace(hyper={"lr": 1e-3})
    said = changed_schedule(session, state)
    assert "step 2000, not 1000" in said and "0.0005" in said  # half of a cosine
    made_with[1][1]["steps"] = session.config.steps = 1000
    assert changed_schedule(session, state) == ""


def test_the_score_comes_first_among_validation_metrics():
    session: Any = SimpleNamespace(system=SimpleNamespace(score=Score("mse"), headline=("mse", "ssim", "absent")))
    metrics = {"copy_mse": 8.0, "loss": 0.1, "mse": 3.0, "ssim": 0.5}
    assert list(_score_first(session, metrics)) == ["mse", "ssim", "copy_mse", "loss"]
