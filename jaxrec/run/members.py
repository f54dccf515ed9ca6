"""The members of a population: their records, their states in stacks, their batches, and the step that makes all."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.run.feed import Call, Feed, open_feed, stack
from jaxrec.run.initial import first_examples, initializer
from jaxrec.run.session import Session
from jaxrec.run.start import started
from jaxrec.run.steps import CompiledStep, compile_step, unharmed
from jaxrec.run.teachers import teacher
from jaxrec.tasks.state import State


@dataclass
class Member:
    """One of the runs, and its record in members.json."""

    member: int
    """Its number, from 0."""
    seed: int
    values: Mapping[str, float]
    """Its own hyper-parameters by option, such as ``optimizer.lr``."""
    validation: float | None = None
    """The system's score at the last evaluation; None if the system has none."""
    failed: int | None = None
    """The step at which its loss was found not to be finite."""
    dropped: int | None = None
    """The step after which halving dropped it."""
    test: dict[str, Any] | None = None
    """Its metrics on the test split, if it came to the end."""

    def __str__(self) -> str:
        values = "".join(f", {name} {value:g}" for name, value in self.values.items())
        return f"member {self.member} (seed {self.seed}{values})"


class Members:
    """All members of a population, and those that still train.

    The states of those that train are a list of stacks of ``width`` members each. With a kernel per member a
    convolution becomes a grouped one, and on a CPU XLA's take up to twice the time: there the compiled step is that of
    a stack of one, called for each member in turn. Elsewhere one call trains all.
    """

    def __init__(self, session: Session, draws: Sequence[Mapping[str, float]], together: bool | None) -> None:
        config = session.config
        self.session = session
        self.all: list[Member] = []
        for values in draws:
            for seed in range(config.seed, config.seed + config.seeds):
                self.all.append(Member(len(self.all), seed, values))
        self.remaining = list(self.all)
        if together is None:
            together = session.devices.platform != "cpu"
        self.width = len(self.all) if together else 1
        self.take = jax.jit(_taken, out_shardings=session.devices.replicated)

    def groups(self) -> list[list[Member]]:
        """The members of each stack."""
        return [self.remaining[n : n + self.width] for n in range(0, len(self.remaining), self.width)]

    def initial(self) -> list[State]:
        """The members' states at step 0."""
        session, stacks = self.session, []
        task, system = session.config.task, session.system
        judge = teacher(task, system, session.data)
        make = initializer(task, system, session.devices, members=True, judge=judge)
        examples = first_examples(session.data.train)
        for members in self.groups():
            keys = [jax.random.key(member.seed) for member in members]
            state = make(jnp.stack(keys), examples)
            state, session.start_notes = started(state, session.config, system, session.weights, members=True)
            own = {}
            for option in members[0].values:
                name = option.rpartition(".")[2].replace("-", "_")
                own[name] = np.array([member.values[option] for member in members], np.float32)
            stacks.append(state.replace(hyper={**state.hyper, **session.devices.copy(own)}))
        return stacks

    def states(self, stacks: Sequence[State]) -> Iterator[tuple[Member, State]]:
        """Each remaining member's own state."""
        for members, states in zip(self.groups(), stacks, strict=True):
            for place, member in enumerate(members):
                yield member, self.take(states, place)

    def rank(self, member: Member) -> float:
        """Less is better; members that failed come last, and all others are equal if nothing is to be compared."""
        score = self.session.system.score
        if member.failed is not None:
            return math.inf
        if score is None or member.validation is None:
            return 0.0
        return score.least({score.name: member.validation})

    def best(self) -> Member:
        """The best remaining member on the validation split, or else the first."""
        return min(self.remaining, key=self.rank)

    def shown(self, stacks: Sequence[State]) -> State:
        """The state that checkpoints and pictures are of: the best member's."""
        best = self.best()
        return next(state for member, state in self.states(stacks) if member is best)

    def halve(self, stacks: list[State], step: int) -> list[State]:
        """Drops the worse half of the remaining members; returns the states of the others."""
        half = math.ceil(len(self.remaining) / 2)
        kept = sorted(self.remaining, key=self.rank)[:half]
        places = [place for place, member in enumerate(self.remaining) if member in kept]
        for member in self.remaining:
            if member not in kept:
                member.dropped = step
        self.remaining = [self.remaining[place] for place in places]
        if self.width == 1:
            return [stacks[place] for place in places]
        self.width = len(places)
        return [self.take(stacks[0], np.array(places))]


def _taken(state: State, places: Any) -> State:
    return jax.tree.map(lambda leaf: leaf[places], state)


class MembersFeed(Feed):
    """The batches of all members: a list with what each stack is sent. Members of one seed share what is read."""

    def __init__(self, members: Members, former: Feed | None = None) -> None:
        session = members.session
        examples = former.examples if former else None
        self.groups = members.groups()
        self.feeds: dict[int, Feed] = {}
        for member in members.remaining:
            if member.seed not in self.feeds:
                feed = open_feed(session.config, session.data, session.devices, member.seed, examples)
                self.feeds[member.seed], examples = feed, feed.examples
        self.one = next(iter(self.feeds.values()))
        super().__init__(session.devices, self.one.leading + 1, self.one.steps_per_call, self.one.examples)

    def batch(self, sent: Any, examples: dict[str, Any], step: jax.Array) -> dict[str, Any]:
        """As in each member's own feed."""
        return self.one.batch(sent, examples, step)

    def on_host(self, start: int, end: int) -> Iterator[Call]:
        """A call for all stacks, of what is sent to each."""
        before, stacks = None, []
        every = [feed.on_host(start, end) for feed in self.feeds.values()]
        for calls in zip(*every, strict=True):
            # Calls may share what is sent; if one seed's is new, all are.
            if calls[0].sent is not before:
                before = calls[0].sent
                by_seed = {seed: call.sent for seed, call in zip(self.feeds, calls, strict=True)}
                stacks = []
                for group in self.groups:
                    sent = [by_seed[member.seed] for member in group]
                    stacks.append(stack(sent))
            yield Call(calls[0].end, stacks)

    def send(self, batch: Any) -> Any:
        """What each stack takes, put on the devices."""
        return [super(MembersFeed, self).send(each) for each in batch]


def members_step(members: Members, feed: MembersFeed, stacks: list[State]) -> CompiledStep:
    """The step of all stacks, each made by the same compiled program."""
    session = members.session
    watch = unharmed(session.devices, stacks[0])
    begin = next(iter(feed.calls(0, feed.steps_per_call)))
    one = compile_step(session.system, feed, session.devices, stacks[0], watch, begin.sent[0])

    def step(state: list[State], watch: list[Any], sent: list[Any]) -> tuple[Any, Any, Any]:
        made = [one(*each) for each in zip(state, watch, sent, strict=True)]
        states, watches, metrics = zip(*made, strict=True)
        return list(states), list(watches), list(metrics)

    return CompiledStep(step, one.text)


def spread(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean and, as ``NAME_std``, sample standard deviation of each metric that every row has.

    Whole numbers, such as the number of a class, have no mean and are left out. One row has no deviation.
    """
    rows = list(rows)
    found = {}
    for name in rows[0]:
        values = [row[name] for row in rows if isinstance(row.get(name), float)]
        if len(values) < len(rows):
            continue
        found[name] = mean(values)
        if len(values) > 1:
            found[f"{name}_std"] = stdev(values)
    return found
