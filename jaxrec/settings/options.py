"""The options of a configuration, read from its dataclasses: names, types, notes, values and help texts."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro


@dataclass(frozen=True)
class Group:
    """The heading of ``--help`` under which an option stands, written beside the field's type."""

    name: str


DATA = Group("data")
START = Group("start")
LENGTH = Group("length")
OUTPUT = Group("output")
DEVICES = Group("devices")
SYSTEM = Group("system")
OPTIMIZER = Group("optimizer")
AUGMENTATION = Group("augmentation")
ADVANCED = Group("advanced")


@dataclass(frozen=True)
class Option:
    """One field of a configuration, as the command line knows it."""

    name: str
    """As one types it: ``--optimizer.weight-decay``; the name alone of a positional argument."""
    hint: Any
    """The field's type without notes."""
    notes: tuple[Any, ...]
    """What is written beside the type: a ``Range``, a ``Group``, tyro's marks."""
    value: Any
    """The value, or the default if a class was given; ``MISSING`` if there is none."""
    help: str
    """The field's docstring on one line."""

    @property
    def hidden(self) -> bool:
        """Whether the option is set from the data, never by a user."""
        return tyro.conf.Suppress in self.notes

    @property
    def positional(self) -> bool:
        """Whether it is an argument without ``--``."""
        return tyro.conf.Positional in self.notes

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names by which it may be typed."""
        found: tuple[str, ...] = ()
        for note in self.notes:
            found += tuple(getattr(note, "aliases", None) or ())
        return found

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that the option may have, or each of its values; empty if others are possible."""
        return _choices(self.hint)

    @property
    def takes_several(self) -> bool:
        """Whether any number of values may follow."""
        return get_origin(self.hint) is tuple

    @property
    def group(self) -> str:
        """The heading under which it stands in ``--help``; an empty string if none is given."""
        names = [note.name for note in self.notes if isinstance(note, Group)]
        return names[0] if names else ""

    @property
    def records(self) -> bool:
        """Whether the option holds dataclasses, which only Python can spell."""
        return any(is_dataclass(part) for part in get_args(self.hint))


def options(config: Any) -> Iterator[Option]:
    """The options of a dataclass or an instance of one, in the order of the fields; nested ones have a prefix.

    The fields of ``task`` have none: ``--width``, but ``--optimizer.lr``.
    """
    return _options(config, "", ())


def _options(config: Any, prefix: str, outer: tuple[Any, ...]) -> Iterator[Option]:
    kind = config if isinstance(config, type) else type(config)
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, notes = _without_notes(hints[field.name])
        value = _value(config, field)
        name = _spelled(notes) or field.name.replace("_", "-")
        if is_dataclass(value):
            inner = prefix if field.name == "task" else f"{prefix}{name}."
            yield from _options(value, inner, notes)
            continue
        typed = name if tyro.conf.Positional in notes else f"--{prefix}{name}"
        yield Option(typed, hint, (*notes, *outer), value, field_help(kind, field.name))


def _spelled(notes: tuple[Any, ...]) -> str:
    """The name that a note gives the option, if it is not the field's, such as ``class``; else an empty string."""
    names = [note.name for note in notes if getattr(note, "name", None) and not isinstance(note, Group)]
    return names[0] if names else ""


def _value(config: Any, field: Field) -> Any:
    if not isinstance(config, type):
        return getattr(config, field.name)
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _without_notes(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(hint) is Annotated:
        return get_args(hint)[0], hint.__metadata__
    return hint, ()


def _choices(hint: Any) -> tuple[str, ...]:
    if get_origin(hint) is Literal:
        return tuple(str(choice) for choice in get_args(hint))
    parts = [part for part in get_args(hint) if part is not NoneType]
    if get_origin(hint) is tuple or (get_origin(hint) in (Union, UnionType) and len(parts) == 1):
        return _choices(parts[0])
    return ()


def field_help(kind: type, name: str) -> str:
    """The docstring below a field of a dataclass or of its base classes, on one line; empty if there is none."""
    for each in kind.__mro__:
        found = _docstrings(each.__module__).get((each.__name__, name))
        if found:
            return found
    return ""


@cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """The docstring below each field in a module's source, by the names of class and field."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None or not path.endswith(".py") or module.partition(".")[0] in sys.stdlib_module_names:
        return {}
    found = {}
    for node in ast.parse(Path(path).read_text("utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, text in zip(node.body, node.body[1:], strict=False):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[node.name, field.target.id] = " ".join(str(text.value.value).split())
    return found
