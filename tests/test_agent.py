"""The box that moves, the episodes that are played with it, and agents that learn in these and other environments."""

import json
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from systems import tiny_agent

from jaxrec.cli import predict
from jaxrec.data.features import Feature
from jaxrec.environments import (
    ACTIONS,
    STOP,
    Environment,
    Episode,
    Rules,
    box_search,
    from_gymnax,
    greedy_action,
    moved,
    overlap,
    play,
)
from jaxrec.errors import UserError
from jaxrec.models.agent import BoxNetwork, crops, operations, patches
from jaxrec.parallel import from_all_replicas
from jaxrec.settings import Agent, Optimizer
from jaxrec.tasks import agent, replay
from jaxrec.tasks.agent import policies
from jaxrec.tasks.agent.baselines import object_sides
from jaxrec.tasks.agent.episodes import moves_that_count, reset, rules
from jaxrec.tasks.agent.examples import examples_of
from jaxrec.tasks.agent.q_learning import targets
from jaxrec.tasks.system import Facts

KEY = jax.random.key(0)
RULES = Rules(moves=4, shift=0.25, zoom=0.5, squeeze=0.5)
MIDDLE = jnp.array([0.4, 0.4, 0.6, 0.8])
BOXES, THERE = jnp.array([[0.4, 0.4, 0.6, 0.8], [0.0, 0.0, 0.1, 0.1]]), jnp.array([True, False])


def made(environment, *names, start=None):
    """Rewards and ends of actions, and the last state; the box may start elsewhere."""
    _, state = environment.reset(KEY)
    if start is not None:
        state = state._replace(box=start)
    told = []
    for name in names:
        _, state, reward, done = environment.step(state, jnp.int32(ACTIONS.index(name)), KEY)
        told.append((float(reward), bool(done)))
    return told, state


# The environment


def test_actions_move_the_box_by_shares_of_its_sides():
    expected = {
        "left": [0.4, 0.3, 0.6, 0.7],
        "right": [0.4, 0.5, 0.6, 0.9],
        "up": [0.35, 0.4, 0.55, 0.8],
        "down": [0.45, 0.4, 0.65, 0.8],
        "smaller": [0.45, 0.5, 0.55, 0.7],
        "larger": [0.3, 0.2, 0.7, 1.0],
        "flatter": [0.45, 0.4, 0.55, 0.8],
        "narrower": [0.4, 0.5, 0.6, 0.7],
        "stop": [0.4, 0.4, 0.6, 0.8],
    }
    np.testing.assert_allclose(moved(MIDDLE, RULES), [expected[name] for name in ACTIONS], atol=1e-6)


def test_the_box_stays_in_the_image_and_keeps_a_side():
    box, draw = jnp.array([0.0, 0.0, 1.0, 1.0]), np.random.default_rng(0)
    for action in draw.integers(0, STOP, 60):
        box = moved(box, RULES)[action]
        assert (box >= 0).all() and (box <= 1).all()
        assert (box[2:] - box[:2] > 0.015).all()
    np.testing.assert_allclose(moved(jnp.array([0.0, 0.0, 1.0, 1.0]), RULES)[1], [0, 0.25, 1, 1])


def test_rewards_are_signs_of_the_change_and_the_end_is_judged_by_the_overlap():
    search = box_search(BOXES, THERE, RULES)
    assert made(search, "smaller", "larger", "stop")[0] == [(1, False), (-1, False), (-3, True)]
    assert made(search, "stop", start=MIDDLE)[0] == [(3, True)]
    # What changes nothing is no better; and the last move ends the episode as a stop would.
    assert made(search, "right", "left", "left", "right", start=MIDDLE)[0] == [
        *[(-1, False), (1, False), (-1, False)],
        (1 + 3, True),
    ]
    found, state = made(box_search(BOXES, THERE, RULES._replace(reward="change")), "smaller")
    assert found[0][0] == pytest.approx(10 * (0.07 / 0.26 - 0.08), rel=1e-5)
    assert state.history.tolist() == [ACTIONS.index("smaller"), -1, -1, -1]


