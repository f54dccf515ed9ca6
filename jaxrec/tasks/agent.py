"""An agent that finds an object by moves of a box, and learns from rewards.

A batch is ``{"image": [B, H, W, C], "boxes": float32 [B, N, 4], "label": int [B, N]}``, as for detection. It may carry
``index`` and ``epoch`` (int32 [B]) and, for evaluation, ``real`` (bool [B], False for padding). A batch of another
environment holds ``index`` alone: one episode, or several, for each of its numbers.

In a step, every episode is played to its end, by the policy as it is. Q-learning keeps episodes in
``state.extra["replay"]`` and learns from moves drawn from there; the actor-critic learns from the episodes just played.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxrec.augment import augment_examples, standardize
from jaxrec.boxes import giou, iou
from jaxrec.data.features import Features, class_names
from jaxrec.environments import (
    ACTIONS,
    STOP,
    Environment,
    Episode,
    Rules,
    Search,
    box_search,
    greedy_action,
    overlap,
    play,
)
from jaxrec.errors import UserError, nearest
from jaxrec.losses import policy, q_learning
from jaxrec.metrics import Average, Metric, Worst
from jaxrec.metrics.meanings import Meaning
from jaxrec.metrics.sums import Results
from jaxrec.models.agent import BoxNetwork, DenseNetwork, Judgment, operations
from jaxrec.models.cnn import CNN, widest_within
from jaxrec.parallel import mean_over_replicas, stream
from jaxrec.settings.agent import Agent as Config
from jaxrec.tasks import replay
from jaxrec.tasks.inputs import example_keys, pixels, places, rgb, scaled
from jaxrec.tasks.learning import learn
from jaxrec.tasks.model import as_model, compute_dtype
from jaxrec.tasks.state import Batch, Metrics, Player, State, new_player, new_state
from jaxrec.tasks.system import Facts, Score, refuse_unused

READS = {"image": "image", "boxes": "boxes", "label": "box_classes"}
DATASET = "scenes"
SCORE = Score("mean_iou", lower=False)
OF_Q = ("guided", "explore", "explore_last", "replay", "kept", "samples", "priority")
OF_ACTOR_CRITIC = ("entropy", "trace")
"""Settings that only one way of learning reads."""
HEADLINE = ("success", "mean_iou", "return", "moves", "loss")
BOXED = ("boxes", "path")
HALF = "Share of the images in which the box ends with an IoU of at least .5 with an object"
MEAN = "Mean IoU of the last box with the object that it overlaps most"
WHOLE = "a CNN that sees whole images and needs as many operations"
RANDOM, CENTER, ORACLE = "moves drawn at random", "a box of the mean size in the middle", "always the best next move"
MEANINGS = {
    "success": Meaning(f"{HALF}.", "more"),
    "success_70": Meaning("The same from an IoU of .7 on.", "more"),
    "mean_iou": Meaning(f"{MEAN}.", "more"),
    "moves": Meaning("Moves of an episode, the stop among them.", "less"),
    "stopped": Meaning("Share of the episodes that the agent ended itself."),
    "return": Meaning("Sum of the rewards of an episode; in training, with exploring moves.", "more"),
    "random_success": Meaning(f"{HALF}; {RANDOM}."),
    "random_mean_iou": Meaning(f"{MEAN}; {RANDOM}."),
    "center_success": Meaning(f"{HALF}; {CENTER}."),
    "center_mean_iou": Meaning(f"{MEAN}; {CENTER}."),
    "oracle_success": Meaning(f"{HALF}; {ORACLE}."),
    "oracle_mean_iou": Meaning(f"{MEAN}; {ORACLE}."),
    "oracle_moves": Meaning(f"Moves of an episode; {ORACLE}."),
    "cnn_success": Meaning(f"{HALF}; {WHOLE}."),
    "cnn_mean_iou": Meaning(f"{MEAN}; {WHOLE}."),
    "cnn_loss": Meaning("The loss of that CNN: 1 minus the generalized IoU.", "less"),
    "explored": Meaning("Share of the moves that are made to explore."),
    "value": Meaning("Mean of what the network takes states to be worth."),
    "entropy": Meaning("Mean entropy of the policy, in nats."),
}
CAPTIONS = {
    "paths": "Images with their objects, then the box on its way from the whole image to its end, and its IoU with the "
    "object that it overlaps most; red is below .5.",
    "worst_paths": "The same of the images of least IoU in the whole split, the least first.",
    "batch": "Images of a training batch after augmentation, and the objects to be found.",
}
SHOWN = 8
"""Images in the picture of paths."""
STILLS = 5
"""Boxes on the way that are shown, at most."""
SLOWEST = 0.01
"""Least rate of the running mean of the objects' sides."""

