"""What the terminal shows: the bar's line at any width, rates over the last seconds, the table at the end."""

import io

import pytest
from rich.console import Console

from jaxrec.run.show.screen import Pace, figures, open_bar, told

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
