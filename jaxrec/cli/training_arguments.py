"""The settings of a run from the command line, as train, sweep and plan read them."""

import runpy
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import tyro

import jaxrec
from jaxrec.cli.arguments import parse, take
from jaxrec.errors import UserError
from jaxrec.settings import Task, Train, models, preset, registry
from jaxrec.settings.options import SYSTEM, Option
from jaxrec.settings.serialize import AnyTrain

LAST_SEED = 2**32 - 1
SYSTEM_HELP = "Python file that defines a system; its first preset is the default --model."


def read_arguments(
    argv: Sequence[str], kind: type[AnyTrain] = Train, program: str = "jaxrec train", examples: Sequence[str] = ()
) -> AnyTrain:
    """The settings, of the given kind, that the command line asks for.

    The options change defaults that come from ``--experiment FILE``, from the run that ``--resume`` names, or from the
    preset that ``--model`` names. ``--system FILE`` adds the presets of a file. Raises UserError for every mistake.
    """
    resume, argv = _take_resume(argv)
    system, argv = take(argv, "--system")
    presets = registry.load_file(system).PRESETS if system is not None else {}
    experiment, argv = take(argv, "--experiment")
    if experiment is not None:
        default = read_experiment(experiment)
        _check_model(argv, default.task)
    elif resume is True and take(argv, "--name")[0] is not None:
        default = _resumed(argv)
    else:
        default = Train(task=_chosen(argv, presets))
    if resume:
        default = replace(default, resume=resume)
    common = {each.name: getattr(default, each.name) for each in fields(kind) if hasattr(default, each.name)}
    config = parse(kind, argv, program, kind(**common), examples, listed(default.task))
    if config.seed + config.seeds - 1 > LAST_SEED:
        raise UserError(f"--seed {config.seed} and --seeds {config.seeds} go past the last seed, {LAST_SEED}")
    return config


def listed(task: Task) -> list[Option]:
    """The options that give the defaults of all others, for ``--help`` and for suggestions."""
    name, file = tyro.conf.arg(metavar="NAME"), tyro.conf.arg(metavar="FILE")
    return [
        Option("--model", str, (SYSTEM, name), task.model, f"The model to train. One of: {', '.join(models())}."),
        Option(
            "--experiment",
            str,
            (SYSTEM, file),
            None,
            f"Python file whose config gives the defaults of all options; or one of: {', '.join(experiments())}.",
        ),
        Option("--system", str, (SYSTEM, file), None, SYSTEM_HELP),
    ]


def _chosen(argv: Sequence[str], presets: Mapping[str, Task]) -> Task:
    """The preset that ``--model`` names; by default the first of a given system, or that of ``Train``."""
    model, _ = take(argv, "--model")
    if model is None and not presets:
        return Train().task
    return preset(next(iter(presets)) if model is None else model)


def _check_model(argv: Sequence[str], task: Task) -> None:
    """Raises UserError if ``--model`` names a model of another system than the experiment's."""
    model, _ = take(argv, "--model")
    if model is not None and type(preset(model)) is not type(task):
        raise UserError(f"--model {model} is of another system than the experiment's {task.model}; remove one of them")


def _take_resume(argv: Sequence[str]) -> tuple[bool | Literal["auto"], list[str]]:
    """What ``--resume``, alone or followed by ``auto``, asks for, and the other arguments."""
    if "--resume=auto" in argv:
        return "auto", [argument for argument in argv if argument != "--resume=auto"]
    if "--resume" not in argv:
        return False, list(argv)
    place = argv.index("--resume")
    before, after = list(argv[:place]), list(argv[place + 1 :])
    if not after or after[0].startswith("--"):
        return True, before + after
    if after[0] == "auto":
        return "auto", before + after[1:]
    raise UserError(f"--resume cannot be followed by '{after[0]}'; expected auto or nothing: --name names the run")


def _resumed(argv: Sequence[str]) -> Train:
    """The settings of the run that is to be continued."""
    from jaxrec.run.store.folder import find, read_config

    name, _ = take(argv, "--name")
    given, _ = take(argv, "--runs")
    runs = given or Train.runs
    # The folder may have been moved since it was written.
    config = replace(read_config(find(Path(runs) / str(name))), runs=runs, name=name)
    if take(argv, "--epochs")[0] is not None:
        # A completed run has both, and only one of them may be given.
        return replace(config, steps=None)
    return config


def experiments() -> dict[str, Path]:
    """The files of jaxrec's own experiments, by name: inside an installed jaxrec, or beside it in a clone."""
    package = Path(jaxrec.__file__).parent
    folder = package / "experiments"
    if not folder.is_dir():
        folder = package.parent / "experiments"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def _experiment_file(given: str) -> str:
    """The file that ``--experiment`` names by its path, or by the name of one of jaxrec's own."""
    if Path(given).is_file():
        return given
    own = experiments()
    if given in own:
        return str(own[given])
    raise UserError(
        f"--experiment '{given}' is not a file; expected a Python file that sets config = Train(...), or one of "
        f"{', '.join(own)}"
    )


def read_experiment(given: str) -> Train:
    """The ``config`` of an experiment: a file, or one of jaxrec's own by its name.

    The file is Python and is run: read it first if it is not yours.
    """
    path = _experiment_file(given)
    try:
        config = runpy.run_path(path).get("config")
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--experiment '{path}' fails with {type(error).__name__} ({error}); run it with python to see where"
        ) from error
    if not isinstance(config, Train):
        raise UserError(f"--experiment '{path}' sets no config; add a line config = jaxrec.settings.Train(...)")
    return config