Examples = dict[str, jax.Array]


class AgentState(State):
    """A state with the environment that ``init`` was given in place of the box, or None."""

    environment: Environment | None = struct.field(pytree_node=False, default=None, kw_only=True)


class Searched(Average):
    """Means over the images with something to find."""

    def compute(self) -> Results:
        """The mean of each value; raises UserError if nothing was to be found in any image."""
        if int(np.asarray(self.count)) == 0:
            raise UserError("no image of the split has an object to find; choose another --target or another split")
        return super().compute()


def complete(config: Config, facts: Facts) -> Config:
    """The settings with the class to find, and mean and deviation of the training images."""
    of_other = OF_Q if config.learning == "actor-critic" else OF_ACTOR_CRITIC
    refuse_unused(config, f"with --learning {config.learning}", *of_other)
    mean, std = facts.statistics("image")
    names = class_names(facts.features)
    if config.target and config.target not in names:
        known = nearest(config.target, names) or f"; expected one of {', '.join(names)}"
        raise UserError(f"--target {config.target} is no class of the data{known}")
    number = names.index(config.target) if config.target else -1
    return replace(config, target_class=number, mean=mean, std=std)


def init(
    config: Config,
    key: jax.Array,
    batch: Batch,
    model: Any = None,
    *,
    optimizer: Any = None,
    environment: Environment | None = None,
) -> AgentState:
    """The state at step 0, with the player ``net`` and, to compare with, ``cnn``.

    Args:
        config: the settings.
        key: parameters are drawn from it.
        batch: a batch of the data; its shapes are read.
        model: a Linen module, or a pair ``(init, apply)``, called with ``(example, observation)``: arrays [B, ...] by
            name, ``image`` among them, and what is observed in K states of each, [B, K, ...]; it gives a
            ``jaxrec.models.agent.Judgment`` of [B, K]. Default: the configured.
        optimizer: an optax transformation for both players in place of the configured optimizer, schedule, decay and
            clipping.
        environment: what to act in, in place of the box; no feature of the data is read then.

    Raises:
        UserError: the network has no view.
    """
    if not config.reaches:
        raise UserError("--reaches is empty, and the agent would see nothing; give a number for each view, such as 1.5")
    examples = {} if environment else _blank(config, batch["image"][:1])

    def first(key: jax.Array) -> Any:
        return _reset(config, environment, examples)(key[None, None])[0]

    observation = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(first, key))
    model = _network(config, environment) if model is None else as_model(model)
    params_key = stream(key, "params", jnp.int32(0))
    variables = model.init({"params": params_key}, _shown(config, examples), observation)
    players = {"net": new_player(config, model, variables, optimizer)}
    if config.cnn and environment is None:
        players["cnn"] = _new_cnn(config, key, examples, optimizer)
    state = new_state(config, key, players)
    extra: dict[str, Any] = {}
    if config.learning == "q":
        extra["replay"] = replay.empty(config.replay, (config.copies, config.moves), _kept(examples), observation)
    if environment is None:
        extra["sides"] = jnp.zeros(2, jnp.float32)
    return AgentState(
        step=state.step,
        key=state.key,
        hyper=state.hyper,
        players=state.players,
        config=config,
        extra=extra,
        environment=environment,
    )


def _new_cnn(config: Config, key: jax.Array, examples: Examples, optimizer: Any) -> Player:
    """The widest CNN that needs no more operations for an image than an episode of the most moves."""
    shape = examples["image"].shape[1:]
    most = operations(build(config), shape, config.moves)
    cnn = widest_within(most, shape, partial(CNN, 4, dtype=compute_dtype(config)))
    variables = cnn.init({"params": stream(key, "cnn", jnp.int32(0))}, _shown(config, examples)["image"])
    return new_player(config, cnn, variables, optimizer)


