"""Checkpoints and saved states hold every leaf bit for bit; the latest and the best are kept; damage is named."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxrec.errors import UserError
from jaxrec.files import open_atomically, write_atomically
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.store.hashes import hash_leaves, hashes_of
from jaxrec.run.store.state import join_state, load_state, save_state, split_state
from jaxrec.tasks.state import Player, State

# Orbax leaves tasks of failed reads and writes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Critic(Player):
    """A player with a field that the library does not know."""

    temperature: jax.Array


class Game(State):
    """A state with a field that the library does not know."""

    scale: Any


class Pool(NamedTuple):
    images: jax.Array
    filled: int


def game(seed: int = 0, size: int = 3) -> Game:
    """A state with every kind of leaf."""
    key = jax.random.key(seed)
    params = {"layer": {"kernel": jax.random.normal(key, (size, 2)), "bias": jnp.full(2, -0.0)}}
    optimizer = optax.adam(1e-3).init(params)
    shared: dict[str, Any] = {"stats": {}, "opt_state": optimizer, "model": None}
    plain = Player(params=params, average=None, **shared)
    critic = Critic(params=params, average=params, temperature=jnp.asarray(0.1 * seed, jnp.bfloat16), **shared)
    extra = {
        "pool": Pool(jnp.arange(12, dtype=jnp.uint8).reshape(3, 4) + seed, 3 + seed),
        "keys": jax.random.split(key, 2),
        "rbg": jax.random.key(seed, impl="rbg"),
        "seen": {"a/b": [np.arange(3, dtype=np.int64) << 40 + seed, 2**40 + seed, True, 0.1]},
        "nothing": None,
        "empty": jnp.zeros((0, 3)),
        "spread": jax.device_put(jnp.arange(8.0) + seed, jax.NamedSharding(jax.make_mesh((8,), ("x",)), jax.P("x"))),
    }
    return Game(
        step=jnp.asarray(7 + seed, jnp.int32),
        key=key,
        hyper={"lr": jnp.asarray(0.1)},
        players={"plain": plain, "critic": critic},
        extra=extra,
        scale=jnp.asarray(2.0 + seed, jnp.float16),
        config=None,
    )


def assert_same(got: Any, expected: Any) -> None:
    """Of one structure, of the same kinds of leaves, in the same places and with the same bits."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert type(a) is type(b)
        if not isinstance(b, jax.Array | np.ndarray):
            assert a == b
            continue
        assert a.dtype == b.dtype and a.shape == b.shape
        if isinstance(b, jax.Array):
            assert a.sharding == b.sharding
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def taken(saved: Checkpoints, step: int, state: State, score: float | None = None) -> bool:
    return saved.save(step, state, hashes_of(*split_state(state)), {"step": step}, score)


def scalar(step: int, number: float = 0.0) -> State:
    """A state that is one number."""
    player = Player(params={"w": jnp.asarray(number)}, stats={}, average=None, opt_state=(), model=None)
    return State(
        step=jnp.asarray(step), key=jax.random.key(0), hyper={"lr": jnp.ones(())}, players={"net": player}, config=None
    )


def test_every_leaf_of_a_state_is_in_one_of_its_parts():
    model, train = split_state(game())
    assert {name: sorted(parts) for name, parts in model.items()} == {
        "plain": ["params", "stats"],
        "critic": ["average", "params", "stats"],
    }
    assert sorted(train) == ["extra", "hyper", "key", "players", "scale", "step"]
    assert sorted(train["players"]["critic"]) == ["opt_state", "temperature"]
    assert len(jax.tree.leaves((model, train))) == len(jax.tree.leaves(game()))
    assert_same(join_state(game(1), model, train), game())


def test_a_checkpoint_restores_a_state_that_the_library_does_not_know(tmp_path):
    with Checkpoints(tmp_path) as saved:
        assert taken(saved, 7, game())
        saved.wait()
        state, progress = saved.restore(game(1), 7)
        assert_same(state, game())
        assert progress == {"step": 7}
        model = saved.restore_model(game(1), 7)
    assert_same(split_state(model)[0], split_state(game())[0])
    assert_same(split_state(model)[1], split_state(game(1))[1])


