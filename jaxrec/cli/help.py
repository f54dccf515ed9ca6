"""The text of ``--help``: a command's options in groups, from the docstrings of its dataclass."""

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jaxrec.settings.options import Option

ORDER = (
    "system",
    "data",
    "start",
    "length",
    "output",
    "devices",
    "optimizer",
    "augmentation",
    "search",
    "plan",
    "advanced",
)
"""The groups in the order in which they are shown."""
INDENT = 26
"""The column at which an option's text begins."""
WORDS = {int: "INT", float: "FLOAT", str: "TEXT"}


def help_text(kind: Any, options: Sequence[Option], program: str, examples: Sequence[str] = ()) -> str:
    """Usage, description, examples and options of a command."""
    width = min(shutil.get_terminal_size().columns, 110)
    positional = [option for option in options if option.positional]
    places = [_placeholder(option) for option in positional]
    usage = " ".join([program, *places, "[OPTIONS]"])
    paragraphs = [f"usage: {usage}", _description(kind, width)]
    if examples:
        paragraphs.append(_section("examples", [f"  {example}" for example in examples]))
    if positional:
        paragraphs.append(_section("arguments", [_entry(option, width) for option in positional]))
    for group, members in _groups(options).items():
        paragraphs.append(_section(group, [_entry(option, width) for option in members]))
    return "\n\n".join(paragraphs)


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", *lines])


def _description(kind: Any, width: int) -> str:
    """The paragraphs of a docstring, without its line breaks and indentation."""
    filled = []
    for paragraph in (kind.__doc__ or "").split("\n\n"):
        words = " ".join(paragraph.split())
        filled.append(textwrap.fill(words, width))
    return "\n\n".join(filled)


def _groups(options: Sequence[Option]) -> dict[str, list[Option]]:
    """The options that a user may type, by heading; those without a group are the system's own, or all there are."""
    shown = [option for option in options if not (option.hidden or option.positional or option.records)]
    rest = "system" if any(option.group for option in shown) else "options"
    found: dict[str, list[Option]] = {}
    for option in shown:
        found.setdefault(option.group or rest, []).append(option)
    # Groups of other names come last.
    order = [*ORDER, *found]
    return {group: found[group] for group in sorted(found, key=order.index)}


def _entry(option: Option, width: int) -> str:
    """An option and its text, which begins on the next line if the option is long."""
    name = _placeholder(option) if option.positional else _typed(option)
    head = f"  {name}"
    text = textwrap.wrap(_meaning(option), width - INDENT)
    lines = [" " * INDENT + line for line in text]
    if lines and len(head) < INDENT - 1:
        lines[0] = head.ljust(INDENT) + lines[0].lstrip()
        return "\n".join(lines)
    return "\n".join([head, *lines])


def _typed(option: Option) -> str:
    """The option as one types it: ``--steps INT``, ``--[no-]skip-bad``."""
    if option.hint is bool:
        start, dot, last = option.name.removeprefix("--").rpartition(".")
        return f"--{start}{dot}[no-]{last}"
    names = ", ".join([option.name, *option.aliases])
    return f"{names} {_placeholder(option)}"


def _placeholder(option: Option) -> str:
    """The word that stands for the value."""
    several = get_origin(option.hint) is tuple
    for note in option.notes:
        if getattr(note, "metavar", None):
            return f"{note.metavar}..." if several else note.metavar
    return _word(option.hint)


def _word(hint: Any) -> str:
    origin = get_origin(hint)
    parts = [part for part in get_args(hint) if part is not NoneType]
    if origin is Literal:
        return "NAME"
    if origin in (Union, UnionType):
        return "|".join(_word(part) for part in parts)
    if origin is tuple and Ellipsis in parts:
        return f"{_word(parts[0])}..."
    if origin is tuple:
        return " ".join(_word(part) for part in parts)
    return WORDS.get(hint, "VALUE")


def _meaning(option: Option) -> str:
    """The field's text, its choices unless the text explains them, and its default."""
    text = option.help
    unnamed = [choice for choice in option.choices if choice not in text]
    if unnamed:
        text += f" One of: {', '.join(option.choices)}."
    default = _default(option)
    return f"{text} ({default})" if default else text


def _default(option: Option) -> str:
    value = option.value
    if value is None or value is MISSING or value is False or value in ((), ""):
        return ""
    if value is True:
        return "default: on"
    if isinstance(value, tuple):
        words = [str(each) for each in value]
        return f"default: {' '.join(words)}"
    if isinstance(value, float):
        return f"default: {value:g}"
    return f"default: {value}"