def build(config: Config) -> BoxNetwork:
    """The configured network, of views around the box."""
    return BoxNetwork(len(ACTIONS), config.width, config.glance, config.reaches, compute_dtype(config))


def _network(config: Config, environment: Environment | None) -> BoxNetwork | DenseNetwork:
    """The configured network, or one dense over what another environment shows."""
    if environment is None:
        return build(config)
    return DenseNetwork(environment.actions, config.width, compute_dtype(config))


def _rules(config: Config) -> Rules:
    return Rules(config.moves, config.shift, config.zoom, config.squeeze, config.enough, config.reward)


# Examples and the episodes that are played with them


def _examples(config: Config, batch: Batch) -> Examples:
    """Images uint8 [B, H, W, C], boxes float32 [B, N, 4] as shares of the image's sides, and which are to be found.

    The images are bytes, so that the replay holds many.
    """
    image = batch["image"]
    height, width = image.shape[1:3]
    if image.dtype != jnp.uint8:
        image = jnp.round(scaled(image) * 255).astype(jnp.uint8)
    label = batch["label"].astype(jnp.int32)
    there = label >= 0 if config.target_class < 0 else label == config.target_class
    sides = jnp.array([height, width, height, width], jnp.float32)
    return {"image": image, "boxes": batch["boxes"].astype(jnp.float32) / sides, "there": there}


def _blank(config: Config, image: jax.Array) -> Examples:
    """The examples of images [B, H, W, C] in which nothing is to be found."""
    count = image.shape[0]
    boxes, label = jnp.zeros((count, 1, 4), jnp.float32), jnp.full((count, 1), -1, jnp.int32)
    return _examples(config, {"image": image, "boxes": boxes, "label": label})


def _kept(examples: Examples) -> Examples:
    """What the network reads of the examples: the images, if there are any."""
    return {name: values for name, values in examples.items() if name == "image"}


def _shown(config: Config, examples: Examples) -> Examples:
    """The same as the network reads it: standardized, float32."""
    return {name: standardize(values, config.mean, config.std) for name, values in _kept(examples).items()}


def _environment(config: Config, given: Environment | None, example: Examples) -> Environment:
    """The environment of one example."""
    return given or box_search(example["boxes"], example["there"], _rules(config))


def _reset(config: Config, given: Environment | None, examples: Examples) -> Callable[[jax.Array], tuple[Any, Any]]:
    """``reset(keys [B, K])`` of the environments of all examples."""

    def one(example: Examples, key: jax.Array) -> tuple[Any, Any]:
        return _environment(config, given, example).reset(key)

    return partial(jax.vmap(jax.vmap(one, (None, 0))), examples)


def _step(config: Config, given: Environment | None, examples: Examples) -> Callable[..., Any]:
    """``step(state [B, K], action [B, K], keys [B, K])`` of the environments of all examples."""

    def one(example: Examples, state: Any, action: jax.Array, key: jax.Array) -> Any:
        return _environment(config, given, example).step(state, action, key)

    return partial(jax.vmap(jax.vmap(one, (None, 0, 0, 0))), examples)


def _played(
    state: AgentState, examples: Examples, choose: Callable, keys: jax.Array, axis_name: str | None = None
) -> Episode:
    """Episodes [B, K] with the examples."""
    parts = (state.config, state.environment, examples)
    return play(_reset(*parts), _step(*parts), choose, keys, state.config.moves, axis_name)


def _judged(state: AgentState, variables: Any, read: Examples, observation: Any) -> Judgment:
    """What the network says of states [B, K] of examples [B] as it reads them."""
    return state.players["net"].model.apply(variables, read, observation)


def _values(judgment: Judgment) -> jax.Array:
    """Action values [..., A]."""
    return q_learning.dueling(judgment.value, judgment.advantage)


def _newest(player: Player) -> dict[str, Any]:
    """The variables that learn."""
    return {"params": player.params, **player.stats}