@pytest.mark.parametrize(
    "state",
    [game(), {"a": [1, 2.5, np.float32(3)], "key": jax.random.key(4)}, jnp.arange(3)],
    ids=["State", "dict", "array"],
)
def test_a_state_of_a_loop_of_ones_own_comes_back(state, tmp_path):
    save_state(tmp_path / "runs" / "mine", state)
    zeros = game(1) if isinstance(state, State) else state
    assert_same(load_state(tmp_path / "runs" / "mine", zeros), state)


def test_a_state_is_not_overwritten(tmp_path):
    save_state(tmp_path / "mine", {"a": jnp.ones(2)})
    with pytest.raises(UserError, match="mine"):
        save_state(tmp_path / "mine", {"a": jnp.zeros(2)})
    assert_same(load_state(tmp_path / "mine", {"a": jnp.zeros(2)}), {"a": jnp.ones(2)})


def test_the_first_array_that_does_not_fit_is_named(tmp_path):
    save_state(tmp_path / "mine", game())
    with pytest.raises(UserError, match=r"players/critic/average/layer/kernel is float32 \(3, 2\)"):
        load_state(tmp_path / "mine", game(size=4))
    other = game()
    with pytest.raises(UserError, match="extra/more is missing"):
        load_state(tmp_path / "mine", other.replace(extra={**other.extra, "more": jnp.ones(1)}))
    with pytest.raises(UserError, match="hyper/lr is float32"):
        load_state(tmp_path / "mine", other.replace(hyper={"lr": jnp.ones((), jnp.bfloat16)}))
    with pytest.raises(UserError, match="nowhere"):
        load_state(tmp_path / "nowhere", game())


def test_a_damaged_state_is_named(tmp_path):
    state = {"weights": np.random.default_rng(0).normal(size=1000)}
    save_state(tmp_path / "mine", state)
    harmed = 0
    for path in sorted(path for path in (tmp_path / "mine").rglob("*") if path.is_file()):
        content = path.read_bytes()
        for changed in (
            (content[: len(content) // 2], content[:-7] + bytes([content[-7] ^ 4]) + content[-6:]) if content else ()
        ):
            path.write_bytes(changed)
            try:
                assert_same(load_state(tmp_path / "mine", state), state)
            except UserError as error:
                assert "mine" in str(error) and "\n" not in str(error)
                harmed += 1
        path.write_bytes(content)
    assert harmed > 5


def test_a_changed_number_changes_its_hash_alone():
    first = hash_leaves(game()).by_path()
    wide = {"a": np.arange(4) << 40, "b": np.arange(4) * 1e300, "c": np.arange(4) * 1j}
    assert len(set(hash_leaves(wide).by_path().values())) == 3
    for name, array in wide.items():
        for part in range(array.view(np.uint32).size):
            changed = array.copy()
            changed.view(np.uint32)[part] ^= 1 << 31
            other = hash_leaves({**wide, name: changed}).by_path()
            assert [each for each in wide if other[each] != hash_leaves(wide).by_path()[each]] == [name]
    changed = game().replace(scale=jnp.asarray(2.5, jnp.float16))
    assert [path for path, value in hash_leaves(changed).by_path().items() if first[path] != value] == ["scale"]


def test_hashes_on_devices_are_those_on_the_host():
    tree = {"a": np.linspace(0, 1, 6, dtype=np.float32), "c": np.arange(3, dtype=np.complex64) * (1 - 1j)}
    assert hash_leaves(jax.tree.map(jnp.asarray, tree)).by_path() == hash_leaves(tree).by_path()


@pytest.mark.parametrize("seed", range(3))
def test_the_latest_and_the_best_are_kept(seed, tmp_path):
    scores = np.random.default_rng(seed).integers(0, 4, 7).tolist()  # equal ones among them
    best = scores.index(min(scores))
    with Checkpoints(tmp_path) as saved:
        for step, score in enumerate(scores):
            taken(saved, step, scalar(step), score)
        saved.wait()
        assert saved.steps() == sorted({best, 6})
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert (saved.latest(), saved.best()) == (6, best)
        assert [saved.record(step)["score"] for step in saved.steps()] == [scores[step] for step in saved.steps()]


def test_what_is_not_finite_is_not_saved(tmp_path):
    with Checkpoints(tmp_path) as saved:
        assert taken(saved, 1, scalar(1))
        assert not taken(saved, 2, scalar(2, np.nan))
        saved.wait()
        assert saved.steps() == [1]


def test_a_checkpoint_is_scored_later(tmp_path):
    """As of a run that was stopped while it evaluated: the arrays stay, the score and the progress are new."""
    with Checkpoints(tmp_path) as saved:
        taken(saved, 1, scalar(1), 0.5)
        taken(saved, 2, scalar(2), None)
    with Checkpoints(tmp_path) as saved:
        assert saved.best() == 1
        files = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "2").rglob("d/*")}
        taken(saved, 2, scalar(2), 0.1)
        assert {path: path.stat().st_mtime_ns for path in files} == files
        assert saved.best() == 2
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.best() == 2
        assert_same(saved.restore(scalar(0), 2)[0], scalar(2))


