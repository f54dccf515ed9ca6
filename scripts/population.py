"""How many networks a second a machine trains: a population as one program under `jax.vmap`, against one by one.

    python scripts/population.py                  64 members of experiments/digits_cnn.py
    python scripts/population.py --members 8 --steps 50

A member's whole training is one pure function of its key: initial state, epochs in an order of its own, augmentation,
test accuracy. `jax.vmap` of it trains the population. Compile time is told apart.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from jaxrec.cli.training_arguments import read_experiment
from jaxrec.models.members import convolutions_as_products
from jaxrec.run.data import complete, open_data
from jaxrec.settings import Classifier
from jaxrec.tasks.classifier import init, predict, train_step
from jaxrec.tasks.state import State
from jaxrec.tasks.system import system_of

Examples = dict[str, jax.Array]


def accuracy_of_member(
    config: Classifier, batch: int, steps: int, train: Examples, test: Examples, key: jax.Array
) -> jax.Array:
    """The test accuracy, float32, of a network that starts and is trained by ``key``."""
    start, order = jax.random.split(key)
    size = len(train["label"])

    def step(state: State, number: jax.Array) -> tuple[State, None]:
        epoch, place = number * batch // size, number * batch % size
        shuffled = jax.random.permutation(jax.random.fold_in(order, epoch), size)
        places = shuffled[(place + jnp.arange(batch)) % size]
        state, _ = train_step(state, {"image": train["image"][places], "label": train["label"][places]})
        return state, None

    state, _ = jax.lax.scan(step, init(config, start, train), jnp.arange(steps))
    probabilities = predict(state, test["image"])["probabilities"]
    return jnp.mean(probabilities.argmax(-1) == test["label"])


def compiled(function: Callable[..., jax.Array], keys: jax.Array) -> tuple[Callable[..., jax.Array], float]:
    """The compiled function of keys, and the seconds that compiling took."""
    began = time.perf_counter()
    return jax.jit(function).lower(keys).compile(), time.perf_counter() - began


def median_seconds(function: Callable[..., jax.Array], keys: jax.Array, rounds: int) -> float:
    """The median of the times of some calls after a first one."""
    jax.block_until_ready(function(keys))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(function(keys))
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Trains one member and the population, and prints both rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--steps", type=int, help="default: those of the experiment")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    experiment = read_experiment("digits_cnn")
    config = replace(experiment, steps=options.steps or experiment.steps)
    system = system_of(config.task)
    data = open_data(config, system, trains=True)
    config = complete(config, data, system)
    train, test = (jax.device_put(split.load()) for split in (data.train, data.test))
    member = partial(accuracy_of_member, config.task, config.batch_size, config.steps, train, test)
    keys = jax.random.split(jax.random.key(0), options.members)
    card = jax.devices()[0].device_kind
    print(f"{config.steps} steps of {config.batch_size} digits on {card}; jax {jax.__version__}", flush=True)
    alone = trained("one alone", member, keys[:1], options.rounds, nullcontext())
    trained("all, grouped convolutions", member, keys, options.rounds, nullcontext())
    together = trained("all, convolutions as products", member, keys, options.rounds, convolutions_as_products())
    print(f"{together / alone:.1f} times as many members a second")


def trained(
    name: str, member: Callable[[jax.Array], jax.Array], keys: jax.Array, rounds: int, form: AbstractContextManager
) -> float:
    """Trains a member for each key, as one program whose operations are traced in ``form``; members a second."""
    with form:
        train, compiling = compiled(jax.vmap(member), keys)
    seconds = median_seconds(train, keys, rounds)
    accuracies = 100 * train(keys)
    print(
        f"{name}: {len(keys) / seconds:.3g} members a second, {seconds:.2f} s after {compiling:.1f} s of compiling; "
        f"test accuracy {accuracies.mean():.2f} % ± {accuracies.std():.2f}",
        flush=True,
    )
    return len(keys) / seconds


if __name__ == "__main__":
    main()
