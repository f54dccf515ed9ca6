"""jaxrec train --model cnn: trains a system and leaves a run folder to look at."""

import runpy
from dataclasses import replace
from pathlib import Path

from jaxrec.cli.arguments import check_numbers, parse
from jaxrec.errors import UserError
from jaxrec.settings import Train, models, preset
from jaxrec.settings.serialize import AnyTrain

HELP = f"""Train an image-recognition system and leave a run folder to look at.

--model is one of {", ".join(models())}; with --help after it, its own options are shown.
--experiment FILE takes the settings of an experiment file, which the other options change."""


def read_experiment(path: str) -> Train:
    """The ``config`` of an experiment file. The file is Python and is run: read it first if a stranger gave it."""
    if not Path(path).is_file():
        raise UserError(f"there is no experiment file '{path}'; expected a Python file that sets config = Train(...)")
    try:
        config = runpy.run_path(path).get("config")
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"experiment '{path}' fails with {type(error).__name__} ({error}); run it with python to see where"
        ) from error
    if not isinstance(config, Train):
        raise UserError(f"experiment '{path}' sets no config; expected a line config = jaxrec.settings.Train(...)")
    return config


def _taken(argv: list[str], option: str) -> str | None:
    """The value of ``--option VALUE`` or ``--option=VALUE``, which stays in ``argv``; None where it is not there."""
    for place, argument in enumerate(argv):
        if argument == option:
            if place + 1 == len(argv) or argv[place + 1].startswith("--"):
                raise UserError(f"{option} is given without a value; write {option} VALUE")
            return argv[place + 1]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None


def read_arguments(
    argv: list[str], kind: type[AnyTrain] = Train, program: str = "jaxrec train", description: str = HELP
) -> AnyTrain:
    """The settings, of the given kind, that the command line asks for.

    ``--experiment FILE``, ``--resume`` with ``--name``, or ``--model`` give the defaults that the other options change.
    """
    model, experiment = _taken(argv, "--model"), _taken(argv, "--experiment")
    default = Train()
    if experiment is not None:
        default = read_experiment(experiment)
        place = next(n for n, argument in enumerate(argv) if argument.partition("=")[0] == "--experiment")
        argv = argv[:place] + argv[place + (1 if "=" in argv[place] else 2) :]
    elif "--resume" in argv and (name := _taken(argv, "--name")):
        from jaxrec.run.store.folder import find, read_config

        runs = _taken(argv, "--runs") or Train.runs
        # The folder may have been moved since.
        default = replace(read_config(find(Path(runs) / name)), runs=runs, name=name)
        if "--epochs" in (argument.partition("=")[0] for argument in argv):
            default = replace(default, steps=None)
    elif model is not None:
        default = Train(task=preset(model))
    config = parse(kind, argv, program, kind(**vars(default)), description)
    check_numbers(config)
    if config.seed + config.seeds > 2**32:
        raise UserError(f"--seed {config.seed} and --seeds {config.seeds} go past the last seed, {2**32 - 1}")
    return config


def main(argv: list[str]) -> int:
    """Trains as the arguments say; returns the exit code."""
    config = read_arguments(argv)
    # Only now, so that --help and mistakes answer at once.
    if config.seeds > 1:
        from jaxrec.run.population import train_population

        return train_population(config)
    from jaxrec.run.loop import train

    return train(config)