def test_another_state_does_not_take_a_checkpoints_place(tmp_path):
    with Checkpoints(tmp_path) as saved:
        taken(saved, 1, scalar(1))
        saved.wait()
        with pytest.raises(UserError, match="checkpoints"):
            taken(saved, 1, scalar(1, 5.0))
        assert_same(saved.restore(scalar(0), 1)[0], scalar(1))


def test_no_room_is_said_before_anything_is_lost(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as saved:
        taken(saved, 1, scalar(1))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**10))
        for call in (lambda: saved.check_room(scalar(2)), lambda: taken(saved, 2, scalar(2))):
            with pytest.raises(UserError, match="--runs"):
                call()
        assert saved.steps() == [1]


def test_the_newest_whole_checkpoint_is_found(tmp_path, capsys):
    with Checkpoints(tmp_path) as saved:
        taken(saved, 1, scalar(1), 0.1)
        taken(saved, 2, scalar(2), 0.2)
    victim = tmp_path / "checkpoints" / "2" / "progress" / "metadata"
    victim.write_text(victim.read_text().replace("0.2", "0.0"))
    with Checkpoints(tmp_path, read_only=True) as saved:
        step, (state, _) = saved.newest_whole(lambda step: saved.restore(scalar(0), step))
        assert step == 1 and saved.best() == 1
        assert_same(state, scalar(1))
    assert "checkpoint 2 in" in capsys.readouterr().err
    with Checkpoints(tmp_path) as saved:
        assert saved.newest_whole(lambda step: saved.restore(scalar(0), step))[0] == 1
        assert taken(saved, 2, scalar(2, 3.0))  # made again, perhaps otherwise
    assert len(list((tmp_path / "damaged").iterdir())) == 1
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.newest_whole(lambda step: saved.restore(scalar(0), step))[0] == 2


def test_a_checkpoint_of_another_layout_is_named(tmp_path):
    """As those of versions that wrote the optimizer's tuples as lists."""
    with Checkpoints(tmp_path) as saved:
        taken(saved, 1, scalar(1))
        saved.wait()
        other = ocp.args.Composite(train=ocp.args.StandardSave({"opt_state": [np.ones(2), (np.ones(3),)]}))
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(tmp_path / "other", args=other)
        shutil.rmtree(tmp_path / "checkpoints" / "1" / "train")
        (tmp_path / "other" / "train").rename(tmp_path / "checkpoints" / "1" / "train")
        with pytest.raises(UserError, match="checkpoint 1 in"):
            saved.restore(scalar(0), 1)
        assert_same(split_state(saved.restore_model(scalar(0), 1))[0], split_state(scalar(1))[0])


def test_where_none_is_whole_the_newest_is_named(tmp_path):
    with Checkpoints(tmp_path) as saved:
        taken(saved, 1, scalar(1), 0.1)
        taken(saved, 2, scalar(2), 0.2)
    for step in "12":
        (tmp_path / "checkpoints" / step / "progress" / "metadata").write_text("{}")
    with pytest.raises(UserError, match="checkpoint 2 in"), Checkpoints(tmp_path, read_only=True) as saved:
        saved.newest_whole(lambda step: saved.restore(scalar(0), step))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_atomically(tmp_path / "a", b"before")
    with pytest.raises(ValueError), open_atomically(tmp_path / "a") as file:
        file.write(b"half")
        raise ValueError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"
    write_atomically(tmp_path / "a", b"after")
    assert (tmp_path / "a").read_bytes() == b"after"


def test_the_settings_of_a_run_are_read_without_jax():
    code = "import sys; import jaxrec.run.store.folder; print('jax' in sys.modules, 'jaxrec.cli' in sys.modules)"
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False", "False"]
