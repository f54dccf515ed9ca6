"""Which systems there are: jaxrec's own, those of installed packages, and files given with ``--system``."""

import importlib
import importlib.util
import pkgutil
import sys
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from jaxrec.errors import UserError, nearest
from jaxrec.settings.common import OPTIMIZER_HYPER, Task

GROUP = "jaxrec.systems"
"""The group of entry points by which a package offers its systems; an entry point is called as its ``--model``."""
PACKAGE = "jaxrec.settings"
FROM_FILE = "jaxrec_system_"
"""What the modules of systems that are loaded from files are called, before the name of the file."""

_given: dict[str, ModuleType] = {}
"""Systems that are not jaxrec's own and were loaded by this process, by name."""


@cache
def own() -> dict[str, ModuleType]:
    """The settings of jaxrec's own systems: every module of this package that has ``PRESETS``."""
    package = importlib.import_module(PACKAGE)
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{PACKAGE}.{info.name}")
        if hasattr(module, "PRESETS"):
            found[info.name] = module
    return found


def _offered() -> dict[str, EntryPoint]:
    """The entry points of installed packages, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def models() -> list[str]:
    """Every ``--model`` that can be named."""
    names = [name for module in own().values() for name in module.PRESETS]
    for module in _given.values():
        names += list(module.PRESETS)
    return list(dict.fromkeys([*names, *_offered()]))


def preset(model: str) -> Task:
    """The default settings of a ``--model``; raises UserError for an unknown one, naming the nearest."""
    for module in (*_given.values(), *own().values()):
        if model in module.PRESETS:
            return _named(module.PRESETS[model], model)
    if model in _offered():
        return _named(_load_offered(model).PRESETS[model], model)
    others = f"; the models are {', '.join(models())}"
    raise UserError(f"there is no model '{model}'{nearest(model, models()) or others}")


def _named(task: Task, model: str) -> Task:
    """The preset with its name; one that keeps the empty default of ``Task.model`` gets the name it stands under."""
    return task if task.model else replace(task, model=model)


def hyper(config: Task) -> tuple[str, ...]:
    """The options of a system that are leaves of its state's ``hyper``, so that a sweep can vary them."""
    return getattr(settings_module(name_of(config)), "HYPER", OPTIMIZER_HYPER)


def _load_offered(name: str) -> ModuleType:
    try:
        module = _offered()[name].load()
    except Exception as error:
        raise UserError(
            f"the system '{name}' of an installed package fails with {type(error).__name__} ({error}); "
            "update or uninstall the package"
        ) from error
    _check(module, f"the system '{name}'", name)
    _given[name] = module
    return module


def load_file(path: str) -> ModuleType:
    """Runs the Python file of a system, once in a process, and registers it under the file's name.

    The file is trusted like any other code: read it first if it comes from a stranger. Raises UserError if there is no
    such file, if it fails, if it lacks ``Config`` or ``PRESETS``, or if another file of that name was loaded.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--system '{path}' is not a file; expected a Python file that defines a system")
    name = file.stem
    if name in own():
        raise UserError(f"--system '{path}' has the name of jaxrec's own system '{name}'; rename the file")
    known = _given.get(name)
    if known is not None and not _is_of(known, file):
        raise UserError(f"--system '{path}' has the name of {known.__file__}, which is in use; rename one of the two")
    if known is not None:
        # Run again, it would have another Config than the settings that exist already.
        return known
    spec = importlib.util.spec_from_file_location(f"{FROM_FILE}{name}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--system '{path}' is not a Python file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--system '{path}' fails with {type(error).__name__} ({error}); run it with python to see where"
        ) from error
    _check(module, f"--system '{path}'", None)
    _given[name] = module
    return module


def _is_of(module: ModuleType, file: Path) -> bool:
    """Whether the module was loaded from the file or from a copy of it."""
    if module.__file__ is None:
        return False
    loaded = Path(module.__file__)
    return loaded.resolve() == file.resolve() or (loaded.is_file() and loaded.read_bytes() == file.read_bytes())


def file_of(config: Task) -> str | None:
    """The file of a system that was loaded from one; None if it is jaxrec's own or that of an installed package."""
    module = settings_module(name_of(config))
    return module.__file__ if module.__name__.startswith(FROM_FILE) else None


def _check(module: ModuleType, what: str, model: str | None) -> None:
    missing = [name for name in ("Config", "PRESETS") if not hasattr(module, name)]
    if missing:
        raise UserError(f"{what} has no {missing[0]}; a system defines Config and PRESETS, see docs/add_a_system.md")
    if not issubclass(module.Config, Task):
        raise UserError(f"{what} has a Config that is not a subclass of jaxrec.settings.Task; make it one")
    if model is not None and model not in module.PRESETS:
        raise UserError(f"{what} has no preset '{model}', only {', '.join(module.PRESETS)}; rename its entry point")


def name_of(config: Task) -> str:
    """The name of the system that the settings belong to, such as ``classifier``."""
    for name, module in (*own().items(), *_given.items()):
        if module.Config is type(config):
            return name
    name = _name_of_module(type(config).__module__)
    _given[name] = sys.modules[type(config).__module__]
    return name


def _name_of_module(module: str) -> str:
    """The name of a system that was imported: that of its entry point, by which it is found again, or of its file."""
    for entry in _offered().values():
        if entry.module == module:
            return entry.name
    file = getattr(sys.modules[module], "__file__", None)
    if module == "__main__" and file is not None:
        return Path(file).stem
    return module.rpartition(".")[2]


def settings_module(name: str) -> ModuleType:
    """The module with the ``Config`` and ``PRESETS`` of the system called ``name``.

    Raises UserError if the system is neither jaxrec's own nor installed nor loaded from its file.
    """
    if name in own():
        return own()[name]
    if name in _given:
        return _given[name]
    if name in _offered():
        return _load_offered(name)
    others = [given for given, module in _given.items() if module.__name__.startswith(FROM_FILE)]
    if others:
        raise UserError(
            f"the system '{name}' is not the one of the given file, '{others[-1]}': a system has the name of its file; "
            f"give it with --system {name}.py"
        )
    raise UserError(
        f"the system '{name}' is not part of jaxrec; give its file with --system {name}.py, "
        "or install the package that it comes from"
    )


def system_module(name: str) -> ModuleType:
    """The module with the functions of the system called ``name``: its steps, which import jax."""
    if name in own():
        return importlib.import_module(f"jaxrec.tasks.{name}")
    return settings_module(name)
