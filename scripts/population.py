"""How many networks a second a machine trains: a population as one program under `jax.vmap`, against one by one.

    python scripts/population.py                  64 members of experiments/digits_cnn.py
    python scripts/population.py --members 8 --steps 50

A member's whole training is the pure function of scripts/speedrun.py: a key to a test accuracy. `jax.vmap` of it trains
the population. Compile time is told apart.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import jax
import jax.numpy as jnp
from speedrun import loaded, timed, training

from jaxrec.cli.training_arguments import read_experiment
from jaxrec.models.members import convolutions_as_products
from jaxrec.settings import Classifier


def main() -> None:
    """Trains one member and the population, and prints both rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--steps", type=int, help="default: those of the experiment")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    experiment = read_experiment("digits_cnn")
    config, *splits = loaded(replace(experiment, steps=options.steps or experiment.steps))
    assert isinstance(config.task, Classifier)
    train, test = jax.device_put(splits)
    whole, lr = training(config.task, config.batch_size), jnp.float32(config.task.optimizer.lr)

    def member(key: jax.Array) -> jax.Array:
        return whole(key, lr, train, test).accuracy

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
    # One alone is a member under vmap, too, so that all three programs answer alike.
    with form:
        lowered = jax.jit(jax.vmap(member)).lower(keys)
    compiling, train = timed(lowered.compile)
    train(keys)  # The first call is slower.
    seconds = statistics.median(timed(train, keys)[0] for _ in range(rounds))
    accuracies = 100 * train(keys)
    print(
        f"{name}: {len(keys) / seconds:.3g} members a second, {seconds:.2f} s after {compiling:.1f} s of compiling; "
        f"test accuracy {accuracies.mean():.2f} % ± {accuracies.std():.2f}",
        flush=True,
    )
    return len(keys) / seconds


if __name__ == "__main__":
    main()
