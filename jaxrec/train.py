"""python -m jaxrec.train --model cnn: trains a system and leaves a run folder to look at."""

import runpy
from dataclasses import replace
from pathlib import Path

from jaxrec.cli import parse, run_command
from jaxrec.config import PRESETS, Train
from jaxrec.errors import UserError, nearest


def read_experiment(path: str) -> Train:
    """The ``config`` of an experiment file. The file is Python and is run: read it first if a stranger gave it."""
    if not Path(path).is_file():
        raise UserError(f"there is no experiment file '{path}'; expected a Python file that sets config = Train(...)")
    config = runpy.run_path(path).get("config")
    if not isinstance(config, Train):
        raise UserError(f"experiment '{path}' sets no config; expected a line config = jaxrec.config.Train(...)")
    return config


def _taken(argv: list[str], option: str) -> str | None:
    """The value of ``--option VALUE`` or ``--option=VALUE``, which stays in ``argv``."""
    for place, argument in enumerate(argv):
        if argument == option and place + 1 < len(argv):
            return argv[place + 1]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None


def read_arguments(argv: list[str]) -> Train:
    """The settings that the command line asks for.

    ``--experiment FILE``, ``--resume`` with ``--name``, or ``--model`` give the defaults that the other options change.
    """
    model, experiment = _taken(argv, "--model"), _taken(argv, "--experiment")
    default = Train()
    if experiment is not None:
        default = read_experiment(experiment)
        place = next(n for n, argument in enumerate(argv) if argument.partition("=")[0] == "--experiment")
        argv = argv[:place] + argv[place + (1 if "=" in argv[place] else 2) :]
    elif "--resume" in argv and (name := _taken(argv, "--name")):
        from jaxrec.run.folder import find, read_config

        default = read_config(find(Path(_taken(argv, "--runs") or Train.runs) / name))
        if "--epochs" in (argument.partition("=")[0] for argument in argv):
            default = replace(default, steps=None)
    elif model is not None:
        if model not in PRESETS:
            others = f"; the models are {', '.join(PRESETS)}"
            raise UserError(f"there is no model '{model}'{nearest(model, PRESETS) or others}")
        default = Train(task=PRESETS[model])
    return parse(Train, argv, "jaxrec.train", default)


def main(argv: list[str]) -> int:
    """Trains as the arguments say; returns the exit code."""
    config = read_arguments(argv)
    # Only now, so that --help and mistakes answer at once.
    from jaxrec.run.loop import train

    return train(config)


if __name__ == "__main__":
    run_command(main)
