"""The benchmark's contestants do the same work, and its page keeps what was not measured again."""

import argparse
import fcntl
import re
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "peers")]

import benchmark
import contest
import flax_step
import jaxrec_step
import on_gpu
import workers

from jaxrec.models import detector
from jaxrec.models.speednet import whitening
from jaxrec.tasks.system import system_of


def sizes(tree) -> list[int]:
    return sorted(leaf.size for leaf in jax.tree.leaves(tree))


SAME_ARRAYS = contest.WORKLOADS.keys() - {"vit", "dcgan", "rnn"} - benchmark.NO_FLAX
ON_GPU = {name: contest.GPU_WORKLOADS[name] for name in ("resnet50", "speednet", "unet")}


@pytest.mark.parametrize(
    "workload",
    [*(contest.WORKLOADS[name] for name in sorted(SAME_ARRAYS)), *map(contest.tiny, ON_GPU.values())],
    ids=[*sorted(SAME_ARRAYS), *(f"gpu-{name}" for name in ON_GPU)],
)
def test_flax_contestant_has_the_same_arrays(workload):
    """All sizes, not just their sum; queries of the transformer, gates and the gan's players are split otherwise."""
    images, _ = contest.examples(workload)
    config = jaxrec_step.config_of(workload, images, bf16=False, width=1.0)
    batch = jaxrec_step.batch_of(workload)
    own = jax.eval_shape(partial(system_of(config).init, config), jax.random.key(0), batch)
    inputs = contest.inputs(workload, images)
    model = flax_step.model_of(workload, inputs, jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    assert sizes(variables["params"]) == sizes([player.params for player in own.players.values()])


@pytest.mark.parametrize("name, players", [("glimpse", {"net"}), ("translator", {"generator", "discriminator"})])
def test_only_the_players_of_the_peers_are_trained(name, players):
    """Neither a network to compare with nor a penalty, and as many parameters as the PyTorch contestant has."""
    workload = contest.WORKLOADS[name]
    config = jaxrec_step.config_of(workload, contest.examples(workload)[0], bf16=False, width=1.0)
    system, batch = system_of(config), jaxrec_step.batch_of(workload)
    state = jax.eval_shape(partial(system.init, config), jax.random.key(0), batch)
    assert state.players.keys() == players
    parameters = sum(sum(sizes(player.params)) for player in state.players.values())
    assert parameters == {"glimpse": 167181, "translator": 2096260}[name]
    # Penalties are hyper-parameters; the peers have none.
    assert not {"r1", "gradient_penalty"} & state.hyper.keys()


@pytest.mark.parametrize("name", sorted(benchmark.NO_FLAX))
def test_flax_says_what_it_lacks(name):
    with pytest.raises(SystemExit, match="Flax"):
        flax_step.build(contest.WORKLOADS[name], contest.parser().parse_args([name]))


def test_places_are_the_detectors():
    workload = contest.WORKLOADS["detector"]
    want = detector.places(workload.size, contest.STRIDES)
    for got, expected in zip(contest.places(workload), want, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_jaxrecs_contestant_trains():
    options = argparse.Namespace(**vars(contest.parser().parse_args(["cnn"])), width=0.25, runs=1)
    with jax.numpy_dtype_promotion("standard"):
        contestant = jaxrec_step.build(contest.Workload("cnn", 8), options)
        first = contestant.advance(1)
        assert contestant.advance(20) < first
        options.several = True
        several = jaxrec_step.build(contest.Workload("cnn", 8), options)
    # One call of ten steps; the loss that is told first is that of the first one.
    assert several.steps == contest.STEPS_A_CALL
    assert several.advance(1) == pytest.approx(first, rel=1e-3)
    assert several.advance(contest.STEPS_A_CALL) < first


def test_whitening_equals_the_models_own():
    workload = contest.WORKLOADS["speednet"]
    x = contest.inputs(workload, contest.examples(workload)[0])
    got, want = contest.whitening(x), np.asarray(whitening(jnp.asarray(x)))
    # A filter may point either way, and its negative stands beside it.
    got = got.reshape(12, 24)[:, :12]
    np.testing.assert_allclose(np.abs(got), np.abs(want), rtol=2e-2, atol=2e-2)


def test_growth_counts_the_operations_that_xla_counts():
    options = contest.parser().parse_args(["cnn"])
    workload = contest.Workload("cnn", 8)
    with jax.numpy_dtype_promotion("standard"):
        counted = flax_step.build(workload, options).flops
    # The formula leaves out what is not a product and counts what meets the padding.
    assert counted == pytest.approx(benchmark.cnn_flops(8, 1.0, 32), rel=0.1)


def test_cheats_are_found():
    class Worker:
        def __init__(self, parameters, first, last):
            self.facts, self.loss = {"parameters": parameters, "loss": first}, last

    workers = {
        "jaxrec": Worker(10, 2.3, 1.0),
        "fair": Worker(10, 2.5, 1.1),
        "smaller": Worker(9, 2.3, 1.0),
        "in bits": Worker(10, 3.3, 1.0),
        "stands still": Worker(10, 2.3, 2.3),
        "no number": Worker(10, float("nan"), 1.0),
    }
    assert set(benchmark.cheats("cnn32", workers)) == {"smaller", "in bits", "stands still", "no number"}


def test_table_without_plain_flax():
    class Worker:
        def __init__(self, seconds):
            self.seconds, self.loss, self.peak = [seconds], 1.0, 2**20
            self.facts = {"import": 1.0, "compile": 1.0, "first": 2.0, "loss": 2.0}

    workers = {"jaxrec": Worker(0.1), "torch": Worker(0.2), "torch, tuned": Worker(0.15)}
    best = benchmark.best_peer(workers)
    assert best == "torch, tuned"
    rows = benchmark.step_rows(workers, limit=1e9)
    # Milliseconds, how much faster, and the two rates that need a count of operations.
    assert rows[1][1:5] == ["200.00", "2.00 (2.00 to 2.00)", "", ""]
    assert "Flax" not in benchmark.comparison(workers, best)
    assert benchmark.summary_row(workers, best)[1:3] == ["torch, tuned", "150.00"]
    alone = {"jaxrec": workers["jaxrec"]}
    assert benchmark.best_peer(alone) is None
    assert benchmark.comparison(alone, None) == ""


def test_bend():
    assert "from 16 on, and falls off from 64 on" in benchmark.bend({"8": 5, "16": 9.5, "32": 10, "64": 7})
    assert benchmark.bend({"8": 5, "16": 10}).endswith("from 16 on.")


def test_page_keeps_other_sections(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Performance\n\nAbout.\n\n## One\n\nold\n\n## Two\n\nkept\n")
    benchmark.write(page, {"One": "new", "Three": "added"})
    assert page.read_text() == "# Performance\n\nAbout.\n\n## One\n\nnew\n\n## Two\n\nkept\n\n## Three\n\nadded\n"


def test_new_page_begins_with_what_it_is_about(tmp_path):
    page = tmp_path / "new" / "page.md"
    benchmark.write(page, {"One": "text"}, "# About\n")
    assert page.read_text() == "# About\n\n## One\n\ntext\n"


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--gpu", "--growth"], "--growth"),
        (["--tiny"], "--gpu"),
        (["--gpu", "--tiny", "--write", "page.md"], "--write"),
        (["--gpu", "--workloads", "cnn32"], "cnn32"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, named, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.read_options(arguments)
    assert named in capsys.readouterr().err.partition("error:")[2]


SCRIPT = """
import json, sys, time
what = sys.argv[1]
if what == "fails":
    raise ValueError("out of memory")
if what == "hangs":
    time.sleep(60)
facts = {"import": 1, "compile": 2, "loss": 2.0, "steps": 3, "version": what, "parameters": 1, "flops": 3e12}
print(json.dumps({**facts, "bytes": 2e9}), flush=True)
for line in sys.stdin:
    assert int(line) % 3 == 0
    time.sleep(.01)
    print(json.dumps({"seconds": int(line) / 1000, "loss": 1.0}), flush=True)
print(json.dumps({"peak": 2**20}), flush=True)
"""


def test_gpu_contestants_that_fail_stop_nobody_else(tmp_path, monkeypatch):
    """Of four contestants one fails and one is late, both are named, and the tables have the others."""
    (tmp_path / "scripts" / "peers").mkdir(parents=True)
    (tmp_path / "scripts" / "peers" / "fake.py").write_text(SCRIPT)
    monkeypatch.setattr(workers, "ROOT", tmp_path)
    labels = {"jaxrec": "works", "flax": "works", "late": "hangs", "broken": "fails"}

    def fake(python, workload, entry, folder, flags, burst):
        script = "fake"
        return workers.Worker(python, entry[1][0], (script, [], {}), folder, flags, burst)

    monkeypatch.setattr(on_gpu, "Worker", fake)
    monkeypatch.setattr(on_gpu, "OWN", {label: ("", [what], {}) for label, what in labels.items()})
    monkeypatch.setattr(on_gpu, "POOLED", set())
    monkeypatch.setattr(on_gpu, "PROBES", {workers.PRODUCT: ("", ("", ["works"], {}))})
    given = ["--gpu", "--tiny", "--limit", "2", "--rounds", "2", "--burst", "0.03", "--workloads", "cnn", "vit"]
    sections = dict(on_gpu.gpu_tables(["cnn", "vit"], benchmark.read_options(given), None))
    where = "tiny on a CPU"
    assert list(sections) == [f"Time per step: cnn, {where}", f"Time per step: vit, {where}", "Summary"]
    text = sections[f"Time per step: cnn, {where}"]
    # A millisecond a step, 3 million million operations and 2 GB of traffic in it, as the product's own.
    assert "| flax | 1.000 | 1.00 (1.00 to 1.00) | 3000.0 | 100% |" in text
    assert "Left out: late (no answer after " in text
    assert "Left out: broken (ValueError: out of memory)" in text
    first = sections["Summary"].splitlines()[2]
    assert first.startswith(f"| cnn | {where} | 20") and "| 1.00 | flax | 1.00 |" in first


def test_turns_are_taken(tmp_path):
    options = contest.parser().parse_args(["cnn", "--turns", str(tmp_path), "1"])
    with contest.turn(options):
        place = (tmp_path / "turn0").open("w")
        with pytest.raises(BlockingIOError):
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    place.close()


def test_a_summary_keeps_rows_of_other_workloads_and_processors(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Steps\n")
    head = ["", "processor", "ms"]
    benchmark.write(page, {"Summary": benchmark.table(head, [["cnn", "old", "9"], ["vit", "new", "8"]])})
    benchmark.write(page, {"Summary": benchmark.table(head, [["vit", "new", "7"], ["cnn", "new", "6"]])})
    rows = [["cnn", "old", "9"], ["vit", "new", "7"], ["cnn", "new", "6"]]
    assert page.read_text() == f"# Steps\n\n## Summary\n\n{benchmark.table(head, rows)}\n"


TABLES = sorted((ROOT / "benchmarks").glob("*.md"))
STATED = re.compile(r"^20\d\d-\d\d-\d\d, .*; commit [0-9a-f]{7}.*\.$", re.MULTILINE)


def test_new_tables_state_date_hardware_and_commit(monkeypatch):
    monkeypatch.setattr(benchmark, "commit", lambda: "0123abc-dirty")
    line = benchmark.conditions(["jaxrec 1", "jaxrec 1", "jax 2"], 3)
    assert STATED.fullmatch(line)
    assert benchmark.processor() in line and "jaxrec 1, jax 2; commit 0123abc-dirty; 3 rounds." in line


@pytest.mark.parametrize("page", TABLES, ids=lambda page: page.name)
def test_kept_tables_state_date_hardware_and_commit(page):
    """Once for a whole table, or in columns of their own; a summary may leave it to the tables below it."""
    sections = re.split(r"^## ", page.read_text("utf-8"), flags=re.MULTILINE)[1:]
    assert sections
    for section in sections:
        columns = "| processor | date | commit |" in section
        assert columns or STATED.search(section) or section.startswith("Summary\n"), section.splitlines()[0]


def test_every_figure_of_the_performance_page_is_in_a_table():
    def decimals(text: str) -> set[float]:
        return {float(each) for each in re.findall(r"(?<![\w.])\d*\.\d+(?!\.?\w)", text)}

    measured = set().union(*(decimals(page.read_text("utf-8")) for page in TABLES))
    shown = decimals((ROOT / "docs" / "performance.md").read_text("utf-8"))
    assert len(shown) > 50
    assert shown - measured == set()
