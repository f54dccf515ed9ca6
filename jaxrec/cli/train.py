"""jaxrec train --model cnn: trains a system and leaves a run folder to look at."""

from jaxrec.cli.training_arguments import read_arguments
from jaxrec.settings import Train

EXAMPLES = (
    "jaxrec train --model cnn --dataset mnist --epochs 5",
    "jaxrec train --model resnet18 --dataset folder:photos --image-size 64",
    "jaxrec train --experiment mnist_cnn --seeds 3",
)


def main(argv: list[str]) -> int:
    """Trains as the arguments say; returns the exit code."""
    return trained(read_arguments(argv, examples=EXAMPLES))


def trained(config: Train) -> int:
    """Trains; returns 0, or 128 and the number of the signal that stopped the run."""
    # JAX is imported only now, so that --help and mistakes are answered at once.
    from jaxrec.host import tune_cpu
    from jaxrec.run.fit import fit

    tune_cpu(config.tune_allocator)
    run = fit(config)
    return 0 if run.stopped is None else 128 + run.stopped