def _each(draw: Callable[[jax.Array], jax.Array], keys: jax.Array) -> jax.Array:
    """``draw(key)`` for keys [B, K]."""
    return jax.vmap(jax.vmap(draw))(keys)


def _at_random(actions: int, keys: jax.Array) -> jax.Array:
    """Actions, int32 [B, K], of which all are as likely."""
    return _each(lambda key: jax.random.randint(key, (), 0, actions, jnp.int32), keys)


def _exploring(state: AgentState, examples: Examples, share: jax.Array) -> Callable[..., jax.Array]:
    """The policy of Q-learning in training: the best action, or with probability ``share`` one to explore."""
    config, given = state.config, state.environment
    variables, read = _newest(state.players["net"]), _shown(config, examples)

    def promising(example: Examples, state: Any) -> jax.Array:
        environment = _environment(config, given, example)
        every = jnp.ones(environment.actions, bool)
        if environment.promising is None or not config.guided:
            return every
        good = environment.promising(state)
        return jnp.where(good.any(), good, every)

    def choose(observation: Any, inner: Any, keys: jax.Array) -> jax.Array:
        best = _values(_judged(state, variables, read, observation)).argmax(-1)
        among = jax.vmap(jax.vmap(promising, (None, 0)))(examples, inner)
        noise = _each(lambda key: jax.random.gumbel(key, among.shape[-1:], jnp.float32), keys)
        other = jnp.where(among, noise, -jnp.inf).argmax(-1)
        explores = _each(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (), jnp.float32), keys) < share
        return jnp.where(explores, other, best).astype(jnp.int32)

    return choose


def _greedy(state: AgentState, examples: Examples) -> Callable[..., jax.Array]:
    """The best action, by the parameters that are evaluated."""
    variables, read = state.players["net"].variables(), _shown(state.config, examples)

    def choose(observation: Any, inner: Any, keys: jax.Array) -> jax.Array:
        # Of advantages and of a policy's logits alike, the greatest is the best action.
        return _judged(state, variables, read, observation).advantage.argmax(-1).astype(jnp.int32)

    return choose


# Learning


def train_step(state: AgentState, batch: Batch, *, axis_name: str | None = None) -> tuple[AgentState, Metrics]:
    """Plays an episode or more with each example, and makes one update; pure.

    Metrics: ``loss``, ``return``, ``moves``, ``value``, and ``explored`` (q) or ``entropy`` (actor-critic): means over
    the batch and all replicas.
    """
    key = partial(stream, state.key, step=state.step, axis_name=axis_name)
    examples, size = _drawn(state, key("augment"), batch)
    keys = jax.random.split(key("play"), (size, state.config.copies))
    learned = _q_step if state.config.learning == "q" else _policy_step
    after, metrics = learned(state, examples, keys, key, axis_name)
    if state.environment is None:
        after = after.replace(extra={**after.extra, "sides": _sides(state, examples, axis_name)})
    if "cnn" in state.players:
        after, beside = _cnn_step(after, examples, key("cnn"), axis_name)
        metrics |= beside
    return after.replace(step=state.step + 1), metrics


def _drawn(state: AgentState, key: jax.Array, batch: Batch) -> tuple[Examples, int]:
    """The examples after augmentation, and how many."""
    size = next(iter(batch.values())).shape[0]
    if state.environment is not None:
        return {}, size
    return _examples(state.config, _augmented(state, key, batch)), size


def _augmented(state: AgentState, key: jax.Array, batch: Batch) -> Batch:
    """Images in [0, 1], boxes and classes after augmentation."""
    examples = {"image": pixels(batch), "boxes": batch["boxes"], "label": batch["label"]}
    return augment_examples(state.config.augment, key, examples, READS, *places(batch))


def _counting(episode: Episode, examples: Examples) -> jax.Array:
    """Which moves count, bool [B, K, T]: those before the end, of examples with something to find."""
    if "there" not in examples:
        return episode.there
    return episode.there & examples["there"].any(-1)[:, None, None]


def _told(episode: Episode, counting: jax.Array) -> Metrics:
    """Mean return and number of moves of the episodes that count."""
    episodes = jnp.maximum(counting[..., 0].sum(dtype=jnp.float32), 1.0)
    rewards = jnp.where(counting, episode.reward, 0.0)
    return {"return": rewards.sum() / episodes, "moves": counting.sum(dtype=jnp.float32) / episodes}


