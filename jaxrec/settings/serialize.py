"""Settings as JSON data and back, and settings with some options changed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxrec.errors import UserError, nearest
from jaxrec.settings import registry
from jaxrec.settings.run import Train

AnyTrain = TypeVar("AnyTrain", bound=Train)

FORMAT = 2
"""Changes with the layout of a run's settings; 1 was that of jaxrec 0.1, which wrote none."""


def with_values(config: AnyTrain, values: Mapping[str, float]) -> AnyTrain:
    """The settings with some of the task's options set, such as ``{"optimizer.weight-decay": 0.1}``.

    Raises UserError for an option that the task does not have.
    """
    task = config.task
    for option, value in values.items():
        task = _with_value(task, option, option.replace("-", "_").split("."), value)
    return replace(config, task=task)


def _with_value(settings: Any, option: str, path: Sequence[str], value: Any) -> Any:
    """The settings with the field at ``path`` set, which the user calls ``option``."""
    name, *inner = path
    known = list(getattr(settings, "__dataclass_fields__", ()))  # A number or a word has none.
    if name not in known:
        what = f"; {type(settings).__name__} has {', '.join(known)}" if known else ""
        raise UserError(f"there is no setting '{option}'{nearest(name, known) or what}")
    if inner:
        value = _with_value(getattr(settings, name), option, inner, value)
    return replace(settings, **{name: value})


def to_dict(config: Train) -> dict[str, Any]:
    """The settings as plain nested data for a JSON file; ``task.system`` names the system."""
    values = asdict(config)
    task = {"system": registry.name_of(config.task), **values["task"]}
    return {"format": FORMAT, **values, "task": task}


def from_dict(values: dict[str, Any]) -> Train:
    """The inverse of ``to_dict``.

    Raises UserError for settings that this version does not know and for a system that is not there.
    """
    values = dict(values)
    written = values.pop("format", 1)
    if written != FORMAT:
        version = "jaxrec 0.1" if written == 1 else "a later version of jaxrec"
        raise UserError(
            f"the settings were written by {version} (format {written}, expected {FORMAT}); use that version"
        )
    task = _renamed(values.get("task", {}))
    kind = registry.settings_module(task.pop("system", "")).Config
    return _build(Train, {**values, "task": _build(kind, task)})


def _renamed(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings with the names of today: earlier runs of this format wrote some in British spelling."""
    renamed = dict(task)
    if "standardise" in renamed:
        renamed["standardize"] = renamed.pop("standardise")
    if "diffaugment" in renamed:
        renamed["diffaugment"] = ["color" if kind == "colour" else kind for kind in renamed["diffaugment"]]
    return renamed


def _build(kind: type, values: dict[str, Any]) -> Any:
    """A dataclass from JSON data, its fields checked by their type hints."""
    unknown = values.keys() - {each.name for each in fields(kind)}
    if unknown:
        raise UserError(
            f"the settings hold {kind.__name__} '{min(unknown)}', which this version of jaxrec does not know; "
            "read the run with the version that its manifest names"
        )
    hints = get_type_hints(kind)
    made = {}
    for name, value in values.items():
        made[name] = _value(hints[name], value)
        if not _fits(made[name], hints[name]):
            raise UserError(
                f"the settings hold {kind.__name__} '{name}' = {value!r:.60}, which is not valid; restore the file"
            )
    return kind(**made)


def _value(hint: Any, value: Any) -> Any:
    """JSON data as a field of this type holds it: lists as tuples, dicts as dataclasses."""
    if isinstance(value, dict) and is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value)
    if isinstance(value, list):
        inner = get_args(hint)[0] if get_args(hint) else Any
        return tuple(_value(inner, each) for each in value)
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of a field's type."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and _fits_tuple(value, parts)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _fits_tuple(value: tuple, parts: tuple) -> bool:
    if parts[1:] == (...,):
        parts = parts[:1] * len(value)
    if len(value) != len(parts):
        return False
    return all(_fits(each, part) for each, part in zip(value, parts, strict=True))
