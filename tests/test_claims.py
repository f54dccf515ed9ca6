"""What README and the file of claims state of experiments is what their headers state; a claim that fails is found."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts")]

import claims

TINY = '''"""Two steps on a few digits.

Command:  jaxrec train --experiment experiments/tiny.py --seed N
Hardware: any
Seeds:    0, 1, 2
Time:     1 s (never measured)
Commit:   0123abc
Result:   accuracy 99.9 % ± 0.1
          examples 8 ± 0
"""

from jaxrec.settings import Classifier, Train

config = Train(
    dataset="digits", validation=0.0, train_split="train[:16]", test_split="test[:8]", batch_size=8, steps=2,
    tune_allocator=False, task=Classifier(model="cnn", width=0.25),
)
'''


@pytest.fixture(scope="module")
def stated() -> claims.Claims:
    return claims.all_claimed(ROOT)


def test_the_file_is_that_of_the_headers(stated):
    assert claims.claims_file(ROOT).read_text("utf-8") == claims.as_text(stated), "run python scripts/claims.py --write"


def test_every_experiment_is_run_by_its_name_with_three_seeds_or_more(stated):
    for name, claim in stated.items():
        assert claim["commands"][0] == f"jaxrec train --experiment {name} --seed N"
        assert len(set(claim["seeds"])) >= 3


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_tables_give_what_is_claimed(page, stated):
    """Every number with a deviation, and the time."""
    text = (ROOT / page).read_text("utf-8")
    for name, claim in stated.items():
        row = re.search(rf"^\| {name} \|.*$", text, re.MULTILINE)
        assert row, f"{page} has no row of {name}"
        pairs = re.findall(rf"({claims.NUMBER})(?: ?[%a-zA-Z]+)? ± ({claims.NUMBER})", row[0])
        shown = {(float(mean), float(deviation)) for mean, deviation in pairs}
        assert shown and shown <= {(each["mean"], each["deviation"]) for each in claim["metrics"].values()}, name
        sizes = [float(size) for size in re.findall(r"([\d.]+) kB", row[0])]
        assert sizes == [each["mean"] for each in claim["metrics"].values() if each["unit"] == "kB"], name
        assert f"| {claim['seconds']} " in row[0], name


@pytest.fixture
def made_up(tmp_path) -> Path:
    """A root with one experiment."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "tiny.py").write_text(TINY, "utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_claim_that_does_not_hold_is_found_by_running_it(made_up, monkeypatch, capsys):
    # The simulated devices of the tests would only slow it down.
    monkeypatch.setenv("XLA_FLAGS", "")
    assert claims.main(["--write"], made_up) == 0
    assert claims.main(["tiny", "--seeds", "1"], made_up) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("tiny, seeds 3:")
    verdicts = {line.split(":")[0].strip(): line.split(": ")[-1] for line in said[2:4]}
    assert verdicts == {"accuracy": "NO LONGER HOLDS", "examples": "holds"}
    assert said[-1] == "no longer holds: tiny accuracy"


def test_the_seeds_are_new_and_the_mean_is_judged(made_up, monkeypatch, capsys):
    claims.main(["--write"], made_up)
    seen = []

    def figures_of(commands, seed, run, root):
        seen.append((commands, seed))
        return {"accuracy": {3: 0.996, 4: 0.997, 5: 0.9985}[seed], "examples": 8}

    monkeypatch.setattr(claims, "figures_of", figures_of)
    # The mean is 99.72 %, which is within two deviations, though one of the values is not.
    assert claims.main([], made_up) == 0
    assert seen == [(["jaxrec train --experiment experiments/tiny.py --seed N"], seed) for seed in (3, 4, 5)]
    monkeypatch.setattr(claims, "figures_of", lambda *_: {"accuracy": 0.999})
    assert claims.main([], made_up) == 1
    assert "examples" in capsys.readouterr().out


def test_a_command_that_fails_is_told(made_up, capsys):
    claims.main(["--write"], made_up)
    (made_up / "experiments" / "tiny.py").unlink()
    assert claims.main(["--seeds", "1"], made_up) == 1
    assert "tiny.py" in capsys.readouterr().out


def test_within_two_deviations_above_or_below():
    claim = {"mean": 1.0, "deviation": 0.1}
    assert claims.holds(claim, [1.2]) and claims.holds(claim, [0.5, 1.1])
    assert not claims.holds(claim, [1.21]) and not claims.holds(claim, [0.79])
    assert claims.holds({"mean": 25.9, "deviation": 0.0}, [25.9, 25.9, 25.9])


def test_a_number_of_a_list_and_a_share():
    figures = {"ap50": [0.5, 0.75], "moves": 11.0}
    assert claims.value_of(figures, "ap50[1]", "%") == 75
    assert claims.value_of(figures, "moves", "") == 11


@pytest.mark.parametrize(
    "good, broken",
    [
        ("Commit:   0123abc\n", ""),
        ("(never measured)", ""),
        ("0, 1, 2", "three"),
        ("accuracy 99.9 % ± 0.1", "an accuracy of 99.9 % ± 0.1"),
        ("± 0.1\n          examples 8 ± 0", "in all"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(good, broken, made_up):
    path = made_up / "experiments" / "tiny.py"
    assert good in TINY
    path.write_text(TINY.replace(good, broken), "utf-8")
    with pytest.raises(ValueError, match="tiny"):
        claims.claimed(path)


def test_an_unknown_experiment_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        claims.main(["nowhere"])
    assert ended.value.code == 2
    assert "nowhere" in capsys.readouterr().err