def _progress(state: AgentState) -> jax.Array:
    """What part of the run is over, float32 scalar in [0, 1]; all of it if its length is not known."""
    steps = state.config.optimizer.steps
    return jnp.minimum(state.step.astype(jnp.float32) / steps, 1.0) if steps else jnp.float32(1.0)


def _q_step(
    state: AgentState, examples: Examples, keys: jax.Array, key: Callable, axis_name: str | None
) -> tuple[AgentState, Metrics]:
    """Plays, remembers, and learns from moves of the replay."""
    config, player = state.config, state.players["net"]
    progress = _progress(state)
    share = q_learning.explored(progress, config.explore, config.explore_last)
    episode = _played(state, examples, _exploring(state, examples, share), keys, axis_name)
    counting = _counting(episode, examples)
    told = {**_told(episode, counting), "explored": share}
    memory = replay.with_episodes(
        state.extra["replay"], state.step, _kept(examples), episode, counting, config.kept, axis_name
    )

    weighed = replay.weighed(memory, config.priority)
    place = q_learning.sampled(key("replay"), weighed, config.samples)
    moves = replay.recalled(memory, place)
    moves["example"] = _shown(config, moves["example"])
    moves["weight"] = q_learning.importance_weights(weighed, place, q_learning.correction(progress))
    moves["target"], surprise = _targets(state, moves)

    def loss(params: Any, stats: Any, moves: Any, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        judged = _judged(state, {"params": params, **stats}, moves["example"], moves["before"])
        each = q_learning.q_loss(_values(judged)[:, 0], moves["action"], moves["target"])
        value = (moves["weight"] * each).mean()
        return value, ({"loss": value, "value": judged.value.mean(), **told}, stats)

    player, metrics = learn(player, state, loss, moves, key("model"), axis_name=axis_name)
    if config.priority:
        memory = replay.reranked(memory, place, surprise, axis_name)
    return state.replace(players={**state.players, "net": player}, extra={**state.extra, "replay": memory}), metrics


def _targets(state: AgentState, moves: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """What the values of moves [M] should be, and by how much the network is wrong about them."""
    config, player = state.config, state.players["net"]
    following = _values(_judged(state, _newest(player), moves["example"], moves["after"]))[:, 0]
    trusted = _values(_judged(state, player.variables(), moves["example"], moves["after"]))[:, 0]
    target = q_learning.double_q_target(moves["reward"], moves["done"], config.discount, following, trusted)
    if not config.priority:
        return target, target
    now = _values(_judged(state, _newest(player), moves["example"], moves["before"]))[:, 0]
    made = jnp.take_along_axis(now, moves["action"][:, None], axis=-1)[:, 0]
    return target, jnp.abs(target - made)


def _cnn_step(
    state: AgentState, examples: Examples, key: jax.Array, axis_name: str | None
) -> tuple[AgentState, Metrics]:
    """An update of the CNN to compare with, which is told of each image where the nearest object is."""

    def loss(params: Any, stats: Any, examples: Any, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        boxes, there = examples["boxes"], examples["there"]
        found = _cnn_box(state, params, examples)
        each = jnp.where(there, 1 - giou(found[:, None], boxes), jnp.inf).min(-1)
        counts = there.any(-1)
        value = jnp.where(counts, each, 0.0).sum() / jnp.maximum(counts.sum(dtype=jnp.float32), 1.0)
        return value, ({"cnn_loss": value}, stats)

    player, metrics = learn(state.players["cnn"], state, loss, examples, key, axis_name=axis_name, name="cnn")
    return state.replace(players={**state.players, "cnn": player}), {"cnn_loss": metrics["cnn_loss"]}


def _cnn_box(state: AgentState, params: Any, examples: Examples) -> jax.Array:
    """The box, float32 [B, 4] as shares of the image's sides, that the CNN finds in each image."""
    images = _shown(state.config, examples)["image"]
    outputs, _ = state.players["cnn"].model.apply({"params": params}, images)
    center, half = jax.nn.sigmoid(outputs[:, :2]), jax.nn.sigmoid(outputs[:, 2:]) / 2
    return jnp.clip(jnp.concatenate([center - half, center + half], axis=-1), 0.0, 1.0)


def _sides(state: AgentState, examples: Examples, axis_name: str | None) -> jax.Array:
    """The running mean of the objects' heights and widths as shares of the image's, float32 [2]."""
    boxes, there = examples["boxes"], examples["there"]
    sums = jnp.where(there[..., None], boxes[..., 2:] - boxes[..., :2], 0.0).sum((0, 1))
    sums, count = mean_over_replicas((sums, there.sum(dtype=jnp.float32)), axis_name)
    old = state.extra["sides"]
    rate = jnp.maximum(1 / (state.step.astype(jnp.float32) + 1), SLOWEST)
    new = old + rate * (sums / jnp.maximum(count, 1.0) - old)
    return jnp.where(count > 0, new, old)


def _policy_step(
    state: AgentState, examples: Examples, keys: jax.Array, key: Callable, axis_name: str | None
) -> tuple[AgentState, Metrics]:
    """Plays by the policy, and learns from these episodes (advantage actor-critic, Mnih et al. 2016)."""
    config, player = state.config, state.players["net"]
    read = _shown(config, examples)

    def choose(observation: Any, inner: Any, keys: jax.Array) -> jax.Array:
        logits = _judged(state, _newest(player), read, observation).advantage
        noise = _each(lambda key: jax.random.gumbel(key, logits.shape[-1:], jnp.float32), keys)
        return (logits + noise).argmax(-1).astype(jnp.int32)

    episode = _played(state, examples, choose, keys, axis_name)
    counting = _counting(episode, examples)
    told = _told(episode, counting)
    moves = {"example": read, "episode": episode._replace(state=None), "counting": counting}

    def loss(params: Any, stats: Any, moves: Any, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        episode, counting = moves["episode"], moves["counting"]
        batch, copies, time = episode.action.shape
        every = jax.tree.map(lambda x: x.reshape(batch, copies * (time + 1), *x.shape[3:]), episode.observation)
        judged = _judged(state, {"params": params, **stats}, moves["example"], every)
        # Time first, as the losses of policies read it: [T, B * copies].
        values = judged.value.reshape(batch * copies, time + 1).T
        logits = judged.advantage.reshape(batch * copies, time + 1, -1).swapaxes(0, 1)[:-1]
        action, reward, done, counts = (
            x.reshape(batch * copies, time).T for x in (episode.action, episode.reward, episode.done, counting)
        )
        discounts = jnp.where(done, jnp.float32(0), config.discount)
        advantages = policy.generalized_advantages(reward, discounts, jax.lax.stop_gradient(values), config.trace)
        log_probs = policy.categorical_log_prob(logits, action)
        entropy = policy.categorical_entropy(logits)
        each = policy.policy_gradient_loss(log_probs, advantages) - config.entropy * entropy
        each += policy.value_loss(values[:-1], advantages + values[:-1])
        number = jnp.maximum(counts.sum(dtype=jnp.float32), 1.0)
        value = jnp.where(counts, each, 0.0).sum() / number
        means = {"entropy": jnp.where(counts, entropy, 0.0).sum() / number, "value": judged.value.mean()}
        return value, ({"loss": value, **means, **told}, stats)

    player, metrics = learn(player, state, loss, moves, key("model"), axis_name=axis_name)
    return state.replace(players={**state.players, "net": player}), metrics


# Evaluation


def eval_step(state: AgentState, batch: Batch) -> dict[str, Metric]:
    """Mergeable metrics of one batch, of the best moves; examples with nothing to find do not count."""
    real = batch.get("real", jnp.ones(places(batch)[0].shape, bool))
    keys = example_keys(batch, "random")[:, None]
    if state.environment is not None:
        episode = _played(state, {}, _greedy(state, {}), keys)
        return {"episodes": Average.from_batch(_sums(episode), real)}
    examples = _examples(state.config, batch)
    real = real & examples["there"].any(-1)
    episode = _played(state, examples, _greedy(state, examples), keys)
    found = _ends(episode, examples)
    ended = episode.state.history[:, 0]
    values = {
        **_scores(found, ""),
        **_sums(episode),
        "success_70": (found >= 0.7).astype(jnp.float32),
        "stopped": (ended == STOP).any(-1).astype(jnp.float32),
        **_others(state, examples, keys),
    }
    return {"box": Searched.from_batch(values, real), "worst": Worst.from_batch(1 - found, places(batch)[0], real)}


def _sums(episode: Episode) -> dict[str, jax.Array]:
    """Return and number of moves of episodes [B, 1], float32 [B]."""
    return {"return": episode.reward[:, 0].sum(-1), "moves": episode.there[:, 0].sum(-1, dtype=jnp.float32)}


def _ends(episode: Episode, examples: Examples) -> jax.Array:
    """IoU, float32 [B], of the last boxes of episodes [B, 1] with the objects that they overlap most."""
    return jax.vmap(overlap)(episode.state.box[:, 0], examples["boxes"], examples["there"])


def _scores(found: jax.Array, name: str) -> dict[str, jax.Array]:
    """What is told of IoUs [B]; ``name`` goes before."""
    return {f"{name}success": (found >= 0.5).astype(jnp.float32), f"{name}mean_iou": found}


def _others(state: AgentState, examples: Examples, keys: jax.Array) -> dict[str, jax.Array]:
    """The same without an agent: moves at random, a box in the middle, and moves by somebody who knows the objects."""
    rules = _rules(state.config)

    def at_random(observation: Any, inner: Any, keys: jax.Array) -> jax.Array:
        return _at_random(len(ACTIONS), keys)

    def knowing(observation: Any, inner: Search, keys: jax.Array) -> jax.Array:
        best = jax.vmap(partial(greedy_action, rules=rules))
        return best(inner.box[:, 0], examples["boxes"], examples["there"])[:, None]

    sides = state.extra["sides"] / 2
    middle = jnp.concatenate([0.5 - sides, 0.5 + sides])
    center = jax.vmap(partial(overlap, middle))(examples["boxes"], examples["there"])
    oracle = _played(state, examples, knowing, keys)
    return {
        **_scores(_ends(_played(state, examples, at_random, keys), examples), "random_"),
        **_scores(center, "center_"),
        **_scores(_ends(oracle, examples), "oracle_"),
        "oracle_moves": _sums(oracle)["moves"],
        **_cnn_scores(state, examples),
    }


def _cnn_scores(state: AgentState, examples: Examples) -> dict[str, jax.Array]:
    """What is told of the CNN to compare with, if there is one."""
    if "cnn" not in state.players:
        return {}
    boxes = _cnn_box(state, state.players["cnn"].best_params, examples)
    return _scores(jax.vmap(overlap)(boxes, examples["boxes"], examples["there"]), "cnn_")


def predict(state: AgentState, inputs: jax.Array) -> dict[str, jax.Array]:
    """Where the agent's box ends in images [B, H, W, C] of uint8, uint16 or floats in [0, 1].

    ``boxes`` float32 [B, 1, 4], y0, x0, y1, x1 in pixels; ``path`` float32 [B, T + 1, 4], the boxes on the way, the
    last one repeated; ``moves`` int32 [B]; ``stopped`` bool [B]: the agent ended the episode itself.
    """
    height, width = inputs.shape[1:3]
    examples = _blank(state.config, inputs)
    # The best moves draw nothing, though every policy is given keys.
    keys = example_keys({"image": inputs}, "path")[:, None]
    episode = _played(state, examples, _greedy(state, examples), keys)
    path = episode.observation["box"][:, 0] * jnp.array([height, width, height, width], jnp.float32)
    return {
        "boxes": path[:, -1:],
        "path": path,
        "moves": episode.there[:, 0].sum(-1, dtype=jnp.int32),
        "stopped": (episode.state.history[:, 0] == STOP).any(-1),
    }


def artifacts(state: AgentState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """What a person would look at: ``paths``, each image with its objects, and the box on its way."""
    if state.environment is not None:
        return {}
    return {"paths": _paths(state, {name: values[:SHOWN] for name, values in batch.items()})}


def worst(state: AgentState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``worst_paths``: the same of the images of least IoU."""
    return {"worst_paths": _paths(state, batch)}


def _paths(state: AgentState, batch: Batch) -> dict[str, jax.Array]:
    """Images [B, n, H, W, 3] with boxes in pixels: the objects, then boxes of the path, first and last."""
    images = pixels(batch)
    examples = _examples(state.config, batch)
    path = predict(state, batch["image"])["path"]
    time = path.shape[1]
    count = min(STILLS, time)
    moments = [place * (time - 1) // max(count - 1, 1) for place in range(count)]
    sides = jnp.array([*images.shape[1:3]] * 2, jnp.float32)
    way = path[:, moments]
    overlaps = jnp.where(examples["there"][:, None], iou((way / sides)[:, :, None], examples["boxes"][:, None]), 0.0)
    found = overlaps.max(-1)
    label = jnp.where(examples["there"], batch["label"].astype(jnp.int32), -1)
    nearest_label = jnp.take_along_axis(label[:, None], overlaps.argmax(-1)[..., None], axis=-1)[..., 0]
    # A box is drawn, and has a name, even if there is nothing to find.
    named = jnp.where(nearest_label >= 0, nearest_label, max(state.config.target_class, 0))
    room = label.shape[1]

    def alone(values: jax.Array, fill: float) -> jax.Array:
        """Values [B, n, ...] as [B, n, room, ...], the first of the room's."""
        after = [(0, 0)] * (values.ndim - 2)
        return jnp.pad(values[:, :, None], [(0, 0), (0, 0), (0, room - 1), *after], constant_values=fill)

    none = jnp.full_like(label, jnp.nan, jnp.float32)
    drawn = {
        "boxes": jnp.concatenate([batch["boxes"][:, None], alone(way, 0.0)], 1),
        "box_classes": jnp.concatenate([label[:, None], alone(named, -1)], 1),
        "box_scores": jnp.concatenate([none[:, None], alone(found, jnp.nan)], 1),
        "box_wrong": jnp.concatenate([jnp.zeros_like(label[:, None], bool), alone(found < 0.5, False)], 1),
    }
    return {"images": jnp.repeat(rgb(images)[:, None], 1 + count, axis=1), **drawn}


def seen(state: AgentState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """``batch``: images and the objects to be found as the training step augments them, [B, 1, H, W, 3]."""
    examples = _augmented(state, stream(state.key, "augment", state.step), batch)
    there = _examples(state.config, examples)["there"]
    label = jnp.where(there, examples["label"].astype(jnp.int32), -1)
    shown = {"images": rgb(examples["image"]), "boxes": examples["boxes"], "box_classes": label}
    return {"batch": {name: values[:, None] for name, values in shown.items()}}


def rows(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """What is told of each image: the last box, the moves, whether the agent stopped; the boxes on the way in JSON."""
    told = []
    for box, path, moves, stopped in zip(
        outputs["boxes"], outputs["path"], outputs["moves"], outputs["stopped"], strict=True
    ):
        y0, x0, y1, x1 = (round(float(each), 2) for each in box[0])
        way = [[round(float(each), 2) for each in one] for one in path[: int(moves) + 1]]
        row = {"y0": y0, "x0": x0, "y1": y1, "x1": x1, "moves": int(moves), "stopped": bool(stopped), "way": way}
        told.append(row)
    return told


def drawings(config: Config, inputs: np.ndarray, outputs: Mapping[str, np.ndarray], features: Features) -> list[dict]:
    """The image with the boxes on the way, and with the last one by itself."""
    images = np.asarray(rgb(scaled(inputs)))
    drawn = []
    for place, image in enumerate(images):
        path = outputs["path"][place][: int(outputs["moves"][place]) + 1]
        found = outputs["boxes"][place]
        pictures = {}
        for name, boxes in (("path", path), ("box", found)):
            classes = np.full(len(boxes), max(config.target_class, 0))
            scores = np.full(len(boxes), np.nan)
            pictures[name] = {"picture": image, "boxes": boxes, "box_classes": classes, "box_scores": scores}
        drawn.append(pictures)
    return drawn
