"""jaxrec sweep --vary optimizer.lr=1e-4:1e-1: a random search, all its runs trained at once."""

from jaxrec.cli.train import trained
from jaxrec.cli.training_arguments import read_arguments
from jaxrec.settings import Sweep
from jaxrec.settings.draws import ranges

EXAMPLES = (
    "jaxrec sweep --vary optimizer.lr=1e-4:1e-1 --dataset mnist --steps 500",
    "jaxrec sweep --vary optimizer.lr=1e-4:1e-1 --vary optimizer.l2=1e-5:1e-2",
    "jaxrec sweep --vary optimizer.lr=1e-4:1e-1 --members 32 --halving 3",
)


def main(argv: list[str]) -> int:
    """Trains as the arguments say; returns the exit code."""
    config = read_arguments(argv, Sweep, "jaxrec sweep", EXAMPLES)
    ranges(config)  # Mistakes are answered before JAX is imported.
    return trained(config)
