"""python -m jaxrec.train: the same as ``jaxrec train``."""

from jaxrec.cli.running import run_command
from jaxrec.cli.train import main

if __name__ == "__main__":
    run_command(main)