def test_guided_exploration_is_told_the_actions_that_are_rewarded():
    search = box_search(BOXES, THERE, RULES)
    for start in (jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([0.3, 0.3, 0.6, 0.8]), MIDDLE):
        rewarded = [made(search, name, start=start)[0][0][0] > 0 for name in ACTIONS]
        state = search.reset(KEY)[1]._replace(box=start)
        assert search.promising(state).tolist() == rewarded


def test_somebody_who_knows_the_object_takes_the_best_move():
    box, overlaps = jnp.array([0.0, 0.0, 1.0, 1.0]), []
    for _ in range(12):
        after = [float(overlap(each, BOXES, THERE)) for each in moved(box, RULES)]
        action = int(greedy_action(box, BOXES, THERE, RULES))
        assert after[action] == max(after)
        overlaps.append(after[action])
        if action == STOP:
            break
        box = moved(box, RULES)[action]
    assert action == STOP and np.all(np.diff(overlaps[:-1]) > 0)


def counting(limit):
    """An environment that counts its moves up to a limit and gives each move's number as reward."""

    def reset(key):
        return jnp.float32(0), jnp.int32(0)

    def step(state, action, key):
        state = state + action
        return state.astype(jnp.float32), state, state.astype(jnp.float32), state >= limit

    return Environment(reset, step, 2)


def test_episodes_stay_as_they_ended():
    environment = counting(3)

    def ones(observation, state, keys):
        return jnp.ones(keys.shape, jnp.int32)

    keys = jax.random.split(KEY, (2, 3))
    each = [jax.vmap(jax.vmap(function)) for function in (environment.reset, environment.step)]
    episode = play(*each, ones, keys, 5)
    for found, expected in (
        (episode.reward, [1, 2, 3, 0, 0]),
        (episode.done, [False, False, True, False, False]),
        (episode.there, [True, True, True, False, False]),
        (episode.observation, [0, 1, 2, 3, 3, 3]),
    ):
        np.testing.assert_array_equal(found, np.broadcast_to(expected, (2, 3, len(expected))))
    np.testing.assert_array_equal(episode.state, np.full((2, 3), 3))


# The network's view


