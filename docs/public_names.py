"""Sphinx extension: the build fails where a public name of jaxrec has no docstring or stands on no page."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jaxrec


def modules() -> list[ModuleType]:
    """Every module of jaxrec, imported."""
    return [importlib.import_module(info.name) for info in pkgutil.walk_packages(jaxrec.__path__, "jaxrec.")]


def public_names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Full name and object of each public function and class that the module defines, and of their methods."""
    for name, value in vars(module).items():
        if name.startswith("_") or not callable(value) or getattr(value, "__module__", None) != module.__name__:
            continue
        yield f"{module.__name__}.{name}", value
        if inspect.isclass(value):
            yield from _methods(value, f"{module.__name__}.{name}")


def _methods(cls: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        # Elsewhere defined are the methods that dataclasses are given.
        own = inspect.isfunction(function) and function.__module__ == cls.__module__
        if own and (name == "__call__" or not name.startswith("_")):
            yield f"{prefix}.{name}", function


def complaints(documented: set[str]) -> list[str]:
    """One sentence for each public name that has no docstring or is not among the ``documented`` ones."""
    found = []
    for name, value in (pair for module in modules() for pair in public_names(module)):
        if not (value.__doc__ or "").strip():
            found.append(f"{name} has no docstring")
        elif name not in documented:
            found.append(f"{name} stands on no page: name its module in docs/api.md")
    return found


def _check(app: Any, env: Any) -> None:
    from sphinx.errors import SphinxError

    if found := complaints(set(env.get_domain("py").objects)):
        raise SphinxError("public names are undocumented:\n" + "\n".join(found))


def setup(app: Any) -> dict[str, bool]:
    """Checks once every page has been read."""
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True}