def test_crops_are_the_image_between_two_matrices():
    image = np.random.default_rng(0).uniform(size=(1, 6, 8, 2)).astype(np.float32)
    whole, shifted = [0.0, 0.0, 1.0, 1.0], [0.0, 0.25, 1.0, 1.25]
    square = np.random.default_rng(1).uniform(size=(1, 8, 8, 1)).astype(np.float32)
    found = crops(square, jnp.array([[whole, shifted]]), 8)
    np.testing.assert_allclose(found[:, 0], square, atol=1e-6)
    np.testing.assert_allclose(found[0, 1, :, :6], square[0, :, 2:], atol=1e-6)
    np.testing.assert_array_equal(found[0, 1, :, 6:], 0)
    # Of a slope, a crop is a slope, whatever its size; and outside there is nothing.
    slope = np.broadcast_to(np.arange(8, dtype=np.float32)[None, :, None, None], (1, 8, 8, 1))
    inner = crops(slope, jnp.array([[[0.25, 0.25, 0.75, 0.75]]]), 8)[0, 0, :, 3, 0]
    np.testing.assert_allclose(inner, 1.5 + (np.arange(8) + 0.5) / 2, atol=1e-5)
    assert not crops(image, jnp.array([[[3.0, 3.0, 4.0, 4.0]]]), 4).any()


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (4, 4)])
def test_a_product_with_patches_is_a_convolution(size, stride):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, 6, 7, 3)).astype(np.float32)
    kernel = draw.normal(size=(size, size, 3, 5)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = patches(jnp.asarray(x), size, stride) @ kernel.reshape(-1, 5)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_operations_are_those_that_are_made():
    """XLA counts a product and a sum as two, and what else there is."""
    network = BoxNetwork(9, width=16, glance=16)
    images, seen = jnp.zeros((1, 60, 80, 3)), {"box": jnp.zeros((1, 8, 4)), "history": jnp.zeros((1, 8, 12), jnp.int32)}
    variables = jax.eval_shape(network.init, KEY, {"image": images}, seen)
    cost = jax.jit(network.apply).lower(variables, {"image": images}, seen).cost_analysis()
    counted = 8 * operations(network, (60, 80, 3), 12) / 12
    assert 2 * counted == pytest.approx(cost["flops"], rel=0.15)


# What is kept to learn from


def episodes(first):
    """An episode of two moves with each of two examples, told by numbers from ``first`` on."""
    seen = jnp.arange(first, first + 6, dtype=jnp.float32).reshape(2, 1, 3, 1)
    action = jnp.arange(first, first + 4, dtype=jnp.int32).reshape(2, 1, 2)
    done, there = jnp.zeros((2, 1, 2), bool), jnp.ones((2, 1, 2), bool)
    return Episode(seen, action, action.astype(jnp.float32), done, there, None)


def test_the_oldest_episodes_make_room_and_moves_are_found_by_their_numbers():
    memory = replay.empty(4, (1, 2), {}, jnp.zeros((1, 1, 1)))
    for step in range(3):
        counting = jnp.array([[[True, True]], [[True, False]]])
        memory = replay.with_episodes(memory, jnp.int32(step), {}, episodes(10 * step), counting, 2)
    np.testing.assert_array_equal(memory["action"][:, 0], [[20, 21], [22, 23], [10, 11], [12, 13]])
    # The last move of the second example does not count.
    weighed = replay.weighed(memory, 0.0)
    np.testing.assert_array_equal(weighed, [1, 1, 1, 0, 1, 1, 1, 0])
    moves = replay.recalled(memory, jnp.array([1, 4]))
    np.testing.assert_array_equal(moves["action"], [21, 10])
    np.testing.assert_array_equal(moves["before"][:, 0, 0], [21, 10])
    np.testing.assert_array_equal(moves["after"][:, 0, 0], [22, 11])


def test_a_move_has_the_priority_of_its_greatest_surprise():
    memory = {**replay.empty(2, (1, 2), {}, jnp.zeros((1, 1, 1))), "priority": jnp.array([[[1.0, 1.0]], [[0.0, 1.0]]])}
    found = replay.reranked(memory, jnp.array([0, 0, 2, 3]), jnp.array([0.5, 0.25, 9.0, 0.0]))["priority"]
    # What was not drawn keeps its own, what is no move stays none, and nothing is never drawn again.
    np.testing.assert_allclose(found.ravel(), [0.5, 1.0, 0.0, replay.LEAST])


def test_the_mean_side_is_that_of_all_objects_to_be_found():
    state = SimpleNamespace(extra={"sides": jnp.zeros(2)}, step=jnp.int32(0))
    boxes = jnp.array([[[0, 0, 0.5, 0.2], [0, 0, 0.9, 0.9]], [[0.1, 0.1, 0.2, 0.7], [0.2, 0.2, 0.4, 0.3]]])
    examples = {"boxes": boxes, "there": jnp.array([[True, False], [True, True]])}
    found = object_sides(state, examples, None)
    np.testing.assert_allclose(found, [(0.5 + 0.1 + 0.2) / 3, (0.2 + 0.6 + 0.1) / 3], rtol=1e-5)
    # The second batch counts half, and one without objects nothing.
    later = SimpleNamespace(extra={"sides": found}, step=jnp.int32(1))
    one = {"boxes": jnp.array([[[0, 0, 1.0, 1.0]]]), "there": jnp.array([[True]])}
    np.testing.assert_allclose(object_sides(later, one, None), (found + 1) / 2, rtol=1e-5)
    np.testing.assert_array_equal(object_sides(later, {**one, "there": jnp.array([[False]])}, None), found)


def test_moves_with_nothing_to_find_do_not_count():
    examples = {"there": jnp.array([[True, False], [False, False]])}
    there = jnp.array([[[True, True, False]], [[True, True, False]]])
    found = moves_that_count(SimpleNamespace(there=there), examples)
    np.testing.assert_array_equal(found[:, 0], [[True, True, False], [False, False, False]])


def test_guided_exploration_makes_rewarded_moves_alone():
    """From the whole image, smaller and narrower boxes and some shifts are rewarded."""
    batch = {"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros((2, 1), np.int32)}
    batch["boxes"] = np.array([[[2, 2, 4, 5]], [[3, 0, 8, 3]]], np.float32)
    keys = jax.random.split(KEY, (2, 200))
    state = jax.jit(partial(agent.init, tiny_agent(cnn=False)))(KEY, batch)
    examples = examples_of(state.config, batch)

    @jax.jit
    def explored(keys):
        observation, inner = reset(state.config, None, examples)(keys)
        return policies.exploring(state, examples, jnp.float32(1))(observation, inner, keys)

    moves = np.asarray(explored(keys))
    for number in range(2):
        search = box_search(examples["boxes"][number], examples["there"][number], rules(state.config))
        good = np.flatnonzero(search.promising(search.reset(KEY)[1]))
        assert 0 < len(good) < len(ACTIONS)
        assert set(moves[number]) == set(good)


# Learning


class Walk:
    """Five places in a row: 1 for arriving at the right end, nothing at the left end. Gymnax's interface."""

    num_actions = 2

    def reset(self, key, params=None):
        return jax.nn.one_hot(jnp.int32(2), 5, dtype=jnp.float32), jnp.int32(2)

    def step(self, key, place, action, params=None):
        place = place + 2 * action - 1
        seen = jax.nn.one_hot(place, 5, dtype=jnp.float32)
        return seen, place, (place == 4).astype(jnp.float32), (place == 0) | (place == 4), {}


class CutWalk(Walk):
    """The same as gymnax says it from version 1 on, which tells an end from one by a limit: here at the left end."""

    def step(self, key, place, action, params=None):
        seen, place, reward, _, told = super().step(key, place, action)
        return seen, place, reward, place == 4, place == 0, told


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("learning", "walk"), [("q", Walk()), ("actor-critic", CutWalk())])
def test_a_strangers_environment_is_learned_in(learning, walk):
    config = Agent(
        learning=learning,
        moves=8,
        copies=1,
        replay=256,
        width=8,
        average=0.9,
        priority=0.6,
        optimizer=Optimizer(name="adam", lr=1e-2),
    )
    batch = {"index": jnp.arange(64, dtype=jnp.int32)}
    state = agent.init(config, KEY, batch, environment=from_gymnax(walk))
    step = jax.jit(agent.train_step)
    for _ in range(100):
        state, _ = step(state, batch)
    found = agent.eval_step(state, batch)["episodes"].compute()
    assert found == {"return": 1, "moves": 2}
    if learning == "q":
        places = jax.nn.one_hot(jnp.arange(5), 5, dtype=jnp.float32)
        values = policies.action_values(policies.judged(state, state.player.variables(), {}, places[None]))[0]
        # One move from the end it is worth 1, and two moves from it what is worth 1 a move later.
        np.testing.assert_allclose(values[2:4, 1], [0.9, 1], atol=0.1)


def test_a_bonus_for_entropy_lowers_the_loss_of_the_policy():
    batch = {"index": jnp.arange(8, dtype=jnp.int32)}
    losses = []
    for weight in (0.0, 0.5):
        config = Agent(learning="actor-critic", moves=4, copies=1, width=4, entropy=weight, optimizer=Optimizer("sgd"))
        state = agent.init(config, KEY, batch, environment=from_gymnax(Walk()))
        metrics = jax.jit(agent.train_step)(state, batch)[1]
        losses.append(float(metrics["loss"]))
    assert losses[1] == pytest.approx(losses[0] - 0.5 * float(metrics["entropy"]), abs=1e-5)


def test_the_network_that_learns_chooses_and_its_average_says_what_that_is_worth():
    state = agent.init(Agent(width=4, average=0.9), KEY, {"index": jnp.arange(2)}, environment=from_gymnax(Walk()))
    player = state.player.replace(average=jax.tree.map(lambda x: x + 0.1 * jnp.cos(7 * x), state.player.params))
    state = state.replace(players={"net": player})
    seen = jax.nn.one_hot(jnp.arange(5), 5, dtype=jnp.float32)[:, None]
    moves = {"example": {}, "after": seen, "reward": jnp.arange(5.0), "done": jnp.arange(5) == 4}
    own, average = (
        policies.action_values(policies.judged(state, variables, {}, seen))[:, 0]
        for variables in ({"params": player.params}, {"params": player.average})
    )
    assert not np.allclose(own, average)
    best = np.asarray(average)[np.arange(5), np.asarray(own).argmax(-1)]
    expected = np.arange(5.0) + 0.9 * np.where(np.arange(5) == 4, 0, best)
    np.testing.assert_allclose(targets(state, moves)[0], expected, rtol=1e-5)


def test_an_environment_without_the_interface_is_refused():
    with pytest.raises(UserError, match="num_actions"):
        from_gymnax(object.__new__(type("Half", (), {"reset": None, "step": None})))
    continuous = type("Swing", (Walk,), {"action_space": lambda self, params: SimpleNamespace(low=-1, high=1)})
    with pytest.raises(UserError, match=r"Swing.*Discrete"):
        from_gymnax(continuous())
    for environment in (Walk(), CutWalk()):
        for place, action in ((1, 0), (3, 1)):
            *_, done = from_gymnax(environment).step(jnp.int32(place), jnp.int32(action), KEY)
            assert done.shape == () and bool(done)


# The system, by the commands


def test_what_commands_tell_of_an_agent(trained, tmp_path):
    run = trained("agent")
    results = json.loads((run / "results.json").read_text())
    assert {"success", "mean_iou", "moves", "return"} <= results.keys()
    assert results["oracle_mean_iou"] > results["random_mean_iou"]
    assert 0 <= results["success"] <= 1 and 1 <= results["moves"] <= 3
    Image.new("L", (96, 96), 90).save(tmp_path / "large.png")
    predict.main([str(run), str(tmp_path / "large.png"), "--out", str(tmp_path / "out")])
    row = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    # In pixels of the file.
    assert row["way"][0] == [0, 0, 96, 96]
    assert row["way"][-1] == [row["y0"], row["x0"], row["y1"], row["x1"]]
    assert len(row["way"]) == row["moves"] + 1
    # What is told of the image says which one it is.
    assert row["path"] == str(tmp_path / "large.png")
    assert results.keys() - {"split", "examples", "step", "worst"} <= agent.MEANINGS.keys()


def test_only_the_class_to_find_counts():
    config = tiny_agent(target_class=1)
    batch = {
        "image": np.zeros((3, 8, 8, 1), np.uint8),
        "boxes": np.tile(np.array([[0, 0, 8, 8], [2, 2, 4, 4]], np.float32), (3, 1, 1)),
        "label": np.array([[0, 1], [1, 0], [0, -1]], np.int32),
    }
    state = jax.jit(partial(agent.init, config))(KEY, batch)
    assert int(jax.jit(agent.eval_step)(state, batch)["box"].count) == 2
    nothing = jax.jit(agent.eval_step)(state, {**batch, "label": np.full((3, 2), -1, np.int32)})
    with pytest.raises(UserError, match="--target"):
        nothing["box"].compute()
    # One box is as large as the image, the other a sixteenth of it.
    examples = examples_of(config, batch)
    whole = jnp.array([0.0, 0.0, 1.0, 1.0])
    each = [float(overlap(whole, *pair)) for pair in zip(examples["boxes"], examples["there"], strict=True)]
    assert each == [1 / 16, 1, 0]


def test_an_agent_without_a_view_is_refused():
    with pytest.raises(UserError, match="--reaches"):
        agent.init(tiny_agent(reaches=()), KEY, {"image": np.zeros((1, 8, 8, 1), np.uint8)})


def test_an_unknown_target_is_refused():
    facts = Facts({"label": Feature("box_classes", (1,), "int32", ("cat", "dog"))}, lambda name: ((0.5,), (0.2,)), None)
    assert agent.complete(Agent(target="dog"), facts).target_class == 1
    with pytest.raises(UserError, match="--target"):
        agent.complete(Agent(target="dgo"), facts)


def test_replicas_put_together_the_same_examples():
    """Each has its own part of the batch, or all of it; fewer are taken than there are."""
    numbers = jnp.arange(16, dtype=jnp.int32)

    def found(parts, most):
        every = np.asarray(jax.pmap(partial(from_all_replicas, most=most, axis_name="data"), "data")(parts))
        assert (every == every[0]).all()
        return every[0].tolist()

    assert found(numbers.reshape(8, 2), 16) == list(range(16))
    assert found(jnp.tile(numbers, (8, 1)), 16) == list(range(16))
    assert found(jnp.tile(numbers, (8, 1)), 8) == list(range(8))
    assert [number // 2 for number in found(numbers.reshape(8, 2), 8)] == list(range(8))
